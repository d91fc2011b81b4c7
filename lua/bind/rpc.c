/* The userdata that stand for tine_rpc and tine_pool: how they are made from checked options,
 * what they tell, and how long they live: anchored while an answer is owed, and from a close
 * until all has gone. One that is collected is closed, and drains. */
#include "rpc.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include "fd/fd.h"
#include "process.h"
#include "values/lua_format.h"

const char bind_rpc_type[] = "tine.rpc";

static const char
    idle_key; /* registry: how many there are that on_destroy is awaited of */

static void count_idle(lua_State *L, bind_rpc *b, int on)
{
    if (b->counted == on)
        return;
    b->counted = on;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &idle_key);
    lua_Integer n = lua_tointeger(L, -1) + (on ? 1 : -1);
    lua_pop(L, 1);
    lua_pushinteger(L, n);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &idle_key);
}

bind_rpc *bind_rpc_self(lua_State *L)
{
    return luaL_checkudata(L, 1, bind_rpc_type);
}

void bind_rpc_owe(lua_State *L, int idx, bind_rpc *b)
{
    if (b->pending++ == 0)
        bind_object_anchor(L, idx, &b->object);
}

void bind_rpc_paid(bind_rpc *b)
{
    if (--b->pending == 0 && !b->closing)
        bind_object_release(&b->object);
}

/* Pushes a handler, if it is a function. Returns whether it is. */
static int push_handler(lua_State *L, bind_rpc *b, int slot)
{
    bind_object_push(L, &b->object);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        return 0;
    }
    if (lua_getiuservalue(L, -1, slot) != LUA_TFUNCTION) {
        lua_pop(L, 2);
        return 0;
    }
    lua_remove(L, -2);
    return 1;
}

int bind_rpc_values(lua_State *L, bind_rpc *b, const tine_str *values, size_t n)
{
    if (!b->strings) {
        int *fds;
        size_t nfds = tine_host_fds(b->object.state->host, &fds);
        const void *data = n ? values->data : "";
        size_t len = n ? values->len : 0;
        return nfds ? tine__codec_decode_fds(b->codec, L, data, len, fds, nfds)
                    : tine__codec_decode(b->codec, L, data, len);
    }
    if (n > TINE__MOST_VALUES) {
        tine__codec_refuse_count(L, "values", n);
        return -1;
    }
    if (!lua_checkstack(L, (int)n + BIND_CALL_ROOM)) {
        lua_pushliteral(L, "too many values for the stack");
        return -1;
    }
    for (size_t i = 0; i < n; i++)
        lua_pushlstring(L, values[i].data, values[i].len);
    return (int)n;
}

void bind_rpc_lost_event(lua_State *L, bind_rpc *b)
{
    size_t len;
    const char *why = lua_tolstring(L, -1, &len), *text;
    text = lua_pushfstring(L, "an event cannot be decoded: %s", why);
    if (push_handler(L, b, BIND_RPC_ON_ERROR)) {
        bind_push_error(L, "decode", text, strlen(text));
        bind_call(b->object.state, 1);
    } else {
        fprintf(stderr, "tine: %s\n", text);
    }
}

/* ----------------------------------------------------------------- core to Lua */

/* Something for a handler; which one tells what it is. */
typedef struct news {
    bind_rpc *rpc;
    int slot;
    union {
        struct {
            const tine_str *values;
            size_t n;
        } event;
        const tine_error *error;
        struct {
            tine_str text;
            pid_t pid;
            uint64_t job; /* 0: of none */
            int stream;
        } line;
    };
} news;

static int push_line(lua_State *L, const news *n)
{
    lua_pushlstring(L, n->line.text.data, n->line.text.len);
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, n->line.pid);
    lua_setfield(L, -2, "pid");
    if (n->line.job) {
        lua_pushinteger(L, (lua_Integer)n->line.job);
        lua_setfield(L, -2, "job");
    }
    lua_pushstring(L, n->line.stream == 1 ? "stdout" : "stderr");
    lua_setfield(L, -2, "stream");
    return 2;
}

/* Pushes what the handler is called with, and returns how many values; or -1 with a message. */
static int push_news(lua_State *L, const news *n)
{
    switch (n->slot) {
    case BIND_RPC_ON_EVENT:
        return bind_rpc_values(L, n->rpc, n->event.values, n->event.n);
    case BIND_RPC_ON_ERROR:
        bind_push_failure(L, n->error);
        return 1;
    case BIND_RPC_ON_LINE:
        return push_line(L, n);
    default: /* BIND_RPC_ON_DRAIN */
        return 0;
    }
}

static int deliver(lua_State *L)
{
    const news *n = lua_touserdata(L, 1);
    if (!push_handler(L, n->rpc, n->slot))
        return 0;
    int nargs = push_news(L, n);
    if (nargs >= 0)
        bind_call(n->rpc->object.state, nargs);
    else
        bind_rpc_lost_event(L, n->rpc);
    return 0;
}

