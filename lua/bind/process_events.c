/* The part of tine.core.process that takes callbacks, and calls them. Its functions are
 * called by methods written in Lua: errors blame the caller of those. */
#include "process.h"

#include <fcntl.h>
#include <unistd.h>

#include <lauxlib.h>

#include "fd/fd.h"
#include "values/lua_format.h"

/* What the core has to tell. */
typedef struct news {
    bind_process *process;
    int slot;
    const tine_error *err;
    const tine_exit *info;
    int fd;
    const char *line;
    size_t len;
} news;

/* ------------------------------------------------------------ core to Lua */

static void push_usage(lua_State *L, const struct rusage *u)
{
    const struct {
        const char *name;
        long value;
    } counts[] = {{"minflt", u->ru_minflt},   {"majflt", u->ru_majflt},
                  {"nvcsw", u->ru_nvcsw},     {"nivcsw", u->ru_nivcsw},
                  {"inblock", u->ru_inblock}, {"oublock", u->ru_oublock}};
    size_t i;

    lua_createtable(L, 0, 9);
    lua_pushnumber(L, (lua_Number)u->ru_utime.tv_sec +
                          (lua_Number)u->ru_utime.tv_usec / 1e6);
    lua_setfield(L, -2, "utime");
    lua_pushnumber(L, (lua_Number)u->ru_stime.tv_sec +
                          (lua_Number)u->ru_stime.tv_usec / 1e6);
    lua_setfield(L, -2, "stime");
    lua_pushinteger(L, (lua_Integer)u->ru_maxrss * 1024);
    lua_setfield(L, -2, "maxrss");
    for (i = 0; i < sizeof counts / sizeof *counts; i++) {
        lua_pushinteger(L, counts[i].value);
        lua_setfield(L, -2, counts[i].name);
    }
}

static void push_exit(lua_State *L, const tine_exit *info)
{
    lua_createtable(L, 0, 3);
    if (info->pid > 0) {
        lua_pushinteger(L, info->pid);
        lua_setfield(L, -2, "pid");
    }
    if (info->code >= 0) {
        lua_pushinteger(L, info->code);
        lua_setfield(L, -2, "code");
    }
    if (info->signal > 0) {
        lua_pushinteger(L, info->signal);
        lua_setfield(L, -2, "signal");
    }
    push_usage(L, &info->rusage);
    lua_setfield(L, -2, "rusage");
}

/* Pushes what callbacks are called with; returns how many values. */
static int push_arguments(lua_State *L, const news *n)
{
    if (n->slot == BIND_ON_ERROR) {
        bind_push_failure(L, n->err);
        return 1;
    }
    if (n->slot == BIND_ON_EXIT) {
        if (n->err)
            bind_push_failure(L, n->err);
        else
            lua_pushnil(L);
        push_exit(L, n->info);
        return 2;
    }
    if (n->err) {
        lua_pushnil(L);
        bind_push_failure(L, n->err);
    } else {
        lua_pushinteger(L, tine_proc_pid(n->process->object.core));
        lua_pushnil(L);
    }
    return 2;
}

/* Calls all functions of a list. Those for exit and ready are called once. */
static int deliver_to_list(lua_State *L)
{
    const news *n = lua_touserdata(L, 1);
    bind_process *b = n->process;
    int nargs, i, k, count;

    bind_object_push(L, &b->object);
    if (lua_isnil(L, 2) || lua_getiuservalue(L, 2, n->slot) != LUA_TTABLE)
        return 0;
    if (n->slot != BIND_ON_ERROR) {
        lua_pushnil(L);
        lua_setiuservalue(L, 2, n->slot);
    }
    count = (int)lua_rawlen(L, 3);
    nargs = push_arguments(L, n);
    for (i = 1; i <= count; i++) {
        lua_rawgeti(L, 3, i);
        for (k = 0; k < nargs; k++)
            lua_pushvalue(L, 4 + k);
        bind_call(b->object.state, nargs);
    }
    return 0;
}

