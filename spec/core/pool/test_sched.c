/* The scheduler's jobs, one rule after another: which worker, in which order, how many wait,
 * and what becomes of those whose worker goes. test_sched_workers.c has the workers. */
#include "pool/sched_priv.h"

#include "sched_test.h"

/* -------------------------------------------------------------------------- order */

static void least_loaded_first(void)
{
    defaults();
    config.load = 2;
    begin(3);
    for (int i = 0; i < 7; i++)
        add(&j[i]);
    CHECK(tine__sched_least(s) == &w[0] || tine__sched_least(s)->load == 0);
    for (int i = 0; i < 3; i++) {
        tine__sched_action a = next();
        CHECK_INT(a.what, TINE__SCHED_ASSIGN);
        CHECK(a.job == &j[i]);
        CHECK_INT(a.worker->load, 1); /* each has one before one has two */
    }
    /* Now in the order they got their last. */
    ASSIGNS(&j[3], j[0].worker);
    ASSIGNS(&j[4], j[1].worker);
    ASSIGNS(&j[5], j[2].worker);
    CHECK(tine__sched_least(s) == NULL);
    NONE();
    CHECK_INT(tine__sched_queued(s), 1);
    tine__sched_worker *third = j[2].worker, *second = j[1].worker;
    done(&j[2]);
    done(&j[1]);
    done(&j[4]);
    ASSIGNS(&j[6], second); /* none to do, the other has one */
    CHECK_INT(second->load, 1);
    CHECK_INT(third->load, 1);
    add(&j[7]);
    ASSIGNS(&j[7], third); /* used longer ago */
    finish();
}

static void priority_then_order(void)
{
    static const int priority[] = {0, 5, 0, 5, -1, INT32_MAX, INT32_MIN};
    static const int order[] = {5, 1, 3, 0, 2, 4, 6};
    defaults();
    begin(1);
    add(&j[9]);
    ASSIGNS(&j[9], &w[0]);
    for (int i = 0; i < 7; i++)
        add_priority(&j[i], priority[i]);
    NONE();
    done(&j[9]);
    for (int i = 0; i < 7; i++) {
        ASSIGNS(&j[order[i]], &w[0]);
        NONE();
        done(&j[order[i]]);
    }
    finish();
}

static void queue_bound_and_drain(void)
{
    defaults();
    config.queue = 2;
    config.start_usec = 1000 * (int64_t)SECOND;
    begin(1);
    add(&j[0]);
    ASSIGNS(&j[0], &w[0]);
    add(&j[1]);
    NONE();
    add(&j[2]);
    NONE();
    CHECK_INT(tine__sched_add(s, &j[3], now), -EAGAIN);
    CHECK(!j[3].queued);
    add_pinned(&j[4], &w[0]); /* never refused */
    CHECK_INT(tine__sched_queued(s), 3);
    done(&j[0]);
    ASSIGNS(&j[1], &w[0]);
    NONE();
    tine__sched_remove(s, &j[4]);
    SAYS(TINE__SCHED_DRAIN);
    NONE(); /* once */
    done(&j[1]);
    ASSIGNS(&j[2], &w[0]);
    NONE();
    /* Who fills the queue and waits is told too, though none was refused. */
    add(&j[5]);
    add(&j[6]);
    NONE();
    tine__sched_remove(s, &j[6]);
    SAYS(TINE__SCHED_DRAIN);
    NONE();
    finish();
}

/* ---------------------------------------------------------------- those with no worker */

/* As many as the workers may have, wherever they are, and not one more. */
static void no_queue(void)
{
    defaults();
    config.max = 2;
    config.load = 2;
    config.queue = TINE__SCHED_NO_QUEUE;
    begin(2);
    for (int i = 0; i < 4; i++)
        add(&j[i]);
    CHECK(!tine__sched_has_room(s));
    CHECK_INT(tine__sched_may_add(s, now), -EAGAIN);
    CHECK_INT(tine__sched_add(s, &j[4], now), -EAGAIN);
    for (int i = 0; i < 4; i++)
        CHECK_INT(next().what, TINE__SCHED_ASSIGN);
    NONE();
    CHECK(!tine__sched_has_room(s));
    tine__sched_worker *worker = j[1].worker;
    done(&j[1]);
    CHECK(tine__sched_has_room(s));
    CHECK_INT(next().what, TINE__SCHED_DRAIN);
    add(&j[4]);
    CHECK_INT(tine__sched_may_add(s, now), -EAGAIN);
    ASSIGNS(&j[4], worker);
    finish();
}

