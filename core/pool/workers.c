/* The workers of a pool: made, listened to, replaced, and mourned. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool.h"

enum {
    RSS_EVERY_USEC = 250000,
    RSS_LONG_USEC =
        500,          /* and after a job that took so long: its worker may have grown */
    MOST_RETURNS = 20 /* a job that so many workers have gone before may be the cause */
};

static tine__pool_worker *worker_at(tine__client *c)
{
    return tine__client_tag(c);
}

/* ----------------------------------------------------------------- the end of jobs */

static void note_times(tine_pool *pool, const tine_job *job, const tine__times *times)
{
    if (!times->started_usec)
        return;
    tine__histogram_add(&pool->wait, times->started_usec - job->queued_usec);
    tine__histogram_add(&pool->run, times->run_usec);
    tine__sched_ran(pool->sched, times->run_usec);
}

static void check_rss(tine__pool_worker *w, const tine__times *times, int64_t now)
{
    tine_pool *pool = w->pool;
    if (!pool->options.max_rss || w->s.due ||
        (now - w->rss_usec < RSS_EVERY_USEC && times->run_usec < RSS_LONG_USEC))
        return;
    w->rss_usec = now;
    tine_memory m = {.rss = -1};
    tine__client_memory(w->client, false, &m);
    if (m.rss > 0 && (uint64_t)m.rss > pool->options.max_rss)
        tine__sched_replace(pool->sched, &w->s, now);
}

static void tell(tine_pool *pool, tine_job *job, const tine_error *err,
                 const tine_str *results, size_t n)
{
    char text[CAUSE_MAX];
    tine_error more;
    unsigned tries = err ? tine__retries_count(job) : 0;
    if (pool->killed && err && tine__is_crash(err)) {
        more = tine__error_make(TINE_KIND_CLOSED, err->pid,
                                "the pool was closed, and its workers killed");
        more.started = 1;
        more.tries = tries ? tries + 1 : 0;
        err = &more;
    } else if (err && tries) {
        more = tine__retries_tell(err, tries + 1, NULL, text, sizeof text);
        err = &more;
    }
    tine__pool_end(pool, job, err, results, n);
}

static void on_ended(void *owner, tine__client *c, tine_job *job, const tine_error *err,
                     const tine_str *results, size_t n, const tine__times *times)
{
    tine_pool *pool = owner;
    tine__pool_worker *w = worker_at(c);
    int64_t now = pool->host->now;
    bool crash = tine__is_crash(err);
    /* A cancelled one that had not started says nothing of the worker. */
    bool good = !crash && !job->killed && times->started_usec;
    w->killed = w->killed || job->killed;
    w->jobs += good;
    enum tine__verdict verdict =
        err ? tine__retries_judge(pool, job, err) : TINE__VERDICT_END;
    w->charged = w->charged || (crash && verdict != TINE__VERDICT_FREE);
    if (verdict != TINE__VERDICT_END) {
        tine__retries_queue(pool, job, verdict, err, good);
        check_rss(w, times, now);
        tine__pool_wake(pool);
        return;
    }
    note_times(pool, job, times);
    tine__sched_done(pool->sched, &job->pool->s, good, now);
    check_rss(w, times, now);
    tine__pool_consider_promotion(pool, now);
    tell(pool, job, err, results, n);
    tine__pool_assign(pool, pool->host->now);
    /* The rest when all the answers that have come are through. */
    tine__pool_wake(pool);
}

/* --------------------------------------------------------------- other news of them */

static void on_event(void *owner, tine__client *c, tine_job *job,
                     const tine_str *values, size_t n)
{
    tine_pool *pool = owner;
    pid_t pid = tine__client_pid(c);
    if (job && job->pool->on_event)
        job->pool->on_event(job->arg, pid, job, values, n);
    else if (pool->options.rpc.on_event)
        pool->options.rpc.on_event(pool->options.rpc.arg, pid, job, values, n);
}

static void on_output(void *owner, tine__client *c, uint64_t job_id, int stream,
                      const char *line, size_t len)
{
    tine_pool *pool = owner;
    if (pool->options.rpc.on_output)
        pool->options.rpc.on_output(pool->options.rpc.arg, tine__client_pid(c), job_id,
                                    stream, line, len);
}

