/* The end of a host's processes with the host, and of all that they have started. */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#include "process.h"

void tine__proc_end_direct(tine_proc *p)
{
    siginfo_t info;
    if (!p->direct || p->ended || p->pidfd < 0)
        return;
    tine__pidfd_signal(p, SIGKILL);
    while (waitid((idtype_t)P_PIDFD, (id_t)p->pidfd, &info, WEXITED) < 0 &&
           errno == EINTR)
        ;
}

/* Who leads no group, and who has ended together with all of it, is not found. */
static void end_groups(tine_host *host)
{
    for (size_t i = 0; i < host->nslots; i++) {
        tine_proc *p = host->slots[i];
        if (p && !p->detach && !p->adopted)
            tine__proc_signal_group(p, SIGKILL);
    }
}

/* Our own children are killed and reaped; theirs go with them (see pdeathsig.h), but for those of a
 * detached one. */
static void end_proc(tine_proc *p)
{
    if (p->detach)
        return;
    tine__proc_end_direct(p);
    if (!p->direct && !p->adopted && p->pidfd >= 0)
        tine__pidfd_signal(p, SIGKILL);
}

void tine__host_end_procs(tine_host *host)
{
    /* All that has been made says so before it does anything, if only we listen. */
    tine__host_take_made(host);
    end_groups(host);
    for (size_t i = 0; i < host->nslots; i++)
        if (host->slots[i])
            end_proc(host->slots[i]);
    tine__host_take_made(host); /* what a template has made until it was killed */
    end_groups(host);
}
