/* A fork of the program itself. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/pdeathsig.h"
#include "spawn.h"
#include "wire/protocol.h"

static int threads(void)
{
    struct stat st;
    return stat("/proc/self/task", &st) < 0 ? 1 : (int)st.st_nlink - 2;
}

/* A thread that was joined is counted until the kernel has done with it. */
static bool alone(void)
{
    const struct timespec moment = {0, 1000000};
    for (int tries = 0; threads() > 1; tries++) {
        if (tries == 20)
            return false;
        nanosleep(&moment, NULL);
    }
    return true;
}

static int by_number(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

static void child_stdio(const tine__redirect *r)
{
    for (int n = 0; n < 3; n++) {
        int fd = r->fds[n];
        if (tine__redirect_kind(r, n) == TINE__STDIO_NULL ||
            (fd < 0 && fcntl(n, F_GETFD) < 0))
            fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (fd >= 0 && fd != n)
            dup2(fd, n);
        else if (fd == n)
            fcntl(n, F_SETFD, 0);
    }
}

/* In the fork: everything of the program but what was asked for ends here. */
static void become_child(const tine__redirect *r, bool detach, pid_t parent,
                         const int *keep, size_t nkeep)
{
    tine__signals_reset();
    if (detach || tine__redirect_kind(r, 0) != TINE__STDIO_KEEP)
        setsid();
    if (!detach)
        tine__pdeathsig_parent(parent);
    child_stdio(r);
    tine__fd_close_from(3, keep, nkeep);
}

static pid_t fork_program(const tine__redirect *r, const tine__local *l,
                          const tine_proc_options *options, int far)
{
    size_t nkeep = options ? options->nkeep : 0;
    int *keep = malloc((nkeep + 1) * sizeof *keep);
    if (!keep)
        return -ENOMEM;
    if (nkeep)
        memcpy(keep, options->keep, nkeep * sizeof *keep);
    keep[nkeep++] = far;
    qsort(keep, nkeep, sizeof *keep, by_number);
    pid_t parent = getpid();
    sigset_t all, before;
    sigfillset(&all);
    fflush(NULL);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork();
    if (pid == 0)
        become_child(r, l->link.detach, parent, keep, nkeep);
    else
        sigprocmask(SIG_SETMASK, &before, NULL);
    int err = errno;
    free(keep);
    return pid < 0 ? -err : pid;
}

static int is_made(tine__local *l, pid_t pid)
{
    int fd = tine__pidfd_open(pid);
    if (fd < 0) {
        kill(pid, SIGKILL);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
        return fd;
    }
    l->link.pid = pid;
    l->pidfd = fd;
    return tine__local_is_direct(l);
}

int tine__local_here(tine__link *link, const tine_proc_options *options,
                     int *command_fd)
{
    tine__local *l = tine__local_of(link);
    tine__redirect r;
    int far = -1;
    if (!alone())
        return -EBUSY;
    int err = tine__redirect_all(l, options, &r);
    if (err < 0)
        return err;
    tine__redirect_stdin(l, options, &r);
    err = tine__local_open_socket(l, &far);
    if (!err)
        err = tine__local_greet(l, r.flags);
    pid_t pid = err ? err : fork_program(&r, l, options, far);
    if (pid == 0) {
        *command_fd = far;
        return 0;
    }
    tine__redirect_close(&r);
    tine__fd_close(&far);
    err = pid < 0 ? pid : is_made(l, pid);
    return err < 0 ? err : 1;
}
