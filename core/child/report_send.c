/* Sending of reports. Blocks while the host is busy: that keeps its memory bounded. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/rights.h"
#include "child.h"
#include "wire/protocol.h"

enum { SHORT_TEXT = 400 };

static ssize_t send_once(int to, const tine__buf *b, int fd)
{
    TINE__RIGHTS_ROOM(1) control;
    struct iovec iov = {b->data, b->len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    tine__rights_put(&msg, &control, &fd, fd >= 0);
    return sendmsg(to, &msg, MSG_NOSIGNAL);
}

/* needs_fd: without fd the report is of no use. Returns 0, or -ETOOMANYREFS: then it was not sent. */
static int send_report(const tine__child *c, const tine__buf *b, int fd, bool needs_fd)
{
    while (c->report >= 0 && send_once(c->report, b, fd) < 0) {
        struct pollfd p = {c->report, POLLOUT, 0};
        switch (errno) {
        case EINTR:
            break;
        case EAGAIN: /* somebody who shares the socket made it nonblocking */
            poll(&p, 1, -1);
            break;
        case ENOBUFS:
        case ENOMEM:
            poll(NULL, 0, 5);
            break;
        case ETOOMANYREFS:
            if (needs_fd)
                return -ETOOMANYREFS;
            fd = -1;
            break;
        default:
            /* No stdio here: this may be a signal handler in the middle of it. */
            if (!c->detach)
                tine__end();
            return 0;
        }
    }
    return 0;
}

void tine__report_send(tine__child *c, const tine__report *r, int fd)
{
    /* Short reports are made without malloc: this is called in signal handlers too. */
    unsigned char space[512];
    tine__buf b = {.data = space, .cap = sizeof space};
    size_t text = r->version.len + r->lua.len + r->message.len + r->traceback.len;
    if (text > SHORT_TEXT)
        b = (tine__buf){0};
    tine__report_encode(&b, r);
    if (b.failed) {
        /* Without its text rather than not at all: the host waits for it. */
        tine__report brief = *r;
        brief.message.len = r->message.len < SHORT_TEXT ? r->message.len : SHORT_TEXT;
        brief.traceback.len = 0;
        tine__buf_free(&b);
        b = (tine__buf){.data = space, .cap = sizeof space};
        tine__report_encode(&b, &brief);
    }
    send_report(c, &b, fd, false);
    if (b.data != space)
        tine__buf_free(&b);
}

void tine__report_send_failed(tine__child *c, uint64_t id, tine_kind kind,
                              int sys_errno, tine_str message, tine_str traceback)
{
    tine__report r = {.type = TINE__REPORT_FAILED,
                      .id = id,
                      .kind = kind,
                      .sys_errno = sys_errno,
                      .message = message,
                      .traceback = traceback};
    tine__report_send(c, &r, -1);
}

/* The host hears of the first failure only: what follows are its consequences. */
void tine__fail(tine__child *c, tine_kind kind, int sys_errno, const char *message,
                size_t len, const char *traceback, size_t traceback_len)
{
    if (c->failed)
        return;
    c->failed = true;
    c->why_kind = kind;
    size_t kept = len < sizeof c->why ? len : sizeof c->why - 1;
    memcpy(c->why, message, kept);
    c->why[kept] = 0;
    fflush(NULL);
    if (c->report < 0 &&
        !c->detach) /* there has been no greeting; somebody may read it */
        fprintf(stderr, "tine: %.*s\n", (int)len, message);
    tine__report_send_failed(c, c->id, kind, sys_errno, (tine_str){message, len},
                             (tine_str){traceback, traceback_len});
}

void tine__fail_system(tine__child *c, const char *what, int err)
{
    char text[300];
    snprintf(text, sizeof text, "%s: %s (%s)", what, tine_strerror(-err),
             tine_errname(-err));
    tine__fail(c, TINE_KIND_SYSTEM, err, text, strlen(text), "", 0);
}

/* Out of descriptors, or with too many in flight, it stays on the shared one. */
void tine__channel_own(tine__child *c)
{
    int pair[2];
    unsigned char space[128];
    tine__buf b = {.data = space, .cap = sizeof space};
    if (c->workers.n || c->report < 0 || tine__fd_pair(SOCK_SEQPACKET, pair) < 0)
        return;
    tine__report_encode(&b, &(tine__report){.type = TINE__REPORT_CHANNEL, .id = c->id});
    if (send_report(c, &b, pair[1], true) < 0) {
        tine__fd_close_all(pair, 2);
        return;
    }
    tine__fd_close(&pair[1]);
    tine__fd_close(&c->report);
    c->report = pair[0];
}

void tine__channel_leave(tine__child *c)
{
    if (!c->workers.n)
        tine__fd_close(&c->report);
}
