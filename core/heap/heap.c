/* Lua's allocator. Lua tells a block's size when it frees it, but we do not need to
 * be told: the run that a block lies in knows. Blocks of a run are equal, so they
 * have no headers. What is sealed is never handed out again; to free it means
 * nothing. */
#include "heap.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

enum { TINY_MAX = 1024, BLOCK_MAX = 32768, MOVE_MIN = 16 }; /* MOVE_MIN: units */

/* A type that needs 16-byte alignment has a size that is a multiple of 16, and so
 * are all classes above such a size's own. */
static const uint16_t class_size[TINE__SIZE_CLASSES] = {
    16,    24,    32,    40,    48,    56,    64,    72,   80,   88,   96,
    104,   112,   120,   128,   144,   160,   176,   192,  208,  224,  240,
    256,   320,   384,   448,   512,   640,   768,   896,  1024, 1280, 1536,
    1792,  2048,  2560,  3072,  3584,  4096,  5120,  6144, 7168, 8192, 10240,
    12288, 14336, 16384, 20480, 24576, 28672, 32768,
};

static uint8_t tiny_class[TINY_MAX / 8 + 1];
static uint16_t class_blocks[TINE__SIZE_CLASSES]; /* blocks in a run */
static tine__run no_run = {.fresh = UINT16_MAX};  /* has no room */

static uint32_t units_of_class(unsigned c)
{
    return class_size[c] <= 2048 ? 1 : class_size[c] <= 8192 ? 2 : 4;
}

static void fill_tables(void)
{
    for (unsigned i = 0; i < TINE__SIZE_CLASSES; i++)
        class_blocks[i] =
            (uint16_t)((units_of_class(i) << TINE__UNIT_SHIFT) / class_size[i]);
    unsigned c = 0;
    for (size_t i = 0; i <= TINY_MAX / 8; i++) {
        while (class_size[c] < i * 8)
            c++;
        tiny_class[i] = (uint8_t)c;
    }
}

static unsigned class_of(size_t size)
{
    if (size <= TINY_MAX)
        return tiny_class[(size + 7) / 8];
    /* Four classes for each doubling, from 1280 on, which is number 31. */
    unsigned doubling = 63u - (unsigned)__builtin_clzl(size - 1);
    return 31 + (doubling - 10) * 4 + (unsigned)((size - 1) >> (doubling - 2) & 3);
}

static uint32_t number(const tine__heap *h, const tine__run *r)
{
    return (uint32_t)(r - h->arena.runs);
}

static char *start(const tine__heap *h, const tine__run *r)
{
    return tine__arena_at(&h->arena, number(h, r));
}

static void poison_run(const tine__heap *h, const tine__run *r)
{
    ASAN_POISON_MEMORY_REGION(start(h, r), (size_t)r->units << TINE__UNIT_SHIFT);
}

/* ------------------------------------------------------------------- what is held */

enum { HOLDS_SHIFT = 6, CLASS_MASK = 63, OBJECT_MIN = 24 };

tine__holds tine__heap_holds(const tine__run *r)
{
    return (tine__holds)(r->size_class >> HOLDS_SHIFT);
}

static unsigned class_in(const tine__run *r)
{
    return r->size_class & CLASS_MASK;
}

/* By what Lua says of a new block; numbers without a name in lua.h: upvalue, prototype. */
static inline tine__holds holds_of(size_t tag, size_t size)
{
    enum { UPVALUE = LUA_NUMTYPES, PROTOTYPE };
    static const uint8_t holds[] = {
        [LUA_TSTRING] = TINE__STRINGS,   [LUA_TTABLE] = TINE__OBJECTS,
        [LUA_TFUNCTION] = TINE__OBJECTS, [LUA_TUSERDATA] = TINE__OBJECTS,
        [LUA_TTHREAD] = TINE__THREADS,   [UPVALUE] = TINE__OBJECTS,
        [PROTOTYPE] = TINE__OBJECTS};
    return tag < sizeof holds && size >= OBJECT_MIN ? (tine__holds)holds[tag]
                                                    : TINE__RAW;
}