static void tell(news *n)
{
    bind_enter_for(&n->rpc->object, deliver, n);
}

static void on_event(void *arg, pid_t pid, tine_job *job, const tine_str *values,
                     size_t n)
{
    news e = {.rpc = arg, .slot = BIND_RPC_ON_EVENT, .event = {values, n}};
    (void)pid;
    (void)job;
    tell(&e);
}

static void on_error(void *arg, const tine_error *err)
{
    news e = {.rpc = arg, .slot = BIND_RPC_ON_ERROR, .error = err};
    tell(&e);
}

static void on_output(void *arg, pid_t pid, uint64_t job, int stream, const char *line,
                      size_t len)
{
    news e = {
        .rpc = arg, .slot = BIND_RPC_ON_LINE, .line = {{line, len}, pid, job, stream}};
    tell(&e);
}

static void on_drain(void *arg)
{
    news e = {.rpc = arg, .slot = BIND_RPC_ON_DRAIN};
    tell(&e);
}

static int deliver_gone(lua_State *L)
{
    bind_rpc *b = lua_touserdata(L, 1);
    bind_state *state = b->object.state;
    bind_object_push(L, &b->object);
    int self = lua_gettop(L);
    bind_object_detach(&b->object);
    bind_object_release(&b->object);
    if (lua_isnil(L, self))
        return 0;
    count_idle(L, b, 0);
    if (lua_getiuservalue(L, self, BIND_RPC_ON_DESTROY) == LUA_TFUNCTION)
        bind_call(state, 0);
    lua_settop(L, self);
    if (lua_getiuservalue(L, self, BIND_RPC_CLOSERS) != LUA_TTABLE)
        return 0;
    int list = lua_gettop(L);
    for (lua_Integer i = 1; lua_rawgeti(L, list, i) == LUA_TFUNCTION; i++)
        bind_call(state, 0);
    return 0;
}

static void on_gone(void *arg)
{
    bind_rpc *b = arg;
    if (!b->object.state->closed)
        bind_enter_for(&b->object, deliver_gone, b);
}

/* --------------------------------------------------------------------- options */

int64_t bind_field_usec(lua_State *L, int idx, const char *name)
{
    lua_getfield(L, idx, name);
    lua_Number seconds = lua_tonumber(L, -1);
    lua_pop(L, 1);
    if (seconds > 1e12)
        seconds = 1e12;
    return (int64_t)ceil(seconds * 1e6);
}

/* The function or name in a field, encoded; what it points to stays on the stack. */
static tine_func get_func(lua_State *L, int idx, const char *name)
{
    tine_func f = {TINE_TEXT, NULL, 0};
    int type = lua_getfield(L, idx, name);
    if (type == LUA_TFUNCTION) {
        f.kind = TINE_PLAIN;
        if (!tine__lua_encode(L, lua_gettop(L), 1, BIND_CODE))
            bind_raise(L, 2, "%s: %s", name, lua_tostring(L, -1));
    }
    if (type != LUA_TNIL)
        f.data = lua_tolstring(L, -1, &f.len);
    return f;
}

static int has_field(lua_State *L, int idx, const char *name)
{
    int type = lua_getfield(L, idx, name);
    lua_pop(L, 1);
    return type != LUA_TNIL && type != LUA_TBOOLEAN;
}

