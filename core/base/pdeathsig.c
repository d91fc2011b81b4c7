#include "pdeathsig.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { KERNEL_SIGSET = 8 }; /* bytes, see rt_sigaction(2) */

static pid_t guarded_parent;
static void (*call_at_end)(void);

/* The kernel sends the parent-death signal when the *thread* that made us ends. While its
 * process lives, another thread of it is our parent and the process id stays the same. */
static void on_parent_thread_death(int signo)
{
    (void)signo;
    if (getppid() == guarded_parent)
        return;
    if (call_at_end)
        call_at_end();
    else
        _exit(1);
}

static void listen(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_parent_thread_death;
    action.sa_flags = SA_RESTART;
    sigaction(TINE__PDEATH_SIGNAL, &action, NULL);
}

void tine__pdeathsig_parent(pid_t parent)
{
    guarded_parent = parent;
    listen();
    prctl(PR_SET_PDEATHSIG, TINE__PDEATH_SIGNAL);
    if (getppid() != parent)
        _exit(1);
}

void tine__pdeathsig_call(void (*end)(void))
{
    call_at_end = end;
    listen();
}

bool tine__pdeathsig_leads(void)
{
    return guarded_parent && getpgrp() == getpid();
}

void tine__pdeathsig_template(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
}

void tine__signals_reset(void)
{
    /* The kernel's struct sigaction: all zeros is SIG_DFL. libc's sigaction would leave out
     * two signals that it keeps for itself, and that may have been ignored before. */
    unsigned long action[8] = {0};
    for (int signo = 1; signo <= SIGRTMAX; signo++)
        syscall(SYS_rt_sigaction, signo, action, NULL, KERNEL_SIGSET);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}
