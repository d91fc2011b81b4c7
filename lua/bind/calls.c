/* Calls from Lua and their answers: the hot path. The callback of a call lies in a table, at the
 * number of its slot; the core gets the slot's record as its argument. */
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include "calls.h"
#include "fd/fd.h"

enum { MAX_CHUNKS = 1 << 18 };

/* Upvalues of the functions that call: what would have to be looked up by name each time. */
enum { UP_SERVICE = 1, UP_JOB, UP_CALLBACKS, UP_SLOW, UPVALUES = UP_SLOW };

static bind_calls *calls_of(const bind_rpc *b)
{
    return b->object.state->call_records;
}

static int grow(bind_calls *c)
{
    if (c->nchunks == MAX_CHUNKS)
        return 0;
    bind_record **chunks = realloc(c->chunks, (c->nchunks + 1) * sizeof *chunks);
    if (!chunks)
        return 0;
    c->chunks = chunks;
    bind_record *chunk = calloc(BIND_CHUNK, sizeof *chunk);
    if (!chunk)
        return 0;
    chunks[c->nchunks] = chunk;
    for (uint32_t i = BIND_CHUNK; i-- > 0;) {
        chunk[i].slot = c->nchunks * BIND_CHUNK + i + 1;
        chunk[i].next_free = c->free;
        c->free = chunk[i].slot;
    }
    c->nchunks++;
    return 1;
}

static bind_record *take_record(lua_State *L, bind_calls *c)
{
    if (!c->free && !grow(c))
        luaL_error(L, "not enough memory");
    bind_record *r = bind_record_at(c, c->free);
    c->free = r->next_free;
    return r;
}

static void free_record(bind_calls *c, bind_record *r)
{
    r->job = NULL;
    r->generation++;
    r->next_free = c->free;
    c->free = r->slot;
}

static void free_calls(void *records)
{
    bind_calls *c = records;
    for (uint32_t i = 0; i < c->nchunks; i++)
        free(c->chunks[i]);
    free(c->chunks);
    free(c->strs);
    tine__buf_free(&c->out);
    memset(c, 0, sizeof *c);
}

/* ---------------------------------------------------------------- the answer */

typedef struct answer {
    bind_record *record;
    bind_rpc *rpc;
    const tine_error *err;
    const tine_str *results;
    size_t n;
} answer;

static int decode_results(lua_State *L)
{
    const answer *a = lua_touserdata(L, 1);
    int n = bind_rpc_values(L, a->rpc, a->results, a->n);
    if (n < 0)
        return lua_error(L);
    luaL_checkstack(L, BIND_CALL_ROOM, "too many values");
    return n;
}

/* Pushes nil and the results; or an err, also where memory or stack are short for them. Returns
 * how many values that are. */
static int push_results(lua_State *L, answer *a)
{
    int top = lua_gettop(L);
    lua_pushnil(L);
    lua_pushcfunction(L, decode_results);
    lua_pushlightuserdata(L, a);
    int status = lua_pcall(L, 1, LUA_MULTRET, 0);
    if (status == LUA_OK)
        return lua_gettop(L) - top;
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    if (status == LUA_ERRMEM || !text)
        text = "not enough memory", len = strlen(text);
    bind_push_error(L, "decode", text, len);
    lua_replace(L, top + 1);
    lua_settop(L, top + 1);
    return 1;
}

static int decode_error(lua_State *L)
{
    const answer *a = lua_touserdata(L, 1);
    tine__codec_decode_error(a->rpc->codec, L, a->err->value, a->err->value_len);
    return 1;
}

/* Pushes an err, without its value where memory is short for that. */
static void push_error(lua_State *L, answer *a)
{
    bind_push_failure(L, a->err);
    if (!a->err->value)
        return;
    lua_pushcfunction(L, decode_error);
    lua_pushlightuserdata(L, a);
    if (lua_pcall(L, 1, 1, 0) == LUA_OK)
        lua_setfield(L, -2, "value");
    else
        lua_pop(L, 1);
}

/* No value stays at its slot in the table at a registry reference. */
static void drop_value(lua_State *L, int table, uint32_t slot)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, table);
    lua_pushnil(L);
    lua_rawseti(L, -2, (lua_Integer)slot);
    lua_pop(L, 1);
}

