/* Ends of processes that nobody reports to us: our own children, and those whose template
 * died first. Never waits for a process that is not known to be ours. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "process.h"

enum {
    ASK_AGAIN_USEC = 2000,
    ASK_AGAIN = 50,
    STAT_EXIT_CODE = 52,
    UNKNOWN = -1,
    NOT_YET = -2
};
enum { REPORTS_FIRST = 4096 };

/* linux/pidfd.h as of 6.15; Debian 12's headers are older. */
struct pidfd_info_v0 {
    uint64_t mask, cgroupid;
    uint32_t ids[11];
    int32_t exit_code;
};
#define PIDFD_GET_INFO_V0 _IOWR(0xFF, 11, struct pidfd_info_v0)
#define PIDFD_INFO_EXIT_V0 (UINT64_C(1) << 3)

/* The wait status of a process that somebody else reaps. It is there once that has
 * happened. */
static int status_from_info(const tine_proc *p)
{
    struct pidfd_info_v0 info = {.mask = PIDFD_INFO_EXIT_V0};
    if (ioctl(p->pidfd, PIDFD_GET_INFO_V0, &info) < 0)
        return errno == ESRCH ? NOT_YET : UNKNOWN;
    return info.mask & PIDFD_INFO_EXIT_V0 ? info.exit_code : NOT_YET;
}

/* The same while it is a zombie that its new parent has not reaped yet: the last field of
 * /proc/PID/stat. The pidfd then shows that the id was still its own. */
static int status_from_proc(const tine_proc *p)
{
    char path[40], line[2048];
    int field = 2, status = NOT_YET;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)p->pid);
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(line, 1, sizeof line - 1, f) : 0;
    if (f)
        fclose(f);
    line[n] = 0;
    char *at = strrchr(line, ')');
    if (!at || strncmp(at, ") Z", 3) != 0)
        return NOT_YET;
    for (; *at && field < STAT_EXIT_CODE; at++)
        field += *at == ' ';
    if (sscanf(at, "%d", &status) != 1)
        return NOT_YET;
    return tine__pidfd_signal(p, 0) == -ESRCH ? NOT_YET : status;
}

static int status_of_orphan(const tine_proc *p)
{
    int status = status_from_info(p);
    return status < 0 ? status_from_proc(p) : status;
}

/* Our own child; somebody else's waitpid(-1), or an ignored SIGCHLD, may have been faster. */
static int status_from_wait(tine_proc *p, struct rusage *rusage)
{
    siginfo_t info;
    memset(&info, 0, sizeof info);
    long result;
    if (!p->detach)
        tine__proc_signal_group(p, SIGKILL); /* what it has started goes with it */
    do
        result =
            syscall(SYS_waitid, P_PIDFD, p->pidfd, &info, WEXITED | WNOHANG, rusage);
    while (result < 0 && errno == EINTR);
    if (result < 0)
        return status_of_orphan(p);
    if (!info.si_pid)
        return NOT_YET;
    return info.si_code == CLD_EXITED ? (info.si_status & 0xff) << 8 : info.si_status;
}

static void ask(tine_proc *p, int tries);

static void on_ask_again(void *arg, tine_timer *timer)
{
    tine_proc *p = arg;
    (void)timer;
    tine_timer_free(p->timer);
    p->timer = NULL;
    ask(p, --p->asks);
}

static void ask(tine_proc *p, int tries)
{
    struct rusage rusage;
    memset(&rusage, 0, sizeof rusage);
    int status = p->direct ? status_from_wait(p, &rusage) : status_of_orphan(p);
    if (status == NOT_YET && tries > 0) {
        tine_timer_free(p->timer);
        p->timer = NULL;
        p->asks = tries;
        if (tine__timer_internal(p->host, &p->timer, ASK_AGAIN_USEC, on_ask_again, p) ==
            0)
            return;
    }
    tine__proc_ended(p, status < 0 ? UNKNOWN : status, &rusage);
}

static void on_pidfd(void *arg, tine_io *io, int events)
{
    tine_proc *p = arg;
    (void)io;
    (void)events;
    /* What it had reported comes before its end, also when a callback stops the loop. */
    p->refs++;
    bool drained = tine__host_reports(p->host, REPORTS_FIRST);
    p->refs--;
    if (!drained)
        return;
    tine_io_free(p->pidfd_io);
    p->pidfd_io = NULL;
    if (!p->ended && !p->dying)
        ask(p, ASK_AGAIN);
}

bool tine__pidfds_refused(tine_host *host)
{
    if (host->pidfds == PIDFDS_UNKNOWN) {
        int fd = tine__pidfd_open(getpid());
        if (fd < 0 && fd != -ENOSYS && fd != -EPERM && fd != -EACCES)
            return false;
        host->pidfds = fd < 0 ? PIDFDS_REFUSED : PIDFDS_GIVEN;
        if (fd >= 0)
            close(fd);
    }
    return host->pidfds == PIDFDS_REFUSED;
}

static int signal_number(const tine_proc *p, pid_t number, int signo)
{
    if (!p->pid || p->ended || !tine__pidfds_refused(p->host))
        return -ESRCH;
    return kill(number, signo) < 0 ? -errno : 0;
}

int tine__pidfd_signal(const tine_proc *p, int signo)
{
    if (p->pidfd < 0)
        return signal_number(p, p->pid, signo);
    if (syscall(SYS_pidfd_send_signal, p->pidfd, signo, NULL, 0) == 0)
        return 0;
    if (errno != ENOSYS && errno != EPERM)
        return -errno;
    /* Under valgrind, or in a container that does not know the call, or refuses it: the next best,
     * which is refused as well where it is not the call that is the matter. */
    struct pollfd ended = {p->pidfd, POLLIN, 0};
    if (poll(&ended, 1, 0) > 0)
        return -ESRCH;
    return kill(p->pid, signo) < 0 ? -errno : 0;
}

/* The flag is of Linux 6.9. The pidfd stands for the group as long as any of it lives, also
 * when the leader has been reaped; a number does not, so without the flag the group goes only
 * while its leader is there to hold the number, or has been and is ours to reap. */
#define SIGNAL_GROUP 4u

int tine__proc_signal_group(tine_proc *p, int signo)
{
    if (p->pidfd < 0)
        return signal_number(p, -p->pid, signo);
    if (syscall(SYS_pidfd_send_signal, p->pidfd, signo, NULL, SIGNAL_GROUP) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS && errno != EPERM)
        return -errno;
    struct pollfd ended = {p->pidfd, POLLIN, 0};
    if (!p->direct && poll(&ended, 1, 0) > 0)
        return -ESRCH;
    return kill(-p->pid, signo) < 0 ? -errno : 0;
}

int tine__pidfd_open(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    return fd < 0 ? -errno : tine__fd_above_stdio(fd);
}

int tine__pidfd_status(const tine_proc *p)
{
    int status = p->pidfd < 0 ? UNKNOWN : status_from_info(p);
    return status < 0 ? UNKNOWN : status;
}

int tine__proc_watch(tine_proc *p)
{
    if (p->pidfd_io)
        return 0;
    return tine__io_internal(p->host, &p->pidfd_io, p->pidfd, TINE_READ, on_pidfd, p);
}
