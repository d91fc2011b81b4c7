/* A worker that serves calls: how it begins, and what both backends do with a call. */
#include "rpc_server.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "values/lua_format.h"
#include "wire/protocol.h"

#define SERVES_NOTHING                                                                 \
    .func = LUA_NOREF, .done = LUA_NOREF, .anchor = LUA_NOREF, .args = LUA_NOREF

tine__rpc_server tine__server = {SERVES_NOTHING};

void tine__reply_failure(uint64_t serial, const uint64_t times[2],
                         const tine__failure *f)
{
    tine__reply_error(TINE__ERROR, serial, times, f->kind, f->message, f->traceback,
                      f->value);
}

static int encode_error(lua_State *L)
{
    tine__failure *f = lua_touserdata(L, 2);
    tine__rpc_server *s = &tine__server;
    s->error_out.len = 0;
    if (tine__codec_encode_error(s->codec, L, 1, &s->error_out))
        f->value = (tine_str){s->error_out.data, s->error_out.len};
    return 0;
}

void tine__failure_value(tine__failure *f)
{
    lua_State *L = f->L;
    tine__rpc_server *s = &tine__server;
    if (!f->at || s->encodes_error || !lua_checkstack(L, LUA_MINSTACK))
        return;
    tine__codec_pass_fds(s->codec, 0);
    s->encodes_error = true; /* the user's freeze may start what fails, too */
    lua_pushcfunction(L, encode_error);
    lua_pushvalue(L, f->at);
    lua_pushlightuserdata(L, f);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) {
        f->value = (tine_str){NULL, 0};
        lua_pop(L, 1);
    }
    s->encodes_error = false;
    tine__codec_pass_fds(s->codec, 1);
}

int tine__rpc_server_decode(lua_State *L, uint64_t serial, const void *data, size_t len)
{
    tine__codec *c = tine__server.codec;
    tine__inbox *box = tine__request_fds();
    if (!box->n)
        return tine__codec_decode(c, L, data, len);
    if (box->serial != serial)
        tine__inbox_drop(box);
    return tine__codec_decode_fds(c, L, data, len, box->fds, box->n);
}

void tine__rpc_server_put_fds(uint64_t serial)
{
    size_t n;
    const int *fds = tine__codec_fds(tine__server.codec, &n);
    if (n)
        tine__reply_put_fds(serial, fds, n);
}

void tine__mark(uint64_t serial)
{
    char text[40];
    fflush(stdout);
    fflush(stderr);
    int n = snprintf(text, sizeof text, "%ctine:%llu\n", 0, (unsigned long long)serial);
    for (int fd = 1; fd <= 2; fd++) {
        ssize_t written = write(fd, text, (size_t)n);
        (void)written; /* the lines just have no job then */
    }
}

/* The page second: the host that reads it points to a call that we know to run. */
void tine__rpc_server_switch(uint64_t serial)
{
    tine__page *page = tine__reply_page();
    if (tine__server.serial == serial)
        return;
    tine__server.serial = serial;
    tine__interrupt_calm();
    if (page)
        atomic_store(&page->running, serial);
    if (tine__server.marks)
        tine__mark(serial);
}

/* ------------------------------------------------------- what a worker can call */

static tine__rpc_server *check_serving(lua_State *L, const char *name)
{
    if (!tine__server.L)
        luaL_error(L, "%s: this process serves no calls", name);
    return &tine__server;
}

static int serving_event(lua_State *L)
{
    tine__rpc_server *s = check_serving(L, "event");
    s->event_out.len = 0;
    if (!tine__codec_encode(s->codec, L, 1, lua_gettop(L), "event", &s->event_out))
        return luaL_error(L, "%s", lua_tostring(L, -1));
    tine_str part = {s->event_out.data, s->event_out.len};
    tine__rpc_server_put_fds(s->serial);
    tine__reply_put(TINE__EVENT, s->serial, &part, 1);
    tine__reply_arm();
    return 0;
}

