/* What the files behind the userdata "tine.fd" share: fd.c has its life, fdwait.c its
 * waiting, fdio.c moves bytes and descriptors, sock.c makes sockets. Nobody else
 * includes this. */
#ifndef TINE_FD_FD_PRIV_H
#define TINE_FD_FD_PRIV_H

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#define FD_TYPE "tine.fd"

enum {
    FD_RIGHTS_MAX = 253 /* the most descriptors the kernel takes in one message */
};

enum fd_kind {
    FD_UNKNOWN,
    FD_SOCKET,
    FD_STREAM, /* a pipe, a terminal, ...: may block */
    FD_FILE    /* never blocks, as poll sees it */
};

/* The descriptors of one message, received and not yet asked for. */
struct fd_batch {
    struct fd_batch *next;
    uint64_t carrier; /* position in the stream of the byte that brought them */
    int err; /* not 0: some were lost for this reason, which is yet to be told */
    int nfds;
    int fd[];
};

struct bind_fd {
    int fd; /* -1: closed */
    unsigned generation;
    enum fd_kind kind;
    bool blocking; /* waits by itself where no wait function does */
    bool watched;  /* the wait function has seen this object */
    bool timed;    /* the method that runs has a deadline */
    /* Bytes read ahead: buf[start..end), the first `scanned` of which hold no newline.
     * The memory is the Lua allocator's. */
    char *buf;
    size_t cap, start, end, scanned;
    uint64_t taken; /* bytes of the stream before buf[start] */
    struct fd_batch *queue, *queue_last;
};

/* A method that may have to wait, and that starts anew after each wait. The object is
 * at index 1, the deadline at index 2 (see bind_fd_options); what the method must
 * remember lies on the stack above them. */
struct fd_op {
    const char *name;
    int what;   /* index of the text that begins messages; 0: the name does */
    char event; /* what it waits for: 'r' or 'w' */
    /* One attempt. Pushes results and returns their number, or leaves the stack as it
     * was and returns an errno negated, -EAGAIN to wait. */
    int (*step)(lua_State *L, struct bind_fd *f);
    /* Results when waiting is impossible. NULL: nil and EAGAIN. */
    int (*stuck)(lua_State *L);
    /* Completes the err on top of the stack. May be NULL. */
    void (*blame)(lua_State *L);
};

enum { FD_DEADLINE = 2 };

/* Takes the options of a method, { timeout = seconds } or nil, from idx, the last of its
 * arguments, and moves the deadline that they make to index 2, below the others: a time of
 * tine__clock_ns, or nil. Raises an argument error for idx. */
void bind_fd_options(lua_State *L, int idx);
/* Nanoseconds until the deadline at index 2: 0 when it is over, -1 if there is none. */
int64_t bind_fd_time_left(lua_State *L);
/* Pushes nil and an err of kind "timeout" for op. Returns 2. */
int bind_fd_time_out(lua_State *L, const struct fd_op *op);

/* Runs op on the object at index 1, waiting as often as it must. */
int bind_fd_drive(lua_State *L, const struct fd_op *op);
/* Pushes nil and an err for op; "closed" if the object at index 1 is. Returns 2. */
int bind_fd_fail(lua_State *L, const struct fd_op *op, int err);
/* Pushes nil and an err of kind "closed". Returns 2. */
int bind_fd_fail_closed(lua_State *L, const char *what);

/* The argument at index 1, or an argument error. It may be closed. */
struct bind_fd *bind_fd_self(lua_State *L);
/* Pushes a closed object; its descriptor is then assigned to it. */
struct bind_fd *bind_fd_new(lua_State *L);
/* Whether the object is open in this process. */
bool bind_fd_live(lua_State *L, struct bind_fd *f);
/* Gives the descriptor of the open object at index 1, which is closed from then on. */
int bind_fd_take(lua_State *L, struct bind_fd *f);

enum fd_kind bind_fd_kind(struct bind_fd *f);
/* Whether system calls on f may sleep: by its policy, where no wait function is set, and
 * the method that runs has no deadline. */
bool bind_fd_may_sleep(lua_State *L, const struct bind_fd *f);
/* Whether a plain system call on f could sleep, seen from the descriptor. */
bool bind_fd_would_sleep(struct bind_fd *f);
/* poll(2) for 'r' or 'w', without waiting: whether a call would not have to. */
bool bind_fd_is_ready(int fd, char event);
/* Whether a system call that has failed is to be made again. */
bool bind_fd_again(void);
/* Sets O_NONBLOCK. Returns 0 or an errno negated. */
int bind_fd_set_nonblock(int fd, bool on);
/* Moves a fresh descriptor out of the range of stdio. Takes fd. Returns the new one, or
 * -1 with errno set. */
int bind_fd_lift(int fd);
/* What bind_fd_set_default_blocking has set. */
bool bind_fd_default_blocking(void);

/* fdio.c */

/* One attempt to receive into out; what comes besides bytes is queued. The caller then
 * adds the bytes to f->end or to f->taken. Returns bytes, 0 at the end, or an errno
 * negated. */
ssize_t bind_fd_receive(lua_State *L, struct bind_fd *f, void *out, size_t size);
/* Makes room behind f->end. */
void bind_fd_reserve(lua_State *L, struct bind_fd *f);
/* Removes n bytes from the front of the buffer. */
void bind_fd_consume(lua_State *L, struct bind_fd *f, size_t n);

/* fdpass.c */

union fd_control {
    char space[CMSG_SPACE(FD_RIGHTS_MAX * sizeof(int))];
    struct cmsghdr align;
};
enum { FD_CONTROL_FDS = sizeof(union fd_control) / sizeof(int) };

/* Queues the descriptors that msg brought, and takes them. carrier is the position in the
 * stream of the last byte received. */
void bind_fd_queue(lua_State *L, struct bind_fd *f, struct msghdr *msg,
                   uint64_t carrier);

extern const luaL_Reg bind_fd_io_methods[];
extern const luaL_Reg bind_fd_pass_methods[];
extern const luaL_Reg bind_fd_sock_methods[];
extern const luaL_Reg bind_fd_sock_functions[];

#endif