/* Does so many jobs one after another that take so long. Returns how many one worker then gets. */
static size_t load_after(size_t n, int64_t usec)
{
    for (size_t i = 0; i < n; i++) {
        add(&j[0]);
        CHECK_INT(next().what, TINE__SCHED_ASSIGN);
        done(&j[0]);
        tine__sched_ran(s, usec);
    }
    size_t load = 0;
    for (size_t i = 0; i < 100; i++)
        add(&j[i]);
    while (next().what == TINE__SCHED_ASSIGN)
        load++;
    for (size_t i = 0; i < 100; i++) {
        if (j[i].handed)
            done(&j[i]);
        else
            tine__sched_remove(s, &j[i]);
    }
    return load;
}

static void load_found_out(void)
{
    defaults();
    config.load = 0;
    config.max = 1;
    begin(1);
    CHECK_INT(load_after(0, 0), 2);
    CHECK_INT(load_after(20, 3), 2); /* too few to know */
    CHECK(load_after(20, 3) > 2);
    CHECK_INT(load_after(2000, 3), 64);
    CHECK_INT(load_after(2000, 0), 64);
    CHECK_INT(load_after(100, 50), 10); /* which take half a millisecond */
    CHECK_INT(load_after(1, 1000000), 2);
    CHECK_INT(load_after(2000, 3), 64);
    ends(&w[0], true);
    tine__sched_ready(s, starting(false), now);
    CHECK_INT(load_after(0, 0), 2);
    finish();
}

/* Workers that were free when more was handed over are not when less is. */
static void lower_load(void)
{
    defaults();
    config.load = 0;
    config.max = 2;
    begin(2);
    CHECK_INT(load_after(2000, 3), 100); /* all that there are */
    for (int i = 0; i < 10; i++) {
        add(&j[i]);
        CHECK_INT(next().what, TINE__SCHED_ASSIGN);
    }
    tine__sched_ran(s, 1000000);
    add(&j[10]);
    CHECK(next().what != TINE__SCHED_ASSIGN);
    for (int i = 0; i < 10; i++)
        done(&j[i]);
    CHECK_INT(next().what, TINE__SCHED_ASSIGN);
    finish();
}

static void brought_back_in_order(void)
{
    defaults();
    config.load = 4;
    config.max = 1;
    begin(1);
    for (int i = 0; i < 6; i++)
        add(&j[i]);
    for (int i = 0; i < 4; i++)
        ASSIGNS(&j[i], &w[0]);
    w[0].good = true;
    tine__sched_done(s, &j[0], false, now); /* it ran: its own crash */
    static const int some_order[] = {2, 1, 3};
    for (int i = 0; i < 3; i++)
        CHECK_INT(tine__sched_again(s, &j[some_order[i]], now), 0);
    ends(&w[0], true);
    CHECK_INT(tine__sched_queued(s), 5);
    STARTS(false);
    tine__sched_ready(s, starting(false), now);
    for (int i = 1; i < 5; i++)
        ASSIGNS(&j[i], &w[1]);
    finish();
}

/* What is tried again goes behind those of its priority that wait, and ahead of what comes. */
static void tried_again(void)
{
    defaults();
    config.load = 3;
    config.max = 1;
    begin(1);
    for (int i = 0; i < 4; i++)
        add(&j[i]);
    add_priority(&j[4], -1);
    for (int i = 0; i < 3; i++)
        ASSIGNS(&j[i], &w[0]);
    w[0].good = true;
    retry(&j[0], 0);
    CHECK_INT(tine__sched_again(s, &j[2], now), 0);
    CHECK_INT(tine__sched_again(s, &j[1], now), 0);
    ends(&w[0], true);
    add(&j[5]);
    static const int expected[] = {1, 2, 3, 0, 5, 4};
    for (int i = 0; i < 6; i++)
        CHECK(tine__sched_pop(s) == &j[expected[i]]);
    finish();
}

static void tried_again_with_a_key(void)
{
    defaults();
    config.load = 3;
    config.max = 1;
    begin(1);
    for (int i = 0; i < 3; i++)
        add_key(&j[i], 7);
    for (int i = 0; i < 3; i++)
        ASSIGNS(&j[i], &w[0]);
    w[0].good = true;
    retry(&j[0], 0);
    CHECK_INT(tine__sched_again(s, &j[2], now), 0);
    CHECK_INT(tine__sched_again(s, &j[1], now), 0);
    ends(&w[0], true);
    for (int i = 0; i < 3; i++)
        CHECK(tine__sched_pop(s) == &j[i]);
    finish();
}

