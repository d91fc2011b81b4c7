/* Pools: the public calls, a job's way from its call to its callback, and the turn in which what
 * the scheduler decides is carried out. */
#include "pool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { ASYNC_LOAD = 2, STEAL_USEC = 1000, MOST_LOAD = TINE__WINDOW - 1 };

/* ------------------------------------------------------------------------ turn */

void tine__pool_wake(tine_pool *pool)
{
    tine__host_post(pool->host, &pool->task);
}

static tine_job *job_of(tine__sched_job *s)
{
    return ((struct tine__pool_part *)(void *)s)->job;
}

static tine__pool_worker *worker_of(tine__sched_worker *s)
{
    return (tine__pool_worker *)(void *)s;
}

static void assign(tine_pool *pool, tine__sched_job *s, tine__sched_worker *w)
{
    tine_job *job = job_of(s);
    if (tine__client_give(worker_of(w)->client, job) == 0)
        return;
    tine__sched_done(pool->sched, s, false, tine__now_usec());
    tine__pool_end_later(pool, job, TINE__FATE_NO_MEMORY);
}

static void steal(tine_pool *pool, tine__sched_job *s, tine__sched_worker *w)
{
    int64_t now = tine__now_usec();
    tine_job *job = job_of(s);
    if (pool->killed || job->reason != TINE__REASON_NONE ||
        !tine__client_recall(worker_of(w)->client, job))
        tine__sched_kept(pool->sched, s, now);
    else if (tine__sched_again(pool->sched, s, now) < 0)
        tine__pool_end_later(pool, job, TINE__FATE_NO_MEMORY);
}

static void carry_out(tine_pool *pool, const tine__sched_action *a)
{
    switch (a->what) {
    case TINE__SCHED_START:
        tine__pool_start(pool, a->replacement);
        break;
    case TINE__SCHED_ASSIGN:
        assign(pool, a->job, a->worker);
        break;
    case TINE__SCHED_STEAL:
        steal(pool, a->job, a->worker);
        break;
    case TINE__SCHED_STOP:
        pool->n.recycled += a->worker->spent;
        if (worker_of(a->worker) != pool->promoting ||
            tine__client_promote(pool->promoting->client) < 0)
            tine__client_close(worker_of(a->worker)->client);
        break;
    case TINE__SCHED_DRAIN:
        if (pool->options.on_drain)
            pool->options.on_drain(pool->options.rpc.arg);
        break;
    case TINE__SCHED_BREAK:
        tine__pool_end_queued(pool, TINE__FATE_NO_WORKERS);
        break;
    case TINE__SCHED_NONE:
        break;
    }
}

static void on_timer(void *arg, tine_timer *timer)
{
    tine_pool *pool = arg;
    (void)timer;
    tine_timer_free(pool->timer);
    pool->timer = NULL;
    tine__pool_wake(pool);
}

/* The timer is not moved when what it was for is over. */
static void wake_at(tine_pool *pool, int64_t at)
{
    if (at < 0 || (pool->timer && pool->timer_at <= at))
        return;
    int64_t after = at - tine__now_usec();
    tine_timer_free(pool->timer);
    pool->timer = NULL;
    pool->timer_at = at;
    if (tine__timer_internal(pool->host, &pool->timer, after > 0 ? after : 0, on_timer,
                             pool) < 0)
        pool->timer = NULL; /* no memory: with the next turn */
}

void tine__pool_assign(tine_pool *pool, int64_t now)
{
    tine__sched_action a;
    while (tine__sched_next_assign(pool->sched, now, &a))
        assign(pool, a.job, a.worker);
}

/* Carries out what the scheduler decides. */
static void turn(tine_pool *pool)
{
    int64_t now = tine__host_now(pool->host);
    for (;;) {
        tine__sched_action a = tine__sched_next(pool->sched, now);
        if (a.what == TINE__SCHED_NONE)
            break;
        carry_out(pool, &a);
    }
    tine__sched_job *orphan;
    while ((orphan = tine__sched_orphan(pool->sched)))
        tine__pool_end_later(pool, job_of(orphan), TINE__FATE_WORKER_GONE);
    wake_at(pool, tine__sched_when(pool->sched, now));
}

static void pool_free(tine_pool *pool)
{
    tine_host *host = pool->host;
    pool->pending = 0;
    pool->closed = false;
    pool->candidate = NULL;
    pool->promoting = NULL;
    pool->rolling = false;
    tine__pool_count(pool);
    LIST_REMOVE(pool, link);
    tine__host_unpost(host, &pool->task);
    tine_timer_free(pool->timer);
    tine__sched_free(pool->sched);
    tine__rpc_config_free(&pool->config);
    free(pool->dead);
    free(pool->last);
    free(pool->told);
    free(pool);
}

