/* Calls from Lua and their answers: the hot path. The callback of a call lies in a table, at the
 * number of its slot; the core gets the slot's record as its argument. A job is the slot and
 * its generation, so that it can be dropped and kept as its user likes. */
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include "fd/fd.h"
#include "rpc.h"

#define JOB_TYPE "tine.job"

enum { CHUNK = 256, MAX_CHUNKS = 1 << 18 };

typedef struct record {
    bind_rpc *rpc;
    tine_job *job; /* NULL: free */
    uint32_t slot, next_free, generation;
    int has_event;  /* a handler of its own */
    int has_again;  /* and a function that says whether it is tried again */
    uint64_t owner; /* in an async worker: the call whose code made this one, or 0 */
} record;

/* Of a Lua state; a userdata in its registry. */
typedef struct calls {
    record **chunks;
    uint32_t nchunks, free; /* slots count from 1; 0: none */
    tine_str *strs;
    size_t max_strs;
    tine__buf out;
    int callbacks, events, agains; /* registry references */
} calls;

typedef struct job {
    uint32_t slot, generation;
    lua_Integer id;
} job;

/* Upvalues of the functions that call: what would have to be looked up by name each time. */
enum { UP_SERVICE = 1, UP_JOB, UP_CALLBACKS, UP_SLOW, UPVALUES = UP_SLOW };

static const char calls_key;

static calls *get_calls(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &calls_key);
    calls *c = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return c;
}

static calls *calls_of(const bind_rpc *b)
{
    return b->object.state->call_records;
}

static record *record_at(const calls *c, uint32_t slot)
{
    return &c->chunks[(slot - 1) / CHUNK][(slot - 1) % CHUNK];
}

static int grow(calls *c)
{
    if (c->nchunks == MAX_CHUNKS)
        return 0;
    record **chunks = realloc(c->chunks, (c->nchunks + 1) * sizeof *chunks);
    if (!chunks)
        return 0;
    c->chunks = chunks;
    record *chunk = calloc(CHUNK, sizeof *chunk);
    if (!chunk)
        return 0;
    chunks[c->nchunks] = chunk;
    for (uint32_t i = CHUNK; i-- > 0;) {
        chunk[i].slot = c->nchunks * CHUNK + i + 1;
        chunk[i].next_free = c->free;
        c->free = chunk[i].slot;
    }
    c->nchunks++;
    return 1;
}

static record *take_record(lua_State *L, calls *c)
{
    if (!c->free && !grow(c))
        luaL_error(L, "not enough memory");
    record *r = record_at(c, c->free);
    c->free = r->next_free;
    return r;
}

static void free_record(calls *c, record *r)
{
    r->job = NULL;
    r->generation++;
    r->next_free = c->free;
    c->free = r->slot;
}

void bind_calls_free(void *records)
{
    calls *c = records;
    if (!c)
        return;
    for (uint32_t i = 0; i < c->nchunks; i++)
        free(c->chunks[i]);
    free(c->chunks);
    free(c->strs);
    tine__buf_free(&c->out);
    memset(c, 0, sizeof *c);
}

/* ---------------------------------------------------------------- the answer */

typedef struct answer {
    record *record;
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
    record *r = a->record;
    bind_rpc *b = r->rpc;
    calls *c = calls_of(b);
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
    record *r = arg;
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
    record *record;
    const tine_str *values;
    size_t n;
} event;

static int deliver_event(lua_State *L)
{
    event *e = lua_touserdata(L, 1);
    const calls *c = calls_of(e->record->rpc);
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

static int again(bind_rpc *b, record *r, const tine_error *err, unsigned tries)
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
    record *r = arg;
    (void)core;
    return again(r->rpc, r, err, tries);
}

/* ------------------------------------------------------------------- the call */

static tine_str *room_for(lua_State *L, calls *c, size_t n)
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
    calls *c = calls_of(b);
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
        *retry; /* of options; where there is again, its arg is to be the record */
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
    calls *c = calls_of(b);
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
    job *j = lua_newuserdatauv(L, sizeof *j, 0);
    lua_pushvalue(L, lua_upvalueindex(UP_JOB));
    lua_setmetatable(L, -2);
    record *r = take_record(L, c);
    r->rpc = b;
    r->has_event = h->event != 0;
    r->has_again = h->again != 0;
    r->owner = b->object.state->jobs ? b->object.state->jobs->current() : 0;
    *j = (job){r->slot, r->generation, 0};
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

/* ------------------------------------------------------------------------ job */

/* Its record, or NULL when it has ended. */
static record *live(lua_State *L, const job *j)
{
    const calls *c = get_calls(L);
    bool known =
        j->slot && j->slot <= c->nchunks * CHUNK; /* none are, as the state closes */
    record *r = known ? record_at(c, j->slot) : NULL;
    return r && r->generation == j->generation && r->job ? r : NULL;
}

/*** Ends the job, whatever it is doing; does nothing when it has ended.
@function job:cancel */
static int job_cancel(lua_State *L)
{
    record *r = live(L, luaL_checkudata(L, 1, JOB_TYPE));
    if (r && r->rpc->object.core && !bind_state_check(L)->closed)
        tine_job_cancel(r->job);
    return 0;
}

