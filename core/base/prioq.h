/* A priority queue: a binary heap of things that know their place in it, so that each can be
 * moved or taken out in O(log n). Knows nothing of what they are. */
#ifndef TINE_BASE_PRIOQ_H
#define TINE_BASE_PRIOQ_H

#include <stdbool.h>
#include <stddef.h>

/* Whether a goes before b. */
typedef bool (*tine__prioq_before)(const void *a, const void *b);

typedef struct tine__prioq {
    void **items; /* from 1 */
    size_t n, size;
    tine__prioq_before before;
    size_t
        offset; /* of the size_t in each thing that is its place; 0 there: in no queue */
} tine__prioq;

void tine__prioq_init(tine__prioq *q, tine__prioq_before before, size_t offset);
void tine__prioq_free(tine__prioq *q);
/* Makes room for n in all. Returns 0 or -ENOMEM. */
int tine__prioq_grow(tine__prioq *q, size_t n);
static inline int tine__prioq_reserve(tine__prioq *q, size_t n)
{
    return n < q->size ? 0 : tine__prioq_grow(q, n);
}
/* -ENOMEM, but not where there was room. */
int tine__prioq_add(tine__prioq *q, void *item);
void tine__prioq_remove(tine__prioq *q, void *item);
/* item goes before others, or after, that it did not. */
void tine__prioq_moved(tine__prioq *q, void *item);
/* The first, or NULL. */
static inline void *tine__prioq_first(const tine__prioq *q)
{
    return q->n ? q->items[1] : NULL;
}

#endif
