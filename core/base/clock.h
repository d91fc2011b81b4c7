/* The time, CLOCK_MONOTONIC. Knows nothing of who waits for what. */
#ifndef TINE_BASE_CLOCK_H
#define TINE_BASE_CLOCK_H

#include <stdint.h>

int64_t tine__now_usec(void);
uint64_t tine__clock_ns(void);

#endif
