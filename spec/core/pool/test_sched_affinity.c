/* The scheduler's keys: one worker for each while it takes jobs, in order, without getting before
 * others; and that it loses nothing when memory runs out. */
#include "pool/sched_priv.h"

#include "fault.h"
#include "sched_test.h"

static void one_worker_in_order(void)
{
    defaults();
    config.max = 3;
    begin(3);
    for (int i = 0; i < 5; i++)
        add_key(&j[i], 42);
    ASSIGNS(&j[0], j[0].worker ? j[0].worker : &w[0]);
    NONE(); /* the others are idle */
    tine__sched_worker *mine = j[0].worker;
    add_key(&j[5], 43);
    tine__sched_action a = next();
    CHECK(a.job == &j[5] && a.worker != mine);
    for (int i = 1; i < 5; i++) {
        done(&j[i - 1]);
        ASSIGNS(&j[i], mine);
        NONE();
    }
    done(&j[4]);
    /* Also when nothing of it is left, and others have been used longer ago. */
    now += SECOND;
    add_key(&j[6], 42);
    ASSIGNS(&j[6], mine);
    j[7].priority = 1;
    add_key(&j[8], 42);
    add_key(&j[7], 42);
    NONE();
    done(&j[6]);
    ASSIGNS(&j[7], mine);
    done(&j[7]);
    ASSIGNS(&j[8], mine);
    finish();
}

static void moved_when_it_dies(void)
{
    defaults();
    config.max = 2;
    config.load = 2;
    begin(2);
    for (int i = 0; i < 5; i++)
        add_key(&j[i], 1);
    ASSIGNS(&j[0], &w[0]);
    ASSIGNS(&j[1], &w[0]);
    NONE();
    tine__sched_done(s, &j[0], false, now);
    CHECK_INT(tine__sched_again(s, &j[1], now), 0);
    ends(&w[0], true);
    ASSIGNS(&j[1], &w[1]);
    ASSIGNS(&j[2], &w[1]);
    NONE();
    done(&j[1]);
    ASSIGNS(&j[3], &w[1]);
    finish();
}

static void waits_for_one_on_its_way_out(void)
{
    defaults();
    config.max = 2;
    config.load = 2;
    begin(2);
    for (int i = 0; i < 4; i++)
        add_key(&j[i], 1);
    ASSIGNS(&j[0], &w[0]);
    ASSIGNS(&j[1], &w[0]);
    tine__sched_retire(s, &w[0], now);
    j[4].priority = 1;
    add_key(&j[4], 1);
    NONE();
    done(&j[0]);
    NONE();
    done(&j[1]);
    ASSIGNS(&j[4], &w[1]);
    ASSIGNS(&j[2], &w[1]);
    STOPS(&w[0]);
    NONE();
    done(&j[4]);
    ASSIGNS(&j[3], &w[1]);
    finish();
}

/* The same when it dies before it has done them. */
static void dies_on_its_way_out(void)
{
    defaults();
    config.max = 2;
    config.load = 3;
    begin(2);
    for (int i = 0; i < 5; i++)
        add_key(&j[i], 1);
    for (int i = 0; i < 3; i++)
        ASSIGNS(&j[i], &w[0]);
    tine__sched_retire(s, &w[0], now);
    NONE();
    tine__sched_done(s, &j[0], false, now);
    CHECK_INT(tine__sched_again(s, &j[1], now), 0);
    CHECK_INT(tine__sched_again(s, &j[2], now), 0);
    ends(&w[0], true);
    for (int i = 1; i < 4; i++)
        ASSIGNS(&j[i], &w[1]);
    finish();
}

