/* The report channel, on which the processes of a host tell it what becomes of them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/rights.h"
#include "local_priv.h"
#include "sweeper.h"
#include "wire/protocol.h"

enum { REPORTS_PER_WAKE = 256, MAX_REPORT_FDS = 8 };

static void on_report(void *arg, tine_io *io, int events)
{
    (void)io;
    (void)events;
    tine__reports_read(arg, REPORTS_PER_WAKE);
}

int tine__reports_open(tine_host *host)
{
    tine__local_host *h = host->local;
    int pair[2], on = 1;
    int err = tine__fd_pair(SOCK_SEQPACKET, pair);
    if (err < 0)
        return err;
    h->report_rx = pair[0];
    h->report_tx = pair[1];
    if (setsockopt(h->report_rx, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
        return -errno;
    if ((err = tine__fd_nonblock(h->report_rx, true)) < 0)
        return err;
    if (!h->report_buf)
        h->report_buf = malloc(TINE__REPORT_MAX + 1); /* and a NUL */
    if (!h->report_buf)
        return -ENOMEM;
    return tine__io_internal(host, &h->report_io, h->report_rx, TINE_READ, on_report,
                             host);
}

void tine__reports_close(tine__local_host *h)
{
    tine_io_free(h->report_io);
    h->report_io = NULL;
    tine__fd_close(&h->report_rx);
    tine__fd_close(&h->report_tx);
}

typedef struct arrival {
    size_t len;
    pid_t sender;
    int fds[MAX_REPORT_FDS];
    size_t nfds;
    bool cut;
    bool lost; /* its descriptors, since we had none free */
} arrival;

static void read_control(struct msghdr *msg, arrival *a)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        struct ucred cred;
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_CREDENTIALS ||
            c->cmsg_len < CMSG_LEN(sizeof cred))
            continue;
        memcpy(&cred, CMSG_DATA(c), sizeof cred);
        a->sender = cred.pid;
    }
    a->nfds = tine__rights_get(msg, a->fds, MAX_REPORT_FDS);
}