static int deliver(lua_State *L)
{
    answer *a = lua_touserdata(L, 1);
    bind_record *r = a->record;
    bind_rpc *b = r->rpc;
    bind_calls *c = calls_of(b);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->callbacks);
    lua_rawgeti(L, 2, (lua_Integer)r->slot);
    lua_pushboolean(L, 0);
    lua_rawseti(L, 2, (lua_Integer)r->slot);
    if (r->has_event)
        drop_value(L, c->events, r->slot);
    if (r->has_again)
        drop_value(L, c->agains, r->slot);
    free_record(c, r);
    a->record = NULL;
    int nargs = 1;
    if (a->err)
        push_error(L, a);
    else
        nargs = push_results(L, a);
    bind_rpc_paid(b);
    lua_call(L, nargs, 0);
    return 0;
}

static void on_answer(void *arg, tine_job *core, const tine_error *err,
                      const tine_str *results, size_t n)
{
    bind_record *r = arg;
    bind_rpc *b = r->rpc;
    answer a = {r, b, err, results, n};
    bind_state *state = b->object.state;
    (void)core;
    if (state->closed)
        return;
    uint64_t before = state->jobs ? state->jobs->current() : 0;
    if (state->jobs)
        state->jobs->enter(r->owner);
    int entered = bind_enter_call(state, deliver, &a);
    if (state->jobs)
        state->jobs->enter(before);
    if (entered && a.record)
        bind_rpc_paid(b); /* no memory: nobody is told */
}

typedef struct event {
    bind_record *record;
    const tine_str *values;
    size_t n;
} event;

static int deliver_event(lua_State *L)
{
    event *e = lua_touserdata(L, 1);
    const bind_calls *c = calls_of(e->record->rpc);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->events);
    lua_rawgeti(L, -1, (lua_Integer)e->record->slot);
    int n = bind_rpc_values(L, e->record->rpc, e->values, e->n);
    if (n >= 0)
        bind_call(e->record->rpc->object.state, n);
    else
        bind_rpc_lost_event(L, e->record->rpc);
    return 0;
}

static void on_job_event(void *arg, pid_t pid, tine_job *core, const tine_str *values,
                         size_t n)
{
    event e = {arg, values, n};
    (void)pid;
    (void)core;
    bind_enter_for(&e.record->rpc->object, deliver_event, &e);
}

typedef struct question {
    answer a; /* record NULL: it is the pool's function that is asked */
    unsigned tries;
    int yes;
} question;

/* Pushes the function that is asked; returns whether there is one. */
static int push_again(lua_State *L, const question *q)
{
    bind_rpc *b = q->a.rpc;
    if (q->a.record) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, calls_of(b)->agains);
        return lua_rawgeti(L, -1, (lua_Integer)q->a.record->slot) == LUA_TFUNCTION;
    }
    bind_object_push(L, &b->object);
    if (lua_isnil(L, -1))
        return 0;
    return lua_getiuservalue(L, -1, BIND_RPC_AGAIN) == LUA_TFUNCTION;
}

static int ask(lua_State *L)
{
    question *q = lua_touserdata(L, 1);
    if (!push_again(L, q))
        return 0;
    push_error(L, &q->a);
    lua_pushinteger(L, (lua_Integer)q->tries);
    q->yes = bind_ask(q->a.rpc->object.state, 2);
    return 0;
}

static int again(bind_rpc *b, bind_record *r, const tine_error *err, unsigned tries)
{
    question q = {.a = {.record = r, .rpc = b, .err = err}, .tries = tries};
    if (!b->object.state->closed)
        bind_enter_for(&b->object, ask, &q);
    return q.yes;
}

int bind_calls_again(void *arg, tine_job *core, const tine_error *err, unsigned tries)
{
    (void)core;
    return again(arg, NULL, err, tries);
}

static int on_again(void *arg, tine_job *core, const tine_error *err, unsigned tries)
{
    bind_record *r = arg;
    (void)core;
    return again(r->rpc, r, err, tries);
}

/* ------------------------------------------------------------------- the call */

static tine_str *room_for(lua_State *L, bind_calls *c, size_t n)
{
    if (n > c->max_strs) {
        tine_str *strs = realloc(c->strs, n * sizeof *strs);
        if (!strs)
            luaL_error(L, "not enough memory");
        c->strs = strs;
        c->max_strs = n;
    }
    return c->strs;
}

