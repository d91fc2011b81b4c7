/* The scheduler's jobs that are tried again: later, in their place, and alone in a worker. */
#include "pool/sched_priv.h"

#include "sched_test.h"

static void retry_alone(tine__sched_job *job)
{
    tine__sched_try how = {.alone = true};
    CHECK_INT(tine__sched_retry(s, job, &how, now), 0);
}

/* ----------------------------------------------------------------------- later */

static void not_before_its_time(void)
{
    defaults();
    begin(2);
    add(&j[0]);
    add(&j[1]);
    ASSIGNS(&j[0], &w[0]);
    ASSIGNS(&j[1], &w[1]);
    retry(&j[0], 300 * MSEC);
    retry(&j[1], 200 * MSEC);
    CHECK(j[0].queued && !j[0].handed);
    CHECK_INT(tine__sched_queued(s), 2);
    WHEN(200 * MSEC);
    now += 100 * MSEC;
    add(&j[2]); /* the worker is free meanwhile */
    ASSIGNS(&j[2], &w[0]);
    WHEN(100 * MSEC);
    now += 100 * MSEC;
    ASSIGNS(&j[1], &w[1]);
    WHEN(100 * MSEC);
    now += 100 * MSEC;
    CHECK_INT(next().what, TINE__SCHED_NONE); /* both are busy */
    done(&j[2]);
    ASSIGNS(&j[0], &w[0]);
    CHECK_INT(tine__sched_queued(s), 0);
    finish();
}

/* Behind those of its priority that wait by then. */
static void behind_what_waits_by_then(void)
{
    defaults();
    config.max = 1;
    begin(1);
    add_priority(&j[0], 1);
    ASSIGNS(&j[0], &w[0]);
    retry(&j[0], 50 * MSEC);
    add(&j[1]);
    ASSIGNS(&j[1], &w[0]);
    add_priority(&j[2], 1);
    add_priority(&j[3], 0);
    now += 50 * MSEC;
    CHECK_INT(next().what, TINE__SCHED_NONE);
    add_priority(&j[4], 1);
    done(&j[1]);
    static const int order[] = {2, 0, 4, 3};
    for (int i = 0; i < 4; i++) {
        ASSIGNS(&j[order[i]], &w[0]);
        done(&j[order[i]]);
    }
    finish();
}

static void counts_in_the_queue(void)
{
    defaults();
    config.queue = 1;
    begin(2);
    add(&j[0]);
    ASSIGNS(&j[0], &w[0]);
    SAYS(TINE__SCHED_DRAIN);
    retry(&j[0], SECOND);
    CHECK(!tine__sched_has_room(s));
    CHECK_INT(tine__sched_add(s, &j[1], now), -EAGAIN);
    tine__sched_remove(s, &j[0]);
    CHECK(!j[0].queued && !j[0].delayed);
    SAYS(TINE__SCHED_DRAIN);
    add(&j[1]);
    ASSIGNS(&j[1], &w[1]);
    finish();
}

/* No worker is started, or stopped at once, for what cannot begin yet. */
static void workers_meanwhile(void)
{
    defaults();
    config.stop_usec = SECOND;
    begin(1);
    add(&j[0]);
    ASSIGNS(&j[0], &w[0]);
    retry(&j[0], 100 * MSEC);
    tine__sched_close(s, now);
    WHEN(100 * MSEC);
    CHECK(!gone[0]);
    now += 100 * MSEC;
    ASSIGNS(&j[0], &w[0]);
    retry(&j[0], 10 * (int64_t)SECOND);
    ends(&w[0], true);
    WHEN(10 * SECOND);
    now += 10 * (int64_t)SECOND;
    STARTS(false);
    finish();
}

static void popped_with_the_rest(void)
{
    defaults();
    begin(1);
    add_key(&j[0], 7);
    ASSIGNS(&j[0], &w[0]);
    retry(&j[0], SECOND);
    add_key(&j[1], 7);
    NONE();
    add(&j[2]);
    bool seen[3] = {false};
    for (int i = 0; i < 3; i++)
        seen[tine__sched_pop(s) - j] = true;
    CHECK(seen[0] && seen[1] && seen[2] && !tine__sched_pop(s));
    finish();
}

/* Those of its key that were not handed over wait, wherever they were; others do not. */
static void a_key_keeps_its_order(void)
{
    defaults();
    config.max = 2;
    begin(2);
    for (int i = 0; i < 3; i++)
        add_key(&j[i], 7);
    ASSIGNS(&j[0], &w[0]);
    NONE();
    retry(&j[0], 100 * MSEC); /* its worker lives */
    add_key(&j[3], 7);
    add_key(&j[4], 8);
    add(&j[5]);
    ASSIGNS(&j[4], &w[1]);
    ASSIGNS(&j[5], &w[0]);
    done(&j[4]);
    done(&j[5]);
    WHEN(100 * MSEC);
    now += 100 * MSEC;
    for (int i = 0; i < 4; i++) {
        ASSIGNS(&j[i], &w[0]);
        if (i == 2) { /* and now it dies */
            retry(&j[2], 100 * MSEC);
            ends(&w[0], true);
            NONE();
            now += 100 * MSEC;
            break;
        }
        done(&j[i]);
    }
    ASSIGNS(&j[2], &w[1]);
    done(&j[2]);
    ASSIGNS(&j[3], &w[1]);
    finish();
}

