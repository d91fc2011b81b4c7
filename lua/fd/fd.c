/* The userdata "tine.fd": its life, and the descriptor behind a Lua value.
 * Goes into tine-template too: it needs Lua and the system, nothing of tine.h. */
#include "fd.h"
#include "../../core/base/blocking.h"
#include "fd_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool default_blocking = false;

/* Counts the forks that this process has gone through. An object of an earlier
 * generation is open only if each fork since kept its descriptor. Objects are not
 * touched by a fork: most of them lie in memory that the processes share. */
static unsigned generation = 1;
static struct kept {
    int fd;
    unsigned since; /* the earliest generation whose objects this holds for */
} * kept;
static size_t nkept;

void bind_fd_set_default_blocking(int blocking)
{
    default_blocking = blocking != 0;
}

bool bind_fd_default_blocking(void)
{
    return default_blocking;
}

static unsigned kept_since(int fd)
{
    for (size_t i = 0; i < nkept; i++)
        if (kept[i].fd == fd)
            return kept[i].since;
    return generation;
}

void bind_fd_forked(const int *keep, size_t nkeep)
{
    struct kept *list = nkeep ? malloc(nkeep * sizeof *list) : NULL;

    /* Without memory nothing is kept, which is safe. */
    if (!list)
        nkeep = 0;
    for (size_t i = 0; i < nkeep; i++)
        list[i] = (struct kept){.fd = keep[i], .since = kept_since(keep[i])};
    free(kept);
    kept = list;
    nkept = nkeep;
    generation++;
}

struct bind_fd *bind_fd_new(lua_State *L)
{
    struct bind_fd *f;

    luaL_checkstack(L, 3, NULL);
    f = lua_newuserdatauv(L, sizeof *f, 0);
    *f = (struct bind_fd){
        .fd = -1, .generation = generation, .blocking = default_blocking};
    luaL_setmetatable(L, FD_TYPE);
    return f;
}

static int push_owner(lua_State *L)
{
    int fd = (int)lua_tointeger(L, 1);

    bind_fd_new(L)->fd = fd;
    return 1;
}

void bind_fd_push(lua_State *L, int fd)
{
    if (!lua_checkstack(L, 2)) {
        close(fd);
        luaL_error(L, "stack overflow");
    }
    lua_pushcfunction(L, push_owner);
    lua_pushinteger(L, fd);
    if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
        close(fd);
        lua_error(L);
    }
}

void bind_fd_give(lua_State *L, int idx, int fd)
{
    struct bind_fd *f = lua_touserdata(L, idx);

    f->fd = fd;
    f->generation = generation;
    f->blocking = default_blocking;
}

struct bind_fd *bind_fd_self(lua_State *L)
{
    return luaL_checkudata(L, 1, FD_TYPE);
}

/* Frees what was read ahead; close_queued: the queued descriptors are ours to close. */
static void release(lua_State *L, struct bind_fd *f, bool close_queued)
{
    void *ud;
    lua_Alloc alloc = lua_getallocf(L, &ud);
    struct fd_batch *b;

    while ((b = f->queue)) {
        f->queue = b->next;
        for (int i = 0; close_queued && i < b->nfds; i++)
            if (b->fd[i] >= 0)
                close(b->fd[i]);
        alloc(ud, b, sizeof *b + (size_t)b->nfds * sizeof b->fd[0], 0);
    }
    f->queue_last = NULL;
    if (f->buf)
        alloc(ud, f->buf, f->cap, 0);
    f->buf = NULL;
    f->cap = f->start = f->end = f->scanned = 0;
}

bool bind_fd_live(lua_State *L, struct bind_fd *f)
{
    if (f->fd < 0)
        return false;
    if (f->generation == generation)
        return true;
    for (size_t i = 0; i < nkept; i++) {
        if (kept[i].fd == f->fd && kept[i].since <= f->generation) {
            /* What had been read ahead is the other process's. */
            release(L, f, false);
            f->generation = generation;
            return true;
        }
    }
    return false;
}

static int call_closing(lua_State *L)
{
    if (lua_getfield(L, LUA_REGISTRYINDEX, BIND_FD_CLOSING) == LUA_TFUNCTION) {
        lua_insert(L, 1);
        lua_call(L, 2, 0);
    }
    return 0;
}

