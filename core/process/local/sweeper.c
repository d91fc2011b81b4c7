/* The host's side of the sweeper. */
#include "sweeper.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/rights.h"
#include "exec.h"

enum { PATIENCE_MS = 1000 };

static void start(tine_host *host)
{
    int pair[2];
    pid_t pid;
    const char *step;
    tine__local_host *h = host->local;
    const char *path = tine__local_interpreter(host);
    if (!path || tine__fd_pair(SOCK_SEQPACKET, pair) < 0)
        return;
    tine__exec_args args = {
        .path = path,
        .command_fd = pair[1],
        .stdio = {TINE__EXEC_NULL, TINE__EXEC_NULL, TINE__EXEC_NULL},
        .apart = true,
        .sweeps = true,
    };
    if (tine__exec_start(&args, &pid, &h->sweeper_pidfd, &step) == 0) {
        h->sweeper_fd = pair[0];
        h->sweeper_proven = false;
        pair[0] = -1;
    }
    tine__fd_close_all(pair, 2);
}

static int tell(const tine__local *l)
{
    int32_t session = l->apart ? l->link.pid : 0;
    TINE__RIGHTS_ROOM(1) control;
    struct iovec iov = {&session, sizeof session};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    tine__rights_put(&msg, &control, &l->pidfd, 1);
    int fd = tine__local_host_of(l)->sweeper_fd;
    return sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

void tine__sweeper_watch(const tine__local *l)
{
    tine__local_host *h = tine__local_host_of(l);
    if (l->link.detach || l->pidfd < 0)
        return;
    if (h->sweeper_fd >= 0 && tell(l) != -EPIPE)
        return;
    /* There is none, or somebody has killed it. */
    tine__sweeper_end(h);
    start(l->link.host);
    for (size_t i = 0; h->sweeper_fd >= 0 && i < h->nslots; i++) {
        const tine__local *other = h->slots[i];
        if (other && !other->link.detach && other->pidfd >= 0 &&
            (other->direct || other->link.spare))
            tell(other);
    }
}

void tine__sweeper_doubt(tine__local_host *h)
{
    if (h->sweeper_pidfd < 0 || h->sweeper_proven)
        return;
    syscall(SYS_pidfd_send_signal, h->sweeper_pidfd, SIGKILL, NULL, 0);
    tine__sweeper_end(h);
}

/* It goes by itself when its socket ends. */
void tine__sweeper_end(tine__local_host *h)
{
    siginfo_t info;
    struct pollfd end = {h->sweeper_pidfd, POLLIN, 0};
    tine__fd_close(&h->sweeper_fd);
    if (h->sweeper_pidfd < 0)
        return;
    if (poll(&end, 1, PATIENCE_MS) <= 0)
        syscall(SYS_pidfd_send_signal, h->sweeper_pidfd, SIGKILL, NULL, 0);
    while (waitid((idtype_t)P_PIDFD, (id_t)h->sweeper_pidfd, &info, WEXITED) < 0 &&
           errno == EINTR)
        ;
    tine__fd_close(&h->sweeper_pidfd);
}
