/* A host: made and freed, and the turns of its processes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "local/local.h"
#include "local/setting.h"
#include "proc.h"

/* What is added meanwhile has its turn in the next round of the loop. */
static void take_turn(tine_host *host)
{
    tine__process_host *h = host->process;
    tine_proc *p = h->later, *last = h->later_tail;
    while (p) {
        bool end = p == last;
        h->later = p->next_later;
        if (!h->later)
            h->later_tail = NULL;
        p->next_later = NULL;
        p->in_later = false;
        tine__proc_turn(p);
        if (end || host->stopped)
            break;
        p = h->later;
    }
    tine__loop_expect(host, h->later != NULL);
}

static int open_parts(tine_host *host, const tine_host_options *options)
{
    tine__process_host *h = host->process = calloc(1, sizeof *h);
    if (!h)
        return -ENOMEM;
    h->on_error = options->on_error;
    h->arg = options->arg;
    int err = tine__loop_open(host, options->base, take_turn);
    if (!err)
        err = tine__local_open(host, &tine__proc_news);
    if (!err)
        err = tine_host_set_interpreter(host, options->interpreter);
    if (!err)
        err = tine_host_set_lua_path(host, options->lua_path, options->lua_cpath);
    return err;
}

int tine_host_new(tine_host **out, const tine_host_options *options)
{
    static const tine_host_options defaults;
    if (!options)
        options = &defaults;
    tine_host *host = calloc(1, sizeof *host);
    if (!host)
        return -ENOMEM;
    tine__owner_open(&host->owner);
    int err = open_parts(host, options);
    if (err < 0) {
        tine_host_free(host);
        return err;
    }
    *out = host;
    return 0;
}

void tine_host_free(tine_host *host)
{
    if (!host)
        return;
    tine__process_host *h = host->process;
    /* In a fork the base's descriptors are shared with the owner: only set it aside, where
     * leak checkers find it. */
    if (tine__stale(host)) {
        static tine_host *aside;
        h->aside = aside;
        aside = host;
        return;
    }
    tine__local_end_all(host);
    tine__host_call_closers(host);
    for (tine_proc *p = h ? h->all : NULL, *next; p; p = next) {
        next = p->next;
        tine__proc_free(p);
    }
    tine__loop_close(host);
    tine__owner_close(&host->owner);
    tine__local_close(host);
    if (h)
        free(h->setting);
    free(h);
    free(host);
}

int tine_host_set_interpreter(tine_host *host, const char *path)
{
    if (tine__stale(host))
        return -TINE_ESTALE;
    return tine__local_set_interpreter(host, path);
}

const char *tine_host_interpreter(tine_host *host)
{
    return tine__local_interpreter(host);
}

int tine_host_set_lua_path(tine_host *host, const char *path, const char *cpath)
{
    if (tine__stale(host))
        return -TINE_ESTALE;
    return tine__local_set_lua_path(host, path, cpath);
}

int tine_host_reset(tine_host *host)
{
    if (tine__stale(host))
        return -TINE_ESTALE;
    tine_proc *p = host->process->template_proc;
    host->process->template_proc = NULL;
    host->process->early = false;
    tine_proc_close(p);
    return 0;
}

int tine_host_flush(tine_host *host)
{
    if (tine__stale(host))
        return -TINE_ESTALE;
    for (tine_proc *p = host->process->all; p; p = p->next)
        tine__proc_flush(p);
    return 0;
}