static void never_refused_when_back(void)
{
    defaults();
    config.queue = 1;
    config.load = 2;
    begin(1);
    add(&j[0]);
    ASSIGNS(&j[0], &w[0]);
    SAYS(TINE__SCHED_DRAIN);
    add(&j[1]);
    ASSIGNS(&j[1], &w[0]);
    add(&j[2]);
    CHECK_INT(tine__sched_again(s, &j[1], now), 0);
    CHECK_INT(tine__sched_again(s, &j[0], now), 0);
    ends(&w[0], true);
    CHECK_INT(tine__sched_queued(s), 3);
    CHECK_INT(tine__sched_add(s, &j[3], now), -EAGAIN);
    for (int i = 0; i < 3; i++)
        CHECK(tine__sched_pop(s) == &j[i]);
    finish();
}

/* Wherever they wait. */
static void removed(void)
{
    defaults();
    config.max = 2;
    begin(2);
    add_key(&j[0], 1);
    add(&j[1]);
    ASSIGNS(&j[0], &w[0]);
    ASSIGNS(&j[1], &w[1]);
    add(&j[2]);        /* for any */
    add_key(&j[3], 1); /* for the first */
    add_pinned(&j[4], &w[1]);
    add_pinned(&j[5], &w[1]);
    NONE();
    for (int i = 2; i < 5; i++) {
        tine__sched_remove(s, &j[i]);
        CHECK(!j[i].queued);
        tine__sched_remove(s, &j[i]); /* nothing */
    }
    add_key(&j[6], 1);
    add_key(&j[7], 1);
    tine__sched_retire(s, &w[0], now); /* both are parked */
    tine__sched_remove(s, &j[6]);
    done(&j[1]);
    ASSIGNS(&j[5], &w[1]);
    done(&j[5]);
    NONE();
    done(&j[0]);
    ASSIGNS(&j[7], &w[1]);
    for (int i = 8; i < 12; i++)
        add_pinned(&j[i], &w[1]);
    done(&j[7]);
    ends(&w[1], false);
    tine__sched_remove(s, &j[9]); /* orphans: first, last and in between */
    CHECK_INT(tine__sched_queued(s), 3);
    int seen = 0;
    for (tine__sched_job *job; (job = tine__sched_orphan(s)) != NULL; seen++) {
        CHECK(job != &j[9] && !job->queued);
        if (!seen)
            tine__sched_remove(s, job == &j[8] ? &j[11] : &j[8]);
    }
    CHECK_INT(seen, 2);
    CHECK_INT(tine__sched_queued(s), 0);
    finish();
}

/* All that are queued, best first, though some wait for workers that are full, on their way out,
 * or not there yet. */
static void popped(void)
{
    defaults();
    begin(2);
    tine__sched_worker *young = starting(false);
    add_key(&j[0], 1);
    ASSIGNS(&j[0], &w[0]);
    add_key(&j[1], 2);
    ASSIGNS(&j[1], &w[1]);
    NONE();
    j[2].priority = 1;
    add_key(&j[2], 2); /* is parked */
    j[3].priority = 2;
    add_key(&j[3], 1); /* waits for one that is full */
    j[4].priority = 3;
    add_pinned(&j[4], young);
    add(&j[5]);
    j[6].priority = 4;
    add_pinned(&j[6], &w[1]);
    tine__sched_retire(s, &w[1], now);
    NONE();
    static const int order[] = {6, 4, 3, 2, 5};
    for (int i = 0; i < 5; i++) {
        tine__sched_job *job = tine__sched_pop(s);
        CHECK_INT(job - j, order[i]);
    }
    CHECK(tine__sched_pop(s) == NULL);
    CHECK_INT(tine__sched_queued(s), 0);
    finish();
}

/* --------------------------------------------------------------------- pinned jobs */

static void pinned(void)
{
    defaults();
    config.max = 3;
    begin(2);
    tine__sched_worker *young = starting(false);
    add_pinned(&j[0], &w[1]);
    add_pinned(&j[1], &w[1]);
    add_pinned(&j[2], young);
    ASSIGNS(&j[0], &w[1]);
    NONE(); /* though another is idle */
    tine__sched_ready(s, young, now);
    ASSIGNS(&j[2], young);
    tine__sched_retire(s, &w[1], now); /* what was pinned before it still does */
    done(&j[0]);
    ASSIGNS(&j[1], &w[1]);
    NONE();
    done(&j[1]);
    STOPS(&w[1]);
    add_pinned(&j[3], young);
    CHECK_INT(tine__sched_again(s, &j[2], now), 0);
    CHECK(tine__sched_orphan(s) == NULL);
    ends(young, true);
    CHECK(tine__sched_orphan(s) != NULL);
    CHECK(tine__sched_orphan(s) != NULL);
    CHECK(tine__sched_orphan(s) == NULL);
    CHECK(!j[2].queued && !j[3].queued);
    finish();
}