/* Those with a key and those without are in one order. */
static void no_overtaking(void)
{
    defaults();
    config.max = 1;
    begin(1);
    add_key(&j[0], 1);
    ASSIGNS(&j[0], &w[0]);
    add(&j[1]);
    add_key(&j[2], 1);
    add(&j[3]);
    add_key(&j[4], 2);
    add_key(&j[5], 1);
    add_priority(&j[6], 1);
    static const int order[] = {6, 1, 2, 3, 4, 5};
    tine__sched_job *last = &j[0];
    for (int i = 0; i < 6; i++) {
        NONE();
        done(last);
        last = &j[order[i]];
        ASSIGNS(last, &w[0]);
    }
    finish();
}

/* Also when a key got its worker while others of it were waiting for any; and the best of those
 * who wait for one goes before what waits for another. */
static void no_overtaking_after_binding(void)
{
    defaults();
    config.max = 2;
    begin(0);
    add_key(&j[0], 1);
    add_key(&j[1], 1);
    add(&j[2]);
    STARTS(false);
    tine__sched_ready(s, starting(false), now);
    ASSIGNS(&j[0], &w[0]);
    done(&j[0]);
    ASSIGNS(&j[1], &w[0]);
    done(&j[1]);
    ASSIGNS(&j[2], &w[0]);
    tine__sched_ready(s, starting(false), now);
    add_key(&j[3], 2);
    ASSIGNS(&j[3], &w[1]);
    add_key(&j[4], 1);
    j[5].priority = 1;
    add(&j[5]);
    j[6].priority = 2;
    add_key(&j[6], 2);
    NONE();
    done(&j[2]);
    done(&j[3]);
    ASSIGNS(&j[6], &w[1]);
    ASSIGNS(&j[5], &w[0]);
    NONE();
    finish();
}

static void use_key(tine__sched_job *job, uint64_t key, tine__sched_worker **to)
{
    memset(job, 0, sizeof *job);
    add_key(job, key);
    tine__sched_action a = next();
    CHECK_INT(a.what, TINE__SCHED_ASSIGN);
    CHECK(a.job == job);
    *to = a.worker;
}

/* Of those with nothing open the last 4096 are remembered, of the others all; and no more than
 * that once the others have ended. */
static void forgotten(void)
{
    defaults();
    config.max = 2;
    config.load = 100000;
    config.steal_usec = 1000 * (int64_t)SECOND;
    begin(2);
    tine__sched_worker *to, *first, *again;
    use_key(&j[0], 1000000, &first); /* stays open */
    use_key(&j[1], 1000001, &again);
    done(&j[1]);
    for (uint64_t i = 0; i < TINE__SCHED_KEYS - 2; i++) {
        use_key(&j[2], i, &to);
        done(&j[2]);
    }
    CHECK(tine__affinity_find(&s->keys, 1000001) != NULL);
    for (uint64_t i = 0; i < 3 * TINE__SCHED_KEYS; i++) {
        use_key(&j[2], 2000000 + i, &to);
        done(&j[2]);
    }
    CHECK(tine__affinity_find(&s->keys, 1000001) == NULL);
    CHECK(tine__affinity_find(&s->keys, 1000000)->worker == first);
    CHECK_INT(s->keys.n, TINE__SCHED_KEYS);
    use_key(&j[3], 1000000, &to);
    CHECK(to == first);
    enum { MANY = 3 * TINE__SCHED_KEYS };
    tine__sched_job *many = calloc(MANY, sizeof *many);
    for (uint64_t i = 0; i < MANY; i++)
        use_key(&many[i], 3000000 + i, &to);
    CHECK(s->keys.n > MANY);
    for (uint64_t i = 0; i < MANY; i++) {
        CHECK(tine__affinity_find(&s->keys, 3000000 + i)->open == 1);
        done(&many[i]);
    }
    free(many);
    for (uint64_t i = 0; i < 2 * MANY; i++) {
        use_key(&j[2], 4000000 + i, &to);
        done(&j[2]);
    }
    CHECK_INT(s->keys.n, TINE__SCHED_KEYS);
    finish();
}

/* ------------------------------------------------------------------------- no memory */

