/* A distribution of times in microseconds, in fixed memory: 16 buckets for each power of two,
 * so that what it says is right to 1/16. After HdrHistogram (Gil Tene). Knows nothing of what is
 * measured. */
#ifndef TINE_BASE_HISTOGRAM_H
#define TINE_BASE_HISTOGRAM_H

#include <stdint.h>

#include "tine.h"

/* 2^40 us are 12 days; what is more counts as that. */
#define TINE__HISTOGRAM_BITS 40
#define TINE__HISTOGRAM_BUCKETS ((TINE__HISTOGRAM_BITS - 3) * 16)

typedef struct tine__histogram {
    uint64_t count, sum, min, max, first;
    double squares; /* of what each differs from the first */
    uint64_t buckets[TINE__HISTOGRAM_BUCKETS];
} tine__histogram;

/* Zeros is empty. Negative times count as 0. */
void tine__histogram_add(tine__histogram *h, int64_t usec);
void tine__histogram_read(const tine__histogram *h, tine_histogram *out);

#endif
