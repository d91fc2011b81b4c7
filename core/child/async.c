/* The async backend: many calls at once, answered by their `done` now or later, in the loop of
 * the worker's own tine. */
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "fd/fd.h"
#include "heap/heap.h"
#include "loop/loop.h"
#include "module.h"
#include "rpc_server.h"

enum { CALLS_PER_WAKE = 256, TRACES_MAX = 1 << 16 };

/* What a `done` answers. Its userdata is collected with the last reference to the done. */
typedef struct token {
    uint64_t serial, started_ns;
    lua_State
        *co; /* in which the call's function runs; its user value. NULL: it does not */
    bool answered, stopped;
} token;

static struct async {
    tine__rpc_server *serving;
    const tine__module *module;
    void *link; /* of the module */
    tine_host *host;
    tine_io *io;
    tine__task flush_task;
    int start;     /* registry reference of the function that starts a call */
    int interrupt; /* and of the one that ends the waits of a call */
    int tokens;    /* and of a table, weak: serial -> token */
    int calls; /* of another, weak: coroutine -> serial of the call that it belongs to */
    size_t open;
    bool eof, leaving;
} async;

/* -------------------------------------------------------------------- answers */

static void finish(void);
static void read_requests(void *arg, tine_io *io, int events);

static void flush_task(void *arg)
{
    (void)arg;
    tine__memory_publish(async.serving->child);
    if (!tine__reply_flush(false))
        tine__reply_arm();
    if (async.eof && !async.open)
        finish();
}

static void answered(lua_State *L, token *t)
{
    (void)L;
    t->answered = true;
    async.open--;
    tine__host_post(async.host, &async.flush_task);
}

static void times_of(const token *t, uint64_t times[2])
{
    times[0] = t->started_ns;
    times[1] = tine__clock_ns() - t->started_ns;
}

static void answer_error(lua_State *L, token *t, const tine__failure *f)
{
    uint64_t times[2];
    times_of(t, times);
    tine__reply_failure(t->serial, times, f);
    answered(L, t);
}

static void answer_text(lua_State *L, token *t, tine_kind kind, const char *text,
                        size_t len)
{
    tine__failure f = {.kind = kind, .message = {text, len}, .traceback = {"", 0}};
    answer_error(L, t, &f);
}

/* done(...): the call's results. Returns whether anybody still wanted them. */
static int done(lua_State *L)
{
    token *t = lua_touserdata(L, lua_upvalueindex(1));
    tine__rpc_server *s = async.serving;
    uint64_t times[2];
    if (t->stopped) {
        lua_pushboolean(L, 0);
        return 1;
    }
    if (t->answered)
        return luaL_error(L, "done: this call has been answered");
    s->out.len = 0;
    if (tine__codec_encode(s->codec, L, 1, lua_gettop(L), "results", &s->out)) {
        times_of(t, times);
        tine_str parts[] = {{times, TINE__CALL_TIMES}, {s->out.data, s->out.len}};
        tine__rpc_server_put_fds(t->serial);
        tine__reply_put(TINE__RESULT, t->serial, parts, 2);
        answered(L, t);
    } else {
        size_t len;
        const char *text = lua_tolstring(L, -1, &len);
        answer_text(L, t, TINE_KIND_ENCODE, text, len);
    }
    tine__reply_arm();
    lua_pushboolean(L, 1);
    return 1;
}

/* The last reference to a done has gone: nobody can answer any more. */
static int token_gc(lua_State *L)
{
    static const char text[] = "the worker dropped this call's done without an answer";
    token *t = lua_touserdata(L, 1);
    if (!t->answered && !async.leaving)
        answer_text(L, t, TINE_KIND_EXCEPTION, text, sizeof text - 1);
    return 0;
}

/* That of a done at index 1. */
static token *push_token(lua_State *L)
{
    lua_getupvalue(L, 1, 1);
    return lua_touserdata(L, -1);
}

uint64_t tine__async_call_of(lua_State *L, lua_State *co)
{
    if (!async.link || !lua_checkstack(co, 1))
        return 0;
    lua_rawgeti(L, LUA_REGISTRYINDEX, async.calls);
    lua_pushthread(co);
    lua_xmove(co, L, 1);
    lua_rawget(L, -2);
    lua_Integer serial = lua_tointeger(L, -1);
    lua_pop(L, 2);
    return (uint64_t)serial;
}

