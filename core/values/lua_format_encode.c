/* Lua values to the bytes that lua_format_priv.h describes. Depth costs Lua stack, not C stack.
 *
 * Between the first byte and the last nothing is allocated as a Lua object, so that no
 * step of the collector and no finalizer runs: the tables cannot change underneath, and
 * an address stays the name of one object. */
#include "lua_format.h"
#include "lua_format_priv.h"

#include <string.h>

#include <lauxlib.h>

enum {
    ROOM = 16,      /* the most bytes of a number, or of a string's head */
    SHORT_LEN = 40, /* Lua interns up to here: equal strings have one address */
};

static const char too_big[] = "the data grows beyond 4 GiB";

/* Room for n more bytes; 0 when the encoding would be too long. */
static inline int reserve(struct plain_encoder *e, size_t n)
{
    return e->cap - e->len >= n || tine__lua_grow(e, n);
}

static void put_varint(struct plain_encoder *e, uint32_t v)
{
    for (; v >= 0x80; v >>= 7)
        e->buf[e->len++] = (uint8_t)(v | 0x80);
    e->buf[e->len++] = (uint8_t)v;
}

/* Marks the first occurrence as shared, and refers to it. */
static void put_ref(struct plain_encoder *e, const struct plain_mark *m)
{
    uint8_t *tag = &e->buf[m->at];

    *tag |= *tag < TAG_NIL ? TAG_STRING ^ TAG_STRING_SHARED : 1;
    if (m->id < 32) {
        e->buf[e->len++] = (uint8_t)(TAG_SHORT_REF + m->id);
        return;
    }
    e->buf[e->len++] = TAG_REF;
    put_varint(e, m->id);
}

/* 1: a reference was written. 0: addr is new, noted, and to be written. */
static int put_seen(struct plain_encoder *e, const void *addr)
{
    const struct plain_mark *m = tine__lua_mark(e, addr);

    if (m != NULL)
        put_ref(e, m);
    return m != NULL;
}

static int put_seen_string(struct plain_encoder *e, const char *s)
{
    const struct plain_mark *m = tine__lua_mark_string(e, s);

    if (m != NULL)
        put_ref(e, m);
    return m != NULL;
}

/* -- values; each needs ROOM, and returns 0 with a message pushed when refused -- */

static void put_le(struct plain_encoder *e, uint8_t tag, uint64_t v, int n)
{
    uint8_t *p = e->buf + e->len;
    int i;

    *p++ = tag;
    for (i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * i));
    e->len += (size_t)n + 1;
}

static void put_number(struct plain_encoder *e, int idx)
{
    lua_Integer v;
    lua_Number d;
    uint64_t bits;

    if (!lua_isinteger(e->L, idx)) {
        d = lua_tonumber(e->L, idx);
        memcpy(&bits, &d, sizeof bits);
        put_le(e, TAG_FLOAT, bits, 8);
        return;
    }
    v = lua_tointeger(e->L, idx);
    if (v >= 0 && v < 0x80)
        e->buf[e->len++] = (uint8_t)v;
    else if (v >= INT8_MIN && v <= INT8_MAX)
        put_le(e, TAG_INT8, (uint64_t)v, 1);
    else if (v >= INT16_MIN && v <= INT16_MAX)
        put_le(e, TAG_INT16, (uint64_t)v, 2);
    else if (v >= INT32_MIN && v <= INT32_MAX)
        put_le(e, TAG_INT32, (uint64_t)v, 4);
    else
        put_le(e, TAG_INT64, (uint64_t)v, 8);
}

static int put_string(struct plain_encoder *e, int idx)
{
    size_t len;
    const char *s = lua_tolstring(e->L, idx, &len);

    if (len <= SHORT_LEN ? put_seen_string(e, s) : put_seen(e, s))
        return 1;
    if (len > UINT32_MAX || !reserve(e, len + ROOM))
        return tine__lua_refuse(e, too_big);
    if (len < 32) {
        e->buf[e->len++] = (uint8_t)(TAG_STRING + len);
    } else {
        e->buf[e->len++] = TAG_LONG_STRING;
        put_varint(e, (uint32_t)len);
    }
    memcpy(e->buf + e->len, s, len);
    e->len += len;
    return 1;
}

/* Starts on what is at the top of the stack. */
static int push_frame(struct plain_encoder *e, enum plain_step step, size_t head)
{
    struct plain_frame *f;

    if (e->nframes == PLAIN_MAX_DEPTH || !lua_checkstack(e->L, LUA_MINSTACK))
        return tine__lua_refuse(e, "nested too deeply");
    if (e->nframes == e->max_frames)
        tine__lua_grow_frames(e);
    f = &e->frames[e->nframes++];
    f->base = lua_gettop(e->L);
    f->step = step;
    f->head = (uint32_t)head;
    f->items = 0;
    f->pairs = 0;
    return 1;
}

/* Upvalues are plain: what a function calls a file is to be one. */
static int in_function(const struct plain_encoder *e)
{
    int i;

    for (i = 0; i < e->nframes; i++) {
        if (e->frames[i].step == STEP_UPVALUES)
            return 1;
    }
    return 0;
}