/* A free block must not look like an object: neither with a header at its start nor behind
 * LUA_EXTRASPACE. */
static inline void unmake_object(void *p)
{
    static const uint64_t none[2] = {0, 0};
    ASAN_UNPOISON_MEMORY_REGION(p, OBJECT_MIN);
    memcpy((char *)p + 8, none, sizeof none);
}

/* ------------------------------------------------------- blocks of size classes */

static void list_run(tine__heap *h, tine__run *r)
{
    uint32_t *list = &h->partial[tine__heap_holds(r)][class_in(r)];
    r->flag = true;
    r->prev = 0;
    r->next = *list;
    if (r->next)
        h->arena.runs[r->next].prev = number(h, r);
    *list = number(h, r);
}

static void unlist_run(tine__heap *h, tine__run *r)
{
    if (r->prev)
        h->arena.runs[r->prev].next = r->next;
    else
        h->partial[tine__heap_holds(r)][class_in(r)] = r->next;
    if (r->next)
        h->arena.runs[r->next].prev = r->prev;
}

static tine__run *new_run(tine__heap *h, unsigned c, tine__holds holds)
{
    uint32_t units = units_of_class(c), u = tine__arena_take(&h->arena, units);
    if (!u)
        return NULL;
    tine__run *r = &h->arena.runs[u];
    for (uint32_t i = 0; i < units; i++) {
        r[i].kind = TINE__RUN_NONE;
        r[i].first = u;
    }
    r->kind = TINE__RUN_BLOCKS;
    r->size_class = (uint8_t)(c | holds << HOLDS_SHIFT);
    r->free = NULL;
    r->used = r->fresh = 0;
    r->flag = true;
    poison_run(h, r);
    return r;
}

/* From the current run. NULL when that has no room. */
static inline void *take_block(tine__heap *h, unsigned c, tine__holds holds)
{
    tine__run *r = h->current[holds][c];
    void *p = r->free;
    if (p) {
        ASAN_UNPOISON_MEMORY_REGION(p, sizeof p);
        memcpy(&r->free, p, sizeof p);
    } else if (r->fresh < class_blocks[c]) {
        p = start(h, r) + (size_t)r->fresh++ * class_size[c];
    } else {
        return NULL;
    }
    r->used++;
    return p;
}

static void *take_from_next(tine__heap *h, unsigned c, tine__holds holds)
{
    tine__run *r, **current = &h->current[holds][c];
    if (h->partial[holds][c]) {
        r = &h->arena.runs[h->partial[holds][c]];
        unlist_run(h, r);
    } else if (!(r = new_run(h, c, holds))) {
        return NULL;
    }
    if (*current != &no_run)
        (*current)->flag = false;
    *current = r;
    return take_block(h, c, holds);
}

static inline void give_block(tine__heap *h, tine__run *r, void *p)
{
    tine__holds holds = tine__heap_holds(r);
    ASAN_UNPOISON_MEMORY_REGION(p, sizeof p);
    memcpy(p, &r->free, sizeof p);
    if (holds != TINE__RAW) {
        unmake_object(p);
        h->own.threads -= holds == TINE__THREADS;
    }
    r->free = p;
    r->used--;
    ASAN_POISON_MEMORY_REGION(p, class_size[class_in(r)]);
    if (!r->flag) {
        list_run(h, r);
    } else if (!r->used && r != h->current[holds][class_in(r)]) {
        unlist_run(h, r);
        tine__arena_give(&h->arena, number(h, r));
    }
}

/* ----------------------------------------------------------------- large blocks */

static uint32_t units_for(size_t size)
{
    return (uint32_t)((size + TINE__UNIT - 1) >> TINE__UNIT_SHIFT);
}

/* How much of the last unit is in use is kept where the count of blocks would be:
 * pages. */
