/* The scheduler when workers fail, one after another: how it waits, gives up, tries again and
 * is mended; and when it is resized or closed. */
#include "sched_test.h"

/* A worker is asked for, and fails before it has done anything. */
static void fails(void)
{
    STARTS(false);
    ends(starting(false), true);
}

static void breaks(void)
{
    for (int i = 0; i < TINE__SCHED_FAILURES; i++) {
        fails();
        CHECK_INT(tine__sched_broken(s), i == TINE__SCHED_FAILURES - 1);
        if (i == 0 || i == TINE__SCHED_FAILURES - 1)
            continue; /* the first is free */
        int64_t wait = (int64_t)50 * MSEC << (i - 1);
        WHEN(wait);
        now += wait - 1;
        NONE();
        now += 1;
    }
    SAYS(TINE__SCHED_BREAK);
    while (tine__sched_pop(s)) {
    }
    NEVER();
}

static void five_in_a_row(void)
{
    defaults();
    begin(0);
    add(&j[0]);
    add(&j[1]);
    breaks();
    CHECK(!j[0].queued && !j[1].queued);
    for (int64_t wait = 1; wait <= 128; wait *= 2) {
        now += (wait < 64 ? wait : 64) * SECOND - 1;
        CHECK_INT(tine__sched_add(s, &j[0], now), -EHOSTDOWN);
        NEVER();
        now += 1;
        add(&j[0]);
        add(&j[1]); /* one worker is tried for all */
        STARTS(false);
        starting(false);
        NONE();
        ends(&w[nworkers - 1], true);
        SAYS(TINE__SCHED_BREAK);
        CHECK(tine__sched_pop(s) == &j[0] && tine__sched_pop(s) == &j[1]);
        NEVER();
    }
    now += 64 * SECOND;
    add(&j[0]);
    STARTS(false);
    tine__sched_ready(s, starting(false), now);
    CHECK(!tine__sched_broken(s));
    ASSIGNS(&j[0], &w[nworkers - 1]);
    finish();
}

static void mended(void)
{
    defaults();
    config.idle = 2;
    begin(0);
    for (int i = 0; i < TINE__SCHED_FAILURES; i++) {
        while (next().what != TINE__SCHED_START)
            now += 50 * MSEC;
        ends(starting(false), true);
    }
    SAYS(TINE__SCHED_BREAK);
    WHEN(SECOND); /* for those that idle says */
    now += SECOND;
    STARTS(false);
    starting(false);
    NONE(); /* one is enough to try */
    CHECK(tine__sched_broken(s));
    tine__sched_ready(s, &w[5], now);
    CHECK(!tine__sched_broken(s));
    STARTS(false); /* and then all that are wanted */
    ends(starting(false), true);
    STARTS(false); /* the first is free again, while one lives */
    finish();
}

/* One that comes up, and ends before it has done a job, is no better than one that does not. */
static void ready_and_gone(void)
{
    defaults();
    begin(0);
    add(&j[0]);
    for (int64_t wait = 1; wait <= 4; wait *= 2) {
        for (bool broken = false; !broken;) {
            tine__sched_action a = next();
            if (a.what == TINE__SCHED_START) {
                tine__sched_worker *one = starting(false);
                tine__sched_ready(s, one, now);
                SAYS(TINE__SCHED_ASSIGN);
                tine__sched_again(s, &j[0], now); /* it had not started */
                ends(one, true);
            } else if (a.what == TINE__SCHED_BREAK) {
                broken = true;
            } else {
                CHECK_INT(a.what, TINE__SCHED_NONE);
                now += 50 * MSEC;
            }
        }
        CHECK(tine__sched_pop(s) == &j[0]);
        CHECK_INT(tine__sched_add(s, &j[0], now + wait * SECOND - 100 * MSEC),
                  -EHOSTDOWN);
        now += wait * SECOND;
        add(&j[0]);
    }
    finish();
}

/* The same, killed from outside: the job waits, and the next ones come later and later. */
static void ready_and_killed(void)
{
    defaults();
    begin(0);
    add(&j[0]);
    int64_t before = now, pause = 0;
    for (int n = 0; n < 12; n++) {
        tine__sched_action a = next();
        for (; a.what == TINE__SCHED_NONE; a = next())
            now = tine__sched_when(s, now);
        CHECK_INT(a.what, TINE__SCHED_START);
        CHECK(now - before >= pause);
        pause = now - before;
        before = now;
        tine__sched_worker *one = starting(false);
        tine__sched_ready(s, one, now);
        SAYS(TINE__SCHED_ASSIGN);
        tine__sched_again(s, &j[0], now);
        gone[one - w] = true;
        tine__sched_gone(s, one, TINE__SCHED_END_LOST, now);
    }
    CHECK(pause >= SECOND && !tine__sched_broken(s));
    finish();
}