/* Returns 1 with a message, 0 when there is none, -1 when the channel is shut. */
static int receive(const tine__local_host *h, arrival *a)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(struct ucred)) +
                   CMSG_SPACE(MAX_REPORT_FDS * sizeof(int))];
    } control;
    struct iovec iov = {h->report_buf, TINE__REPORT_MAX};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control};
    ssize_t n;
    memset(a, 0, sizeof *a);
    do {
        msg.msg_controllen = sizeof control;
        n = recvmsg(h->report_rx, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return 0;
    a->len = (size_t)n;
    a->cut = (msg.msg_flags & MSG_TRUNC) != 0;
    read_control(&msg, a);
    a->lost = !a->nfds && (msg.msg_flags & MSG_CTRUNC);
    return n == 0 && !a->sender ? -1 : 1; /* an empty message has a sender */
}

/* The descriptor of the sender that came with the report, or -1. */
static int take_pidfd(arrival *a)
{
    if (a->nfds != 1)
        return -1;
    a->nfds = 0;
    return tine__fd_above_stdio(a->fds[0]);
}

/* Of a process that we have not made its descriptor tells how it ends. -ESRCH: it has ended since
 * it answered. */
static int watch_adopted(tine__local *l, pid_t pid, int pidfd)
{
    char text[200];
    int fd = pidfd >= 0 ? pidfd : tine__pidfd_open(pid);
    if (fd >= 0)
        l->pidfd = fd;
    int err = fd < 0 ? fd : tine__pidfd_watch(l);
    if (err < 0 && err != -ESRCH) {
        tine_error error = tine__error_system(
            err, text, sizeof text, "cannot watch the process behind the descriptor");
        l->link.news->never(&l->link, &error);
    }
    return err;
}

static void answered(tine__local *l, arrival *a)
{
    static const struct rusage none;
    const tine__news *news = l->link.news;
    tine_timer_free(l->timer);
    l->timer = NULL;
    if (l->direct)
        tine__local_host_of(l)->sweeper_proven = true;
    int err = l->adopted ? watch_adopted(l, a->sender, take_pidfd(a)) : 0;
    if (err < 0 && err != -ESRCH)
        return;
    l->link.pid = a->sender;
    l->link.made = true;
    l->link.refs++;
    news->did(&l->link, 1); /* our greeting */
    news->made(&l->link);
    if (err < 0)
        tine__local_ended(l, 0, -1, &none); /* how, nobody can know */
    l->link.refs--;
    news->turn(&l->link);
}

static void on_hello(tine__local *l, arrival *a, const tine__report *r)
{
    if (r->protocol == TINE__PROTOCOL) {
        answered(l, a);
        return;
    }
    if (l->direct)
        tine__sweeper_doubt(tine__local_host_of(l));
    char text[200];
    snprintf(text, sizeof text,
             "the interpreter speaks protocol %u (tine %.*s), this program speaks %d "
             "(tine %s)",
             r->protocol, (int)r->version.len, (const char *)r->version.data,
             TINE__PROTOCOL, tine_version());
    l->link.news->broken(&l->link, text);
}

static void on_made(tine__local *l, arrival *a)
{
    int pidfd = take_pidfd(a);
    if (pidfd >= 0)
        l->pidfd = pidfd;
    l->link.pid = a->sender;
    l->link.made = true;
    if (l->link.spare)
        tine__sweeper_watch(l);
    l->link.news->made(&l->link);
}

static void on_failed(tine__local *l, const arrival *a, const tine__report *r)
{
    const tine__link *parent = l->link.parent;
    tine__end_str(r->message);
    tine__end_str(r->traceback);
    tine_error err = {
        .kind = r->kind,
        .message = r->message.data,
        .message_len = r->message.len,
        .traceback = r->traceback.len ? r->traceback.data : NULL,
        .traceback_len = r->traceback.len,
        .pid = a->sender,
        .code = -1,
        .sys_errno = r->sys_errno,
    };
    if (parent && a->sender == parent->pid && !l->link.made)
        l->link.news->never(&l->link, &err);
    else
        l->link.news->failed(&l->link, &err);
}

static void on_exited(tine__local *l, const tine__report *r)
{
    /* Somebody else's wait in the parent may have been faster. */
    int status = r->status < 0 ? tine__pidfd_status(l) : r->status;
    l->tidied = status >= 0;
    tine__local_ended(l, r->pid, status, &r->rusage);
}

static void sent_garbage(tine__local *l)
{
    l->link.news->broken(&l->link, "it sent garbage on the report channel");
}

/* It has left the shared one for a channel of which we have no end: nothing could be heard of it. */
static void never_heard(tine__local *l, int err)
{
    char text[200];
    tine_error error =
        tine__error_system(err, text, sizeof text,
                           "process %d was killed: no descriptor free for the worker's "
                           "report channel",
                           (int)l->link.pid);
    error.pid = l->link.pid;
    l->link.news->hung(&l->link, &error);
}

static void on_channel(tine__local *l, arrival *a)
{
    bool awaited = !l->commanded && l->own_channel < 0;
    if (!awaited || (a->nfds != 1 && !a->lost)) {
        sent_garbage(l);
        return;
    }
    int fd = a->lost ? -EMFILE : tine__fd_above_stdio(a->fds[0]);
    a->nfds = 0;
    if (fd < 0)
        never_heard(l, fd);
    else
        l->own_channel = fd;
}

/* Nobody else can have written to it, and nothing but why it has failed. */
void tine__reports_last(tine__local *l)
{
    tine__report r;
    arrival a = {.sender = l->link.pid};
    tine_error garbage =
        tine__error_make(TINE_KIND_PROTOCOL, l->link.pid,
                         "the process sent garbage on the report channel");
    if (l->own_channel < 0)
        return;
    ssize_t len = recv(l->own_channel, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
    unsigned char *data = len > 0 ? malloc((size_t)len + 1) : NULL; /* and a NUL */
    if (data && recv(l->own_channel, data, (size_t)len, MSG_DONTWAIT) == len) {
        if (tine__report_decode(&r, data, (size_t)len) == 0 && r.id == l->id &&
            r.type == TINE__REPORT_FAILED)
            on_failed(l, &a, &r);
        else
            l->link.news->failed(&l->link, &garbage);
    }
    free(data);
}

/* Whether the sender may say this of l. */
static bool is_entitled(const tine__local *l, const arrival *a, const tine__report *r)
{
    const tine__link *parent = l->link.parent;
    bool made = l->link.made;
    bool from_parent = parent && parent->made && a->sender == parent->pid;
    bool from_self = made && a->sender == l->link.pid;
    switch (r->type) {
    case TINE__REPORT_HELLO:
        return !parent && !made;
    case TINE__REPORT_MADE:
        return parent && !made;
    case TINE__REPORT_EXITED:
        return from_parent && (!made || r->pid == l->link.pid);
    case TINE__REPORT_FAILED:
        return from_self || (from_parent && !made) ||
               (l->direct && !made && a->sender == l->link.pid);
    default:
        return from_self;
    }
}

/* A few words of somebody who is not known any more may be late. */
static bool is_flood(tine__local_host *h, const arrival *a)
{
    enum { LATE = 1000 };
    if (a->sender != h->strange_pid)
        h->strange = 0;
    h->strange_pid = a->sender;
    return ++h->strange > LATE;
}

/* What l says, or is said of it. */
static void tell(tine__local *l, arrival *a, const tine__report *r)
{
    const tine__news *news = l->link.news;
    switch (r->type) {
    case TINE__REPORT_HELLO:
        on_hello(l, a, r);
        break;
    case TINE__REPORT_MADE:
        on_made(l, a);
        break;
    case TINE__REPORT_IDLE:
        news->did(&l->link, r->seq);
        break;
    case TINE__REPORT_FAILED:
        on_failed(l, a, r);
        break;
    case TINE__REPORT_EXITED:
        on_exited(l, r);
        break;
    case TINE__REPORT_MEMORY:
        news->memory(&l->link, r->seq, &r->figures);
        break;
    case TINE__REPORT_CHANNEL:
        on_channel(l, a);
        break;
    default:
        break;
    }
}

static void dispatch(tine__local_host *h, arrival *a)
{
    tine__report r;
    bool bad = a->cut || tine__report_decode(&r, h->report_buf, a->len) < 0;
    tine__local *l = bad ? NULL : tine__local_find(h, r.id);
    if (!bad && !l && is_flood(h, a))
        bad = true;
    if (!bad && (!l || l->link.over))
        return; /* news of somebody whom nobody asks for any more */
    if (bad || !is_entitled(l, a, &r)) {
        l = tine__local_find_pid(h, a->sender);
        if (l)
            sent_garbage(l);
        return;
    }
    /* Both also tell how far the parent has come; callbacks may free either meanwhile. */
    bool of_parent = r.type == TINE__REPORT_MADE || r.type == TINE__REPORT_EXITED;
    uint64_t parent = of_parent ? tine__local_of(l->link.parent)->id : 0;
    tell(l, a, &r);
    if (of_parent && (l = tine__local_find(h, parent)))
        l->link.news->did(&l->link, r.seq);
}

/* Whoever holds the far side can shut it down for all. None of them can be heard any more:
 * they end, and what is made from now on has a channel of its own. */
static void renew_report_channel(tine_host *host)
{
    tine__local_host *h = host->local;
    tine__reports_close(h);
    int err = tine__reports_open(host);
    if (err < 0) {
        char text[100];
        tine_error e = tine__error_system(err, text, sizeof text, "report channel");
        tine__reports_close(h);
        h->news->fault(host, &e);
    }
    for (size_t i = 0; i < h->nslots; i++)
        if (h->slots[i])
            h->slots[i]->unheard = !h->slots[i]->link.parent;
    for (size_t i = 0; i < h->nslots; i++) { /* callbacks may make others */
        tine__local *l = h->slots[i];
        if (l && l->unheard && !l->link.over)
            l->link.news->broken(
                &l->link, "one of the host's processes shut their report channel");
    }
}

bool tine__reports_read(tine_host *host, int most)
{
    tine__local_host *h = host->local;
    arrival a;
    int more = 1;
    /* A callback may end in here again; the buffer is in use then. */
    if (h->draining)
        return false;
    h->draining = true;
    while (most-- > 0 && !host->stopped && (more = receive(h, &a)) > 0) {
        dispatch(h, &a);
        tine__fd_close_all(a.fds, a.nfds);
    }
    h->draining = false;
    if (more < 0)
        renew_report_channel(host);
    return more <= 0;
}

void tine__reports_take_made(tine_host *host)
{
    tine__local_host *h = host->local;
    arrival a;
    while (h->report_rx >= 0 && receive(h, &a) > 0) {
        tine__report r;
        bool bad = a.cut || tine__report_decode(&r, h->report_buf, a.len) < 0;
        tine__local *l = bad ? NULL : tine__local_find(h, r.id);
        if (l && r.type == TINE__REPORT_MADE && is_entitled(l, &a, &r)) {
            l->link.made = true;
            l->link.pid = a.sender;
            l->pidfd = take_pidfd(&a);
        }
        tine__fd_close_all(a.fds, a.nfds);
    }
}