bool tine__async_is_open(lua_State *L, uint64_t serial)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, async.tokens);
    lua_rawgeti(L, -1, (lua_Integer)serial);
    const token *t = lua_touserdata(L, -1);
    bool open = t && !t->answered;
    lua_pop(L, 2);
    return open;
}

/* What is begun in a call's code is the call's. */
void tine__async_adopt(lua_State *L, lua_State *co, uint64_t serial)
{
    if (!lua_checkstack(co, 1))
        return;
    lua_rawgeti(L, LUA_REGISTRYINDEX, async.calls);
    lua_pushthread(co);
    lua_xmove(co, L, 1);
    lua_pushinteger(L, (lua_Integer)serial);
    lua_rawset(L, -3);
    lua_pop(L, 1);
}

/* enter(done): the call's function begins, in the coroutine that runs. */
static int enter(lua_State *L)
{
    token *t = push_token(L);
    lua_pushthread(L);
    lua_setiuservalue(L, -2, 1);
    t->co = L;
    return 0;
}

/* leave(done): it has ended. */
static int leave(lua_State *L)
{
    token *t = push_token(L);
    t->co = NULL;
    lua_pushnil(L);
    lua_setiuservalue(L, -2, 1);
    return 0;
}

/* Errors of coroutines that somebody has passed on have their traceback in the text. */
static void split(tine__failure *f)
{
    static const char mark[] = "\nstack traceback:";
    const char *at = f->message.data;
    size_t len = sizeof mark - 1;
    if (!at || f->message.len < len)
        return;
    const char *trace = memmem(at, f->message.len, mark, len);
    if (!trace)
        return;
    f->traceback = (tine_str){trace + 1, f->message.len - (size_t)(trace + 1 - at)};
    f->message.len = (size_t)(trace - at);
}

/* Its call has been answered: the host's on_error hears of it. */
static void tell_late(const tine__failure *f)
{
    if (f->kind == TINE_KIND_TIMEOUT || f->kind == TINE_KIND_CANCELLED)
        return;
    tine__reply_error(TINE__FAULT, 0, NULL, f->kind, f->message, f->traceback,
                      (tine_str){NULL, 0});
    tine__reply_arm();
    tine__host_post(async.host, &async.flush_task);
}

/* fail(done, failure): the call's function raised. */
static int fail(lua_State *L)
{
    tine__failure f;
    lua_settop(L, 2);
    token *t = push_token(L);
    lua_pop(L, 1);
    tine__failure_from(L, LUA_ERRRUN, TINE_KIND_EXCEPTION, &f);
    split(&f);
    if (!t->answered)
        tine__failure_value(&f);
    if (!t->answered)
        answer_error(L, t, &f);
    else if (!t->stopped)
        tell_late(&f);
    return 0;
}

/* ------------------------------------------------------------ what belongs to a call */

static uint64_t current_job(void)
{
    return tine__server.serial;
}

/* Of nobody's: the text with the traceback, as where there are no jobs. */
static int keep_traceback(lua_State *L, int top, const tine__failure *f)
{
    bool text = lua_type(L, top) == LUA_TSTRING && f->traceback.len;
    if (text) {
        lua_pushlstring(L, f->message.data, f->message.len);
        lua_pushliteral(L, "\n");
        lua_pushlstring(L, f->traceback.data, f->traceback.len);
        lua_concat(L, 3);
        lua_replace(L, top);
    }
    lua_settop(L, top);
    return 0;
}

