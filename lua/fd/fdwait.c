/* How methods of "tine.fd" wait: the policy, in one place. They try without sleeping,
 * then ask the wait function of the loop, then sleep if the object may, else give up.
 * Goes into tine-template too: it needs Lua and the system, nothing of tine.h. */
#include "fd.h"
#include "fd_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

volatile sig_atomic_t bind_fd_interrupted;

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
    if (!f->blocking)
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

int bind_fd_poll(int fd, char event, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = event == 'r' ? POLLIN : POLLOUT};
    int n;

    do
        n = poll(&p, 1, timeout_ms);
    while (n < 0 && bind_fd_again());
    return n;
}

int bind_fd_fail(lua_State *L, const struct fd_op *op, int err)
{
    if (bind_fd_live(L, lua_touserdata(L, 1)))
        bind_fail_errno(L, op->name, err);
    else
        bind_fd_fail_closed(L, op->name);
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
        int n = bind_fd_poll(f->fd, op->event, -1);
        return n < 0 && errno == EINTR ? bind_fd_fail(L, op, EINTR) : -1;
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

int bind_fd_drive(lua_State *L, const struct fd_op *op)
{
    for (;;) {
        struct bind_fd *f = lua_touserdata(L, 1);
        int n = bind_fd_live(L, f) ? op->step(L, f) : -EBADF;

        if (n >= 0)
            return n;
        if (n != -EAGAIN)
            return bind_fd_fail(L, op, -n);
        if (push_wait_function(L)) {
            f->watched = true;
            lua_pushvalue(L, 1);
            lua_pushlstring(L, &op->event, 1);
            lua_callk(L, 2, 2, (lua_KContext)op, resumed);
            n = after_wait(L, op);
        } else {
            n = wait_alone(L, op);
        }
        if (n >= 0)
            return n;
    }
}
