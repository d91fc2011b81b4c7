/* The bytes that lua_format_priv.h describes to Lua values. Depth costs Lua stack, not C stack.
 *
 * The bytes may be hostile, except for bytecode, which is taken only with functions.
 * No table is made larger than the bytes still to come can fill: `owed` is the least
 * number of bytes that the open tables need, and only what remains beyond it can be
 * claimed. So memory is linear in the length of the input. */
#include "lua_format.h"
#include "lua_format_priv.h"

#include <limits.h>
#include <string.h>

#include <lauxlib.h>

enum { FIRST_FRAMES = 16 };

/* What an open frame waits for. */
enum want {
    WANT_VALUE, /* of the top level */
    WANT_ITEM,
    WANT_KEY,
    WANT_PAIR_VALUE,
    WANT_UPVALUE,
    WANT_CELL_VALUE,
};

struct frame {
    int base;
    enum want want;
    lua_Integer n; /* items or upvalues so far; of the top level: values to come */
    size_t need;   /* its part of owed */
};

struct decoder {
    lua_State *L;
    const uint8_t *start, *p, *end;
    size_t owed;
    lua_Integer next_id;
    struct frame *frames; /* the first one is the top level */
    int nframes, max_frames;
    int functions;
    bind_fds *fds;
    int slot; /* stack index of the shared objects; then a userdata: the frames */
    struct frame first[FIRST_FRAMES];
};

static int fail(struct decoder *d, const char *what)
{
    lua_pushfstring(d->L, "malformed data at byte %I: %s",
                    (LUAI_UACINT)(d->p - d->start), what);
    return 0;
}

static size_t left(const struct decoder *d)
{
    return (size_t)(d->end - d->p);
}

static int get_le(struct decoder *d, int n, uint64_t *v)
{
    int i;

    if (left(d) < (size_t)n)
        return fail(d, "it ends in a number");
    *v = 0;
    for (i = 0; i < n; i++)
        *v |= (uint64_t)d->p[i] << (8 * i);
    d->p += n;
    return 1;
}

static int get_varint(struct decoder *d, uint32_t *v)
{
    uint64_t sum = 0;
    int shift;

    for (shift = 0; shift < 35 && d->p < d->end; shift += 7) {
        sum |= (uint64_t)(*d->p & 0x7f) << shift;
        if (*d->p++ < 0x80) {
            *v = (uint32_t)sum;
            return sum <= UINT32_MAX || fail(d, "a number is too large");
        }
    }
    return fail(d, d->p < d->end ? "a number is too long" : "it ends in a number");
}

/* -- shared objects, by number -- */

static void keep(struct decoder *d, lua_Integer key)
{
    if (lua_isnil(d->L, d->slot)) {
        lua_newtable(d->L);
        lua_replace(d->L, d->slot);
    }
    lua_rawseti(d->L, d->slot, key);
}

/* Numbers what is at the top of the stack. */
static void number(struct decoder *d, int shared)
{
    if (shared) {
        lua_pushvalue(d->L, -1);
        keep(d, d->next_id);
    }
    d->next_id++;
}

static int push_kept(struct decoder *d, lua_Integer key)
{
    if (lua_isnil(d->L, d->slot) || lua_rawgeti(d->L, d->slot, key) == LUA_TNIL)
        return fail(d, "a reference to nothing");
    return 1;
}

static int push_ref(struct decoder *d, uint8_t tag)
{
    uint32_t id = tag & 31;

    if (tag == TAG_REF && !get_varint(d, &id))
        return 0;
    return push_kept(d, id);
}

/* -- values: 1 with it pushed or, of a table or function, its frame; or 0 -- */

static int push_string(struct decoder *d, uint32_t len, int shared)
{
    if (len > left(d))
        return fail(d, "it ends in a string");
    lua_pushlstring(d->L, (const char *)d->p, len);
    d->p += len;
    number(d, shared);
    return 1;
}

