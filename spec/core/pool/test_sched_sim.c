/* The scheduler against a simulation of a pool: time is only counted, workers take their time,
 * die, retire and are stopped, jobs come in bursts, with keys, priorities and pins. What it says
 * is checked against a model that keeps its own books. Each run is the same each time. */
#include "sched_sim.h"

/* ------------------------------------------------------------------ what happens */

static void come(void)
{
    size_t n = test_random() % p->burst + 1;
    for (; n && njobs < p->njobs; n--) {
        job *x = &jobs[njobs++];
        x->turn = ++turns;
        x->s.priority = chance(10) ? (int)(test_random() % 5) - 2 : 0;
        x->s.has_key = chance(p->keyed);
        x->s.key = test_random() % KEYS;
        if (nworkers && chance(p->pinned)) {
            worker *w = workers[test_random() % nworkers];
            x->s.pinned = w->s.state <= TINE__SCHED_READY;
            x->s.worker = x->s.pinned ? &w->s : NULL;
            x->s.has_key = x->s.has_key && !x->s.pinned;
        }
        bool full = p->config.queue && nwaiting >= p->config.queue && !x->s.pinned;
        int err = tine__sched_add(s, &x->s, now);
        CHECK_INT(err == -EAGAIN, full && err != -EHOSTDOWN);
        nopen++;
        if (err < 0) {
            CHECK(full || (err == -EHOSTDOWN && p->breaks));
            nrefused++;
            over(x);
        } else {
            waits(x);
            if (chance(2)) {
                tine__sched_remove(s, &x->s);
                waits_no_more(x);
                over(x);
            }
        }
    }
    if (njobs < p->njobs)
        at(about(p->every), COME, NULL);
    else
        tine__sched_close(s, now);
}

/* One that has failed. */
static void try_again(job *x, bool ok)
{
    tine__sched_try how = {.ok = ok, .alone = chance(30)};
    if (p->delay && chance(70))
        how.after_usec = about(p->delay);
    CHECK_INT(tine__sched_retry(s, &x->s, &how, now), 0);
    x->due = now + how.after_usec;
    if (!x->s.has_key)
        x->turn = ++turns;
    waits(x);
    if (chance(5)) {
        tine__sched_remove(s, &x->s);
        waits_no_more(x);
        over(x);
    }
}

static void ended(worker *w)
{
    job *x = w->jobs[0];
    take_out(w, 0);
    if (!x->s.pinned && chance(p->fails)) {
        try_again(x, true);
    } else {
        tine__sched_done(s, &x->s, true, now);
        over(x);
    }
    run_first(w);
    if (chance(1) && w->s.state == TINE__SCHED_READY)
        tine__sched_retire(s, &w->s, now);
    else if (chance(1))
        tine__sched_replace(s, &w->s, now);
}

/* It stays in memory, for events that are about it. */
static void forget(worker *w)
{
    for (size_t k = 0; k < KEYS; k++)
        if (bound[k] == w)
            bound[k] = NULL;
    workers[w->at] = workers[--nworkers];
    workers[w->at]->at = w->at;
    w->dead = true;
    w->next = dead;
    dead = w;
}

static void bring_back(job *x)
{
    CHECK_INT(tine__sched_again(s, &x->s, now), 0);
    waits(x);
}

static void die(worker *w)
{
    ncrashed += w->njobs > 0;
    job *first = w->njobs ? w->jobs[0] : NULL;
    while (w->njobs > 1) { /* in any order */
        size_t i = 1 + test_random() % (w->njobs - 1);
        job *x = w->jobs[i];
        take_out(w, i);
        bring_back(x);
    }
    if (first) {
        take_out(w, 0);
        if (!first->s.pinned && chance(50)) {
            try_again(first, false);
        } else {
            tine__sched_done(s, &first->s, false, now);
            over(first);
        }
    }
    tine__sched_gone(s, &w->s, TINE__SCHED_END_FAILED, now);
    forget(w);
    for (tine__sched_job *x; (x = tine__sched_orphan(s)) != NULL;) {
        CHECK(x->pinned);
        waits_no_more((job *)(void *)x);
        over((job *)(void *)x);
    }
}

