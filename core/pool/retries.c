/* Jobs that have failed: which are tried again, and when, and what each has spent of its tries. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool.h"

/* A job whose worker has so often died of others may be what they die of, and hide it. */
enum { MOST_FREE = 20 };

int tine__retries_take(tine_pool *pool, tine_job *job, const tine_call_options *o)
{
    if (!o->retries && !o->retry)
        return 0;
    tine__retries *own = malloc(sizeof *own);
    if (!own)
        return -ENOMEM;
    *own = pool->retries;
    if (o->retries)
        own->crash = o->retries > 0 ? (unsigned)o->retries : 0;
    if (o->retry)
        own->other = *o->retry;
    job->pool->retries = own;
    return 0;
}

void tine__retries_free(tine_pool *pool, tine_job *job)
{
    struct tine__pool_part *part = job->pool;
    if (part->retries != &pool->retries)
        free((void *)part->retries);
    if (part->tries)
        free(part->tries->last);
    free(part->tries);
}

unsigned tine__retries_count(const tine_job *job)
{
    const tine__tries *t = job->pool->tries;
    return t ? t->crash + t->timeout + t->exception + t->doubts : 0;
}

bool tine__is_crash(const tine_error *err)
{
    return err && (err->kind == TINE_KIND_CRASH || err->kind == TINE_KIND_PROTOCOL);
}

/* --------------------------------------------------------------------- verdict */

/* What is meant for one worker ends with it. */
static bool is_final(const tine_pool *pool, const struct tine__pool_part *part)
{
    return part->s.pinned || part->cancelled || pool->killed || pool->is_dead;
}

static enum tine__verdict judge_crash(const tine_job *job, const tine__tries *spent)
{
    const struct tine__pool_part *part = job->pool;
    unsigned most = part->retries->crash;
    if (spent->crash >= most)
        return TINE__VERDICT_END;
    if (job->blame == TINE__BLAME_OTHER && part->returned < MOST_FREE)
        return TINE__VERDICT_FREE;
    if (job->blame == TINE__BLAME_SHARED && !spent->doubts)
        return TINE__VERDICT_DOUBT;
    /* With none other there it was this one; and the time before, it seems. */
    return spent->doubts < most - spent->crash ? TINE__VERDICT_AGAIN
                                               : TINE__VERDICT_END;
}

static bool is_wanted(tine_pool *pool, tine_job *job, const tine_error *err,
                      const tine__tries *spent)
{
    const tine_retry *o = &job->pool->retries->other;
    if (!o->again)
        return spent->exception < o->exception;
    bool wanted = o->again(o->arg, job, err, tine__retries_count(job) + 1) != 0;
    return wanted && !is_final(pool, job->pool);
}

enum tine__verdict tine__retries_judge(tine_pool *pool, tine_job *job,
                                       const tine_error *err)
{
    static const tine__tries none;
    const struct tine__pool_part *part = job->pool;
    const tine__tries *spent = part->tries ? part->tries : &none;
    bool again = false;
    if (is_final(pool, part))
        return TINE__VERDICT_END;
    if (tine__is_crash(err))
        return judge_crash(job, spent);
    if (err->kind == TINE_KIND_TIMEOUT)
        again = spent->timeout < part->retries->other.timeout;
    else if (err->kind == TINE_KIND_EXCEPTION)
        again = is_wanted(pool, job, err, spent);
    return again ? TINE__VERDICT_AGAIN : TINE__VERDICT_END;
}

/* ----------------------------------------------------------------------- again */

/* Without memory for that it has not failed yet. */
static void note_failure(struct tine__pool_part *part, enum tine__verdict verdict,
                         const tine_error *err)
{
    part->returned += verdict == TINE__VERDICT_FREE;
    if (verdict == TINE__VERDICT_FREE)
        return;
    if (!part->tries)
        part->tries = calloc(1, sizeof *part->tries);
    tine__tries *t = part->tries;
    if (!t)
        return;
    free(t->last);
    t->last = tine__cause_new(err);
    if (verdict == TINE__VERDICT_DOUBT) {
        t->doubts++;
    } else if (tine__is_crash(err)) {
        t->crash += 1 + t->doubts;
        t->doubts = 0;
    } else {
        t->timeout += err->kind == TINE_KIND_TIMEOUT;
        t->exception += err->kind == TINE_KIND_EXCEPTION;
    }
}

static int64_t delay_of(const tine_job *job)
{
    int64_t delay = job->pool->retries->other.delay_usec;
    if (delay <= 0)
        return 0;
    for (unsigned n = tine__retries_count(job); n > 1 && delay < INT64_MAX / 4; n--)
        delay *= 2;
    return delay < INT64_MAX / 4 ? delay : INT64_MAX / 4;
}

static void renew(tine_job *job)
{
    job->reason = TINE__REASON_NONE;
    job->killed = job->last_look = false;
    job->stop_usec = job->handed_usec = 0;
}

void tine__retries_queue(tine_pool *pool, tine_job *job, enum tine__verdict verdict,
                         const tine_error *err, bool ok)
{
    bool is_free = verdict == TINE__VERDICT_FREE;
    note_failure(job->pool, verdict, err);
    renew(job);
    tine__sched_try how = {
        .ok = ok,
        .alone = pool->config.async && !is_free && tine__is_crash(err),
        .after_usec = verdict == TINE__VERDICT_AGAIN ? delay_of(job) : 0,
    };
    pool->n.retried++;
    if (tine__sched_retry(pool->sched, &job->pool->s, &how, tine__now_usec()) < 0)
        tine__pool_end_later(pool, job, TINE__FATE_NO_MEMORY);
}

tine_error tine__retries_tell(const tine_error *err, unsigned times, const char *why,
                              char *text, size_t size)
{
    enum { TAIL = 90 };
    tine_error more = *err;
    more.tries = times;
    if (!tine__is_crash(err) && err->kind != TINE_KIND_TIMEOUT)
        return more;
    size_t len = err->message_len < size - TAIL ? err->message_len : size - TAIL;
    memmove(text, err->message, len);
    int n = snprintf(text + len, size - len, " (tried %u time%s%s%s)", times,
                     times == 1 ? "" : "s", why ? "; " : "", why ? why : "");
    more.message = text;
    more.message_len = len + (size_t)n;
    return more;
}