static int push_float(struct decoder *d)
{
    uint64_t bits;
    lua_Number v;

    if (!get_le(d, 8, &bits))
        return 0;
    memcpy(&v, &bits, sizeof v);
    lua_pushnumber(d->L, v);
    return 1;
}

static int push_integer(struct decoder *d, int size)
{
    uint64_t v, sign = UINT64_C(1) << (8 * size - 1);

    if (!get_le(d, size, &v))
        return 0;
    lua_pushinteger(d->L, (lua_Integer)((v ^ sign) - sign));
    return 1;
}

/* Makes what is at the top of the stack, which must have been checked to be possible,
 * the innermost frame. */
static void push_frame(struct decoder *d, enum want want, size_t need)
{
    struct frame *f;

    if (d->nframes == d->max_frames) {
        f = lua_newuserdatauv(d->L, 2 * (size_t)d->max_frames * sizeof *f, 0);
        memcpy(f, d->frames, (size_t)d->nframes * sizeof *f);
        lua_replace(d->L, d->slot + 1);
        d->frames = f;
        d->max_frames *= 2;
    }
    f = &d->frames[d->nframes++];
    f->base = lua_gettop(d->L);
    f->want = want;
    f->n = 0;
    f->need = need;
    d->owed += need;
}

static int can_nest(struct decoder *d)
{
    if (d->nframes <= PLAIN_MAX_DEPTH && lua_checkstack(d->L, LUA_MINSTACK))
        return 1;
    lua_pushliteral(d->L, "nested too deeply");
    return 0;
}

static size_t least_count(unsigned hint)
{
    return hint <= 1 ? hint : ((size_t)1 << (hint - 2)) + 1;
}

static int push_table(struct decoder *d, int shared)
{
    unsigned items, pairs;
    size_t need;

    if (!can_nest(d))
        return 0;
    if (left(d) == 0)
        return fail(d, "it ends in a table");
    items = *d->p & 15u;
    pairs = *d->p++ >> 4;
    need = least_count(items) + 2 * least_count(pairs);
    if (need > left(d) || d->owed > left(d) - need)
        return fail(d, "a table is larger than what is left");
    lua_createtable(d->L, (1 << items) / 2, (1 << pairs) / 2);
    number(d, shared);
    push_frame(d, items > 0 ? WANT_ITEM : WANT_KEY, need);
    return 1;
}

static int push_err(struct decoder *d, int shared)
{
    if (!push_table(d, shared))
        return 0;
    lua_pushvalue(d->L, d->frames[d->nframes - 1].base);
    luaL_setmetatable(d->L, BIND_ERROR_TYPE);
    lua_pop(d->L, 1);
    return 1;
}

struct piece {
    const char *data;
    size_t len;
};

static const char *load_piece(lua_State *L, void *arg, size_t *len)
{
    struct piece *piece = arg;

    (void)L;
    *len = piece->len;
    piece->len = 0;
    return piece->data;
}

static int push_function(struct decoder *d, int shared)
{
    struct piece piece;
    uint64_t len;
    int status;

    if (!d->functions)
        return fail(d, "a function, where only data is taken");
    if (!can_nest(d) || !get_le(d, 4, &len))
        return 0;
    if (len > left(d))
        return fail(d, "it ends in a function");
    piece.data = (const char *)d->p;
    piece.len = (size_t)len;
    status = lua_load(d->L, load_piece, &piece, "=tine", "b");
    if (status == LUA_ERRMEM)
        return lua_error(d->L);
    if (status != LUA_OK)
        return 0;
    d->p += len;
    number(d, shared);
    push_frame(d, WANT_UPVALUE, 0);
    return 1;
}

static int upvalue_count(lua_State *L, int func)
{
    lua_Debug ar;

    lua_pushvalue(L, func);
    lua_getinfo(L, ">u", &ar);
    return ar.nups;
}

