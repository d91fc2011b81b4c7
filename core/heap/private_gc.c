/* Collecting what is a process's own, of all ages, without a look at what is sealed.
 *
 * Lua's lists of objects begin with the newest, so what is sealed is their end (drawn at STOP). It
 * is cut off, and then Lua does a full collection: what is sealed is black and old, and so neither
 * marked nor swept. What refers from there to objects of our own lies in pages that were written
 * to since, which the kernel knows: all objects in them are made roots, and all that their parts
 * there refer to, since a value that is old is stored into a table without a mark in its head.
 *
 * A full collection that runs no code of the user's while the lists are cut is Lua's emergency
 * collection: it comes when the allocator fails, after which Lua asks the allocator again. So we
 * let it fail where an object is about to be made.
 *
 * The layout that this relies on is that of 5.4.4 to 5.4.8, and checked. */
#include <lauxlib.h>
#include <string.h>
#include <sys/mman.h>

#include "lua_layout.h"

typedef tine__object object;

/* Of an object's mark; old: an age. FINALIZED is kept. */
enum { OLD = 4, WHITE = 1 << 3, BLACK = 1 << 5, FINALIZED = 1 << 6 };
enum { PLAIN, FINALIZABLE, LISTS };
enum { PROBES = 4 };

typedef tine__value value;
/* All marks are tables; the array of the `stop` of the list without finalizers is made to hold the
 * roots. */
typedef tine__table table;

/* Marks in a list of Lua's, which begins with the newest:
 *
 *      what was made since | EDGE | between | HEAD | never sealed | STOP | sealed
 *      '--------------- a collection of ours sees this ----------------'
 *
 * HEAD and STOP, side by side, are the fence that is put up at the beginning of a list before a
 * seal; EDGE follows when the seal is done, and so what was made between the two is little. At the
 * next fence all between EDGE and STOP, which is not to be sealed, moves from there to between the new
 * HEAD and STOP:
 *
 *      HEAD | STOP | made since | EDGE | between | HEAD | never sealed | STOP | sealed
 *           ^                            '-------------+-------------'
 *           '------------------------------------------'
 *
 * Threads move there, too, and what was there before the heap is there from the start. */
enum { STOP, HEAD, EDGE, MARKS };

/* Keys of the registry, for the marks. */
static const char keys[LISTS][MARKS];

/* ------------------------------------------------------------------------- fences */

/* Of the state that is being closed: Lua frees the list up to the main thread, which it takes for
 * the last. */
static void put_main_last(lua_State *L, const tine__private_gc *own)
{
    object *before = own->edge[PLAIN], *last = before;
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    object *main = (object *)(void *)lua_tothread(L, -1);
    lua_pop(L, 1);
    while (before && before->next != main)
        before = before->next;
    while (last && last->next)
        last = last->next;
    if (!before || last == main)
        return;
    before->next = main->next;
    last->next = main;
    main->next = NULL;
}

/* What stands in a list is finalized at the very end only, or when it stands beyond a fence
 * and nobody cares. */
static int on_close(lua_State *L)
{
    enum { CLOSING = 1 << 2 };
    tine__heap *h = tine__heap_of(L);
    if (h && h->accounts->stopped & CLOSING && h->own.edge[PLAIN]) {
        put_main_last(L, &h->own);
        h->own.state = TINE__PRIVATE_GC_NEVER;
        h->own.edge[PLAIN] = NULL;
    }
    return 0;
}

static object *make_mark(lua_State *L, int list, int which)
{
    lua_createtable(L, PROBES, 0);
    for (int i = 1; i <= PROBES; i++) {
        lua_pushinteger(L, i);
        lua_rawseti(L, -2, i);
    }
    object *o = (object *)(uintptr_t)lua_topointer(L, -1);
    if (list == FINALIZABLE) {
        lua_createtable(L, 0, 1);
        lua_pushcfunction(L, on_close);
        lua_setfield(L, -2, "__gc");
        lua_setmetatable(L, -2);
    }
    lua_rawsetp(L, LUA_REGISTRYINDEX, &keys[list][which]);
    return o;
}

/* What stands between two marks moves to behind another. */
static bool move_on(object *from, object *to, object *behind)
{
    object *first = from->next, *last = first;
    if (first == to)
        return true;
    while (last && last->next != to)
        last = last->next;
    if (!last)
        return false;
    from->next = to;
    last->next = behind->next;
    behind->next = first;
    return true;
}

