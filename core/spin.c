/* See spin.h. */
#include "spin.h"

#include <sched.h>

enum { MOST_NS = 60000, LEAST_NS = 4000, TRY_EVERY = 64 };

void tine__spin_init(tine__spin *s)
{
    cpu_set_t cpus;
    *s = (tine__spin){.patience_ns = MOST_NS};
    s->alone = sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) == 1;
}

int64_t tine__spin_begin(tine__spin *s)
{
    if (s->alone)
        return 0;
    if (s->patience_ns >= LEAST_NS)
        return s->patience_ns;
    if (++s->sleeps < TRY_EVERY)
        return 0;
    s->sleeps = 0;
    return MOST_NS;
}

void tine__spin_end(tine__spin *s, bool came)
{
    s->patience_ns = came ? MOST_NS : s->patience_ns / 2;
}
