/* The workers forked from this process: who they are, and how they end. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "child.h"
#include "wire/protocol.h"

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
        insert(w, (tine__worker){.pid = pid, .detached = detached, .id = id});
    return err;
}

/* Closes the gap, so that a search may stop at the first free slot. */
static void take_out(tine__children *w, tine__worker *worker)
{
    size_t mask = w->nslots - 1, gap = (size_t)(worker - w->slots);
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
    memset(w, 0, sizeof *w);
    w->inherited = inherited;
}

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

void tine__reap(tine__child *c)
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

static void on_sigchld(int signo)
{
    /* With threads, another of them may be in here: then it goes round once more. */
    static atomic_uint asked;
    int saved = errno;
    (void)signo;
    unsigned n = atomic_fetch_add(&asked, 1) + 1;
    while (n == 1) {
        unsigned seen = atomic_load(&asked);
        reap_each(&tine__self);
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
    struct sigaction action = {.sa_handler = on_sigchld, .sa_flags = SA_RESTART};
    sigaction(SIGCHLD, &action, NULL);
    reap_each(&tine__self);
}
