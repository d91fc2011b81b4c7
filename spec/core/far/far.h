/* What the two ends of the tests' second transport say to each other: messages on one plain stream,
 * without a descriptor. near.c is what the module has in the place of core/process/local/, far_end.c
 * the program where the processes are. Integers are as wire/frame.h has them; both ends are of one
 * build, so what is a struct may go as it is. */
#ifndef TINE_SPEC_FAR_H
#define TINE_SPEC_FAR_H

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "process/transport.h"
#include "wire/frame.h"

/* A message: u32 length of the body, u32 kind, u64 whom it is about, body. Down, as the functions of
 * a transport: */
enum far_kind {
    FAR_EXEC =
        1, /* birth; then str interpreter, str lua_path, str lua_cpath (empty: none) */
    FAR_FORK,   /* u64 parent, birth */
    FAR_PUT,    /* u32 type, the command's body */
    FAR_SERVE,  /* the command's body, less the offset of the region */
    FAR_LISTEN, /* u32 commanded, u32 idle */
    FAR_SHUT_DOWN,
    FAR_GIVE,
    FAR_SIGNAL, /* u32 number, u32 tine__target */
    FAR_ORPHAN,
    FAR_CLOSE,
    FAR_FREE,
    /* up, as its news: */
    FAR_MADE = 100, /* u32 pid */
    FAR_DID,        /* u64 */
    FAR_FAILED,     /* error */
    FAR_NEVER,      /* error */
    FAR_HUNG,       /* error */
    FAR_BROKEN,     /* str */
    FAR_ENDED,      /* tine_exit */
    FAR_MEMORY,     /* u64 command, tine__figures */
    FAR_SHUT,       /* nobody reads its commands any more */
    /* both ways, once the socket was handed over: */
    FAR_DATA = 200,
    FAR_DATA_END
};

enum { FAR_HEAD = 16, FAR_CHUNK = 16384 };

/* birth: u32 detach, u32 spare, str name (empty: none), three u32 tine_stdio_how.
 * error: u32 kind, u32 errno, u32 pid, str message, str traceback (empty: none). */

/* One end's stream. */
typedef struct far_stream {
    int fd;
    tine__buf in, out;
    size_t sent;       /* of out */
    uint64_t all_sent; /* bytes since it began */
    tine_io *read_io, *write_io;
} far_stream;

typedef struct far_message {
    enum far_kind kind;
    uint64_t id;
    tine__cursor body;
} far_message;

static inline void far_begin(tine__buf *b, enum far_kind kind, uint64_t id)
{
    *b = (tine__buf){0};
    tine__buf_u32(b, 0);
    tine__buf_u32(b, (uint32_t)kind);
    tine__buf_u64(b, id);
}

static inline uint64_t far_end_of(const far_stream *s)
{
    return s->all_sent + (s->out.len - s->sent);
}

