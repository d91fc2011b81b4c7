/* tine.core.loop: turns of the host's loop; timers, descriptors and signals, as
 * userdata that are anchored in the registry from the start until they are closed or
 * have fired. */
#include "state.h"

#include <math.h>

#include <lauxlib.h>

#include "base/clock.h"
#include "fd/fd.h"

/* User values of a watcher. */
enum { CALLBACK = 1, DESCRIPTOR };

/* A longer time is no different from this one, which fits 64 bits in microseconds. */
#define MAX_SECONDS 1e12

typedef enum watcher_kind { TIMER, IO, SIGNAL } watcher_kind;

static const char *const type_names[] = {"tine.timer", "tine.io", "tine.signal"};

typedef struct watcher {
    bind_object object;
    watcher_kind kind;
    int once;
} watcher;

/* What a watcher's callback is told. */
typedef struct event {
    watcher *watcher;
    int value; /* the events, or the signal's number */
} event;

static int64_t check_usec(lua_State *L, int idx)
{
    double seconds = luaL_checknumber(L, idx);

    luaL_argcheck(L, seconds >= 0, idx, "a time of 0 or more seconds expected");
    if (seconds > MAX_SECONDS)
        seconds = MAX_SECONDS;
    return (int64_t)ceil(seconds * 1e6);
}

/* ---------------------------------------------------------------- watchers */

/* Pushes a new watcher of which callback is the value at idx. */
static watcher *push_watcher(lua_State *L, bind_state *state, watcher_kind kind,
                             int idx)
{
    watcher *w = lua_newuserdatauv(L, sizeof *w, 2);

    bind_object_init(state, &w->object);
    w->kind = kind;
    w->once = 0;
    luaL_setmetatable(L, type_names[kind]);
    lua_pushvalue(L, idx);
    lua_setiuservalue(L, -2, CALLBACK);
    return w;
}

static int start_failed(lua_State *L, watcher *w, const char *what, int rc)
{
    bind_object_release(&w->object);
    return bind_fail(L, what, rc);
}

static void started(watcher *w, void *core)
{
    bind_object_attach(&w->object, core);
    if (w->kind != SIGNAL)
        w->object.state->watchers++;
}

static void stop(watcher *w)
{
    void *core = w->object.core;

    if (core) {
        bind_object_detach(&w->object);
        if (w->kind != SIGNAL)
            w->object.state->watchers--;
        if (w->kind == TIMER)
            tine_timer_free(core);
        else if (w->kind == IO)
            tine_io_free(core);
        else
            tine_signal_free(core);
    }
    bind_object_release(&w->object);
}

static const char *mode_name(int events)
{
    static const char *const names[] = {"", "r", "w", "rw"};

    return names[events & (TINE_READ | TINE_WRITE)];
}

static int deliver(lua_State *L)
{
    event *e = lua_touserdata(L, 1);
    watcher *w = e->watcher;

    bind_object_push(L, &w->object);
    if (w->once)
        stop(w);
    lua_getiuservalue(L, -1, CALLBACK);
    lua_insert(L, -2);
    if (w->kind == TIMER) {
        bind_call(w->object.state, 1);
        return 0;
    }
    if (w->kind == IO)
        lua_pushstring(L, mode_name(e->value));
    else
        lua_pushinteger(L, e->value);
    lua_insert(L, -2);
    bind_call(w->object.state, 2);
    return 0;
}

static void on_timer(void *arg, tine_timer *timer)
{
    watcher *w = arg;
    event e = {w, 0};

    (void)timer;
    bind_enter_for(&w->object, deliver, &e);
}

static void on_io(void *arg, tine_io *io, int events)
{
    watcher *w = arg;
    event e = {w, events};

    (void)io;
    bind_enter_for(&w->object, deliver, &e);
}

static void on_signal(void *arg, tine_signal *sig, int signo)
{
    watcher *w = arg;
    event e = {w, signo};

    (void)sig;
    bind_enter_for(&w->object, deliver, &e);
}