/* Ends the innermost frame; its table or function is then at the top, a value. */
static int end_frame(struct decoder *d)
{
    struct frame *f = &d->frames[d->nframes - 1];

    switch (f->want) {
    case WANT_ITEM:
    case WANT_KEY:
        if (f->need > 0)
            return fail(d, "a table ends too early");
        break;
    case WANT_UPVALUE:
        if (f->n != upvalue_count(d->L, f->base))
            return fail(d, "a function lacks upvalues");
        break;
    default:
        return fail(d, "an end out of place");
    }
    d->nframes--;
    return 1;
}

static int push_globals(struct decoder *d)
{
    if (!d->functions)
        return fail(d, "the globals, where only data is taken");
    lua_rawgeti(d->L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    return 1;
}

static int push_fd(struct decoder *d, int shared)
{
    uint32_t index;

    if (!get_varint(d, &index) || !bind_fds_push(d->L, d->fds, index))
        return 0;
    number(d, shared);
    return 1;
}

static int push_value(struct decoder *d, uint8_t tag)
{
    uint32_t len;

    if (tag < TAG_STRING) {
        lua_pushinteger(d->L, tag);
        return 1;
    }
    if (tag < TAG_NIL)
        return push_string(d, tag & 31, tag >= TAG_STRING_SHARED);
    if (tag >= TAG_SHORT_REF)
        return push_ref(d, tag);
    switch (tag) {
    case TAG_NIL:
        lua_pushnil(d->L);
        return 1;
    case TAG_FALSE:
    case TAG_TRUE:
        lua_pushboolean(d->L, tag == TAG_TRUE);
        return 1;
    case TAG_FLOAT:
        return push_float(d);
    case TAG_INT8:
    case TAG_INT16:
    case TAG_INT32:
    case TAG_INT64:
        return push_integer(d, 1 << (tag - TAG_INT8));
    case TAG_LONG_STRING:
    case TAG_LONG_STRING | 1:
        return get_varint(d, &len) && push_string(d, len, tag & 1);
    case TAG_REF:
        return push_ref(d, tag);
    case TAG_FD:
    case TAG_FD | 1:
        return push_fd(d, tag & 1);
    case TAG_GLOBALS:
        return push_globals(d);
    default:
        return fail(d, "an unknown tag");
    }
}

/* -- the insides of tables and functions -- */

/* Puts the finished value at the top where it belongs. */
static int put_value(struct decoder *d)
{
    struct frame *f = &d->frames[d->nframes - 1];
    lua_State *L = d->L;

    switch (f->want) {
    case WANT_ITEM:
        lua_rawseti(L, f->base, ++f->n);
        return 1;
    case WANT_KEY:
        if (lua_isnil(L, -1))
            return fail(d, "a key is nil");
        if (lua_type(L, -1) == LUA_TNUMBER && !lua_rawequal(L, -1, -1))
            return fail(d, "a key is NaN");
        f->want = WANT_PAIR_VALUE;
        return 1;
    case WANT_PAIR_VALUE:
        lua_rawset(L, f->base);
        f->want = WANT_KEY;
        return 1;
    case WANT_CELL_VALUE:
        if (lua_setupvalue(L, f->base, (int)f->n) == NULL)
            return fail(d, "a function has not so many upvalues");
        f->want = WANT_UPVALUE;
        return 1;
    default:
        f->n--;
        return 1;
    }
}

/* A shared cell is kept under two negative keys, so that no reference to a value finds
 * it: the function that it belongs to, and the index there. */
static int start_cell(struct decoder *d, struct frame *f, int shared)
{
    if (shared) {
        lua_pushvalue(d->L, f->base);
        keep(d, -2 * d->next_id - 1);
        lua_pushinteger(d->L, f->n);
        keep(d, -2 * d->next_id - 2);
    }
    d->next_id++;
    f->want = WANT_CELL_VALUE;
    return 1;
}

static int join_cell(struct decoder *d, struct frame *f, uint8_t tag)
{
    lua_State *L = d->L;
    uint32_t id = tag & 31;
    lua_Integer key;
    int n, index;

    if (tag == TAG_REF && !get_varint(d, &id))
        return 0;
    key = -2 * (lua_Integer)id - 1;
    if (!push_kept(d, key) || !push_kept(d, key - 1))
        return 0;
    n = (int)f->n;
    index = (int)lua_tointeger(L, -1);
    if (lua_upvalueid(L, f->base, n) == NULL || lua_upvalueid(L, -2, index) == NULL)
        return fail(d, "a function has not so many upvalues");
    lua_upvaluejoin(L, f->base, n, -2, index);
    lua_pop(L, 2);
    return 1;
}

static int read_upvalue(struct decoder *d, struct frame *f, uint8_t tag)
{
    f->n++;
    if (tag == TAG_CELL || tag == (TAG_CELL | 1))
        return start_cell(d, f, tag & 1);
    if (tag == TAG_REF || tag >= TAG_SHORT_REF)
        return join_cell(d, f, tag);
    return fail(d, "not an upvalue");
}

static int read_one(struct decoder *d, uint8_t tag)
{
    struct frame *f = &d->frames[d->nframes - 1];

    if (tag == TAG_END)
        return end_frame(d) && put_value(d);
    if (f->want == WANT_UPVALUE)
        return read_upvalue(d, f, tag);
    if (tag == TAG_SEP) {
        if (f->want != WANT_ITEM)
            return fail(d, "pairs out of place");
        f->want = WANT_KEY;
        return 1;
    }
    if (f->need > 0) {
        f->need--;
        d->owed--;
    }
    if (tag == TAG_TABLE || tag == (TAG_TABLE | 1))
        return push_table(d, tag & 1);
    if (tag == TAG_ERR || tag == (TAG_ERR | 1))
        return push_err(d, tag & 1);
    if (tag == TAG_FUNCTION || tag == (TAG_FUNCTION | 1))
        return push_function(d, tag & 1);
    return push_value(d, tag) && put_value(d);
}

static int read_head(struct decoder *d, uint32_t *count)
{
    if (left(d) == 0)
        return fail(d, "it is empty");
    if (*d->p != PLAIN_VERSION) {
        lua_pushfstring(d->L, "malformed data: version %d, %d expected", (int)*d->p,
                        (int)PLAIN_VERSION);
        return 0;
    }
    d->p++;
    if (!get_varint(d, count))
        return 0;
    if (*count > left(d))
        return fail(d, "more values than what is left");
    if (*count > INT_MAX - LUA_MINSTACK ||
        !lua_checkstack(d->L, (int)*count + LUA_MINSTACK))
        return fail(d, "too many values");
    return 1;
}

static int read_all(struct decoder *d, uint32_t count)
{
    d->frames[0].want = WANT_VALUE;
    d->frames[0].n = count;
    d->frames[0].need = count;
    d->owed = count;
    d->nframes = 1;
    while (d->nframes > 1 || d->frames[0].n > 0) {
        if (d->p == d->end)
            return fail(d, "it ends too early");
        if (!read_one(d, *d->p++))
            return 0;
    }
    return d->p == d->end || fail(d, "something follows the last value");
}

int tine__lua_decode(lua_State *L, const char *data, size_t len, int functions)
{
    return tine__lua_decode_fds(L, data, len, functions, NULL);
}

int tine__lua_decode_fds(lua_State *L, const char *data, size_t len, int functions,
                         bind_fds *fds)
{
    struct decoder d;
    uint32_t count;

    luaL_checkstack(L, LUA_MINSTACK, "too many values");
    memset(&d, 0, sizeof d);
    d.L = L;
    d.start = d.p = (const uint8_t *)data;
    d.end = d.p + len;
    d.functions = functions;
    d.fds = fds;
    d.frames = d.first;
    d.max_frames = FIRST_FRAMES;
    lua_pushnil(L);
    lua_pushnil(L);
    d.slot = lua_gettop(L) - 1;
    if (!read_head(&d, &count) || !read_all(&d, count)) {
        lua_replace(L, d.slot);
        lua_settop(L, d.slot);
        return -1;
    }
    lua_rotate(L, d.slot, -2);
    lua_pop(L, 2);
    return (int)count;
}
