#include "passing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"

typedef union control {
    struct cmsghdr align;
    char space[CMSG_SPACE(TINE__FDS_AT_ONCE * sizeof(int))];
} control;

/* ----------------------------------------------------------------------- sets */

int tine__fds_new(tine__fds **out, const int *fds, size_t n)
{
    if (n > TINE__FDS_MOST)
        return -EMSGSIZE;
    tine__fds *s = malloc(sizeof *s + n * sizeof *fds);
    if (!s)
        return -ENOMEM;
    s->refs = 1;
    for (s->n = 0; s->n < n; s->n++) {
        int fd = tine__fd_dup(fds[s->n]);
        if (fd < 0) {
            tine__fds_unref(s);
            return fd;
        }
        s->fd[s->n] = fd;
    }
    *out = s;
    return 0;
}

void tine__fds_unref(tine__fds *s)
{
    if (!s || --s->refs)
        return;
    tine__fd_close_all(s->fd, s->n);
    free(s);
}

/* ------------------------------------------------------------------- messages */

/* Lists the descriptors of a message. */
static size_t list(struct msghdr *msg, int fds[TINE__FDS_AT_ONCE])
{
    size_t n = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len;
             at += sizeof(int))
            if (n < TINE__FDS_AT_ONCE)
                memcpy(&fds[n++], (unsigned char *)c + at, sizeof(int));
    }
    return n;
}

/* Without memory they are closed, and the frame that speaks of them finds none. */
static void take(tine__inbox *in, struct msghdr *msg)
{
    int fds[TINE__FDS_AT_ONCE];
    size_t n = list(msg, fds);
    bool lost = (msg->msg_flags & MSG_CTRUNC) != 0;
    if (!n && !lost)
        return;
    tine__batch *b = malloc(sizeof *b + n * sizeof *fds);
    if (!b) {
        tine__fd_close_all(fds, n);
        return;
    }
    *b = (tine__batch){.lost = lost};
    for (size_t i = 0; i < n; i++) {
        int fd = tine__fd_above_stdio(fds[i]);
        if (fd >= 0)
            b->fd[b->n++] = fd;
        else
            b->lost = true;
    }
    if (in->last)
        in->last->next = b;
    else
        in->first = b;
    in->last = b;
}

ssize_t tine__passing_recv(int sock, void *to, size_t len, int flags, tine__inbox *in)
{
    if (!in)
        return recv(sock, to, len, flags);
    control space;
    struct iovec iov = {to, len};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &space,
                         .msg_controllen = sizeof space};
    ssize_t n = recvmsg(sock, &msg, flags | MSG_CMSG_CLOEXEC);
    if (n >= 0 && (msg.msg_controllen || msg.msg_flags & MSG_CTRUNC))
        take(in, &msg);
    return n;
}

ssize_t tine__passing_send(int sock, const void *data, size_t len, int flags,
                           const int *fds, size_t n)
{
    control space;
    size_t size = n * sizeof *fds;
    struct iovec iov = {(void *)(size_t)data, len};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &space,
                         .msg_controllen = CMSG_SPACE(size)};
    memset(&space, 0, sizeof space);
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(c), fds, size);
    return sendmsg(sock, &msg, flags);
}

/* ---------------------------------------------------------------------- inbox */

static bool room(tine__inbox *in, size_t count)
{
    if (in->cap - in->n >= count)
        return true;
    int *fds = realloc(in->fds, (in->n + count) * sizeof *fds);
    if (!fds)
        return false;
    in->fds = fds;
    in->cap = in->n + count;
    return true;
}

bool tine__inbox_claim(tine__inbox *in, uint32_t count, uint32_t first, uint64_t serial)
{
    tine__batch *b = in->first;
    if (!first)
        tine__inbox_drop(in);
    else if (in->n != first || in->serial != serial)
        return false;
    in->serial = serial;
    bool fits = b && count && count <= TINE__FDS_AT_ONCE &&
                (b->lost ? b->n <= count : b->n == count) &&
                in->n + count <= TINE__FDS_MOST && room(in, count);
    if (!fits)
        return false;
    for (size_t i = 0; i < count; i++)
        in->fds[in->n++] = i < b->n ? b->fd[i] : -1;
    in->first = b->next;
    if (!in->first)
        in->last = NULL;
    free(b);
    return true;
}

void tine__inbox_drop(tine__inbox *in)
{
    for (size_t i = 0; i < in->n; i++)
        tine__fd_close(&in->fds[i]);
    in->n = 0;
}

void tine__inbox_free(tine__inbox *in)
{
    tine__inbox_drop(in);
    while (in->first) {
        tine__batch *b = in->first;
        in->first = b->next;
        tine__fd_close_all(b->fd, b->n);
        free(b);
    }
    free(in->fds);
    memset(in, 0, sizeof *in);
}
