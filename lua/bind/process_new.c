/* The part of tine.core.process that makes handles, and makes a fork of this process
 * serve. Errors blame the caller of the Lua function that calls these. */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <lauxlib.h>

#include "fd/fd.h"

/* ----------------------------------------------------------------- options */

/* nil, "inherit", "null", a descriptor, or a function, which becomes a user value of
 * the handle on top. */
static void get_stdio(lua_State *L, int idx, int which, tine_stdio *io)
{
    switch (lua_type(L, idx)) {
    case LUA_TSTRING:
        io->how = *lua_tostring(L, idx) == 'i' ? TINE_STDIO_INHERIT : TINE_STDIO_NULL;
        break;
    case LUA_TNUMBER:
        io->how = TINE_STDIO_FD;
        io->fd = (int)lua_tointeger(L, idx);
        break;
    case LUA_TFUNCTION:
        io->how = TINE_STDIO_LINES;
        io->on_line = which == 1 ? bind_process_on_stdout : bind_process_on_stderr;
        lua_pushvalue(L, idx);
        lua_setiuservalue(L, -2, which == 1 ? BIND_ON_STDOUT : BIND_ON_STDERR);
        break;
    default:
        io->how = TINE_STDIO_DEFAULT;
    }
}

/* The arguments from index first: name, stdin, stdout, stderr, detach, as opts.lua has
 * checked them. The handle is on top. */
static void get_options(lua_State *L, int first, bind_process *b, tine_proc_options *o)
{
    int i;

    memset(o, 0, sizeof *o);
    o->arg = b;
    o->name = lua_tostring(L, first);
    for (i = 0; i < 3; i++)
        get_stdio(L, first + 1 + i, i, &o->stdio[i]);
    o->detach = lua_toboolean(L, first + 4);
}

/* ------------------------------------------------------------------ births */

/* Ends a function that made a process, or failed to; the handle is on top. */
static int birth(lua_State *L, bind_process *b, tine_proc *p, const char *what, int rc)
{
    if (rc < 0)
        return bind_fail(L, what, rc);
    bind_process_born(L, b, p);
    return 1;
}

/* new(exec, interpreter, path, cpath, name, stdin, stdout, stderr, detach) */
static int process_new(lua_State *L)
{
    bind_state *state = bind_state_host(L);
    tine_proc_options o;
    bind_process *b;
    tine_proc *p;
    int rc;

    if (!state)
        return 2;
    lua_settop(L, 9);
    rc = tine_host_set_interpreter(state->host, lua_tostring(L, 2));
    if (rc >= 0)
        rc =
            tine_host_set_lua_path(state->host, lua_tostring(L, 3), lua_tostring(L, 4));
    if (rc < 0)
        return bind_fail(L, "new", rc);
    b = bind_process_push(L, state);
    get_options(L, 5, b, &o);
    if (lua_toboolean(L, 1))
        rc = tine_proc_new_exec(state->host, &o, &p);
    else
        rc = tine_proc_new(state->host, &o, &p);
    return birth(L, b, p, "new", rc);
}

/* fork(p, name, stdin, stdout, stderr, detach) */
static int process_fork(lua_State *L)
{
    bind_process *parent = bind_process_check_open(L, 2, "fork"), *b;
    tine_proc_options o;
    tine_proc *p;
    int rc;

    lua_settop(L, 6);
    b = bind_process_push(L, parent->object.state);
    get_options(L, 2, b, &o);
    rc = tine_proc_fork(parent->object.core, &o, &p);
    if (rc >= 0)
        bind_process_settle(L, 1, parent);
    return birth(L, b, p, "fork", rc);
}

/*** Makes a handle from a descriptor that `to_fd` gave, perhaps in another process.
Takes it over: a `tine.fd` is detached, an integer is adopted.
@function tine.from_fd
@tparam integer|tine.fd fd
@treturn[1] process
@treturn[2] nil
@treturn[2] err */
static int process_from_fd(lua_State *L)
{
    int fd = bind_fd_check(L, 1, 1), detached = !lua_isinteger(L, 1), rc;
    bind_state *state = bind_state_host(L);
    bind_process *b;
    tine_proc *p;

    luaL_argcheck(L, !detached || luaL_testudata(L, 1, "tine.fd"), 1,
                  "an integer or a tine.fd expected");
    if (!state)
        return 2;
    b = bind_process_push(L, state);
    if (detached) {
        lua_getfield(L, 1, "detach");
        lua_pushvalue(L, 1);
        lua_call(L, 1, 1);
        fd = (int)luaL_checkinteger(L, -1);
        lua_pop(L, 1);
    }
    rc = tine_proc_from_fd(state->host, fd, &p);
    if (rc < 0 && detached)
        close(fd);
    return birth(L, b, p, "from_fd", rc);
}

/* ---------------------------------------------------- forks of this process */

static lua_State *main_state(lua_State *L)
{
    lua_State *main;

    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    main = lua_tothread(L, -1);
    lua_pop(L, 1);
    return main;
}

