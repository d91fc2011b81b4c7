/* tine.core.process: process handles. A handle's callbacks are its user values, so that
 * one that only they refer to can be collected. It is anchored in the registry while it
 * has business: commands queued, a function running, callbacks owed. A finalized handle
 * lives on, anchored, until its process has ended and on_exit has been delivered. */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <lauxlib.h>

#include "fd/fd.h"
#include "values/lua_format.h"

#define MAX_SMALL 8

static const char stale[] =
    "this handle belongs to the process that this one was forked from";
static const char *const consumers[] = {
    NULL, [BIND_BY_RUN] = "run", [BIND_BY_TO_FD] = "to_fd", [BIND_BY_RPC] = "rpc",
    [BIND_BY_POOL] = "pool"};

/* ---------------------------------------------------------------- lifetime */

static int wants_anchor(const bind_process *b)
{
    tine_proc *p = b->object.core;

    if (!p)
        return 0;
    /* Of a process that was passed on news come at any time; to drop the handle makes no
     * difference to it. */
    if (b->consumer == BIND_BY_TO_FD && !b->exited)
        return 1;
    return b->closing || b->exit_owed || b->ready_owed || tine_proc_busy(p) > 0;
}

void bind_process_settle(lua_State *L, int idx, bind_process *b)
{
    if (wants_anchor(b))
        bind_object_anchor(L, idx, &b->object);
    else
        bind_object_release(&b->object);
}

void bind_process_unwind(bind_process *b)
{
    if (!wants_anchor(b))
        bind_object_release(&b->object);
}

bind_process *bind_process_push(lua_State *L, bind_state *state)
{
    bind_process *b = lua_newuserdatauv(L, sizeof *b, BIND_NSLOTS);

    memset(b, 0, sizeof *b);
    bind_object_init(state, &b->object);
    luaL_setmetatable(L, BIND_PROCESS);
    bind_object_know(L, -1, &b->object);
    return b;
}

static void drop(lua_State *L, int idx, bind_process *b)
{
    tine_proc *p = b->object.core;

    if (!p || b->closing)
        return;
    b->pid = tine_proc_pid(p);
    /* A callback that came while the handle was found to be garbage, but not finalized
     * yet, could not be delivered. */
    if (b->exited && lua_getiuservalue(L, idx, BIND_ON_EXIT) == LUA_TTABLE)
        bind_process_repeat_exit(b);
    if (b->exited && !b->exit_owed) {
        bind_object_detach(&b->object);
        bind_object_release(&b->object);
    } else {
        b->closing = 1;
        bind_object_know(L, idx, &b->object);
        bind_object_anchor(L, idx, &b->object);
    }
    tine_proc_close(p);
}

/*** Drops the handle. A process that was not told to run exits; so does a template,
once its last worker has gone. Callbacks still come.
@function process:close */
static int process_close(lua_State *L)
{
    bind_process *b = luaL_checkudata(L, 1, BIND_PROCESS);

    bind_state_check(L);
    drop(L, 1, b);
    return 0;
}

static int process_tostring(lua_State *L)
{
    bind_process *b = luaL_checkudata(L, 1, BIND_PROCESS);
    tine_proc *p = b->object.core;
    int pid = p && !b->closing ? tine_proc_pid(p) : b->pid;

    if (pid > 0)
        lua_pushfstring(L, "tine.process (%d)", pid);
    else
        lua_pushfstring(L, "tine.process (%s)", p ? "being made" : "closed");
    return 1;
}

/* ------------------------------------------------------------------ checks */

bind_process *bind_process_check(lua_State *L, int level, const char *method)
{
    bind_process *b = luaL_testudata(L, 1, BIND_PROCESS);

    if (!b) {
        bind_raise(L, level, "%s: a process handle expected, got %s", method,
                   luaL_typename(L, 1));
        return NULL;
    }
    bind_state_check(L);
    if (b->object.stale)
        bind_raise(L, level, "%s: %s", method, stale);
    return b;
}

bind_process *bind_process_check_unused(lua_State *L, int level, const char *method)
{
    bind_process *b = bind_process_check(L, level, method);

    if (b->consumer)
        bind_raise(L, level, "%s: this process was consumed by %s", method,
                   consumers[b->consumer]);
    return b;
}