/* Writes what goes. Returns whether all has gone. */
static inline bool far_flush(far_stream *s)
{
    while (s->sent < s->out.len) {
        ssize_t n = send(s->fd, s->out.data + s->sent, s->out.len - s->sent,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return false;
        n = n < 0 ? (ssize_t)(s->out.len - s->sent) : n; /* nobody is there any more */
        s->sent += (size_t)n;
        s->all_sent += (uint64_t)n;
    }
    s->out.len = s->sent = 0;
    return true;
}

/* Queues the message, and frees b. */
static inline void far_queue(far_stream *s, tine__buf *b)
{
    uint32_t len = (uint32_t)(b->len - FAR_HEAD);
    for (int i = 0; i < 4; i++)
        b->data[i] = (unsigned char)(len >> 8 * i);
    tine__buf_put(&s->out, b->data, b->len);
    tine__buf_free(b);
}

static inline void far_say(far_stream *s, enum far_kind kind, uint64_t id)
{
    tine__buf b;
    far_begin(&b, kind, id);
    far_queue(s, &b);
}

static inline void far_say_data(far_stream *s, enum far_kind kind, uint64_t id,
                                const void *data, size_t len)
{
    tine__buf b;
    far_begin(&b, kind, id);
    tine__buf_put(&b, data, len);
    far_queue(s, &b);
}

static inline void far_say_error(far_stream *s, enum far_kind kind, uint64_t id,
                                 const tine_error *err)
{
    tine__buf b;
    far_begin(&b, kind, id);
    tine__buf_u32(&b, (uint32_t)err->kind);
    tine__buf_u32(&b, (uint32_t)err->sys_errno);
    tine__buf_u32(&b, (uint32_t)err->pid);
    tine__buf_str(&b, err->message, err->message_len);
    tine__buf_str(&b, err->traceback ? err->traceback : "", err->traceback_len);
    far_queue(s, &b);
}

/* The texts are in the message. */
static inline tine_error far_get_error(tine__cursor *c)
{
    tine_error err = {.code = -1};
    err.kind = (tine_kind)tine__get_u32(c);
    err.sys_errno = (int)tine__get_u32(c);
    err.pid = (pid_t)tine__get_u32(c);
    tine_str message = tine__get_str(c), traceback = tine__get_str(c);
    err.message = message.data;
    err.message_len = message.len;
    err.traceback = traceback.len ? traceback.data : NULL;
    err.traceback_len = traceback.len;
    tine__end_str(message);
    if (traceback.len)
        tine__end_str(traceback);
    return err;
}

/* Has each whole message that is there handled, as long as handle says so. */
static inline void far_take(far_stream *s, bool (*handle)(void *arg, far_message *m),
                            void *arg)
{
    size_t at = 0;
    for (bool more = true; more && s->in.len - at >= FAR_HEAD;) {
        unsigned char *head = s->in.data + at;
        tine__cursor c = {head, head + FAR_HEAD, false};
        size_t len = tine__get_u32(&c);
        far_message m = {.kind = (enum far_kind)tine__get_u32(&c)};
        m.id = tine__get_u64(&c);
        if (s->in.len - at - FAR_HEAD < len)
            break;
        m.body = (tine__cursor){head + FAR_HEAD, head + FAR_HEAD + len, false};
        at += FAR_HEAD + len;
        unsigned char behind = s->in.data[at]; /* texts get a NUL there */
        more = handle(arg, &m);
        s->in.data[at] = behind;
    }
    memmove(s->in.data, s->in.data + at, s->in.len - at);
    s->in.len -= at;
}

/* Reads what is there. Returns false at the end. */
static inline bool far_read(far_stream *s)
{
    for (;;) {
        unsigned char *room = tine__buf_room(&s->in, FAR_CHUNK + 1);
        ssize_t n = room ? recv(s->fd, room, FAR_CHUNK, MSG_DONTWAIT) : -1;
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 && errno == EAGAIN;
        s->in.len += (size_t)n;
    }
}

/* What a socket that was handed over is joined with the stream by. */
typedef struct far_pump {
    int fd; /* -1: none */
    tine_io *read_io, *write_io;
    tine__buf out; /* to be written to fd */
    bool ended;    /* the other end has nothing more */
} far_pump;

/* What goes into fd now. Returns false where nobody reads it. */
static inline bool far_pump_write(far_pump *p)
{
    while (p->out.len) {
        ssize_t n = send(p->fd, p->out.data, p->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN;
        memmove(p->out.data, p->out.data + n, p->out.len - (size_t)n);
        p->out.len -= (size_t)n;
    }
    if (p->ended)
        shutdown(p->fd, SHUT_WR);
    return true;
}

static inline void far_pump_close(far_pump *p)
{
    tine_io_free(p->read_io);
    tine_io_free(p->write_io);
    p->read_io = p->write_io = NULL;
    if (p->fd >= 0)
        close(p->fd);
    p->fd = -1;
    tine__buf_free(&p->out);
}

#endif