static void kill_now(tine_pool *pool)
{
    pool->killed = true;
    pool->kill_at = -1;
    tine__pool_end_queued(pool, TINE__FATE_CLOSED);
    tine__pool_kill_workers(pool);
}

static bool may_finish(tine_pool *pool)
{
    if (!pool->closed || pool->pending || !LIST_EMPTY(&pool->workers))
        return false;
    for (tine__source *s = LIST_FIRST(&pool->sources), *next; s; s = next) {
        next = LIST_NEXT(s, link);
        tine__source_drop(s);
    }
    return LIST_EMPTY(&pool->sources);
}

/* Tells the end of a reload that new workers have come from. */
static void roll(tine_pool *pool)
{
    char text[CAUSE_MAX];
    bool stuck = pool->is_dead || tine__sched_broken(pool->sched);
    if (!pool->rolling || (!stuck && tine__pool_has_old(pool)))
        return;
    if (!stuck) {
        tine__pool_reloaded(pool, NULL);
        return;
    }
    tine_error err = tine__pool_no_workers(pool, text, sizeof text);
    tine__pool_reloaded(pool, &err);
}

static void run_task(void *arg)
{
    tine_pool *pool = arg;
    if (pool->kill_at >= 0 && tine__now_usec() >= pool->kill_at)
        kill_now(pool);
    else if (pool->kill_at >= 0)
        wake_at(pool, pool->kill_at);
    turn(pool);
    tine__pool_tell_ends(pool);
    roll(pool);
    if (pool->ending)
        tine__pool_wake(pool);
    if (!may_finish(pool) || pool->ending)
        return;
    tine_gone_cb gone = pool->gone;
    void *gone_arg = pool->gone_arg;
    if (gone)
        gone(gone_arg);
    pool_free(pool);
}

/* ------------------------------------------------------------------------ calls */

static uint64_t hash(const tine_str *key)
{
    /* FNV-1a. */
    const unsigned char *at = key->data;
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < key->len; i++)
        h = (h ^ at[i]) * UINT64_C(0x100000001b3);
    return h;
}

static void cancel(tine_job *job)
{
    tine_pool *pool = job->owner;
    if (tine__stale(pool->host) || job->pool->fate != TINE__FATE_OPEN)
        return;
    job->pool->cancelled = true;
    if (job->at) {
        tine__client_stop(job->at, job, TINE__REASON_CANCEL);
    } else if (job->pool->s.queued) {
        tine__sched_remove(pool->sched, &job->pool->s);
        tine__pool_end_later(pool, job, TINE__FATE_CANCELLED);
    }
}

/* Returns 0 or why the pool takes no call that is not pinned. Calls of this turn may still be in
 * the queue though there are workers with nothing to do. */
static int refusal(tine_pool *pool, int64_t now)
{
    int err = pool->is_dead ? -EHOSTDOWN : tine__sched_may_add(pool->sched, now);
    if (err != -EAGAIN)
        return err;
    tine__pool_assign(pool, now);
    return tine__sched_may_add(pool->sched, now);
}

/* One that is refused is told so in the next turn, and need not keep its arguments until then. */
static int make_job(tine_pool *pool, const tine_str *args, size_t n, bool refused,
                    tine_call_cb cb, void *arg, tine_job **out)
{
    tine_job *job;
    size_t extra = sizeof(struct tine__pool_part);
    int err = refused ? tine__job_new_bare(&job, &pool->config, args, n, extra)
                      : tine__job_new(&job, &pool->config, args, n, extra);
    if (err < 0)
        return err;
    job->pool->job = job;
    job->owner = pool;
    job->id = ++pool->ids;
    job->cancel = cancel;
    job->cb = cb;
    job->arg = arg;
    job->timeout_usec = pool->options.rpc.timeout_usec;
    job->pool->retries = &pool->retries;
    job->queued_usec = pool->host->now;
    *out = job;
    return 0;
}

/* err: why it is refused. */
static void queue_job(tine_pool *pool, tine_job *job, int err)
{
    pool->pending++;
    pool->n.calls++;
    tine__pool_count(pool);
    if (!err)
        err = tine__sched_add(pool->sched, &job->pool->s, job->queued_usec);
    if (err == -EAGAIN)
        tine__pool_end_later(pool, job, TINE__FATE_REJECTED);
    else if (err == -EHOSTDOWN)
        tine__pool_end_later(pool, job, TINE__FATE_NO_WORKERS);
    else if (err < 0)
        tine__pool_end_later(pool, job, TINE__FATE_NO_MEMORY);
    else
        tine__pool_wake(pool);
}