bind_process *bind_process_check_open(lua_State *L, int level, const char *method)
{
    bind_process *b = bind_process_check_unused(L, level, method);

    if (!b->object.core || b->closing)
        bind_raise(L, level, "%s: this process handle is closed", method);
    return b;
}

int bind_process_queued(lua_State *L, bind_process *b, int level, const char *method,
                        int rc)
{
    if (rc < 0 && rc != -TINE_ECLOSED)
        bind_raise(L, level, "%s: %s", method, tine_strerror(rc));
    bind_process_settle(L, 1, b);
    lua_settop(L, 1);
    return 1;
}

/* ---------------------------------------------------------------- commands */

/* The n strings from index first; in small if they fit, else in a pushed userdata. */
static const tine_str *strings(lua_State *L, int first, int n, tine_str *small)
{
    tine_str *list = small;
    int i;

    if (n > MAX_SMALL)
        list = lua_newuserdatauv(L, (size_t)n * sizeof *list, 0);
    for (i = 0; i < n; i++)
        list[i].data = lua_tolstring(L, first + i, &list[i].len);
    return list;
}

static int all_strings(lua_State *L, int first, int last)
{
    int i;

    for (i = first; i <= last; i++) {
        if (lua_type(L, i) != LUA_TSTRING)
            return 0;
    }
    return 1;
}

/*** Runs code in the process.
@function process:eval
@tparam string|function code source text (never bytecode), or a Lua function
@param ... plain data, or Lua functions: the code's `...`
@treturn process itself
@raise when something cannot be sent */
static int process_eval(lua_State *L)
{
    bind_process *b = bind_process_check_open(L, 1, "eval");
    int n = lua_gettop(L) - 2, rc, text;
    tine_str small[MAX_SMALL];
    const tine_str *args;
    const char *code;
    size_t len;

    text = lua_type(L, 2) == LUA_TSTRING;
    if (!text && lua_type(L, 2) != LUA_TFUNCTION)
        luaL_typeerror(L, 2, "source text or function");
    if (text && *lua_tostring(L, 2) == LUA_SIGNATURE[0])
        luaL_argerror(L, 2, "source text expected, got bytecode");
    if (text && all_strings(L, 3, 2 + n)) {
        code = lua_tolstring(L, 2, &len);
        args = strings(L, 3, n, small);
        rc = tine_proc_eval(b->object.core, TINE_TEXT, code, len, args, (size_t)n);
    } else {
        if (!tine__lua_encode(L, 2, n + 1, BIND_CODE))
            return bind_raise(L, 1, "eval: %s", lua_tostring(L, -1));
        code = lua_tolstring(L, -1, &len);
        rc = tine_proc_eval(b->object.core, TINE_PLAIN, code, len, NULL, 0);
    }
    return bind_process_queued(L, b, 1, "eval", rc);
}

/* Queues the strings from index 2 with one of the two functions for that. */
static int queue_strings(lua_State *L, const char *method,
                         int (*queue)(tine_proc *, const tine_str *, size_t))
{
    bind_process *b = bind_process_check_open(L, 1, method);
    int n = lua_gettop(L) - 1, i;
    tine_str small[MAX_SMALL];
    const tine_str *list;

    for (i = 2; i <= n + 1; i++) {
        if (lua_type(L, i) != LUA_TSTRING)
            luaL_typeerror(L, i, "string");
    }
    if (n == 0)
        return 1;
    list = strings(L, 2, n, small);
    return bind_process_queued(L, b, 1, method, queue(b->object.core, list, (size_t)n));
}

/*** Loads modules in the process.
@function process:require
@tparam string ... names
@treturn process itself */
static int process_require(lua_State *L)
{
    return queue_strings(L, "require", tine_proc_require);
}

/*** Sends strings for the entry function.
@function process:send_arg
@tparam string ... any bytes
@treturn process itself */
static int process_send_arg(lua_State *L)
{
    return queue_strings(L, "send_arg", tine_proc_send_arg);
}

/* Replaces each of the n descriptors by a duplicate. Returns 0, or errno and none. */
static int duplicate_all(int *fds, int n)
{
    int i, fd, err;

    for (i = 0; i < n; i++) {
        fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
        if (fd < 0) {
            err = errno;
            while (i > 0)
                close(fds[--i]);
            return err;
        }
        fds[i] = fd;
    }
    return 0;
}

