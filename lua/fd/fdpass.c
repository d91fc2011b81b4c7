/* Descriptors through a "tine.fd": send_fd, recv_fd, and the queue between. A descriptor
 * travels with one NUL byte of the stream. recv_fd takes both; a plain read that comes
 * first sees the NUL, and leaves the descriptor in the object's queue.
 * Goes into tine-template too: it needs Lua and the system, nothing of tine.h. */
#include "fd.h"
#include "fd_priv.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/rights.h"

static void free_batch(lua_State *L, struct fd_batch *b)
{
    void *ud;
    lua_Alloc alloc = lua_getallocf(L, &ud);

    alloc(ud, b, sizeof *b + (size_t)b->nfds * sizeof b->fd[0], 0);
}

/* Takes the descriptors; without memory they are closed, and it returns NULL. */
static struct fd_batch *new_batch(lua_State *L, const int *fds, int nfds)
{
    void *ud;
    lua_Alloc alloc = lua_getallocf(L, &ud);
    size_t size = (size_t)nfds * sizeof fds[0];
    struct fd_batch *b = alloc(ud, NULL, 0, sizeof *b + size);

    if (!b) {
        while (nfds > 0)
            close(fds[--nfds]);
        return NULL;
    }
    b->next = NULL;
    b->nfds = nfds;
    memcpy(b->fd, fds, size);
    return b;
}

/* Copies out the descriptors of msg that could be kept; *err tells of others. */
static int collect_fds(struct msghdr *msg, int *fds, int *err)
{
    size_t n = tine__rights_get(msg, fds, FD_CONTROL_FDS);
    int nfds = 0;

    for (size_t i = 0; i < n; i++) {
        fds[nfds] = bind_fd_lift(fds[i]);
        if (fds[nfds] >= 0)
            nfds++;
        else
            *err = errno;
    }
    return nfds;
}

/* Queues what msg brought besides bytes. The kernel ends a recvmsg behind the bytes
 * that descriptors were sent with, so that the last byte received is theirs. */
void bind_fd_queue(lua_State *L, struct bind_fd *f, struct msghdr *msg,
                   uint64_t carrier)
{
    int fds[FD_CONTROL_FDS];
    int err = msg->msg_flags & MSG_CTRUNC ? EMFILE : 0;
    int nfds = collect_fds(msg, fds, &err);
    struct fd_batch *b;

    if (!nfds && !err)
        return;
    b = new_batch(L, fds, nfds);
    if (!b) {
        luaL_error(L, "not enough memory");
        return;
    }
    b->carrier = carrier;
    b->err = err;
    if (f->queue)
        f->queue_last->next = b;
    else
        f->queue = b;
    f->queue_last = b;
}

