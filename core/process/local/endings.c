/* Ends of processes: those that nobody reports to us, of our own children and of those whose
 * template died first; and the end of all with the host. Never waits for a process that is not known
 * to be ours. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "local_priv.h"

enum { ASK_AGAIN_USEC = 2000, ASK_AGAIN = 50, REPORTS_FIRST = 4096 };

/* Our own child; somebody else's waitpid(-1), or an ignored SIGCHLD, may have been faster. */
static int status_from_wait(tine__local *l, struct rusage *rusage)
{
    siginfo_t info;
    memset(&info, 0, sizeof info);
    long result;
    if (!l->link.detach)
        tine__pidfd_signal_group(l, SIGKILL); /* what it has started goes with it */
    do
        result =
            syscall(SYS_waitid, P_PIDFD, l->pidfd, &info, WEXITED | WNOHANG, rusage);
    while (result < 0 && errno == EINTR);
    if (result < 0)
        return tine__pidfd_status_of_orphan(l);
    if (!info.si_pid)
        return TINE__END_NOT_YET;
    return info.si_code == CLD_EXITED ? (info.si_status & 0xff) << 8 : info.si_status;
}

static void ask(tine__local *l, int tries);

static void on_ask_again(void *arg, tine_timer *timer)
{
    tine__local *l = arg;
    (void)timer;
    tine_timer_free(l->timer);
    l->timer = NULL;
    ask(l, --l->asks);
}

static void ask(tine__local *l, int tries)
{
    struct rusage rusage;
    memset(&rusage, 0, sizeof rusage);
    int status =
        l->direct ? status_from_wait(l, &rusage) : tine__pidfd_status_of_orphan(l);
    if (status == TINE__END_NOT_YET && tries > 0) {
        tine_timer_free(l->timer);
        l->timer = NULL;
        l->asks = tries;
        if (tine__timer_internal(l->link.host, &l->timer, ASK_AGAIN_USEC, on_ask_again,
                                 l) == 0)
            return;
    }
    tine__local_ended(l, 0, status < 0 ? TINE__END_UNKNOWN : status, &rusage);
}

static void on_pidfd(void *arg, tine_io *io, int events)
{
    tine__local *l = arg;
    (void)io;
    (void)events;
    /* What it had reported comes before its end, also when a callback stops the loop. */
    l->link.refs++;
    bool drained = tine__reports_read(l->link.host, REPORTS_FIRST);
    l->link.refs--;
    if (!drained)
        return;
    tine_io_free(l->pidfd_io);
    l->pidfd_io = NULL;
    if (!l->link.over)
        ask(l, ASK_AGAIN);
}

int tine__pidfd_watch(tine__local *l)
{
    if (l->pidfd_io)
        return 0;
    return tine__io_internal(l->link.host, &l->pidfd_io, l->pidfd, TINE_READ, on_pidfd,
                             l);
}

/* There was no descriptor to spare when it was made. Takes one now, and sees that its end was not
 * reported meanwhile. */
static int open_late(tine__local *l)
{
    int fd = tine__pidfd_open(l->link.pid);
    if (fd < 0 && !tine__pidfd_is_refused(l))
        return fd;
    l->pidfd = fd < 0 ? -1 : fd;
    l->link.refs++;
    tine__reports_read(l->link.host, TINE__REPORTS_ALL);
    l->link.refs--;
    return l->link.over ? -ESRCH : 0;
}

int tine__local_signal(tine__link *link, int signo, enum tine__target target)
{
    tine__local *l = tine__local_of(link);
    if (target == TINE__TO_GROUP)
        return tine__pidfd_signal_group(l, signo);
    if (target == TINE__TO_ONE_AT_ONCE)
        return l->pidfd < 0 ? -EAGAIN : tine__pidfd_signal(l, signo);
    if (!link->made && l->pidfd < 0)
        return -EAGAIN;
    int err = l->pidfd < 0 && link->pid ? open_late(l) : 0;
    return err < 0 ? err : tine__pidfd_signal(l, signo);
}

void tine__local_orphan(tine__link *link)
{
    static const struct rusage none;
    tine__local *l = tine__local_of(link);
    if (l->pidfd < 0)
        l->pidfd = tine__pidfd_open(link->pid);
    /* The system has killed it, unless it gave up its user, or its tie to its parent. */
    if (!link->detach && !link->spare && l->pidfd >= 0)
        tine__pidfd_signal(l, SIGKILL);
    if (l->pidfd >= 0 && tine__pidfd_watch(l) == 0)
        return;
    /* Its parent-death signal has killed it, or will at once. */
    tine__local_ended(l, 0, SIGKILL, &none);
}

void tine__local_ended(tine__local *l, pid_t pid, int status,
                       const struct rusage *rusage)
{
    tine_exit how = {.pid = pid ? pid : l->link.pid, .code = -1, .rusage = *rusage};
    if (l->link.over)
        return;
    if (status) /* else its function has not failed */
        tine__reports_last(l);
    tine__fd_close(&l->own_channel);
    if (status >= 0) {
        how.signal = status & 0x7f;
        how.code = how.signal ? -1 : (status >> 8) & 0xff;
    }
    l->link.news->ended(&l->link, &how);
}

/* ------------------------------------------------------------------ with the host */

void tine__local_end_direct(tine__local *l)
{
    siginfo_t info;
    if (!l->direct || l->link.over || l->pidfd < 0)
        return;
    tine__pidfd_signal(l, SIGKILL);
    while (waitid((idtype_t)P_PIDFD, (id_t)l->pidfd, &info, WEXITED) < 0 &&
           errno == EINTR)
        ;
}

/* Who leads no group, and who has ended together with all of it, is not found. */
static void end_groups(const tine__local_host *h)
{
    for (size_t i = 0; i < h->nslots; i++) {
        const tine__local *l = h->slots[i];
        if (l && !l->link.detach && !l->adopted)
            tine__pidfd_signal_group(l, SIGKILL);
    }
}

/* Our own children are killed and reaped; theirs go with them (see pdeathsig.h), but for those of a
 * detached one. */
static void end_one(tine__local *l)
{
    if (l->link.detach)
        return;
    tine__local_end_direct(l);
    if (!l->direct && !l->adopted && l->pidfd >= 0)
        tine__pidfd_signal(l, SIGKILL);
}

void tine__local_end_all(tine_host *host)
{
    const tine__local_host *h = host->local;
    if (!h)
        return;
    /* All that has been made says so before it does anything, if only we listen. */
    tine__reports_take_made(host);
    end_groups(h);
    for (size_t i = 0; i < h->nslots; i++)
        if (h->slots[i])
            end_one(h->slots[i]);
    tine__reports_take_made(host); /* what a template has made until it was killed */
    end_groups(h);
}