/* While others work there is just none more, whatever the number of failures. */
static void none_more_for_now(void)
{
    defaults();
    config.start_usec = 0;
    begin(1);
    add(&j[0]);
    ASSIGNS(&j[0], &w[0]);
    add(&j[1]);
    int64_t wait = 0, began = now;
    for (int i = 0; i < 20; i++) {
        while (next().what != TINE__SCHED_START)
            now += 50 * MSEC;
        tine__sched_not_started(s, false, now);
        CHECK(!tine__sched_broken(s));
        wait = tine__sched_when(s, now) - now;
    }
    CHECK(wait == (int64_t)50 * MSEC << 7 && now - began > 60 * SECOND);
    done(&j[0]);
    ASSIGNS(&j[1], &w[0]); /* all is done by the one that lives */
    done(&j[1]);
    ends(&w[0], true);
    now += 10 * SECOND;
    add(&j[2]);
    for (int i = 0; i < TINE__SCHED_FAILURES; i++) {
        while (next().what != TINE__SCHED_START)
            now += 50 * MSEC;
        tine__sched_not_started(s, false, now);
    }
    SAYS(TINE__SCHED_BREAK); /* now there is nobody */
    finish();
}

static void good_calls_between(void)
{
    defaults();
    config.idle = 3;
    begin(2);
    for (int i = 0; i < 40; i++) {
        add(&j[0]);
        SAYS(TINE__SCHED_ASSIGN);
        while (next().what != TINE__SCHED_START)
            now += 50 * MSEC;
        tine__sched_not_started(s, false, now);
        CHECK(!tine__sched_broken(s));
        now += SECOND;
        if (i % 4 == 3)
            done(&j[0]);
        else
            tine__sched_done(s, &j[0], i % 4 == 2, now);
    }
    finish();
}

/* What does not count: one that has done a job well, one that ended as it was told to. */
static void not_failures(void)
{
    defaults();
    begin(0);
    for (int i = 0; i < 10; i++) {
        tine__sched_ready(s, starting(false), now);
        add(&j[0]);
        SAYS(TINE__SCHED_ASSIGN);
        done(&j[0]);
        ends(&w[nworkers - 1], true);
        tine__sched_ready(s, starting(false), now);
        tine__sched_retire(s, &w[nworkers - 1], now);
        CHECK_INT(next().what, TINE__SCHED_STOP);
        ends(&w[nworkers - 1], true);
        ends(starting(false), false);
        CHECK(!tine__sched_broken(s));
        NEVER();
    }
    finish();
}

/* Forty that were started together and all fail: it is tried again after 1 s still. */
static void those_from_before(void)
{
    defaults();
    config.max = config.idle = 40;
    begin(0);
    for (int i = 0; i < 40; i++) {
        STARTS(false);
        starting(false);
    }
    for (int i = 0; i < 40; i++)
        ends(&w[i], true);
    SAYS(TINE__SCHED_BREAK);
    WHEN(SECOND);
    now += SECOND - 1;
    CHECK_INT(tine__sched_add(s, &j[0], now), -EHOSTDOWN);
    now += 1;
    add(&j[0]);
    STARTS(false);
    finish();
}

/* Whom nobody can replace now is not asked about without an end. */
static void too_old_without_replacement(void)
{
    defaults();
    config.idle = 2;
    config.max_age_usec = SECOND;
    begin(1);
    tine__sched_not_started(s, false, now);
    tine__sched_not_started(s, false, now);
    tine__sched_not_started(s, false, now);
    tine__sched_not_started(s, false, now);
    WHEN(200 * MSEC);
    tine__sched_not_started(s, false, now);
    WHEN(400 * MSEC);
    now += SECOND;
    STARTS(false);
    tine__sched_not_started(s, false, now);
    WHEN(800 * MSEC);
    CHECK(w[0].due);
    finish();
}

/* A start that must wait is asked for again when it may be made, also with start 0. */
static void waits_without_damping(void)
{
    defaults();
    config.start_usec = 0;
    begin(1);
    add(&j[0]);
    ASSIGNS(&j[0], &w[0]);
    add(&j[1]);
    STARTS(false);
    tine__sched_not_started(s, false, now);
    STARTS(false);
    tine__sched_not_started(s, false, now);
    WHEN(50 * MSEC);
    now += 50 * MSEC;
    STARTS(false);
    finish();
}

