/* Keeping Lua's collector from writing to what is sealed: only minor collections, which
 * do not touch old objects, asked for by bytes of new memory.
 *
 * Lua 5.4 has no such setting: both of its thresholds are percentages of the whole
 * heap, and past the second it collects everything. But the state it decides by lies
 * at the same place in every 5.4: behind the allocator in global_State. From within
 * the allocator we set the debt, and the collection runs where Lua's own would, at
 * the next safe point; and we set the estimate that the heap must outgrow for a
 * major collection out of reach. The place is checked against what Lua's API says.
 * Where that fails, percentages must do. */
#include <lauxlib.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "lua_layout.h"
#include "tine.h"

enum { MINOR_MIN = 4 << 20, OWN_MIN = 8 << 20, MAJOR_MIN = 64 << 20 };
/* STRING_MIN: bytes that a string takes at least. */
enum { BUCKETS_MIN = 1 << 15, STRING_MIN = 26, SOON_MIN = 64 << 10 };
static const size_t OUT_OF_REACH = (size_t)1 << 55;

typedef struct tine__accounts accounts;

static bool is_right(lua_State *L, const accounts *a)
{
    ptrdiff_t bytes =
        ((ptrdiff_t)lua_gc(L, LUA_GCCOUNT) << 10) + lua_gc(L, LUA_GCCOUNTB);
    if (a->total + a->debt != bytes || a->estimate > (size_t)bytes + MAJOR_MIN ||
        a->last_atomic || !a->strings || a->nbuckets < 128 ||
        (a->nbuckets & (a->nbuckets - 1)) || a->nstrings < 1 ||
        a->nstrings > a->nbuckets)
        return false;
    int n = a->nstrings, m = a->nbuckets;
    lua_pushliteral(L, "tine: is this in the string table?");
    lua_pop(L, 1);
    return a->nstrings == n + 1 && (a->nbuckets == m || a->nbuckets == 2 * m);
}

void tine__gc_find(lua_State *L, tine__heap *h)
{
    /* lua_State and global_State are one block, in this order, of over 1000 bytes. */
    enum { WORDS = 64 };
    lua_Alloc alloc = tine__heap_alloc;
    uintptr_t words[WORDS], wanted[2] = {0, (uintptr_t)h};
    memcpy(&wanted[0], &alloc, sizeof alloc);
    memcpy(words, L, sizeof words);
    lua_gc(L, LUA_GCSTOP);
    for (int i = 0; i < WORDS - 1; i++) {
        accounts *a = (accounts *)(void *)((uintptr_t *)(void *)L + i + 2);
        if (memcmp(&words[i], wanted, sizeof wanted) == 0 && is_right(L, a))
            h->accounts = a;
    }
    lua_gc(L, LUA_GCRESTART);
}

const void *tine__gc_strings(const tine__heap *h)
{
    return h->accounts ? h->accounts->strings : NULL;
}

/* Before anything frees strings that are sealed: Lua's count of them must not become
 * less than none. */
static void reveal_strings(tine__heap *h)
{
    if (h->accounts)
        h->accounts->nstrings += h->hidden;
    h->hidden = 0;
}

void tine__gc_table_shrinks(tine__heap *h, const void *p)
{
    if (h->hidden && p == h->accounts->strings)
        reveal_strings(h);
}

/* -------------------------------------------------------------- when to collect */

static int64_t minor_step(const tine__heap *h)
{
    return h->stats.own / 2 > MINOR_MIN ? h->stats.own / 2 : MINOR_MIN;
}

/* One more string table's doubling, which writes to each string, can perhaps be
 * spared. */
static bool is_table_filling(const tine__heap *h)
{
    const accounts *a = h->accounts;
    return a->nstrings > a->nbuckets / 8 * 7 && a->nbuckets != h->filled;
}

/* Wakes when a collection is due, and before so many strings are made as there is
 * room for. */
