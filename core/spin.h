/* Waiting awake for a moment before sleeping. To wake a process that sleeps on another CPU
 * takes 5 to 50 us; what comes sooner is worth waiting for awake, as in an adaptive mutex. It
 * is done only while it pays: each time that nothing came halves the patience, down to none
 * but a try now and then; and never on a single CPU. */
#ifndef TINE_SPIN_H
#define TINE_SPIN_H

#include <stdbool.h>
#include <stdint.h>

typedef struct tine__spin {
    int64_t patience_ns;
    unsigned sleeps; /* since the last try */
    bool alone;      /* there is one CPU for us */
} tine__spin;

void tine__spin_init(tine__spin *s);
/* How long to wait awake now, in ns; 0: not at all. */
int64_t tine__spin_begin(tine__spin *s);
/* What came of it. */
void tine__spin_end(tine__spin *s, bool came);

#endif
