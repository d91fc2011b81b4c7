/* Sockets as "tine.fd": addresses as text, listen, connect, accept, socketpair,
 * shutdown. Goes into tine-template too: it needs Lua and the system, nothing of
 * tine.h. */
#include "addr.h"
#include "fd.h"
#include "fd_priv.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

typedef int name_function(int fd, struct sockaddr *to, socklen_t *len);

static int name_of(lua_State *L, name_function *get, const char *what)
{
    struct bind_fd *f = bind_fd_self(L);
    struct bind_address a = {.len = sizeof a.to};

    if (!bind_fd_live(L, f))
        return bind_fd_fail_closed(L, what);
    if (get(f->fd, &a.to.any, &a.len) < 0)
        return bind_fail_errno(L, what, errno);
    return bind_address_push(L, &a, what);
}

static int get_name(int fd, struct sockaddr *to, socklen_t *len)
{
    return getsockname(fd, to, len);
}

static int get_peer(int fd, struct sockaddr *to, socklen_t *len)
{
    return getpeername(fd, to, len);
}

/*** Where the socket is bound, as listen and connect take it; "unix:" if nowhere.
@function fd:address
@treturn[1] string
@treturn[2] nil
@treturn[2] table err */
static int fd_address(lua_State *L)
{
    return name_of(L, get_name, "address");
}

/*** Where the other end is bound.
@function fd:peer
@treturn[1] string
@treturn[2] nil
@treturn[2] table err */
static int fd_peer(lua_State *L)
{
    return name_of(L, get_peer, "peer");
}

/* Making sockets. */

/* Connected sockets block, and calls on them say themselves that they must not: the flag would
 * go with the socket to programs that know nothing of it. For accept there is no other way, and
 * others may be faster after a poll. */
static int listener_flag(void)
{
    return bind_fd_default_blocking() ? 0 : SOCK_NONBLOCK;
}

static void drop_socket(struct bind_fd *f)
{
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
}

