/* Bytes through a "tine.fd": read, read_line, write.
 * Goes into tine-template too: it needs Lua and the system, nothing of tine.h. */
#include "fd.h"
#include "fd_priv.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define READ_DEFAULT 65536
#define READ_MAX 1048576
#define BUFFER_MIN 16384
#define BUFFER_KEEP 65536 /* an empty buffer that is larger is freed */

static ssize_t receive_socket(lua_State *L, struct bind_fd *f, void *out, size_t size)
{
    union fd_control control = {{0}};
    struct iovec iov = {.iov_base = out, .iov_len = size};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.space,
                         .msg_controllen = sizeof control.space};
    int flags = MSG_CMSG_CLOEXEC | (bind_fd_may_sleep(L, f) ? 0 : MSG_DONTWAIT);
    ssize_t n;

    do
        n = recvmsg(f->fd, &msg, flags);
    while (n < 0 && bind_fd_again());
    if (n < 0)
        return -errno;
    if (n > 0 && (msg.msg_controllen || msg.msg_flags & MSG_CTRUNC))
        bind_fd_queue(L, f, &msg, f->taken + (f->end - f->start) + (uint64_t)n - 1);
    return n;
}

/* Whether this kind of file, or the system, has no RWF_NOWAIT: pipes have it since Linux 6.4, those
 * that have a name (FIFOs) have not in 6.18. */
static bool lacks_nowait(ssize_t n)
{
    return n < 0 && (errno == EOPNOTSUPP || errno == EINVAL || errno == ENOSYS);
}

/* A read of what blocks that does not. Without RWF_NOWAIT it does if somebody else reads, too, and
 * is faster. */
static ssize_t read_awake(int fd, void *out, size_t size)
{
    struct iovec iov = {.iov_base = out, .iov_len = size};
    ssize_t n = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);

    if (!lacks_nowait(n))
        return n;
    if (bind_fd_is_ready(fd, 'r'))
        return read(fd, out, size);
    errno = EAGAIN;
    return -1;
}

ssize_t bind_fd_receive(lua_State *L, struct bind_fd *f, void *out, size_t size)
{
    bool awake;
    ssize_t n;

    if (bind_fd_kind(f) == FD_SOCKET)
        return receive_socket(L, f, out, size);
    awake = !bind_fd_may_sleep(L, f) && bind_fd_would_sleep(f);
    do
        n = awake ? read_awake(f->fd, out, size) : read(f->fd, out, size);
    while (n < 0 && bind_fd_again());
    return n < 0 ? -errno : n;
}

static void resize_buffer(lua_State *L, struct bind_fd *f, size_t cap)
{
    void *ud;
    lua_Alloc alloc = lua_getallocf(L, &ud);
    char *buf = alloc(ud, f->buf, f->cap, cap);

    if (!buf && cap)
        luaL_error(L, "not enough memory");
    f->buf = buf;
    f->cap = cap;
}

/* Makes room behind what the buffer holds. It doubles, or has given half of its bytes
 * out before the rest is moved: each byte is copied a bounded number of times. */
void bind_fd_reserve(lua_State *L, struct bind_fd *f)
{
    size_t held = f->end - f->start;

    if (f->end < f->cap)
        return;
    if (!f->cap || f->start < f->cap / 2) {
        resize_buffer(L, f, f->cap ? 2 * f->cap : BUFFER_MIN);
        return;
    }
    memmove(f->buf, f->buf + f->start, held);
    f->start = 0;
    f->end = held;
}

void bind_fd_consume(lua_State *L, struct bind_fd *f, size_t n)
{
    f->start += n;
    f->taken += n;
    f->scanned = f->scanned > n ? f->scanned - n : 0;
    if (f->start < f->end)
        return;
    f->start = f->end = 0;
    if (f->cap > BUFFER_KEEP)
        resize_buffer(L, f, 0);
}

/* Receives straight into a string, past the buffer, which is empty. */
static int read_through(lua_State *L, struct bind_fd *f, void *space, size_t size)
{
    ssize_t n = bind_fd_receive(L, f, space, size);

    if (n < 0)
        return (int)n;
    f->taken += (uint64_t)n;
    if (n > 0)
        lua_pushlstring(L, space, (size_t)n);
    else
        lua_pushnil(L);
    return 1;
}

