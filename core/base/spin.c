/* See spin.h. */
#include "spin.h"

#include <sched.h>
#include <string.h>

#include "clock.h"

enum {
    MOST_NS = 150000,
    LEAST_NS = 4000,
    CROWDED_NS = 100000, /* between two looks: somebody has work to do */
    ALONE_NS = 10000,    /* before the CPU is offered to others that never took it */
    SHARED_NS = 3000,    /* between two looks: somebody took it */
    SHARED_LOOKS = 1000,
    FIRST_PAUSE = 64,
    LAST_PAUSE = 1024
};

static int64_t now_ns(void)
{
    return (int64_t)tine__clock_ns();
}

void tine__spin_init(tine__spin *s)
{
    cpu_set_t cpus;
    *s = (tine__spin){.patience_ns = MOST_NS, .pause = FIRST_PAUSE};
    s->alone = sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) == 1;
}

bool tine__spin_begin(tine__spin *s)
{
    if (s->alone)
        return false;
    s->tries = s->patience_ns < LEAST_NS;
    if (s->tries && ++s->sleeps < s->pause)
        return false;
    s->sleeps = 0;
    s->crowded = false;
    s->looked_ns = now_ns();
    s->polite_ns = s->looked_ns + (s->shared ? 0 : ALONE_NS);
    s->until_ns = s->looked_ns + (s->tries ? MOST_NS : s->patience_ns);
    return true;
}

bool tine__spin_on(tine__spin *s)
{
    bool yields = s->looked_ns >= s->polite_ns;
    if (yields)
        sched_yield();
    int64_t now = now_ns();
    bool on = now < s->until_ns;
    if (yields)
        s->shared = s->shared ? s->shared - 1 : 0;
    if (yields && now - s->looked_ns > SHARED_NS)
        s->shared = SHARED_LOOKS;
    if (now - s->looked_ns > CROWDED_NS) {
        on = on || !s->crowded; /* one look more: much may have come meanwhile */
        s->crowded = true;
        s->until_ns = now;
    }
    s->looked_ns = now;
    return on;
}

void tine__spin_end(tine__spin *s, bool came)
{
    if (came && !s->crowded) {
        s->patience_ns = MOST_NS;
        s->pause = FIRST_PAUSE;
        return;
    }
    s->patience_ns = s->tries ? 0 : s->patience_ns / 2;
    if (s->crowded && s->tries && s->pause < LAST_PAUSE)
        s->pause *= 2;
}

void tine__spin_aside(int cpu)
{
    cpu_set_t mine, others, now;
    if (cpu != sched_getcpu() || sched_getaffinity(0, sizeof mine, &mine) < 0)
        return;
    others = mine;
    CPU_CLR((size_t)cpu, &others);
    if (!CPU_COUNT(&others) || sched_setaffinity(0, sizeof others, &others) < 0)
        return;
    /* One that nobody has set is set to all there may be, so that it goes on following what
     * the control group is given. */
    memset(&others, 0xff, sizeof others);
    bool same = sched_setaffinity(0, sizeof others, &others) == 0 &&
                sched_getaffinity(0, sizeof now, &now) == 0 && CPU_EQUAL(&now, &mine);
    if (!same)
        sched_setaffinity(0, sizeof mine, &mine);
}