/* What a call has started has raised: that is the call's answer, and nobody else's affair. */
static int job_failed(lua_State *L, uint64_t serial)
{
    tine__failure f;
    int top = lua_gettop(L);
    luaL_checkstack(L, LUA_MINSTACK, "an error");
    tine__failure_note(L);
    tine__failure_from(L, LUA_ERRRUN, TINE_KIND_EXCEPTION, &f);
    if (!serial)
        return keep_traceback(L, top, &f);
    split(&f);
    lua_rawgeti(L, LUA_REGISTRYINDEX, async.tokens);
    lua_rawgeti(L, -1, (lua_Integer)serial);
    token *t = lua_touserdata(L, -1);
    if (t && !t->answered)
        tine__failure_value(&f);
    if (t && !t->answered) {
        answer_error(L, t, &f);
        t->stopped = true; /* nobody wants to hear its done any more */
        tine__reply_arm();
    } else if (!t || !t->stopped) {
        tell_late(&f);
    }
    lua_settop(L, top);
    return 1;
}

static const tine__jobs jobs = {current_job, tine__rpc_server_switch,
                                tine__async_call_of, tine__on_error, job_failed};

/* job(): the number of the call whose code runs, or nil. */
static int push_job(lua_State *L)
{
    if (!tine__server.serial)
        return 0;
    lua_pushinteger(L, (lua_Integer)tine__server.serial);
    return 1;
}

/* ------------------------------------------------------------- what they wait for */

bool tine__async_in_callback(void)
{
    return async.link && async.module->is_entered(async.link);
}

