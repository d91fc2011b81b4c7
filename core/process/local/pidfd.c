/* Signals to exactly one process, or its group, and how one has ended that somebody else has reaped. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "local_priv.h"

enum { STAT_EXIT_CODE = 52, UNKNOWN = TINE__END_UNKNOWN, NOT_YET = TINE__END_NOT_YET };

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
static int status_from_info(const tine__local *l)
{
    struct pidfd_info_v0 info = {.mask = PIDFD_INFO_EXIT_V0};
    if (ioctl(l->pidfd, PIDFD_GET_INFO_V0, &info) < 0)
        return errno == ESRCH ? NOT_YET : UNKNOWN;
    return info.mask & PIDFD_INFO_EXIT_V0 ? info.exit_code : NOT_YET;
}

/* The same while it is a zombie that its new parent has not reaped yet: the last field of
 * /proc/PID/stat. The pidfd then shows that the id was still its own. */
static int status_from_proc(const tine__local *l)
{
    char path[40], line[2048];
    int field = 2, status = NOT_YET;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)l->link.pid);
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
    return tine__pidfd_signal(l, 0) == -ESRCH ? NOT_YET : status;
}

int tine__pidfd_status_of_orphan(const tine__local *l)
{
    int status = status_from_info(l);
    return status < 0 ? status_from_proc(l) : status;
}

bool tine__pidfd_is_refused(const tine__local *l)
{
    tine__local_host *h = tine__local_host_of(l);
    if (h->pidfds == PIDFDS_UNKNOWN) {
        int fd = tine__pidfd_open(getpid());
        if (fd < 0 && fd != -ENOSYS && fd != -EPERM && fd != -EACCES)
            return false;
        h->pidfds = fd < 0 ? PIDFDS_REFUSED : PIDFDS_GIVEN;
        if (fd >= 0)
            close(fd);
    }
    return h->pidfds == PIDFDS_REFUSED;
}

static int signal_number(const tine__local *l, pid_t number, int signo)
{
    if (!l->link.pid || l->link.over || !tine__pidfd_is_refused(l))
        return -ESRCH;
    return kill(number, signo) < 0 ? -errno : 0;
}

int tine__pidfd_signal(const tine__local *l, int signo)
{
    if (l->pidfd < 0)
        return signal_number(l, l->link.pid, signo);
    if (syscall(SYS_pidfd_send_signal, l->pidfd, signo, NULL, 0) == 0)
        return 0;
    if (errno != ENOSYS && errno != EPERM)
        return -errno;
    /* Under valgrind, or in a container that does not know the call, or refuses it: the next best,
     * which is refused as well where it is not the call that is the matter. */
    struct pollfd ended = {l->pidfd, POLLIN, 0};
    if (poll(&ended, 1, 0) > 0)
        return -ESRCH;
    return kill(l->link.pid, signo) < 0 ? -errno : 0;
}

/* The flag is of Linux 6.9. The pidfd stands for the group as long as any of it lives, also
 * when the leader has been reaped; a number does not, so without the flag the group goes only
 * while its leader is there to hold the number, or has been and is ours to reap. */
#define SIGNAL_GROUP 4u

int tine__pidfd_signal_group(const tine__local *l, int signo)
{
    if (l->pidfd < 0)
        return signal_number(l, -l->link.pid, signo);
    if (syscall(SYS_pidfd_send_signal, l->pidfd, signo, NULL, SIGNAL_GROUP) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS && errno != EPERM)
        return -errno;
    struct pollfd ended = {l->pidfd, POLLIN, 0};
    if (!l->direct && poll(&ended, 1, 0) > 0)
        return -ESRCH;
    return kill(-l->link.pid, signo) < 0 ? -errno : 0;
}

int tine__pidfd_open(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    return fd < 0 ? -errno : tine__fd_above_stdio(fd);
}

int tine__pidfd_status(const tine__local *l)
{
    int status = l->pidfd < 0 ? UNKNOWN : status_from_info(l);
    return status < 0 ? UNKNOWN : status;
}

bool tine__pidfd_has_ended(const tine__local *l)
{
    struct pollfd ended = {l->pidfd, POLLIN, 0};
    return l->pidfd >= 0 && poll(&ended, 1, 0) > 0;
}
