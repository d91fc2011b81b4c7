/* How methods of "tine.fd" wait: the policy, in one place. They try without sleeping,
 * then ask the wait function of the loop, then sleep if the object may, else give up.
 * Goes into tine-template too: it needs Lua and the system, nothing of tine.h. */
#include "fd.h"
#include "fd_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"

#define NS_PER_S 1000000000
/* Seconds that a timeout may have to be one: some 30 years. */
#define TIMEOUT_MAX 1e9

volatile sig_atomic_t bind_fd_interrupted, bind_fd_shielded;

bool bind_fd_again(void)
{
    return errno == EINTR && !bind_fd_interrupted;
}

enum fd_kind bind_fd_kind(struct bind_fd *f)
{
    struct stat st;

    if (f->kind != FD_UNKNOWN || fstat(f->fd, &st) < 0)
        return f->kind;
    if (S_ISSOCK(st.st_mode))
        f->kind = FD_SOCKET;
    else if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) || S_ISDIR(st.st_mode))
        f->kind = FD_FILE;
    else
        f->kind = FD_STREAM;
    return f->kind;
}

static bool push_wait_function(lua_State *L)
{
    if (lua_getfield(L, LUA_REGISTRYINDEX, BIND_FD_WAIT) == LUA_TFUNCTION)
        return true;
    lua_pop(L, 1);
    return false;
}

bool bind_fd_may_sleep(lua_State *L, const struct bind_fd *f)
{
    if (!f->blocking || f->timed)
        return false;
    if (!push_wait_function(L))
        return true;
    lua_pop(L, 1);
    return false;
}

bool bind_fd_would_sleep(struct bind_fd *f)
{
    int flags;

    if (bind_fd_kind(f) == FD_FILE)
        return false;
    flags = fcntl(f->fd, F_GETFL);
    return flags >= 0 && !(flags & O_NONBLOCK);
}

static double check_timeout(lua_State *L, int idx)
{
    double seconds = -1;

    for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
        const char *name =
            lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : luaL_typename(L, -2);
        if (strcmp(name, "timeout") != 0)
            luaL_argerror(L, idx, lua_pushfstring(L, "unknown option '%s'", name));
        seconds = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : -1;
        luaL_argcheck(L, seconds >= 0, idx,
                      "option 'timeout' is no time of 0 or more seconds");
    }
    return seconds;
}

void bind_fd_options(lua_State *L, int idx)
{
    double seconds = -1;

    lua_settop(L, idx);
    if (!lua_isnil(L, idx)) {
        luaL_checktype(L, idx, LUA_TTABLE);
        seconds = check_timeout(L, idx);
    }
    if (seconds >= 0 && seconds <= TIMEOUT_MAX)
        lua_pushinteger(L, (lua_Integer)tine__clock_ns() +
                               (lua_Integer)(seconds * NS_PER_S));
    else
        lua_pushnil(L);
    lua_replace(L, idx);
    lua_insert(L, FD_DEADLINE);
}

int64_t bind_fd_time_left(lua_State *L)
{
    int64_t left;

    if (lua_isnil(L, FD_DEADLINE))
        return -1;
    left = lua_tointeger(L, FD_DEADLINE) - (int64_t)tine__clock_ns();
    return left > 0 ? left : 0;
}

bool bind_fd_is_ready(int fd, char event)
{
    struct pollfd p = {.fd = fd, .events = event == 'r' ? POLLIN : POLLOUT};

    return poll(&p, 1, 0) != 0;
}

/* Sleeps until f is ready, or the deadline is over, or a signal has come. */
static int sleep_for(lua_State *L, const struct bind_fd *f, char event)
{
    struct pollfd p = {.fd = f->fd, .events = event == 'r' ? POLLIN : POLLOUT};
    int64_t left = bind_fd_time_left(L);
    struct timespec time = {.tv_sec = left / NS_PER_S, .tv_nsec = left % NS_PER_S};

    return ppoll(&p, 1, left < 0 ? NULL : &time, NULL);
}

static const char *op_text(lua_State *L, const struct fd_op *op)
{
    return op->what ? lua_tostring(L, op->what) : op->name;
}

int bind_fd_fail(lua_State *L, const struct fd_op *op, int err)
{
    if (bind_fd_live(L, lua_touserdata(L, 1)))
        bind_fail_errno(L, op_text(L, op), err);
    else
        bind_fd_fail_closed(L, op_text(L, op));
    if (op->blame)
        op->blame(L);
    return 2;
}

int bind_fd_time_out(lua_State *L, const struct fd_op *op)
{
    bind_fail_text(L, "timeout", 0, "%s: timed out", op_text(L, op));
    if (op->blame)
        op->blame(L);
    return 2;
}

/* The rest of the policy, where no wait function helps. Returns the number of results,
 * or -1 to try again. */
static int wait_alone(lua_State *L, const struct fd_op *op)
{
    struct bind_fd *f = lua_touserdata(L, 1);

    if (!bind_fd_live(L, f))
        return -1;
    if (f->blocking) {
        int n = sleep_for(L, f, op->event);
        return n < 0 && errno == EINTR && !bind_fd_again() ? bind_fd_fail(L, op, EINTR)
                                                           : -1;
    }
    return op->stuck ? op->stuck(L) : bind_fd_fail(L, op, EAGAIN);
}

/* Judges the two results of the wait function on top of the stack. Returns the number
 * of results, or -1 to try again. */
static int after_wait(lua_State *L, const struct fd_op *op)
{
    bool waited = lua_toboolean(L, -2);

    if (!lua_isnil(L, -1)) {
        lua_pushnil(L);
        lua_replace(L, -3);
        if (op->blame)
            op->blame(L);
        return 2;
    }
    lua_pop(L, 2);
    return waited ? -1 : wait_alone(L, op);
}

static int resumed(lua_State *L, int status, lua_KContext ctx)
{
    const struct fd_op *op = (const struct fd_op *)ctx;
    int n = after_wait(L, op);

    (void)status;
    return n >= 0 ? n : bind_fd_drive(L, op);
}

static int attempt(lua_State *L, const struct fd_op *op)
{
    struct bind_fd *f = lua_touserdata(L, 1);

    f->timed = !lua_isnil(L, FD_DEADLINE);
    return bind_fd_live(L, f) ? op->step(L, f) : -EBADF;
}

static void push_wait_arguments(lua_State *L, const struct fd_op *op)
{
    struct bind_fd *f = lua_touserdata(L, 1);
    int64_t left = bind_fd_time_left(L);

    f->watched = true;
    lua_pushvalue(L, 1);
    lua_pushlstring(L, &op->event, 1);
    if (left < 0)
        lua_pushnil(L);
    else
        lua_pushnumber(L, (lua_Number)left / NS_PER_S);
}

int bind_fd_drive(lua_State *L, const struct fd_op *op)
{
    for (;;) {
        int n = attempt(L, op);

        if (n != -EAGAIN)
            return n >= 0 ? n : bind_fd_fail(L, op, -n);
        if (bind_fd_time_left(L) == 0)
            return bind_fd_time_out(L, op);
        if (push_wait_function(L)) {
            push_wait_arguments(L, op);
            lua_callk(L, 3, 2, (lua_KContext)op, resumed);
            n = after_wait(L, op);
        } else {
            n = wait_alone(L, op);
        }
        if (n >= 0)
            return n;
    }
}
