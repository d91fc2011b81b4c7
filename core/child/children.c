/* The workers forked from this process: who they are, and how they end.
 *
 * waitid(P_ALL) looks at all of them, one after another, and that at each end. So a new worker adds
 * its pidfd to an epoll set of its parent's before it sends it to the host. The set keeps no
 * reference to it, nor does the parent, whose descriptors each fork copies: it is there as long as
 * the host has it, which is until it is told of the worker's end. Where the host has no descriptor
 * to spare, the signal names the worker, if it was not merged with another's; for those, all are
 * looked at in the end, LATE_USEC later at most. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "child.h"
#include "wire/protocol.h"

/* To look at a FEW costs no more than to ask for them. */
enum { EVENTS = 64, FEW = 16, LATE_USEC = 200000 };

static size_t home(const tine__children *w, pid_t pid)
{
    return ((size_t)pid * 2654435761u) & (w->nslots - 1);
}

static tine__worker *find(const tine__children *w, pid_t pid)
{
    if (!w->n)
        return NULL;
    for (size_t i = home(w, pid); w->slots[i].pid; i = (i + 1) & (w->nslots - 1))
        if (w->slots[i].pid == pid)
            return &w->slots[i];
    return NULL;
}

static void insert(tine__children *w, tine__worker worker)
{
    size_t i = home(w, worker.pid);
    while (w->slots[i].pid)
        i = (i + 1) & (w->nslots - 1);
    w->slots[i] = worker;
    w->n++;
    w->nblind += worker.blind;
}

int tine__children_room(tine__children *w)
{
    if (!w->nslots) {
        w->slots = w->first;
        w->nslots = TINE__FIRST_WORKERS;
    }
    if (w->n * 2 < w->nslots)
        return 0;
    tine__children bigger = {.nslots = w->nslots * 2};
    bigger.slots = calloc(bigger.nslots, sizeof *bigger.slots);
    if (!bigger.slots)
        return -ENOMEM;
    for (size_t i = 0; i < w->nslots; i++)
        if (w->slots[i].pid)
            insert(&bigger, w->slots[i]);
    tine__worker *old = w->slots;
    tine__hold();
    w->slots = bigger.slots;
    w->nslots = bigger.nslots;
    tine__release();
    if (old != w->first)
        free(old);
    return 0;
}

int tine__children_add(tine__children *w, pid_t pid, uint64_t id, bool detached)
{
    int err = tine__children_room(w);
    if (!err)
        insert(w,
               (tine__worker){
                   .pid = pid, .detached = detached, .blind = w->ends < 0, .id = id});
    return err;
}

/* Closes the gap, so that a search may stop at the first free slot. */
static void take_out(tine__children *w, tine__worker *worker)
{
    size_t mask = w->nslots - 1, gap = (size_t)(worker - w->slots);
    w->nblind -= worker->blind;
    for (size_t i = (gap + 1) & mask; w->slots[i].pid; i = (i + 1) & mask) {
        size_t wish = home(w, w->slots[i].pid);
        if (((i - wish) & mask) >= ((i - gap) & mask)) {
            w->slots[gap] = w->slots[i];
            gap = i;
        }
    }
    w->slots[gap].pid = 0;
    w->n--;
}

/* A larger table is not freed: that would write to memory that is shared with the parent. It
 * stays referred to, since otherwise leak checkers report it. */
void tine__children_forget(tine__children *w)
{
    bool grown = w->slots && w->slots != w->first;
    tine__worker *inherited = grown ? w->slots : w->inherited;
    tine__fd_close(&w->ends);
    tine__children_init(w);
    w->inherited = inherited;
}

void tine__children_init(tine__children *w)
{
    memset(w, 0, sizeof *w);
    w->ends = -1;
}

/* ------------------------------------------------------------------ who has ended */

/* Whether the system gives pidfds, and epoll takes them. */
static bool can_watch(int ends)
{
    struct epoll_event event = {.events = EPOLLIN};
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    bool can = pidfd >= 0 && epoll_ctl(ends, EPOLL_CTL_ADD, pidfd, &event) == 0;
    tine__fd_close(&pidfd);
    return can;
}

void tine__children_watch(tine__children *w)
{
    if (w->ends >= 0)
        return;
    int ends = epoll_create1(EPOLL_CLOEXEC);
    if (ends >= 0)
        ends = tine__fd_above_stdio(ends);
    if (ends >= 0 && !can_watch(ends))
        tine__fd_close(&ends);
    w->ends = ends < 0 ? -1 : ends;
}

void tine__children_join(const tine__children *w, pid_t self, int pidfd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.fd = self};
    if (w->ends >= 0 && pidfd >= 0)
        epoll_ctl(w->ends, EPOLL_CTL_ADD, pidfd, &event);
}

void tine__children_signaled(tine__children *w, pid_t pid)
{
    w->signaled_pid = pid;
    w->signaled = 1;
}

int tine__children_wait_ms(const tine__children *w)
{
    if (!w->look_usec)
        return -1;
    int64_t left = w->look_usec - tine__now_usec();
    return left > 0 ? (int)(left / 1000) + 1 : 0;
}

/* ------------------------------------------------------------------------ reaping */