/* A pinned job before those with keys does not keep them there. */
static void pinned_before_keys_on_retiring(void)
{
    defaults();
    config.max = 2;
    begin(2);
    add_key(&j[0], 1);
    ASSIGNS(&j[0], &w[0]);
    j[1].priority = INT32_MAX;
    add_pinned(&j[1], &w[0]);
    add_key(&j[2], 1);
    NONE();
    tine__sched_retire(s, &w[0], now);
    add_key(&j[3], 1);
    NONE(); /* the first of the key still runs */
    done(&j[0]);
    ASSIGNS(&j[1], &w[0]);
    ASSIGNS(&j[2], &w[1]);
    STARTS(false); /* in the place of the one that leaves */
    starting(false);
    NONE();
    done(&j[2]);
    ASSIGNS(&j[3], &w[1]);
    done(&j[1]);
    STOPS(&w[0]);
    finish();
}

/* ----------------------------------------------------------------------- stealing */

static void stealing(void)
{
    defaults();
    config.load = 3;
    config.max = 2;
    begin(1);
    for (int i = 0; i < 3; i++) {
        add(&j[i]);
        ASSIGNS(&j[i], &w[0]);
    }
    tine__sched_ready(s, starting(false), now);
    WHEN(config.steal_usec);
    now += config.steal_usec;
    STEALS(&j[2], &w[0]);
    CHECK_INT(tine__sched_again(s, &j[2], now), 0);
    ASSIGNS(&j[2], &w[1]);
    NONE();
    done(&j[2]);
    STEALS(&j[1], &w[0]); /* it had started */
    tine__sched_kept(s, &j[1], now);
    NONE();
    now += SECOND;
    done(&j[0]); /* now the one that had started is the only one */
    NONE();
    finish();
}

/* Not the one it is at, nor what no other may have; but one that came after those. */
static void not_stolen(void)
{
    defaults();
    config.load = 4;
    config.max = 2;
    begin(2);
    add_key(&j[0], 1);
    ASSIGNS(&j[0], &w[0]);
    add_key(&j[1], 1);
    ASSIGNS(&j[1], &w[0]);
    add_pinned(&j[2], &w[0]);
    ASSIGNS(&j[2], &w[0]);
    now += SECOND;
    NONE();
    tine__sched_worker *other = &w[1];
    for (int i = 3; i < 7; i++)
        add_pinned(&j[i], other);
    for (int i = 3; i < 7; i++)
        ASSIGNS(&j[i], other);
    add(&j[7]);
    ASSIGNS(&j[7], &w[0]);
    for (int i = 3; i < 7; i++)
        done(&j[i]);
    STEALS(&j[7], &w[0]);
    CHECK_INT(tine__sched_again(s, &j[7], now), 0);
    ASSIGNS(&j[7], other);
    NONE();
    finish();
}

static void stolen_from_one_on_its_way_out(void)
{
    defaults();
    config.load = 2;
    config.max = 2;
    begin(1);
    add(&j[0]);
    add(&j[1]);
    ASSIGNS(&j[0], &w[0]);
    ASSIGNS(&j[1], &w[0]);
    tine__sched_retire(s, &w[0], now);
    tine__sched_ready(s, starting(false), now);
    WHEN(config.steal_usec);
    now += config.steal_usec;
    STEALS(&j[1], &w[0]);
    CHECK_INT(tine__sched_again(s, &j[1], now), 0);
    ASSIGNS(&j[1], &w[1]);
    done(&j[0]);
    STOPS(&w[0]);
    finish();
}

int main(void)
{
    RUN(least_loaded_first);
    RUN(priority_then_order);
    RUN(queue_bound_and_drain);
    RUN(no_queue);
    RUN(load_found_out);
    RUN(lower_load);
    RUN(brought_back_in_order);
    RUN(tried_again);
    RUN(tried_again_with_a_key);
    RUN(never_refused_when_back);
    RUN(removed);
    RUN(popped);
    RUN(pinned);
    RUN(pinned_before_keys_on_retiring);
    RUN(stealing);
    RUN(not_stolen);
    RUN(stolen_from_one_on_its_way_out);
    return 0;
}