static void two_of_a_key(void)
{
    defaults();
    config.load = 2;
    begin(1);
    for (int i = 0; i < 3; i++)
        add_key(&j[i], 7);
    ASSIGNS(&j[0], &w[0]);
    ASSIGNS(&j[1], &w[0]);
    retry(&j[0], 200 * MSEC);
    retry(&j[1], 100 * MSEC);
    WHEN(100 * MSEC);
    now += 100 * MSEC;
    WHEN(100 * MSEC); /* the second is due, but behind the first */
    tine__sched_remove(s, &j[0]);
    ASSIGNS(&j[1], &w[0]);
    ASSIGNS(&j[2], &w[0]);
    finish();
}

/* ----------------------------------------------------------------------- alone */

static void alone_in_an_idle_worker(void)
{
    defaults();
    config.max = 2;
    config.load = 4;
    begin(2);
    add(&j[0]);
    add(&j[1]);
    ASSIGNS(&j[0], &w[0]);
    ASSIGNS(&j[1], &w[1]);
    retry_alone(&j[0]);
    for (int i = 2; i < 5; i++)
        add(&j[i]);
    ASSIGNS(&j[0], &w[0]);
    for (int i = 2; i < 5; i++)
        ASSIGNS(&j[i], &w[1]); /* though the other has fewer */
    add(&j[5]);
    NONE();
    done(&j[0]);
    ASSIGNS(&j[5], &w[0]);
    finish();
}

static void one_worker_is_emptied(void)
{
    defaults();
    config.max = 2;
    config.load = 3;
    begin(2);
    for (int i = 0; i < 4; i++)
        add(&j[i]);
    for (int i = 0; i < 4; i++)
        ASSIGNS(&j[i], &w[i % 2]);
    done(&j[2]);
    retry_alone(&j[0]);
    add(&j[4]);
    /* It is to have the first, which has none. */
    ASSIGNS(&j[0], &w[0]);
    for (int i = 5; i < 8; i++)
        add(&j[i]);
    ASSIGNS(&j[4], &w[1]);
    CHECK_INT(next().what,
              TINE__SCHED_NONE); /* the second is full, the first not to be shared */
    done(&j[0]);
    ASSIGNS(&j[5], &w[0]);
    ASSIGNS(&j[6], &w[0]);
    ASSIGNS(&j[7], &w[0]);
    finish();
}

static void the_least_loaded_takes_no_more(void)
{
    defaults();
    config.max = 2;
    config.load = 4;
    begin(2);
    for (int i = 0; i < 6; i++)
        add(&j[i]);
    for (int i = 0; i < 6; i++)
        ASSIGNS(&j[i], &w[i % 2]);
    retry_alone(&j[0]); /* the first has two left, the second three */
    add(&j[6]);
    add(&j[7]);
    ASSIGNS(&j[6], &w[1]);
    CHECK_INT(next().what, TINE__SCHED_NONE);
    done(&j[2]);
    CHECK_INT(next().what, TINE__SCHED_NONE);
    /* The other is idle before it: it goes there. */
    static const int others[] = {1, 3, 5, 6};
    for (int i = 0; i < 4; i++)
        done(&j[others[i]]);
    tine__sched_action a = next();
    CHECK(a.what == TINE__SCHED_ASSIGN && a.job == &j[0] && a.worker == &w[1]);
    ASSIGNS(&j[7], &w[0]);
    finish();
}

static void alone_with_a_key(void)
{
    defaults();
    config.max = 2;
    config.load = 4;
    begin(2);
    for (int i = 0; i < 3; i++)
        add_key(&j[i], 7);
    for (int i = 0; i < 3; i++)
        ASSIGNS(&j[i], &w[0]);
    for (int i = 2; i >= 0; i--)
        retry_alone(&j[i]);
    ends(&w[0], true);
    add_key(&j[3], 7);
    for (int i = 0; i < 4; i++) {
        ASSIGNS(&j[i], &w[1]);
        CHECK_INT(next().what, TINE__SCHED_NONE);
        done(&j[i]);
    }
    finish();
}

/* It goes elsewhere, and stays alone. */
static void its_worker_goes(void)
{
    defaults();
    config.max = 2;
    config.load = 2;
    begin(2);
    for (int i = 0; i < 4; i++)
        add(&j[i]);
    for (int i = 0; i < 4; i++)
        ASSIGNS(&j[i], &w[i % 2]);
    retry_alone(&j[0]);
    CHECK_INT(next().what, TINE__SCHED_NONE); /* it waits for the first */
    tine__sched_retire(s, &w[0], now);
    CHECK_INT(tine__sched_queued(s), 1);
    done(&j[1]);
    CHECK_INT(next().what, TINE__SCHED_START);
    starting(false);
    CHECK_INT(next().what, TINE__SCHED_NONE); /* the second has one still */
    done(&j[3]);
    ASSIGNS(&j[0], &w[1]);
    CHECK_INT(tine__sched_again(s, &j[0], now), 0); /* that had not started it */
    ends(&w[1], true);
    tine__sched_ready(s, &w[2], now);
    ASSIGNS(&j[0], &w[2]);
    CHECK(j[0].alone);
    add(&j[5]);
    CHECK(next().what != TINE__SCHED_ASSIGN);
    finish();
}

int main(void)
{
    RUN(not_before_its_time);
    RUN(behind_what_waits_by_then);
    RUN(counts_in_the_queue);
    RUN(workers_meanwhile);
    RUN(popped_with_the_rest);
    RUN(a_key_keeps_its_order);
    RUN(two_of_a_key);
    RUN(alone_in_an_idle_worker);
    RUN(one_worker_is_emptied);
    RUN(the_least_loaded_takes_no_more);
    RUN(alone_with_a_key);
    RUN(its_worker_goes);
    return 0;
}