static void set_wake(tine__heap *h)
{
    const accounts *a = h->accounts;
    int64_t room = (int64_t)(a->nbuckets - a->nstrings) * STRING_MIN;
    int64_t soon = h->stats.own + (room > SOON_MIN ? room : SOON_MIN);
    h->wake = h->starved ? INT64_MIN : soon < h->due ? soon : h->due;
}

/* Garbage among what has become old since the last. To collect what is the process's own costs
 * little. Where that is impossible, a major collection copies all that is shared, and so must have
 * as much to win. */
static int64_t full_at(const tine__heap *h)
{
    return h->own.state >= TINE__PRIVATE_GC_IDLE
               ? 2 * h->after_full + OWN_MIN
               : 2 * h->after_full + h->stats.shared + MAJOR_MIN;
}

/* Has Lua believe that it owes so much work. */
static void owe(accounts *a, ptrdiff_t debt)
{
    if (a->debt < debt) {
        a->total += a->debt - debt;
        a->debt = debt;
    }
}

static void ask(tine__heap *h)
{
    accounts *a = h->accounts;
    h->asked = true;
    h->asked_major = h->own.state < TINE__PRIVATE_GC_IDLE &&
                     (h->starved || h->stats.own > full_at(h));
    if (h->asked_major)
        reveal_strings(h);
    a->estimate = h->asked_major ? 0 : OUT_OF_REACH;
    a->last_atomic = 0;
    owe(a, 1);
    h->wake = INT64_MIN; /* until it has been done, which is soon */
}

/* After a collection. */
static void rest(tine__heap *h)
{
    accounts *a = h->accounts;
    int64_t full = full_at(h);
    h->asked = false;
    a->estimate = OUT_OF_REACH;
    a->last_atomic = 0; /* or the next would be a major one again */
    h->filled = is_table_filling(h) ? a->nbuckets : 0;
    h->due = h->stats.own + minor_step(h);
    if (h->due > full && h->stats.own < full)
        h->due = full;
    set_wake(h);
}

/* After a collection of all that is the process's own. */
static void end_starving(tine__heap *h)
{
    enum { TURNS_MAX = 1 << 16 };
    h->starved = h->starved && h->stats.own > h->starved_own / 4 * 3 &&
                 h->starved_turns < TURNS_MAX;
    h->starved_white = h->accounts->white;
}

void tine__gc_full_done(tine__heap *h)
{
    if (h->own.state == TINE__PRIVATE_GC_LATER)
        h->own.state = TINE__PRIVATE_GC_IDLE;
    h->after_full = h->stats.own;
    end_starving(h);
    rest(h);
}

static void note_collected(tine__heap *h)
{
    h->stats.majors += h->asked_major;
    h->stats.minors += !h->asked_major;
    if (h->asked_major)
        tine__gc_full_done(h);
    else
        rest(h);
}

/* Also for the sake of the string table, but not for a few strings each time: then it may
 * double. */
static bool want_own(tine__heap *h, bool now)
{
    bool filling = is_table_filling(h);
    if (h->own.state != TINE__PRIVATE_GC_IDLE)
        return false;
    if (filling && h->stats.own < h->after_full + OWN_MIN / 4) {
        h->filled = h->accounts->nbuckets;
        filling = false;
    }
    if (h->stats.own < full_at(h) && !filling && !now)
        return false;
    h->own.state = TINE__PRIVATE_GC_WANTED;
    /* An object is made before that, or else it is asked for something else. */
    h->wake = h->stats.own + OWN_MIN;
    return true;
}

static void wake_generational(tine__heap *h, bool now)
{
    if (h->own.state == TINE__PRIVATE_GC_WANTED)
        h->own.state = TINE__PRIVATE_GC_IDLE;
    else if (!h->asked && want_own(h, now))
        return;
    if (!h->asked && h->stats.own < h->due && !is_table_filling(h) && !now)
        set_wake(h);
    else if (!h->asked)
        ask(h);
    else if (h->accounts->debt <= 0)
        note_collected(h);
}

/* ----------------------------------------------------------------- when memory has run out */

