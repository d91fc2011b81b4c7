/* What the scheduler's operations cost, in comparisons of its queues: O(log n) with n workers,
 * queued jobs, keys; counted, not timed. */
#include "pool/sched_priv.h"

#include "test.h"

enum { SECOND = 1000000 };

/* Each queue's own order, behind one that counts. */
static size_t compares;

#define COUNTED(name)                                                                  \
    static tine__prioq_before real_##name;                                             \
    static bool count_##name(const void *a, const void *b)                             \
    {                                                                                  \
        compares++;                                                                    \
        return real_##name(a, b);                                                      \
    }
#define COUNT(name) (real_##name = s->name.before, s->name.before = count_##name)

COUNTED(queue)
COUNTED(parking)
COUNTED(free)
COUNTED(waited)
COUNTED(hungry)
COUNTED(idle)
COUNTED(loaded)
COUNTED(ages)
COUNTED(due)
COUNTED(leaving)

static tine__sched *s;
static int64_t now;
static size_t most, all, calls;

static void open_sched(const tine__sched_config *config)
{
    CHECK_INT(tine__sched_new(&s, config), 0);
    COUNT(queue);
    COUNT(parking);
    COUNT(free);
    COUNT(waited);
    COUNT(hungry);
    COUNT(idle);
    COUNT(loaded);
    COUNT(ages);
    COUNT(due);
    COUNT(leaving);
    now = SECOND;
    most = all = calls = compares = 0;
}

/* One call has been made. */
static void counted(void)
{
    most = compares > most ? compares : most;
    all += compares;
    calls++;
    compares = 0;
}

static tine__sched_action next(void)
{
    tine__sched_action a = tine__sched_next(s, now);
    counted();
    return a;
}

static unsigned log2_of(size_t n)
{
    unsigned bits = 0;
    while (n >> bits)
        bits++;
    return bits;
}

/* Workers come, are given jobs, do them in any order, are replaced, retire and die. */
typedef struct bed {
    tine__sched_worker *workers;
    tine__sched_job *jobs;
    size_t nworkers, njobs;
} bed;

static void settle(void)
{
    for (tine__sched_action a; (a = next()).what != TINE__SCHED_NONE;) {
        now++;
        if (a.what == TINE__SCHED_STEAL)
            tine__sched_again(s, a.job, now);
        else
            CHECK(a.what == TINE__SCHED_ASSIGN || a.what == TINE__SCHED_START ||
                  a.what == TINE__SCHED_STOP);
        counted();
        if (a.what == TINE__SCHED_START)
            return; /* they are enough */
    }
    tine__sched_when(s, now);
    counted();
}

static void turn_over(bed *b, size_t i)
{
    tine__sched_job *job = &b->jobs[i];
    now += 7;
    if (job->handed) {
        tine__sched_done(s, job, true, now);
        counted();
    } else if (job->queued) {
        tine__sched_remove(s, job);
        counted();
    }
    settle();
    memset(job, 0, sizeof *job);
    job->priority = (int)(test_random() % 3);
    job->has_key = test_random() % 4 == 0;
    job->key = test_random() % b->njobs;
    CHECK_INT(tine__sched_add(s, job, now), 0);
    counted();
    settle();
}

static void one_of_them(bed *b, size_t i)
{
    tine__sched_worker *w = &b->workers[i];
    if (w->state == TINE__SCHED_READY && test_random() % 4 == 0)
        tine__sched_replace(s, w, now);
    else if (w->state == TINE__SCHED_STARTING)
        tine__sched_ready(s, w, now);
    counted();
    settle();
}

static void work(size_t n, size_t load)
{
    tine__sched_config config = {.max = n,
                                 .idle = n,
                                 .load = load,
                                 .start_usec = SECOND,
                                 .stop_usec = SECOND,
                                 .steal_usec = 10,
                                 .max_jobs = 1000,
                                 .max_age_usec = 1000 * SECOND};
    bed b = {calloc(n, sizeof *b.workers), calloc(4 * n, sizeof *b.jobs), n, 4 * n};
    open_sched(&config);
    for (size_t i = 0; i < n; i++) {
        CHECK_INT(tine__sched_started(s, &b.workers[i], false, now), 0);
        counted();
        tine__sched_ready(s, &b.workers[i], now);
        counted();
    }
    for (size_t i = 0; i < b.njobs; i++)
        turn_over(&b, i);
    most = all = calls = 0;
    for (size_t i = 0; i < 20000; i++) {
        turn_over(&b, test_random() % b.njobs);
        if (i % 16 == 0)
            one_of_them(&b, test_random() % n);
    }
    for (size_t i = 0; i < b.njobs; i++)
        if (b.jobs[i].handed)
            tine__sched_done(s, &b.jobs[i], true, now);
    for (size_t i = 0; i < n; i++)
        tine__sched_gone(s, &b.workers[i], TINE__SCHED_END_FINE, now);
    while (tine__sched_pop(s)) {
    }
    tine__sched_free(s);
    free(b.workers);
    free(b.jobs);
}

