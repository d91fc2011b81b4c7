/* Questions to a worker that works: what it does. */
#include <errno.h>
#include <stdlib.h>

#include "client_priv.h"

enum { PATIENCE = 1000000 };

/* Answers a question; the loop runs on for those that are open. */
static void end(tine__client *c, tine__trace *t, const tine_error *err, tine_str text)
{
    LIST_REMOVE(t, link);
    tine__loop_hold(c->config->host, &c->asked, !LIST_EMPTY(&c->traces));
    t->cb(t->arg, err, text.data, text.len);
    free(t);
}

/* One that is idle or not, up to that number, and asked until then; or NULL. Callbacks may ask
 * more: after each one it is to be looked for anew. */
static tine__trace *find(const tine__client *c, bool idle, uint64_t number,
                         int64_t until)
{
    tine__trace *t;
    LIST_FOREACH(t, &c->traces, link)
    if (t->idle == idle && t->number <= number && t->asked_usec <= until)
        return t;
    return NULL;
}

int tine__client_traceback(tine__client *c, tine_text_cb cb, void *arg)
{
    if (!c->proc)
        return -TINE_ECLOSED;
    tine__trace *t = calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    t->cb = cb;
    t->arg = arg;
    t->number = ++c->ntraces;
    t->asked_usec = tine__now_usec();
    t->idle = !c->first || atomic_load(&c->region.page->idle);
    LIST_INSERT_HEAD(&c->traces, t, link);
    tine__loop_hold(c->config->host, &c->asked, true);
    if (t->idle) {
        tine__host_post(c->config->host, &c->deferred_task);
        return 0;
    }
    atomic_store(&c->region.page->trace_asked, t->number);
    tine__client_nudge(c);
    if (c->config->async)
        tine__client_put(c, TINE__LOOK, 0, NULL, 0);
    tine__client_wake_at(c, t->asked_usec + PATIENCE);
    return 0;
}

void tine__client_tell_idle(tine__client *c, uint64_t last)
{
    static const char idle[] = "nothing runs: the worker waits for calls";
    tine__trace *t;
    while ((t = find(c, true, last, INT64_MAX)))
        end(c, t, NULL, (tine_str){idle, sizeof idle - 1});
}

void tine__client_told_trace(tine__client *c, uint64_t number, tine_str text)
{
    tine__trace *t;
    if (number > c->ntraces) /* what callbacks ask for is not answered yet */
        number = c->ntraces;
    while ((t = find(c, false, number, INT64_MAX)))
        end(c, t, NULL, text);
}

void tine__client_fail_traces(tine__client *c, const tine_error *err)
{
    while (!LIST_EMPTY(&c->traces))
        end(c, LIST_FIRST(&c->traces), err, (tine_str){NULL, 0});
}

int64_t tine__client_traces_due(const tine__client *c, int64_t now)
{
    const tine__trace *t;
    int64_t next = INT64_MAX;
    LIST_FOREACH(t, &c->traces, link)
    if (!t->idle && t->asked_usec + PATIENCE > now && t->asked_usec + PATIENCE < next)
        next = t->asked_usec + PATIENCE;
    return next;
}

void tine__client_expire_traces(tine__client *c, int64_t now)
{
    tine_error err = tine__error_make(TINE_KIND_TIMEOUT, c->pid,
                                      "the worker did not answer within 1 s: it runs a "
                                      "C function, or waits in one");
    tine__trace *t;
    while ((t = find(c, false, UINT64_MAX, now - PATIENCE)))
        end(c, t, &err, (tine_str){NULL, 0});
}
