/* What ties a Lua state to the core. The finalizers of a state that is closed
 * come in any order, so that of this frees the host and leaves all objects without a
 * core. */
#include "state.h"

#include <stdarg.h>
#include <string.h>

#include <lauxlib.h>

#include "fd/fd.h"

#define LINK_TYPE "tine.state"

/* So many errors can be kept without memory being asked for. */
#define ERROR_ROOM 4

/* Registry keys: the state, whose user value is the list of errors kept; object address
 * -> userdata, strongly; the same, weakly. */
static const char link_key, anchors_key, known_key;

static bind_state *get_link(lua_State *L)
{
    bind_state *state;

    lua_rawgetp(L, LUA_REGISTRYINDEX, &link_key);
    state = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return state;
}

/* Leaves the host, which is not freed, and all objects without a core. */
static tine_host *forget_host(bind_state *state)
{
    tine_host *host = state->host;

    while (state->objects) {
        state->objects->stale = 1;
        bind_object_release(state->objects);
        bind_object_detach(state->objects);
    }
    state->watchers = 0;
    state->depth = 0;
    state->entered = 0;
    state->host = NULL;
    return host;
}

void bind_state_forked(lua_State *L)
{
    tine_host_free(forget_host(get_link(L)));
}

static int link_gc(lua_State *L)
{
    bind_state *state = luaL_checkudata(L, 1, LINK_TYPE);
    int in_callback = state->depth > 0;
    tine_host *host = forget_host(state);

    state->closed = 1;
    /* os.exit(code, true) in a callback: the host is in use below us on the C stack.
     * The process ends, and its children with it. */
    if (!in_callback)
        tine_host_free(host);
    if (state->free_calls)
        state->free_calls(state->call_records);
    return 0;
}

static void push_weak_table(lua_State *L)
{
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
}

/* What the async backend gets: see child/module.h. */

static void *module_link(lua_State *L)
{
    return bind_state_host(L);
}

/* Calls f with arg as a light userdata. Returns 0 when it could not even be called. */
static int enter(bind_state *state, lua_CFunction f, void *arg)
{
    lua_State *L = state->L;

    if (!lua_checkstack(L, LUA_MINSTACK))
        return 0;
    state->calls++;
    state->entered++;
    lua_pushcfunction(L, f);
    lua_pushlightuserdata(L, arg);
    int status = lua_pcall(L, 1, 0, 0);
    state->entered--;
    /* f calls the user only through bind_call, so memory is what it lacked. */
    if (status != LUA_OK) {
        if (state->nerrors < ERROR_ROOM)
            bind_keep_error(L, state);
        else
            lua_pop(L, 1);
    }
    return 1;
}

static tine_host *module_host(const void *state)
{
    return ((const bind_state *)state)->host;
}

static void module_take_jobs(void *state, const tine__jobs *jobs)
{
    ((bind_state *)state)->jobs = jobs;
}

static int module_enter(void *state, lua_CFunction f, void *arg)
{
    return enter(state, f, arg);
}

static bool module_is_entered(const void *state)
{
    return ((const bind_state *)state)->entered > 0;
}

static void open_module(lua_State *L)
{
    static const tine__module module = {module_link, module_host, module_take_jobs,
                                        module_enter, module_is_entered};

    lua_pushlightuserdata(L, (void *)(size_t)&module);
    lua_setfield(L, LUA_REGISTRYINDEX, TINE__MODULE);
}

