/* The report channel, on which the processes of a host tell it what becomes of them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/rights.h"
#include "process.h"
#include "wire/protocol.h"

enum { REPORTS_PER_WAKE = 256, MAX_REPORT_FDS = 8 };

static void on_report(void *arg, tine_io *io, int events)
{
    (void)io;
    (void)events;
    tine__host_reports(arg, REPORTS_PER_WAKE);
}

int tine__reports_open(tine_host *host)
{
    int pair[2], on = 1;
    int err = tine__fd_pair(SOCK_SEQPACKET, pair);
    if (err < 0)
        return err;
    host->report_rx = pair[0];
    host->report_tx = pair[1];
    if (setsockopt(host->report_rx, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
        return -errno;
    if ((err = tine__fd_nonblock(host->report_rx, true)) < 0)
        return err;
    if (!host->report_buf)
        host->report_buf = malloc(TINE__REPORT_MAX + 1); /* and a NUL */
    if (!host->report_buf)
        return -ENOMEM;
    return tine__io_internal(host, &host->report_io, host->report_rx, TINE_READ,
                             on_report, host);
}

typedef struct arrival {
    size_t len;
    pid_t sender;
    int fds[MAX_REPORT_FDS];
    size_t nfds;
    bool cut;
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
static int receive(tine_host *host, arrival *a)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(struct ucred)) +
                   CMSG_SPACE(MAX_REPORT_FDS * sizeof(int))];
    } control;
    struct iovec iov = {host->report_buf, TINE__REPORT_MAX};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control};
    ssize_t n;
    memset(a, 0, sizeof *a);
    do {
        msg.msg_controllen = sizeof control;
        n = recvmsg(host->report_rx, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return 0;
    a->len = (size_t)n;
    a->cut = (msg.msg_flags & MSG_TRUNC) != 0;
    read_control(&msg, a);
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

static void on_hello(tine_proc *p, arrival *a, const tine__report *r)
{
    if (r->protocol == TINE__PROTOCOL) {
        if (p->made)
            return;
        p->done = 1; /* our greeting */
        tine__proc_made(p, a->sender, p->adopted ? take_pidfd(a) : -1);
        return;
    }
    char text[200];
    snprintf(text, sizeof text,
             "the interpreter speaks protocol %u (tine %.*s), this program speaks %d "
             "(tine %s)",
             r->protocol, (int)r->version.len, (const char *)r->version.data,
             TINE__PROTOCOL, tine_version());
    tine__proc_broken(p, text);
}

static void on_failed(tine_proc *p, const arrival *a, const tine__report *r)
{
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
    if (p->parent && a->sender == p->parent->pid && !p->made)
        tine__proc_never(p, &err);
    else
        tine__proc_failed(p, &err);
}

static void on_channel(tine_proc *p, arrival *a)
{
    if (!p->consumed || p->own_channel >= 0 || a->nfds != 1) {
        tine__proc_broken(p, "it sent garbage on the report channel");
        return;
    }
    a->nfds = 0;
    p->own_channel = tine__fd_above_stdio(a->fds[0]);
}

/* Nobody else can have written to it, and nothing but why it has failed. */
void tine__reports_last(tine_proc *p)
{
    tine__report r;
    arrival a = {.sender = p->pid};
    tine_error garbage = tine__error_make(
        TINE_KIND_PROTOCOL, p->pid, "the process sent garbage on the report channel");
    if (p->own_channel < 0)
        return;
    ssize_t len = recv(p->own_channel, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
    unsigned char *data = len > 0 ? malloc((size_t)len + 1) : NULL; /* and a NUL */
    if (data && recv(p->own_channel, data, (size_t)len, MSG_DONTWAIT) == len) {
        if (tine__report_decode(&r, data, (size_t)len) == 0 && r.id == p->id &&
            r.type == TINE__REPORT_FAILED)
            on_failed(p, &a, &r);
        else
            tine__proc_failed(p, &garbage);
    }
    free(data);
}

/* Whether the sender may say this of p. */
static bool is_entitled(const tine_proc *p, const arrival *a, const tine__report *r)
{
    bool from_parent = p->parent && p->parent->made && a->sender == p->parent->pid;
    bool from_self = p->made && a->sender == p->pid;
    switch (r->type) {
    case TINE__REPORT_HELLO:
        return !p->parent && !p->made;
    case TINE__REPORT_MADE:
        return p->parent && !p->made;
    case TINE__REPORT_EXITED:
        return from_parent && (!p->made || r->pid == p->pid);
    case TINE__REPORT_FAILED:
        return from_self || (from_parent && !p->made) ||
               (p->direct && !p->made && a->sender == p->pid);
    default:
        return from_self;
    }
}

/* A few words of somebody who is not known any more may be late. */
static bool is_flood(tine_host *host, const arrival *a)
{
    enum { LATE = 1000 };
    if (a->sender != host->strange_pid)
        host->strange = 0;
    host->strange_pid = a->sender;
    return ++host->strange > LATE;
}

static void dispatch(tine_host *host, arrival *a)
{
    tine__report r;
    bool bad = a->cut || tine__report_decode(&r, host->report_buf, a->len) < 0;
    tine_proc *p = bad ? NULL : tine__host_find(host, r.id);
    if (!bad && !p && is_flood(host, a))
        bad = true;
    if (!bad && (!p || p->ended || p->dying))
        return; /* news of somebody whom nobody asks for any more */
    if (bad || !is_entitled(p, a, &r)) {
        p = tine__host_find_pid(host, a->sender);
        if (p)
            tine__proc_broken(p, "it sent garbage on the report channel");
        return;
    }
    /* Both also tell how far the parent has come; callbacks may free p meanwhile. */
    bool of_parent = r.type == TINE__REPORT_MADE || r.type == TINE__REPORT_EXITED;
    uint64_t parent = of_parent ? p->parent->id : 0;
    switch (r.type) {
    case TINE__REPORT_HELLO:
        on_hello(p, a, &r);
        break;
    case TINE__REPORT_MADE:
        tine__proc_made(p, a->sender, take_pidfd(a));
        break;
    case TINE__REPORT_IDLE:
        tine__proc_did(p, r.seq);
        break;
    case TINE__REPORT_FAILED:
        on_failed(p, a, &r);
        break;
    case TINE__REPORT_EXITED:
        p->pid = r.pid;
        if (r.status < 0) /* somebody else's wait in the parent was faster */
            r.status = tine__pidfd_status(p);
        tine__proc_ended(p, r.status, &r.rusage);
        break;
    case TINE__REPORT_MEMORY:
        tine__proc_told_memory(p, &r);
        break;
    case TINE__REPORT_CHANNEL:
        on_channel(p, a);
        break;
    default:
        break;
    }
    if (of_parent && (p = tine__host_find(host, parent)))
        tine__proc_did(p, r.seq);
}

static void close_channel(tine_host *host)
{
    tine_io_free(host->report_io);
    host->report_io = NULL;
    tine__fd_close(&host->report_rx);
    tine__fd_close(&host->report_tx);
}

/* Whoever holds the far side can shut it down for all. None of them can be heard any more:
 * they end, and what is made from now on has a channel of its own. */
static void renew_report_channel(tine_host *host)
{
    close_channel(host);
    int err = tine__reports_open(host);
    if (err < 0) {
        char text[100];
        tine_error e = tine__error_system(err, text, sizeof text, "report channel");
        close_channel(host);
        tine__host_fault(host, &e);
    }
    for (size_t i = 0; i < host->nslots; i++)
        if (host->slots[i])
            host->slots[i]->unheard = !host->slots[i]->parent;
    for (size_t i = 0; i < host->nslots; i++) { /* callbacks may make others */
        tine_proc *p = host->slots[i];
        if (p && p->unheard && !p->ended)
            tine__proc_broken(p,
                              "one of the host's processes shut their report channel");
    }
}

bool tine__host_reports(tine_host *host, int most)
{
    arrival a;
    int more = 1;
    /* A callback may end in here again; the buffer is in use then. */
    if (host->draining)
        return false;
    host->draining = true;
    while (most-- > 0 && !host->stopped && (more = receive(host, &a)) > 0) {
        dispatch(host, &a);
        tine__fd_close_all(a.fds, a.nfds);
    }
    host->draining = false;
    if (more < 0)
        renew_report_channel(host);
    return more <= 0;
}

void tine__host_take_made(tine_host *host)
{
    arrival a;
    while (host->report_rx >= 0 && receive(host, &a) > 0) {
        tine__report r;
        bool bad = a.cut || tine__report_decode(&r, host->report_buf, a.len) < 0;
        tine_proc *p = bad ? NULL : tine__host_find(host, r.id);
        if (p && r.type == TINE__REPORT_MADE && is_entitled(p, &a, &r)) {
            p->made = true;
            p->pid = a.sender;
            p->pidfd = take_pidfd(&a);
        }
        tine__fd_close_all(a.fds, a.nfds);
    }
}
