/* A model of a pool for the simulation of the scheduler: workers, jobs and events without any
 * process, and books of its own, against which all that the scheduler says is checked. */
#ifndef TINE_SPEC_SCHED_SIM_H
#define TINE_SPEC_SCHED_SIM_H

#include "pool/sched_priv.h"

#include "test.h"

enum { MSEC = 1000, SECOND = 1000000, KEYS = 1500, SAMPLE = 251 };

typedef struct job {
    tine__sched_job s;
    size_t at; /* in the model's own queue */
    uint64_t turn;
    bool waits;
    int64_t due; /* not before that time */
    size_t at_later;
    unsigned ends;
} job;

typedef struct worker {
    tine__sched_worker s;
    size_t at; /* in the list of all */
    job *jobs[8];
    size_t njobs;
    int64_t began; /* the first of them */
    unsigned serial;
    bool dead;
    struct worker *next; /* of the dead */
} worker;

enum what { COME, READY, END, DIE, EXIT, WAKE, SHAKE };

typedef struct event {
    size_t at;
    int64_t when;
    uint64_t order;
    enum what what;
    worker *w;
    unsigned serial; /* END: of the job it is about */
} event;

typedef struct plan {
    tine__sched_config config;
    size_t njobs, burst;    /* jobs in all; most at a time */
    int64_t every, takes;   /* between bursts, and for a job, on average */
    int64_t lives, spawns;  /* a worker until it is killed, and until ready */
    unsigned keyed, pinned; /* of 100 jobs */
    unsigned dies_young;    /* of 100 workers */
    unsigned fails;         /* of 100 tries, which are tried again */
    int64_t delay;          /* before that, on average; 0: none */
    bool resizes, breaks;
} plan;

static const plan *p;
static tine__sched *s;
static int64_t now;
static tine__prioq events;
static uint64_t order, turns;
static job *jobs;
static size_t njobs, nopen, nrefused, ncrashed, npopped, nmoved, nstolen, nalone, nlate;
static worker **workers, *dead;
static size_t nworkers, most;
static tine__prioq any, of_key[KEYS]; /* jobs that wait, as the model has them */
static tine__prioq later;             /* of those: that are delayed */
static worker *bound[KEYS];
static size_t handed[KEYS];
static size_t nwaiting, nstarting, nreplacing, nready, nsteps;
static int64_t wake_at;
static size_t max_now;

static int64_t about(int64_t mean)
{
    return 1 + (int64_t)(test_random() % (uint64_t)(2 * mean));
}

static bool chance(unsigned of_100)
{
    return test_random() % 100 < of_100;
}

static bool sooner(const void *a, const void *b)
{
    const event *x = a, *y = b;
    return x->when != y->when ? x->when < y->when : x->order < y->order;
}

static bool better(const void *a, const void *b)
{
    const job *x = a, *y = b;
    if (x->s.priority != y->s.priority)
        return x->s.priority > y->s.priority;
    return x->turn < y->turn;
}

static bool due_sooner(const void *a, const void *b)
{
    const job *x = a, *y = b;
    return x->due != y->due ? x->due < y->due : x->turn < y->turn;
}

static void at(int64_t after, enum what what, worker *w)
{
    event *e = calloc(1, sizeof *e);
    e->when = now + after;
    e->order = ++order;
    e->what = what;
    e->w = w;
    e->serial = w ? w->serial : 0;
    CHECK_INT(tine__prioq_add(&events, e), 0);
}

/* ---------------------------------------------------------------------- the books */

/* With a key it holds its place in it, delayed or not. */
static tine__prioq *line_of(job *x)
{
    if (x->s.pinned)
        return NULL;
    if (x->s.has_key)
        return &of_key[x->s.key];
    return x->at_later || x->s.alone ? NULL : &any;
}

/* It has a job that is to run alone, or is to have it next. */
static bool is_apart(const worker *w)
{
    const tine__sched_job *next =
        w->s.p.waiting ? tine__prioq_first(w->s.p.waiting) : NULL;
    return (next && next->alone) || (w->njobs && w->jobs[0]->s.alone);
}

/* One of the key's jobs is delayed: the others wait for it. */
static bool is_held(size_t k)
{
    for (size_t i = 1; i <= later.n; i++) {
        const job *x = later.items[i];
        if (x->s.has_key && x->s.key == k)
            return true;
    }
    return false;
}

/* One of the key's jobs is to run alone: it may have chosen a worker, which the others wait for. */
static bool has_alone(size_t k)
{
    for (size_t i = 1; i <= of_key[k].n; i++)
        if (((const job *)of_key[k].items[i])->s.alone)
            return true;
    return false;
}