/* The value at the top, which is not plain but may have a descriptor. Objects in Lua are asked for
 * theirs between two attempts: here nothing may run. */
static int put_fd(struct plain_encoder *e)
{
    lua_State *L = e->L;
    int fd, index;

    if (e->fds == NULL || in_function(e))
        return tine__lua_refuse(e, NULL);
    fd = bind_fd_peek(L, -1);
    if (fd == -2 && e->asked) {
        lua_pushvalue(L, -1);
        if (lua_rawget(L, e->asked) == LUA_TNUMBER)
            fd = (int)lua_tointeger(L, -1);
        index = lua_isnil(L, -1);
        lua_pop(L, 1);
    } else {
        index = 1;
    }
    if (fd == -2) {
        e->retry = index && bind_fd_is_object(L, -1);
        return e->retry ? 0 : tine__lua_refuse(e, NULL);
    }
    if (fd == -1)
        return tine__lua_refuse(e, "a closed descriptor");
    if (put_seen(e, lua_topointer(L, -1))) {
        lua_pop(L, 1);
        return 1;
    }
    index = bind_fds_add(L, e->fds, fd);
    if (index < 0)
        return tine__lua_refuse(e, lua_tostring(L, -1));
    e->buf[e->len++] = TAG_FD;
    put_varint(e, (uint32_t)index);
    lua_pop(L, 1);
    return 1;
}