int tine_pool_call(tine_pool *pool, const tine_str *args, size_t n,
                   const tine_call_options *o, tine_call_cb cb, void *arg,
                   tine_job **out)
{
    tine_job *job;
    if (tine__stale(pool->host))
        return -TINE_ESTALE;
    if (pool->closed)
        return -TINE_ECLOSED;
    int refused = refusal(pool, tine__host_now(pool->host));
    int err = make_job(pool, args, n, refused < 0, cb, arg, &job);
    if (err < 0)
        return err;
    if (o && o->nfds && !refused)
        err = tine__job_fds(&pool->config, job, o->fds, o->nfds);
    if (!err && o)
        err = tine__retries_take(pool, job, o);
    if (err < 0) {
        tine__job_free(&pool->config, job);
        return err;
    }
    if (o) {
        struct tine__pool_part *part = job->pool;
        part->on_event = o->on_event;
        part->s.priority = o->priority;
        if (o->timeout_usec)
            job->timeout_usec = o->timeout_usec > 0 ? o->timeout_usec : 0;
        part->s.has_key = o->key.data != NULL;
        if (o->key.data)
            part->s.key = hash(&o->key);
    }
    queue_job(pool, job, refused);
    if (out)
        *out = job;
    return 0;
}

int tine_pool_broadcast(tine_pool *pool, const tine_str *args, size_t n,
                        tine_call_cb cb, void *arg)
{
    int made = 0;
    if (tine__stale(pool->host))
        return -TINE_ESTALE;
    if (pool->closed)
        return -TINE_ECLOSED;
    int64_t now = tine__host_now(pool->host);
    if (LIST_EMPTY(&pool->workers) && !pool->is_dead &&
        !tine__sched_broken(pool->sched))
        tine__pool_start(pool, false);
    for (tine__pool_worker *w = LIST_FIRST(&pool->workers); w; w = LIST_NEXT(w, link)) {
        tine_job *job;
        bool takes =
            w->s.state == TINE__SCHED_STARTING || w->s.state == TINE__SCHED_READY;
        if (w->canary || !takes)
            continue;
        int err = make_job(pool, args, n, false, cb, arg, &job);
        if (err < 0)
            return made ? made : err;
        job->pool->s.pinned = true;
        job->pool->s.worker = &w->s;
        job->pool->s.priority = INT32_MAX;
        queue_job(pool, job, pool->is_dead ? -EHOSTDOWN : 0);
        made++;
    }
    if (made)
        return made;
    /* Nobody is there, and nobody can be made: one call, which says why. */
    tine_job *job;
    int refused = refusal(pool, now);
    int err = make_job(pool, args, n, refused < 0, cb, arg, &job);
    if (err < 0)
        return err;
    queue_job(pool, job, refused);
    return 1;
}

/* ------------------------------------------------------------------------- life */

static int open_sched(tine_pool *pool)
{
    const tine_pool_options *o = &pool->options;
    tine__sched_config config = {
        .max = o->max,
        .idle = o->idle,
        .load = o->load,
        .start_usec = o->start_usec,
        .stop_usec = o->stop_usec,
        .steal_usec = STEAL_USEC,
        .queue = o->queue,
        .max_jobs = o->max_jobs,
        .max_age_usec = o->max_age_usec,
    };
    if (getrandom(&config.seed, sizeof config.seed, GRND_NONBLOCK) < 0)
        config.seed = (uint64_t)tine__now_usec();
    return tine__sched_new(&pool->sched, &config);
}

static void take_options(tine_pool *pool, const tine_pool_options *options)
{
    tine_pool_options *o = &pool->options;
    *o = *options;
    if (!o->load && pool->config.async)
        o->load = ASYNC_LOAD;
    if (!pool->config.async && o->load > MOST_LOAD)
        o->load = MOST_LOAD;
    if (o->queue == TINE_NO_QUEUE) {
        o->load = pool->config.async ? o->load : 1;
        o->start_usec = 0;
    }
    pool->retries = (tine__retries){o->retries, o->retry};
    memset(&o->rpc.init, 0, sizeof o->rpc.init);
    memset(&o->rpc.done, 0, sizeof o->rpc.done);
    memset(&o->rpc.source, 0, sizeof o->rpc.source);
}

static void teardown_list(tine_pool *pool, tine_job *job, const tine_error *err)
{
    while (job) {
        tine_job *next = job->next;
        job->next = NULL;
        tine__pool_end(pool, job, err, NULL, 0);
        job = next;
    }
}