/* The worker has ended. zombie: its number, and that of its group, are nobody else's yet; what it
 * has started goes with it. */
static void reap_one(tine__child *c, tine__worker *worker, bool zombie)
{
    tine__report r = {.type = TINE__REPORT_EXITED,
                      .id = worker->id,
                      .pid = worker->pid,
                      .seq = c->seq};
    pid_t pid;
    if (zombie && !worker->detached)
        kill(-worker->pid, SIGKILL);
    do
        pid = wait4(worker->pid, &r.status, WNOHANG, &r.rusage);
    while (pid < 0 && errno == EINTR);
    /* ECHILD: the user's code waited for any child. How it ended went there. */
    if (pid < 0)
        r.status = -1;
    tine__hold();
    take_out(&c->workers, worker);
    tine__release();
    tine__report_send(c, &r, -1);
}

/* Whether it has ended: it was there to be reaped, or somebody else has done that. */
static bool reap_ended(tine__child *c, tine__worker *worker)
{
    siginfo_t info;
    info.si_pid = 0;
    int err = waitid(P_PID, (id_t)worker->pid, &info, WEXITED | WNOHANG | WNOWAIT);
    if (!err && !info.si_pid)
        return false;
    reap_one(c, worker, !err);
    return true;
}

static void reap_each(tine__child *c)
{
    for (size_t i = 0; i < c->workers.nslots; i++)
        while (c->workers.slots[i].pid && reap_ended(c, &c->workers.slots[i]))
            ; /* another may have moved in */
}

/* Looks at all. */
static void reap_all(tine__child *c)
{
    while (c->workers.n) {
        siginfo_t info;
        info.si_pid = 0;
        /* Only a look: a child of io.popen is not ours to reap. */
        int err = waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT);
        if (!err && !info.si_pid)
            return;
        tine__worker *worker = err ? NULL : find(&c->workers, info.si_pid);
        if (!worker) {
            reap_each(c);
            return;
        }
        reap_one(c, worker, true);
    }
}

static void reap_known(tine__child *c, pid_t pid)
{
    tine__worker *worker = find(&c->workers, pid);
    if (worker)
        reap_ended(c, worker);
}

/* User code has closed it, and it may be something else by now. */
static void lose_watch(tine__children *w)
{
    w->ends = -1;
    for (size_t i = 0; i < w->nslots; i++)
        w->slots[i].blind = w->slots[i].pid != 0;
    w->nblind = w->n;
}

static void reap_told(tine__child *c)
{
    struct epoll_event events[EVENTS];
    int n = EVENTS;
    while (n == EVENTS && c->workers.ends >= 0) {
        n = epoll_wait(c->workers.ends, events, EVENTS, 0);
        if (n < 0 && errno != EINTR)
            lose_watch(&c->workers);
        for (int i = 0; i < n; i++)
            reap_known(c, events[i].data.fd);
    }
}

void tine__reap(tine__child *c)
{
    tine__children *w = &c->workers;
    bool signaled = w->signaled, few = w->n <= FEW;
    bool all = w->deaf || (w->look_usec && tine__now_usec() >= w->look_usec);
    w->signaled = 0;
    if (signaled && !few && !all) {
        reap_told(c);
        reap_known(c, w->signaled_pid);
    }
    all = all || (signaled && (few || w->nblind));
    if (all)
        reap_all(c);
    else if (signaled && !w->look_usec)
        w->look_usec = tine__now_usec() + LATE_USEC;
    if (all || !w->n)
        w->look_usec = 0;
}

static void reap_now(int signo)
{
    /* With threads, another of them may be in here: then it goes round once more. */
    static atomic_uint asked;
    int saved = errno;
    (void)signo;
    unsigned n = atomic_fetch_add(&asked, 1) + 1;
    while (n == 1) {
        unsigned seen = atomic_load(&asked);
        reap_all(&tine__self);
        n = atomic_fetch_sub(&asked, seen) == seen ? 0 : 1;
    }
    errno = saved;
}

void tine__reap_by_signal(void)
{
    if (!tine__self.workers.n) {
        signal(SIGCHLD, SIG_DFL);
        return;
    }
    struct sigaction action = {.sa_handler = reap_now, .sa_flags = SA_RESTART};
    sigaction(SIGCHLD, &action, NULL);
    reap_all(&tine__self);
}

/* Also ends the sleep in ppoll. */
static void wake(int signo, siginfo_t *info, void *context)
{
    (void)signo;
    (void)context;
    tine__children_signaled(&tine__self.workers, info->si_pid);
}

void tine__catch_sigchld(tine__child *c)
{
    struct sigaction action;
    sigset_t chld;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = wake;
    action.sa_flags = SA_RESTART | SA_SIGINFO;
    sigaction(SIGCHLD, &action, NULL);
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    sigprocmask(SIG_BLOCK, &chld, &c->waiting_mask);
    sigdelset(&c->waiting_mask, SIGCHLD);
}

void tine__check_sigchld(tine__child *c)
{
    struct sigaction action;
    c->workers.deaf =
        sigaction(SIGCHLD, NULL, &action) == 0 && action.sa_sigaction != wake;
}