/* Gives f a socket. Returns 0 or an errno. */
static int open_socket(struct bind_fd *f, int family, int flags)
{
    f->fd = bind_fd_lift(socket(family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
    return f->fd < 0 ? errno : 0;
}

/* Removes the file of a unix socket that nobody listens to. Returns whether it did. */
static bool remove_stale(const struct bind_address *a)
{
    struct stat st;
    bool refused;
    int fd;

    if (a->to.un.sun_path[0] == '\0' || lstat(a->to.un.sun_path, &st) < 0 ||
        !S_ISSOCK(st.st_mode))
        return false;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    refused = connect(fd, &a->to.any, a->len) < 0 && errno == ECONNREFUSED;
    close(fd);
    return refused && unlink(a->to.un.sun_path) == 0;
}

struct listen_options {
    int backlog;
    int mode; /* of the file of a unix socket; -1: as the umask says */
    bool reuseport;
};

static int bind_unix(struct bind_fd *f, const struct bind_address *a,
                     const struct listen_options *o)
{
    int n = bind(f->fd, &a->to.any, a->len);

    if (n < 0 && errno == EADDRINUSE) {
        if (!remove_stale(a))
            return EADDRINUSE;
        n = bind(f->fd, &a->to.any, a->len);
    }
    if (n < 0)
        return errno;
    /* Nobody can connect before listen, so that no one slips in with the wrong mode. */
    if (o->mode >= 0 && a->to.un.sun_path[0] != '\0' &&
        chmod(a->to.un.sun_path, (mode_t)o->mode) < 0)
        return errno;
    return 0;
}

static int bind_inet(struct bind_fd *f, const struct bind_address *a,
                     const struct listen_options *o)
{
    const int on = 1;

    if (setsockopt(f->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        return errno;
    if (o->reuseport && setsockopt(f->fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) < 0)
        return errno;
    return bind(f->fd, &a->to.any, a->len) < 0 ? errno : 0;
}

static int listen_at(struct bind_fd *f, const struct bind_address *a,
                     const struct listen_options *o)
{
    bool is_unix = a->to.any.sa_family == AF_UNIX;
    int err = open_socket(f, a->to.any.sa_family, listener_flag());

    if (!err)
        err = is_unix ? bind_unix(f, a, o) : bind_inet(f, a, o);
    if (!err && listen(f->fd, o->backlog) < 0)
        err = errno;
    if (err)
        drop_socket(f);
    return err;
}

static int check_int(lua_State *L, const char *name, lua_Integer max)
{
    int exact;
    lua_Integer n = lua_tointegerx(L, -1, &exact);

    if (!exact || lua_type(L, -1) != LUA_TNUMBER || n < 0 || n > max) {
        lua_pushfstring(L, "option '%s' is no integer from 0 to %I", name,
                        (LUAI_UACINT)max);
        luaL_argerror(L, 2, lua_tostring(L, -1));
    }
    return (int)n;
}

static void check_option(lua_State *L, struct listen_options *o)
{
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";

    if (strcmp(name, "backlog") == 0) {
        o->backlog = check_int(L, name, INT_MAX);
    } else if (strcmp(name, "mode") == 0) {
        o->mode = check_int(L, name, 07777);
    } else if (strcmp(name, "reuseport") == 0) {
        luaL_argcheck(L, lua_isboolean(L, -1), 2, "option 'reuseport' is no boolean");
        o->reuseport = lua_toboolean(L, -1);
    } else {
        lua_pushfstring(L, "unknown option '%s'", name);
        luaL_argerror(L, 2, lua_tostring(L, -1));
    }
}

static void check_options(lua_State *L, struct listen_options *o)
{
    *o = (struct listen_options){.backlog = SOMAXCONN, .mode = -1};
    if (lua_isnoneornil(L, 2))
        return;
    luaL_checktype(L, 2, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1))
        check_option(L, o);
}

/*** Listens at an address. Names are looked up, which may block. A unix socket's file
that nobody listens to any more is replaced; "unix:@name" is an abstract name.
@function listen
@tparam string address "host:port", "[::1]:port", "unix:/path"; port 0: any free one
@tparam[opt] table opts backlog: integer, default the system's most; reuseport: boolean,
for TCP; mode: permissions of a unix socket's file, an integer, default by the umask. In a
host the socket is nonblocking, as whoever shares one with others needs it
@treturn[1] tine.fd
@treturn[2] nil
@treturn[2] table err */
static int sock_listen(lua_State *L)
{
    struct listen_options options;
    struct bind_target t;
    struct bind_fd *f;
    const char *what;
    int n;
    int err = EADDRNOTAVAIL;

    luaL_checkstring(L, 1);
    lua_settop(L, 2);
    check_options(L, &options);
    what = lua_pushfstring(L, "listen %s", lua_tostring(L, 1));
    if ((n = bind_target_parse(L, 1, what, &t)))
        return n;
    f = bind_fd_new(L);
    for (int i = 0; i < t.n; i++) {
        err = listen_at(f, &t.addresses[i], &options);
        if (!err)
            return 1;
    }
    return bind_fail_errno(L, what, err);
}

/* Stack: object, deadline, struct bind_target, text for messages. */
enum { CONNECT_TARGET = FD_DEADLINE + 1, CONNECT_TEXT };

static int step_connect(lua_State *L, struct bind_fd *f);
static int stuck_connect(lua_State *L);
static void blame_connect(lua_State *L);

static const struct fd_op op_connect = {.name = "connect",
                                        .what = CONNECT_TEXT,
                                        .event = 'w',
                                        .step = step_connect,
                                        .stuck = stuck_connect,
                                        .blame = blame_connect};

/* Connects a unix socket, whose listener may have no room for one more. Returns 0 or an errno:
 * EAGAIN when the deadline is over. */
static int connect_asleep(lua_State *L, int fd, const struct bind_address *a)
{
    static const struct timeval none = {0};
    int n, err;

    do {
        int64_t left = bind_fd_time_left(L);
        int64_t usec = (left + 999) / 1000;
        struct timeval most = {.tv_sec = usec / 1000000, .tv_usec = usec % 1000000};
        if (left == 0)
            return EAGAIN;
        if (left > 0)
            setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof most);
        n = connect(fd, &a->to.any, a->len);
    } while (n < 0 && bind_fd_again());
    err = n < 0 ? errno : 0;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof none);
    return err;
}

/* Starts on the next address that does not fail at once. Returns 0 or an errno. A TCP
 * socket does not sleep until it is connected, whatever it does later. */
static int connect_next(lua_State *L, struct bind_fd *f, struct bind_target *t)
{
    int err = EADDRNOTAVAIL;

    while (t->next < t->n) {
        const struct bind_address *a = &t->addresses[t->next++];
        int family = a->to.any.sa_family;
        int64_t left = bind_fd_time_left(L);
        bool sleeps = family == AF_UNIX && f->blocking && left != 0;

        err = open_socket(f, family, sleeps ? 0 : SOCK_NONBLOCK);
        if (err)
            return err;
        if (sleeps)
            err = connect_asleep(L, f->fd, a);
        else
            err = connect(f->fd, &a->to.any, a->len) < 0 ? errno : 0;
        bind_fd_set_nonblock(f->fd, false);
        t->pending = err == EINPROGRESS;
        if (!err || t->pending)
            return 0;
        drop_socket(f);
    }
    return err;
}

/* EAGAIN: a unix socket's listener had no room, and only connect itself can wait for some. */
static int connect_failed(lua_State *L, const struct bind_fd *f, int err)
{
    if (err == EAGAIN && f->blocking && !lua_isnil(L, FD_DEADLINE))
        return bind_fd_time_out(L, &op_connect);
    return bind_fail_errno(L, lua_tostring(L, CONNECT_TEXT), err);
}

static int step_connect(lua_State *L, struct bind_fd *f)
{
    struct bind_target *t = lua_touserdata(L, CONNECT_TARGET);

    while (t->pending) {
        int err = 0;
        socklen_t len = sizeof err;

        if (!bind_fd_is_ready(f->fd, 'w'))
            return -EAGAIN;
        if (getsockopt(f->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
            err = errno;
        if (!err)
            break;
        close(bind_fd_take(L, f));
        if (t->next < t->n)
            err = connect_next(L, f, t);
        if (err)
            return connect_failed(L, f, err);
    }
    lua_pushvalue(L, 1);
    return 1;
}

/* Nobody else has the socket. */
static void blame_connect(lua_State *L)
{
    struct bind_fd *f = lua_touserdata(L, 1);

    if (bind_fd_live(L, f))
        close(bind_fd_take(L, f));
}

static int stuck_connect(lua_State *L)
{
    lua_pushvalue(L, 1);
    return 1;
}

/*** Connects to an address. Names are looked up, which may block, and for longer than the timeout
says. Where it may not wait, a TCP socket is returned while it is being connected: what becomes of
it, its reads and writes tell. A unix socket whose listener has a full backlog fails with EAGAIN
where a loop runs.
@function connect
@tparam string address as for listen
@tparam[opt] table options `timeout`: seconds to wait at most
@treturn[1] tine.fd
@treturn[2] nil
@treturn[2] table err */
static int sock_connect(lua_State *L)
{
    struct bind_target *t;
    struct bind_fd *f;
    const char *what;
    int n;

    luaL_checkstring(L, 1);
    bind_fd_options(L, 2);
    t = lua_newuserdatauv(L, sizeof *t, 0);
    what = lua_pushfstring(L, "connect %s", lua_tostring(L, 1));
    if ((n = bind_target_parse(L, 1, what, t)))
        return n;
    f = bind_fd_new(L);
    lua_replace(L, 1);
    if ((n = connect_next(L, f, t)))
        return connect_failed(L, f, n);
    return bind_fd_drive(L, &op_connect);
}

/*** A pair of connected unix stream sockets.
@function socketpair
@treturn[1] tine.fd
@treturn[1] tine.fd
@treturn[2] nil
@treturn[2] table err */
static int sock_socketpair(lua_State *L)
{
    struct bind_fd *a = bind_fd_new(L);
    struct bind_fd *b = bind_fd_new(L);
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return bind_fail_errno(L, "socketpair", errno);
    b->fd = fds[1];
    a->fd = bind_fd_lift(fds[0]);
    if (a->fd >= 0)
        b->fd = bind_fd_lift(fds[1]);
    if (a->fd < 0 || b->fd < 0)
        return bind_fail_errno(L, "socketpair", errno);
    return 2;
}

/* Stack: listening object, deadline, the object to be. */
enum { ACCEPT_MADE = FD_DEADLINE + 1 };

static int step_accept(lua_State *L, struct bind_fd *f)
{
    struct bind_fd *made = lua_touserdata(L, ACCEPT_MADE);
    int fd;

    /* Others may be faster after a poll. */
    if (f->timed && bind_fd_would_sleep(f))
        bind_fd_set_nonblock(f->fd, true);
    if (!bind_fd_may_sleep(L, f) && bind_fd_would_sleep(f) &&
        !bind_fd_is_ready(f->fd, 'r'))
        return -EAGAIN;
    do
        fd = accept4(f->fd, NULL, NULL, SOCK_CLOEXEC);
    while (fd < 0 && (errno == ECONNABORTED || bind_fd_again()));
    made->fd = bind_fd_lift(fd);
    if (made->fd < 0)
        return -errno;
    lua_pushvalue(L, ACCEPT_MADE);
    return 1;
}

/*** Waits for a connection to a listening socket.
@function fd:accept
@tparam[opt] table options `timeout`: seconds to wait at most. It makes the listening socket
nonblocking, for all who have it: whoever shares one is not to be kept by a connection that another
took
@treturn[1] tine.fd
@treturn[2] nil
@treturn[2] table err */
static int fd_accept(lua_State *L)
{
    static const struct fd_op op = {
        .name = "accept", .event = 'r', .step = step_accept};

    bind_fd_self(L);
    if (luaL_testudata(L, 2, FD_TYPE)) /* for fd in listener.accept, listener do */
        lua_settop(L, 1);
    bind_fd_options(L, 2);
    bind_fd_new(L);
    return bind_fd_drive(L, &op);
}

/*** Ends one direction of a connection, or both.
@function fd:shutdown
@tparam string how "r", "w" or "rw"
@treturn[1] boolean true
@treturn[2] nil
@treturn[2] table err */
static int fd_shutdown(lua_State *L)
{
    static const char *const names[] = {"r", "w", "rw", NULL};
    static const int hows[] = {SHUT_RD, SHUT_WR, SHUT_RDWR};
    struct bind_fd *f = bind_fd_self(L);
    int how = hows[luaL_checkoption(L, 2, NULL, names)];

    if (!bind_fd_live(L, f))
        return bind_fd_fail_closed(L, "shutdown");
    if (shutdown(f->fd, how) < 0)
        return bind_fail_errno(L, "shutdown", errno);
    lua_pushboolean(L, 1);
    return 1;
}

const luaL_Reg bind_fd_sock_methods[] = {
    {"accept", fd_accept},
    {"shutdown", fd_shutdown},
    {"address", fd_address},
    {"peer", fd_peer},
    {NULL, NULL},
};

const luaL_Reg bind_fd_sock_functions[] = {
    {"listen", sock_listen},
    {"connect", sock_connect},
    {"socketpair", sock_socketpair},
    {NULL, NULL},
};
