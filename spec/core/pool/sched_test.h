/* What the tests of the scheduler share: a clock, jobs and workers that are only said to be. */
#ifndef TINE_SPEC_SCHED_TEST_H
#define TINE_SPEC_SCHED_TEST_H

#include "pool/sched.h"

#include "test.h"

enum { MSEC = 1000, SECOND = 1000000, WORKERS = 100, JOBS = 256 };

static tine__sched *s;
static int64_t now;
static tine__sched_config config;
static tine__sched_worker w[WORKERS];
static bool gone[WORKERS];
static tine__sched_job j[JOBS];
static size_t nworkers;

/* Before each test; what it changes in config counts from begin on. */
TEST_UNUSED static void defaults(void)
{
    memset(w, 0, sizeof w);
    memset(j, 0, sizeof j);
    memset(gone, 0, sizeof gone);
    nworkers = 0;
    now = 1000 * (int64_t)SECOND;
    config = (tine__sched_config){.max = 8,
                                  .load = 1,
                                  .start_usec = 100 * MSEC,
                                  .stop_usec = 10 * SECOND,
                                  .steal_usec = 10 * MSEC,
                                  .seed = 1};
}

/* A worker that is starting. */
TEST_UNUSED static tine__sched_worker *starting(bool replacement)
{
    CHECK(nworkers < WORKERS);
    tine__sched_worker *new = &w[nworkers++];
    CHECK_INT(tine__sched_started(s, new, replacement, now), 0);
    CHECK_INT(new->state, TINE__SCHED_STARTING);
    return new;
}

TEST_UNUSED static void begin(size_t workers)
{
    CHECK_INT(tine__sched_new(&s, &config), 0);
    for (size_t i = 0; i < workers; i++)
        tine__sched_ready(s, starting(false), now);
}

TEST_UNUSED static void ends(tine__sched_worker *worker, bool failed)
{
    CHECK(!gone[worker - w]);
    gone[worker - w] = true;
    tine__sched_gone(s, worker, failed ? TINE__SCHED_END_FAILED : TINE__SCHED_END_FINE,
                     now);
}

TEST_UNUSED static void done(tine__sched_job *job)
{
    CHECK(job->handed);
    tine__sched_done(s, job, true, now);
    CHECK(!job->handed && !job->queued);
}

TEST_UNUSED static void finish(void)
{
    for (size_t i = 0; i < JOBS; i++)
        if (j[i].handed)
            done(&j[i]);
    for (size_t i = 0; i < nworkers; i++)
        if (!gone[i])
            ends(&w[i], false);
    while (tine__sched_pop(s)) {
    }
    for (size_t i = 0; i < JOBS; i++)
        CHECK(!j[i].queued);
    CHECK_INT(tine__sched_queued(s), 0);
    CHECK_INT(tine__sched_workers(s), 0);
    tine__sched_free(s);
}

TEST_UNUSED static void add(tine__sched_job *job)
{
    CHECK_INT(tine__sched_add(s, job, now), 0);
    CHECK(job->queued);
}

TEST_UNUSED static void add_key(tine__sched_job *job, uint64_t key)
{
    job->has_key = true;
    job->key = key;
    add(job);
}

TEST_UNUSED static void add_priority(tine__sched_job *job, int priority)
{
    job->priority = priority;
    add(job);
}

TEST_UNUSED static void add_pinned(tine__sched_job *job, tine__sched_worker *to)
{
    job->pinned = true;
    job->worker = to;
    add(job);
}

TEST_UNUSED static void retry(tine__sched_job *job, int64_t after)
{
    tine__sched_try how = {.after_usec = after};
    CHECK_INT(tine__sched_retry(s, job, &how, now), 0);
}

TEST_UNUSED static tine__sched_action next(void)
{
    return tine__sched_next(s, now);
}

/* Nothing is to be done, and it does not ask to be asked at once. */
#define NONE()                                                                         \
    do {                                                                               \
        CHECK_INT(next().what, TINE__SCHED_NONE);                                      \
        int64_t when_ = tine__sched_when(s, now);                                      \
        CHECK(when_<0 || when_> now);                                                  \
    } while (0)
/* So many microseconds from now it is to be asked again. */
#define WHEN(usec)                                                                     \
    do {                                                                               \
        NONE();                                                                        \
        CHECK_INT(tine__sched_when(s, now) - now, usec);                               \
    } while (0)
#define NEVER()                                                                        \
    do {                                                                               \
        NONE();                                                                        \
        CHECK_INT(tine__sched_when(s, now), -1);                                       \
    } while (0)
#define ASSIGNS(job_, worker_)                                                         \
    do {                                                                               \
        tine__sched_action a_ = next();                                                \
        CHECK_INT(a_.what, TINE__SCHED_ASSIGN);                                        \
        CHECK_INT(a_.job - j, (job_)-j);                                               \
        CHECK_INT(a_.worker - w, (worker_)-w);                                         \
    } while (0)
#define STEALS(job_, worker_)                                                          \
    do {                                                                               \
        tine__sched_action a_ = next();                                                \
        CHECK_INT(a_.what, TINE__SCHED_STEAL);                                         \
        CHECK_INT(a_.job - j, (job_)-j);                                               \
        CHECK_INT(a_.worker - w, (worker_)-w);                                         \
    } while (0)
#define STOPS(worker_)                                                                 \
    do {                                                                               \
        tine__sched_action a_ = next();                                                \
        CHECK_INT(a_.what, TINE__SCHED_STOP);                                          \
        CHECK_INT(a_.worker - w, (worker_)-w);                                         \
        CHECK_INT((worker_)->state, TINE__SCHED_STOPPED);                              \
        ends(worker_, false);                                                          \
    } while (0)
#define STARTS(replacement_)                                                           \
    do {                                                                               \
        tine__sched_action a_ = next();                                                \
        CHECK_INT(a_.what, TINE__SCHED_START);                                         \
        CHECK_INT(a_.replacement, replacement_);                                       \
    } while (0)
#define SAYS(what_) CHECK_INT(next().what, what_)

#endif
