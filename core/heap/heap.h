/* The memory of a process's interpreter. What a template has loaded can be sealed: it
 * becomes a private mapping of a file that is never written, for which fork has no page
 * table to copy. From then on all is allocated elsewhere. heap.c allocates, seal.c
 * seals, gc.c keeps Lua's collector from writing to what is sealed.
 *
 * One interpreter, one thread: no locks. Knows nothing of templates, forks and hosts but that
 * they come and when to be ready. */
#ifndef TINE_HEAP_HEAP_H
#define TINE_HEAP_HEAP_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arena.h"

enum { TINE__SIZE_CLASSES = 51, TINE__SEAL_WORTH = 1 << 20 };
/* Sealed memory is mapped in pieces of at most PIECE units: what a fork copies page
 * tables for after a write. PIECES of them are told apart. */
enum { TINE__PIECE = 16384, TINE__PIECES = 1024 };

/* What blocks hold. Lua's objects are kept apart, so that those in a page are found, and
 * whether an address is that of one: see private_gc.c. */
typedef enum tine__holds {
    TINE__RAW, /* parts of objects: arrays, fields, stacks */
    TINE__STRINGS,
    TINE__OBJECTS, /* that refer to others */
    TINE__THREADS, /* objects, behind LUA_EXTRASPACE */
    TINE__HOLDS
} tine__holds;

typedef struct tine__heap_stats {
    int64_t own, shared; /* bytes of Lua's: in blocks of our own, in sealed ones */
    size_t sealed;       /* bytes of address space that are sealed */
    unsigned seals;      /* by us or whom we descend from */
    unsigned failures;   /* of sealing */
    int error;           /* the last failure's: a negative errno */
    const char *failed;  /* what failed then, or NULL */
    unsigned huge;       /* huge pages that were made for it */
    unsigned carved;     /* pages taken out of what is sealed, as they are written to */
    unsigned minors, owns, majors; /* collections that we have asked for */
} tine__heap_stats;

/* private_gc.c */
typedef enum tine__private_gc_state {
    TINE__PRIVATE_GC_NEVER,  /* impossible in this process, for now */
    TINE__PRIVATE_GC_LATER,  /* something was lacking: not before a collection of all */
    TINE__PRIVATE_GC_IDLE,   /* nothing is wanted */
    TINE__PRIVATE_GC_WANTED, /* as soon as an object is made */
    TINE__PRIVATE_GC_UNDER_WAY /* until that object is asked for again */
} tine__private_gc_state;

typedef struct tine__private_gc {
    tine__private_gc_state state;
    /* Of the lists of objects without and with finalizers: marks in them. Beyond `stop` is
     * what is sealed, and nothing else; up to `edge` what was made since. */
    struct tine__object *edge[2], *stop[2];
    struct tine__object
        *until; /* the `stop` before: the last of what is new beyond this one */
    struct tine__object *beyond[2]; /* what is cut off while one is under way */
    void *roots, *probes;           /* likewise: arrays of values */
    size_t nroots, room;
    size_t nsealed;      /* of roots: those that are sealed; they come first */
    uint32_t *run_of;    /* likewise: the run that each unit lies in */
    const void *strings; /* where the string table was when it was sealed */
    bool fenced; /* the marks are good: once what is beyond is sealed, it can be done */
    unsigned threads; /* in the arena, not sealed */
    unsigned astray;  /* blocks for which the arena had no room */
} tine__private_gc;

typedef struct tine__heap {
    tine__arena arena;
    /* Runs that are allocated from, never NULL, and others with room. */
    tine__run *current[TINE__HOLDS][TINE__SIZE_CLASSES];
    uint32_t partial[TINE__HOLDS][TINE__SIZE_CLASSES];
    tine__heap_stats stats;
    int64_t wake;      /* when own passes this, gc.c is called */
    int64_t kept;      /* own, after the last seal */
    int64_t next_seal; /* own below this: sealing is not worth a thought */
    bool in_cores;     /* what is sealed is dumped, too */
    bool hot; /* what is allocated now will be written: keep it out of the arena */
    int64_t foreign;         /* bytes of own that are outside */
    unsigned foreign_blocks; /* made ever */
    /* dirty_pages.c: since the last look for writes */
    bool changed;             /* the interpreter has run */
    int64_t fork_ns, look_ns; /* what forks have cost, and what the last look did */
    /* gc.c */
    struct tine__accounts *accounts; /* NULL: not found in this Lua */
    int64_t due;                     /* own, at which the next collection is */
    int64_t after_full; /* own, after the last collection of all ages, or the seal */
    int hidden;         /* strings that Lua has been made not to count */
    int filled; /* the table's size when a collection left it nearly full, or 0 */
    bool asked, asked_major;
    /* An allocation has failed, and no collection has freed much since. */
    bool starved;
    uint8_t starved_white;  /* the current one then, or after the last collection */
    uint32_t starved_turns; /* calls since */
    int64_t starved_own;    /* own then */
    tine__private_gc own;
} tine__heap;

