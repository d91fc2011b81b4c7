#include "blocking.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#include "fd.h"

enum { MEMORY_DEVICES = 1 }; /* the major number of /dev/null and its like */

/* Of other devices an opening has a state of its own: the master side of a terminal, opened once
 * more, is that of another terminal. */
static bool opens_anew(int fd, const struct stat *st)
{
    unsigned number;
    if (S_ISFIFO(st->st_mode))
        return true;
    return S_ISCHR(st->st_mode) && (major(st->st_rdev) == MEMORY_DEVICES ||
                                    (isatty(fd) && ioctl(fd, TIOCGPTN, &number) < 0));
}

int tine__fd_blocking(int fd)
{
    struct stat st;
    char path[40];
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!(flags & O_NONBLOCK) || S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) ||
        S_ISDIR(st.st_mode))
        return fd;
    if (!opens_anew(fd, &st))
        return -EOPNOTSUPP;
    /* Nonblocking, or it would wait for the other end of a FIFO. */
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int anew = tine__fd_above_stdio(
        open(path, (flags & O_ACCMODE) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (anew < 0)
        return -EOPNOTSUPP;
    if (fcntl(anew, F_SETFL, flags & ~O_NONBLOCK) < 0)
        tine__fd_close(&anew);
    return anew < 0 ? -EOPNOTSUPP : anew;
}