void bind_state_open(lua_State *L)
{
    bind_state *state;

    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &link_key) == LUA_TUSERDATA) {
        lua_pop(L, 1);
        return;
    }
    lua_pop(L, 1);
    state = lua_newuserdatauv(L, sizeof *state, 1);
    memset(state, 0, sizeof *state);
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    state->L = lua_tothread(L, -1);
    lua_pop(L, 1);
    lua_createtable(L, ERROR_ROOM, 0);
    lua_setiuservalue(L, -2, 1);
    if (luaL_newmetatable(L, LINK_TYPE)) {
        lua_pushcfunction(L, link_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    lua_newtable(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &anchors_key);
    push_weak_table(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &known_key);
    open_module(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &link_key);
}

bind_state *bind_state_check(lua_State *L)
{
    bind_state *state = get_link(L);

    if (state->host && tine_host_active(state->host) == -TINE_ESTALE) {
        int in_callback = state->depth > 0;
        tine_host *host = forget_host(state);

        if (!in_callback)
            tine_host_free(host);
    }
    return state;
}

bind_state *bind_state_host(lua_State *L)
{
    bind_state *state = bind_state_check(L);
    int rc;

    if (state->closed)
        luaL_error(L, "tine: the Lua state is being closed");
    if (!state->host) {
        rc = tine_host_new(&state->host, NULL);
        if (rc < 0) {
            state->host = NULL;
            bind_fail(L, "the host of this process", rc);
            return NULL;
        }
    }
    return state;
}

/* ----------------------------------------------------------------- objects */

void bind_object_init(bind_state *state, bind_object *o)
{
    memset(o, 0, sizeof *o);
    o->state = state;
    o->job = state->jobs ? state->jobs->current() : 0;
}

void bind_object_attach(bind_object *o, void *core)
{
    o->core = core;
    o->next = o->state->objects;
    o->prev = &o->state->objects;
    if (o->next)
        o->next->prev = &o->next;
    o->state->objects = o;
}

void bind_object_detach(bind_object *o)
{
    if (!o->core)
        return;
    o->core = NULL;
    *o->prev = o->next;
    if (o->next)
        o->next->prev = o->prev;
    o->next = NULL;
    o->prev = NULL;
}

static void set_entry(lua_State *L, int idx, const char *table, bind_object *o)
{
    idx = lua_absindex(L, idx);
    luaL_checkstack(L, 2, NULL);
    lua_rawgetp(L, LUA_REGISTRYINDEX, table);
    lua_pushvalue(L, idx);
    lua_rawsetp(L, -2, o);
    lua_pop(L, 1);
}

void bind_object_anchor(lua_State *L, int idx, bind_object *o)
{
    if (o->anchored)
        return;
    set_entry(L, idx, &anchors_key, o);
    o->anchored = 1;
}

void bind_object_release(bind_object *o)
{
    lua_State *L = o->state->L;

    if (!o->anchored || !lua_checkstack(L, 2))
        return;
    o->anchored = 0;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &anchors_key);
    lua_pushnil(L);
    lua_rawsetp(L, -2, o);
    lua_pop(L, 1);
}

void bind_object_know(lua_State *L, int idx, bind_object *o)
{
    set_entry(L, idx, &known_key, o);
}

void bind_object_push(lua_State *L, bind_object *o)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, o->anchored ? &anchors_key : &known_key);
    lua_rawgetp(L, -1, o);
    lua_remove(L, -2);
}

/* -------------------------------------------------------- calls into Lua */

static int with_traceback(lua_State *L)
{
    if (lua_type(L, 1) == LUA_TSTRING)
        luaL_traceback(L, L, lua_tostring(L, 1), 1);
    return 1;
}

void bind_keep_error(lua_State *L, bind_state *state)
{
    if (state->jobs && state->jobs->failed(L, state->jobs->current())) {
        lua_pop(L, 1);
        return;
    }
    lua_rawgetp(L, LUA_REGISTRYINDEX, &link_key);
    lua_getiuservalue(L, -1, 1);
    lua_rotate(L, -3, 2);
    lua_rawseti(L, -2, state->nerrors + 1);
    state->nerrors++;
    lua_pop(L, 2);
    if (state->host)
        tine_host_stop(state->host);
}

void bind_raise_kept(lua_State *L, bind_state *state)
{
    int i;

    if (state->nerrors == 0)
        return;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &link_key);
    lua_getiuservalue(L, -1, 1);
    lua_rawgeti(L, -1, 1);
    for (i = 1; i <= state->nerrors; i++) {
        lua_rawgeti(L, -2, i + 1);
        lua_rawseti(L, -3, i);
    }
    state->nerrors--;
    lua_error(L);
}

int bind_enter_for(bind_object *o, lua_CFunction f, void *arg)
{
    const tine__jobs *jobs = o->state->jobs;
    if (!jobs)
        return enter(o->state, f, arg);
    uint64_t before = jobs->current();
    jobs->enter(o->job);
    int entered = enter(o->state, f, arg);
    jobs->enter(before);
    return entered;
}

static int keep_it(lua_State *L)
{
    bind_keep_error(L, get_link(L));
    return 0;
}

