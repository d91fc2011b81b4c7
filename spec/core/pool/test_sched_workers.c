/* The scheduler's workers, one rule after another: when they are started, stopped, replaced,
 * how many there are, and what happens when none can be made. test_sched.c has the jobs. */
#include "sched_test.h"

/* ------------------------------------------------------------------------ starting */

static size_t starts_now(void)
{
    size_t n = 0;
    while (next().what == TINE__SCHED_START) {
        starting(false);
        n++;
        CHECK(n < WORKERS);
    }
    NONE();
    return n;
}

static void first_at_once_then_damped(void)
{
    defaults();
    config.max = 20;
    begin(0);
    NEVER();
    for (int i = 0; i < 30; i++)
        add(&j[i]);
    CHECK_INT(starts_now(), 1);
    tine__sched_ready(s, &w[0], now);
    ASSIGNS(&j[0], &w[0]);
    WHEN(100 * MSEC);
    now += 100 * MSEC - 1;
    WHEN(1);
    /* As many again each time, none of those started being there yet. */
    static const size_t more[] = {1, 2, 4, 8, 4};
    now += 1;
    for (int i = 0; i < 5; i++) {
        CHECK_INT(starts_now(), more[i]);
        now += 100 * MSEC;
    }
    CHECK_INT(nworkers, 20);
    NEVER();
    finish();
}

/* The clock that goes on while workers are made does not cut their number. */
static void batches_take_time(void)
{
    defaults();
    config.max = 20;
    begin(1);
    for (int i = 0; i < 20; i++)
        add(&j[i]);
    ASSIGNS(&j[0], &w[0]);
    NONE();
    for (size_t n = 1; n <= 4; n *= 2) {
        now += 100 * MSEC + 100;
        int64_t turn = now;
        size_t before = nworkers;
        for (;;) {
            tine__sched_action a = tine__sched_next(s, turn);
            if (a.what == TINE__SCHED_NONE)
                break;
            CHECK_INT(a.what, TINE__SCHED_START);
            now += 10;
            starting(false);
        }
        CHECK_INT(nworkers - before, n);
    }
    finish();
}

/* A moment with an idle worker, and the waiting is counted anew. */
static void without_a_break(void)
{
    defaults();
    begin(1);
    add(&j[0]);
    add(&j[1]);
    ASSIGNS(&j[0], &w[0]);
    WHEN(100 * MSEC);
    now += 99 * MSEC;
    done(&j[0]);
    ASSIGNS(&j[1], &w[0]);
    NEVER();
    add(&j[2]);
    WHEN(100 * MSEC);
    now += 50 * MSEC;
    tine__sched_remove(s, &j[2]);
    NEVER();
    add(&j[3]);
    WHEN(100 * MSEC);
    now += 100 * MSEC;
    STARTS(false);
    starting(false);
    NEVER(); /* there is one for each job */
    add(&j[4]);
    WHEN(100 * MSEC);
    finish();
}

/* Jobs handed over that have not started count as waiting. */
static void behind_others(void)
{
    defaults();
    config.load = 4;
    begin(1);
    add(&j[0]);
    ASSIGNS(&j[0], &w[0]);
    NEVER();
    add(&j[1]);
    ASSIGNS(&j[1], &w[0]);
    WHEN(100 * MSEC);
    now += 100 * MSEC;
    STARTS(false);
    tine__sched_ready(s, starting(false), now);
    STEALS(&j[1], &w[0]);
    CHECK_INT(tine__sched_again(s, &j[1], now), 0);
    ASSIGNS(&j[1], &w[1]);
    NEVER();
    finish();
}

/* With start 0 at once, but not more than there are jobs for. */
static void at_once(void)
{
    defaults();
    config.start_usec = 0;
    config.load = 2;
    config.max = 6;
    begin(0);
    for (int i = 0; i < 3; i++)
        add(&j[i]);
    CHECK_INT(starts_now(), 3);
    tine__sched_ready(s, &w[0], now);
    ASSIGNS(&j[0], &w[0]);
    ASSIGNS(&j[1], &w[0]);
    NONE();
    tine__sched_ready(s, &w[1], now);
    ASSIGNS(&j[2], &w[1]);
    tine__sched_ready(s, &w[2], now);
    WHEN(config.steal_usec); /* an idle one is there for what waits: no more */
    tine__sched_kept(s, &j[1], now);
    CHECK_INT(tine__sched_when(s, now) - now, config.stop_usec);
    for (int i = 3; i < 40; i++)
        add(&j[i]);
    for (int i = 3; i < 6; i++)
        SAYS(TINE__SCHED_ASSIGN);
    CHECK_INT(starts_now(), 3);
    CHECK_INT(nworkers, config.max);
    finish();
}