int bind_calls_encode(lua_State *L, bind_rpc *b, int first, int last, tine_str **out)
{
    bind_calls *c = calls_of(b);
    size_t n = last >= first ? (size_t)(last - first + 1) : 0;
    tine_str *strs = room_for(L, c, b->strings ? n : 1);
    *out = strs;
    if (!b->strings) {
        c->out.len = 0;
        if (!tine__codec_encode(b->codec, L, first, (int)n, "args", &c->out))
            return -1;
        strs[0] = (tine_str){c->out.data, c->out.len};
        return 1;
    }
    if (n > TINE__MOST_VALUES)
        return tine__codec_refuse_count(L, "args", n) - 1;
    for (size_t i = 0; i < n; i++) {
        int type = lua_type(L, first + (int)i);
        if (type != LUA_TSTRING && type != LUA_TNUMBER) {
            c->out.len = 0;
            tine__codec_encode(b->codec, L, first, (int)n, "args", &c->out);
            return -1;
        }
        strs[i].data = tine__codec_text(L, first + (int)i, &strs[i].len);
    }
    return (int)n;
}

/* What a call needs beside its values. */
typedef struct how {
    int callback, event, again; /* stack indices; 0: none */
    const tine_call_options *options;
    tine_retry
        *retry; /* of options; where there is again, its arg is to be the bind_record */
} how;

static void keep_value(lua_State *L, int table, uint32_t slot, int idx)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, table);
    lua_pushvalue(L, idx);
    lua_rawseti(L, -2, (lua_Integer)slot);
    lua_pop(L, 1);
}

/* Returns 1 with a job pushed; else nil and an err. */
static int make_call(lua_State *L, bind_rpc *b, int first, int last, const how *h)
{
    bind_calls *c = calls_of(b);
    tine_str *strs;
    tine_job *core = NULL;
    int rc;
    int n = bind_calls_encode(L, b, first, last, &strs);
    if (n < 0) {
        size_t len;
        const char *text = lua_tolstring(L, -1, &len);
        lua_pushnil(L);
        bind_push_error(L, "encode", text, len);
        return 2;
    }
    if (!b->object.core)
        return bind_rpc_fail(L, b, "call", -TINE_ECLOSED);
    bind_job *j = lua_newuserdatauv(L, sizeof *j, 0);
    lua_pushvalue(L, lua_upvalueindex(UP_JOB));
    lua_setmetatable(L, -2);
    bind_record *r = take_record(L, c);
    r->rpc = b;
    r->has_event = h->event != 0;
    r->has_again = h->again != 0;
    r->owner = b->object.state->jobs ? b->object.state->jobs->current() : 0;
    *j = (bind_job){r->slot, r->generation, 0};
    lua_pushvalue(L, h->callback);
    lua_rawseti(L, lua_upvalueindex(UP_CALLBACKS), (lua_Integer)r->slot);
    if (h->event)
        keep_value(L, c->events, r->slot, h->event);
    if (h->again) {
        keep_value(L, c->agains, r->slot, h->again);
        h->retry->arg = r;
    }
    bind_rpc_owe(L, 1, b);
    size_t nfds;
    const int *fds = tine__codec_fds(b->codec, &nfds);
    if (b->is_pool && nfds) {
        tine_call_options o = {0};
        if (h->options)
            o = *h->options;
        o.fds = fds;
        o.nfds = nfds;
        rc = tine_pool_call(b->object.core, strs, (size_t)n, &o, on_answer, r, &core);
    } else if (b->is_pool) {
        rc = tine_pool_call(b->object.core, strs, (size_t)n, h->options, on_answer, r,
                            &core);
    } else {
        rc = tine_rpc_call_fds(b->object.core, strs, (size_t)n, fds, nfds, on_answer, r,
                               &core);
    }
    if (rc < 0) {
        free_record(c, r);
        bind_rpc_paid(b);
        return bind_rpc_fail(L, b, "call", rc);
    }
    r->job = core;
    j->id = (lua_Integer)tine_job_id(core);
    return 1;
}

/* The rpc or pool at index 1; NULL if it is none. */
static bind_rpc *fast_self(lua_State *L)
{
    if (lua_type(L, 1) != LUA_TUSERDATA || !lua_getmetatable(L, 1))
        return NULL;
    int same = lua_rawequal(L, -1, lua_upvalueindex(UP_SERVICE));
    lua_pop(L, 1);
    return same ? lua_touserdata(L, 1) : NULL;
}

static int after_wait(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    (void)ctx;
    return lua_gettop(L);
}

/* call(rpc, ..., callback): returns the job. Whatever is not that simple is done by the
 * function in Lua, which gets all arguments, and, where the call has failed, its err before. */
