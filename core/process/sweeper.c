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
    const char *path = tine_host_interpreter(host);
    if (!path || tine__fd_pair(SOCK_SEQPACKET, pair) < 0)
        return;
    tine__exec_args args = {
        .path = path,
        .command_fd = pair[1],
        .stdio = {TINE__EXEC_NULL, TINE__EXEC_NULL, TINE__EXEC_NULL},
        .apart = true,
        .sweeps = true,
    };
    if (tine__exec_start(&args, &pid, &host->sweeper_pidfd, &step) == 0) {
        host->sweeper_fd = pair[0];
        pair[0] = -1;
    }
    tine__fd_close_all(pair, 2);
}

static int tell(const tine_host *host, const tine_proc *p)
{
    int32_t session = p->apart ? p->pid : 0;
    TINE__RIGHTS_ROOM(1) control;
    struct iovec iov = {&session, sizeof session};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    tine__rights_put(&msg, &control, &p->pidfd, 1);
    return sendmsg(host->sweeper_fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno
                                                                            : 0;
}

void tine__sweeper_watch(tine_host *host, const tine_proc *p)
{
    if (p->detach || p->pidfd < 0)
        return;
    if (host->sweeper_fd < 0)
        start(host);
    if (host->sweeper_fd < 0 || tell(host, p) != -EPIPE)
        return;
    /* Somebody has killed it. */
    tine__sweeper_end(host);
    start(host);
    for (size_t i = 0; host->sweeper_fd >= 0 && i < host->nslots; i++) {
        const tine_proc *other = host->slots[i];
        if (other && !other->detach && other->pidfd >= 0 &&
            (other->direct || other->spare))
            tell(host, other);
    }
}

/* It goes by itself when its socket ends. */
void tine__sweeper_end(tine_host *host)
{
    siginfo_t info;
    struct pollfd end = {host->sweeper_pidfd, POLLIN, 0};
    tine__fd_close(&host->sweeper_fd);
    if (host->sweeper_pidfd < 0)
        return;
    if (poll(&end, 1, PATIENCE_MS) <= 0)
        syscall(SYS_pidfd_send_signal, host->sweeper_pidfd, SIGKILL, NULL, 0);
    while (waitid((idtype_t)P_PIDFD, (id_t)host->sweeper_pidfd, &info, WEXITED) < 0 &&
           errno == EINTR)
        ;
    tine__fd_close(&host->sweeper_pidfd);
}