static int is_globals(struct plain_encoder *e, const void *addr)
{
    if (!e->functions)
        return 0;
    if (e->globals == NULL) {
        lua_rawgeti(e->L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
        e->globals = lua_topointer(e->L, -1);
        lua_pop(e->L, 1);
    }
    return addr == e->globals;
}

static int put_table(struct plain_encoder *e)
{
    lua_State *L = e->L;
    const void *addr = lua_topointer(L, -1);
    size_t head = e->len;
    int err = 0;

    if (is_globals(e, addr)) {
        e->buf[e->len++] = TAG_GLOBALS;
        lua_pop(L, 1);
        return 1;
    }
    if (lua_getmetatable(L, -1)) {
        lua_pop(L, 1);
        err = bind_is_error(L, -1);
        if (!err)
            return put_fd(e);
    }
    if (put_seen(e, addr)) {
        lua_pop(L, 1);
        return 1;
    }
    e->buf[e->len++] = err ? TAG_ERR : TAG_TABLE;
    e->buf[e->len++] = 0;
    if (!push_frame(e, STEP_ITEMS, head))
        return 0;
    lua_pushnil(L);
    return 1;
}

static int dump_piece(lua_State *L, const void *p, size_t n, void *arg)
{
    struct plain_encoder *e = arg;

    (void)L;
    if (!reserve(e, n))
        return 1;
    memcpy(e->buf + e->len, p, n);
    e->len += n;
    return 0;
}

static int put_function(struct plain_encoder *e)
{
    lua_State *L = e->L;
    size_t head = e->len, size;
    int i;

    if (!e->functions || lua_iscfunction(L, -1))
        return tine__lua_refuse(e, NULL);
    if (put_seen(e, lua_topointer(L, -1))) {
        lua_pop(L, 1);
        return 1;
    }
    put_le(e, TAG_FUNCTION, 0, 4);
    if (lua_dump(L, dump_piece, e, 0) != 0)
        return tine__lua_refuse(e, too_big);
    size = e->len - head - 5;
    for (i = 0; i < 4; i++)
        e->buf[head + 1 + (size_t)i] = (uint8_t)(size >> (8 * i));
    return push_frame(e, STEP_UPVALUES, head);
}

/* 1: written. 0: refused. -1: not a scalar. */
static inline int put_scalar(struct plain_encoder *e, int idx)
{
    if (!reserve(e, ROOM))
        return tine__lua_refuse(e, too_big);
    switch (lua_type(e->L, idx)) {
    case LUA_TNIL:
        e->buf[e->len++] = TAG_NIL;
        return 1;
    case LUA_TBOOLEAN:
        e->buf[e->len++] = lua_toboolean(e->L, idx) ? TAG_TRUE : TAG_FALSE;
        return 1;
    case LUA_TNUMBER:
        put_number(e, idx);
        return 1;
    case LUA_TSTRING:
        return put_string(e, idx);
    default:
        return -1;
    }
}

/* Takes the value at the top: writes it whole, or makes it the next frame. */
static int put_value(struct plain_encoder *e)
{
    int r = put_scalar(e, -1);

    if (r > 0)
        lua_pop(e->L, 1);
    if (r >= 0)
        return r;
    switch (lua_type(e->L, -1)) {
    case LUA_TTABLE:
        return put_table(e);
    case LUA_TFUNCTION:
        return put_function(e);
    case LUA_TUSERDATA:
        return put_fd(e);
    default:
        return tine__lua_refuse(e, NULL);
    }
}

/* -- the insides of tables and functions -- */

static uint8_t hint_of(uint32_t count)
{
    uint8_t hint = 0;

    while (hint < PLAIN_MAX_HINT && count > (UINT32_C(1) << hint) / 2)
        hint++;
    return hint;
}

static int end_frame(struct plain_encoder *e, const struct plain_frame *f)
{
    if (!reserve(e, ROOM))
        return tine__lua_refuse(e, too_big);
    e->buf[e->len++] = TAG_END;
    if (f->step != STEP_UPVALUES)
        e->buf[f->head + 1] = (uint8_t)(hint_of(f->items) | hint_of(f->pairs) << 4);
    e->nframes--;
    lua_pop(e->L, 1);
    return 1;
}

static int start_pairs(struct plain_encoder *e, struct plain_frame *f)
{
    if (!reserve(e, ROOM))
        return tine__lua_refuse(e, too_big);
    if (f->items > 0)
        e->buf[e->len++] = TAG_SEP;
    f->step = STEP_PAIRS;
    return 1;
}

/* lua_next yields the array part first and in order: while the keys are 1, 2, 3 ...
 * they need not be written. */
static int next_entry(struct plain_encoder *e, struct plain_frame *f)
{
    lua_State *L = e->L;
    int r;

    if (f->step == STEP_KEY) {
        f->step = STEP_PAIRS;
        return put_value(e);
    }
    if (!lua_next(L, f->base))
        return end_frame(e, f);
    if (f->step == STEP_ITEMS) {
        if (lua_isinteger(L, -2) && lua_tointeger(L, -2) == (lua_Integer)f->items + 1) {
            f->items++;
            return put_value(e);
        }
        if (!start_pairs(e, f))
            return 0;
    }
    f->pairs++;
    r = put_scalar(e, -2);
    if (r > 0)
        return put_value(e);
    if (r == 0)
        return 0;
    f->step = STEP_KEY;
    lua_pushvalue(L, -2);
    return put_value(e);
}

/* The cells of _ENV get addresses of their own (an id is even): such a variable means
 * the globals, whatever its value, even where a cell goes by two names. */
static int next_upvalue(struct plain_encoder *e, struct plain_frame *f)
{
    lua_State *L = e->L;
    const char *name = lua_getupvalue(L, f->base, (int)f->items + 1);
    const char *id;
    int env;

    if (name == NULL)
        return end_frame(e, f);
    if (!reserve(e, ROOM))
        return tine__lua_refuse(e, too_big);
    f->items++;
    env = strcmp(name, "_ENV") == 0;
    id = lua_upvalueid(L, f->base, (int)f->items);
    if (put_seen(e, id + env)) {
        lua_pop(L, 1);
        return 1;
    }
    e->buf[e->len++] = TAG_CELL;
    if (!env)
        return put_value(e);
    e->buf[e->len++] = TAG_GLOBALS;
    lua_pop(L, 1);
    return 1;
}

static int put_all(struct plain_encoder *e, int first, int n)
{
    struct plain_frame *f;
    int ok = 1;

    for (e->arg = 1; ok && e->arg <= n; e->arg++) {
        lua_pushvalue(e->L, first + e->arg - 1);
        ok = put_value(e);
        while (ok && e->nframes > 0) {
            f = &e->frames[e->nframes - 1];
            ok = f->step == STEP_UPVALUES ? next_upvalue(e, f) : next_entry(e, f);
        }
    }
    return ok;
}

static void put_head(struct plain_encoder *e, int n, int functions)
{
    e->functions = functions;
    e->globals = NULL;
    reserve(e, ROOM);
    e->buf[e->len++] = PLAIN_VERSION;
    put_varint(e, (uint32_t)n);
}

/* Returns -1 with an object on top that is to be asked first. */
static int encode_once(lua_State *L, int first, int n, int functions, bind_fds *fds,
                       int asked)
{
    struct plain_encoder *e;
    int ok, slot;

    luaL_checkstack(L, LUA_MINSTACK, "too many values");
    e = tine__lua_push_encoder(L);
    slot = lua_gettop(L);
    e->fds = fds;
    e->asked = asked;
    e->retry = 0;
    put_head(e, n, functions);
    ok = put_all(e, first, n);
    if (ok)
        lua_pushlstring(L, (const char *)e->buf, e->len);
    lua_replace(L, slot);
    lua_settop(L, slot);
    if (e->retry)
        ok = -1;
    tine__lua_release(e);
    return ok;
}

int tine__lua_encode_fds(lua_State *L, int first, int n, int functions, bind_fds *fds)
{
    int ok, fd, asked = 0;

    first = lua_absindex(L, first);
    while ((ok = encode_once(L, first, n, functions, fds, asked)) < 0 && fds) {
        if (!asked) {
            lua_newtable(L);
            lua_insert(L, -2);
            asked = lua_gettop(L) - 1;
        }
        fd = bind_fds_ask(L, -1);
        if (fd >= 0)
            lua_pushinteger(L, fd);
        else
            lua_pushboolean(L, 0);
        lua_rawset(L, asked);
        fds->n = 0;
    }
    if (asked)
        lua_remove(L, asked);
    return ok;
}

int tine__lua_encode(lua_State *L, int first, int n, int functions)
{
    return encode_once(L, lua_absindex(L, first), n, functions, NULL, 0);
}