static void on_ready(void *owner, tine__client *c)
{
    tine_pool *pool = owner;
    tine__pool_worker *w = worker_at(c);
    int64_t now = tine__now_usec();
    if (w->canary && pool->canary != w)
        return; /* of a reload that has failed meanwhile: it is killed */
    if (w->canary) {
        w->canary = false;
        if (tine__sched_started(pool->sched, &w->s, false, now) < 0) {
            tine__client_close(c);
            return;
        }
        tine__pool_take_over(pool);
    }
    if (pool->current && pool->current->generation == w->generation) {
        tine__client_template_figures(c, &pool->current->figures);
        pool->current->proven = true;
        pool->replayed = 0;
    }
    tine__sched_ready(pool->sched, &w->s, now);
    tine__pool_make_spare(pool);
    tine__pool_wake(pool);
}

static void on_retire(void *owner, tine__client *c)
{
    tine_pool *pool = owner;
    pool->n.recycled++;
    tine__sched_retire(pool->sched, &worker_at(c)->s, tine__now_usec());
    tine__pool_wake(pool);
}

static void on_promoted(void *owner, tine__client *c)
{
    tine__pool_promoted(owner, worker_at(c));
}

/* What is left for a job to become whose worker has gone before it started. */
static enum tine__fate fate_of(const tine_pool *pool, const tine_job *job)
{
    if (pool->killed)
        return TINE__FATE_CLOSED;
    if (job->reason ==
        TINE__REASON_CANCEL) /* of a timeout nothing is left: it never ran */
        return TINE__FATE_CANCELLED;
    return pool->is_dead ? TINE__FATE_NO_WORKERS : TINE__FATE_OPEN;
}

static void bring_back(tine_pool *pool, tine_job *unstarted, int64_t now)
{
    while (unstarted) {
        tine_job *job = unstarted;
        enum tine__fate fate = fate_of(pool, job);
        unstarted = job->next;
        job->next = job->prev = NULL;
        if (job->reason == TINE__REASON_TIMEOUT)
            job->reason = TINE__REASON_NONE;
        if (fate == TINE__FATE_OPEN && ++job->pool->returned > MOST_RETURNS)
            fate = TINE__FATE_RETURNED;
        if (fate != TINE__FATE_OPEN) {
            tine__sched_done(pool->sched, &job->pool->s, false, now);
            tine__pool_end_later(pool, job, fate);
        } else if (tine__sched_again(pool->sched, &job->pool->s, now) < 0) {
            tine__pool_end_later(pool, job, TINE__FATE_NO_MEMORY);
        }
    }
}

/* What the end of a worker means. */
enum meaning {
    AS_TOLD,     /* it was to go, or was killed for it */
    OF_A_JOB,    /* that has been told, and it says nothing of workers to come */
    OF_A_RELOAD, /* it was what that tried out */
    OF_ITSELF,
    STILLBORN /* the same, before it was ready */
};

static enum meaning meaning_of(const tine_pool *pool, const tine__pool_worker *w,
                               const tine_error *why)
{
    if (pool->canary == w || pool->promoting == w)
        return OF_A_RELOAD;
    if (!why || w->killed || pool->killed || w->canary)
        return AS_TOLD;
    if (w->charged)
        return OF_A_JOB;
    if (w->s.state == TINE__SCHED_STOPPED && why->code == 0)
        return AS_TOLD;
    return tine__client_is_ready(w->client) ? OF_ITSELF : STILLBORN;
}

/* Whoever sends a signal to one that was ready does not say that no other will be. */
static enum tine__sched_end end_of(enum meaning meaning, const tine_error *why)
{
    if (meaning == OF_ITSELF && why->signal)
        return TINE__SCHED_END_LOST;
    return meaning == OF_ITSELF || meaning == STILLBORN ? TINE__SCHED_END_FAILED
                                                        : TINE__SCHED_END_FINE;
}

static void mourn(tine_pool *pool, tine__pool_worker *w, const tine_error *why)
{
    if (!why)
        return;
    if (!w->killed)
        pool->n.crashed++;
    free(pool->last);
    pool->last = tine__cause_new(why);
}

