/* The priority queue: against sorting, with things moved and taken out from anywhere, and
 * when there is no memory. */
#include "base/prioq.h"

#include "fault.h"
#include "test.h"

enum { MANY = 2000 };

typedef struct thing {
    int value;
    size_t at, at_other;
} thing;

static thing things[MANY];
static size_t compares;

static bool less(const void *a, const void *b)
{
    const thing *x = a, *y = b;
    compares++;
    return x->value < y->value;
}

static bool greater(const void *a, const void *b)
{
    return less(b, a);
}

static void clear(void)
{
    memset(things, 0, sizeof things);
}

/* A heap, whose things know where they are. */
static void check(const tine__prioq *q)
{
    for (size_t i = 1; i <= q->n; i++) {
        const thing *t = q->items[i];
        CHECK_INT(*(const size_t *)(const void *)((const char *)t + q->offset), i);
        if (i > 1)
            CHECK(!q->before(t, q->items[i / 2]));
    }
}

static void empty(void)
{
    tine__prioq q;
    clear();
    tine__prioq_init(&q, less, offsetof(thing, at));
    CHECK(tine__prioq_first(&q) == NULL);
    tine__prioq_remove(&q, &things[0]); /* is in none */
    tine__prioq_moved(&q, &things[0]);
    CHECK_INT(q.n, 0);
    CHECK_INT(tine__prioq_add(&q, &things[0]), 0);
    CHECK_INT(things[0].at, 1);
    CHECK(tine__prioq_first(&q) == &things[0]);
    tine__prioq_remove(&q, &things[0]);
    CHECK_INT(things[0].at, 0);
    CHECK(tine__prioq_first(&q) == NULL);
    tine__prioq_free(&q);
    tine__prioq_free(&q);
}

static void sorts(void)
{
    static const int range[] = {1, 3, 100, 1 << 30};
    for (int r = 0; r < 4; r++) {
        tine__prioq q;
        clear();
        tine__prioq_init(&q, less, offsetof(thing, at));
        for (size_t i = 0; i < MANY; i++) {
            things[i].value = (int)(test_random() % (unsigned)range[r]);
            CHECK_INT(tine__prioq_add(&q, &things[i]), 0);
        }
        check(&q);
        int last = -1;
        for (size_t i = 0; i < MANY; i++) {
            thing *t = tine__prioq_first(&q);
            CHECK(t->value >= last);
            last = t->value;
            tine__prioq_remove(&q, t);
        }
        CHECK_INT(q.n, 0);
        tine__prioq_free(&q);
    }
}

static thing *least(const char *in)
{
    thing *best = NULL;
    for (size_t i = 0; i < 60; i++)
        if (in[i] && (!best || things[i].value < best->value))
            best = &things[i];
    return best;
}

/* All operations, at random; in two queues at once. */
static void anything(void)
{
    tine__prioq q, other;
    char in[60] = {0};
    size_t n = 0;
    clear();
    tine__prioq_init(&q, less, offsetof(thing, at));
    tine__prioq_init(&other, greater, offsetof(thing, at_other));
    for (int round = 0; round < 60000; round++) {
        size_t i = test_random() % 60;
        thing *t = &things[i];
        if (!in[i]) {
            t->value = (int)(test_random() % 1000);
            CHECK_INT(tine__prioq_add(&q, t), 0);
            CHECK_INT(tine__prioq_add(&other, t), 0);
            in[i] = 1;
            n++;
        } else if (test_random() % 3) {
            t->value = (int)(test_random() % 1000);
            tine__prioq_moved(&q, t);
            tine__prioq_moved(&other, t);
        } else {
            tine__prioq_remove(&q, t);
            tine__prioq_remove(&other, t);
            CHECK(!t->at && !t->at_other);
            in[i] = 0;
            n--;
        }
        CHECK(q.n == n && other.n == n);
        const thing *first = tine__prioq_first(&q), *best = least(in);
        CHECK((first == NULL) == (best == NULL));
        CHECK(!first || first->value == best->value);
        if (round % 16 == 0) {
            check(&q);
            check(&other);
        }
    }
    tine__prioq_free(&q);
    tine__prioq_free(&other);
}

/* 2 log2 n comparisons at most: log2 of 2000 is less than 11. */
static void few_comparisons(void)
{
    tine__prioq q;
    clear();
    tine__prioq_init(&q, less, offsetof(thing, at));
    for (size_t i = 0; i < MANY; i++) {
        compares = 0;
        things[i].value = -(int)i;
        CHECK_INT(tine__prioq_add(&q, &things[i]), 0);
        CHECK(compares <= 11);
    }
    for (int round = 0; round < 10000; round++) {
        thing *t = &things[test_random() % MANY];
        t->value = (int)test_random() >> 8;
        compares = 0;
        tine__prioq_moved(&q, t);
        CHECK(compares <= 23);
        compares = 0;
        tine__prioq_remove(&q, t);
        CHECK(compares <= 23);
        CHECK_INT(tine__prioq_add(&q, t), 0);
    }
    tine__prioq_free(&q);
}

static void without_memory(void)
{
    tine__prioq q;
    clear();
    tine__prioq_init(&q, less, offsetof(thing, at));
    fault_set(1, 0);
    CHECK_INT(tine__prioq_add(&q, &things[0]), -ENOMEM);
    CHECK(q.n == 0 && things[0].at == 0);
    fault_set(1, 0);
    CHECK_INT(tine__prioq_reserve(&q, 100), -ENOMEM);
    fault_set(0, 0);
    CHECK_INT(tine__prioq_reserve(&q, 100), 0);
    fault_set(1, 0);
    for (size_t i = 0; i < 100; i++) {
        things[i].value = (int)i;
        CHECK_INT(tine__prioq_add(&q, &things[i]), 0); /* there is room */
    }
    CHECK_INT(tine__prioq_reserve(&q, 100), 0);
    CHECK(!fault_hit);
    int err = 0;
    size_t n = 100;
    while (!(err = tine__prioq_add(&q, &things[n])))
        n++;
    fault_set(0, 0);
    CHECK_INT(err, -ENOMEM);
    CHECK(q.n == n && things[n].at == 0);
    check(&q);
    CHECK_INT(tine__prioq_add(&q, &things[n]), 0);
    check(&q);
    tine__prioq_free(&q);
}

int main(void)
{
    RUN(empty);
    RUN(sorts);
    RUN(anything);
    RUN(few_comparisons);
    RUN(without_memory);
    return 0;
}