static void let_run(bool *ran)
{
    for (tine__sched_action a; (a = next()).what != TINE__SCHED_NONE;) {
        if (a.what == TINE__SCHED_STOP) {
            ends(a.worker, false);
        } else if (a.what == TINE__SCHED_ASSIGN) {
            CHECK(!ran[a.job - j]);
            ran[a.job - j] = true;
        } else if (a.what == TINE__SCHED_START) {
            if (tine__sched_started(s, &w[nworkers], a.replacement, now) < 0)
                tine__sched_not_started(s, a.replacement, now);
            else
                tine__sched_ready(s, &w[nworkers++], now);
        }
        now += MSEC;
    }
}

/* The youngest worker, or NULL. */
static tine__sched_worker *youngest(void)
{
    return nworkers && !gone[nworkers - 1] ? &w[nworkers - 1] : NULL;
}

static void fill_in(int i)
{
    tine__sched_worker *last = youngest();
    j[i].has_key = i % 3 > 0;
    j[i].key = (uint64_t)(i % 5);
    j[i].priority = i % 7 == 6;
    j[i].pinned = i > 50 && i % 16 == 0 && last;
    j[i].worker = j[i].pinned ? last : NULL;
}

/* Returns how many of its jobs were lost. */
static size_t dies(tine__sched_worker *worker, bool *ran)
{
    size_t lost = 0;
    for (int k = 0; k < JOBS; k++)
        if (j[k].handed && j[k].worker == worker) {
            tine__sched_try how = {.alone = k % 4 == 0, .after_usec = k % 3 ? MSEC : 0};
            ran[k] = false;
            lost += (k % 2 && !j[k].pinned ? tine__sched_retry(s, &j[k], &how, now)
                                           : tine__sched_again(s, &j[k], now)) < 0;
        }
    ends(worker, false);
    return lost;
}

static void all_done(void)
{
    for (int k = 0; k < JOBS; k++)
        if (j[k].handed)
            done(&j[k]);
}

static size_t count_of(const bool *flags)
{
    size_t n = 0;
    for (int i = 0; i < JOBS; i++)
        n += flags[i];
    return n;
}

/* Workers with all kinds of jobs, which retire and die while the nth request for memory
 * fails. What add took is handed over in the end, or told to be lost by again. */
static bool scenario(long at)
{
    bool ran[JOBS] = {false};
    size_t lost = 0, taken = 0;
    defaults();
    config.max = 4;
    config.load = 2;
    begin(0);
    fault_set(at, 2);
    for (int i = 0; i < 100; i++) {
        fill_in(i);
        taken += tine__sched_add(s, &j[i], now) == 0;
        let_run(ran);
        if (i % 10 == 3)
            all_done();
        if (i % 20 == 15 && youngest())
            tine__sched_retire(s, youngest(), now);
        if (i % 30 == 20 && youngest())
            lost += dies(youngest(), ran);
    }
    bool hit = fault_hit;
    fault_set(0, 0);
    for (int i = 0; i < 100; i++) {
        all_done();
        now += SECOND;
        let_run(ran);
    }
    while (tine__sched_orphan(s))
        lost++;
    CHECK_INT(count_of(ran) + lost, taken);
    CHECK_INT(tine__sched_queued(s), 0);
    finish();
    return hit;
}

static void without_memory(void)
{
    for (long at = 1; scenario(at); at++)
        CHECK(at < 10000);
    for (long at = 1;; at++) {
        defaults();
        fault_set(at, 0);
        int err = tine__sched_new(&s, &config);
        bool hit = fault_hit;
        fault_set(0, 0);
        if (!hit)
            break;
        CHECK_INT(err, -ENOMEM);
    }
    tine__sched_free(s);
    tine__sched_free(NULL);
}

int main(void)
{
    RUN(one_worker_in_order);
    RUN(moved_when_it_dies);
    RUN(waits_for_one_on_its_way_out);
    RUN(dies_on_its_way_out);
    RUN(no_overtaking);
    RUN(no_overtaking_after_binding);
    RUN(forgotten);
    RUN(without_memory);
    return 0;
}