/* Calls the closing function, whose errors must not reach a method that never raises. */
static void tell_closing(lua_State *L, int fd)
{
    if (!lua_checkstack(L, 3))
        return;
    lua_pushcfunction(L, call_closing);
    lua_pushvalue(L, 1);
    lua_pushinteger(L, fd);
    bind_fd_shielded++;
    int status = lua_pcall(L, 2, 0, 0);
    bind_fd_shielded--;
    if (status != LUA_OK) {
        if (lua_type(L, -1) == LUA_TSTRING)
            lua_warning(L, lua_tostring(L, -1), 0);
        lua_pop(L, 1);
    }
}

int bind_fd_take(lua_State *L, struct bind_fd *f)
{
    int fd = f->fd;

    f->fd = -1;
    if (f->watched)
        tell_closing(L, fd);
    f->watched = false;
    return fd;
}

static int fd_gc(lua_State *L)
{
    struct bind_fd *f = bind_fd_self(L);
    bool live = bind_fd_live(L, f);

    release(L, f, live);
    /* A standard one, wrapped and forgotten, stays: the next file opened would get its
     * number, and what is printed. */
    if (live && f->fd > STDERR_FILENO)
        close(f->fd);
    f->fd = -1;
    return 0;
}

/*** Closes the descriptor, and those received and not fetched. Never fails.
@function fd:close
@treturn boolean true */
static int fd_close(lua_State *L)
{
    struct bind_fd *f = bind_fd_self(L);
    bool live = bind_fd_live(L, f);

    release(L, f, live);
    if (live)
        close(bind_fd_take(L, f));
    f->fd = -1;
    lua_pushboolean(L, 1);
    return 1;
}

static int fd_tostring(lua_State *L)
{
    struct bind_fd *f = bind_fd_self(L);

    if (bind_fd_live(L, f))
        lua_pushfstring(L, FD_TYPE " (%d)", f->fd);
    else
        lua_pushliteral(L, FD_TYPE " (closed)");
    return 1;
}

int bind_fd_fail_closed(lua_State *L, const char *what)
{
    return bind_fail_text(L, "closed", 0, "%s: the descriptor is closed", what);
}

/*** @function fd:fileno
@treturn[1] integer the descriptor, still owned by the object
@treturn[2] nil
@treturn[2] table err */
static int fd_fileno(lua_State *L)
{
    struct bind_fd *f = bind_fd_self(L);

    if (!bind_fd_live(L, f))
        return bind_fd_fail_closed(L, "fileno");
    lua_pushinteger(L, f->fd);
    return 1;
}

/*** A second object for the same file, without what this one has read ahead.
@function fd:dup
@treturn[1] tine.fd
@treturn[2] nil
@treturn[2] table err */
static int fd_dup(lua_State *L)
{
    struct bind_fd *f = bind_fd_self(L);
    struct bind_fd *copy = bind_fd_new(L);

    if (!bind_fd_live(L, f))
        return bind_fd_fail_closed(L, "dup");
    copy->blocking = f->blocking;
    copy->fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 3);
    if (copy->fd < 0)
        return bind_fail_errno(L, "dup", errno);
    return 1;
}

/* Pushes nil, err and returns 2 if f is closed, or if bytes or descriptors would be
 * lost with it. Else returns 0. */
static int refuse_to_part(lua_State *L, struct bind_fd *f, const char *what)
{
    lua_Integer nfds = 0;

    if (!bind_fd_live(L, f))
        return bind_fd_fail_closed(L, what);
    if (f->start == f->end && !f->queue)
        return 0;
    for (struct fd_batch *b = f->queue; b; b = b->next)
        nfds += b->nfds;
    return bind_fail_text(L, "system", EBUSY,
                          "%s: %I bytes and %I descriptors were read ahead (EBUSY)",
                          what, (LUAI_UACINT)(f->end - f->start), (LUAI_UACINT)nfds);
}

/*** Gives the descriptor away; the object is closed from then on.
@function fd:detach
@treturn[1] integer the descriptor, to be closed by whoever takes it
@treturn[2] nil
@treturn[2] table err: closed, or bytes or descriptors were read ahead, and would be
lost */
static int fd_detach(lua_State *L)
{
    struct bind_fd *f = bind_fd_self(L);
    int n = refuse_to_part(L, f, "detach");

    if (n)
        return n;
    release(L, f, true);
    lua_pushinteger(L, bind_fd_take(L, f));
    return 1;
}

