/* What the scheduler has its caller do next: which job goes to which worker, which is taken back;
 * then what sched_workers.c says. See sched.h. */
#include "sched.h"

#include <stddef.h>

#include "sched_priv.h"

tine__sched_worker *tine__sched_least_loaded(const tine__sched *s)
{
    tine__sched_worker *w = tine__prioq_first(&s->free);
    return w && w->load < s->load ? w : NULL; /* else the load has been lowered */
}

/* The best of the jobs that any may take. Those whose key belongs to somebody by now, or is held up,
 * go where they wait, and so do those that are to run alone. */
static tine__sched_job *next_job(tine__sched *s)
{
    while (tine__sched_least_loaded(s)) {
        tine__sched_job *job = tine__prioq_first(&s->queue);
        if (!job || !(job->has_key || job->alone))
            return job;
        tine__affine *e = job->has_key ? tine__affinity_find(&s->keys, job->key) : NULL;
        bool bound = e && (e->worker || e->delayed);
        if (!bound && !job->alone)
            return job;
        tine__prioq_remove(&s->queue, job);
        int err = bound ? tine__sched_route(s, job) : tine__sched_set_apart(s, e, job);
        if (err < 0) {
            job->worker = NULL;
            tine__prioq_add(&s->queue, job);
            return NULL; /* no memory: later */
        }
    }
    return NULL;
}

/* Parks what a worker would be given next, but a delayed one of its key holds up. */
static void park_held(tine__sched *s)
{
    const tine__sched_worker *w;
    while (s->delayed.n && (w = tine__prioq_first(&s->hungry)) != NULL) {
        tine__sched_job *job = tine__prioq_first(w->p.waiting);
        if (!job->has_key || !tine__affinity_find(&s->keys, job->key)->delayed)
            break;
        tine__sched_unqueue(s, job);
        if (tine__sched_route(s, job) < 0)
            tine__prioq_add(&s->queue, job); /* there is room; routed again later */
    }
}

static bool assign(tine__sched *s, int64_t now, tine__sched_action *action)
{
    park_held(s);
    tine__sched_job *any = next_job(s);
    tine__sched_move_apart(s, any);
    tine__sched_worker *least = tine__sched_least_loaded(s);
    if (!least)
        any = NULL;
    tine__sched_worker *w = tine__prioq_first(&s->hungry);
    tine__sched_job *job =
        tine__sched_better(any, w ? tine__prioq_first(w->p.waiting) : NULL);
    if (job == any)
        w = least;
    if (!job)
        return false;
    tine__sched_hand(s, job, w, now);
    *action = (tine__sched_action){TINE__SCHED_ASSIGN, job, w, false};
    return true;
}

/* When the worker that has been at its job the longest may be relieved of others; -1: never. */
static int64_t steal_at(const tine__sched *s)
{
    const tine__sched_worker *w = tine__prioq_first(&s->loaded);
    if (!w || !s->idle.n || s->queue.n)
        return -1;
    return w->p.busy_since_usec + s->config.steal_usec;
}

static bool steal(tine__sched *s, int64_t now, tine__sched_action *action)
{
    int64_t at = steal_at(s);
    if (at < 0 || at > now)
        return false;
    tine__sched_worker *w = tine__prioq_first(&s->loaded);
    tine__sched_job *job = w->p.last;
    while (job && job != w->p.first && (job->has_key || job->pinned))
        job = job->prev;
    if (!job || job == w->p.first) {
        w->p.kept = true;
        tine__sched_place(s, w);
        return steal(s, now, action);
    }
    *action = (tine__sched_action){TINE__SCHED_STEAL, job, w, false};
    return true;
}

bool tine__sched_next_assign(tine__sched *s, int64_t now, tine__sched_action *action)
{
    if (!s->nqueued || s->tell_broken)
        return false;
    tine__sched_trim(s);
    return assign(s, now, action);
}

tine__sched_action tine__sched_next(tine__sched *s, int64_t now)
{
    tine__sched_action action = {TINE__SCHED_NONE, NULL, NULL, false};
    if (s->tell_broken) {
        s->tell_broken = false;
        action.what = TINE__SCHED_BREAK;
        return action;
    }
    tine__sched_begin_due(s, now);
    tine__sched_trim(s);
    if (s->was_full && tine__sched_has_room(s)) {
        s->was_full = false;
        action.what = TINE__SCHED_DRAIN;
        return action;
    }
    if (!assign(s, now, &action) && !steal(s, now, &action))
        tine__sched_workers_next(s, now, &action);
    return action;
}

int64_t tine__sched_when(const tine__sched *s, int64_t now)
{
    const tine__sched_job *delayed = tine__prioq_first(&s->delayed);
    int64_t all[] = {steal_at(s), tine__sched_workers_when(s, now),
                     delayed ? delayed->due_usec : -1};
    int64_t when = -1;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i] >= 0 && (when < 0 || all[i] < when))
            when = all[i];
    return when;
}