static void set_large_size(const tine__heap *h, tine__run *r, size_t size)
{
    size_t all = (size_t)r->units << TINE__UNIT_SHIFT;
    r->fresh = (uint16_t)((all - size) >> 12);
    poison_run(h, r);
    ASAN_UNPOISON_MEMORY_REGION(start(h, r), size);
}

static void *take_large(tine__heap *h, size_t size, tine__holds holds)
{
    uint32_t u = 0;
    if (size >> TINE__UNIT_SHIFT < h->arena.limit)
        u = tine__arena_take(&h->arena, units_for(size));
    if (!u)
        return NULL;
    h->arena.runs[u].size_class = (uint8_t)(holds << HOLDS_SHIFT);
    set_large_size(h, &h->arena.runs[u], size);
    return tine__arena_at(&h->arena, u);
}

/* Of what p has been a block of `old` bytes, the contents move to a longer one. Where p is a
 * run of our own memory, its pages change their place. Returns whether there is a block
 * `to` still: mremap may unmap where it was to move to, and fail for want of room then. */
static bool move_contents(tine__heap *h, void *p, size_t old, void *to)
{
    bool ours = tine__arena_has(&h->arena, p) && tine__arena_has(&h->arena, to);
    const tine__run *r = ours ? tine__arena_run(&h->arena, p) : NULL;
    if (r && r->kind == TINE__RUN_LARGE && r->units >= MOVE_MIN && !r->sealed) {
        size_t len = (size_t)r->units << TINE__UNIT_SHIFT;
        if (mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) !=
            MAP_FAILED)
            return true;
        uint32_t u = number(h, tine__arena_run(&h->arena, to));
        if (!tine__arena_mend(&h->arena, u, r->units))
            return false;
    }
    memcpy(to, p, old);
    return true;
}

/* A larger or a smaller block in the same place, or NULL. */
static void *resize_large(tine__heap *h, tine__run *r, size_t size)
{
    if (r->sealed || size <= BLOCK_MAX || size >> TINE__UNIT_SHIFT >= h->arena.limit ||
        !tine__arena_resize(&h->arena, number(h, r), units_for(size)))
        return NULL;
    set_large_size(h, r, size);
    return start(h, r);
}

/* ------------------------------------------------------------------- any blocks */

/* As realloc. Where address space is limited, what we have free of it may be wanted. */
static void *foreign(tine__heap *h, void *p, size_t size)
{
    void *to = realloc(p, size);
    return to || !tine__arena_close_free(&h->arena) ? to : realloc(p, size);
}

static void *take_foreign(tine__heap *h, size_t size)
{
    void *p = foreign(h, NULL, size);
    if (p) {
        h->own.astray += !h->hot;
        h->foreign += (int64_t)size;
        h->foreign_blocks++;
    }
    return p;
}

static inline void *take(tine__heap *h, size_t size, tine__holds holds)
{
    void *p;
    if (h->hot) {
        p = NULL;
    } else if (size > BLOCK_MAX) {
        p = take_large(h, size, holds);
    } else {
        unsigned c = class_of(size);
        p = take_block(h, c, holds);
        if (!p)
            p = take_from_next(h, c, holds);
        if (p)
            ASAN_UNPOISON_MEMORY_REGION(p, size);
        h->own.threads += p && holds == TINE__THREADS;
    }
    return p ? p : take_foreign(h, size);
}

static inline void give(tine__heap *h, void *p, size_t size)
{
    if (!tine__arena_has(&h->arena, p)) {
        free(p);
        h->foreign -= (int64_t)size;
    } else {
        tine__run *r = tine__arena_run(&h->arena, p);
        if (r->sealed) {
            if (tine__heap_holds(r) == TINE__OBJECTS)
                unmake_object(p);
            ASAN_POISON_MEMORY_REGION(p, size);
            return;
        }
        if (r->kind == TINE__RUN_BLOCKS) {
            give_block(h, r, p);
        } else {
            poison_run(h, r);
            tine__arena_give(&h->arena, number(h, r));
        }
    }
    h->stats.own -= (int64_t)size;
}

