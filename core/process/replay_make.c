/* Another process like one that was: all that it was told is told again. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "proc.h"

/* The last word that its births had on each. */
static void take_options(const tine__replay *r, tine_proc_options *o)
{
    bool last = true;
    memset(o, 0, sizeof *o);
    for (; r; r = r->before) {
        if (r->type != TINE__REPLAY_BIRTH)
            continue;
        if (last)
            o->detach = r->detach;
        last = false;
        if (!o->name && r->len)
            o->name = r->data;
        for (int n = 0; n < 3; n++)
            if (o->stdio[n].how == TINE_STDIO_DEFAULT)
                o->stdio[n] = (tine_stdio){.how = r->stdio[n], .fd = r->fd[n]};
    }
}

static int repeat(tine_proc *p, const tine__replay *r)
{
    int fds[TINE__REPLAY_FDS];
    size_t n = 0;
    tine_str body = {r->data, r->len};
    while (n < r->nfds && (fds[n] = tine__fd_dup(r->fd[n])) >= 0)
        n++;
    int err = n < r->nfds ? fds[n] : 0;
    if (!err)
        err = tine__proc_put(p, TINE__BY_USER, r->type, &body, 1, fds, n);
    if (err < 0)
        tine__fd_close_all(fds, n);
    else if (n)
        p->sent_fds = true;
    return err;
}

/* All of r in the order it was told. */
static int repeat_all(tine_proc *p, const tine__replay *r)
{
    size_t n = r->count;
    int err = 0;
    const tine__replay **list = malloc(n * sizeof *list);
    if (!list)
        return -ENOMEM;
    for (size_t i = n; r; r = r->before)
        list[--i] = r;
    for (size_t i = 0; i < n && !err; i++)
        if (list[i]->type != TINE__REPLAY_BIRTH)
            err = repeat(p, list[i]);
    free(list);
    return err;
}

int tine__replay_make(tine_host *host, const tine__replay *r, tine_proc **out)
{
    tine_proc_options options;
    take_options(r, &options);
    int err = tine__proc_exec(host, &options, out);
    if (err < 0)
        return err;
    tine__replay_unref((*out)->replay); /* whoever asks has r */
    (*out)->replay = NULL;
    /* Where it has ended already, its end tells why. */
    err = tine_proc_ended(*out) ? 0 : repeat_all(*out, r);
    if (err < 0) {
        tine_proc_close(*out);
        *out = NULL;
    }
    return err;
}
