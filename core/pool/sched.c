/* The scheduler's jobs: where they wait, and where they are. See sched.h. */
#include "sched.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "sched_priv.h"

enum { LEAST_LOAD = 2, MOST_LOAD = 64, PACE = 16 };

/* ---------------------------------------------------------------------- orders */

bool tine__sched_before(const tine__sched_job *x, const tine__sched_job *y)
{
    return x->priority != y->priority ? x->priority > y->priority : x->order < y->order;
}

static bool job_before(const void *a, const void *b)
{
    return tine__sched_before(a, b);
}

static bool less_loaded(const void *a, const void *b)
{
    const tine__sched_worker *x = a, *y = b;
    return x->load != y->load ? x->load < y->load : x->p.used < y->p.used;
}

static bool used_before(const void *a, const void *b)
{
    const tine__sched_worker *x = a, *y = b;
    return x->p.used < y->p.used;
}

static bool waited_before(const void *a, const void *b)
{
    const tine__sched_worker *x = a, *y = b;
    return job_before(tine__prioq_first(x->p.waiting), tine__prioq_first(y->p.waiting));
}

static bool parked_before(const void *a, const void *b)
{
    const tine__affine *x = a, *y = b;
    return job_before(tine__prioq_first(&x->parked), tine__prioq_first(&y->parked));
}

static bool idle_before(const void *a, const void *b)
{
    const tine__sched_worker *x = a, *y = b;
    return x->p.idle_since_usec < y->p.idle_since_usec;
}

static bool busy_before(const void *a, const void *b)
{
    const tine__sched_worker *x = a, *y = b;
    return x->p.busy_since_usec < y->p.busy_since_usec;
}

static bool older(const void *a, const void *b)
{
    const tine__sched_worker *x = a, *y = b;
    return x->p.too_old_usec < y->p.too_old_usec;
}

static bool due_before(const void *a, const void *b)
{
    const tine__sched_worker *x = a, *y = b;
    return x->p.due_order < y->p.due_order;
}

#define PLACE(name) offsetof(tine__sched_worker, p.name)

int tine__sched_new(tine__sched **out, const tine__sched_config *config)
{
    tine__sched *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->config = *config;
    s->load = config->load ? config->load : LEAST_LOAD;
    s->random = config->seed;
    s->waiting_since = s->last_start = s->last_stop = -1;
    s->burst = 1;
    tine__prioq_init(&s->queue, job_before, offsetof(tine__sched_job, at));
    tine__prioq_init(&s->free, less_loaded, PLACE(at_free));
    tine__prioq_init(&s->waited, waited_before, PLACE(at_waited));
    tine__prioq_init(&s->hungry, waited_before, PLACE(at_hungry));
    tine__prioq_init(&s->held, waited_before, PLACE(at_held));
    tine__prioq_init(&s->delayed, tine__sched_due_before,
                     offsetof(tine__sched_job, at));
    tine__prioq_init(&s->parking, parked_before, offsetof(tine__affine, at_parking));
    tine__prioq_init(&s->idle, idle_before, PLACE(at_idle));
    tine__prioq_init(&s->loaded, busy_before, PLACE(at_loaded));
    tine__prioq_init(&s->ages, older, PLACE(at_age));
    tine__prioq_init(&s->due, due_before, PLACE(at_due));
    tine__prioq_init(&s->leaving, used_before, PLACE(at_leaving));
    if (tine__affinity_open(&s->keys) < 0) {
        free(s);
        return -ENOMEM;
    }
    *out = s;
    return 0;
}

void tine__sched_free(tine__sched *s)
{
    if (!s)
        return;
    tine__prioq *all[] = {&s->queue, &s->delayed, &s->parking, &s->free,
                          &s->held,  &s->waited,  &s->hungry,  &s->idle,
                          &s->ages,  &s->loaded,  &s->due,     &s->leaving};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        tine__prioq_free(all[i]);
    tine__affinity_free(&s->keys);
    free(s);
}

/* --------------------------------------------------------------------- waiting */

bool tine__sched_takes_jobs(const tine__sched_worker *w)
{
    return w->state == TINE__SCHED_STARTING || w->state == TINE__SCHED_READY;
}

int tine__sched_wait_for(tine__sched *s, tine__sched_worker *w, tine__sched_job *job)
{
    if (!w->p.waiting) {
        w->p.waiting = malloc(sizeof *w->p.waiting);
        if (!w->p.waiting)
            return -ENOMEM;
        tine__prioq_init(w->p.waiting, job_before, offsetof(tine__sched_job, at));
    }
    int err = tine__prioq_add(w->p.waiting, job);
    if (err < 0)
        return err;
    job->worker = w;
    tine__sched_place(s, w);
    return 0;
}

void tine__parked_init(tine__prioq *parked)
{
    tine__prioq_init(parked, job_before, offsetof(tine__sched_job, at));
}