static void waits(job *x)
{
    CHECK(!x->waits && !x->ends);
    x->waits = true;
    nwaiting++;
    if (x->due > now)
        CHECK_INT(tine__prioq_add(&later, x), 0);
    if (line_of(x))
        CHECK_INT(tine__prioq_add(line_of(x), x), 0);
}

static void waits_no_more(job *x)
{
    CHECK(x->waits);
    x->waits = false;
    nwaiting--;
    if (line_of(x))
        tine__prioq_remove(line_of(x), x);
    tine__prioq_remove(&later, x);
}

static void come_due(void)
{
    for (job *x; (x = tine__prioq_first(&later)) && x->due <= now; nlate++) {
        tine__prioq_remove(&later, x);
        if (!x->s.has_key)
            x->turn = ++turns;
        if (!x->s.has_key && line_of(x))
            CHECK_INT(tine__prioq_add(line_of(x), x), 0);
    }
}

static void over(job *x)
{
    CHECK(!x->waits);
    CHECK_INT(++x->ends, 1);
    nopen--;
}

static void take_out(worker *w, size_t i)
{
    job *x = w->jobs[i];
    if (x->s.has_key)
        handed[x->s.key]--;
    w->njobs--;
    memmove(&w->jobs[i], &w->jobs[i + 1], (w->njobs - i) * sizeof *w->jobs);
}

static void run_first(worker *w)
{
    w->serial++;
    w->began = now;
    if (w->njobs)
        at(about(p->takes), END, w);
}

/* -------------------------------------------------------------- what it tells us to do */

static void check_key(const worker *w, job *x)
{
    size_t k = x->s.key;
    CHECK(tine__prioq_first(&of_key[k]) == x);
    if (bound[k] != w) {
        /* Its worker has gone, or is going and has none of it left. */
        CHECK(!bound[k] || bound[k]->s.state != TINE__SCHED_READY);
        CHECK_INT(handed[k], 0);
        nmoved += bound[k] != NULL;
    }
}

static void check_least_loaded(const worker *w)
{
    for (size_t i = 0; i < nworkers; i++)
        if (workers[i]->s.state == TINE__SCHED_READY && !is_apart(workers[i]))
            CHECK(workers[i]->njobs >= w->njobs);
}

/* Nor does one overtake those with a key that nobody has. */
static void check_best(job *x)
{
    for (size_t k = 0; k < KEYS; k++) {
        job *first = tine__prioq_first(&of_key[k]);
        bool taken = bound[k] && bound[k]->s.state == TINE__SCHED_READY;
        if (first && first != x && !handed[k] && !taken && !is_held(k) && !has_alone(k))
            CHECK(better(x, first));
    }
}

static void assign(worker *w, job *x)
{
    bool goes_anywhere = !x->s.pinned;
    CHECK(x->waits && x->s.handed && !x->s.queued);
    CHECK(w->njobs < p->config.load);
    CHECK(!x->at_later && x->due <= now);
    CHECK(!w->njobs || (!x->s.alone && !w->jobs[0]->s.alone));
    nalone += x->s.alone;
    if (x->s.pinned)
        CHECK(x->s.worker == &w->s);
    else
        CHECK(w->s.state == TINE__SCHED_READY ||
              (w->s.state == TINE__SCHED_RETIRING && w->s.spent));
    if (!x->s.pinned && p->config.max_jobs)
        CHECK(w->s.jobs_done + w->s.load <= p->config.max_jobs);
    if (x->s.has_key && !x->s.pinned) {
        goes_anywhere = bound[x->s.key] == NULL || bound[x->s.key] != w;
        check_key(w, x);
        bound[x->s.key] = w;
    } else if (!x->s.pinned && !x->s.alone) {
        CHECK(tine__prioq_first(&any) == x);
    }
    if (w->s.state == TINE__SCHED_READY && any.n && !x->s.alone)
        CHECK(tine__prioq_first(&any) == x || better(x, tine__prioq_first(&any)));
    if (w->s.p.waiting && w->s.p.waiting->n)
        CHECK(better(x, tine__prioq_first(w->s.p.waiting)));
    if (goes_anywhere && !x->s.alone && nsteps % SAMPLE == 0) {
        check_least_loaded(w);
        check_best(x);
    }
    waits_no_more(x);
    if (x->s.has_key)
        handed[x->s.key]++;
    w->jobs[w->njobs++] = x;
    if (w->njobs == 1)
        run_first(w);
}

static void steal(worker *w, job *x)
{
    CHECK(w->njobs > 1 && w->jobs[0] != x && !x->s.has_key && !x->s.pinned);
    CHECK(now - w->began >= p->config.steal_usec);
    CHECK_INT(any.n, 0);
    if (chance(10)) {
        tine__sched_kept(s, &x->s, now);
        return;
    }
    for (size_t i = 1; i < w->njobs; i++)
        if (w->jobs[i] == x)
            take_out(w, i);
    CHECK_INT(tine__sched_again(s, &x->s, now), 0);
    waits(x);
    nstolen++;
}