static int by_serial(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Pushes where the call's function waits. */
static void push_place(lua_State *L, const token *t)
{
    if (t->co && lua_status(t->co) == LUA_YIELD)
        luaL_traceback(L, t->co, NULL, 0);
    else
        lua_pushliteral(L, "its function has returned, its done was not called yet");
}

typedef struct waits {
    tine__buf text, calls;
} waits;

/* The oldest first, as many as there is room for. */
static int list_waits(lua_State *L)
{
    waits *w = lua_touserdata(L, 1);
    size_t n = 0, shown = 0, len, most = async.open;
    uint64_t *serials = lua_newuserdatauv(L, (most + 1) * sizeof *serials, 0);
    lua_rawgeti(L, LUA_REGISTRYINDEX, async.tokens);
    int tokens = lua_gettop(L);
    for (lua_pushnil(L); n < most && lua_next(L, tokens); lua_pop(L, 1)) {
        const token *t = lua_touserdata(L, -1);
        if (!t->answered)
            serials[n++] = t->serial;
    }
    qsort(serials, n, sizeof *serials, by_serial);
    for (; shown < n && w->calls.len < TRACES_MAX; shown++) {
        lua_settop(L, tokens);
        lua_rawgeti(L, tokens, (lua_Integer)serials[shown]);
        const token *t = lua_touserdata(L, -1);
        if (!t)
            continue; /* collected just now */
        push_place(L, t);
        const char *text = lua_tolstring(L, -1, &len);
        tine__buf_u64(&w->calls, t->serial);
        tine__buf_str(&w->calls, text, len);
    }
    const char *head = lua_pushfstring(
        L, "nothing runs: %I %s%s", (LUAI_UACINT)n,
        n == 1 ? "call waits" : "calls wait",
        shown < n ? lua_pushfstring(L, "; the first %I:", (LUAI_UACINT)shown) : "");
    tine__buf_str(&w->text, head, strlen(head));
    return 0;
}

void tine__async_tell(uint64_t number)
{
    static const char some[] = "nothing runs: calls wait";
    lua_State *L = async.serving->L;
    waits w = {{0}, {0}};
    int top = lua_gettop(L);
    bool listed = false;
    if (lua_checkstack(L, LUA_MINSTACK)) {
        lua_pushcfunction(L, list_waits);
        lua_pushlightuserdata(L, &w);
        listed = lua_pcall(L, 1, 0, 0) == LUA_OK && !w.text.failed && !w.calls.failed;
        lua_settop(L, top);
    }
    tine__buf plain = {0};
    tine__buf_str(&plain, some, sizeof some - 1);
    const tine__buf *text = listed ? &w.text : &plain;
    tine_str parts[] = {{text->data, text->len}, {w.calls.data, w.calls.len}};
    tine__interrupt_tell(number, parts, listed ? 2 : 1);
    tine__buf_free(&plain);
    tine__buf_free(&w.text);
    tine__buf_free(&w.calls);
}

/* ------------------------------------------------------------------- requests */

typedef struct request {
    tine__call_head head;
    const unsigned char *body;
    token *token;
} request;

static int start_call(lua_State *L)
{
    request *r = lua_touserdata(L, 1);
    lua_settop(L, 0);
    token *t = lua_newuserdatauv(L, sizeof *t, 1);
    *t = (token){.serial = r->head.serial, .answered = true};
    luaL_setmetatable(L, "tine.done");
    lua_rawgeti(L, LUA_REGISTRYINDEX, async.tokens);
    lua_pushvalue(L, 1);
    lua_rawseti(L, 2, (lua_Integer)t->serial);
    lua_pop(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, async.start);
    lua_pushvalue(L, 1);
    lua_pushcclosure(L, done, 1);
    t->started_ns = tine__clock_ns();
    t->answered = false;
    r->token = t;
    async.open++;
    int n = tine__rpc_server_decode(L, t->serial, r->body, r->head.len);
    if (n < 0) {
        size_t len;
        const char *text = lua_tolstring(L, -1, &len);
        answer_text(L, t, TINE_KIND_DECODE, text, len);
        return 0;
    }
    tine__reply_arm();
    tine__rpc_server_switch(t->serial);
    lua_call(L, n + 1, 0);
    return 0;
}

static void on_call(lua_State *L, request *r)
{
    tine__page *page = tine__reply_page();
    tine__failure f;
    int top = lua_gettop(L);
    uint64_t now = tine__clock_ns();
    atomic_store_explicit(&page->started_ns, now, memory_order_relaxed);
    atomic_store_explicit(&page->starts[r->head.serial % TINE__WINDOW], now,
                          memory_order_relaxed);
    atomic_store(&page->started, r->head.serial);
    lua_pushcfunction(L, tine__on_error);
    lua_pushcfunction(L, start_call);
    lua_pushlightuserdata(L, r);
    int status = lua_pcall(L, 1, 0, top + 1);
    tine__rpc_server_switch(0);
    if (status != LUA_OK) {
        tine__failure_from(L, status, TINE_KIND_EXCEPTION, &f);
        tine__failure_value(&f);
        if (!r->token) {
            uint64_t times[2] = {tine__clock_ns(), 0};
            tine__reply_failure(r->head.serial, times, &f);
        } else if (!r->token->answered) {
            answer_error(L, r->token, &f);
        }
    }
    lua_settop(L, top);
    if (status != LUA_OK)
        tine__gc_relieve(L);
}

/* Raises the error in the call's coroutines that wait, so that they close what they have open. */
static void stop_waits(lua_State *L, uint64_t serial, const char *kind,
                       const char *text)
{
    lua_pushcfunction(L, tine__on_error);
    int handler = lua_gettop(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, async.interrupt);
    lua_pushinteger(L, (lua_Integer)serial);
    bind_push_error(L, kind, text, strlen(text));
    (void)lua_pcall(L, 2, 0, handler);
    lua_settop(L, handler - 1);
}

/* The host wants the call to end; timers and watchers that it has go on unheard. */
static void on_cancel(lua_State *L, const request *r)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, async.tokens);
    lua_rawgeti(L, -1, (lua_Integer)r->head.serial);
    token *t = lua_touserdata(L, -1);
    if (t && !t->answered && r->head.len == 4) {
        bool timeout = r->body[0] == TINE__REASON_TIMEOUT;
        const char *text = timeout ? "the job took too long" : "the job was cancelled";
        t->stopped = true;
        answer_text(L, t, timeout ? TINE_KIND_TIMEOUT : TINE_KIND_CANCELLED, text,
                    strlen(text));
        stop_waits(L, t->serial, timeout ? "timeout" : "cancelled", text);
    }
    lua_pop(L, 2);
}

/* From now on the socket alone keeps the loop from ending no more. */
static void on_end(void)
{
    tine_io_free(async.io);
    async.io = NULL;
    async.eof = true;
    tine__io_internal(async.host, &async.io, tine__reply_fd(), TINE_READ, read_requests,
                      NULL); /* without it, only a cancel is not heard */
}

