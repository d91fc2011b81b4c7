/* The memory of an encoder, and its record of what has been written.
 *
 * Memory comes straight from the state's allocator (see lua_format_encode.c for why), and
 * belongs to a userdata that stays in the registry for the next encoding. */
#include "lua_format_priv.h"

#include <string.h>

#include <lauxlib.h>

enum {
    MIN_MARKS = 64,     /* cleared for every encoding, so small */
    MAX_STRINGS = 1024, /* slots for short strings; should stay in the cache */
    KEEP_BYTES = 65536,
    KEEP_FRAMES = 256,
    KEEP_MARKS = 256,
};

static const char encoder_key;

static void *resize(struct plain_encoder *e, void *p, size_t old, size_t size)
{
    void *q = e->alloc(e->alloc_arg, p, old, size);

    if (q == NULL && size > 0) {
        lua_pushliteral(e->L, "not enough memory");
        lua_error(e->L);
    }
    return q;
}

static void free_marks(struct plain_encoder *e, struct plain_marks *m)
{
    resize(e, m->slots, m->size * sizeof *m->slots, 0);
    memset(m, 0, sizeof *m);
}

/* Gives up what is larger than the next encoding is likely to need. */
static void trim(struct plain_encoder *e, int keep)
{
    if (!keep || e->cap > KEEP_BYTES) {
        resize(e, e->buf, e->cap, 0);
        e->buf = NULL;
        e->cap = 0;
    }
    if (!keep || e->max_frames > KEEP_FRAMES) {
        resize(e, e->frames, (size_t)e->max_frames * sizeof *e->frames, 0);
        e->frames = NULL;
        e->max_frames = 0;
    }
    if (!keep || e->seen.size > KEEP_MARKS)
        free_marks(e, &e->seen);
    if (!keep || e->strings.size > KEEP_MARKS)
        free_marks(e, &e->strings);
}

static int encoder_gc(lua_State *L)
{
    struct plain_encoder *e = lua_touserdata(L, 1);

    e->closing = 1;
    trim(e, 0);
    return 0;
}

static void clear_marks(struct plain_marks *m)
{
    if (m->used > 0)
        memset(m->slots, 0, m->size * sizeof *m->slots);
    m->used = 0;
}

static struct plain_encoder *start(struct plain_encoder *e, lua_State *L)
{
    e->busy = 1;
    e->L = L;
    e->len = 0;
    e->nframes = 0;
    e->next_id = 0;
    clear_marks(&e->seen);
    clear_marks(&e->strings);
    return e;
}

/* One that is busy was left so by a memory error, or belongs to an encoding whose last
 * allocation ran the finalizer that asks now. */
struct plain_encoder *tine__lua_push_encoder(lua_State *L)
{
    struct plain_encoder *e;
    int closing;

    lua_rawgetp(L, LUA_REGISTRYINDEX, &encoder_key);
    e = lua_touserdata(L, -1);
    if (e != NULL && !e->busy)
        return start(e, L);
    closing = e != NULL && e->closing;
    lua_pop(L, 1);
    e = lua_newuserdatauv(L, sizeof *e, 0);
    memset(e, 0, sizeof *e);
    e->closing = closing;
    e->alloc = lua_getallocf(L, &e->alloc_arg);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, encoder_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &encoder_key);
    return start(e, L);
}

void tine__lua_release(struct plain_encoder *e)
{
    trim(e, !e->closing);
    e->busy = 0;
}

int tine__lua_grow(struct plain_encoder *e, size_t n)
{
    size_t cap = e->cap < 512 ? 512 : e->cap * 2;

    if (n > UINT32_MAX - e->len)
        return 0;
    if (cap < e->len + n)
        cap = e->len + n;
    e->buf = resize(e, e->buf, e->cap, cap);
    e->cap = cap;
    return 1;
}

void tine__lua_grow_frames(struct plain_encoder *e)
{
    size_t old = (size_t)e->max_frames;
    size_t max = old == 0 ? 16 : old * 2;

    e->frames = resize(e, e->frames, old * sizeof *e->frames, max * sizeof *e->frames);
    e->max_frames = (int)max;
}

static inline size_t slot_of(const struct plain_marks *m, const void *addr)
{
    uint64_t h = (uint64_t)(uintptr_t)addr * UINT64_C(0x9e3779b97f4a7c15);

    return (size_t)(h >> 32) & (m->size - 1);
}

static void new_slots(struct plain_encoder *e, struct plain_marks *m, size_t size)
{
    struct plain_mark *slots = resize(e, NULL, 0, size * sizeof *slots);

    memset(slots, 0, size * sizeof *slots);
    m->slots = slots;
    m->size = size;
    m->used = 0;
}

static struct plain_mark *find_mark(const struct plain_marks *m, const void *addr)
{
    size_t i = slot_of(m, addr);

    while (m->slots[i].addr != NULL && m->slots[i].addr != addr)
        i = (i + 1) & (m->size - 1);
    return &m->slots[i];
}

static void grow_seen(struct plain_encoder *e)
{
    struct plain_marks old = e->seen;
    size_t i;

    new_slots(e, &e->seen, old.size == 0 ? MIN_MARKS : old.size * 2);
    for (i = 0; i < old.size; i++) {
        if (old.slots[i].addr != NULL)
            *find_mark(&e->seen, old.slots[i].addr) = old.slots[i];
    }
    e->seen.used = old.used;
    free_marks(e, &old);
}

/* Short strings have a slot of a pair, or are forgotten, which costs only bytes. A new
 * one goes to the second slot; being met again moves it to the first, where the many
 * strings that occur once do not push it out. Growing forgets the second slots. */
static void grow_strings(struct plain_encoder *e)
{
    struct plain_marks old = e->strings;
    size_t i;

    new_slots(e, &e->strings, old.size == 0 ? MIN_MARKS : old.size * 4);
    for (i = 0; i < old.size; i += 2) {
        if (old.slots[i].addr != NULL)
            e->strings.slots[slot_of(&e->strings, old.slots[i].addr) & ~(size_t)1] =
                old.slots[i];
    }
    e->strings.used = 1;
    free_marks(e, &old);
}

static void set_mark(struct plain_encoder *e, struct plain_mark *m, const void *addr)
{
    m->addr = addr;
    m->id = e->next_id++;
    m->at = (uint32_t)e->len;
}

const struct plain_mark *tine__lua_mark(struct plain_encoder *e, const void *addr)
{
    struct plain_mark *m;

    if (e->seen.used >= e->seen.size / 2)
        grow_seen(e);
    m = find_mark(&e->seen, addr);
    if (m->addr == addr)
        return m;
    e->seen.used++;
    set_mark(e, m, addr);
    return NULL;
}

const struct plain_mark *tine__lua_mark_string(struct plain_encoder *e, const char *s)
{
    struct plain_mark *m, met;

    if (e->strings.used >= e->strings.size && e->strings.size < MAX_STRINGS)
        grow_strings(e);
    m = &e->strings.slots[slot_of(&e->strings, s) & ~(size_t)1];
    if (m[0].addr == s)
        return m;
    if (m[1].addr == s) {
        met = m[1];
        m[1] = m[0];
        m[0] = met;
        return m;
    }
    e->strings.used++;
    set_mark(e, &m[1], s);
    return NULL;
}
