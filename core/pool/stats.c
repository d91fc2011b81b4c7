/* What can be asked of a pool. */
#include <errno.h>
#include <string.h>

#include "pool.h"
#include "process/memory.h"

int tine_pool_traceback(tine_pool *pool, pid_t pid, tine_text_cb cb, void *arg)
{
    if (tine__stale(pool->host))
        return -TINE_ESTALE;
    for (tine__pool_worker *w = LIST_FIRST(&pool->workers); w; w = LIST_NEXT(w, link))
        if (tine__client_pid(w->client) == pid)
            return tine__client_traceback(w->client, cb, arg);
    return -ESRCH;
}

static tine_worker_state state_of(const tine__pool_worker *w)
{
    if (w->s.state == TINE__SCHED_STOPPED)
        return TINE_WORKER_STOPPING;
    if (!tine__client_is_ready(w->client))
        return TINE_WORKER_STARTING;
    if (w->s.state == TINE__SCHED_RETIRING)
        return TINE_WORKER_RETIRING;
    return tine__client_load(w->client) ? TINE_WORKER_BUSY : TINE_WORKER_IDLE;
}

void tine_pool_get_stats(const tine_pool *pool, tine_pool_stats *out)
{
    memset(out, 0, sizeof *out);
    for (const tine__pool_worker *w = LIST_FIRST(&pool->workers); w;
         w = LIST_NEXT(w, link)) {
        tine_worker_state state = state_of(w);
        out->workers++;
        out->starting += state == TINE_WORKER_STARTING;
        out->idle += state == TINE_WORKER_IDLE;
        out->busy += state == TINE_WORKER_BUSY;
        out->retiring += state == TINE_WORKER_RETIRING;
        out->running += tine__client_load(w->client);
    }
    out->queued = tine__sched_queued(pool->sched);
    out->calls = pool->n.calls;
    out->done = pool->n.done;
    out->failed = pool->n.failed;
    out->rejected = pool->n.rejected;
    out->cancelled = pool->n.cancelled;
    out->timeouts = pool->n.timeouts;
    out->retried = pool->n.retried;
    out->started = pool->n.started;
    out->crashed = pool->n.crashed;
    out->recycled = pool->n.recycled;
    out->replays = pool->n.replays;
    out->replayable = pool->current && pool->current->replay;
    out->broken = pool->is_dead || tine__sched_broken(pool->sched);
    tine__histogram_read(&pool->wait, &out->wait);
    tine__histogram_read(&pool->run, &out->run);
}

static void describe(const tine__pool_worker *w, bool measure, tine_worker_stats *out)
{
    tine__figures figures;
    int64_t now = tine__now_usec(), since = now;
    const tine_job *job = tine__client_running(w->client, &since);
    memset(out, 0, sizeof *out);
    out->pid = tine__client_pid(w->client);
    out->state = state_of(w);
    out->jobs = w->jobs;
    out->load = tine__client_load(w->client);
    out->job = job ? job->id : 0;
    out->job_usec = job ? now - since : 0;
    out->age_usec = w->s.since_usec ? now - w->s.since_usec : 0;
    out->generation = w->generation;
    tine__memory_clear(&out->memory);
    tine__client_figures(w->client, &figures);
    tine__memory_take(&out->memory, &figures);
    tine__client_memory(w->client, measure, &out->memory);
    out->rss = out->memory.rss > 0 ? (uint64_t)out->memory.rss : 0;
}

static size_t describe_all(const tine_pool *pool, bool measure, tine_worker_stats *out,
                           size_t n)
{
    size_t i = 0;
    for (const tine__pool_worker *w = LIST_FIRST(&pool->workers); w;
         w = LIST_NEXT(w, link), i++)
        if (i < n)
            describe(w, measure, &out[i]);
    return i;
}

size_t tine_pool_get_workers(const tine_pool *pool, tine_worker_stats *out, size_t n)
{
    return describe_all(pool, false, out, n);
}

size_t tine_pool_measure_workers(const tine_pool *pool, tine_worker_stats *out,
                                 size_t n)
{
    return describe_all(pool, true, out, n);
}

int tine_pool_get_template(const tine_pool *pool, int measure, tine_memory *out)
{
    const tine__source *s = pool->current;
    tine__memory_clear(out);
    if (!s || !s->proc)
        return -ESRCH;
    tine__memory_take(out, &s->figures);
    tine__proc_memory(s->proc, measure != 0, out);
    return 0;
}
