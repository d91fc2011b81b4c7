/* Failing each allocation of a scenario, one after the other. */
#ifndef TINE_SPEC_FAULT_EACH_H
#define TINE_SPEC_FAULT_EACH_H

#include "fault.h"
#include "test.h"

/* Runs the scenario with its first allocation failing, and `more` after that; then with its second;
 * and so on, until it is over before any fails. It has fault_set(n, more) called where it begins,
 * fault_set(0, 0) where it is over, and between the two *hit set to fault_hit; it returns whether
 * all went as if nothing had happened. Nothing may be left over. */
static void fault_each(bool (*scenario)(long n, long more, bool *hit), long more)
{
    long failed = 0;
    bool hit = true;
    for (long n = 1; hit; n++) {
        size_t fds = test_fds();
        bool fine = scenario(n, more, &hit);
        CHECK_INT(test_fds(), fds);
        CHECK(!test_has_child());
        CHECK(hit || fine);
        failed += !fine;
    }
    printf("  %ld scenarios failed\n", failed);
}

#endif