/*** Calls a function later.
@function loop.timer
@tparam number after seconds
@tparam[opt] number every seconds between further calls; default: one call only
@tparam function cb `cb(timer)`
@treturn[1] timer an object with a method `close()`, which may be called at any time
@treturn[2] nil
@treturn[2] err */
static int loop_timer(lua_State *L)
{
    bind_state *state;
    int64_t after = check_usec(L, 1), every = -1;
    tine_timer *timer;
    watcher *w;
    int rc;

    if (lua_gettop(L) >= 3) {
        every = lua_isnil(L, 2) ? -1 : check_usec(L, 2);
        lua_remove(L, 2);
    }
    luaL_checktype(L, 2, LUA_TFUNCTION);
    state = bind_state_host(L);
    if (!state)
        return 2;
    w = push_watcher(L, state, TIMER, 2);
    w->once = every < 0;
    bind_object_anchor(L, -1, &w->object);
    rc = tine_timer_new(state->host, &timer, after, every, on_timer, w);
    if (rc < 0)
        return start_failed(L, w, "timer", rc);
    started(w, timer);
    return 1;
}

/* io(fd, object, mode, cb): as loop.io, with the descriptor of the object. */
static int loop_io(lua_State *L)
{
    int fd = (int)luaL_checkinteger(L, 1);
    const char *mode = luaL_checkstring(L, 3);
    int events = 0, rc;
    bind_state *state = bind_state_host(L);
    tine_io *io;
    watcher *w;

    for (; *mode; mode++)
        events |= *mode == 'r' ? TINE_READ : TINE_WRITE;
    if (!state)
        return 2;
    w = push_watcher(L, state, IO, 4);
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, -2, DESCRIPTOR);
    bind_object_anchor(L, -1, &w->object);
    rc = tine_io_new(state->host, &io, fd, events, on_io, w);
    if (rc < 0)
        return start_failed(L, w, "io", rc);
    started(w, io);
    return 1;
}

/*** Calls a function each time a signal has come.
@function loop.signal
@tparam string|integer name `"INT"`, `"SIGINT"` or a number
@tparam function cb `cb(number, signal)`, called in the loop
@treturn[1] signal an object with a method `close()`, which restores what was before
@treturn[2] nil
@treturn[2] err for KILL, STOP and CHLD, among others */
static int loop_signal(lua_State *L)
{
    int signo = bind_signal_check(L, 1), rc;
    bind_state *state;
    tine_signal *sig;
    watcher *w;

    luaL_checktype(L, 2, LUA_TFUNCTION);
    state = bind_state_host(L);
    if (!state)
        return 2;
    w = push_watcher(L, state, SIGNAL, 2);
    bind_object_anchor(L, -1, &w->object);
    rc = tine_signal_new(state->host, &sig, signo, on_signal, w);
    if (rc < 0)
        return start_failed(L, w, "signal", rc);
    started(w, sig);
    return 1;
}

static int watcher_close(lua_State *L)
{
    int i;

    for (i = TIMER; i <= SIGNAL; i++) {
        watcher *w = luaL_testudata(L, 1, type_names[i]);

        if (w) {
            stop(w);
            return 0;
        }
    }
    return luaL_typeerror(L, 1, "timer, io or signal");
}

/* -------------------------------------------------------------------- loop */

/* now(): seconds on the monotonic clock. */
static int loop_now(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)tine__now_usec() / 1e6);
    return 1;
}

/* The host that is being polled, or NULL. */
static tine_host *volatile polled;

static void interrupt(void)
{
    tine_host *host = polled;

    if (host)
        tine_host_stop(host);
}

/* Turns of the loop: one, or with `on` as many as come without a pause, for at most max. */
static int take_turns(bind_state *state, int64_t max, int on)
{
    int64_t until = tine__now_usec() + max;
    lua_Unsigned calls;
    int rc;

    do {
        calls = state->calls;
        polled = state->host;
        rc = bind_fd_interrupted ? 1 : tine_host_poll(state->host, max);
        polled = NULL;
    } while (on && rc > 0 && state->calls != calls && !state->nerrors &&
             !state->stopping && tine__now_usec() < until);
    return rc;
}