static int take_requests(lua_State *L)
{
    int result = 1;
    luaL_checkstack(L, LUA_MINSTACK, "requests");
    for (int i = 0; i < CALLS_PER_WAKE && result > 0; i++) {
        request r = {.token = NULL};
        result = tine__request(&r.head, &r.body, false);
        if (result > 0 && r.head.type == TINE__CALL) {
            on_call(L, &r);
            tine__inbox_drop(tine__request_fds());
        } else if (result > 0 && r.head.type == TINE__CANCEL)
            on_cancel(L, &r);
        else if (result > 0 && r.head.type == TINE__END)
            on_end();
    }
    if (result < 0) {
        async.eof = true;
        tine_io_free(async.io);
        async.io = NULL;
    }
    return 0;
}

static void read_requests(void *arg, tine_io *io, int events)
{
    tine__page *page = tine__reply_page();
    (void)arg;
    (void)io;
    (void)events;
    atomic_store(&page->idle, 0);
    do
        async.module->enter(async.link, take_requests, NULL);
    while (async.io && tine__request_ready());
    flush_task(NULL);
    tine__interrupt_settle();
    atomic_store(&page->idle, async.open == 0);
}

/* ------------------------------------------------------------------ beginning */

/* The host has closed, and nothing is open. */
static void finish(void)
{
    if (async.leaving || !lua_checkstack(async.serving->L, LUA_MINSTACK))
        return;
    async.leaving = true;
    tine__rpc_server_finish(async.serving);
}

static void push_template(lua_State *L)
{
    tine__push_embedded(L, "tine.template.async");
    lua_rawgeti(L, LUA_REGISTRYINDEX, async.serving->func);
    lua_pushcfunction(L, tine__on_error);
    lua_pushcfunction(L, enter);
    lua_pushcfunction(L, leave);
    lua_pushcfunction(L, fail);
    lua_pushcfunction(L, push_job);
    lua_call(L, 6, 2);
    async.interrupt = luaL_ref(L, LUA_REGISTRYINDEX);
    async.start = luaL_ref(L, LUA_REGISTRYINDEX);
}

static int run_loop(lua_State *L)
{
    static const char key[] = "tine.loop";
    lua_getglobal(L, "require");
    lua_pushliteral(L, "tine");
    lua_call(L, 1, 0);
    lua_getfield(L, LUA_REGISTRYINDEX, TINE__MODULE);
    async.module = lua_touserdata(L, -1);
    async.link = async.module->link(L);
    if (!async.link)
        return luaL_error(L, "%s", luaL_tolstring(L, -1, NULL));
    async.host = async.module->host(async.link);
    luaL_newmetatable(L, "tine.done");
    lua_pushcfunction(L, token_gc);
    lua_setfield(L, -2, "__gc");
    lua_newtable(L);
    lua_newtable(L);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    async.tokens = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_newtable(L);
    lua_newtable(L);
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    async.calls = luaL_ref(L, LUA_REGISTRYINDEX);
    async.module->take_jobs(async.link, &jobs);
    push_template(L);
    async.flush_task = (tine__task){.run = flush_task};
    int err = tine_io_new(async.host, &async.io, tine__reply_fd(), TINE_READ,
                          read_requests, NULL);
    if (err < 0)
        return luaL_error(L, "watch the socket: %s", tine_strerror(err));
    tine__reply_flush(true);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_getfield(L, -1, key);
    lua_getfield(L, -1, "run");
    for (;;) {
        lua_pushvalue(L, -1);
        lua_call(L, 0, 0);
        if (async.eof)
            break; /* else the user's code has called loop.stop: the host may call again */
    }
    /* What is open now nobody will answer; their tokens may be garbage already. */
    lua_gc(L, LUA_GCCOLLECT);
    return 0;
}

void tine__async_run(tine__rpc_server *s)
{
    tine__failure f;
    lua_State *L = s->L;
    async.serving = s;
    lua_settop(L, 0);
    lua_pushcfunction(L, tine__on_error);
    lua_pushcfunction(L, run_loop);
    int status = lua_pcall(L, 0, 0, 1);
    if (status != LUA_OK) {
        tine__failure_from(L, status, TINE_KIND_EXCEPTION, &f);
        tine__rpc_server_fatal(&f);
    }
    finish();
    tine__leave(0);
}