static void unlist_orphan(tine__sched *s, tine__sched_job *job)
{
    if (job->prev)
        job->prev->next = job->next;
    else
        s->orphans = job->next;
    if (job->next)
        job->next->prev = job->prev;
    job->next = job->prev = NULL;
}

int tine__sched_route(tine__sched *s, tine__sched_job *job)
{
    if (job->pinned)
        return tine__sched_wait_for(s, job->worker, job);
    job->worker = NULL;
    if (!job->has_key)
        return tine__prioq_add(&s->queue, job);
    tine__affine *e = tine__affinity_find(&s->keys, job->key);
    if (e->delayed)
        return tine__sched_park(s, e, job);
    if (!e->worker)
        return tine__prioq_add(&s->queue, job); /* who gets the first gets them all */
    if (tine__sched_takes_jobs(e->worker))
        return tine__sched_wait_for(s, e->worker, job);
    if (e->handed)
        return tine__sched_park(s, e, job);
    tine__affinity_bind(e, NULL);
    return tine__prioq_add(&s->queue, job);
}

void tine__sched_unqueue(tine__sched *s, tine__sched_job *job)
{
    if (job->delayed) {
        tine__sched_undelay(s, job);
    } else if (job->parked) {
        tine__sched_unpark(s, tine__affinity_find(&s->keys, job->key), job);
    } else if (job->worker) {
        tine__prioq_remove(job->worker->p.waiting, job);
        tine__sched_place(s, job->worker);
    } else if (job->pinned) {
        unlist_orphan(s, job);
    } else {
        tine__prioq_remove(&s->queue, job);
    }
}

static void dequeued(tine__sched *s, tine__sched_job *job)
{
    job->queued = false;
    s->nqueued--;
}

void tine__sched_count_queued(tine__sched *s, tine__sched_job *job)
{
    job->queued = true;
    s->nqueued++;
}

void tine__sched_forget_job(tine__sched *s, const tine__sched_job *job)
{
    if (job->has_key)
        tine__affinity_find(&s->keys, job->key)->open--;
}

static int open_key(tine__sched *s, const tine__sched_job *job)
{
    if (!job->has_key)
        return 0;
    tine__affine *e = tine__affinity_get(&s->keys, job->key);
    if (!e)
        return -ENOMEM;
    e->open++;
    return 0;
}

bool tine__sched_has_room(const tine__sched *s)
{
    if (s->config.queue == TINE__SCHED_NO_QUEUE)
        return (s->nqueued + s->nhanded) / s->load < s->config.max;
    return !s->config.queue || s->nqueued < s->config.queue;
}

int tine__sched_may_add(tine__sched *s, int64_t now)
{
    if (s->broken && !s->probing && now < s->retry_at)
        return -EHOSTDOWN;
    if (tine__sched_has_room(s))
        return 0;
    s->was_full = true;
    return -EAGAIN;
}

int tine__sched_add(tine__sched *s, tine__sched_job *job, int64_t now)
{
    int err = job->pinned ? 0 : tine__sched_may_add(s, now);
    /* For all that there are: they may have to go there when their worker ends. */
    if (!err)
        err = tine__prioq_reserve(&s->queue, s->nqueued + s->nhanded + 1);
    if (!err)
        err = open_key(s, job);
    if (err < 0)
        return err;
    job->order = ++s->orders;
    err = tine__sched_route(s, job);
    if (err < 0) {
        tine__sched_forget_job(s, job);
        return err;
    }
    tine__sched_count_queued(s, job);
    s->was_full = s->was_full || !tine__sched_has_room(s);
    s->probing = s->probing || (s->broken && !job->pinned);
    return 0;
}

int tine__sched_again(tine__sched *s, tine__sched_job *job, int64_t now)
{
    tine__sched_worker *w = job->worker;
    if (job->handed) {
        tine__sched_unhand(s, job);
        if (w->load == 0)
            w->p.idle_since_usec = now;
        tine__sched_place(s, w);
    }
    int err = tine__sched_route(s, job);
    if (err < 0)
        tine__sched_forget_job(s, job);
    else
        tine__sched_count_queued(s, job);
    return err;
}

void tine__sched_remove(tine__sched *s, tine__sched_job *job)
{
    if (!job->queued)
        return;
    tine__sched_unqueue(s, job);
    dequeued(s, job);
    tine__sched_forget_job(s, job);
}

tine__sched_job *tine__sched_better(tine__sched_job *a, tine__sched_job *b)
{
    return !a || (b && job_before(b, a)) ? b : a;
}

static tine__sched_job *best_queued(const tine__sched *s)
{
    const tine__sched_worker *w = tine__prioq_first(&s->waited);
    const tine__affine *e = tine__prioq_first(&s->parking);
    tine__sched_job *job = tine__prioq_first(&s->queue);
    job = tine__sched_better(job, w ? tine__prioq_first(w->p.waiting) : NULL);
    job = tine__sched_better(job, e ? tine__prioq_first(&e->parked) : NULL);
    return job ? job : tine__prioq_first(&s->delayed);
}