static void start(bool replacement)
{
    size_t quarter = max_now / 4 ? max_now / 4 : 1;
    if (replacement)
        CHECK(nreplacing < quarter);
    else
        CHECK(nready + nstarting < max_now || nready + nstarting == 0);
    worker *w = calloc(1, sizeof *w);
    CHECK_INT(tine__sched_started(s, &w->s, replacement, now), 0);
    if (nworkers % 1024 == 0)
        workers = realloc(workers, (nworkers + 1024) * sizeof *workers);
    w->at = nworkers;
    workers[nworkers++] = w;
    most = nworkers > most ? nworkers : most;
    nstarting += !replacement;
    nreplacing += replacement;
    at(about(p->spawns), chance(p->dies_young) ? DIE : READY, w);
}

static void pop_all(void)
{
    for (tine__sched_job *x; (x = tine__sched_pop(s)) != NULL; npopped++) {
        waits_no_more((job *)(void *)x);
        over((job *)(void *)x);
    }
    CHECK_INT(nwaiting, 0);
}

/* ------------------------------------------------------------------ what must hold */

static void check_worker(const worker *w, bool idle)
{
    CHECK_INT(w->njobs, w->s.load);
    CHECK(w->njobs <= p->config.load);
    if (w->s.state == TINE__SCHED_READY && w->njobs < p->config.load && !is_apart(w))
        CHECK(any.n == 0);
    /* Nobody is idle while a job is behind one that runs long. */
    if (!idle || w->s.p.kept || now - w->began < p->config.steal_usec)
        return;
    for (size_t i = 1; i < w->njobs; i++)
        CHECK(w->jobs[i]->s.has_key || w->jobs[i]->s.pinned);
}

static void check_all(void)
{
    size_t ready = 0, loads = 0, room = 0;
    bool idle = false;
    for (size_t i = 0; i < nworkers; i++) {
        ready += workers[i]->s.state == TINE__SCHED_READY;
        loads += workers[i]->njobs;
        bool is = workers[i]->s.state == TINE__SCHED_READY;
        room += is && workers[i]->njobs < p->config.load && !is_apart(workers[i]);
        idle = idle || (is && !workers[i]->njobs && !is_apart(workers[i]));
    }
    for (size_t i = 0; i < nworkers; i++)
        check_worker(workers[i], idle);
    CHECK_INT(loads, s->nhanded);
    CHECK_INT(ready, s->nready);
    CHECK((room > 0) == (tine__sched_least(s) != NULL));
    for (size_t k = 0; k < KEYS; k++)
        if (of_key[k].n && (is_held(k) || has_alone(k)))
            continue; /* for others of it, or for a worker to be empty */
        else if (of_key[k].n && bound[k] && bound[k]->s.state == TINE__SCHED_READY)
            CHECK(bound[k]->njobs == p->config.load || is_apart(bound[k]));
        else if (of_key[k].n && !handed[k])
            CHECK(room == 0);
    CHECK_INT(nopen, nwaiting + loads);
}

static void count_states(void)
{
    nready = s->nready;
    nreplacing = s->nreplacing;
    nstarting = s->nstarting - s->nreplacing;
}

static void settle(void)
{
    come_due();
    for (size_t n = 0;; n++) {
        CHECK(n < 1000000);
        count_states();
        tine__sched_action a = tine__sched_next(s, now);
        worker *w = (worker *)(void *)a.worker;
        nsteps++;
        if (a.what == TINE__SCHED_NONE)
            break;
        if (a.what == TINE__SCHED_START) {
            start(a.replacement);
        } else if (a.what == TINE__SCHED_ASSIGN) {
            assign(w, (job *)(void *)a.job);
        } else if (a.what == TINE__SCHED_STEAL) {
            steal(w, (job *)(void *)a.job);
        } else if (a.what == TINE__SCHED_STOP) {
            CHECK_INT(w->njobs, 0);
            at(about(p->spawns), EXIT, w);
        } else if (a.what == TINE__SCHED_BREAK) {
            CHECK(p->breaks);
            pop_all();
        }
    }
    CHECK_INT(tine__sched_queued(s), nwaiting);
    CHECK(!any.n || !tine__sched_least(s));
    if (nsteps % SAMPLE < 2)
        check_all();
    int64_t when = tine__sched_when(s, now);
    CHECK(when < 0 || when > now);
    if (when >= 0 && (wake_at <= now || when < wake_at)) {
        wake_at = when;
        at(when - now, WAKE, NULL);
    }
}

#endif