static void tell_end(tine_pool *pool, enum meaning meaning, const tine_error *why)
{
    tine_error err = tine__error_make(TINE_KIND_CLOSED, 0, "the worker has ended");
    if (!why)
        why = &err;
    switch (meaning) {
    case AS_TOLD:
    case OF_A_JOB:
        break;
    case OF_A_RELOAD:
        pool->canary = NULL; /* a worker to be promoted has died: the same */
        tine__pool_reload_failed(pool, why);
        break;
    case OF_ITSELF:
        if (!pool->is_dead)
            tine__pool_fault(pool, why);
        break;
    case STILLBORN:
        if (!pool->is_dead)
            tine__pool_fault_once(pool, why);
        break;
    }
}

static void on_gone(void *owner, tine__client *c, tine_job *unstarted,
                    const tine_error *why)
{
    tine_pool *pool = owner;
    tine__pool_worker *w = worker_at(c);
    int64_t now = tine__now_usec();
    enum meaning meaning = meaning_of(pool, w, why);
    mourn(pool, w, why);
    bring_back(pool, unstarted, now);
    if (!w->canary) /* else the scheduler does not know it */
        tine__sched_gone(pool->sched, &w->s, end_of(meaning, why), now);
    tine__cause *cause =
        why ? tine__cause_new(why) : NULL; /* it goes with the client */
    tine__pool_free_worker(w);
    tine__pool_wake(pool);
    tell_end(pool, meaning, cause ? &cause->error : NULL);
    free(cause);
}

/* ------------------------------------------------------------------- made, and freed */

void tine__pool_free_worker(tine__pool_worker *w)
{
    LIST_REMOVE(w, link);
    if (w->client)
        tine__client_free(w->client);
    free(w);
}

static void on_fault(void *owner, tine__client *c, const tine_error *err)
{
    (void)c;
    tine__pool_fault(owner, err);
}

static int fork_worker(tine_pool *pool, tine__source *source, tine__pool_worker **out)
{
    static const tine__client_ops ops = {on_ready,    on_ended, on_event,  on_retire,
                                         on_promoted, on_gone,  on_output, on_fault};
    tine_proc_options options;
    tine_proc *p = NULL;
    memset(&options, 0, sizeof options);
    tine__client_stdio(&options, &pool->config);
    tine__pool_worker *w = calloc(1, sizeof *w);
    if (!w)
        return -ENOMEM;
    int err = tine__proc_fork_held(source->proc, &options, false, &p);
    if (!err)
        err = tine__client_new(p, &pool->config, &ops, pool, &w->client);
    tine_proc_close(p);
    if (err < 0) {
        free(w);
        return err;
    }
    tine__client_set_tag(w->client, w);
    w->pool = pool;
    w->generation = source->generation;
    LIST_INSERT_HEAD(&pool->workers, w, link);
    pool->n.started++;
    *out = w;
    return 0;
}

void tine__pool_start(tine_pool *pool, bool replacement)
{
    int64_t now = tine__now_usec();
    tine__pool_worker *w = NULL;
    char text[200];
    int err = pool->current ? fork_worker(pool, pool->current, &w) : -TINE_ECLOSED;
    if (!err)
        err = tine__sched_started(pool->sched, &w->s, replacement, now);
    if (!err) {
        pool->n.recycled += replacement;
        return;
    }
    if (w) {
        tine__client_kill(w->client);
        w->canary = true; /* the scheduler does not know it */
    }
    tine_error error = tine__error_system(err, text, sizeof text, "make a worker");
    free(pool->last);
    pool->last = tine__cause_new(&error);
    tine__sched_not_started(pool->sched, replacement, now);
    if (pool->current)
        tine__pool_fault_once(pool, &error);
}

int tine__pool_start_canary(tine_pool *pool)
{
    int err = fork_worker(pool, pool->candidate, &pool->canary);
    if (!err)
        pool->canary->canary = true;
    return err;
}

void tine__pool_kill_workers(tine_pool *pool)
{
    for (tine__pool_worker *w = LIST_FIRST(&pool->workers); w; w = LIST_NEXT(w, link)) {
        w->killed = true;
        tine__client_kill(w->client);
    }
}
