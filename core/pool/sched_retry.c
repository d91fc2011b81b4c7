/* The scheduler's jobs that are tried again: later, or alone in a worker. See sched.h. */
#include "sched_priv.h"

/* ----------------------------------------------------------------------- later */

bool tine__sched_due_before(const void *a, const void *b)
{
    const tine__sched_job *x = a, *y = b;
    return x->due_usec != y->due_usec ? x->due_usec < y->due_usec : x->order < y->order;
}

static int delay(tine__sched *s, tine__sched_job *job, int64_t due)
{
    job->due_usec = due;
    int err = tine__prioq_add(&s->delayed, job);
    if (err < 0)
        return err;
    job->delayed = true;
    s->nlater++;
    tine__sched_hold_key(s, job);
    return 0;
}

void tine__sched_undelay(tine__sched *s, tine__sched_job *job)
{
    tine__prioq_remove(&s->delayed, job);
    job->delayed = false;
    s->nlater--;
    tine__sched_let_key_go(s, job);
}

void tine__sched_begin_due(tine__sched *s, int64_t now)
{
    tine__sched_job *job;
    while ((job = tine__prioq_first(&s->delayed)) && job->due_usec <= now) {
        tine__sched_undelay(s, job);
        if (!job->has_key)
            job->order = ++s->orders;
        if (tine__sched_route(s, job) < 0) {
            job->worker = NULL;
            tine__prioq_add(&s->queue, job); /* there is room; routed again later */
        }
    }
}

int tine__sched_retry(tine__sched *s, tine__sched_job *job, const tine__sched_try *how,
                      int64_t now)
{
    tine__sched_came_back(s, job, how->ok, now);
    job->alone = job->alone || how->alone;
    if (!job->has_key)
        job->order = ++s->orders;
    int err = how->after_usec > 0 ? delay(s, job, now + how->after_usec)
                                  : tine__sched_route(s, job);
    if (err < 0)
        tine__sched_forget_job(s, job);
    else
        tine__sched_count_queued(s, job);
    return err;
}

/* ----------------------------------------------------------------------- alone */

int tine__sched_set_apart(tine__sched *s, tine__affine *e, tine__sched_job *job)
{
    tine__sched_worker *w = tine__prioq_first(&s->idle);
    if (!w)
        w = tine__sched_least_loaded(s);
    int err = tine__sched_wait_for(s, w, job);
    if (!err && e)
        tine__affinity_bind(e, w);
    return err;
}

void tine__sched_move_apart(tine__sched *s, const tine__sched_job *any)
{
    const tine__sched_worker *from = tine__prioq_first(&s->held);
    if (!from || !s->idle.n)
        return;
    tine__sched_job *job = tine__prioq_first(from->p.waiting);
    if (any && tine__sched_before(any, job))
        return;
    tine__sched_unqueue(s, job);
    job->worker = NULL;
    if (tine__sched_wait_for(s, tine__prioq_first(&s->idle), job) < 0)
        tine__prioq_add(&s->queue, job); /* there is room since it was added */
}
