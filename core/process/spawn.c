/* How handles come into being: the default template, forks of what there is, and what is no fork.
 * What makes the processes is their transports'. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "local/local.h"
#include "local/setting.h"
#include "proc.h"

static int default_template(tine_host *host)
{
    static const tine_proc_options options = {.name = "template"};
    tine__process_host *h = host->process;
    const tine_proc *known = h->template_proc;
    bool holds = h->early || (h->setting && tine__setting_holds(h->setting, host));
    if (known && !tine_proc_ended(known) && !known->link->shut) {
        if (holds)
            return 0;
        tine_host_reset(host);
    }
    free(h->setting);
    h->setting = tine__setting_take(host);
    int err = h->setting ? tine__proc_exec(host, &options, &h->template_proc) : -ENOMEM;
    if (!err)
        h->template_proc->hidden = true;
    return err;
}

int tine_proc_new_exec(tine_host *host, const tine_proc_options *options,
                       tine_proc **out)
{
    *out = NULL;
    if (tine__stale(host))
        return -TINE_ESTALE;
    if (host->process->early && host->process->template_proc)
        return tine_proc_fork(host->process->template_proc, options, out);
    return tine__proc_exec(host, options, out);
}

int tine_proc_new(tine_host *host, const tine_proc_options *options, tine_proc **out)
{
    *out = NULL;
    if (tine__stale(host))
        return -TINE_ESTALE;
    int err = default_template(host);
    return err < 0 ? err : tine_proc_fork(host->process->template_proc, options, out);
}

/* --------------------------------------------------------------------- fork */

/* A fork of a process that cannot be forked any more fails as that one did. */
static void never_forked(tine_proc *p, const tine_proc *parent, int err)
{
    char text[600];
    if (!parent->cause) {
        tine_error e = tine__error_system(err, text, sizeof text,
                                          "cannot fork from a process that has ended");
        tine__proc_never(p, &e);
        return;
    }
    tine_error cause = parent->cause->error;
    tine__error_say(&cause, text, sizeof text, "the process to fork from failed: %.*s",
                    (int)cause.message_len, cause.message);
    tine__proc_never(p, &cause);
}

static int fork_proc(tine_proc *parent, enum tine__by by,
                     const tine_proc_options *options, bool spare, tine_proc **out)
{
    const tine__transport *transport = parent->link->transport;
    int err = tine__proc_begin(parent->host, transport, options, out);
    if (err < 0)
        return err;
    tine_proc *p = *out;
    p->link->spare = spare;
    err = tine__proc_usable(parent, by);
    if (err < 0) {
        never_forked(p, parent, err);
        return 0;
    }
    if (transport->fork(parent->link, p->link, options) == 0) {
        tine__proc_adopt(parent, p);
        tine__proc_count(parent);
    }
    tine__proc_update(p);
    return 0;
}

int tine_proc_fork(tine_proc *parent, const tine_proc_options *options, tine_proc **out)
{
    *out = NULL;
    if (parent->owner != TINE__OWNER_USER)
        return -TINE_ECONSUMED;
    int err = fork_proc(parent, TINE__BY_USER, options, false, out);
    if (!err && (*out)->state != TINE__ENDED)
        (*out)->replay =
            tine__replay_birth(tine__replay_ref(parent->replay), options, false);
    return err;
}

int tine__proc_fork_held(tine_proc *p, const tine_proc_options *options, bool spare,
                         tine_proc **out)
{
    return fork_proc(p, TINE__BY_HOLDER, options, spare, out);
}

/* ------------------------------------------------------------- what is there already */

int tine_proc_from_fd(tine_host *host, int fd, tine_proc **out)
{
    *out = NULL;
    if (tine__stale(host))
        return -TINE_ESTALE;
    tine_proc *p = NULL;
    int err = tine__local_is_socket(fd);
    if (err < 0)
        return err;
    err = tine__proc_begin(host, &tine__local_transport, NULL, &p);
    if (err < 0 || !p)
        return err;
    *out = p;
    err = tine__local_adopt(p->link, fd);
    tine__proc_begun(p);
    return err;
}

int tine_proc_here(tine_host *host, const tine_proc_options *options, tine_proc **out,
                   int *command_fd)
{
    int result = tine__proc_begin(host, &tine__local_transport, options, out);
    if (result < 0)
        return result;
    tine_proc *p = *out;
    *out = NULL;
    result = tine__local_here(p->link, options, command_fd);
    if (result < 0)
        tine__proc_free(p);
    if (result <= 0)
        return result;
    tine__proc_begun(p);
    *out = p;
    return result;
}

int tine_host_early(tine_host *host, int *command_fd)
{
    static const tine_proc_options options = {.name = "template"};
    tine_proc *p;
    int result = tine_proc_here(host, &options, &p, command_fd);
    if (result != 1)
        return result;
    tine_host_reset(host);
    p->hidden = true;
    host->process->template_proc = p;
    host->process->early = true;
    return 1;
}
