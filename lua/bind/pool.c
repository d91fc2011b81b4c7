/* What only a pool has, for Lua: its options, broadcast, resize, reload, stats. */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include "fd/fd.h"
#include "process.h"
#include "rpc.h"

static lua_Number get_number(lua_State *L, int idx, const char *name, lua_Number absent)
{
    lua_Number n = absent;
    if (lua_getfield(L, idx, name) == LUA_TNUMBER)
        n = lua_tonumber(L, -1);
    lua_pop(L, 1);
    return n;
}

/* unbounded: what stands for math.huge. */
static size_t get_size(lua_State *L, int idx, const char *name, size_t unbounded)
{
    lua_Number n = get_number(L, idx, name, 0);
    return n >= 9e15 ? unbounded : (size_t)n;
}

static unsigned get_times(lua_State *L, int idx, const char *name)
{
    size_t n = get_size(L, idx, name, INT_MAX);
    return n > INT_MAX ? INT_MAX : (unsigned)n;
}

int bind_pool_retries(lua_State *L, int idx, unsigned *crash, tine_retry *r)
{
    memset(r, 0, sizeof *r);
    int type = lua_getfield(L, idx, "retries"), table = lua_gettop(L);
    if (type != LUA_TTABLE) {
        lua_pop(L, 1);
        *crash = get_times(L, idx, "retries");
        return type != LUA_TNIL;
    }
    *crash = get_times(L, table, "crash");
    r->timeout = get_times(L, table, "timeout");
    r->exception = get_times(L, table, "exception");
    r->delay_usec = bind_field_usec(L, table, "delay");
    if (lua_getfield(L, table, "exception") == LUA_TFUNCTION) {
        lua_remove(L, table);
        return 2;
    }
    lua_settop(L, table - 1);
    return 1;
}

void bind_pool_options(lua_State *L, int self, int idx, tine_pool_options *o)
{
    o->max = get_size(L, idx, "max", INT_MAX);
    o->idle = get_size(L, idx, "idle", INT_MAX);
    o->load = get_size(L, idx, "load", INT_MAX);
    o->start_usec = bind_field_usec(L, idx, "start");
    o->stop_usec = bind_field_usec(L, idx, "stop");
    lua_Number queue = get_number(L, idx, "queue", HUGE_VAL);
    o->queue = queue >= 9e15 ? 0 : queue < 1 ? TINE_NO_QUEUE : (size_t)queue;
    if (bind_pool_retries(L, idx, &o->retries, &o->retry) == 2) {
        o->retry.again = bind_calls_again;
        o->retry.arg = o->rpc.arg;
        lua_setiuservalue(L, self, BIND_RPC_AGAIN);
    }
    o->max_jobs = get_size(L, idx, "max_jobs", 0);
    o->max_rss = get_size(L, idx, "max_rss", 0);
    o->promote_own = get_size(L, idx, "promote", 0);
    o->max_age_usec = bind_field_usec(L, idx, "max_age");
}

static bind_rpc *check_pool(lua_State *L)
{
    bind_rpc *b = bind_rpc_self(L);
    luaL_argcheck(L, b->is_pool, 1, "a pool expected");
    return b;
}

/* ---------------------------------------------------------------- broadcast */

/* What has come so far is the list at the registry reference. */
typedef struct broadcast {
    bind_rpc *rpc;
    int callback, list;
    size_t left;
} broadcast;

typedef struct answer {
    broadcast *all;
    const tine_error *err;
    const tine_str *results;
    size_t n;
} answer;

static void push_entry(lua_State *L, const answer *a)
{
    lua_newtable(L);
    if (a->err) {
        bind_push_failure(L, a->err);
        lua_setfield(L, -2, "err");
        return;
    }
    int entry = lua_gettop(L);
    int n = bind_rpc_values(L, a->all->rpc, a->results, a->n);
    if (n < 0) {
        size_t len;
        const char *text = lua_tolstring(L, -1, &len);
        bind_push_error(L, "decode", text, len);
        lua_setfield(L, entry, "err");
        lua_settop(L, entry);
        return;
    }
    lua_pushinteger(L, n);
    lua_setfield(L, entry, "n");
    while (n > 0)
        lua_rawseti(L, entry, n--);
}