/* The arguments are judged anew in each attempt: who waits may see them closed. */
static int step_send_fd(lua_State *L, struct bind_fd *f)
{
    int fds[FD_RIGHTS_MAX];
    size_t nfds = (size_t)(lua_gettop(L) - FD_DEADLINE);
    union fd_control control;
    struct iovec iov = {.iov_base = "", .iov_len = 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    int flags = MSG_NOSIGNAL | (bind_fd_may_sleep(L, f) ? 0 : MSG_DONTWAIT);
    ssize_t n;

    for (size_t i = 0; i < nfds; i++)
        fds[i] = bind_fd_check(L, FD_DEADLINE + 1 + (int)i, 2 + (int)i);
    if (bind_fd_kind(f) != FD_SOCKET)
        return -ENOTSOCK;
    tine__rights_put(&msg, &control, fds, nfds);
    do
        n = sendmsg(f->fd, &msg, flags);
    while (n < 0 && bind_fd_again());
    if (n < 0)
        return -errno;
    lua_pushboolean(L, 1);
    return 1;
}

/* Whether it is a table, and of none that tells a descriptor. */
static bool is_options(lua_State *L, int idx)
{
    bool is = lua_istable(L, idx) && !lua_getmetatable(L, idx) &&
              lua_getfield(L, idx, "fileno") == LUA_TNIL &&
              lua_getfield(L, idx, "getfd") == LUA_TNIL;

    lua_settop(L, idx);
    return is;
}

/*** Sends descriptors, in one message with one NUL byte. The caller keeps his own.
@function fd:send_fd
@param ... 1 to 253 of: integer, Lua file, tine.fd, object with fileno() or getfd(); behind them
perhaps a table of options, `timeout`: seconds to wait at most
@treturn[1] boolean true
@treturn[2] nil
@treturn[2] table err */
static int fd_send_fd(lua_State *L)
{
    static const struct fd_op op = {
        .name = "send_fd", .event = 'w', .step = step_send_fd};

    bind_fd_self(L);
    luaL_checkany(L, 2);
    if (lua_gettop(L) < 3 || !is_options(L, lua_gettop(L)))
        lua_pushnil(L);
    bind_fd_options(L, lua_gettop(L));
    if (lua_gettop(L) - FD_DEADLINE > FD_RIGHTS_MAX)
        return luaL_error(L, "send_fd: more than %d descriptors", FD_RIGHTS_MAX);
    return bind_fd_drive(L, &op);
}

/* Removes the NUL that carried b from the buffer, if a read has not given it out. */
static void drop_carrier(lua_State *L, struct bind_fd *f, const struct fd_batch *b)
{
    size_t before;

    if (b->carrier < f->taken || b->carrier - f->taken >= f->end - f->start)
        return;
    before = (size_t)(b->carrier - f->taken);
    if (f->buf[f->start + before] != '\0')
        return;
    memmove(f->buf + f->start + 1, f->buf + f->start, before);
    bind_fd_consume(L, f, 1);
}

static void pop_batch(lua_State *L, struct bind_fd *f)
{
    struct fd_batch *b = f->queue;

    drop_carrier(L, f, b);
    f->queue = b->next;
    free_batch(L, b);
}

/* Pushes what the first batch in the queue has to give. */
static int give_batch(lua_State *L, struct bind_fd *f)
{
    struct fd_batch *b = f->queue;
    int nfds = b->nfds;

    if (b->err) {
        bind_fail_errno(L, "recv_fd", b->err);
        b->err = 0;
        if (!nfds)
            pop_batch(L, f);
        return 2;
    }
    luaL_checkstack(L, nfds, NULL);
    for (int i = 0; i < nfds; i++) {
        bind_fd_new(L)->fd = b->fd[i];
        b->fd[i] = -1;
    }
    pop_batch(L, f);
    return nfds;
}

static int step_recv_fd(lua_State *L, struct bind_fd *f)
{
    static const char message[] = "recv_fd: data came where descriptors were expected";
    ssize_t n;

    if (!f->queue) {
        if (bind_fd_kind(f) != FD_SOCKET)
            return -ENOTSOCK;
        bind_fd_reserve(L, f);
        n = bind_fd_receive(L, f, f->buf + f->end, 1);
        if (n < 0)
            return (int)n;
        if (n == 0) {
            lua_pushnil(L);
            return 1;
        }
        f->end += (size_t)n;
    }
    if (f->queue)
        return give_batch(L, f);
    lua_pushnil(L);
    bind_push_error(L, "protocol", message, sizeof message - 1);
    return 2;
}

/*** The descriptors of the next message that has some, and takes away its NUL byte.
Data in its way is left for read and read_line.
@function fd:recv_fd
@tparam[opt] table options `timeout`: seconds to wait at most
@treturn[1] tine.fd one for each descriptor, as many results as were sent
@treturn[2] nil at the end of the file
@treturn[3] nil
@treturn[3] table err; kind "protocol" if data came instead; errno EMFILE if some
descriptors were lost because this process has too many: the next call gives the others,
if any */
static int fd_recv_fd(lua_State *L)
{
    static const struct fd_op op = {
        .name = "recv_fd", .event = 'r', .step = step_recv_fd};

    bind_fd_self(L);
    if (luaL_testudata(L, 2, FD_TYPE)) /* for fd in socket.recv_fd, socket do */
        lua_settop(L, 1);
    bind_fd_options(L, 2);
    return bind_fd_drive(L, &op);
}

const luaL_Reg bind_fd_pass_methods[] = {
    {"send_fd", fd_send_fd},
    {"recv_fd", fd_recv_fd},
    {NULL, NULL},
};