static void fewest_idle(void)
{
    defaults();
    config.idle = 3;
    begin(0);
    CHECK_INT(starts_now(), 3);
    for (size_t i = 0; i < 3; i++)
        tine__sched_ready(s, &w[i], now);
    NEVER();
    now += 100 * SECOND;
    NEVER();
    w[0].good = true;
    ends(&w[0], true);
    CHECK_INT(starts_now(), 1);
    finish();
}

/* ------------------------------------------------------------------------ stopping */

static void one_each_stop_usec(void)
{
    defaults();
    config.idle = 1;
    begin(4);
    now += SECOND;
    for (int i = 0; i < 4; i++) {
        add(&j[i]);
        SAYS(TINE__SCHED_ASSIGN);
    }
    tine__sched_worker *order[4];
    for (int i = 0; i < 4; i++) {
        order[i] = j[i].worker;
        now += SECOND;
        done(&j[i]);
    }
    WHEN(7 * SECOND);
    now += 7 * SECOND;
    STOPS(order[0]);
    WHEN(10 * SECOND); /* though the next has been idle for long */
    now += 10 * SECOND;
    /* One that is used meanwhile is not the one used longest ago. */
    add(&j[5]);
    SAYS(TINE__SCHED_ASSIGN);
    tine__sched_worker *used = j[5].worker;
    CHECK(used == order[1]);
    done(&j[5]);
    STOPS(order[2]);
    WHEN(10 * SECOND);
    now += 10 * SECOND;
    STOPS(order[3]);
    now += 100 * SECOND;
    NEVER(); /* the fewest */
    CHECK_INT(tine__sched_workers(s), 1);
    finish();
}

/* ---------------------------------------------------------------------- replacing */

static void replacement_first(void)
{
    defaults();
    config.max = 1;
    begin(1);
    tine__sched_replace(s, &w[0], now);
    STARTS(true);
    starting(true);
    add(&j[3]);
    add(&j[4]);
    ASSIGNS(&j[3], &w[0]); /* goes on until that is ready */
    NONE();
    tine__sched_ready(s, &w[1], now);
    CHECK_INT(w[0].state, TINE__SCHED_RETIRING);
    ASSIGNS(&j[4], &w[1]);
    NONE();
    done(&j[3]);
    STOPS(&w[0]);
    NONE();
    finish();
}

/* One that has all the jobs it may do gets no more, and another is begun while it works. */
static void never_more_than_max_jobs(void)
{
    defaults();
    config.max = 1;
    config.load = 2;
    config.max_jobs = 3; /* too few to draw from */
    begin(1);
    add(&j[0]);
    ASSIGNS(&j[0], &w[0]);
    NONE();
    for (int i = 1; i < 5; i++)
        add(&j[i]);
    ASSIGNS(&j[1], &w[0]);
    NONE();
    done(&j[0]);
    ASSIGNS(&j[2], &w[0]);
    CHECK_INT(w[0].state, TINE__SCHED_RETIRING);
    STARTS(false);
    starting(false);
    NONE(); /* one more than max, and no second */
    done(&j[1]);
    done(&j[2]);
    STOPS(&w[0]);
    CHECK_INT(w[0].jobs_done, 3);
    tine__sched_ready(s, &w[1], now);
    ASSIGNS(&j[3], &w[1]);
    ASSIGNS(&j[4], &w[1]);
    tine__sched_close(s, now);
    NONE(); /* all is handed over */
    done(&j[3]);
    finish();
}

/* Bounds are kept when the pool is closed with jobs in its queue. */
static void bounds_after_close(void)
{
    defaults();
    config.max = 1;
    config.max_jobs = 1;
    begin(1);
    for (int i = 0; i < 4; i++)
        add(&j[i]);
    tine__sched_close(s, now);
    for (size_t i = 0; i < 4; i++) {
        ASSIGNS(&j[i], &w[i]);
        if (i < 3) {
            STARTS(false);
            starting(false);
        }
        NONE();
        done(&j[i]);
        STOPS(&w[i]);
        if (i < 3)
            tine__sched_ready(s, &w[i + 1], now);
    }
    NEVER();
    CHECK_INT(tine__sched_workers(s), 0);
    finish();
    defaults();
    config.max_age_usec = 7; /* microseconds: nothing to draw from */
    config.max = 1;
    begin(1);
    add(&j[0]);
    add(&j[1]);
    tine__sched_close(s, now);
    ASSIGNS(&j[0], &w[0]);
    now += 7;
    STARTS(true);
    finish();
}

/* However many retire while they work, there is one more than max at most. */
static void retiring_ones_count(void)
{
    defaults();
    config.max = 2;
    config.start_usec = 0;
    begin(2);
    for (int i = 0; i < 6; i++)
        add(&j[i]);
    ASSIGNS(&j[0], &w[0]);
    ASSIGNS(&j[1], &w[1]);
    tine__sched_retire(s, &w[0], now);
    tine__sched_retire(s, &w[1], now);
    STARTS(false);
    tine__sched_ready(s, starting(false), now);
    ASSIGNS(&j[2], &w[2]);
    tine__sched_retire(s, &w[2], now);
    NONE();
    done(&j[0]);
    STOPS(&w[0]);
    STARTS(false);
    finish();
}