static int deliver(lua_State *L)
{
    answer *a = lua_touserdata(L, 1);
    broadcast *all = a->all;
    lua_rawgeti(L, LUA_REGISTRYINDEX, all->list);
    push_entry(L, a);
    lua_rawseti(L, 2, (lua_Integer)lua_rawlen(L, 2) + 1);
    if (--all->left)
        return 0;
    bind_state *state = all->rpc->object.state;
    lua_rawgeti(L, LUA_REGISTRYINDEX, all->callback);
    lua_pushnil(L);
    lua_pushvalue(L, 2);
    luaL_unref(L, LUA_REGISTRYINDEX, all->callback);
    luaL_unref(L, LUA_REGISTRYINDEX, all->list);
    bind_rpc_paid(all->rpc);
    free(all);
    bind_call(state, 2);
    return 0;
}

static void on_answer(void *arg, tine_job *job, const tine_error *err,
                      const tine_str *results, size_t n)
{
    answer a = {arg, err, results, n};
    (void)job;
    if (a.all->rpc->object.state->closed) {
        if (!--a.all->left)
            free(a.all);
        return;
    }
    bind_enter_for(&a.all->rpc->object, deliver, &a);
}

/* broadcast(pool, callback, ...): callback(nil, list), or nil and an err. */
static int pool_broadcast(lua_State *L)
{
    bind_rpc *b = check_pool(L);
    tine_str *strs;
    int n = bind_calls_encode(L, b, 3, lua_gettop(L), &strs);
    if (n < 0) {
        size_t len;
        const char *text = lua_tolstring(L, -1, &len);
        lua_pushnil(L);
        bind_push_error(L, "encode", text, len);
        return 2;
    }
    size_t nfds;
    tine__codec_fds(b->codec, &nfds);
    if (nfds)
        return luaL_error(L, "broadcast: descriptors go to one worker, by a call");
    if (!b->object.core)
        return bind_rpc_fail(L, b, "broadcast", -TINE_ECLOSED);
    broadcast *all = calloc(1, sizeof *all);
    if (!all)
        return bind_rpc_fail(L, b, "broadcast", -ENOMEM);
    all->rpc = b;
    lua_pushvalue(L, 2);
    all->callback = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_newtable(L);
    all->list = luaL_ref(L, LUA_REGISTRYINDEX);
    bind_rpc_owe(L, 1, b);
    int rc = tine_pool_broadcast(b->object.core, strs, (size_t)n, on_answer, all);
    if (rc > 0) {
        all->left = (size_t)rc;
        lua_pushboolean(L, 1);
        return 1;
    }
    luaL_unref(L, LUA_REGISTRYINDEX, all->callback);
    luaL_unref(L, LUA_REGISTRYINDEX, all->list);
    bind_rpc_paid(b);
    free(all);
    return bind_rpc_fail(L, b, "broadcast", rc < 0 ? rc : -ENOMEM);
}

/* ------------------------------------------------------------ resize, reload */

/* resize(pool, max, idle) */
static int pool_resize(lua_State *L)
{
    bind_rpc *b = check_pool(L);
    int rc = b->object.core
                 ? tine_pool_resize(b->object.core, (size_t)luaL_checkinteger(L, 2),
                                    (size_t)luaL_checkinteger(L, 3))
                 : -TINE_ECLOSED;
    if (rc < 0)
        return bind_rpc_fail(L, b, "resize", rc);
    lua_pushboolean(L, 1);
    return 1;
}

typedef struct reload {
    bind_rpc *rpc;
    int callback;
    const tine_error *err;
} reload;

