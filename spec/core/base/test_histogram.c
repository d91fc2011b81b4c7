/* Histograms of times: percentiles right to 1/16 whatever the distribution, and the ends of
 * what can be told. */
#include "base/histogram.h"

#include "test.h"

enum { MANY = 20000 };

static tine__histogram h;
static tine_histogram out;
static uint64_t values[MANY];

static void start(void)
{
    memset(&h, 0, sizeof h);
}

static void read_it(void)
{
    memset(&out, 0xff, sizeof out);
    tine__histogram_read(&h, &out);
    CHECK(out.min <= out.p50 && out.p50 <= out.p90 && out.p90 <= out.p99);
    CHECK(out.p99 <= out.p999 && out.p999 <= out.max);
}

/* Within 1/16 of it. */
static void close_to(uint64_t is, uint64_t right)
{
    uint64_t off = is > right ? is - right : right - is;
    if (off * 16 > right)
        fprintf(stderr, "%llu, not %llu\n", (unsigned long long)is,
                (unsigned long long)right);
    CHECK(off * 16 <= right);
}

static void nothing(void)
{
    start();
    read_it();
    CHECK(!out.count && !out.min && !out.max && !out.p50 && !out.p999);
    CHECK(out.mean >= 0 && out.mean <= 0);
}

static void one(void)
{
    for (unsigned bit = 0; bit < 40; bit++)
        for (int64_t d = -1; d <= 1; d++) {
            int64_t value = (INT64_C(1) << bit) + d;
            start();
            tine__histogram_add(&h, value);
            read_it();
            CHECK_INT(out.count, 1);
            CHECK_INT(out.min, value);
            CHECK_INT(out.max, value);
            CHECK_INT(out.p50, value);
            CHECK_INT(out.p999, value);
            CHECK_INT((int64_t)out.mean, value);
        }
}

/* Each value on its own, between others that keep min and max from helping. */
static void each_to_a_sixteenth(void)
{
    for (uint64_t value = 0; value < UINT64_C(1) << 40;
         value += value / 97 + 1 + test_random() % (value / 200 + 1)) {
        start();
        tine__histogram_add(&h, 0);
        for (int i = 0; i < 5; i++)
            tine__histogram_add(&h, (int64_t)value);
        tine__histogram_add(&h, INT64_C(1) << 40);
        read_it();
        close_to(out.p50, value);
    }
}

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* The least value that so many of 1000 do not exceed. */
static uint64_t right(size_t n, size_t per_mille)
{
    size_t rank = (n * per_mille + 999) / 1000;
    return values[rank ? rank - 1 : 0];
}

static uint64_t draw(int kind)
{
    uint64_t r = test_random();
    if (kind == 0)
        return r % 20;
    if (kind == 1)
        return r % 1000000;
    if (kind == 2) /* long tail */
        return r % 1000 ? r % 300 : r * 16;
    if (kind == 3)
        return (uint64_t)1 << r % 40;
    return r % 2 ? 7 : 7000000;
}

static void percentiles(void)
{
    static const size_t sizes[] = {1, 2, 3, 9, 10, 11, 100, 999, 1000, 1001, MANY};
    for (int kind = 0; kind < 5; kind++)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            size_t n = sizes[k];
            double sum = 0;
            start();
            for (size_t i = 0; i < n; i++) {
                values[i] = draw(kind);
                sum += (double)values[i];
                tine__histogram_add(&h, (int64_t)values[i]);
            }
            qsort(values, n, sizeof *values, by_value);
            read_it();
            CHECK_INT(out.count, n);
            CHECK_INT(out.min, values[0]);
            CHECK_INT(out.max, values[n - 1]);
            close_to(out.p50, right(n, 500));
            close_to(out.p90, right(n, 900));
            close_to(out.p99, right(n, 990));
            close_to(out.p999, right(n, 999));
            double off = out.mean - sum / (double)n;
            CHECK(off > -1e-3 && off < 1e-3);
        }
}

static void below_nothing(void)
{
    start();
    tine__histogram_add(&h, -1);
    tine__histogram_add(&h, INT64_MIN);
    read_it();
    CHECK_INT(out.count, 2);
    CHECK(!out.min && !out.max && !out.p50 && !out.p999);
}

/* What is more than 2^40 counts as that, however much it is. */
static void too_long(void)
{
    start();
    for (int i = 0; i < 100; i++)
        tine__histogram_add(&h, i % 2 ? INT64_MAX : INT64_C(1) << 41);
    read_it();
    CHECK_INT(out.count, 100);
    close_to(out.min, UINT64_C(1) << 40);
    close_to(out.p50, UINT64_C(1) << 40);
    close_to(out.max, UINT64_C(1) << 40);
    close_to((uint64_t)out.mean, UINT64_C(1) << 40);
}

/* More of one kind than 32 bits count. */
static void very_many(void)
{
    start();
    tine__histogram_add(&h, 100);
    for (int b = 0; b < TINE__HISTOGRAM_BUCKETS; b++)
        h.buckets[b] *= UINT64_C(1) << 32;
    h.count <<= 32;
    h.sum <<= 32;
    for (int i = 0; i < 1000; i++)
        tine__histogram_add(&h, 5000000);
    tine__histogram_add(&h, 100);
    read_it();
    close_to(out.p50, 100);
    close_to(out.p999, 100);
    close_to(out.max, 5000000);
}

/* Exactly, also far from 0 and close together. */
static void deviation(void)
{
    static const int64_t far[] = {0, 1000000, INT64_C(1) << 39};
    start();
    read_it();
    CHECK(out.stddev >= 0 && out.stddev <= 0);
    for (size_t f = 0; f < sizeof far / sizeof *far; f++) {
        start();
        tine__histogram_add(&h, far[f] + 5);
        read_it();
        CHECK(out.stddev >= 0 && out.stddev <= 0);
        static const int64_t off[] = {7, 4, 4, 4,
                                      5, 2, 9}; /* and 5: mean 5, deviation 2 */
        for (size_t i = 0; i < sizeof off / sizeof *off; i++)
            tine__histogram_add(&h, far[f] + off[i]);
        read_it();
        CHECK(out.stddev > 1.9999 && out.stddev < 2.0001);
    }
}

int main(void)
{
    RUN(nothing);
    RUN(one);
    RUN(each_to_a_sixteenth);
    RUN(percentiles);
    RUN(below_nothing);
    RUN(too_long);
    RUN(very_many);
    RUN(deviation);
    return 0;
}
