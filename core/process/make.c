/* A handle, and then a process for it. Knows which transport makes those that nobody says more of. */
#include "local/local.h"
#include "proc.h"

int tine__proc_begin(tine_host *host, const tine__transport *transport,
                     const tine_proc_options *options, tine_proc **out)
{
    *out = NULL;
    if (tine__stale(host))
        return -TINE_ESTALE;
    int err = tine__proc_alloc(host, transport, options, out);
    if (!err)
        (*out)->was_busy = true;
    return err;
}

/* The first command is on its way: the greeting. */
void tine__proc_begun(tine_proc *p)
{
    if (p->state == TINE__LIVES)
        tine__proc_count(p);
}

int tine__proc_make(tine_host *host, const tine__transport *transport,
                    int (*make)(tine__link *l, const tine_proc_options *options),
                    const tine_proc_options *options, tine_proc **out)
{
    int err = tine__proc_begin(host, transport, options, out);
    if (err < 0)
        return err;
    tine_proc *p = *out;
    p->replay = tine__replay_birth(NULL, options, true);
    err = make(p->link, options);
    tine__proc_begun(p);
    return err;
}

int tine__proc_exec(tine_host *host, const tine_proc_options *options, tine_proc **out)
{
    return tine__proc_make(host, &tine__local_transport, tine__local_exec, options,
                           out);
}