/* To make a block smaller must not fail. */
static void *shrink_in_place(tine__heap *h, void *p, size_t old, size_t size)
{
    int64_t less = (int64_t)old - (int64_t)size;
    bool ours = tine__arena_has(&h->arena, p);
    if (ours && tine__arena_run(&h->arena, p)->sealed)
        return p;
    h->foreign -= ours ? 0 : less;
    h->stats.own -= less;
    return p;
}

static void *move(tine__heap *h, void *p, size_t old, size_t size)
{
    void *to = take(h, size, TINE__RAW); /* objects do not move */
    if (!to)
        return size <= old ? shrink_in_place(h, p, old, size) : NULL;
    if (size <= old)
        memcpy(to, p, size);
    else if (!move_contents(h, p, old, to))
        return NULL;
    h->stats.own += (int64_t)size;
    give(h, p, old);
    return to;
}

/* A small block from before the heap, such as the stack, stays out of it as it
 * grows. */
static void *resize_foreign(tine__heap *h, void *p, size_t old, size_t size)
{
    if (size > BLOCK_MAX && !h->hot)
        return move(h, p, old, size);
    void *to = foreign(h, p, size);
    if (to) {
        h->foreign_blocks++;
        h->foreign += (int64_t)size - (int64_t)old;
        h->stats.own += (int64_t)size - (int64_t)old;
    }
    return to;
}

static void *resize(tine__heap *h, void *p, size_t old, size_t size)
{
    if (!tine__arena_has(&h->arena, p))
        return resize_foreign(h, p, old, size);
    tine__run *r = tine__arena_run(&h->arena, p);
    void *to = NULL;
    if (h->hot || r->sealed)
        to = NULL;
    else if (r->kind == TINE__RUN_LARGE)
        to = resize_large(h, r, size);
    else if (size <= BLOCK_MAX && class_of(size) == class_in(r))
        to = p;
    if (!to)
        return move(h, p, old, size);
    if (r->kind == TINE__RUN_BLOCKS) {
        ASAN_POISON_MEMORY_REGION(p, class_size[class_in(r)]);
        ASAN_UNPOISON_MEMORY_REGION(p, size);
    }
    h->stats.own += (int64_t)size - (int64_t)old;
    return to;
}

static void *make(tine__heap *h, size_t tag, size_t size)
{
    bool again = h->own.state == TINE__PRIVATE_GC_UNDER_WAY;
    if (h->own.state > TINE__PRIVATE_GC_IDLE && tine__private_gc_turn(h, tag))
        return NULL; /* which has Lua collect, and ask again */
    void *p = take(h, size, holds_of(tag, size));
    if (p)
        h->stats.own += (int64_t)size;
    else if (tine__gc_starve(h) && !again && h->own.state == TINE__PRIVATE_GC_WANTED)
        tine__private_gc_turn(h, tag);
    return p;
}

void *tine__heap_alloc(void *ud, void *p, size_t old, size_t size)
{
    tine__heap *h = ud;
    if (!size) {
        if (p)
            give(h, p, old);
        return NULL;
    }
    if (!p) {
        p = make(h, old, size);
    } else {
        if (size < old)
            tine__gc_table_shrinks(h, p);
        void *to = resize(h, p, old, size);
        if (!to && p != tine__gc_strings(h)) /* Lua does without a longer table */
            tine__gc_starve(h);
        p = to;
    }
    if (p && h->stats.own > h->wake)
        tine__gc_wake(h);
    return p;
}

/* ------------------------------------------------------------------------- the heap */

static void turn_page_of(tine__heap *h, tine__run **current, uint32_t u)
{
    if ((*current)->sealed)
        *current = &no_run;
    for (uint32_t next; u; u = next) {
        next = h->arena.runs[u].next;
        if (h->arena.runs[u].sealed)
            unlist_run(h, &h->arena.runs[u]);
    }
}

