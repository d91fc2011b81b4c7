/* See histogram.h. */
#include "histogram.h"

#include <string.h>

enum { SUB = 16, SUB_BITS = 4 };

/* 0 to 15 each have a bucket, then each power of two has 16. */
static unsigned bucket_of(uint64_t usec)
{
    if (usec < SUB)
        return (unsigned)usec;
    unsigned top = 63 - (unsigned)__builtin_clzll(usec);
    if (top >= TINE__HISTOGRAM_BITS)
        return TINE__HISTOGRAM_BUCKETS - 1;
    unsigned shift = top - SUB_BITS;
    return (shift + 1) * SUB + (unsigned)(usec >> shift) - SUB;
}

/* The middle of a bucket. */
static uint64_t value_of(unsigned bucket)
{
    if (bucket < SUB)
        return bucket;
    unsigned shift = bucket / SUB - 1;
    uint64_t least = (uint64_t)(bucket % SUB + SUB) << shift;
    return least + ((UINT64_C(1) << shift) >> 1);
}

void tine__histogram_add(tine__histogram *h, int64_t usec)
{
    uint64_t value = usec > 0 ? (uint64_t)usec : 0;
    if (value >> TINE__HISTOGRAM_BITS)
        value = UINT64_C(1) << TINE__HISTOGRAM_BITS;
    if (!h->count || value < h->min)
        h->min = value;
    if (value > h->max)
        h->max = value;
    if (!h->count++)
        h->first = value;
    double off = (double)value - (double)h->first;
    h->sum += value;
    h->squares += off * off;
    h->buckets[bucket_of(value)]++;
}

/* The square root, by Newton's method: libm would be five mappings more in each process. From above
 * the steps only go down, until they stand still. */
static double root(double square)
{
    if (!(square > 0))
        return 0;
    double x = square > 1 ? square : 1, next = (x + square / x) / 2;
    while (next < x) {
        x = next;
        next = (x + square / x) / 2;
    }
    return x;
}

/* Of all that there are, not an estimate from some. Exact also where all lie close together. */
static double deviation(const tine__histogram *h)
{
    double n = (double)h->count;
    double off = (double)h->sum / n - (double)h->first,
           variance = h->squares / n - off * off;
    return root(variance);
}

void tine__histogram_read(const tine__histogram *h, tine_histogram *out)
{
    uint64_t *const wanted[] = {&out->p50, &out->p90, &out->p99, &out->p999};
    static const unsigned per_mille[] = {500, 900, 990, 999};
    memset(out, 0, sizeof *out);
    out->count = h->count;
    if (!h->count)
        return;
    out->mean = (double)h->sum / (double)h->count;
    out->stddev = deviation(h);
    out->min = h->min;
    out->max = h->max;
    uint64_t seen = 0;
    unsigned next = 0;
    for (unsigned b = 0; b < TINE__HISTOGRAM_BUCKETS && next < 4; b++) {
        seen += h->buckets[b];
        for (; next < 4 && (double)seen * 1000 >= (double)h->count * per_mille[next];
             next++) {
            uint64_t value = value_of(b);
            *wanted[next] = value > h->max ? h->max : value < h->min ? h->min : value;
        }
    }
    for (; next < 4; next++)
        *wanted[next] = h->max;
}
