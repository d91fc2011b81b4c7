/* The keys that the scheduler remembers: a hash table, and a list by last use. Those with open
 * jobs are always kept, of the others the last TINE__SCHED_KEYS. */
#include <errno.h>
#include <stdlib.h>

#include "sched_priv.h"

enum { FIRST_SLOTS = 64 };

int tine__affinity_open(tine__affinity *k)
{
    k->slots = calloc(FIRST_SLOTS, sizeof *k->slots);
    k->nslots = FIRST_SLOTS;
    return k->slots ? 0 : -ENOMEM;
}

void tine__affinity_free(tine__affinity *k)
{
    while (k->oldest) {
        tine__affine *e = k->oldest;
        k->oldest = e->newer;
        tine__prioq_free(&e->parked);
        free(e);
    }
    free(k->slots);
}

static tine__affine **slot_of(const tine__affinity *k, uint64_t key)
{
    return &k->slots[(key ^ key >> 32) & (k->nslots - 1)];
}

tine__affine *tine__affinity_find(const tine__affinity *k, uint64_t key)
{
    tine__affine *e = *slot_of(k, key);
    while (e && e->key != key)
        e = e->next;
    return e;
}

static void unlist(tine__affinity *k, tine__affine *e)
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

static void list(tine__affinity *k, tine__affine *e)
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
static void forget_one(tine__affinity *k)
{
    tine__affine *e = k->oldest;
    unlist(k, e);
    if (e->open) {
        list(k, e);
        return;
    }
    tine__affinity_bind(e, NULL);
    tine__affine **link = slot_of(k, e->key);
    while (*link != e)
        link = &(*link)->next;
    *link = e->next;
    k->n--;
    tine__prioq_free(&e->parked);
    free(e);
}

/* Slower without memory, not wrong. */
static void grow(tine__affinity *k)
{
    size_t nslots = k->nslots * 2;
    tine__affine **slots = calloc(nslots, sizeof *slots);
    if (!slots)
        return;
    free(k->slots);
    k->slots = slots;
    k->nslots = nslots;
    for (tine__affine *e = k->oldest; e; e = e->newer) {
        tine__affine **slot = slot_of(k, e->key);
        e->next = *slot;
        *slot = e;
    }
}

tine__affine *tine__affinity_get(tine__affinity *k, uint64_t key)
{
    tine__affine *e = tine__affinity_find(k, key);
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
    tine__affine **slot = slot_of(k, key);
    e->next = *slot;
    *slot = e;
    list(k, e);
    if (++k->n > k->nslots)
        grow(k);
    return e;
}

void tine__affinity_bind(tine__affine *e, tine__sched_worker *w)
{
    if (e->worker) {
        tine__affine *first = e->worker->p.keys;
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

/* ---------------------------------------------------------------------- waiting */

int tine__sched_park(tine__sched *s, tine__affine *e, tine__sched_job *job)
{
    int err = tine__prioq_reserve(&s->parking, s->parking.n + 1);
    if (!err)
        err = tine__prioq_add(&e->parked, job);
    if (err < 0)
        return err;
    job->parked = true;
    s->nlater += e->delayed > 0;
    if (e->at_parking)
        tine__prioq_moved(&s->parking, e);
    else
        tine__prioq_add(&s->parking, e);
    return 0;
}

void tine__sched_unpark(tine__sched *s, tine__affine *e, tine__sched_job *job)
{
    tine__prioq_remove(&e->parked, job);
    job->parked = false;
    s->nlater -= e->delayed > 0;
    if (e->parked.n)
        tine__prioq_moved(&s->parking, e);
    else
        tine__prioq_remove(&s->parking, e);
}

void tine__sched_release(tine__sched *s, tine__affine *e)
{
    bool leaving = e->worker && !tine__sched_takes_jobs(e->worker);
    if (e->delayed || (leaving && e->handed))
        return;
    if (leaving)
        tine__affinity_bind(e, NULL);
    while (e->parked.n) {
        tine__sched_job *job = tine__prioq_first(&e->parked);
        tine__sched_unpark(s, e, job);
        tine__prioq_add(&s->queue, job); /* there is room since it was added */
    }
}

void tine__sched_hold_key(tine__sched *s, const tine__sched_job *job)
{
    if (!job->has_key)
        return;
    tine__affine *e = tine__affinity_find(&s->keys, job->key);
    if (e->delayed++ == 0)
        s->nlater += e->parked.n;
}

void tine__sched_let_key_go(tine__sched *s, const tine__sched_job *job)
{
    if (!job->has_key)
        return;
    tine__affine *e = tine__affinity_find(&s->keys, job->key);
    if (--e->delayed == 0) {
        s->nlater -= e->parked.n;
        tine__sched_release(s, e);
    }
}
