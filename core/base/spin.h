/* Waiting awake for a moment before sleeping. To wake a process that sleeps on another CPU
 * takes 5 to 50 us; what comes sooner is worth waiting for awake, as in an adaptive mutex. It
 * is done only while it pays: each time that nothing came halves the patience, down to none
 * but a try now and then; and never on a single CPU. Whoever else wants the CPU gets it between
 * two looks; when that takes long, the wait has not paid either. Knows nothing of what is waited
 * for. */
#ifndef TINE_BASE_SPIN_H
#define TINE_BASE_SPIN_H

#include <stdbool.h>
#include <stdint.h>

typedef struct tine__spin {
    int64_t patience_ns;
    /* Of this wait: from when on the CPU is offered, when it is over, the last look. */
    int64_t polite_ns, until_ns, looked_ns;
    unsigned sleeps; /* without a wait since the last try */
    unsigned pause;  /* so many before the next */
    unsigned shared; /* 0: nobody has taken the CPU when it was offered, for long */
    bool alone;      /* there is one CPU for us */
    bool tries;      /* this wait is a try, though none has paid */
    bool crowded;    /* somebody else had the CPU for long in it */
} tine__spin;

void tine__spin_init(tine__spin *s);
/* Whether to wait awake. Then: look; as long as nothing has come and spin_on says so, look
 * again; and spin_end says what came of it. */
bool tine__spin_begin(tine__spin *s);
bool tine__spin_on(tine__spin *s);
void tine__spin_end(tine__spin *s, bool came);
/* Leaves the CPU that the process at the other end was on, if it is ours: two that wait for each
 * other awake on one CPU while another has nothing to do, the kernel leaves there. */
void tine__spin_aside(int cpu);

#endif