void tine__heap_turn_page(tine__heap *h)
{
    for (unsigned holds = 0; holds < TINE__HOLDS; holds++)
        for (unsigned c = 0; c < TINE__SIZE_CLASSES; c++)
            turn_page_of(h, &h->current[holds][c], h->partial[holds][c]);
}

void tine__heap_blocks_in(const tine__heap *h, const tine__run *r, const char *page,
                          void (*f)(void *arg, char *block), void *arg)
{
    enum { PAGE = 4096 };
    char *begin = start(h, r);
    if (r->kind == TINE__RUN_LARGE) {
        f(arg, begin);
        return;
    }
    size_t size = class_size[class_in(r)], at = (size_t)(page - begin);
    for (size_t i = at / size; i < r->fresh && i * size < at + PAGE; i++)
        f(arg, begin + i * size);
}

bool tine__heap_is_block(const tine__heap *h, const tine__run *first, const char *p)
{
    tine__holds holds = tine__heap_holds(first);
    if (first->sealed || tine__run_is_free(first) || holds == TINE__RAW)
        return false;
    size_t at = (size_t)(p - start(h, first));
    if (holds == TINE__THREADS)
        at -= LUA_EXTRASPACE;
    if (first->kind == TINE__RUN_LARGE)
        return at == 0;
    size_t size = class_size[class_in(first)];
    return at % size == 0 && at / size < first->fresh;
}

size_t tine__heap_extent(const tine__run *r)
{
    if (tine__run_is_free(r))
        return 0;
    if (r->kind == TINE__RUN_BLOCKS)
        return (size_t)r->fresh * class_size[class_in(r)];
    return ((size_t)r->units << TINE__UNIT_SHIFT) - ((size_t)r->fresh << 12);
}

int64_t tine__heap_live(const tine__run *r)
{
    if (r->kind == TINE__RUN_BLOCKS)
        return (int64_t)r->used * class_size[class_in(r)];
    return (int64_t)tine__heap_extent(r);
}

#if defined(__SANITIZE_ADDRESS__)
__attribute__((no_sanitize_address))
#endif
void tine__heap_copy_raw(void *to, const void *from, size_t n)
{
    volatile uint64_t *t = to;
    const volatile uint64_t *f = from;
    for (size_t i = 0; i < n / sizeof *t; i++)
        t[i] = f[i];
}

int tine__heap_open(tine__heap *h)
{
    memset(h, 0, sizeof *h);
    h->wake = INT64_MAX;
    fill_tables();
    for (unsigned i = 0; i < TINE__HOLDS * TINE__SIZE_CLASSES; i++)
        h->current[i / TINE__SIZE_CLASSES][i % TINE__SIZE_CLASSES] = &no_run;
    return tine__arena_open(&h->arena);
}

tine__heap *tine__heap_of(lua_State *L)
{
    void *ud;
    return lua_getallocf(L, &ud) == tine__heap_alloc ? ud : NULL;
}

void tine__heap_adopt(lua_State *L)
{
    /* On one page: what a worker writes to is copied by pages. */
    static tine__heap heap __attribute__((aligned(4096)));
    const char *wish = getenv("TINE_HEAP");
    if ((wish && strcmp(wish, "malloc") == 0) || tine__heap_open(&heap) < 0)
        return;
    const char *in_cores = getenv("TINE_CORE_SHARED");
    heap.in_cores = in_cores && strcmp(in_cores, "1") == 0;
    heap.foreign =
        ((int64_t)lua_gc(L, LUA_GCCOUNT) << 10) + (int64_t)lua_gc(L, LUA_GCCOUNTB);
    heap.stats.own = heap.foreign;
    heap.kept = heap.stats.own;
    heap.next_seal = heap.kept + TINE__SEAL_WORTH;
    lua_setallocf(L, tine__heap_alloc, &heap);
    tine__gc_find(L, &heap);
    tine__private_gc_open(L, &heap);
    tine__gc_take_over(L);
}