/* Lua decides when, but for that. */
static void ask_for_cycle(tine__heap *h)
{
    accounts *a = h->accounts;
    owe(a, a->total + a->debt + MINOR_MIN);
    h->asked = true;
}

static void wake_incremental(tine__heap *h, bool now)
{
    if (h->asked && h->accounts->debt > 0)
        return; /* it is still to come */
    if (h->asked)
        end_starving(h);
    h->asked = false;
    if (h->starved && now)
        ask_for_cycle(h);
    h->wake = h->starved ? INT64_MIN : INT64_MAX;
}

/* The first collections may come while what has failed still has what it had: its error is made,
 * with a traceback. So more follow, each after twice as many calls as the one before. */
static bool is_hungry(tine__heap *h)
{
    uint32_t n = h->starved && !h->asked ? ++h->starved_turns : 0;
    return n && !(n & (n - 1));
}

/* Every collection of all changes what is the current white. */
static bool is_collected_since(const tine__heap *h)
{
    return h->starved && h->accounts->white != h->starved_white;
}

bool tine__gc_starve(tine__heap *h)
{
    accounts *a = h->accounts;
    if (!a || a->nil_type)
        return false;
    bool first = !is_collected_since(h);
    h->starved = true;
    h->starved_white = a->white;
    h->starved_turns = 0;
    h->starved_own = h->stats.own;
    h->wake = INT64_MIN;
    if (a->generational)
        want_own(h, true);
    return first;
}

void tine__gc_wake(tine__heap *h)
{
    if (!h->accounts->generational) {
        wake_incremental(h, is_hungry(h));
        return;
    }
    if (is_collected_since(h))
        tine__gc_full_done(h); /* by Lua, at once */
    wake_generational(h, is_hungry(h));
}

/* In generational mode already. */
void tine__gc_arm(lua_State *L, tine__heap *h)
{
    int64_t all = h->stats.own + h->stats.shared;
    int64_t percent = (int64_t)MINOR_MIN * 100 / (all + 1);
    if (h->accounts) {
        lua_gc(L, LUA_GCGEN, 100, 100);
        tine__gc_full_done(h);
    } else {
        lua_gc(L, LUA_GCGEN,
               percent < 1     ? 1
               : percent > 100 ? 100
                               : (int)percent,
               1020);
    }
}

/* -------------------------------------------------------------- before the seal */

/* The next new string doubles the string table. */
static void grow_strings(lua_State *L, accounts *a)
{
    char name[32];
    int hidden = a->nbuckets - a->nstrings, before = a->nbuckets;
    a->nstrings = a->nbuckets;
    lua_pushlstring(L, name, (size_t)snprintf(name, sizeof name, "tine: %d", before));
    lua_pop(L, 1);
    a->nstrings -= hidden;
}

/* The end of a collection halves a table that is less than a quarter full. */
static void shrink_strings(lua_State *L, accounts *a)
{
    int hidden = a->nstrings;
    a->nstrings = 0;
    lua_gc(L, LUA_GCSTEP, 0);
    a->nstrings += hidden;
}

/* A worker's new strings are entered at random places of the string table, and so
 * copy all of it; but its doubling writes to every string. So it is made small, one
 * to two strings to a place (with more, looking them up becomes slow), and Lua is made to
 * believe that it is a quarter full, the least that it leaves alone. */
static void size_strings(lua_State *L, accounts *a)
{
    int wanted = BUCKETS_MIN, all = a->nstrings;
    while (wanted < all / 2 && wanted < INT_MAX / 4)
        wanted *= 2;
    for (int tries = 0; a->nbuckets > wanted && tries < 24; tries++)
        shrink_strings(L, a);
    for (int tries = 0; a->nbuckets < wanted && tries < 24; tries++)
        grow_strings(L, a);
}

static void hide_strings(tine__heap *h)
{
    accounts *a = h->accounts;
    int excess = a->nstrings - a->nbuckets / 4;
    if (excess > 0) {
        h->hidden += excess;
        a->nstrings -= excess;
    }
}