/* The integers of the list at idx, in a userdata that is pushed. */
static int *push_integers(lua_State *L, int idx, size_t *n)
{
    size_t i;
    int *list;

    *n = lua_rawlen(L, idx);
    list = lua_newuserdatauv(L, (*n + 1) * sizeof *list, 0);
    for (i = 0; i < *n; i++) {
        lua_rawgeti(L, idx, (lua_Integer)i + 1);
        list[i] = (int)lua_tointeger(L, -1);
        lua_pop(L, 1);
    }
    return list;
}

/* repair(kept descriptors, kept objects): makes the state fit for the new process. */
static int repair(lua_State *L)
{
    size_t nkeep;
    int *keep = push_integers(L, 1, &nkeep);

    bind_state_forked(L);
    bind_fd_forked(keep, nkeep);
    bind_files_forked(L, keep, nkeep, 2);
    return 0;
}

/* In the new process: never returns to the program. The kept descriptors and objects
 * are lists at index 1 and 2. */
static void __attribute__((noreturn)) serve_fork(lua_State *L, int fd)
{
    static const char failed[] = "tine: no memory in a fork\n";
    lua_State *main = main_state(L);
    int i;

    if (lua_checkstack(main, LUA_MINSTACK) && lua_checkstack(L, 2)) {
        lua_pushcfunction(main, repair);
        for (i = 1; i <= 2; i++) {
            lua_pushvalue(L, i);
            if (L != main)
                lua_xmove(L, main, 1);
        }
        if (lua_pcall(main, 2, 0, 0) == LUA_OK)
            tine_serve(main, fd);
    }
    (void)!write(STDERR_FILENO, failed, sizeof failed - 1);
    _exit(1);
}

/* here(kept descriptors, kept objects, name, stdin, stdout, stderr, detach) */
static int process_here(lua_State *L)
{
    bind_state *state = bind_state_host(L);
    tine_proc_options o;
    bind_process *b;
    tine_proc *p;
    int fd, rc, *keep;
    size_t nkeep;

    if (!state)
        return 2;
    lua_settop(L, 7);
    keep = push_integers(L, 1, &nkeep);
    b = bind_process_push(L, state);
    get_options(L, 3, b, &o);
    o.keep = keep;
    o.nkeep = nkeep;
    rc = tine_proc_here(state->host, &o, &p, &fd);
    if (rc == 0)
        serve_fork(L, fd);
    return birth(L, b, p, "here", rc);
}

/*** Forks a template off the program as it is now. From then on `new` and `new_exec`
fork that one and exec nothing.
@function tine.early
@treturn[1] boolean true
@treturn[2] nil
@treturn[2] err of errno EBUSY when other threads run */
static int process_early(lua_State *L)
{
    bind_state *state = bind_state_host(L);
    int fd, rc;

    if (!state)
        return 2;
    lua_settop(L, 0);
    lua_newtable(L);
    lua_pushvalue(L, 1);
    rc = tine_host_early(state->host, &fd);
    if (rc == 0)
        serve_fork(L, fd);
    if (rc < 0)
        return bind_fail(L, "early", rc);
    lua_pushboolean(L, 1);
    return 1;
}

/* serve(fd): this process becomes one that serves on fd. If that is stdin, /dev/null
 * takes its place. Never returns, or returns nil and an err. */
static int process_serve(lua_State *L)
{
    int fd = (int)luaL_checkinteger(L, 1), null;

    if (fd == STDIN_FILENO) {
        fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
        if (fd < 0)
            return bind_fail_errno(L, "stdin", errno);
        close(STDIN_FILENO);
        /* It gets the lowest number free, which is that of stdin. */
        null = open("/dev/null", O_RDONLY);
        if (null > STDIN_FILENO)
            close(null);
    }
    tine_serve(main_state(L), fd);
}

/* Why a host cannot command a process over fd, or NULL. */
static const char *serve_problem(int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof address, size = sizeof(int);
    int type = 0, listening = 0;

    if (fcntl(fd, F_GETFD) < 0)
        return "is not open";
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) < 0)
        return "is not a socket";
    if (address.ss_family != AF_UNIX)
        return "is not a Unix-domain socket: descriptors could not be sent over it";
    if (type != SOCK_STREAM)
        return "is not a stream socket";
    size = sizeof listening;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 && listening)
        return "is a listening socket: accept a connection, and serve on that";
    len = sizeof address;
    return getpeername(fd, (struct sockaddr *)&address, &len) < 0 ? "is not connected"
                                                                  : NULL;
}

/* serve_problem(fd): nil, or why serve cannot do with it: "is not ...". */
static int process_serve_problem(lua_State *L)
{
    lua_pushstring(L, serve_problem((int)luaL_checkinteger(L, 1)));
    return 1;
}

void bind_process_open_births(lua_State *L)
{
    static const luaL_Reg functions[] = {{"new", process_new},
                                         {"fork", process_fork},
                                         {"from_fd", process_from_fd},
                                         {"here", process_here},
                                         {"early", process_early},
                                         {"serve", process_serve},
                                         {"serve_problem", process_serve_problem},
                                         {NULL, NULL}};

    luaL_setfuncs(L, functions, 0);
}
