/* Waiting awake: when it is done, when given up; and leaving the other's CPU. */
#include "base/spin.h"

#include <sched.h>

#include "test.h"

/* A wait in which nothing comes; returns whether it was awake. */
static bool wait_in_vain(tine__spin *s)
{
    if (!tine__spin_begin(s))
        return false;
    while (tine__spin_on(s))
        ;
    tine__spin_end(s, false);
    return true;
}

static void only_while_it_pays(void)
{
    tine__spin s;
    tine__spin_init(&s);
    if (s.alone) {
        CHECK(!tine__spin_begin(&s));
        return;
    }
    int awake = 0, asleep = 0;
    while (wait_in_vain(&s))
        awake++;
    CHECK(awake > 0 && awake < 20);
    while (!wait_in_vain(&s)) /* a try now and then */
        asleep++;
    CHECK(asleep >= 32 && asleep < 10000);
    CHECK(!wait_in_vain(&s)); /* which was in vain */
    while (!tine__spin_begin(&s))
        ;
    tine__spin_end(&s, true);
    CHECK(tine__spin_begin(&s)); /* it pays again */
    tine__spin_end(&s, true);
}

/* Somebody has had the CPU for long: what comes then has not come by being awake. */
static void not_where_others_work(void)
{
    tine__spin s;
    tine__spin_init(&s);
    for (int i = 0; !s.alone && i < 20; i++) {
        if (!tine__spin_begin(&s))
            return;
        s.looked_ns -= 1000000;
        tine__spin_on(&s);
        CHECK(s.crowded);
        CHECK(!tine__spin_on(&s));
        tine__spin_end(&s, true);
    }
    CHECK(s.alone);
}

static void set_mask(const cpu_set_t *mask)
{
    CHECK_INT(sched_setaffinity(0, sizeof *mask, mask), 0);
}

static bool has_mask(const cpu_set_t *mask)
{
    cpu_set_t now;
    CHECK_INT(sched_getaffinity(0, sizeof now, &now), 0);
    return CPU_EQUAL(&now, mask);
}

static void steps_aside(void)
{
    cpu_set_t all, one, two;
    int cpus[2], n = 0;
    CHECK_INT(sched_getaffinity(0, sizeof all, &all), 0);
    CPU_ZERO(&two);
    for (int i = 0; i < CPU_SETSIZE && n < 2; i++)
        if (CPU_ISSET((size_t)i, &all)) {
            cpus[n++] = i;
            CPU_SET((size_t)i, &two);
        }
    CPU_ZERO(&one);
    CPU_SET((size_t)cpus[0], &one);
    set_mask(&one);
    tine__spin_aside(cpus[0]); /* there is no other */
    CHECK(has_mask(&one) && sched_getcpu() == cpus[0]);
    if (n < 2)
        return;
    set_mask(&two);
    bool moved = false;
    for (int i = 0; i < 100 && !moved; i++) { /* unless it is moved back at once */
        tine__spin_aside(cpus[0]);
        moved = sched_getcpu() == cpus[1];
        CHECK(has_mask(&two)); /* what somebody has set stays */
    }
    CHECK(moved);
    set_mask(&all);
    tine__spin_aside(sched_getcpu());
    CHECK(has_mask(&all));
}

int main(void)
{
    RUN(only_while_it_pays);
    RUN(not_where_others_work);
    RUN(steps_aside);
    return 0;
}