static void shake(void)
{
    if (!p->resizes || njobs >= p->njobs)
        return;
    max_now = p->config.max / 2 + test_random() % (p->config.max / 2);
    tine__sched_resize(s, max_now, p->config.idle, now);
    at(about(200 * MSEC), SHAKE, NULL);
}

static void befalls(worker *w, const event *e)
{
    if (w->dead)
        return;
    if (e->what == READY) {
        tine__sched_ready(s, &w->s, now);
        at(about(p->lives), DIE, w);
    } else if (e->what == END && e->serial == w->serial) {
        ended(w);
    } else if (e->what == DIE) {
        die(w);
    } else if (e->what == EXIT) {
        tine__sched_gone(s, &w->s, TINE__SCHED_END_FINE, now);
        forget(w);
    }
}

static void happens(const event *e)
{
    if (e->what == COME)
        come();
    else if (e->what == SHAKE)
        shake();
    else if (e->w)
        befalls(e->w, e);
}

static void reset(const plan *the_plan)
{
    p = the_plan;
    now = SECOND;
    wake_at = 0;
    max_now = p->config.max;
    njobs = nopen = nrefused = ncrashed = npopped = nmoved = nstolen = 0;
    most = nsteps = nwaiting = nalone = nlate = 0;
    memset(handed, 0, sizeof handed);
    jobs = calloc(p->njobs, sizeof *jobs);
    tine__prioq_init(&events, sooner, offsetof(event, at));
    tine__prioq_init(&any, better, offsetof(job, at));
    tine__prioq_init(&later, due_sooner, offsetof(job, at_later));
    for (size_t k = 0; k < KEYS; k++)
        tine__prioq_init(&of_key[k], better, offsetof(job, at));
}

static void simulate(const plan *the_plan)
{
    reset(the_plan);
    CHECK_INT(tine__sched_new(&s, &p->config), 0);
    at(0, COME, NULL);
    at(SECOND / 2, SHAKE, NULL);
    for (event *e; (e = tine__prioq_first(&events)) != NULL; settle()) {
        now = e->when;
        tine__prioq_remove(&events, e);
        happens(e);
        free(e);
    }
    CHECK_INT(njobs, p->njobs);
    for (size_t i = 0; i < njobs; i++)
        CHECK_INT(jobs[i].ends, 1);
    CHECK_INT(nopen + nwaiting + nworkers, 0);
    CHECK_INT(s->nlater + s->nhanded, 0);
    CHECK_INT(tine__sched_queued(s) + tine__sched_workers(s), 0);
    tine__sched_free(s);
    tine__prioq_free(&events);
    tine__prioq_free(&any);
    tine__prioq_free(&later);
    for (size_t k = 0; k < KEYS; k++)
        tine__prioq_free(&of_key[k]);
    free(jobs);
    free(workers);
    workers = NULL;
    for (worker *next; dead; dead = next) {
        next = dead->next;
        free(dead);
    }
    printf("  %zu jobs, at most %zu workers; %zu refused, %zu crashed, %zu given up, "
           "%zu keys moved, %zu stolen, %zu alone, %zu later, %.1f s\n",
           njobs, most, nrefused, ncrashed, npopped, nmoved, nstolen, nalone, nlate,
           (double)now / SECOND);
}

/* -------------------------------------------------------------------------- plans */

static void thousands_of_workers(void)
{
    static const plan the = {.config = {.max = 4000,
                                        .load = 2,
                                        .start_usec = 10 * MSEC,
                                        .stop_usec = 50 * MSEC,
                                        .steal_usec = 20 * MSEC},
                             .njobs = 120000,
                             .burst = 200,
                             .every = 3 * MSEC,
                             .takes = 100 * MSEC,
                             .lives = 3 * SECOND,
                             .spawns = 10 * MSEC,
                             .keyed = 3,
                             .pinned = 1,
                             .dies_young = 3};
    simulate(&the);
    CHECK(most > 3000 && ncrashed > 1000 && nstolen > 100);
}