/* No more than a quarter at a time, those due longest first. */
static void a_quarter_at_a_time(void)
{
    defaults();
    config.stop_usec = 1000 * (int64_t)SECOND;
    begin(8);
    for (size_t i = 8; i-- > 0;)
        tine__sched_replace(s, &w[i], now);
    for (size_t n = 0; n < 8; n += 2) {
        STARTS(true);
        starting(true);
        STARTS(true);
        starting(true);
        NONE();
        tine__sched_ready(s, &w[8 + n], now);
        CHECK_INT(w[7 - n].state, TINE__SCHED_RETIRING);
        STOPS(&w[7 - n]);
        if (n < 6) { /* the next one may go: none has priority */
            STARTS(true);
            tine__sched_not_started(s, true, now);
        }
        tine__sched_ready(s, &w[9 + n], now);
        STOPS(&w[6 - n]);
        add(&j[n]); /* well done: no failures in a row */
        SAYS(TINE__SCHED_ASSIGN);
        done(&j[n]);
    }
    NONE();
    CHECK_INT(tine__sched_workers(s), 8);
    finish();
}

/* A replacement that fails is made again; one that is no more needed is one too many. */
static void replacements_that_fail(void)
{
    defaults();
    config.max = 2;
    begin(2);
    w[0].good = w[1].good = true;
    tine__sched_replace(s, &w[0], now);
    STARTS(true);
    tine__sched_worker *new = starting(true);
    ends(new, true);
    STARTS(true);
    new = starting(true);
    ends(&w[0], true);
    NONE();
    tine__sched_ready(s, new, now);
    NONE();
    CHECK_INT(tine__sched_workers(s), 2);
    tine__sched_replace(s, &w[1], now);
    STARTS(true);
    tine__sched_worker *late = starting(true);
    ends(&w[1], true);
    add(&j[0]);
    add(&j[1]);
    ASSIGNS(&j[0], new);
    NONE();
    now += 100 * MSEC;
    STARTS(false); /* a replacement counts for one that is there */
    tine__sched_ready(s, starting(false), now);
    ASSIGNS(&j[1], &w[nworkers - 1]);
    tine__sched_ready(s, late, now);
    SAYS(TINE__SCHED_STOP);
    CHECK_INT(late->state, TINE__SCHED_STOPPED);
    finish();
}

static void jitter_of_jobs(void)
{
    defaults();
    config.max = 40;
    config.max_jobs = 80;
    begin(40);
    uint64_t least = UINT64_MAX, most = 0;
    for (size_t i = 0; i < 40; i++) {
        while (!w[i].spent) {
            add_pinned(&j[0], &w[i]);
            while (next().what != TINE__SCHED_ASSIGN)
                CHECK(!j[0].handed);
            done(&j[0]);
        }
        least = w[i].jobs_done < least ? w[i].jobs_done : least;
        most = w[i].jobs_done > most ? w[i].jobs_done : most;
    }
    CHECK(least >= 70 && most <= 80);
    CHECK(most - least > 5);
    finish();
}

static void jitter_of_ages(void)
{
    defaults();
    config.max = config.idle = 40;
    config.max_age_usec = 80 * SECOND;
    begin(40);
    int64_t began = now, first = -1;
    while (nworkers < 80) {
        now = tine__sched_when(s, now);
        CHECK(now > began && now <= began + 80 * SECOND);
        first = first < 0 ? now : first;
        size_t from = nworkers;
        while (next().what == TINE__SCHED_START)
            starting(true);
        CHECK(nworkers > from);
        for (; from < nworkers; from++)
            tine__sched_ready(s, &w[from], now);
        for (tine__sched_action a; (a = next()).what == TINE__SCHED_STOP;) {
            CHECK(a.worker < &w[40]); /* an old one */
            ends(a.worker, false);
        }
    }
    CHECK(first >= began + 70 * SECOND);
    CHECK(now - first > 5 * SECOND);
    CHECK_INT(tine__sched_workers(s), 40);
    finish();
}

int main(void)
{
    RUN(first_at_once_then_damped);
    RUN(batches_take_time);
    RUN(without_a_break);
    RUN(behind_others);
    RUN(at_once);
    RUN(fewest_idle);
    RUN(one_each_stop_usec);
    RUN(replacement_first);
    RUN(never_more_than_max_jobs);
    RUN(bounds_after_close);
    RUN(retiring_ones_count);
    RUN(a_quarter_at_a_time);
    RUN(replacements_that_fail);
    RUN(jitter_of_jobs);
    RUN(jitter_of_ages);
    return 0;
}
