/* See prioq.h. */
#include "prioq.h"

#include <errno.h>
#include <stdlib.h>

enum { FIRST_SIZE = 16 };

static size_t *place_of(const tine__prioq *q, void *item)
{
    return (size_t *)(void *)((char *)item + q->offset);
}

static void put(tine__prioq *q, size_t place, void *item)
{
    q->items[place] = item;
    *place_of(q, item) = place;
}

static void rise(tine__prioq *q, size_t place, void *item)
{
    while (place > 1 && q->before(item, q->items[place / 2])) {
        put(q, place, q->items[place / 2]);
        place /= 2;
    }
    put(q, place, item);
}

static void sink(tine__prioq *q, size_t place, void *item)
{
    size_t child;
    while ((child = place * 2) <= q->n) {
        if (child < q->n && q->before(q->items[child + 1], q->items[child]))
            child++;
        if (!q->before(q->items[child], item))
            break;
        put(q, place, q->items[child]);
        place = child;
    }
    put(q, place, item);
}

void tine__prioq_init(tine__prioq *q, tine__prioq_before before, size_t offset)
{
    *q = (tine__prioq){.before = before, .offset = offset};
}

void tine__prioq_free(tine__prioq *q)
{
    free(q->items);
    q->items = NULL;
    q->n = q->size = 0;
}

int tine__prioq_grow(tine__prioq *q, size_t n)
{
    size_t size = q->size ? q->size : FIRST_SIZE;
    while (size <= n)
        size *= 2;
    void **items = realloc(q->items, size * sizeof *items);
    if (!items)
        return -ENOMEM;
    q->items = items;
    q->size = size;
    return 0;
}

int tine__prioq_add(tine__prioq *q, void *item)
{
    int err = tine__prioq_reserve(q, q->n + 1);
    if (!err)
        rise(q, ++q->n, item);
    return err;
}

void tine__prioq_remove(tine__prioq *q, void *item)
{
    size_t place = *place_of(q, item);
    if (!place)
        return;
    *place_of(q, item) = 0;
    void *last = q->items[q->n--];
    if (last == item)
        return;
    if (place > 1 && q->before(last, q->items[place / 2]))
        rise(q, place, last);
    else
        sink(q, place, last);
}

void tine__prioq_moved(tine__prioq *q, void *item)
{
    size_t place = *place_of(q, item);
    if (!place || q->n == 1)
        return;
    if (place > 1 && q->before(item, q->items[place / 2]))
        rise(q, place, item);
    else
        sink(q, place, item);
}
