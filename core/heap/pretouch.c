/* Looking writes, too: `#` and ipairs note where a list ends, the first use of a long string as a
 * key its hash, a first look for a metamethod that it is absent. All that is done for what is
 * about to be sealed, so that workers copy nothing for it. */
#include <lauxlib.h>
#include <string.h>

#include "lua_layout.h"

typedef tine__object object;
typedef tine__table table;

enum { NOT_REAL = 1 << 7, EVENTS = 6, LONG_MAX_HASHED = 4096 };

typedef struct pretouching {
    lua_State *L;
    const tine__heap *heap;
    table *scratch;    /* for objects on their way to the stack */
    int at;            /* its index; a table for look-ups follows */
    object *seen[256]; /* metatables */
} pretouching;

/* ---------------------------------------------------------------------- list ends */

static bool is_power(uint32_t n)
{
    return !(n & (n - 1));
}

static uint32_t real_size(const table *t)
{
    uint32_t size = t->size_of_array;
    if (!(t->flags & NOT_REAL) || is_power(size))
        return size;
    while (!is_power(size))
        size &= size - 1;
    return size * 2;
}

static bool is_empty(const table *t, uint32_t i)
{
    return !(t->u.array[i].type & 0xf);
}

/* A list without holes that has room left is made to end where it does. Its array stays as
 * large as it is: it is freed or moved by what is said of it now. */
static void trim(const tine__heap *h, table *t)
{
    uint32_t size = real_size(t), last = size;
    if (size < 3 || !tine__arena_has(&h->arena, t->u.array))
        return;
    if (!(t->flags & NOT_REAL) && (!is_power(size) || !is_empty(t, size - 1)))
        return;
    while (last > size / 2 && is_empty(t, last - 1))
        last--;
    for (uint32_t i = 0; i < last; i++)
        if (is_empty(t, i))
            return;
    if (last <= size / 2)
        return;
    t->size_of_array = last;
    t->flags &= (uint8_t)~NOT_REAL;
}

/* ------------------------------------------------------------- strings, metatables */

static void push(const pretouching *s, object *o)
{
    tine__value *slot = s->scratch->u.array, before = *slot;
    *slot = (tine__value){o, o->type | TINE__COLLECTABLE};
    lua_rawgeti(s->L, s->at, 1);
    *slot = before;
}

static void hash(const pretouching *s, object *o)
{
    push(s, o);
    lua_rawget(s->L, s->at + 1);
    lua_pop(s->L, 1);
}

static void note_absent(pretouching *s, object *o)
{
    /* In the order of the flags' bits. */
    static const char *const events[EVENTS] = {"__index", "__newindex", "__gc",
                                               "__mode",  "__len",      "__eq"};
    table *t = (table *)(void *)o;
    object **place = &s->seen[(uintptr_t)o / sizeof *t % 256];
    if (*place == o)
        return;
    *place = o;
    push(s, o);
    for (int i = 0; i < EVENTS; i++) {
        lua_pushstring(s->L, events[i]);
        if (lua_rawget(s->L, -2) == LUA_TNIL)
            t->flags |= (uint8_t)(1 << i);
        lua_pop(s->L, 1);
    }
    lua_pop(s->L, 1);
}

/* -------------------------------------------------------------------------- objects */

static bool is_sealed(const tine__heap *h, const object *o)
{
    return tine__arena_has(&h->arena, o) && tine__arena_run(&h->arena, o)->sealed;
}

static void pretouch(pretouching *s, object *o)
{
    table *t = (table *)(void *)o;
    if (o->type == LUA_TTABLE) {
        trim(s->heap, t);
        if (t->metatable && !is_sealed(s->heap, t->metatable))
            note_absent(s, t->metatable);
    } else if (o->type == TINE__LONG_STRING && !t->flags &&
               t->u.length <= LONG_MAX_HASHED) {
        hash(s, o);
    }
}

/* On the stack are the two tables of a pretouching. */
static bool is_right(const pretouching *s)
{
    enum { LEN = 60 };
    char text[LEN];
    lua_State *L = s->L;
    memset(text, 'x', sizeof text);
    lua_pushlstring(L, text, sizeof text);
    const table *t = lua_topointer(L, -1), *m = lua_topointer(L, s->at);
    bool good = t->type == TINE__LONG_STRING && t->u.length == LEN && !t->flags;
    lua_rawget(L, s->at + 1);
    good = good && t->flags == 1;
    lua_pushvalue(L, s->at);
    lua_setmetatable(L, s->at + 1);
    t = lua_topointer(L, s->at + 1);
    good = good && t->metatable == (const object *)(const void *)m;
    lua_pushnil(L);
    lua_setmetatable(L, s->at + 1);
    lua_pop(L, 1);
    return good && m->size_of_array == 1 && m->u.array[0].type == TINE__INTEGER;
}

void tine__pretouch(lua_State *L, const tine__heap *h)
{
    if (!h->own.fenced)
        return;
    luaL_checkstack(L, 10, NULL);
    lua_createtable(L, 1, 0);
    lua_pushinteger(L, 1);
    lua_rawseti(L, -2, 1);
    lua_newtable(L);
    pretouching s = {.L = L, .heap = h, .at = lua_gettop(L) - 1};
    s.scratch = (table *)(uintptr_t)lua_topointer(L, s.at);
    if (is_right(&s))
        for (object *o = h->own.stop[0]->next; o && o != h->own.until; o = o->next)
            pretouch(&s, o);
    lua_pop(L, 2);
}
