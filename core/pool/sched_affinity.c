/* The keys that the scheduler remembers: a hash table, and a list by last use. Those with open
 * jobs are always kept, of the others the last TINE__SCHED_KEYS. */
#include <errno.h>
#include <stdlib.h>

#include "sched_priv.h"

enum { FIRST_SLOTS = 64 };

int tine__keys_open(tine__keys *k)
{
    k->slots = calloc(FIRST_SLOTS, sizeof *k->slots);
    k->nslots = FIRST_SLOTS;
    return k->slots ? 0 : -ENOMEM;
}

void tine__keys_free(tine__keys *k)
{
    while (k->oldest) {
        tine__key *e = k->oldest;
        k->oldest = e->newer;
        tine__prioq_free(&e->parked);
        free(e);
    }
    free(k->slots);
}

static tine__key **slot_of(const tine__keys *k, uint64_t key)
{
    return &k->slots[(key ^ key >> 32) & (k->nslots - 1)];
}

tine__key *tine__keys_find(const tine__keys *k, uint64_t key)
{
    tine__key *e = *slot_of(k, key);
    while (e && e->key != key)
        e = e->next;
    return e;
}

static void unlist(tine__keys *k, tine__key *e)
{
    if (e->older)
        e->older->newer = e->newer;
    else
        k->oldest = e->newer;
    if (e->newer)
        e->newer->older = e->older;
    else
        k->newest = e->older;
}

static void list(tine__keys *k, tine__key *e)
{
    e->newer = NULL;
    e->older = k->newest;
    if (k->newest)
        k->newest->newer = e;
    else
        k->oldest = e;
    k->newest = e;
}

/* Forgets the key used longest ago, if it has no open jobs; else it counts as used now. */
static void forget_one(tine__keys *k)
{
    tine__key *e = k->oldest;
    unlist(k, e);
    if (e->open) {
        list(k, e);
        return;
    }
    tine__keys_bind(e, NULL);
    tine__key **link = slot_of(k, e->key);
    while (*link != e)
        link = &(*link)->next;
    *link = e->next;
    k->n--;
    tine__prioq_free(&e->parked);
    free(e);
}

/* Slower without memory, not wrong. */
static void grow(tine__keys *k)
{
    size_t nslots = k->nslots * 2;
    tine__key **slots = calloc(nslots, sizeof *slots);
    if (!slots)
        return;
    free(k->slots);
    k->slots = slots;
    k->nslots = nslots;
    for (tine__key *e = k->oldest; e; e = e->newer) {
        tine__key **slot = slot_of(k, e->key);
        e->next = *slot;
        *slot = e;
    }
}

tine__key *tine__keys_get(tine__keys *k, uint64_t key)
{
    tine__key *e = tine__keys_find(k, key);
    if (e) {
        unlist(k, e);
        list(k, e);
        return e;
    }
    e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    for (int i = 0; i < 2 && k->n >= TINE__SCHED_KEYS; i++)
        forget_one(k); /* two, so that there are no more for ever than once were open */
    e->key = key;
    tine__parked_init(&e->parked);
    tine__key **slot = slot_of(k, key);
    e->next = *slot;
    *slot = e;
    list(k, e);
    if (++k->n > k->nslots)
        grow(k);
    return e;
}

void tine__keys_bind(tine__key *e, tine__sched_worker *w)
{
    if (e->worker) {
        tine__key *first = e->worker->p.keys;
        if (first == e)
            e->worker->p.keys = e->next_of_worker;
        else
            e->prev_of_worker->next_of_worker = e->next_of_worker;
        if (e->next_of_worker)
            e->next_of_worker->prev_of_worker = e->prev_of_worker;
    }
    e->worker = w;
    e->prev_of_worker = e->next_of_worker = NULL;
    if (!w)
        return;
    e->next_of_worker = w->p.keys;
    if (e->next_of_worker)
        e->next_of_worker->prev_of_worker = e;
    w->p.keys = e;
}