static int deliver_reload(lua_State *L)
{
    reload *r = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->callback);
    luaL_unref(L, LUA_REGISTRYINDEX, r->callback);
    if (r->err) {
        lua_pushnil(L);
        bind_push_failure(L, r->err);
    } else {
        lua_pushboolean(L, 1);
        lua_pushnil(L);
    }
    bind_rpc_paid(r->rpc);
    bind_call(r->rpc->object.state, 2);
    return 0;
}

static void on_reload(void *arg, const tine_error *err)
{
    reload *kept = arg, r = *kept;
    r.err = err;
    free(kept);
    if (!r.rpc->object.state->closed)
        bind_enter_for(&r.rpc->object, deliver_reload, &r);
}

/* reload(p, pool, callback): callback(true) or (nil, err). The process comes first, as in
 * all that consumes one. */
static int pool_reload(lua_State *L)
{
    bind_process *p = bind_process_check_open(L, 2, "reload");
    bind_rpc *b = luaL_checkudata(L, 2, bind_rpc_type);
    if (!b->object.core)
        return bind_rpc_fail(L, b, "reload", -TINE_ECLOSED);
    reload *r = calloc(1, sizeof *r);
    if (!r)
        return bind_rpc_fail(L, b, "reload", -ENOMEM);
    r->rpc = b;
    lua_pushvalue(L, 3);
    r->callback = luaL_ref(L, LUA_REGISTRYINDEX);
    bind_rpc_owe(L, 2, b);
    int rc = tine_pool_reload(b->object.core, p->object.core, on_reload, r);
    if (rc >= 0) {
        p->consumer = BIND_BY_POOL;
        lua_pushboolean(L, 1);
        return 1;
    }
    luaL_unref(L, LUA_REGISTRYINDEX, r->callback);
    bind_rpc_paid(b);
    free(r);
    return bind_rpc_fail(L, b, "reload", rc);
}

/* promote(pool, callback): as reload. */
static int pool_promote(lua_State *L)
{
    bind_rpc *b = check_pool(L);
    if (!b->object.core)
        return bind_rpc_fail(L, b, "promote", -TINE_ECLOSED);
    reload *r = calloc(1, sizeof *r);
    if (!r)
        return bind_rpc_fail(L, b, "promote", -ENOMEM);
    r->rpc = b;
    lua_pushvalue(L, 2);
    r->callback = luaL_ref(L, LUA_REGISTRYINDEX);
    bind_rpc_owe(L, 1, b);
    int rc = tine_pool_promote(b->object.core, on_reload, r);
    if (rc >= 0) {
        lua_pushboolean(L, 1);
        return 1;
    }
    luaL_unref(L, LUA_REGISTRYINDEX, r->callback);
    bind_rpc_paid(b);
    free(r);
    return bind_rpc_fail(L, b, "promote", rc);
}

/* ----------------------------------------------------------------------- stats */

static void set_number(lua_State *L, const char *name, lua_Number value)
{
    lua_pushnumber(L, value);
    lua_setfield(L, -2, name);
}

static void set_count(lua_State *L, const char *name, uint64_t value)
{
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, name);
}

static void set_histogram(lua_State *L, const char *name, const tine_histogram *h)
{
    lua_createtable(L, 0, 9);
    set_count(L, "count", h->count);
    set_number(L, "mean", h->mean / 1e6);
    set_number(L, "stddev", h->stddev / 1e6);
    set_number(L, "min", (lua_Number)h->min / 1e6);
    set_number(L, "p50", (lua_Number)h->p50 / 1e6);
    set_number(L, "p90", (lua_Number)h->p90 / 1e6);
    set_number(L, "p99", (lua_Number)h->p99 / 1e6);
    set_number(L, "p999", (lua_Number)h->p999 / 1e6);
    set_number(L, "max", (lua_Number)h->max / 1e6);
    lua_setfield(L, -2, name);
}