static bool is_file_mode(const char *mode)
{
    if (!*mode || !strchr("rwa", *mode++))
        return false;
    if (*mode == '+')
        mode++;
    return strspn(mode, "b") == strlen(mode);
}

static int close_file(lua_State *L)
{
    luaL_Stream *stream = luaL_checkudata(L, 1, LUA_FILEHANDLE);

    return luaL_fileresult(L, fclose(stream->f) == 0, NULL);
}

/*** Turns the object into a file of Lua's io library, and itself is closed from then
on. What is nonblocking is opened anew, blocking, since such a file cannot wait; the flag of
others who have it is left alone.
Unlike `write`, that of a file raises SIGPIPE where nobody reads any more, which ends a
program that does not ignore it (in a process of tine as in any other).
@function fd:to_file
@tparam[opt="r+"] string mode as for io.open
@treturn[1] file
@treturn[2] nil
@treturn[2] table err: closed, not open for that mode, something was read ahead, or (errno
EOPNOTSUPP) a nonblocking socket, which cannot be opened anew: set_blocking first, which is
for all who have it */
static int fd_to_file(lua_State *L)
{
    struct bind_fd *f = bind_fd_self(L);
    const char *mode = luaL_optstring(L, 2, "r+");
    luaL_Stream *stream;
    int n, fd;

    luaL_argcheck(L, is_file_mode(mode), 2, "invalid mode");
    if ((n = refuse_to_part(L, f, "to_file")))
        return n;
    if (luaL_getmetatable(L, LUA_FILEHANDLE) == LUA_TNIL)
        return luaL_error(L, "to_file: the io library is not loaded");
    stream = lua_newuserdatauv(L, sizeof *stream, 0);
    stream->closef = NULL;
    luaL_setmetatable(L, LUA_FILEHANDLE);
    fd = tine__fd_blocking(f->fd);
    if (fd < 0)
        return bind_fail_errno(L, "to_file", -fd);
    stream->f = fdopen(fd, mode);
    if (!stream->f) {
        n = bind_fail_errno(L, "to_file", errno);
        if (fd != f->fd)
            close(fd);
        return n;
    }
    stream->closef = close_file;
    release(L, f, true);
    n = bind_fd_take(L, f);
    if (n != fd)
        close(n);
    return 1;
}

int bind_fd_set_nonblock(int fd, bool on)
{
    int old = fcntl(fd, F_GETFL);
    int flags = on ? old | O_NONBLOCK : old & ~O_NONBLOCK;

    if (old < 0 || (flags != old && fcntl(fd, F_SETFL, flags) < 0))
        return -errno;
    return 0;
}

/*** Sets whether methods block where no loop can wait for them, and O_NONBLOCK of the
descriptor, which others who have the same file open share. No other method sets that:
without it, methods of an object wait, or do not, as they should.
@function fd:set_blocking
@tparam boolean blocking
@treturn[1] boolean true
@treturn[2] nil
@treturn[2] table err */
static int fd_set_blocking(lua_State *L)
{
    struct bind_fd *f = bind_fd_self(L);
    bool blocking;
    int err;

    luaL_checktype(L, 2, LUA_TBOOLEAN);
    blocking = lua_toboolean(L, 2);
    if (!bind_fd_live(L, f))
        return bind_fd_fail_closed(L, "set_blocking");
    if ((err = bind_fd_set_nonblock(f->fd, !blocking)))
        return bind_fail_errno(L, "set_blocking", -err);
    f->blocking = blocking;
    lua_pushboolean(L, 1);
    return 1;
}

int bind_fd_lift(int fd)
{
    int high, err;

    if (fd < 0 || fd > 2)
        return fd;
    high = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    err = errno;
    close(fd);
    errno = err;
    return high;
}

/* The descriptor behind a value. */

static int check_number(lua_State *L, int idx, int arg)
{
    int exact;
    lua_Integer n = lua_tointegerx(L, idx, &exact);

    luaL_argcheck(L, exact, arg, "number has no integer representation");
    luaL_argcheck(L, n >= 0 && n <= INT_MAX && fcntl((int)n, F_GETFD) >= 0, arg,
                  "the descriptor is not open");
    return (int)n;
}

