/* The address space of the heap, cut into units of 64 kB. Neighbouring
 * units are taken and given back as runs; what a run holds is the heap's business. Knows nothing
 * of blocks. */
#ifndef TINE_HEAP_ARENA_H
#define TINE_HEAP_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TINE__UNIT_SHIFT = 16, TINE__ARENA_BINS = 32 };
#define TINE__UNIT ((size_t)1 << TINE__UNIT_SHIFT)

typedef enum tine__run_kind {
    TINE__RUN_NONE, /* not the first unit of a run */
    TINE__RUN_FREE,
    TINE__RUN_CLOSED, /* free, and without address space */
    TINE__RUN_BLOCKS, /* equal blocks of a size class */
    TINE__RUN_LARGE,  /* one block */
} tine__run_kind;

/* There is one of these for each unit. That of a run's first unit describes the run. */
typedef struct tine__run {
    void *free;           /* RUN_BLOCKS: blocks given back, linked */
    uint32_t units;       /* length */
    uint32_t first;       /* in the last unit of a run, and in all of RUN_BLOCKS */
    uint32_t next, prev;  /* in a list of runs by unit; 0: none */
    uint16_t used, fresh; /* RUN_BLOCKS: blocks in use, and ever in use */
    uint8_t size_class;   /* and what the blocks hold; see heap.c */
    uint8_t kind;
    bool sealed;
    /* RUN_FREE: may have memory. RUN_BLOCKS: in the list of those with room, or the one
     * that is allocated from. */
    bool flag;
} tine__run;

typedef struct tine__arena {
    char *base; /* NULL: there is none, and nothing can be taken */
    tine__run *runs;
    /* Units: at most, ever taken, mapped. Unit 0 is unused. */
    uint32_t limit, top, open;
    uint32_t described;    /* units that `runs` is mapped for */
    uint32_t taken, stale; /* units in use; units in free runs that may have memory */
    uint32_t bins[TINE__ARENA_BINS];
} tine__arena;

/* Returns 0 or a negative errno. */
int tine__arena_open(tine__arena *a);
void tine__arena_close(tine__arena *a);
/* Returns the first of n units, or 0. The caller sets the kind. */
uint32_t tine__arena_take(tine__arena *a, uint32_t n);
void tine__arena_give(tine__arena *a, uint32_t u);
/* Changes a run's length in place if it can. */
bool tine__arena_resize(tine__arena *a, uint32_t u, uint32_t n);
/* Gives memory of free runs back to the system, until at most `keep` units may have
 * any, and the address space of long ones. */
void tine__arena_purge(tine__arena *a, uint32_t keep);
/* Gives the address space of all free runs back. Returns whether there was any. */
bool tine__arena_close_free(tine__arena *a);
/* Maps the first n units of a run again if they are no longer mapped. Returns whether they
 * are; if not, the run has been given back. */
bool tine__arena_mend(tine__arena *a, uint32_t u, uint32_t n);
/* Makes a free run one that is not handed out again. */
void tine__arena_retire(tine__arena *a, uint32_t u);

static inline char *tine__arena_at(const tine__arena *a, uint32_t u)
{
    return a->base + ((size_t)u << TINE__UNIT_SHIFT);
}

static inline bool tine__run_is_free(const tine__run *r)
{
    return r->kind == TINE__RUN_FREE || r->kind == TINE__RUN_CLOSED;
}

static inline bool tine__arena_has(const tine__arena *a, const void *p)
{
    return ((uintptr_t)p - (uintptr_t)a->base) >> TINE__UNIT_SHIFT < a->top;
}

/* The run that a block lies in: p is in a RUN_BLOCKS, or the first of a RUN_LARGE. */
static inline tine__run *tine__arena_run(const tine__arena *a, const void *p)
{
    tine__run *r = &a->runs[((uintptr_t)p - (uintptr_t)a->base) >> TINE__UNIT_SHIFT];
    return r->kind == TINE__RUN_NONE ? &a->runs[r->first] : r;
}

#endif