/* Threads are watched by Lua at all times, and so cannot be left out. */
static bool move_threads(object *head, object *stop, const object *until)
{
    object *before = stop;
    while (before->next && before->next != until) {
        object *o = before->next;
        if (o->type != LUA_TTHREAD) {
            before = o;
            continue;
        }
        before->next = o->next;
        o->next = head->next;
        head->next = o;
    }
    return before->next == until;
}

static bool is_table(const object *o)
{
    const table *t = (const table *)o;
    if (o->type != LUA_TTABLE || t->size_of_array != PROBES || t->flags >> 7)
        return false;
    for (size_t i = 0; i < PROBES; i++)
        if ((uintptr_t)t->u.array[i].object != i + 1)
            return false;
    return true;
}

/* Puts up a fence at the beginning of the lists. Returns whether it stands where it should. */
static bool put_up(lua_State *L, object *head[LISTS], object *stop[LISTS])
{
    bool good = true;
    for (int list = LISTS; list-- > 0;) { /* those without finalizers last */
        stop[list] = make_mark(L, list, STOP);
        head[list] = make_mark(L, list, HEAD);
        good = good && is_table(stop[list]) && is_table(head[list]) &&
               head[list]->next == stop[list];
    }
    return good;
}

void tine__private_gc_fence(lua_State *L, tine__heap *h)
{
    tine__private_gc *own = &h->own;
    object *head[LISTS], *stop[LISTS], *old[LISTS], *edge[LISTS];
    memcpy(old, own->stop, sizeof old);
    memcpy(edge, own->edge, sizeof edge);
    own->state = TINE__PRIVATE_GC_NEVER;
    own->fenced = false;
    own->edge[PLAIN] = NULL; /* if an error is raised, that was the end of it */
    if (!edge[PLAIN])
        return;
    own->fenced = put_up(L, head, stop);
    if (own->fenced && own->threads)
        own->fenced = move_threads(head[PLAIN], stop[PLAIN], edge[PLAIN]);
    for (int list = 0; list < LISTS && own->fenced; list++)
        own->fenced = move_on(edge[list], old[list], head[list]);
    memcpy(own->stop, stop, sizeof stop);
    own->until = old[PLAIN];
}

void tine__private_gc_ready(lua_State *L, tine__heap *h)
{
    tine__private_gc *own = &h->own;
    object *edge[LISTS];
    if (!own->fenced || own->astray)
        return;
    own->threads = 0; /* all are sealed; not before: some may yet be freed */
    h->hot = true;
    for (int list = LISTS; list-- > 0;)
        edge[list] = make_mark(L, list, EDGE);
    h->hot = false;
    memcpy(own->edge, edge, sizeof edge);
    own->strings = tine__gc_strings(h);
    own->state = TINE__PRIVATE_GC_IDLE;
}

/* All that there is moves in front of the first fence, behind which is nothing. */
static void move_all(object *head, object *stop)
{
    object *first = stop->next, *last = first;
    if (!first)
        return;
    while (last->next)
        last = last->next;
    stop->next = NULL;
    head->next = first;
    last->next = stop;
}

static bool is_right(lua_State *L, const struct tine__accounts *a)
{
    bool good = a->registry == lua_topointer(L, LUA_REGISTRYINDEX) && !a->nil_type &&
                (a->white == WHITE || a->white == WHITE << 1) && !a->emergency &&
                !a->stopped && !a->no_emergency;
    lua_gc(L, LUA_GCSTOP);
    good = good && a->stopped;
    lua_gc(L, LUA_GCRESTART);
    good = good && !a->stopped && !a->generational;
    lua_gc(L, LUA_GCGEN, 37, 0);
    good = good && a->generational == 1 && a->state == 0 && a->minor_percent == 37;
    lua_gc(L, LUA_GCINC, 0, 0, 0);
    return good && !a->generational;
}

