/* What a process is, and its end. Where its host has gone it takes along what was forked from it
 * and what those, and it, have started: that is async-signal-safe. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/pdeathsig.h"
#include "child.h"

#ifdef __GLIBC__
extern FILE *_IO_list_all;
#endif

/* On one page: what a fork makes both sides write to is copied by pages. */
tine__child tine__self __attribute__((aligned(4096))) = {.cmd = -1, .report = -1};

/* Milliseconds to wait for a worker, and for all of them, to end with what it has started. */
enum { PATIENCE = 100, PATIENCE_FOR_ALL = 1000 };

static bool has_ended(pid_t pid)
{
    siginfo_t info;
    info.si_pid = 0;
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 ||
           info.si_pid == pid;
}

static void signal_workers(const tine__children *w, int signo, bool groups)
{
    for (size_t i = 0; i < w->nslots; i++) {
        const tine__worker *worker = &w->slots[i];
        if (!worker->pid || worker->detached)
            continue;
        if (groups)
            kill(-worker->pid, signo); /* also when it has ended: it is not reaped */
        kill(worker->pid, signo);
    }
}

/* A template among them ends its own workers in this time. */
static void await_workers(const tine__children *w)
{
    const struct timespec moment = {0, 1000000};
    int all = 0;
    for (size_t i = 0; i < w->nslots; i++) {
        const tine__worker *worker = &w->slots[i];
        if (!worker->pid || worker->detached)
            continue;
        for (int n = 0; n < PATIENCE && all < PATIENCE_FOR_ALL; n++, all++) {
            if (has_ended(worker->pid))
                break;
            nanosleep(&moment, NULL);
        }
    }
}

void tine__end(void)
{
    tine__child *c = &tine__self;
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    if (c->workers.n) {
        signal_workers(&c->workers, TINE__PDEATH_SIGNAL, false);
        await_workers(&c->workers);
        signal_workers(&c->workers, SIGKILL, true);
    }
    if (c->leads && getpgrp() == getpid())
        kill(0, SIGKILL);
    _exit(1);
}

void tine__end_unless_held(void)
{
    if (tine__self.held)
        tine__self.ending = 1;
    else
        tine__end();
}

void tine__release(void)
{
    if (--tine__self.held == 0 && tine__self.ending)
        tine__end();
}

bool tine__host_is_gone(const tine__child *c)
{
    struct pollfd report = {c->report, 0, 0};
    return c->report >= 0 && !c->detach && poll(&report, 1, 0) > 0;
}

/* fflush(NULL), but where nothing is buffered, which is what most workers leave with, it
 * locks nothing, and so writes to no page that is shared with the template. */
static void flush_stdio(void)
{
#ifdef __GLIBC__
    FILE *f = _IO_list_all;
    while (f && f->_IO_write_ptr <= f->_IO_write_base)
        f = f->_chain;
    if (!f)
        return;
#endif
    fflush(NULL);
}

void tine__leave(int code)
{
    flush_stdio();
    if (tine__host_is_gone(&tine__self))
        tine__end();
    _exit(code);
}

void tine__flush(tine__child *c)
{
    if (!c->flushed)
        flush_stdio();
    c->flushed = true;
}
