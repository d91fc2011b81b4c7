/* A worker that becomes a template: its call stream ends, and its socket takes commands again. */
#include "client_priv.h"

int tine__client_promote(tine__client *c)
{
    int err = tine__client_put(c, TINE__PROMOTE, 0, NULL, 0);
    if (err < 0)
        return err;
    c->promoted_usec = tine__now_usec();
    tine__client_wake_at(c, c->promoted_usec + c->config->spawn_timeout_usec);
    return 0;
}

tine_proc *tine__client_release(tine__client *c, const tine__observer *observer,
                                void *arg)
{
    tine_error closed =
        tine__error_make(TINE_KIND_CLOSED, c->pid, "the worker has become a template");
    tine_proc *p = c->proc;
    int fd = c->fd;
    tine__client_fail_traces(c, &closed);
    tine__client_unwatch(c);
    tine_io_free(c->write_io);
    c->write_io = NULL;
    c->fd = -1;
    c->proc = NULL;
    tine__proc_reclaim(p, fd, observer, arg);
    tine__client_free(c);
    return p;
}