/* --------------------------------------------------------------- resized and closed */

static void resized(void)
{
    for (size_t load = 1; load <= 3; load++) {
        defaults();
        config.load = load;
        begin(8);
        size_t n = 8 * load + 1;
        for (size_t i = 0; i < n; i++)
            add(&j[i]);
        for (size_t i = 0; i + 1 < n; i++)
            SAYS(TINE__SCHED_ASSIGN);
        NONE();
        tine__sched_resize(s, 2, 0, now);
        NONE();
        size_t left = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            tine__sched_worker *of = j[i].worker;
            done(&j[i]);
            for (tine__sched_action a; (a = next()).what != TINE__SCHED_NONE;) {
                if (a.what == TINE__SCHED_STOP)
                    ends(a.worker, false);
                else if (a.what == TINE__SCHED_STEAL)
                    tine__sched_kept(s, a.job, now);
                else
                    CHECK_INT(a.what, TINE__SCHED_ASSIGN);
            }
            CHECK(i > 0 || of->state == TINE__SCHED_RETIRING || gone[of - w]);
        }
        for (size_t i = 0; i < 8; i++)
            left += w[i].state == TINE__SCHED_READY;
        CHECK_INT(left, 2);
        CHECK_INT(tine__sched_workers(s), 2);
        tine__sched_resize(s, 5, 5, now);
        for (int i = 0; i < 3; i++) {
            STARTS(false);
            starting(false);
        }
        finish();
    }
}

static void resized_when_idle(void)
{
    defaults();
    begin(8);
    tine__sched_resize(s, 3, 0, now);
    for (int i = 0; i < 5; i++)
        SAYS(TINE__SCHED_STOP);
    NONE();
    finish();
}

static void closed(void)
{
    defaults();
    config.max = 3;
    config.idle = 3;
    config.start_usec = 0;
    begin(2);
    add_key(&j[0], 1);
    add_key(&j[1], 1);
    add(&j[2]);
    SAYS(TINE__SCHED_ASSIGN);
    SAYS(TINE__SCHED_ASSIGN);
    tine__sched_close(s, now);
    STARTS(false); /* for what is queued */
    tine__sched_worker *late = starting(false);
    ends(late, false);
    done(&j[2]);
    NONE(); /* an idle one may be wanted, while a job waits */
    tine__sched_worker *of = j[0].worker;
    done(&j[0]);
    ASSIGNS(&j[1], of);
    STOPS(of == &w[0] ? &w[1] : &w[0]);
    NEVER();
    done(&j[1]);
    STOPS(of);
    NEVER();
    CHECK_INT(tine__sched_workers(s), 0);
    finish();
}

/* What is to be known of workers is known when the last one has come up: until then it does not
 * ask to be asked. */
static void in_doubt(void)
{
    defaults();
    begin(0);
    for (int i = 0; i < 4; i++)
        add(&j[i]);
    STARTS(false);
    starting(false);
    for (int i = 0; i < TINE__SCHED_FAILURES; i++)
        tine__sched_not_started(s, false, now);
    CHECK(!tine__sched_broken(s));
    now += 60 * (int64_t)SECOND;
    NEVER();
    tine__sched_ready(s, &w[0], now);
    ASSIGNS(&j[0], &w[0]);
    finish();
}

/* None is started for `idle`; one is replaced while jobs wait, and no longer. */
static void closed_with_jobs(void)
{
    defaults();
    config.idle = 2;
    begin(1);
    tine__sched_replace(s, &w[0], now);
    add(&j[0]);
    add(&j[1]);
    ASSIGNS(&j[0], &w[0]);
    tine__sched_close(s, now);
    STARTS(true);
    tine__sched_ready(s, starting(true), now);
    CHECK_INT(w[0].state, TINE__SCHED_RETIRING);
    ASSIGNS(&j[1], &w[1]);
    tine__sched_replace(s, &w[1], now);
    NEVER();
    done(&j[0]);
    STOPS(&w[0]);
    NEVER();
    done(&j[1]);
    STOPS(&w[1]);
    NEVER();
    finish();
}

int main(void)
{
    RUN(five_in_a_row);
    RUN(mended);
    RUN(ready_and_gone);
    RUN(ready_and_killed);
    RUN(none_more_for_now);
    RUN(good_calls_between);
    RUN(not_failures);
    RUN(those_from_before);
    RUN(too_old_without_replacement);
    RUN(waits_without_damping);
    RUN(resized);
    RUN(resized_when_idle);
    RUN(in_doubt);
    RUN(closed);
    RUN(closed_with_jobs);
    return 0;
}