/* Makes L, as luaL_newstate made it, allocate from a heap, unless the system refuses, or
 * TINE_HEAP=malloc is in the environment. What L has already stays where it is, so the state
 * itself is never sealed. */
void tine__heap_adopt(lua_State *L);
/* L's heap, or NULL. */
tine__heap *tine__heap_of(lua_State *L);
/* The lua_Alloc; ud is the heap. */
void *tine__heap_alloc(void *ud, void *p, size_t old, size_t size);
/* No more blocks from sealed runs. */
void tine__heap_turn_page(tine__heap *h);
/* How many bytes of a run have been in use, counted from its start; how many are. */
size_t tine__heap_extent(const tine__run *r);
int64_t tine__heap_live(const tine__run *r);
/* As memcpy, also of free blocks. */
void tine__heap_copy_raw(void *to, const void *from, size_t n);
/* What the blocks of a run hold. */
tine__holds tine__heap_holds(const tine__run *r);
/* Calls f for each block of r, a sealed run, of which some byte lies in the page. */
void tine__heap_blocks_in(const tine__heap *h, const tine__run *r, const char *page,
                          void (*f)(void *arg, char *block), void *arg);
/* Whether p is where an object or a string begins, or would, in a run that is not sealed; first: the
 * run that p lies in. */
bool tine__heap_is_block(const tine__heap *h, const tine__run *first, const char *p);
/* For tests, as a heap without an interpreter is. Returns 0 or a negative errno. */
int tine__heap_open(tine__heap *h);

/* seal.c */
/* Before a fork: seals what was loaded, if it is worth it. Runs finalizers. */
void tine__heap_seal(lua_State *L);
/* Seals all, and again what has been written to. Returns 0 or a negative errno,
 * noted in the statistics; then the rest goes on as plain memory. */
int tine__heap_seal_now(tine__heap *h);

/* dirty_pages.c */
/* Pages of sealed memory that this process has a copy of, because it has written to
 * them. */
size_t tine__heap_dirty_pages(const tine__heap *h);
/* Calls f for each of them, also for those that were carved out. Returns whether they can
 * be known. */
bool tine__heap_each_dirty_page(const tine__heap *h,
                                void (*f)(void *arg, const tine__run *r, char *page),
                                void *arg);
/* Marks the pieces that are to be sealed again. */
void tine__heap_find_dirty(const tine__heap *h, bool *dirty);
/* The interpreter has run. */
void tine__heap_changed(lua_State *L);
/* After a fork, begun at that time: sees to it that the next one is cheap. */
void tine__heap_forked(lua_State *L, int64_t began);

/* gc.c */
/* Looks for the accounts of Lua's collector. */
void tine__gc_find(lua_State *L, tine__heap *h);
/* Collects, makes all objects old, and moves what will be written out of the arena. */
void tine__gc_prepare(lua_State *L, tine__heap *h);
/* From now on only minor collections. */
void tine__gc_arm(lua_State *L, tine__heap *h);
/* Called in the allocator when own has passed wake. */
void tine__gc_wake(tine__heap *h);
/* A collection of all ages has been done; whatever wants one waits for the next. */
void tine__gc_full_done(tine__heap *h);
/* Called in the allocator when there is no memory: soon all is collected. Lua does that itself
 * only where it asks for memory itself, which buffers for strings do not, and before what
 * has failed has let go of what it had. Returns whether that is the first failure of an
 * allocation, for which Lua may try again. */
bool tine__gc_starve(tine__heap *h);
/* Between two jobs: if memory has run out in the last, what it has left is collected. */
void tine__gc_relieve(lua_State *L);
/* Called in the allocator when a block is made smaller that may be the string table:
 * a major collection has come about without us. */
void tine__gc_table_shrinks(tine__heap *h, const void *p);
/* The string table's place, or NULL. */
const void *tine__gc_strings(const tine__heap *h);
/* pretouch.c */
/* Writes now what mere looks would write later. Between the fence and the seal. */
void tine__pretouch(lua_State *L, const tine__heap *h);

/* private_gc.c */
/* Finds out whether it is possible, and puts up the first fences. */
void tine__private_gc_open(lua_State *L, tine__heap *h);
/* Before a seal: fences what there is off from what will be. Before it: all is old. */
void tine__private_gc_fence(lua_State *L, tine__heap *h);
/* After it, if all is sealed that is beyond the fence. */
void tine__private_gc_ready(lua_State *L, tine__heap *h);
/* One now. Returns whether it was possible. Runs no finalizers. */
bool tine__private_gc_collect(lua_State *L, tine__heap *h);
/* Called in the allocator before a block is made, unless the state is NEVER or IDLE; tag: what
 * Lua says it is for. Returns whether the allocation is to fail, the first time. */
bool tine__private_gc_turn(tine__heap *h, size_t tag);

/* heap_stats into the table on top. */
void tine__gc_open(lua_State *L);
/* collectgarbage as it is with a heap. */
void tine__gc_take_over(lua_State *L);

#endif