static int deliver_fd(lua_State *L)
{
    news *n = lua_touserdata(L, 1);
    int fd = n->fd;

    bind_object_push(L, &n->process->object);
    if (lua_isnil(L, 2) || lua_getiuservalue(L, 2, BIND_ON_FD) == LUA_TNIL)
        return 0;
    if (fd >= 0) {
        n->fd = -1;
        fcntl(fd, F_SETFL, O_RDWR); /* see sock.c */
        bind_fd_push(L, fd);
        lua_pushnil(L);
    } else {
        lua_pushnil(L);
        bind_push_failure(L, n->err);
    }
    lua_pushnil(L);
    lua_setiuservalue(L, 2, BIND_ON_FD);
    bind_call(n->process->object.state, 2);
    return 0;
}

static int deliver_line(lua_State *L)
{
    const news *n = lua_touserdata(L, 1);

    bind_object_push(L, &n->process->object);
    if (lua_isnil(L, 2))
        return 0;
    lua_getiuservalue(L, 2, n->slot);
    lua_pushlstring(L, n->line, n->len);
    lua_pushvalue(L, 2);
    bind_call(n->process->object.state, 2);
    return 0;
}

static void on_exit_cb(void *arg, tine_proc *p, const tine_error *err,
                       const tine_exit *info)
{
    bind_process *b = arg;
    news n = {.process = b, .slot = BIND_ON_EXIT, .err = err, .info = info};

    (void)p;
    b->exited = 1;
    b->exit_owed = b->ready_owed = 0;
    if (b->closing) {
        b->pid = info->pid;
        b->closing = 0;
        bind_object_detach(&b->object);
    }
    bind_enter_for(&b->object, deliver_to_list, &n);
    bind_process_unwind(b);
}

static void on_error_cb(void *arg, tine_proc *p, const tine_error *err)
{
    bind_process *b = arg;
    news n = {.process = b, .slot = BIND_ON_ERROR, .err = err};

    (void)p;
    bind_enter_for(&b->object, deliver_to_list, &n);
    bind_process_unwind(b);
}

static void on_ready_cb(void *arg, tine_proc *p, const tine_error *err)
{
    bind_process *b = arg;
    news n = {.process = b, .slot = BIND_ON_READY, .err = err};

    (void)p;
    b->ready_owed = 0;
    bind_enter_for(&b->object, deliver_to_list, &n);
    bind_process_unwind(b);
}

static void on_fd_cb(void *arg, tine_proc *p, int fd, const tine_error *err)
{
    bind_process *b = arg;
    news n = {.process = b, .slot = BIND_ON_FD, .err = err, .fd = fd};

    (void)p;
    bind_enter_for(&b->object, deliver_fd, &n);
    if (n.fd >= 0)
        close(n.fd);
    bind_process_unwind(b);
}

static void on_idle_cb(void *arg, tine_proc *p)
{
    (void)p;
    bind_process_unwind(arg);
}

static void on_line(bind_process *b, int slot, const char *line, size_t len)
{
    news n = {.process = b, .slot = slot, .line = line, .len = len};

    bind_enter_for(&b->object, deliver_line, &n);
    bind_process_unwind(b);
}

int bind_process_repeat_exit(bind_process *b)
{
    int rc = 0;

    if (!b->exit_owed) {
        rc = tine_proc_on_exit(b->object.core, on_exit_cb, b);
        b->exit_owed = rc >= 0;
    }
    return rc;
}

void bind_process_on_stdout(void *arg, tine_proc *p, const char *line, size_t len)
{
    (void)p;
    on_line(arg, BIND_ON_STDOUT, line, len);
}

void bind_process_on_stderr(void *arg, tine_proc *p, const char *line, size_t len)
{
    (void)p;
    on_line(arg, BIND_ON_STDERR, line, len);
}

void bind_process_born(lua_State *L, bind_process *b, tine_proc *p)
{
    bind_object_attach(&b->object, p);
    tine_proc_on_exit(p, on_exit_cb, b);
    tine_proc_on_idle(p, on_idle_cb, b);
    bind_process_settle(L, -1, b);
}

/* ------------------------------------------------------------ Lua to core */

/* The handle at index 1, to be given a callback: perhaps consumed, but not closed. */
static bind_process *check_listener(lua_State *L, const char *method)
{
    bind_process *b = bind_process_check(L, 2, method);

    if (!b->object.core)
        bind_raise(L, 2, "%s: this process handle is closed", method);
    return b;
}