void tine__private_gc_open(lua_State *L, tine__heap *h)
{
    tine__private_gc *own = &h->own;
    own->state = TINE__PRIVATE_GC_NEVER;
    if (LUA_VERSION_RELEASE_NUM < 50404 || LUA_VERSION_RELEASE_NUM > 50408 ||
        !h->accounts || !is_right(L, h->accounts))
        return;
    lua_gc(L, LUA_GCCOLLECT); /* nothing is half swept */
    lua_gc(L, LUA_GCSTOP);
    if (put_up(L, own->edge, own->stop))
        for (int list = 0; list < LISTS; list++)
            move_all(own->edge[list], own->stop[list]);
    else
        own->edge[PLAIN] = NULL;
    lua_gc(L, LUA_GCRESTART);
}

/* -------------------------------------------------------------------------- roots */

/* For when there is no memory: a collection frees some. */
static struct reserve {
    value roots[1 << 14];
    uint32_t run_of[1 << 14];
} reserve;

static bool take_reserve(tine__private_gc *own)
{
    if (own->room)
        return false;
    own->roots = reserve.roots;
    own->room = sizeof reserve.roots / sizeof *reserve.roots;
    return true;
}

static bool make_room(tine__private_gc *own)
{
    enum { FIRST = 1 << 16 };
    if (own->roots == reserve.roots)
        return false;
    size_t room = own->room ? 2 * own->room : FIRST;
    void *p = own->room ? mremap(own->roots, own->room * sizeof(value),
                                 room * sizeof(value), MREMAP_MAYMOVE)
                        : mmap(NULL, room * sizeof(value), PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return take_reserve(own);
    own->roots = p;
    own->room = room;
    return true;
}

static void drop_roots(tine__private_gc *own)
{
    if (own->room && own->roots != reserve.roots)
        munmap(own->roots, own->room * sizeof(value));
    own->roots = NULL;
    own->room = own->nroots = own->nsealed = 0;
}

#if defined(__SANITIZE_ADDRESS__)
#define RAW_ACCESS __attribute__((no_sanitize_address))
#else
#define RAW_ACCESS
#endif

RAW_ACCESS static void add_root(void *arg, char *block)
{
    tine__private_gc *own = arg;
    const object *o = (const object *)(void *)block;
    if (!o->type || own->nroots == SIZE_MAX) /* free; or there is no memory any more */
        return;
    if (own->nroots == own->room && !make_room(own)) {
        own->nroots = SIZE_MAX;
        return;
    }
    ((value *)own->roots)[own->nroots++] = (value){block, o->type | TINE__COLLECTABLE};
}

/* What looks like a reference is one, or else it keeps garbage. */
RAW_ACCESS static void add_referred(tine__heap *h, const char *page)
{
    enum { PAGE = 4096 };
    const char *const *words = (const char *const *)(const void *)page;
    const tine__arena *a = &h->arena;
    for (size_t i = 0; i < PAGE / sizeof *words; i++) {
        const char *p = words[i];
        if (!tine__arena_has(a, p) || (uintptr_t)p % 8)
            continue;
        uint32_t u = (uint32_t)((size_t)(p - a->base) >> TINE__UNIT_SHIFT);
        if (tine__heap_is_block(h, &a->runs[h->own.run_of[u]], p))
            add_root(&h->own, (char *)(uintptr_t)p);
    }
}

static void add_roots(void *arg, const tine__run *r, char *page)
{
    tine__heap *h = arg;
    if (tine__heap_holds(r) == TINE__OBJECTS)
        tine__heap_blocks_in(h, r, page, add_root, &h->own);
}

/* The string table refers to all strings there are, and keeps none of them. Nor does what was
 * written to it before it was doubled, and went elsewhere. */
static void add_parts(void *arg, const tine__run *r, char *page)
{
    tine__heap *h = arg;
    const void *strings = h->own.strings;
    bool is_table = strings && tine__arena_has(&h->arena, strings) &&
                    tine__arena_run(&h->arena, strings) == r;
    if (tine__heap_holds(r) == TINE__RAW && !is_table)
        add_referred(h, page);
}

static size_t size_of_run_of(const tine__heap *h)
{
    return h->arena.top * sizeof *h->own.run_of;
}

static bool find_runs(tine__heap *h)
{
    const tine__arena *a = &h->arena;
    void *p = mmap(NULL, size_of_run_of(h), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED && size_of_run_of(h) > sizeof reserve.run_of)
        return false;
    h->own.run_of = p == MAP_FAILED ? reserve.run_of : p;
    for (uint32_t u = 1; u < a->top; u += a->runs[u].units)
        for (uint32_t i = 0; i < a->runs[u].units; i++)
            h->own.run_of[u + i] = u;
    return true;
}

static bool find_roots_in_written(tine__heap *h)
{
    tine__private_gc *own = &h->own;
    if (!find_runs(h))
        return false;
    bool good = tine__heap_each_dirty_page(h, add_roots, h);
    own->nsealed = own->nroots;
    good = good && tine__heap_each_dirty_page(h, add_parts, h);
    if (own->run_of != reserve.run_of)
        munmap(own->run_of, size_of_run_of(h));
    return good;
}

/* Sealed objects may be all that refers to what is between the marks. */
static void add_between(tine__private_gc *own, int list)
{
    for (object *o = own->edge[list]->next; o != own->stop[list]; o = o->next)
        add_root(own, (char *)o);
}

/* Those that are not sealed Lua whitens itself. */
RAW_ACCESS static void whiten(const tine__private_gc *own, uint8_t white)
{
    const value *roots = own->roots;
    for (size_t i = 0; i < own->nsealed; i++) {
        object *o = roots[i].object;
        o->marked = (uint8_t)((o->marked & FINALIZED) | white | OLD);
    }
}

/* What is cut off Lua does not sweep, and so leaves weak tables as they stood in its lists, gray:
 * no barrier would act for them any more. */
RAW_ACCESS static void blacken(const tine__private_gc *own)
{
    const value *roots = own->roots;
    for (size_t i = 0; i < own->nsealed; i++) {
        object *o = roots[i].object;
        if (o->type == LUA_TTABLE)
            o->marked = (uint8_t)((o->marked & FINALIZED) | BLACK | OLD);
    }
}

/* --------------------------------------------------------------------- collecting */

static bool is_quiet(const struct tine__accounts *a)
{
    return a->generational == 1 && !a->state && !a->no_emergency && !a->stopped &&
           !a->emergency && !a->nil_type;
}

static bool begin(tine__heap *h)
{
    tine__private_gc *own = &h->own;
    if (!is_quiet(h->accounts))
        return false;
    bool known = find_roots_in_written(h);
    for (int list = 0; list < LISTS; list++)
        add_between(own, list);
    if (!known || own->nroots > UINT32_MAX) {
        drop_roots(own);
        own->state = TINE__PRIVATE_GC_LATER;
        return false;
    }
    whiten(own, h->accounts->white);
    table *t = (table *)(void *)own->stop[PLAIN];
    own->probes = t->u.array;
    t->u.array = own->nroots ? own->roots : own->probes;
    t->size_of_array = (uint32_t)own->nroots;
    for (int list = 0; list < LISTS; list++) {
        own->beyond[list] = own->stop[list]->next;
        own->stop[list]->next = NULL;
    }
    own->state = TINE__PRIVATE_GC_UNDER_WAY;
    return true;
}

static void end(tine__heap *h)
{
    tine__private_gc *own = &h->own;
    table *t = (table *)(void *)own->stop[PLAIN];
    t->u.array = own->probes;
    t->size_of_array = PROBES;
    blacken(own);
    for (int list = 0; list < LISTS; list++)
        own->stop[list]->next = own->beyond[list];
    drop_roots(own);
    own->state = TINE__PRIVATE_GC_IDLE;
    h->stats.owns++;
    tine__gc_full_done(h);
}

bool tine__private_gc_turn(tine__heap *h, size_t tag)
{
    enum { PROTOTYPE = LUA_NUMTYPES + 1 };
    if (h->own.state == TINE__PRIVATE_GC_UNDER_WAY) {
        end(h);
        return false;
    }
    if (tag < LUA_TSTRING || tag > PROTOTYPE)
        return false; /* not what the emergency collection surely comes for */
    h->own.state = TINE__PRIVATE_GC_IDLE;
    bool begun = begin(h);
    if (!begun && h->starved)
        h->wake = INT64_MIN;
    return begun;
}

bool tine__private_gc_collect(lua_State *L, tine__heap *h)
{
    unsigned before = h->stats.owns;
    if (h->own.state != TINE__PRIVATE_GC_IDLE)
        return false;
    h->own.state = TINE__PRIVATE_GC_WANTED;
    lua_createtable(L, 0, 0);
    lua_pop(L, 1);
    return h->stats.owns != before;
}
