/* Descriptors; knows the system and nothing of tine. */
#include "fd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

void tine__fd_close(int *fd)
{
    int saved = errno;
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    errno = saved;
}

void tine__fd_close_all(int *fds, size_t n)
{
    for (size_t i = 0; i < n; i++)
        tine__fd_close(&fds[i]);
}

int tine__fd_dup(int fd)
{
    int dup = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return dup < 0 ? -errno : dup;
}

int tine__fd_above_stdio(int fd)
{
    if (fd < 0 || fd > 2)
        return fd;
    int dup = tine__fd_dup(fd);
    close(fd);
    return dup;
}

static int pair_above_stdio(int pair[2])
{
    for (int i = 0; i < 2; i++) {
        int fd = tine__fd_above_stdio(pair[i]);
        if (fd < 0) {
            pair[i] = -1;
            tine__fd_close_all(pair, 2);
            return fd;
        }
        pair[i] = fd;
    }
    return 0;
}

int tine__fd_pair(int type, int pair[2])
{
    if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    return pair_above_stdio(pair);
}

int tine__fd_pipe(int pair[2])
{
    if (pipe2(pair, O_CLOEXEC) < 0)
        return -errno;
    int err = pair_above_stdio(pair);
    if (!err && (err = tine__fd_nonblock(pair[0], true)) < 0)
        tine__fd_close_all(pair, 2);
    return err;
}

int tine__fd_nonblock(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return -errno;
    int wanted = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
    if (wanted != flags && fcntl(fd, F_SETFL, wanted) < 0)
        return -errno;
    return 0;
}

static void close_span(unsigned first, unsigned last)
{
    if (first > last || syscall(SYS_close_range, first, last, 0) == 0)
        return;
    /* Before Linux 5.9. */
    long open_max = sysconf(_SC_OPEN_MAX);
    unsigned end =
        open_max > 0 && (unsigned long)open_max <= last ? (unsigned)open_max : last;
    for (unsigned fd = first; fd < end; fd++)
        close((int)fd);
}

void tine__fd_close_from(int lowest, const int *keep, size_t nkeep)
{
    unsigned next = (unsigned)lowest;
    for (size_t i = 0; i < nkeep; i++) {
        if (keep[i] < (int)next)
            continue;
        if ((unsigned)keep[i] > next)
            close_span(next, (unsigned)keep[i] - 1);
        next = (unsigned)keep[i] + 1;
    }
    close_span(next, ~0u);
}