/* poll(seconds [, on]): handles what is ready, waiting at most so long for it; with `on`
 * goes on as long as something is. Returns whether something is left to wait for, whether
 * callbacks were called, and whether all the time went by. Raises the first error of a
 * callback. */
static int loop_poll(lua_State *L)
{
    int64_t max = check_usec(L, 1), before;
    int on = lua_toboolean(L, 2);
    bind_state *state = bind_state_host(L);
    lua_Unsigned calls;
    int depth, rc;

    if (!state)
        return 2;
    bind_raise_kept(L, state);
    calls = state->calls;
    before = tine__now_usec();
    depth = state->depth++;
    state->stopping = 0;
    rc = take_turns(state, max, on);
    state->depth = depth; /* a fork in a callback has set it to 0 in the new process */
    bind_raise_kept(L, state);
    if (rc < 0)
        return bind_fail(L, "loop", rc);
    lua_pushboolean(L, rc > 0);
    lua_pushboolean(L, state->calls != calls);
    lua_pushboolean(L, tine__now_usec() - before >= max);
    return 3;
}

/* Whether something is left to wait for, or an error to be raised. */
static int loop_active(lua_State *L)
{
    bind_state *state = bind_state_check(L);

    lua_pushboolean(L, state->nerrors > 0 ||
                           (state->host && tine_host_active(state->host) > 0));
    return 1;
}

/* Whether a timer or a descriptor may end the wait. */
static int loop_watching(lua_State *L)
{
    lua_pushboolean(L, bind_state_check(L)->watchers > 0);
    return 1;
}

/* Whether this is called from a callback. */
static int loop_running(lua_State *L)
{
    lua_pushboolean(L, bind_state_check(L)->depth > 0);
    return 1;
}

static int loop_stop(lua_State *L)
{
    bind_state *state = bind_state_check(L);

    state->stopping = 1;
    if (state->host && state->depth > 0)
        tine_host_stop(state->host);
    return 0;
}

/* fail(error): the poll under way, or else the next, raises it. */
static int loop_fail(lua_State *L)
{
    bind_state *state = bind_state_check(L);
    const tine__jobs *jobs = state->jobs;
    lua_State *co = lua_tothread(L, 2);
    uint64_t before = jobs ? jobs->current() : 0;
    if (jobs && co)
        jobs->enter(jobs->of(L, co));
    lua_settop(L, 1);
    bind_keep_error(L, state);
    if (jobs)
        jobs->enter(before);
    return 0;
}

void bind_loop_open(lua_State *L)
{
    if (lua_getfield(L, LUA_REGISTRYINDEX, TINE__INTERRUPTS) == LUA_TLIGHTUSERDATA)
        ((tine__interrupts *)lua_touserdata(L, -1))->loop = interrupt;
    lua_pop(L, 1);
    static const luaL_Reg functions[] = {{"timer", loop_timer},
                                         {"io", loop_io},
                                         {"signal", loop_signal},
                                         {"now", loop_now},
                                         {"poll", loop_poll},
                                         {"stop", loop_stop},
                                         {"active", loop_active},
                                         {"watching", loop_watching},
                                         {"running", loop_running},
                                         {"fail", loop_fail},
                                         {NULL, NULL}};
    int i;

    for (i = TIMER; i <= SIGNAL; i++) {
        luaL_newmetatable(L, type_names[i]);
        lua_createtable(L, 0, 1);
        lua_pushcfunction(L, watcher_close);
        lua_setfield(L, -2, "close");
        lua_setfield(L, -2, "__index");
        lua_pushcfunction(L, watcher_close);
        lua_setfield(L, -2, "__gc");
        lua_pushcfunction(L, watcher_close);
        lua_setfield(L, -2, "__close");
        lua_pop(L, 1);
    }
    luaL_newlib(L, functions);
}