/*** Sends descriptors for the entry function. They are duplicated at once.
@function process:send_fd
@param ... integers, Lua files, `tine.fd`s, or objects with a method `fileno` or `getfd`
When this process can have no more, the other fails: `on_error` tells.
@treturn process itself */
static int process_send_fd(lua_State *L)
{
    bind_process *b = bind_process_check_open(L, 1, "send_fd");
    int n = lua_gettop(L) - 1, i, err, chunk, rc = 0;
    int *fds;

    if (n == 0)
        return 1;
    fds = lua_newuserdatauv(L, (size_t)n * sizeof *fds, 0);
    for (i = 0; i < n; i++)
        fds[i] = bind_fd_check(L, i + 2, i + 2);
    err = duplicate_all(fds, n);
    if (err == EBADF)
        return bind_raise(L, 1,
                          "send_fd: a descriptor was closed by the fileno of another");
    if (err) /* the handle's own error, as all that goes wrong later */
        return bind_process_queued(
            L, b, 1, "send_fd",
            tine_proc_fail(b->object.core, "hand over a descriptor", -err));
    for (i = 0; i < n && rc == 0; i += chunk) {
        chunk = n - i < TINE_MAX_FDS ? n - i : TINE_MAX_FDS;
        rc = tine_proc_send_fd(b->object.core, fds + i, (size_t)chunk);
        if (rc < 0)
            break;
    }
    while (i < n)
        close(fds[i++]);
    return bind_process_queued(L, b, 1, "send_fd", rc);
}

/* -------------------------------------------------------------------- state */

/*** The process id.
@function process:pid
@treturn ?integer nil while it is not known */
static int process_pid(lua_State *L)
{
    bind_process *b = luaL_checkudata(L, 1, BIND_PROCESS);
    int pid = b->pid;

    bind_state_check(L);
    if (b->object.core && !b->closing)
        pid = tine_proc_pid(b->object.core);
    if (pid > 0)
        lua_pushinteger(L, pid);
    else
        lua_pushnil(L);
    return 1;
}

/*** Sends a signal to exactly this process.
@function process:kill
@tparam[opt="TERM"] string|integer sig `"TERM"`, `"SIGTERM"` or a number
@treturn[1] boolean true
@treturn[2] nil
@treturn[2] err `errno` is that of ESRCH when it has ended */
static int process_kill(lua_State *L)
{
    bind_process *b = luaL_checkudata(L, 1, BIND_PROCESS);
    int signo, rc = -TINE_ECLOSED;

    if (lua_isnoneornil(L, 2)) {
        lua_settop(L, 1);
        lua_pushliteral(L, "TERM");
    }
    signo = bind_signal_check(L, 2);
    bind_state_check(L);
    if (b->object.stale)
        rc = -TINE_ESTALE;
    else if (b->object.core && !b->closing)
        rc = tine_proc_kill(b->object.core, signo);
    if (rc < 0)
        return bind_fail(L, "kill", rc);
    lua_pushboolean(L, 1);
    return 1;
}

static int process_gc(lua_State *L)
{
    drop(L, 1, luaL_checkudata(L, 1, BIND_PROCESS));
    return 0;
}

void bind_process_open(lua_State *L)
{
    static const luaL_Reg metamethods[] = {{"__gc", process_gc},
                                           {"__close", process_close},
                                           {"__tostring", process_tostring},
                                           {NULL, NULL}};
    static const luaL_Reg methods[] = {
        {"eval", process_eval},       {"require", process_require},
        {"send_fd", process_send_fd}, {"send_arg", process_send_arg},
        {"pid", process_pid},         {"kill", process_kill},
        {"close", process_close},     {NULL, NULL}};

    lua_createtable(L, 0, 16);
    luaL_newmetatable(L, BIND_PROCESS);
    luaL_setfuncs(L, metamethods, 0);
    luaL_newlib(L, methods);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "__index");
    lua_setfield(L, -3, "methods");
    lua_pop(L, 1);
    bind_process_open_births(L);
    bind_process_open_events(L);
}
