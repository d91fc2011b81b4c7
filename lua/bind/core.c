/* luaopen_tine_core: the module table that the Lua files of tine are written on. */
#include "state.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include <lauxlib.h>

#include "fd/fd.h"
#include "rpc.h"
#include "values/codec.h"
#include "values/lua_format.h"

#define CHILD_KEY "tine.child"

/*** How many processors this process may use, by its affinity and its control groups.
@function tine.cpus
@treturn integer at least 1 */
static int core_cpus(lua_State *L)
{
    /* The argument is for tests: a directory that holds proc and sys. */
    lua_pushinteger(L, bind_cpus(luaL_optstring(L, 1, "")));
    return 1;
}

/*** Forgets the default template and the early one. Needed in a process that was forked
by other means than tine's.
@function tine.reset
@treturn[1] boolean true
@treturn[2] nil
@treturn[2] err */
static int core_reset(lua_State *L)
{
    bind_state *state = bind_state_host(L);
    int rc;

    if (!state)
        return 2;
    rc = tine_host_reset(state->host);
    if (rc < 0)
        return bind_fail(L, "reset", rc);
    lua_pushboolean(L, 1);
    return 1;
}

/* interpreter([path]): the executable that would be used with this tine.interpreter. */
static int core_interpreter(lua_State *L)
{
    bind_state *state;
    const char *path = luaL_optstring(L, 1, NULL);
    int rc;

    state = bind_state_host(L);
    if (!state)
        return 2;
    rc = tine_host_set_interpreter(state->host, path);
    if (rc < 0)
        return bind_fail(L, "interpreter", rc);
    lua_pushstring(L, tine_host_interpreter(state->host));
    return 1;
}

/*** Makes a `tine.fd` that owns an open descriptor: it closes that when it is closed or
collected, but the standard ones, 0 to 2, only when it is closed.
@function tine.fd
@tparam integer fd
@treturn tine.fd */
static int core_adopt(lua_State *L)
{
    luaL_checkinteger(L, 1);
    bind_fd_push(L, bind_fd_check(L, 1, 1));
    return 1;
}

/* fileno(value): the open descriptor behind a value; raises. */
static int core_fileno(lua_State *L)
{
    lua_pushinteger(L, bind_fd_check(L, 1, 1));
    return 1;
}

/* error(kind, message): an err table. */
static int core_error(lua_State *L)
{
    size_t len;
    const char *kind = luaL_checkstring(L, 1);
    const char *message = luaL_checklstring(L, 2, &len);

    bind_push_error(L, kind, message, len);
    return 1;
}

/* child(): what the serving code offers, a table; nil in a host. */
static int core_child(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, CHILD_KEY);
    return 1;
}

static int core_pid(lua_State *L)
{
    lua_pushinteger(L, getpid());
    return 1;
}

/* chdir(path): true, or nil and an err. */
static int core_chdir(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);

    if (chdir(path) < 0)
        return bind_fail_errno(L, lua_pushfstring(L, "chdir %s", path), errno);
    lua_pushboolean(L, 1);
    return 1;
}

/* setenv(name, value or false): true, or nil and an err. */
static int core_setenv(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    int remove = !lua_toboolean(L, 2);
    const char *value = remove ? NULL : luaL_checkstring(L, 2);

    if ((remove ? unsetenv(name) : setenv(name, value, 1)) < 0)
        return bind_fail_errno(L, lua_pushfstring(L, "env %s", name), errno);
    lua_pushboolean(L, 1);
    return 1;
}

/* hook_fd(wait, closing): what a tine.fd calls to wait, and when it is closed. */
static int core_hook_fd(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    lua_setfield(L, LUA_REGISTRYINDEX, BIND_FD_CLOSING);
    lua_setfield(L, LUA_REGISTRYINDEX, BIND_FD_WAIT);
    return 0;
}

static void set_errnos(lua_State *L)
{
    static const struct {
        const char *name;
        int value;
    } errnos[] = {{"EAGAIN", EAGAIN},         {"EBADF", EBADF},
                  {"EBUSY", EBUSY},           {"ECONNREFUSED", ECONNREFUSED},
                  {"ECONNRESET", ECONNRESET}, {"EINVAL", EINVAL},
                  {"EMFILE", EMFILE},         {"ENOENT", ENOENT},
                  {"ENOMEM", ENOMEM},         {"EPIPE", EPIPE},
                  {"ESRCH", ESRCH},           {"ETIMEDOUT", ETIMEDOUT}};
    size_t i;

    lua_createtable(L, 0, sizeof errnos / sizeof *errnos);
    for (i = 0; i < sizeof errnos / sizeof *errnos; i++) {
        lua_pushinteger(L, errnos[i].value);
        lua_setfield(L, -2, errnos[i].name);
    }
    lua_setfield(L, -2, "errno");
}

TINE_API int luaopen_tine_core(lua_State *L);

TINE_API int luaopen_tine_core(lua_State *L)
{
    static const luaL_Reg functions[] = {{"cpus", core_cpus},
                                         {"reset", core_reset},
                                         {"interpreter", core_interpreter},
                                         {"adopt", core_adopt},
                                         {"fileno", core_fileno},
                                         {"error", core_error},
                                         {"child", core_child},
                                         {"hook_fd", core_hook_fd},
                                         {"pid", core_pid},
                                         {"chdir", core_chdir},
                                         {"setenv", core_setenv},
                                         {"terminal_width", bind_terminal_width},
                                         {"raise", bind_signal_raise},
                                         {"unread", bind_unread},
                                         {"open_input", bind_open_input},
                                         {NULL, NULL}};

    luaL_checkversion(L);
    bind_error_open(L);
    bind_state_open(L);
    luaL_newlib(L, functions);
    bind_fd_open(L);
    bind_loop_open(L);
    lua_setfield(L, -2, "loop");
    bind_process_open(L);
    lua_setfield(L, -2, "process");
    lua_newtable(L);
    bind_job_open(L);
    bind_rpc_open(L);
    lua_setfield(L, -2, "rpc");
    lua_createtable(L, 0, 2);
    tine__lua_open(L);
    lua_setfield(L, -2, "plain");
    tine__codec_open(L);
    set_errnos(L);
    lua_pushstring(L, tine_version());
    lua_setfield(L, -2, "_VERSION");
    return 1;
}