static int rpc_call(lua_State *L)
{
    bind_rpc *b = fast_self(L);
    int top = lua_gettop(L);
    if (b && top > 1 && lua_type(L, top) == LUA_TFUNCTION) {
        how h = {.callback = top};
        if (make_call(L, b, 2, top - 1, &h) == 1)
            return 1;
        lua_insert(L, 1); /* err */
        lua_settop(L, top + 1);
    } else {
        lua_pushnil(L);
        lua_insert(L, 1);
    }
    lua_pushvalue(L, lua_upvalueindex(UP_SLOW));
    lua_insert(L, 1);
    lua_callk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, after_wait);
    return after_wait(L, LUA_OK, 0);
}

/* A call's own say all there is to say of it. Returns whether a function was pushed. */
static int take_retries(lua_State *L, tine_call_options *o, tine_retry *r)
{
    unsigned crash;
    int what = bind_pool_retries(L, 2, &crash, r);
    if (!what)
        return 0;
    o->retries = crash ? (int)crash : -1;
    o->retry = r;
    r->again = what == 2 ? on_again : NULL;
    return what == 2;
}

/* call_with(pool, options, callback, event or nil, args, n): options are checked. */
static int rpc_call_with(lua_State *L)
{
    bind_rpc *b = bind_rpc_self(L);
    tine_call_options o;
    tine_retry retry;
    lua_Integer n = luaL_checkinteger(L, 6);
    lua_settop(L, 6);
    memset(&o, 0, sizeof o);
    lua_getfield(L, 2, "timeout");
    if (!lua_isnil(L, -1))
        o.timeout_usec = bind_field_usec(L, 2, "timeout");
    lua_getfield(L, 2, "priority");
    o.priority = (int)lua_tointeger(L, -1);
    int again = take_retries(L, &o, &retry);
    if (!again)
        lua_pushnil(L);
    lua_insert(L, 7);
    lua_getfield(L, 2, "key");
    if (!lua_isnil(L, -1))
        o.key.data = lua_tolstring(L, -1, &o.key.len);
    /* The key stays on the stack, and the function, below the values. */
    lua_replace(L, 6);
    lua_settop(L, 7);
    if (n >= INT_MAX / 2 || !lua_checkstack(L, (int)n + BIND_CALL_ROOM)) {
        static const char text[] = "args: too many values for the stack";
        lua_pushnil(L);
        bind_push_error(L, "encode", text, sizeof text - 1);
        return 2;
    }
    for (lua_Integer i = 1; i <= n; i++)
        lua_geti(L, 5, i);
    how h = {.callback = 3,
             .event = lua_isnil(L, 4) ? 0 : 4,
             .again = again ? 7 : 0,
             .options = &o,
             .retry = &retry};
    o.on_event = h.event ? on_job_event : NULL;
    return make_call(L, b, 8, lua_gettop(L), &h);
}

/* -------------------------------------------------------------------- opening */

static void open_state(lua_State *L)
{
    bind_calls *c = lua_newuserdatauv(L, sizeof *c, 0);
    memset(c, 0, sizeof *c);
    lua_newtable(L);
    c->callbacks = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_newtable(L);
    c->events = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_newtable(L);
    c->agains = luaL_ref(L, LUA_REGISTRYINDEX);
    bind_state *state = bind_state_check(L);
    state->call_records = c;
    state->free_calls = free_calls;
    lua_rawsetp(L, LUA_REGISTRYINDEX, &bind_calls_key);
}

/* Sets a function that calls; the table on top, the slow function (or nil) above. */
static void set_caller(lua_State *L, const char *name, lua_CFunction f)
{
    int slow = lua_gettop(L);
    luaL_getmetatable(L, bind_rpc_type);
    luaL_getmetatable(L, bind_job_type);
    lua_rawgeti(L, LUA_REGISTRYINDEX, bind_calls_get(L)->callbacks);
    lua_pushvalue(L, slow);
    lua_pushcclosure(L, f, UPVALUES);
    lua_setfield(L, slow - 1, name);
    lua_settop(L, slow - 1);
}

/* caller(slow): the function call, see rpc_call. */
static int new_caller(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_settop(L, 1);
    lua_newtable(L);
    lua_insert(L, 1);
    set_caller(L, "call", rpc_call);
    lua_getfield(L, 1, "call");
    return 1;
}

void bind_calls_open(lua_State *L)
{
    if (!bind_calls_get(L))
        open_state(L);
    lua_pushcfunction(L, new_caller);
    lua_setfield(L, -2, "caller");
    lua_pushnil(L);
    set_caller(L, "call_with", rpc_call_with);
}