static int serving_flush(lua_State *L)
{
    check_serving(L, "flush");
    tine__reply_flush(true);
    return 0;
}

static int serving_retire(lua_State *L)
{
    tine__rpc_server *s = check_serving(L, "retire");
    if (!s->retired)
        tine__reply_put(TINE__RETIRE, 0, NULL, 0);
    s->retired = true;
    tine__reply_arm();
    return 0;
}

void tine__rpc_server_functions(lua_State *L)
{
    static const luaL_Reg functions[] = {{"event", serving_event},
                                         {"flush", serving_flush},
                                         {"retire", serving_retire},
                                         {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}

/* ------------------------------------------------------------------ beginning */

typedef struct beginning {
    tine__child *child;
    tine__reader *frame;
    tine_str source, code[3];
    uint32_t kind[3], serialiser;
} beginning;

/* Pushes the function that the host named or sent; returns false for none. */
static bool push_code(lua_State *L, const beginning *b, int i)
{
    if (!b->code[i].len)
        return false;
    if (b->kind[i] != TINE_PLAIN) {
        tine__push_function(L, b->code[i].data, b->code[i].len);
        return true;
    }
    int n = tine__lua_decode(L, b->code[i].data, b->code[i].len, 1);
    if (n < 0)
        lua_error(L);
    if (n != 1 || !lua_isfunction(L, -1))
        luaL_error(L, "the host sent no function");
    return true;
}

enum { FUNC, INIT, DONE };

/* The strings sent, for the init of those to come if this worker becomes a template. (It does
 * not where descriptors were sent: they are in use.) On the stack from first. */
static void keep_args(lua_State *L, int first)
{
    int top = lua_gettop(L);
    lua_createtable(L, top - first + 1, 0);
    for (int i = first; i <= top; i++) {
        lua_pushvalue(L, i);
        lua_rawseti(L, -2, i - first + 1);
    }
    tine__server.args = luaL_ref(L, LUA_REGISTRYINDEX);
}

static int begin(lua_State *L)
{
    beginning *b = lua_touserdata(L, 1);
    tine__rpc_server *s = &tine__server;
    lua_settop(L, 0);
    if (push_code(L, b, INIT)) {
        int base = lua_gettop(L);
        if (tine__push_run_args(L))
            keep_args(L, base + 1);
        lua_call(L, lua_gettop(L) - base, 0);
    }
    s->codec = tine__codec_push(L, (tine_serialiser)b->serialiser, b->source.data,
                                b->source.len);
    tine__codec_take_functions(s->codec);
    tine__codec_pass_fds(s->codec, 1);
    s->anchor = luaL_ref(L, LUA_REGISTRYINDEX);
    push_code(L, b, FUNC);
    s->func = luaL_ref(L, LUA_REGISTRYINDEX);
    if (push_code(L, b, DONE))
        s->done = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

void tine__rpc_server_fatal(const tine__failure *f)
{
    tine__reply_error(TINE__FATAL, 0, NULL, f->kind, f->message, f->traceback,
                      (tine_str){NULL, 0});
    tine__reply_flush(true);
    tine__leave(1);
}

static void begin_protected(lua_State *L, beginning *b)
{
    tine__failure f;
    lua_settop(L, 0);
    lua_pushcfunction(L, tine__on_error);
    lua_pushcfunction(L, begin);
    lua_pushlightuserdata(L, b);
    int status = lua_pcall(L, 1, 0, 1);
    if (status != LUA_OK) {
        tine__failure_from(L, status, TINE_KIND_EXCEPTION, &f);
        tine__rpc_server_fatal(&f);
    }
    lua_settop(L, 0);
}

static int call_done(lua_State *L)
{
    if (tine__server.done != LUA_NOREF) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, tine__server.done);
        lua_call(L, 0, 0);
    }
    return 0;
}

void tine__rpc_server_finish(const tine__rpc_server *s)
{
    tine__failure f;
    lua_State *L = s->L;
    lua_pushcfunction(L, tine__on_error);
    int handler = lua_gettop(L);
    lua_pushcfunction(L, call_done);
    int status = lua_pcall(L, 0, 0, handler);
    if (status != LUA_OK) {
        tine__failure_from(L, status, TINE_KIND_EXCEPTION, &f);
        tine__rpc_server_fatal(&f);
    }
    tine__reply_flush(true);
    tine__leave(0);
}

static bool take_apart(beginning *b, uint32_t *flags, uint64_t *offset)
{
    tine__reader *r = b->frame;
    tine__cursor cur = {r->body.data, r->body.data + r->body.len, false};
    *flags = tine__get_u32(&cur);
    b->serialiser = tine__get_u32(&cur);
    b->source = tine__get_str(&cur);
    for (int i = 0; i < 3; i++) {
        b->kind[i] = tine__get_u32(&cur);
        b->code[i] = tine__get_str(&cur);
    }
    *offset = tine__get_u64(&cur);
    return tine__get_done(&cur) && r->nfds == 1 && b->serialiser <= TINE_SOURCE &&
           b->code[FUNC].len;
}

/* Back to the command loop: this worker, with all that it has loaded and cached, becomes a
 * template. */
static void end_serving(tine__child *c)
{
    tine__rpc_server *s = &tine__server;
    lua_settop(s->L, 0);
    luaL_unref(s->L, LUA_REGISTRYINDEX, s->func);
    luaL_unref(s->L, LUA_REGISTRYINDEX, s->done);
    luaL_unref(s->L, LUA_REGISTRYINDEX, s->anchor);
    if (s->args != LUA_NOREF) {
        luaL_unref(s->L, LUA_REGISTRYINDEX, c->args);
        c->args = s->args;
    }
    tine__buf_free(&s->out);
    tine__buf_free(&s->event_out);
    tine__buf_free(&s->error_out);
    *s = (tine__rpc_server){SERVES_NOTHING};
    tine__interrupt_end();
    c->cmd = tine__reply_close();
    tine__catch_sigchld(c);
    c->flushed = false;
    c->named = true;
    tine__title_set(c, "template", 8);
}

void tine__serve_calls(tine__child *c, tine__reader *frame)
{
    static const char garbage[] = "the command socket brought garbage in a command";
    beginning b = {.child = c, .frame = frame};
    tine__rpc_server *s = &tine__server;
    uint32_t flags;
    uint64_t offset;
    if (!take_apart(&b, &flags, &offset)) {
        tine__fail(c, TINE_KIND_PROTOCOL, 0, garbage, sizeof garbage - 1, "", 0);
        tine__leave(1);
    }
    if (!c->named && b.kind[FUNC] == TINE_TEXT)
        tine__title_set(c, b.code[FUNC].data, b.code[FUNC].len);
    int memfd = frame->fds[0], fd = c->cmd;
    frame->fds[0] = c->cmd = -1;
    int err = tine__reply_open(fd, memfd, offset, b.serialiser != TINE_STRINGS);
    if (err < 0) {
        const char *text = tine_strerror(err);
        tine__fail(c, TINE_KIND_SYSTEM, -err, text, strlen(text), "", 0);
        tine__leave(1);
    }
    tine__channel_leave(c);
    atomic_store(&tine__reply_page()->began_ns, tine__clock_ns());
    tine__reap_by_signal();
    sigprocmask(SIG_SETMASK, &c->waiting_mask, NULL);
    tine__interrupt_serve(c->L);
    tine__memory_serve(c);
    begin_protected(c->L, &b);
    tine__memory_publish(c);
    s->L = c->L;
    s->child = c;
    s->async = (flags & TINE__SERVE_ASYNC) != 0;
    s->marks = (flags & TINE__SERVE_MARKS) != 0;
    tine__reader_next(frame);
    tine__reply_put(TINE__READY, 0, NULL, 0);
    if (s->async)
        tine__async_run(s);
    tine__sync_run(s);
    end_serving(c);
}