/* Adds the function at index 2 to a list. */
static void add_callback(lua_State *L, int slot)
{
    if (lua_getiuservalue(L, 1, slot) != LUA_TTABLE) {
        lua_pop(L, 1);
        lua_createtable(L, 1, 0);
        lua_pushvalue(L, -1);
        lua_setiuservalue(L, 1, slot);
    }
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    lua_pop(L, 1);
}

/* on_exit(p, cb) */
static int process_on_exit(lua_State *L)
{
    bind_process *b = check_listener(L, "on_exit");
    int rc = 0;

    add_callback(L, BIND_ON_EXIT);
    if (b->exited)
        rc = bind_process_repeat_exit(b);
    return bind_process_queued(L, b, 2, "on_exit", rc);
}

/* on_error(p, cb) */
static int process_on_error(lua_State *L)
{
    bind_process *b = check_listener(L, "on_error");
    int rc = 0;

    if (lua_getiuservalue(L, 1, BIND_ON_ERROR) == LUA_TNIL && !b->closing)
        rc = tine_proc_on_error(b->object.core, on_error_cb, b);
    lua_pop(L, 1);
    add_callback(L, BIND_ON_ERROR);
    return bind_process_queued(L, b, 2, "on_error", rc);
}

/* on_ready(p, cb) */
static int process_on_ready(lua_State *L)
{
    bind_process *b = check_listener(L, "await_ready");
    int rc;

    if (b->closing)
        return bind_raise(L, 2, "await_ready: this process handle is closed");
    add_callback(L, BIND_ON_READY);
    rc = tine_proc_on_ready(b->object.core, on_ready_cb, b);
    b->ready_owed = rc >= 0;
    return bind_process_queued(L, b, 2, "await_ready", rc);
}

/* Ends a command that gives a descriptor, with the core's answer. Returns true, or
 * false where the process had already ended: then the callback is not called. */
static int consumed(lua_State *L, bind_process *b, int consumer, const char *method,
                    int rc)
{
    if (rc < 0) {
        lua_pushnil(L);
        lua_setiuservalue(L, 1, BIND_ON_FD);
    }
    if (rc >= 0 || rc == -TINE_ECLOSED)
        b->consumer = consumer;
    bind_process_queued(L, b, 2, method, rc);
    lua_pushboolean(L, rc >= 0);
    return 1;
}

/* run(p, func, cb) */
static int process_run(lua_State *L)
{
    bind_process *b = bind_process_check_open(L, 2, "run");
    tine_code kind = TINE_TEXT;
    const char *func;
    size_t len;
    int rc;

    if (lua_type(L, 2) == LUA_TFUNCTION) {
        kind = TINE_PLAIN;
        if (!tine__lua_encode(L, 2, 1, BIND_CODE))
            return bind_raise(L, 2, "run: %s", lua_tostring(L, -1));
    } else if (lua_type(L, 2) == LUA_TSTRING) {
        lua_pushvalue(L, 2);
    } else {
        return bind_raise(L, 2, "run: a name or a function expected, got %s",
                          luaL_typename(L, 2));
    }
    func = lua_tolstring(L, -1, &len);
    lua_pushvalue(L, 3);
    lua_setiuservalue(L, 1, BIND_ON_FD);
    rc = tine_proc_run(b->object.core, kind, func, len, on_fd_cb, b);
    return consumed(L, b, BIND_BY_RUN, "run", rc);
}

/* to_fd(p, cb) */
static int process_to_fd(lua_State *L)
{
    bind_process *b = bind_process_check_open(L, 2, "to_fd");
    int rc;

    lua_pushvalue(L, 2);
    lua_setiuservalue(L, 1, BIND_ON_FD);
    rc = tine_proc_to_fd(b->object.core, on_fd_cb, b);
    return consumed(L, b, BIND_BY_TO_FD, "to_fd", rc);
}

void bind_process_open_events(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"on_exit", process_on_exit},    {"on_error", process_on_error},
        {"on_ready", process_on_ready},  {"run", process_run},
        {"to_fd", process_to_fd},        {"memory", bind_process_memory},
        {"loaded", bind_process_loaded}, {NULL, NULL}};

    luaL_setfuncs(L, functions, 0);
}