static int read_default(lua_State *L, struct bind_fd *f, size_t size)
{
    char space[READ_DEFAULT];

    return read_through(L, f, space, size);
}

static int step_read(lua_State *L, struct bind_fd *f)
{
    size_t want = (size_t)lua_tointeger(L, 3);
    size_t held = f->end - f->start;
    int n;

    if (held) {
        size_t len = want < held ? want : held;
        lua_pushlstring(L, f->buf + f->start, len);
        bind_fd_consume(L, f, len);
        return 1;
    }
    if (want <= READ_DEFAULT)
        return read_default(L, f, want);
    if (want > READ_MAX)
        want = READ_MAX;
    n = read_through(L, f, lua_newuserdatauv(L, want, 0), want);
    if (n < 0)
        lua_pop(L, 1);
    return n;
}

/*** Waits for at least one byte.
@function fd:read
@tparam[opt=65536] integer n the most bytes to return; above 1 MiB is as good as 1 MiB
@tparam[opt] table options `timeout`: seconds to wait at most, 0: not at all. Also as the only
argument
@treturn[1] string
@treturn[2] nil at the end of the file
@treturn[3] nil
@treturn[3] table err; kind `"timeout"` when nothing came in time; errno is EAGAIN when nothing is
there and it may not wait */
static int fd_read(lua_State *L)
{
    static const struct fd_op op = {.name = "read", .event = 'r', .step = step_read};
    int options = lua_istable(L, 2) ? 2 : 3;
    lua_Integer n = options == 2 ? READ_DEFAULT : luaL_optinteger(L, 2, READ_DEFAULT);

    bind_fd_self(L);
    luaL_argcheck(L, n >= 1, 2, "must be positive");
    bind_fd_options(L, options);
    lua_settop(L, FD_DEADLINE);
    lua_pushinteger(L, n);
    return bind_fd_drive(L, &op);
}

/* Pushes the first len bytes of the buffer; they and `extra` more are consumed. */
static int push_line(lua_State *L, struct bind_fd *f, size_t len, size_t extra)
{
    lua_pushlstring(L, len ? f->buf + f->start : "", len);
    bind_fd_consume(L, f, len + extra);
    return 1;
}

static int step_read_line(lua_State *L, struct bind_fd *f)
{
    for (;;) {
        size_t held = f->end - f->start;
        const char *newline = NULL;
        ssize_t n;

        if (f->scanned < held)
            newline = memchr(f->buf + f->start + f->scanned, '\n', held - f->scanned);
        if (newline)
            return push_line(L, f, (size_t)(newline - f->buf) - f->start, 1);
        f->scanned = held;
        bind_fd_reserve(L, f);
        n = bind_fd_receive(L, f, f->buf + f->end, f->cap - f->end);
        if (n < 0)
            return (int)n;
        if (n == 0 && held)
            return push_line(L, f, held, 0);
        if (n == 0) {
            lua_pushnil(L);
            return 1;
        }
        f->end += (size_t)n;
    }
}

/*** Waits for a line, and reads ahead. Lines have no limit.
@function fd:read_line
@tparam[opt] table options `timeout`: seconds to wait at most for the whole line
@treturn[1] string the line without its newline, which the last one may lack
@treturn[2] nil at the end of the file
@treturn[3] nil
@treturn[3] table err, as of `read`; a line begun stays in the object */
static int fd_read_line(lua_State *L)
{
    static const struct fd_op op = {
        .name = "read_line", .event = 'r', .step = step_read_line};

    bind_fd_self(L);
    if (lua_type(L, 2) == LUA_TSTRING) /* for line in fd.read_line, fd do */
        lua_settop(L, 1);
    bind_fd_options(L, 2);
    return bind_fd_drive(L, &op);
}