static int is_true(lua_State *L, int idx, const char *name)
{
    lua_getfield(L, idx, name);
    int value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

static void read_options(lua_State *L, int self, int idx, tine_pool_options *o)
{
    tine_rpc_options *r = &o->rpc;
    bind_rpc *b = lua_touserdata(L, self);
    r->init = get_func(L, idx, "init");
    r->done = get_func(L, idx, "done");
    r->async = is_true(L, idx, "async");
    lua_getfield(L, idx, "serialiser");
    r->serialiser = (tine_serialiser)lua_tointeger(L, -1);
    lua_pop(L, 1);
    if (lua_getfield(L, idx, "source") == LUA_TSTRING)
        r->source.data = lua_tolstring(L, -1, &r->source.len);
    r->timeout_usec = bind_field_usec(L, idx, "timeout");
    r->grace_usec = bind_field_usec(L, idx, "grace");
    r->spawn_timeout_usec = bind_field_usec(L, idx, "spawn_timeout");
    r->on_event = on_event;
    r->on_error = has_field(L, idx, "on_error") ? on_error : NULL;
    r->on_output = has_field(L, idx, "on_line") ? on_output : NULL;
    r->arg = b;
    if (b->is_pool) {
        bind_pool_options(L, self, idx, o);
        o->on_drain = has_field(L, idx, "on_drain") ? on_drain : NULL;
    }
}

/* Of a process that has failed the reason is that one's. */
static int fail_new(lua_State *L, const tine_proc *p, const char *what, int rc)
{
    const tine_error *why = tine_proc_why(p);
    if (rc != -TINE_ECLOSED || !why)
        return bind_fail(L, what, rc);
    lua_pushnil(L);
    bind_push_failure(L, why);
    return 2;
}

/* The handlers of the options at idx become user values of self. */
static void keep_handlers(lua_State *L, int self, int idx)
{
    static const char *const names[] = {[BIND_RPC_ON_EVENT] = "on_event",
                                        [BIND_RPC_ON_ERROR] = "on_error",
                                        [BIND_RPC_ON_LINE] = "on_line",
                                        [BIND_RPC_ON_DRAIN] = "on_drain",
                                        [BIND_RPC_ON_DESTROY] = "on_destroy"};
    for (int slot = BIND_RPC_ON_EVENT; slot <= BIND_RPC_ON_DESTROY; slot++) {
        lua_getfield(L, idx, names[slot]);
        lua_setiuservalue(L, self, slot);
    }
}

/* new(p, is_pool, options): options are checked, with defaults filled in. Returns the
 * rpc; nil and an err. */
static int rpc_new(lua_State *L)
{
    bind_process *p =
        bind_process_check_open(L, 2, lua_toboolean(L, 2) ? "pool" : "rpc");
    tine_pool_options o;
    int rc;
    memset(&o, 0, sizeof o);
    bind_rpc *b = lua_newuserdatauv(L, sizeof *b, BIND_RPC_NSLOTS);
    int self = lua_gettop(L);
    memset(b, 0, sizeof *b);
    bind_object_init(p->object.state, &b->object);
    luaL_setmetatable(L, bind_rpc_type);
    b->is_pool = lua_toboolean(L, 2);
    keep_handlers(L, self, 3);
    luaL_checkstack(L, 20, NULL);
    read_options(L, self, 3, &o);
    tine_func func = get_func(L, 3, "func");
    b->strings = o.rpc.serialiser == TINE_STRINGS;
    b->codec =
        tine__codec_push(L, o.rpc.serialiser, o.rpc.source.data, o.rpc.source.len);
    tine__codec_send_functions(b->codec);
    tine__codec_pass_fds(b->codec, 1);
    lua_setiuservalue(L, self, BIND_RPC_CODEC);
    void *core;
    if (b->is_pool) {
        tine_pool *pool = NULL;
        rc = tine_pool_new(p->object.core, &func, &o, &pool);
        core = pool;
    } else {
        tine_rpc *rpc = NULL;
        rc = tine_rpc_new(p->object.core, &func, &o.rpc, &rpc);
        core = rpc;
    }
    if (rc < 0)
        return fail_new(L, p->object.core, b->is_pool ? "pool" : "rpc", rc);
    p->consumer = b->is_pool ? BIND_BY_POOL : BIND_BY_RPC;
    bind_object_attach(&b->object, core);
    bind_object_know(L, self, &b->object);
    b->wants_death = has_field(L, 3, "on_destroy");
    if (b->wants_death)
        count_idle(L, b, 1);
    lua_settop(L, self);
    return 1;
}

/* ------------------------------------------------------------------------ life */

static void close_service(lua_State *L, int idx, bind_rpc *b, int64_t kill_after)
{
    if (!b->closing) {
        b->closing = 1;
        if (!b->pending)
            bind_object_anchor(L, idx, &b->object);
    }
    if (b->is_pool)
        tine_pool_close(b->object.core, kill_after, on_gone, b);
    else
        tine_rpc_close(b->object.core, on_gone, b);
}

/* close(rpc, callback or nil, seconds or nil) */
static int rpc_close(lua_State *L)
{
    bind_rpc *b = bind_rpc_self(L);
    int64_t kill_after = -1;
    lua_settop(L, 3);
    bind_state_check(L);
    if (!lua_isnil(L, 3)) {
        lua_Number seconds = lua_tonumber(L, 3);
        kill_after = (int64_t)ceil((seconds > 1e12 ? 1e12 : seconds) * 1e6);
    }
    if (!lua_isnil(L, 2)) {
        if (!b->object.core) {
            lua_pushboolean(L, 0); /* gone: the caller tells */
            return 1;
        }
        if (lua_getiuservalue(L, 1, BIND_RPC_CLOSERS) != LUA_TTABLE) {
            lua_pop(L, 1);
            lua_newtable(L);
            lua_pushvalue(L, -1);
            lua_setiuservalue(L, 1, BIND_RPC_CLOSERS);
        }
        lua_pushvalue(L, 2);
        lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    }
    if (b->object.core)
        close_service(L, 1, b, kill_after);
    lua_pushboolean(L, 1);
    return 1;
}

/* Collected: it drains, and is there again until that is done. */
static int rpc_gc(lua_State *L)
{
    bind_rpc *b = lua_touserdata(L, 1);
    bind_state *state = b->object.state;
    if (!b->object.core || !state || state->closed || !bind_state_check(L) ||
        !b->object.core)
        return 0;
    close_service(L, 1, b, -1);
    return 0;
}

/* awaited(): how many rpcs and pools there are of which on_destroy has not been called. */
static int rpc_awaited(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &idle_key);
    lua_pushinteger(L, lua_tointeger(L, -1));
    return 1;
}