static void teardown(tine_pool *pool)
{
    tine_error err = tine__error_make(TINE_KIND_CLOSED, 0, TINE__POOL_CLOSED);
    pool->closed = true; /* nothing can be called any more */
    for (tine__pool_worker *w; (w = LIST_FIRST(&pool->workers));) {
        tine_job *jobs = tine__client_take_all(w->client);
        tine__client_fail_traces(w->client, &err);
        for (tine_job *job = jobs; job; job = job->next)
            tine__sched_done(pool->sched, &job->pool->s, false, 0);
        if (!w->canary) /* else the scheduler does not know it */
            tine__sched_gone(pool->sched, &w->s, TINE__SCHED_END_FINE, 0);
        tine__pool_free_worker(w);
        teardown_list(pool, jobs, &err);
    }
    tine__pool_end_queued(pool, TINE__FATE_CLOSED);
    while (pool->ending) {
        tine_job *list = pool->ending;
        pool->ending = NULL;
        teardown_list(pool, list, &err);
    }
    tine__pool_free_sources(pool);
    if (pool->reload_cb)
        pool->reload_cb(pool->reload_arg, &err);
    if (pool->gone)
        pool->gone(pool->gone_arg);
    pool_free(pool);
}

static void close_all(tine_host *host)
{
    tine__pool_host *h = host->pool;
    while (!LIST_EMPTY(&h->pools))
        /* Leaves the list. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
        teardown(LIST_FIRST(&h->pools));
    free(h);
    host->pool = NULL;
}

static int open_host(tine_host *host)
{
    if (host->pool)
        return 0;
    int err = tine__rpc_open(host); /* before: what closes it comes after the pools */
    if (err < 0)
        return err;
    host->pool = calloc(1, sizeof *host->pool);
    if (!host->pool)
        return -ENOMEM;
    tine__host_at_close(host, close_all);
    return 0;
}

int tine_pool_new(tine_proc *p, const tine_func *func, const tine_pool_options *options,
                  tine_pool **out)
{
    if (!options || !options->max || options->idle > options->max)
        return -EINVAL;
    tine_host *host = tine__proc_host(p);
    int err = open_host(host);
    if (err < 0)
        return err;
    tine_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return -ENOMEM;
    pool->host = host;
    pool->kill_at = -1;
    pool->task = (tine__task){.run = run_task, .arg = pool};
    err = tine__rpc_config_init(&pool->config, host, func, &options->rpc);
    if (!err) {
        take_options(pool, options);
        err = open_sched(pool);
    }
    if (!err)
        err = tine__source_hold(pool, p, false, &pool->current);
    if (err < 0) {
        tine__sched_free(pool->sched);
        tine__rpc_config_free(&pool->config);
        free(pool);
        return err;
    }
    LIST_INSERT_HEAD(&host->pool->pools, pool, link);
    tine__pool_wake(pool);
    *out = pool;
    return 0;
}

int tine_pool_resize(tine_pool *pool, size_t max, size_t idle)
{
    if (tine__stale(pool->host))
        return -TINE_ESTALE;
    if (!max || idle > max)
        return -EINVAL;
    pool->options.max = max;
    pool->options.idle = idle;
    tine__sched_resize(pool->sched, max, idle, tine__now_usec());
    tine__pool_wake(pool);
    return 0;
}

void tine_pool_close(tine_pool *pool, int64_t kill_after_usec, tine_gone_cb gone,
                     void *arg)
{
    if (!pool || tine__stale(pool->host))
        return;
    int64_t now = tine__now_usec();
    if (kill_after_usec >= 0) {
        int64_t at =
            kill_after_usec > INT64_MAX / 2 ? INT64_MAX / 2 : now + kill_after_usec;
        if (pool->kill_at < 0 || at < pool->kill_at)
            pool->kill_at = at;
    }
    if (!pool->closed) {
        pool->closed = true;
        pool->gone = gone;
        pool->gone_arg = arg;
        tine__sched_close(pool->sched, now);
        tine_error err =
            tine__error_make(TINE_KIND_CLOSED, 0,
                             "the pool was closed before the new template was ready");
        if (pool->candidate || pool->promoting)
            tine__pool_reload_failed(pool, &err);
        else if (pool->rolling)
            tine__pool_reloaded(pool, NULL);
    }
    tine__pool_count(pool);
    tine__pool_wake(pool);
}

int tine_pool_open(const tine_pool *pool)
{
    return !pool->closed;
}

size_t tine_pool_pending(const tine_pool *pool)
{
    return pool->pending;
}

size_t tine_pool_queued(const tine_pool *pool)
{
    return tine__sched_queued(pool->sched);
}

int tine_pool_has_room(const tine_pool *pool)
{
    return tine__sched_has_room(pool->sched);
}
