/* How the jobs of a pool end that no worker has ended, and what all are told. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool.h"

void tine__pool_count(tine_pool *pool)
{
    bool on = pool->pending > 0 || pool->closed || pool->candidate || pool->rolling ||
              pool->promoting;
    tine__loop_hold(pool->host, &pool->holds, on);
}

void tine__pool_fault(tine_pool *pool, const tine_error *err)
{
    if (pool->options.rpc.on_error)
        pool->options.rpc.on_error(pool->options.rpc.arg, err);
    else
        tine__host_fault(pool->host, err);
}

/* The system is short of the same, or the same but for digits: process ids differ. */
static bool is_same(const tine_error *a, const tine_error *b)
{
    if (a->sys_errno)
        return a->sys_errno == b->sys_errno;
    if (a->kind != b->kind || a->message_len != b->message_len)
        return false;
    for (size_t i = 0; i < a->message_len; i++)
        if (a->message[i] != b->message[i] && !(isdigit((unsigned char)a->message[i]) &&
                                                isdigit((unsigned char)b->message[i])))
            return false;
    return true;
}

void tine__pool_fault_once(tine_pool *pool, const tine_error *err)
{
    enum { AGAIN_USEC = 60000000 };
    int64_t now = tine__host_now(pool->host);
    if (pool->told && is_same(&pool->told->error, err) &&
        now - pool->told_usec < AGAIN_USEC)
        return;
    free(pool->told);
    pool->told = tine__cause_new(err);
    pool->told_usec = now;
    tine__pool_fault(pool, err);
}

void tine__pool_end(tine_pool *pool, tine_job *job, const tine_error *err,
                    const tine_str *results, size_t n)
{
    tine_call_cb cb = job->cb;
    pool->pending--;
    pool->n.done++;
    if (err) {
        pool->n.failed++;
        pool->n.timeouts += err->kind == TINE_KIND_TIMEOUT;
        pool->n.cancelled += err->kind == TINE_KIND_CANCELLED;
        pool->n.rejected += err->kind == TINE_KIND_REJECTED;
    }
    if (cb)
        cb(job->arg, job, err, results, n);
    if (job->pool->tries || job->pool->retries != &pool->retries)
        tine__retries_free(pool, job);
    tine__job_free(&pool->config, job);
    tine__pool_count(pool);
}

void tine__pool_end_later(tine_pool *pool, tine_job *job, enum tine__fate fate)
{
    job->pool->fate = fate;
    job->next = NULL;
    if (pool->ending)
        pool->ending_last->next = job;
    else
        pool->ending = job;
    pool->ending_last = job;
    tine__pool_wake(pool);
}

void tine__pool_end_queued(tine_pool *pool, enum tine__fate fate)
{
    tine__sched_job *s;
    while ((s = tine__sched_pop(pool->sched)))
        tine__pool_end_later(pool, ((struct tine__pool_part *)(void *)s)->job, fate);
}

tine_error tine__pool_no_workers(const tine_pool *pool, char *text, size_t size)
{
    const tine__cause *cause = pool->is_dead ? pool->dead : pool->last;
    tine_error err =
        cause ? cause->error : tine__error_make(TINE_KIND_CLOSED, 0, "unknown");
    /* Of a job that has not started nobody has crashed. */
    if (err.kind == TINE_KIND_CRASH || err.kind == TINE_KIND_EXIT)
        err.kind = TINE_KIND_CLOSED;
    err.broken = 1;
    tine__error_say(&err, text, size, "the pool cannot make workers: %s%.*s",
                    pool->is_dead ? "" : "5 in a row have failed; the last: ",
                    (int)err.message_len, err.message);
    return err;
}

static tine_error fate_error(const tine_pool *pool, const tine_job *job, char *text,
                             size_t size)
{
    tine_error err = tine__error_make(TINE_KIND_CLOSED, 0, TINE__POOL_CLOSED);
    switch (job->pool->fate) {
    case TINE__FATE_CANCELLED:
        return tine__error_cancelled();
    case TINE__FATE_REJECTED:
        if (pool->options.queue == TINE_NO_QUEUE)
            return tine__error_make(TINE_KIND_REJECTED, 0,
                                    "all workers are busy, and there is no queue");
        return tine__error_print(TINE_KIND_REJECTED, 0, text, size,
                                 "the queue is full: %zu calls wait (queue)",
                                 pool->options.queue);
    case TINE__FATE_NO_WORKERS:
        return tine__pool_no_workers(pool, text, size);
    case TINE__FATE_WORKER_GONE:
        return tine__error_make(TINE_KIND_CLOSED, 0,
                                "the worker ended before the call started");
    case TINE__FATE_RETURNED:
        return tine__error_print(TINE_KIND_CLOSED, 0, text, size,
                                 "%u workers ended before the call started",
                                 job->pool->returned);
    case TINE__FATE_NO_MEMORY:
        return tine__error_system(-ENOMEM, text, size, "call");
    case TINE__FATE_CLOSED:
        err.started = -1;
        break;
    default:
        break;
    }
    return err;
}

/* Why a job is tried no more that has failed before; NULL: it was told to end, or has not. */
static const char *no_more(const tine_job *job)
{
    switch (job->pool->fate) {
    case TINE__FATE_NO_WORKERS:
        return "the pool cannot make workers";
    case TINE__FATE_RETURNED:
        return "workers ended before it started again";
    case TINE__FATE_NO_MEMORY:
        return "out of memory";
    case TINE__FATE_CLOSED:
        return TINE__POOL_CLOSED;
    default:
        return NULL;
    }
}

/* One that waited to be tried again ends as it has failed. */
static tine_error end_error(const tine_pool *pool, const tine_job *job, char *text,
                            size_t size)
{
    const tine__tries *tries = job->pool->tries;
    const char *why = no_more(job);
    if (!tries || !tries->last || !why)
        return fate_error(pool, job, text, size);
    return tine__retries_tell(&tries->last->error, tine__retries_count(job), why, text,
                              size);
}

void tine__pool_tell_ends(tine_pool *pool)
{
    char text[CAUSE_MAX];
    tine_job *list = pool->ending;
    pool->ending = pool->ending_last = NULL;
    while (list) {
        tine_job *job = list;
        list = job->next;
        job->next = NULL;
        tine_error err = end_error(pool, job, text, sizeof text);
        tine__pool_end(pool, job, &err, NULL, 0);
    }
}