static void keys_and_bounds(void)
{
    static const plan the = {.config = {.max = 60,
                                        .idle = 20,
                                        .load = 4,
                                        .start_usec = 5 * MSEC,
                                        .stop_usec = 20 * MSEC,
                                        .steal_usec = 2 * MSEC,
                                        .queue = 300},
                             .njobs = 60000,
                             .burst = 60,
                             .every = 5 * MSEC,
                             .takes = 10 * MSEC,
                             .lives = SECOND,
                             .spawns = 5 * MSEC,
                             .keyed = 60,
                             .pinned = 2,
                             .dies_young = 5,
                             .resizes = true};
    simulate(&the);
    CHECK(nmoved > 1000 && nrefused > 100);
}

static void recycled(void)
{
    static const plan the = {.config = {.max = 200,
                                        .idle = 3,
                                        .load = 1,
                                        .start_usec = 0,
                                        .stop_usec = 100 * MSEC,
                                        .steal_usec = 2 * MSEC,
                                        .max_jobs = 16,
                                        .max_age_usec = 300 * MSEC},
                             .njobs = 60000,
                             .burst = 100,
                             .every = 10 * MSEC,
                             .takes = 20 * MSEC,
                             .lives = 10 * SECOND,
                             .spawns = 15 * MSEC,
                             .keyed = 20,
                             .pinned = 1,
                             .resizes = true};
    simulate(&the);
}

static void hardly_any_worker_lives(void)
{
    static const plan the = {.config = {.max = 16,
                                        .idle = 2,
                                        .load = 3,
                                        .start_usec = 10 * MSEC,
                                        .stop_usec = 50 * MSEC,
                                        .steal_usec = 5 * MSEC,
                                        .queue = 50},
                             .njobs = 20000,
                             .burst = 10,
                             .every = 50 * MSEC,
                             .takes = 20 * MSEC,
                             .lives = 100 * MSEC,
                             .spawns = 20 * MSEC,
                             .keyed = 30,
                             .pinned = 5,
                             .dies_young = 60,
                             .breaks = true};
    simulate(&the);
    CHECK(npopped > 20 && nrefused > 100);
}

static void many_tries(void)
{
    static const plan the = {.config = {.max = 40,
                                        .idle = 4,
                                        .load = 6,
                                        .start_usec = 5 * MSEC,
                                        .stop_usec = 20 * MSEC,
                                        .steal_usec = 2 * MSEC,
                                        .queue = 400},
                             .njobs = 40000,
                             .burst = 60,
                             .every = 8 * MSEC,
                             .takes = 8 * MSEC,
                             .lives = 300 * MSEC,
                             .spawns = 5 * MSEC,
                             .keyed = 40,
                             .pinned = 2,
                             .dies_young = 5,
                             .fails = 15,
                             .delay = 20 * MSEC,
                             .resizes = true};
    simulate(&the);
    CHECK(nalone > 1000 && nlate > 1000 && nmoved > 100);
}

/* Of each kind, one worker. */
static void tries_in_one_worker(void)
{
    static const plan the = {.config = {.max = 1,
                                        .load = 8,
                                        .stop_usec = 0,
                                        .steal_usec = 2 * MSEC,
                                        .max_jobs = 100},
                             .njobs = 10000,
                             .burst = 20,
                             .every = 100 * MSEC,
                             .takes = 2 * MSEC,
                             .lives = 200 * MSEC,
                             .spawns = 5 * MSEC,
                             .keyed = 50,
                             .fails = 30,
                             .delay = 50 * MSEC};
    simulate(&the);
    CHECK(nalone > 1000 && nlate > 1000);
}

int main(void)
{
    RUN(many_tries);
    RUN(tries_in_one_worker);
    RUN(thousands_of_workers);
    RUN(keys_and_bounds);
    RUN(recycled);
    RUN(hardly_any_worker_lives);
    return 0;
}