tine__sched_job *tine__sched_orphan(tine__sched *s)
{
    tine__sched_job *job = s->orphans;
    if (!job)
        return NULL;
    tine__sched_remove(s, job);
    return job;
}

tine__sched_job *tine__sched_pop(tine__sched *s)
{
    tine__sched_job *job = tine__sched_orphan(s);
    if (job)
        return job;
    job = best_queued(s);
    if (job)
        tine__sched_remove(s, job);
    return job;
}

/* ------------------------------------------------------------------------ load */

static void set_load(tine__sched *s, size_t load)
{
    s->load = load;
    s->streak = 0;
}

void tine__sched_lower_load(tine__sched *s)
{
    if (!s->config.load)
        set_load(s, LEAST_LOAD);
}

void tine__sched_ran(tine__sched *s, int64_t usec)
{
    if (s->config.load)
        return;
    s->pace += (uint64_t)(usec > 0 ? usec : 0) - s->pace / PACE;
    size_t fits =
        s->pace / PACE ? TINE__SCHED_AHEAD_USEC / (s->pace / PACE) : MOST_LOAD;
    if (fits < s->load)
        set_load(s, fits > LEAST_LOAD ? fits : LEAST_LOAD);
    else if (++s->streak >= PACE * s->load && s->load * 2 <= fits &&
             s->load * 2 <= MOST_LOAD)
        set_load(s, s->load * 2);
}

/* ----------------------------------------------------------------- handing over */

void tine__sched_hand(tine__sched *s, tine__sched_job *job, tine__sched_worker *w,
                      int64_t now)
{
    tine__sched_unqueue(s, job);
    dequeued(s, job);
    job->worker = w;
    job->handed = true;
    job->next = NULL;
    job->prev = w->p.last;
    if (w->p.last)
        w->p.last->next = job;
    else
        w->p.first = job;
    w->p.last = job;
    s->nhanded++;
    if (w->load++ == 0) {
        s->nbusy++;
        w->p.busy_since_usec = now;
    }
    w->p.kept = false; /* this one may be had */
    w->p.alone = job->alone;
    w->p.used = ++s->uses;
    if (job->has_key) {
        tine__affine *e = tine__affinity_find(&s->keys, job->key);
        if (e->worker != w)
            tine__affinity_bind(e, w);
        e->handed++;
    }
    tine__sched_place(s, w);
    if (s->config.max_jobs && w->jobs_done + w->load >= w->p.limit_jobs &&
        w->state == TINE__SCHED_READY) {
        w->spent = true;
        s->nowed++;
        tine__sched_leave(s, w);
    }
}

void tine__sched_unhand(tine__sched *s, tine__sched_job *job)
{
    tine__sched_worker *w = job->worker;
    if (job->prev)
        job->prev->next = job->next;
    else
        w->p.first = job->next;
    if (job->next)
        job->next->prev = job->prev;
    else
        w->p.last = job->prev;
    job->next = job->prev = NULL;
    job->handed = false;
    job->worker = job->pinned ? w : NULL;
    s->nhanded--;
    w->p.alone = false;
    if (--w->load == 0)
        s->nbusy--;
    if (job->has_key) {
        tine__affine *e = tine__affinity_find(&s->keys, job->key);
        e->handed--;
        tine__sched_release(s, e);
    }
}

void tine__sched_came_back(tine__sched *s, tine__sched_job *job, bool ok, int64_t now)
{
    tine__sched_worker *w = job->worker;
    bool first = w->p.first == job;
    tine__sched_unhand(s, job);
    w->jobs_done += ok;
    w->p.kept = false;
    if (first)
        w->p.busy_since_usec = now;
    if (w->load == 0)
        w->p.idle_since_usec = now;
    if (ok) {
        w->good = true;
        tine__sched_succeeded(s);
    }
    tine__sched_place(s, w);
}

void tine__sched_done(tine__sched *s, tine__sched_job *job, bool ok, int64_t now)
{
    tine__sched_came_back(s, job, ok, now);
    tine__sched_forget_job(s, job);
}

void tine__sched_kept(tine__sched *s, tine__sched_job *job, int64_t now)
{
    (void)now;
    job->worker->p.kept = true;
    tine__sched_place(s, job->worker);
}

void tine__sched_disperse(tine__sched *s, tine__sched_worker *w)
{
    while (w->p.waiting && w->p.waiting->n) {
        tine__sched_job *job = tine__prioq_first(w->p.waiting);
        tine__prioq_remove(w->p.waiting, job);
        job->worker = NULL;
        if (!job->pinned) {
            tine__prioq_add(&s->queue, job); /* there is room since it was added */
            continue;
        }
        job->next = s->orphans;
        if (s->orphans)
            s->orphans->prev = job;
        s->orphans = job;
    }
}

bool tine__sched_broken(const tine__sched *s)
{
    return s->broken;
}

size_t tine__sched_queued(const tine__sched *s)
{
    return s->nqueued;
}

tine__sched_worker *tine__sched_least(const tine__sched *s)
{
    return tine__prioq_first(&s->free);
}