/* As read_awake. */
static ssize_t write_awake(int fd, const void *data, size_t len)
{
    struct iovec iov = {.iov_base = (void *)(size_t)data, .iov_len = len};
    ssize_t n = pwritev2(fd, &iov, 1, -1, RWF_NOWAIT);

    if (!lacks_nowait(n))
        return n;
    /* A pipe that polls as writable has room for this much, and maybe no more. */
    if (bind_fd_is_ready(fd, 'w'))
        return write(fd, data, len < PIPE_BUF ? len : PIPE_BUF);
    errno = EAGAIN;
    return -1;
}

typedef ssize_t write_function(int fd, const void *data, size_t len);

/* A broken pipe is an errno only: SIGPIPE is held back meanwhile, and taken away unless one was
 * pending before. */
static ssize_t write_quietly(write_function *call, int fd, const void *data, size_t len)
{
    const struct timespec now = {0};
    sigset_t pipe_only, pending, old;
    ssize_t n;
    int err;

    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    sigpending(&pending);
    if (sigismember(&pending, SIGPIPE))
        return call(fd, data, len);
    pthread_sigmask(SIG_BLOCK, &pipe_only, &old);
    n = call(fd, data, len);
    err = errno;
    if (n < 0 && err == EPIPE)
        while (sigtimedwait(&pipe_only, NULL, &now) < 0 && errno == EINTR)
            ;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    errno = err;
    return n;
}

/* One attempt to send. Returns bytes or an errno negated. */
static ssize_t send_some(lua_State *L, struct bind_fd *f, const char *data, size_t len)
{
    bool sleeps = bind_fd_may_sleep(L, f);
    bool is_socket = bind_fd_kind(f) == FD_SOCKET;
    bool awake = !sleeps && !is_socket && bind_fd_would_sleep(f);
    ssize_t n;

    do {
        if (is_socket)
            n = send(f->fd, data, len, MSG_NOSIGNAL | (sleeps ? 0 : MSG_DONTWAIT));
        else
            n = write_quietly(awake ? write_awake : write, f->fd, data, len);
    } while (n < 0 && bind_fd_again());
    return n < 0 ? -errno : n;
}

/* Stack: object, deadline, string, bytes written so far. */
enum { WRITE_DATA = FD_DEADLINE + 1, WRITE_DONE };

static int step_write(lua_State *L, struct bind_fd *f)
{
    size_t len;
    const char *data = lua_tolstring(L, WRITE_DATA, &len);
    size_t done = (size_t)lua_tointeger(L, WRITE_DONE);

    while (done < len) {
        ssize_t n = send_some(L, f, data + done, len - done);
        if (n < 0) {
            lua_pushinteger(L, (lua_Integer)done);
            lua_replace(L, WRITE_DONE);
            return (int)n;
        }
        done += (size_t)n;
    }
    lua_pushinteger(L, (lua_Integer)len);
    return 1;
}

static void blame_write(lua_State *L)
{
    if (!lua_istable(L, -1))
        return;
    lua_pushliteral(L, "written");
    lua_pushvalue(L, WRITE_DONE);
    lua_rawset(L, -3);
}

static int stuck_write(lua_State *L);

static const struct fd_op op_write = {.name = "write",
                                      .event = 'w',
                                      .step = step_write,
                                      .stuck = stuck_write,
                                      .blame = blame_write};

static int stuck_write(lua_State *L)
{
    if (lua_tointeger(L, WRITE_DONE) == 0)
        return bind_fd_fail(L, &op_write, EAGAIN);
    lua_pushvalue(L, WRITE_DONE);
    return 1;
}

/*** Writes everything if it may wait, else what there is room for.
@function fd:write
@tparam string|number s
@tparam[opt] table options `timeout`: seconds to wait at most until all is written
@treturn[1] integer the bytes written
@treturn[2] nil
@treturn[2] table err; err.written is the number of bytes written before */
static int fd_write(lua_State *L)
{
    bind_fd_self(L);
    luaL_checkstring(L, 2);
    bind_fd_options(L, 3);
    lua_pushinteger(L, 0);
    return bind_fd_drive(L, &op_write);
}

const luaL_Reg bind_fd_io_methods[] = {
    {"read", fd_read},
    {"read_line", fd_read_line},
    {"write", fd_write},
    {NULL, NULL},
};
