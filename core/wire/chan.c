#include "chan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/fd.h"
#include "base/rights.h"
#include "frame.h"

/* A worker's few commands fit into the first size; a long queue gets the second. */
enum { SMALL_SEGMENT = 448, SEGMENT = 4032, MAX_IOV = 64, FLUSH_ROUNDS = 32 };
static const uint64_t max_body = (uint64_t)1 << 40;

/* Bytes to send; the descriptors ride with the first of them, so a frame that has some
 * begins a segment, and a segment that has some begins a sendmsg: then a receiver that is
 * out of descriptors knows which frame lost them. */
typedef struct tine__segment {
    struct tine__segment *next;
    size_t len, sent, cap;
    int *fds;
    size_t nfds;
    unsigned char data[];
} segment;

void tine__chan_init(tine__chan *c, int fd)
{
    c->fd = fd;
    c->head = c->tail = NULL;
}

static void segment_free(segment *s)
{
    tine__fd_close_all(s->fds, s->nfds);
    free(s->fds);
    free(s);
}

void tine__chan_free(tine__chan *c)
{
    while (c->head) {
        segment *s = c->head;
        c->head = s->next;
        segment_free(s);
    }
    c->tail = NULL;
    tine__fd_close(&c->fd);
}

bool tine__chan_empty(const tine__chan *c)
{
    return !c->head;
}

static segment *segment_new(size_t len, size_t nfds, size_t least)
{
    size_t cap = len < least ? least : len;
    segment *s = malloc(sizeof *s + cap);
    if (!s)
        return NULL;
    memset(s, 0, sizeof *s);
    s->cap = cap;
    if (nfds && !(s->fds = malloc(nfds * sizeof *s->fds))) {
        free(s);
        return NULL;
    }
    return s;
}

static void append(segment *s, const void *data, size_t len)
{
    if (len)
        memcpy(s->data + s->len, data, len);
    s->len += len;
}

int tine__chan_put(tine__chan *c, int type, const tine_str *parts, size_t nparts,
                   const int *fds, size_t nfds)
{
    uint64_t len = 0;
    for (size_t i = 0; i < nparts; i++)
        len += parts[i].len;
    if (len > max_body || nfds > TINE_MAX_FDS)
        return -EMSGSIZE;
    size_t need = TINE__FRAME_HEAD + (size_t)len;
    segment *s = c->tail;
    if (!s || nfds || s->cap - s->len < need) {
        s = segment_new(need, nfds, s && !nfds ? SEGMENT : SMALL_SEGMENT);
        if (!s)
            return -ENOMEM;
        if (c->tail)
            c->tail->next = s;
        else
            c->head = s;
        c->tail = s;
    }
    unsigned char head[TINE__FRAME_HEAD];
    tine__frame_head(head, type, nfds, len);
    append(s, head, sizeof head);
    for (size_t i = 0; i < nparts; i++)
        append(s, parts[i].data, parts[i].len);
    if (nfds)
        memcpy(s->fds, fds, nfds * sizeof *fds);
    s->nfds = nfds ? nfds : s->nfds;
    return 0;
}

static void consume(tine__chan *c, size_t n)
{
    while (c->head && n >= c->head->len - c->head->sent) {
        segment *s = c->head;
        n -= s->len - s->sent;
        c->head = s->next;
        segment_free(s);
    }
    if (!c->head) {
        c->tail = NULL;
        return;
    }
    c->head->sent += n;
    /* The descriptors went with the first byte. */
    if (n) {
        tine__fd_close_all(c->head->fds, c->head->nfds);
        c->head->nfds = 0;
    }
}

static ssize_t send_some(const tine__chan *c)
{
    struct iovec iov[MAX_IOV];
    TINE__RIGHTS_ROOM(TINE_MAX_FDS) control;
    struct msghdr msg = {.msg_iov = iov};
    const segment *first = c->head;
    for (segment *s = c->head; s && msg.msg_iovlen < MAX_IOV; s = s->next) {
        if (s != first && s->nfds)
            break;
        iov[msg.msg_iovlen].iov_base = s->data + s->sent;
        iov[msg.msg_iovlen++].iov_len = s->len - s->sent;
    }
    tine__rights_put(&msg, &control, first->fds, first->nfds);
    return sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

int tine__chan_flush(tine__chan *c)
{
    for (int rounds = 0; c->head; rounds++) {
        if (c->fd < 0)
            return -EPIPE;
        if (rounds == FLUSH_ROUNDS)
            return -EAGAIN;
        ssize_t n = send_some(c);
        if (n >= 0) {
            consume(c, (size_t)n);
            continue;
        }
        switch (errno) {
        case EINTR:
            break;
        case EAGAIN:
            return -EAGAIN;
        case ENOBUFS:
        case ENOMEM:
        case ETOOMANYREFS: /* descriptors in flight count against RLIMIT_NOFILE */
            return -ENOBUFS;
        default:
            return -errno;
        }
    }
    return 0;
}