int bind_enter_call(bind_state *state, lua_CFunction f, void *arg)
{
    lua_State *L = state->L;
    int top = lua_gettop(L);

    if (!lua_checkstack(L, LUA_MINSTACK))
        return 0;
    state->calls++;
    state->entered++;
    lua_pushcfunction(L, state->jobs ? state->jobs->handler : with_traceback);
    lua_pushcfunction(L, f);
    lua_pushlightuserdata(L, arg);
    int status = lua_pcall(L, 1, 0, top + 1);
    state->entered--;
    if (status != LUA_OK) {
        if (state->nerrors < ERROR_ROOM) {
            bind_keep_error(L, state);
        } else {
            lua_pushcfunction(L, keep_it); /* it may lack memory, and then is lost */
            lua_insert(L, -2);
            (void)lua_pcall(L, 1, 0, 0);
        }
    }
    lua_settop(L, top);
    return 1;
}

int bind_ask(bind_state *state, int nargs)
{
    lua_State *L = state->L;
    int handler = lua_gettop(L) - nargs;

    lua_pushcfunction(L, state->jobs ? state->jobs->handler : with_traceback);
    lua_insert(L, handler);
    int status = lua_pcall(L, nargs, 1, handler);
    int yes = status == LUA_OK && lua_toboolean(L, -1);
    if (status != LUA_OK)
        bind_keep_error(L, state);
    lua_settop(L, handler - 1);
    return yes;
}

void bind_call(bind_state *state, int nargs)
{
    (void)bind_ask(state, nargs);
}

/* ------------------------------------------------------------------ errors */

void bind_push_failure(lua_State *L, const tine_error *err)
{
    luaL_checkstack(L, 4, NULL);
    bind_push_error(L, tine_kind_name(err->kind), err->message, err->message_len);
    if (err->traceback) {
        lua_pushlstring(L, err->traceback, err->traceback_len);
        lua_setfield(L, -2, "traceback");
    }
    if (err->status) {
        lua_pushstring(L, err->status);
        lua_setfield(L, -2, "status");
    }
    if (err->pid > 0) {
        lua_pushinteger(L, err->pid);
        lua_setfield(L, -2, "pid");
    }
    if (err->code >= 0) {
        lua_pushinteger(L, err->code);
        lua_setfield(L, -2, "code");
    }
    if (err->signal > 0) {
        lua_pushinteger(L, err->signal);
        lua_setfield(L, -2, "signal");
    }
    if (err->sys_errno > 0) {
        lua_pushinteger(L, err->sys_errno);
        lua_setfield(L, -2, "errno");
    }
    if (err->started) {
        lua_pushboolean(L, err->started > 0);
        lua_setfield(L, -2, "started");
    }
    if (err->broken) {
        lua_pushboolean(L, 1);
        lua_setfield(L, -2, "broken");
    }
    if (err->tries) {
        lua_pushinteger(L, err->tries);
        lua_setfield(L, -2, "tries");
    }
}

static const char *kind_of(int rc)
{
    switch (-rc) {
    case TINE_EEXCEPTION:
        return tine_kind_name(TINE_KIND_EXCEPTION);
    case TINE_EEXIT:
        return tine_kind_name(TINE_KIND_EXIT);
    case TINE_ECRASH:
        return tine_kind_name(TINE_KIND_CRASH);
    case TINE_ECLOSED:
    case TINE_ECONSUMED:
    case TINE_ESTALE:
        return tine_kind_name(TINE_KIND_CLOSED);
    case TINE_EPROTOCOL:
        return tine_kind_name(TINE_KIND_PROTOCOL);
    case TINE_EFAR:
        return tine_kind_name(TINE_KIND_SYSTEM);
    default:
        return NULL;
    }
}

int bind_fail(lua_State *L, const char *what, int rc)
{
    const char *kind = kind_of(rc);

    if (!kind)
        return bind_fail_errno(L, what, -rc);
    return bind_fail_text(L, kind, 0, "%s: %s", what, tine_strerror(rc));
}

int bind_raise(lua_State *L, int level, const char *format, ...)
{
    va_list args;

    luaL_where(L, level);
    va_start(args, format);
    lua_pushvfstring(L, format, args);
    va_end(args);
    lua_concat(L, 2);
    return lua_error(L);
}