typedef struct question {
    bind_rpc *rpc;
    int callback; /* registry reference */
    const tine_error *err;
    const char *text;
    size_t len;
} question;

static int deliver_text(lua_State *L)
{
    question *q = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, q->callback);
    luaL_unref(L, LUA_REGISTRYINDEX, q->callback);
    if (q->err) {
        lua_pushnil(L);
        bind_push_failure(L, q->err);
    } else {
        lua_pushlstring(L, q->text, q->len);
        lua_pushnil(L);
    }
    bind_rpc_paid(q->rpc);
    bind_call(q->rpc->object.state, 2);
    return 0;
}

static void on_text(void *arg, const tine_error *err, const char *text, size_t len)
{
    question *kept = arg, q = *kept;
    q.err = err;
    q.text = text;
    q.len = len;
    free(kept);
    if (!q.rpc->object.state->closed)
        bind_enter_for(&q.rpc->object, deliver_text, &q);
}

int bind_rpc_fail(lua_State *L, const bind_rpc *b, const char *what, int rc)
{
    const char *text;
    if (rc == -TINE_ECLOSED)
        text = b->is_pool ? "the pool is closed"
                          : "the rpc is closed, or its worker has ended";
    else if (rc == -EBUSY)
        text = "a reload is under way";
    else if (rc == -ESRCH)
        text = "no worker has that process id";
    else if (rc == -ENOENT)
        text = "no worker has done a job yet";
    else if (rc == -EOPNOTSUPP)
        text = "not with async, nor where descriptors were sent to the template";
    else
        return bind_fail(L, what, rc);
    return bind_fail_text(L, rc == -TINE_ECLOSED ? "closed" : "system", 0, "%s: %s",
                          what, text);
}

/* traceback(rpc, callback, pid or nil): callback(text) or (nil, err). */
static int rpc_traceback(lua_State *L)
{
    bind_rpc *b = bind_rpc_self(L);
    int rc;
    if (!b->object.core)
        return bind_rpc_fail(L, b, "traceback", -TINE_ECLOSED);
    question *q = malloc(sizeof *q);
    if (!q)
        return bind_rpc_fail(L, b, "traceback", -ENOMEM);
    q->rpc = b;
    lua_pushvalue(L, 2);
    q->callback = luaL_ref(L, LUA_REGISTRYINDEX);
    bind_rpc_owe(L, 1, b);
    if (b->is_pool)
        rc = tine_pool_traceback(b->object.core, (pid_t)luaL_checkinteger(L, 3),
                                 on_text, q);
    else
        rc = tine_rpc_traceback(b->object.core, on_text, q);
    if (rc >= 0) {
        lua_pushboolean(L, 1);
        return 1;
    }
    bind_rpc_paid(b);
    luaL_unref(L, LUA_REGISTRYINDEX, q->callback);
    free(q);
    return bind_rpc_fail(L, b, "traceback", rc);
}

/* is(value): whether it is an rpc or a pool. */
static int rpc_is(lua_State *L)
{
    luaL_checkany(L, 1);
    lua_pushboolean(L, luaL_testudata(L, 1, bind_rpc_type) != NULL);
    return 1;
}

/* pid(rpc) */
static int rpc_pid(lua_State *L)
{
    bind_rpc *b = bind_rpc_self(L);
    pid_t pid = b->object.core && !b->is_pool ? tine_rpc_pid(b->object.core) : 0;
    if (pid > 0)
        lua_pushinteger(L, pid);
    else
        lua_pushnil(L);
    return 1;
}

void bind_rpc_open(lua_State *L)
{
    static const luaL_Reg functions[] = {{"new", rpc_new},
                                         {"close", rpc_close},
                                         {"awaited", rpc_awaited},
                                         {"traceback", rpc_traceback},
                                         {"pid", rpc_pid},
                                         {"is", rpc_is},
                                         {NULL, NULL}};
    if (luaL_newmetatable(L, bind_rpc_type)) {
        lua_pushcfunction(L, rpc_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setfield(L, -2, "metatable");
    luaL_setfuncs(L, functions, 0);
    bind_calls_open(L);
    bind_pool_open(L);
}
