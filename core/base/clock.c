#include "clock.h"

#include <time.h>

uint64_t tine__clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

int64_t tine__now_usec(void)
{
    return (int64_t)(tine__clock_ns() / 1000);
}