static void push_worker(lua_State *L, const tine_worker_stats *w)
{
    static const char *const states[] = {"starting", "idle", "busy", "retiring",
                                         "stopping"};
    lua_createtable(L, 0, 20);
    if (w->pid > 0)
        set_count(L, "pid", (uint64_t)w->pid);
    lua_pushstring(L, states[w->state]);
    lua_setfield(L, -2, "state");
    set_count(L, "jobs", w->jobs);
    set_count(L, "load", w->load);
    if (w->job) {
        set_count(L, "job", w->job);
        set_number(L, "job_seconds", (lua_Number)w->job_usec / 1e6);
    }
    set_number(L, "age", (lua_Number)w->age_usec / 1e6);
    set_count(L, "rss", w->rss);
    set_count(L, "generation", w->generation);
    bind_set_memory(L, &w->memory);
}

static void set_workers(lua_State *L, const tine_pool *pool, size_t n, int measure)
{
    tine_worker_stats *list = lua_newuserdatauv(L, (n + 1) * sizeof *list, 0);
    size_t most = n;
    n = measure ? tine_pool_measure_workers(pool, list, most)
                : tine_pool_get_workers(pool, list, most);
    if (n > most)
        n = most;
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        push_worker(L, &list[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_remove(L, -2);
    lua_setfield(L, -2, "workers");
}

static void set_template(lua_State *L, const tine_pool *pool, int measure)
{
    tine_memory m;
    if (tine_pool_get_template(pool, measure, &m) < 0)
        return;
    lua_createtable(L, 0, 12);
    if (m.pid > 0)
        set_count(L, "pid", (uint64_t)m.pid);
    bind_set_memory(L, &m);
    lua_setfield(L, -2, "template");
}

/* stats(pool, measure): a table; nil and an err */
static int pool_stats(lua_State *L)
{
    bind_rpc *b = check_pool(L);
    tine_pool_stats s;
    if (!b->object.core)
        return bind_rpc_fail(L, b, "stats", -TINE_ECLOSED);
    tine_pool_get_stats(b->object.core, &s);
    lua_createtable(L, 0, 24);
    const struct {
        const char *name;
        uint64_t value;
    } counts[] = {
        {"starting", s.starting}, {"idle", s.idle},           {"busy", s.busy},
        {"retiring", s.retiring}, {"queued", s.queued},       {"running", s.running},
        {"calls", s.calls},       {"done", s.done},           {"failed", s.failed},
        {"rejected", s.rejected}, {"cancelled", s.cancelled}, {"timeouts", s.timeouts},
        {"retried", s.retried},   {"started", s.started},     {"crashed", s.crashed},
        {"recycled", s.recycled}, {"replays", s.replays}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        set_count(L, counts[i].name, counts[i].value);
    lua_pushboolean(L, s.broken);
    lua_setfield(L, -2, "broken");
    lua_pushboolean(L, s.replayable);
    lua_setfield(L, -2, "replayable");
    set_histogram(L, "wait", &s.wait);
    set_histogram(L, "run", &s.run);
    set_template(L, b->object.core, lua_toboolean(L, 2));
    set_workers(L, b->object.core, s.workers, lua_toboolean(L, 2));
    return 1;
}

/* has_room(pool): whether the queue has; nil when it is closed. */
static int pool_has_room(lua_State *L)
{
    const bind_rpc *b = check_pool(L);
    if (!b->object.core)
        return 0;
    lua_pushboolean(L, tine_pool_has_room(b->object.core));
    return 1;
}

void bind_pool_open(lua_State *L)
{
    static const luaL_Reg functions[] = {{"broadcast", pool_broadcast},
                                         {"resize", pool_resize},
                                         {"reload", pool_reload},
                                         {"stats", pool_stats},
                                         {"promote", pool_promote},
                                         {"has_room", pool_has_room},
                                         {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
