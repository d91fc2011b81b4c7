/* The memory of a process's interpreter. What a template has loaded can be sealed: it
 * becomes a private mapping of a file that is never written, for which fork has no page
 * table to copy. From then on all is allocated elsewhere. heap.c allocates, seal.c
 * seals, gc.c keeps Lua's collector from writing to what is sealed.
 *
 * One interpreter, one thread: no locks. */
#ifndef TINE_HEAP_H
#define TINE_HEAP_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arena.h"

enum { TINE__SIZE_CLASSES = 51, TINE__SEAL_WORTH = 1 << 20 };
/* Sealed memory is mapped in pieces of at most PIECE units: what a fork copies page
 * tables for after a write. PIECES of them are told apart. */
enum { TINE__PIECE = 16384, TINE__PIECES = 1024 };

typedef struct tine__heap_stats {
    int64_t own, shared; /* bytes of Lua's: in blocks of our own, in sealed ones */
    size_t sealed;       /* bytes of address space that are sealed */
    unsigned seals;      /* by us or whom we descend from */
    unsigned failures;   /* of sealing */
    int error;           /* the last failure's: a negative errno */
    const char *failed;  /* what failed then, or NULL */
    unsigned huge;       /* huge pages that were made for it */
    unsigned carved;     /* pages taken out of what is sealed, as they are written to */
    unsigned minors, majors; /* collections that we have asked for */
} tine__heap_stats;

typedef struct tine__heap {
    tine__arena arena;
    tine__run *current[TINE__SIZE_CLASSES]; /* allocated from; never NULL */
    uint32_t partial[TINE__SIZE_CLASSES];   /* others with room */
    tine__heap_stats stats;
    int64_t wake;      /* when own passes this, gc.c is called */
    int64_t kept;      /* own, after the last seal */
    int64_t next_seal; /* own below this: sealing is not worth a thought */
    bool hot; /* what is allocated now will be written: keep it out of the arena */
    int64_t foreign;         /* bytes of own that are outside */
    unsigned foreign_blocks; /* made ever */
    /* written.c: since the last look for writes */
    bool changed;             /* the interpreter has run */
    int64_t fork_ns, look_ns; /* what forks have cost, and what the last look did */
    /* gc.c */
    struct tine__accounts *accounts; /* NULL: not found in this Lua */
    int64_t due;                     /* own, at which the next collection is */
    int64_t after_major;             /* own, after the last major one */
    int hidden;                      /* strings that Lua has been made not to count */
    int filled; /* the table's size when a collection left it nearly full, or 0 */
    bool asked, asked_major;
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
/* For tests, as a heap without an interpreter is. Returns 0 or a negative errno. */
int tine__heap_open(tine__heap *h);

/* seal.c */
/* Before a fork: seals what was loaded, if it is worth it. Runs finalizers. */
void tine__heap_seal(lua_State *L);
/* Seals all, and again what has been written to. Returns 0 or a negative errno,
 * noted in the statistics; then the rest goes on as plain memory. */
int tine__heap_seal_now(tine__heap *h);

/* written.c */
/* Pages of sealed memory that this process has a copy of, because it has written to
 * them. */
size_t tine__heap_written(const tine__heap *h);
/* Marks the pieces that are to be sealed again. */
void tine__heap_find_dirty(const tine__heap *h, bool *dirty);
/* The interpreter has run. */
void tine__heap_changed(lua_State *L);
/* After a fork, begun at that time: sees to it that the next one is cheap. */
void tine__heap_forked(lua_State *L, int64_t began);
int64_t tine__heap_clock(void);

/* gc.c */
/* Looks for the accounts of Lua's collector. */
void tine__gc_find(lua_State *L, tine__heap *h);
/* Collects, makes all objects old, and moves what will be written out of the arena. */
void tine__gc_prepare(lua_State *L, tine__heap *h);
/* From now on only minor collections. */
void tine__gc_arm(lua_State *L, tine__heap *h);
/* Called in the allocator when own has passed wake. */
void tine__gc_wake(tine__heap *h);
/* Called in the allocator when a block is made smaller that may be the string table:
 * a major collection has come about without us. */
void tine__gc_table_shrinks(tine__heap *h, const void *p);
/* The string table's place, or NULL. */
const void *tine__gc_strings(const tine__heap *h);
/* Puts collectgarbage in its place, and heap_stats into the table on top. */
void tine__gc_open(lua_State *L);

#endif