/* Makes the table's hash part anew, somewhere else, by filling it up. */
static void move_table(lua_State *L, tine__heap *h)
{
    static char keys[1 << 16];
    unsigned before = h->foreign_blocks;
    int n = 0;
    if (!lua_istable(L, -1))
        return;
    while (n < (int)sizeof keys && h->foreign_blocks == before) {
        lua_pushboolean(L, 1);
        lua_rawsetp(L, -2, &keys[n++]);
    }
    while (n > 0) {
        lua_pushnil(L);
        lua_rawsetp(L, -2, &keys[--n]);
    }
}

static void move_stack(lua_State *L, tine__heap *h)
{
    unsigned before = h->foreign_blocks;
    for (int n = LUA_MINSTACK; n < 100000 && h->foreign_blocks == before; n *= 2)
        if (!lua_checkstack(L, n))
            break;
}

/* What every eval and require writes to. */
static void move_hot(lua_State *L, tine__heap *h)
{
    move_stack(L, h);
    lua_pushvalue(L, LUA_REGISTRYINDEX);
    move_table(L, h);
    lua_pushglobaltable(L);
    move_table(L, h);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    move_table(L, h);
    lua_pop(L, 3);
}

/* Makes all old, where possible without touching what is sealed. */
static void collect_all(lua_State *L, tine__heap *h)
{
    /* Where Lua's lists begin then is no thread, which will be moved. */
    lua_newtable(L);
    if (!h->stats.sealed || !tine__private_gc_collect(L, h)) {
        reveal_strings(h);
        /* Incremental first, so that the next marks all and makes all old. */
        lua_gc(L, LUA_GCINC, 0, 0, 0);
        lua_gc(L, LUA_GCGEN, 0, 0);
    }
    lua_pop(L, 1);
}

/* No step, which runs finalizers, until one is asked for. */
static void put_off(tine__heap *h)
{
    enum { FAR = 64 << 20 };
    if (!h->accounts)
        return;
    h->accounts->total += h->accounts->debt + FAR;
    h->accounts->debt = -FAR;
    h->wake = INT64_MAX; /* gc_arm sets it */
}

/* What finalizers have touched since: sealed as touched, it would be in a list that a collection
 * of our own drops. As in an emergency, so that they do not run again. */
static void finish_touched(lua_State *L, tine__heap *h)
{
    if (!h->own.fenced)
        return;
    h->accounts->emergency = 1;
    for (int i = 0; i < 3; i++)
        lua_gc(L, LUA_GCSTEP, 0); /* raises no errors */
    h->accounts->emergency = 0;
}

void tine__gc_prepare(lua_State *L, tine__heap *h)
{
    luaL_checkstack(L, 10, NULL);
    collect_all(L, h);
    if (h->stats.own < h->kept + TINE__SEAL_WORTH)
        return;
    if (h->accounts && !h->stats.sealed)
        size_strings(L, h->accounts);
    put_off(h);
    h->hot = true;
    tine__private_gc_fence(L, h);
    move_hot(L, h);
    h->hot = false;
    /* What is new is old after two more, and what was touched is forgotten after
     * three. */
    for (int i = 0; i < 3; i++)
        lua_gc(L, LUA_GCSTEP, 0);
    tine__pretouch(L, h);
    finish_touched(L, h);
    if (h->accounts)
        hide_strings(h);
}

/* ------------------------------------------------------------- for Lua programs */

static int collect_full(lua_State *L, tine__heap *h)
{
    enum { BY_ITSELF = 1 << 1 };
    if (h->accounts && h->accounts->stopped & BY_ITSELF)
        return -1; /* in a finalizer nothing is collected */
    reveal_strings(h);
    int result = lua_gc(L, LUA_GCCOLLECT);
    h->stats.majors++;
    h->own.state =
        TINE__PRIVATE_GC_NEVER; /* all is copied: each object would be a root */
    tine__gc_arm(L, h);
    return result;
}

