/* What goes to a worker: frames, queued in a buffer and sent in the next turn, some with descriptors. */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "client_priv.h"

enum { KEEP_BUFFER = 1 << 20, FEW = 512 };

static void on_writable(void *arg, tine_io *io, int events)
{
    (void)io;
    (void)events;
    tine__client_flush(arg);
}

static void watch_writes(tine__client *c, bool on)
{
    if (on && !c->write_io) {
        if (tine__io_internal(c->config->host, &c->write_io, c->fd, TINE_WRITE,
                              on_writable, c) < 0)
            tine__host_post(c->config->host,
                            &c->flush_task); /* for as long as it takes */
    } else if (!on && c->write_io) {
        tine_io_free(c->write_io);
        c->write_io = NULL;
    }
}

static void pop_mark(tine__client *c)
{
    tine__fd_mark *m = c->fd_marks;
    c->fd_marks = m->next;
    tine__fds_unref(m->set);
    free(m);
}

void tine__client_drop_fds(tine__client *c)
{
    while (c->fd_marks)
        pop_mark(c);
}

/* As send, up to where descriptors go along. */
static ssize_t send_marked(tine__client *c)
{
    const int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
    const tine__fd_mark *m = c->fd_marks;
    if (m->at > c->sent)
        return send(c->fd, c->out.data + c->sent, m->at - c->sent, flags);
    size_t end = m->next ? m->next->at : c->out.len;
    ssize_t n = tine__passing_send(c->fd, c->out.data + c->sent, end - c->sent, flags,
                                   m->set->fd + m->first, m->n);
    if (n > 0)
        pop_mark(c);
    return n;
}

static ssize_t send_some(tine__client *c)
{
    if (c->fd_marks)
        return send_marked(c);
    return send(c->fd, c->out.data + c->sent, c->out.len - c->sent,
                MSG_NOSIGNAL | MSG_DONTWAIT);
}

static bool is_short(int err)
{
    return err == EAGAIN || err == ENOBUFS || err == ENOMEM || err == ETOOMANYREFS;
}

static void sent_all(tine__client *c)
{
    tine__client_drop_fds(c);
    c->out.len = c->sent = 0;
    if (c->out.cap > KEEP_BUFFER)
        tine__buf_free(&c->out);
    watch_writes(c, false);
    bool hears = c->config->async && c->first && c->said_end; /* of what is cancelled */
    if (c->closed && !c->shut && !hears) {
        c->shut = true;
        shutdown(c->fd, SHUT_WR);
    }
}

/* Before a worker that is never quite through what was sent to it lets the buffer grow. */
static void forget_sent(tine__client *c)
{
    size_t left = c->out.len - c->sent;
    if (c->sent < left)
        return;
    memmove(c->out.data, c->out.data + c->sent, left);
    c->out.len = left;
    for (tine__fd_mark *m = c->fd_marks; m; m = m->next)
        m->at -= c->sent;
    c->sent = 0;
}

void tine__client_flush(tine__client *c)
{
    if (c->fd < 0)
        return;
    while (c->sent < c->out.len) {
        ssize_t n = send_some(c);
        if (n > 0) {
            c->sent += (size_t)n;
            atomic_store_explicit(&c->region.page->cpu, sched_getcpu(),
                                  memory_order_relaxed);
            atomic_store_explicit(&c->region.page->sends, ++c->nsends,
                                  memory_order_release);
        } else if (n < 0 && is_short(errno)) {
            forget_sent(c);
            watch_writes(c, true);
            return;
        } else if (n < 0 && errno != EINTR) {
            break; /* nobody reads: its end, or that of its socket, will be seen */
        }
    }
    sent_all(c);
}

void tine__client_flush_task(void *arg)
{
    tine__client_flush(arg);
}

/* While we read the answers of the only worker that has calls, it can begin with the next ones,
 * if it has a CPU of its own; where there are others, they have something to do. */
static bool wants_early(const tine__client *c)
{
    const tine_host *host = c->config->host;
    return !tine__loop_is_alone(host) && host->nbusy == 1;
}

int tine__client_put(tine__client *c, int type, uint64_t serial, const void *body,
                     size_t len)
{
    unsigned char *to = tine__buf_room(&c->out, TINE__CALL_HEAD + len);
    if (!to)
        return -ENOMEM;
    tine__call_head_put(to, type, serial, (uint32_t)len);
    if (len)
        memcpy(to + TINE__CALL_HEAD, body, len);
    c->out.len += TINE__CALL_HEAD + len;
    if (!c->reading)
        tine__host_post(c->config->host, &c->flush_task);
    else if (wants_early(c) && c->out.len - c->sent > FEW)
        tine__client_flush(c);
    return 0;
}

static int put_mark(tine__client *c, tine__fds *set, size_t first, size_t n)
{
    tine__fd_mark *m = malloc(sizeof *m);
    if (!m)
        return -ENOMEM;
    *m = (tine__fd_mark){.at = c->out.len, .set = set, .first = first, .n = n};
    set->refs++;
    tine__fd_mark **link = &c->fd_marks;
    while (*link)
        link = &(*link)->next;
    *link = m;
    return 0;
}

int tine__client_put_fds(tine__client *c, tine__fds *set, uint64_t serial)
{
    for (size_t first = 0; first < set->n;) {
        size_t n = set->n - first;
        if (n > TINE__FDS_AT_ONCE)
            n = TINE__FDS_AT_ONCE;
        unsigned char body[TINE__CALL_FDS] = {
            (unsigned char)n,           0, 0, 0, (unsigned char)first,
            (unsigned char)(first >> 8)};
        unsigned char *room = tine__buf_room(&c->out, TINE__CALL_HEAD + sizeof body);
        int err = room ? put_mark(c, set, first, n) : -ENOMEM;
        if (!err)
            err = tine__client_put(c, TINE__FDS, serial, body, sizeof body);
        if (err < 0)
            return err;
        first += n;
    }
    return 0;
}