/*** Ends the job if it has not started.
@function job:withdraw
@treturn boolean whether it has ended, or will without having started */
static int job_withdraw(lua_State *L)
{
    record *r = live(L, luaL_checkudata(L, 1, JOB_TYPE));
    bool open = r && r->rpc->object.core && !bind_state_check(L)->closed;
    lua_pushboolean(L, !open || tine_job_withdraw(r->job));
    return 1;
}

/*** Whether the job has ended: its callback has been, or is being, called.
@function job:done
@treturn boolean */
static int job_done(lua_State *L)
{
    lua_pushboolean(L, !live(L, luaL_checkudata(L, 1, JOB_TYPE)));
    return 1;
}

/*** Whether a worker has begun with the job, and it has not ended.
@function job:running
@treturn boolean */
static int job_running(lua_State *L)
{
    const record *r = live(L, luaL_checkudata(L, 1, JOB_TYPE));
    bool open = r && r->rpc->object.core && !bind_state_check(L)->closed;
    lua_pushboolean(L, open && tine_job_running(r->job));
    return 1;
}

/* tap(job, fn): its callback is to be what fn makes of it. Returns whether the job is open. */
static int tap(lua_State *L)
{
    const record *r = live(L, luaL_checkudata(L, 1, JOB_TYPE));
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_pushboolean(L, r != NULL);
    if (!r)
        return 1;
    lua_rawgeti(L, LUA_REGISTRYINDEX, get_calls(L)->callbacks);
    lua_pushvalue(L, 2);
    lua_rawgeti(L, -2, (lua_Integer)r->slot);
    lua_call(L, 1, 1);
    lua_rawseti(L, -2, (lua_Integer)r->slot);
    lua_pop(L, 1);
    return 1;
}

/*** The job's number, counted from 1 in each rpc and pool.
@function job:id
@treturn integer */
static int job_id(lua_State *L)
{
    const job *j = luaL_checkudata(L, 1, JOB_TYPE);
    lua_pushinteger(L, j->id);
    return 1;
}

static int job_text(lua_State *L)
{
    const job *j = luaL_checkudata(L, 1, JOB_TYPE);
    lua_pushfstring(L, "tine.job (%I%s)", (LUAI_UACINT)j->id,
                    live(L, j) ? "" : ", ended");
    return 1;
}

/* What guard returns. */
static int call_guarded(lua_State *L)
{
    enum { FEW = 100, COPIES = 3 };
    int n = lua_gettop(L), most = COPIES * n + BIND_CALL_ROOM;
    lua_State *co = lua_tothread(L, lua_upvalueindex(2));
    if (n > FEW && (!lua_checkstack(L, most) || !lua_checkstack(co, most))) {
        static const char text[] = "too many values for the coroutine's stack";
        lua_settop(L, 0);
        bind_push_error(L, "decode", text, sizeof text - 1);
        n = 1;
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, n, 0);
    return 0;
}

/* guard(waker, coroutine): a callback of a call that ends the wait of the coroutine: with an err
 * in the place of more values than can be handed on. */
static int guard(lua_State *L)
{
    luaL_checktype(L, 2, LUA_TTHREAD);
    lua_settop(L, 2);
    lua_pushcclosure(L, call_guarded, 2);
    return 1;
}

/* ended_job(): the job of a call that failed at once. */
static int ended_job(lua_State *L)
{
    job *j = lua_newuserdatauv(L, sizeof *j, 0);
    *j = (job){0, 0, 0};
    luaL_setmetatable(L, JOB_TYPE);
    return 1;
}

static void open_state(lua_State *L)
{
    calls *c = lua_newuserdatauv(L, sizeof *c, 0);
    memset(c, 0, sizeof *c);
    lua_newtable(L);
    c->callbacks = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_newtable(L);
    c->events = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_newtable(L);
    c->agains = luaL_ref(L, LUA_REGISTRYINDEX);
    bind_state_check(L)->call_records = c;
    lua_rawsetp(L, LUA_REGISTRYINDEX, &calls_key);
}

/* Sets a function that calls; the table on top, the slow function (or nil) above. */
static void set_caller(lua_State *L, const char *name, lua_CFunction f)
{
    int slow = lua_gettop(L);
    luaL_getmetatable(L, bind_rpc_type);
    luaL_getmetatable(L, JOB_TYPE);
    lua_rawgeti(L, LUA_REGISTRYINDEX, get_calls(L)->callbacks);
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
    static const luaL_Reg functions[] = {{"caller", new_caller},
                                         {"ended_job", ended_job},
                                         {"guard", guard},
                                         {"tap", tap},
                                         {NULL, NULL}};
    static const luaL_Reg methods[] = {
        {"cancel", job_cancel}, {"withdraw", job_withdraw},
        {"done", job_done},     {"running", job_running},
        {"id", job_id},         {NULL, NULL}};
    if (!get_calls(L))
        open_state(L);
    if (luaL_newmetatable(L, JOB_TYPE)) {
        luaL_newlib(L, methods);
        lua_setfield(L, -2, "__index");
        lua_pushcfunction(L, job_text);
        lua_setfield(L, -2, "__tostring");
    }
    lua_getfield(L, -1, "__index");
    lua_setfield(L, -3, "job_methods"); /* rpc.lua adds to them */
    lua_pop(L, 1);
    luaL_setfuncs(L, functions, 0);
    lua_pushnil(L);
    set_caller(L, "call_with", rpc_call_with);
}