static int collect(lua_State *L, tine__heap *h)
{
    static const char *const kinds[] = {"minor", "own", "full", NULL};
    int kind = luaL_checkoption(L, 2, "minor", kinds), result = 0;
    if (kind == 0 && h->starved)
        kind = 1;
    if (kind == 2)
        result = collect_full(L, h);
    else if (kind == 0 || !tine__private_gc_collect(L, h))
        result = lua_gc(L, LUA_GCSTEP, 0);
    if (result == -1) { /* in a finalizer */
        luaL_pushfail(L);
        return 1;
    }
    /* One more soon would make old, and so keep, what is in use only now. */
    if (kind == 0 && h->accounts)
        rest(h);
    lua_pushinteger(L, 0);
    return 1;
}

static int relieve(lua_State *L)
{
    tine__heap *h = tine__heap_of(L);
    if (!h->stats.sealed)
        lua_gc(L, LUA_GCCOLLECT);
    else if (!tine__private_gc_collect(L, h))
        collect_full(L, h);
    return 0;
}

void tine__gc_relieve(lua_State *L)
{
    tine__heap *h = tine__heap_of(L);
    if (!h || !h->starved || !lua_checkstack(L, 2))
        return;
    lua_pushcfunction(L, relieve);
    if (lua_pcall(L, 0, 0, 0) != LUA_OK)
        lua_pop(L, 1);
    h->starved = false;
}

/* The original is the upvalue: until something is sealed nothing differs. */
static int collectgarbage(lua_State *L)
{
    tine__heap *h = tine__heap_of(L);
    const char *option = luaL_optstring(L, 1, "collect");
    if (h && h->stats.sealed && strcmp(option, "collect") == 0)
        return collect(L, h);
    if (h && h->stats.sealed && strcmp(option, "count") == 0) {
        lua_pushnumber(L, (lua_Number)h->stats.own / 1024);
        lua_pushnumber(L, (lua_Number)h->stats.shared / 1024);
        return 2;
    }
    if (h && h->stats.sealed && strcmp(option, "incremental") == 0) {
        luaL_pushfail(L);
        lua_pushliteral(L, "incremental collections would copy all that is shared");
        return 2;
    }
    int n = lua_gettop(L);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, n, LUA_MULTRET);
    return lua_gettop(L);
}

static void set_number(lua_State *L, const char *name, int64_t value)
{
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, name);
}

static int heap_stats(lua_State *L)
{
    const tine__heap *h = tine__heap_of(L);
    if (!h) {
        luaL_pushfail(L);
        lua_pushliteral(L, "this process has no heap of tine's");
        return 2;
    }
    lua_newtable(L);
    set_number(L, "own", h->stats.own);
    set_number(L, "shared", h->stats.shared);
    set_number(L, "sealed", (int64_t)h->stats.sealed);
    set_number(L, "written", (int64_t)tine__heap_dirty_pages(h) * 4096);
    set_number(L, "huge", h->stats.huge);
    set_number(L, "carved", h->stats.carved);
    set_number(L, "seals", h->stats.seals);
    set_number(L, "failures", h->stats.failures);
    set_number(L, "minors", h->stats.minors);
    set_number(L, "owns", h->stats.owns);
    set_number(L, "majors", h->stats.majors);
    set_number(L, "buckets", h->accounts ? h->accounts->nbuckets : 0);
    set_number(L, "strings", h->accounts ? h->accounts->nstrings : 0);
    lua_pushboolean(L, h->accounts != NULL);
    lua_setfield(L, -2, "exact");
    if (h->stats.failed) {
        lua_pushfstring(L, "%s: %s", h->stats.failed, tine_strerror(h->stats.error));
        lua_setfield(L, -2, "failed");
    }
    return 1;
}

void tine__gc_open(lua_State *L)
{
    lua_pushcfunction(L, heap_stats);
    lua_setfield(L, -2, "heap_stats");
}

void tine__gc_take_over(lua_State *L)
{
    lua_getglobal(L, "collectgarbage");
    lua_pushcclosure(L, collectgarbage, 1);
    lua_setglobal(L, "collectgarbage");
}