/* From 64 workers and 256 jobs to 16384 and 65536: log n grows from 8 to 16. */
static void with_more_of_all(void)
{
    for (size_t load = 1; load <= 4; load += 3) {
        double few = 0;
        for (size_t n = 64; n <= 16384; n *= 16) {
            work(n, load);
            double mean = (double)all / (double)calls;
            unsigned bits = log2_of(4 * n);
            printf("  load %zu, %5zu workers: %.1f comparisons a call, at most %zu\n",
                   load, n, mean, most);
            few = n == 64 ? mean : few;
            CHECK(mean < few * 2 + 4);
            CHECK(most < 8 * bits);
        }
    }
}

/* Jobs that all wait for one worker: keys on their way from one to another, best last. */
static size_t parked(size_t n)
{
    static const tine__sched_config config = {.max = 2, .load = 1, .stop_usec = SECOND};
    tine__sched_worker w[2] = {{.jobs_done = 0}};
    tine__sched_job *jobs = calloc(n, sizeof *jobs), first = {.has_key = true};
    open_sched(&config);
    for (int i = 0; i < 2; i++) {
        CHECK_INT(tine__sched_started(s, &w[i], false, now), 0);
        tine__sched_ready(s, &w[i], now);
    }
    CHECK_INT(tine__sched_add(s, &first, now), 0);
    CHECK_INT(next().what, TINE__SCHED_ASSIGN);
    tine__sched_retire(s, first.worker, now);
    tine__affine *e = tine__affinity_find(&s->keys, first.key);
    real_due = e->parked.before;
    e->parked.before = count_due;
    most = all = calls = compares = 0;
    for (size_t i = 0; i < n; i++) {
        jobs[i].has_key = true;
        jobs[i].priority = (int)i;
        CHECK_INT(tine__sched_add(s, &jobs[i], now), 0);
        counted();
    }
    for (size_t i = 0; i < n / 2; i++) {
        tine__sched_remove(s, &jobs[(i * 7919) % n]);
        counted();
    }
    size_t worst = most;
    tine__sched_done(s, &first, true, now);
    compares = 0;
    for (int i = 0; i < 2; i++)
        tine__sched_gone(s, &w[i], TINE__SCHED_END_FINE, now);
    while (tine__sched_pop(s)) {
    }
    tine__sched_free(s);
    free(jobs);
    return worst;
}

static void with_more_that_are_parked(void)
{
    for (size_t n = 100; n <= 100000; n *= 10)
        CHECK(parked(n) <= 2 * log2_of(n) + 2);
}

/* The chains of the keys' table stay short. */
static void with_more_keys(void)
{
    tine__sched_config config = {.max = 1, .load = 1000000};
    enum { KEYS = 100000 };
    tine__sched_job *jobs = calloc(KEYS, sizeof *jobs);
    open_sched(&config);
    size_t longest = 0;
    for (uint64_t i = 0; i < KEYS; i++) {
        jobs[i].has_key = true;
        jobs[i].key = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
        CHECK_INT(tine__sched_add(s, &jobs[i], now), 0);
    }
    for (size_t i = 0; i < s->keys.nslots; i++) {
        size_t length = 0;
        for (const tine__affine *e = s->keys.slots[i]; e; e = e->next)
            length++;
        longest = length > longest ? length : longest;
    }
    CHECK_INT(s->keys.n, KEYS);
    CHECK(longest < 20);
    while (tine__sched_pop(s)) {
    }
    tine__sched_free(s);
    free(jobs);
}

int main(void)
{
    RUN(with_more_of_all);
    RUN(with_more_that_are_parked);
    RUN(with_more_keys);
    return 0;
}