/* Calls the method of the object at idx, if it has that. Leaves the stack as it was. */
static bool try_method(lua_State *L, int idx, int arg, const char *name, int *fd)
{
    if (lua_getfield(L, idx, name) != LUA_TFUNCTION) {
        lua_pop(L, 1);
        return false;
    }
    lua_pushvalue(L, idx);
    lua_call(L, 1, 1);
    if (lua_type(L, -1) != LUA_TNUMBER) {
        const char *text = lua_pushfstring(L, "its %s() gives no descriptor", name);
        luaL_argerror(L, arg, text);
    }
    *fd = check_number(L, -1, arg);
    lua_pop(L, 1);
    return true;
}

static bool can_have_methods(lua_State *L, int idx)
{
    if (lua_istable(L, idx))
        return true;
    if (lua_type(L, idx) != LUA_TUSERDATA ||
        luaL_getmetafield(L, idx, "__index") == LUA_TNIL)
        return false;
    lua_pop(L, 1);
    return true;
}

int bind_fd_peek(lua_State *L, int idx)
{
    const luaL_Stream *stream;
    struct bind_fd *f;

    if ((f = luaL_testudata(L, idx, FD_TYPE)))
        return bind_fd_live(L, f) ? f->fd : -1;
    if ((stream = luaL_testudata(L, idx, LUA_FILEHANDLE)))
        return stream->closef ? fileno(stream->f) : -1;
    return -2;
}

/* Whether the table at idx has the field, without asking Lua. */
static bool has_raw(lua_State *L, int idx, const char *name)
{
    lua_pushstring(L, name);
    lua_rawget(L, idx < 0 ? idx - 1 : idx);
    bool has = lua_isfunction(L, -1);
    lua_pop(L, 1);
    return has;
}

int bind_fd_is_object(lua_State *L, int idx)
{
    bool is;

    if (lua_type(L, idx) == LUA_TUSERDATA)
        return can_have_methods(L, idx);
    if (!lua_istable(L, idx) || luaL_getmetafield(L, idx, "__index") == LUA_TNIL)
        return 0;
    is = has_raw(L, idx - (idx < 0), "fileno") ||
         has_raw(L, idx - (idx < 0), "getfd") ||
         (lua_istable(L, -1) && (has_raw(L, -1, "fileno") || has_raw(L, -1, "getfd")));
    lua_pop(L, 1);
    return is;
}

int bind_fd_check(lua_State *L, int idx, int arg)
{
    const luaL_Stream *stream;
    struct bind_fd *f;
    int fd;

    idx = lua_absindex(L, idx);
    luaL_checkstack(L, 4, NULL);
    if (lua_type(L, idx) == LUA_TNUMBER)
        return check_number(L, idx, arg);
    if ((f = luaL_testudata(L, idx, FD_TYPE))) {
        luaL_argcheck(L, bind_fd_live(L, f), arg, "the descriptor is closed");
        return f->fd;
    }
    if ((stream = luaL_testudata(L, idx, LUA_FILEHANDLE))) {
        luaL_argcheck(L, stream->closef, arg, "the file is closed");
        return fileno(stream->f);
    }
    if (can_have_methods(L, idx) && (try_method(L, idx, arg, "fileno", &fd) ||
                                     try_method(L, idx, arg, "getfd", &fd)))
        return fd;
    lua_pushfstring(L, "descriptor, file or object with fileno() expected, got %s",
                    luaL_typename(L, idx));
    return luaL_argerror(L, arg, lua_tostring(L, -1));
}

static const luaL_Reg fd_methods[] = {
    {"close", fd_close},   {"fileno", fd_fileno},   {"dup", fd_dup},
    {"detach", fd_detach}, {"to_file", fd_to_file}, {"set_blocking", fd_set_blocking},
    {NULL, NULL},
};

static const luaL_Reg fd_metamethods[] = {
    {"__gc", fd_gc},
    {"__close", fd_close},
    {"__tostring", fd_tostring},
    {NULL, NULL},
};

void bind_fd_open(lua_State *L)
{
    luaL_checkstack(L, 4, NULL);
    luaL_setfuncs(L, bind_fd_sock_functions, 0);
    if (luaL_newmetatable(L, FD_TYPE)) {
        luaL_setfuncs(L, fd_metamethods, 0);
        luaL_newlib(L, fd_methods);
        luaL_setfuncs(L, bind_fd_io_methods, 0);
        luaL_setfuncs(L, bind_fd_pass_methods, 0);
        luaL_setfuncs(L, bind_fd_sock_methods, 0);
        lua_setfield(L, -2, "__index");
    }
    lua_pop(L, 1);
}
