/* The serialiser "msgpack": lists of values as MessagePack arrays, by msgpack-c.
 *
 * Integers and floats stay apart. Strings that are UTF-8 are str, others bin. A table with
 * the keys 1 to n is an array, an empty one too, any other a map; metatables are not looked
 * at. msgpack-c takes nesting to a depth of 32; so do we. */
#include <math.h>
#include <msgpack.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include "codec_priv.h"
#include "fd/fd.h"
#include "lua_format.h"

enum { MAX_DEPTH = 30, EXT_FD = 102 };

typedef struct encoder {
    lua_State *L;
    tine__buf *out;
    msgpack_packer packer;
    bind_fds *fds; /* NULL: none are taken */
    int first;
    int path[MAX_DEPTH + 1]; /* stack indices of the keys on the way down */
    int depth;
    int arg;
    const char *what;
    bool no_memory;
} encoder;

static int write_bytes(void *arg, const char *data, size_t len)
{
    encoder *e = arg;
    unsigned char *to = tine__buf_room(e->out, len);
    if (!to) {
        e->no_memory = true;
        return -1;
    }
    memcpy(to, data, len);
    e->out->len += len;
    return 0;
}

/* -------------------------------------------------------------------- encoding */

static bool is_name(const char *s, size_t len)
{
    if (!len || !(s[0] == '_' || (s[0] | 32) >= 'a') || (s[0] | 32) > 'z')
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = s[i], low = (char)(c | 32);
        if (c != '_' && !(c >= '0' && c <= '9') && !(low >= 'a' && low <= 'z'))
            return false;
    }
    return true;
}

/* Pushes "PATH: why". Returns false. */
static bool refuse(encoder *e, const char *why)
{
    lua_State *L = e->L;
    luaL_Buffer b;
    lua_pushstring(L, why); /* it may lie on the stack */
    why = lua_tostring(L, -1);
    luaL_buffinit(L, &b);
    lua_pushfstring(L, "%s[%d]", e->what, e->arg);
    luaL_addvalue(&b);
    for (int i = 0; i < e->depth; i++) {
        size_t len;
        lua_pushvalue(L, e->path[i]);
        bool string = lua_type(L, -1) == LUA_TSTRING;
        const char *key = luaL_tolstring(L, -1, &len);
        lua_pushfstring(L,
                        !string             ? "[%s]"
                        : is_name(key, len) ? ".%s"
                                            : "[\"%s\"]",
                        key);
        lua_replace(L, -3);
        lua_pop(L, 1);
        luaL_addvalue(&b);
    }
    luaL_addstring(&b, ": ");
    luaL_addstring(&b, why);
    luaL_pushresult(&b);
    return false;
}

static bool refuse_type(encoder *e, int idx)
{
    lua_State *L = e->L;
    if (lua_type(L, idx) == LUA_TUSERDATA &&
        luaL_getmetafield(L, idx, "__name") == LUA_TSTRING)
        return refuse(e, lua_pushfstring(L, "a userdata (%s)", lua_tostring(L, -1)));
    if (lua_islightuserdata(L, idx) && !lua_touserdata(L, idx))
        return refuse(e, BIND_NULL_TEXT);
    if (lua_iscfunction(L, idx))
        return refuse(e, "a C function");
    return refuse(e, lua_pushfstring(L, "a %s", luaL_typename(L, idx)));
}

static bool is_utf8(const unsigned char *s, size_t len)
{
    size_t i = 0;
    while (i < len) {
        unsigned char c = s[i++];
        if (c < 0x80)
            continue;
        size_t more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
        if (c < 0xc2 || c > 0xf4 || len - i < more)
            return false;
        unsigned char next = s[i];
        if ((c == 0xe0 && next < 0xa0) || (c == 0xed && next > 0x9f) ||
            (c == 0xf0 && next < 0x90) || (c == 0xf4 && next > 0x8f))
            return false;
        for (; more > 0; more--, i++)
            if ((s[i] & 0xc0) != 0x80)
                return false;
    }
    return true;
}

static bool encode_string(encoder *e, int idx)
{
    size_t len;
    const char *s = lua_tolstring(e->L, idx, &len);
    if (len > UINT32_MAX)
        return refuse(e, "a string of more than 4 GiB");
    if (is_utf8((const unsigned char *)s, len)) {
        msgpack_pack_str(&e->packer, len);
        msgpack_pack_str_body(&e->packer, s, len);
    } else {
        msgpack_pack_bin(&e->packer, len);
        msgpack_pack_bin_body(&e->packer, s, len);
    }
    return true;
}

static bool encode_value(encoder *e, int idx);

/* The number of pairs; *array: the keys are 1 to that. */
static size_t measure(lua_State *L, int idx, bool *array)
{
    size_t n = 0;
    lua_Integer most = 0;
    *array = true;
    for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
        n++;
        if (!lua_isinteger(L, -2) || lua_tointeger(L, -2) < 1)
            *array = false;
        else if (lua_tointeger(L, -2) > most)
            most = lua_tointeger(L, -2);
    }
    *array = *array && (size_t)most == n;
    return n;
}

static bool encode_array(encoder *e, int idx, size_t n)
{
    lua_State *L = e->L;
    msgpack_pack_array(&e->packer, n);
    for (size_t i = 1; i <= n; i++) {
        lua_pushinteger(L, (lua_Integer)i);
        e->path[e->depth++] = lua_gettop(L);
        lua_rawgeti(L, idx, (lua_Integer)i);
        if (!encode_value(e, lua_gettop(L)))
            return false;
        e->depth--;
        lua_pop(L, 2);
    }
    return true;
}

static bool encode_map(encoder *e, int idx, size_t n)
{
    lua_State *L = e->L;
    msgpack_pack_map(&e->packer, n);
    for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
        int key = lua_gettop(L) - 1;
        if (lua_type(L, key) == LUA_TTABLE)
            return refuse(e, "a key that is a table");
        if (!encode_value(e, key))
            return false;
        e->path[e->depth++] = key;
        if (!encode_value(e, key + 1))
            return false;
        e->depth--;
    }
    return true;
}

static bool encode_table(encoder *e, int idx)
{
    bool array;
    lua_State *L = e->L;
    const void *address = lua_topointer(L, idx);
    if (e->depth >= MAX_DEPTH) {
        /* A cycle gets here, too: say so. */
        for (int i = e->first; i < lua_gettop(L); i++)
            if (i != idx && lua_istable(L, i) && lua_topointer(L, i) == address)
                return refuse(e, "a cycle");
        return refuse(e, "nested deeper than MessagePack is taken here (30)");
    }
    for (int i = 0; i < e->depth; i++)
        if (lua_topointer(L, e->path[i] - 1) == address &&
            lua_istable(L, e->path[i] - 1))
            return refuse(e, "a cycle");
    luaL_checkstack(L, 8, "nested too deeply");
    size_t n = measure(L, idx, &array);
    if (n > UINT32_MAX)
        return refuse(e, "a table of more than 4 G entries");
    return array ? encode_array(e, idx, n) : encode_map(e, idx, n);
}

/* 1: written, 0: refused, -1: not a descriptor. */
static int encode_fd(encoder *e, int idx)
{
    unsigned char body[4];
    if (!e->fds)
        return -1;
    int index = bind_fds_put(e->L, e->fds, idx);
    if (index == -1)
        return refuse(e, lua_tostring(e->L, -1));
    if (index < 0)
        return -1;
    for (int i = 0; i < 4; i++)
        body[i] = (unsigned char)(index >> 8 * (3 - i));
    msgpack_pack_ext(&e->packer, sizeof body, EXT_FD);
    msgpack_pack_ext_body(&e->packer, body, sizeof body);
    return 1;
}

static bool encode_value(encoder *e, int idx)
{
    int fd;
    lua_State *L = e->L;
    switch (lua_type(L, idx)) {
    case LUA_TNIL:
        msgpack_pack_nil(&e->packer);
        return true;
    case LUA_TBOOLEAN:
        if (lua_toboolean(L, idx))
            msgpack_pack_true(&e->packer);
        else
            msgpack_pack_false(&e->packer);
        return true;
    case LUA_TNUMBER:
        if (lua_isinteger(L, idx))
            msgpack_pack_int64(&e->packer, lua_tointeger(L, idx));
        else
            msgpack_pack_double(&e->packer, lua_tonumber(L, idx));
        return true;
    case LUA_TSTRING:
        return encode_string(e, idx);
    case LUA_TTABLE:
        fd = e->fds && bind_fd_is_object(L, idx) ? encode_fd(e, idx) : -1;
        return fd < 0 ? encode_table(e, idx) : fd;
    case LUA_TUSERDATA:
        fd = encode_fd(e, idx);
        return fd < 0 ? refuse_type(e, idx) : fd;
    default:
        return refuse_type(e, idx);
    }
}

int tine__msgpack_encode(tine__codec *c, lua_State *L, int first, int n,
                         const char *what, tine__buf *out)
{
    encoder e = {
        .L = L, .out = out, .fds = tine__codec_out(c), .first = first, .what = what};
    msgpack_packer_init(&e.packer, &e, write_bytes);
    luaL_checkstack(L, 8, "too many values");
    msgpack_pack_array(&e.packer, (size_t)n);
    for (int i = 0; i < n; i++) {
        e.arg = i + 1;
        if (!encode_value(&e, first + i))
            return 0;
    }
    if (e.no_memory)
        luaL_error(L, "not enough memory");
    return 1;
}

/* -------------------------------------------------------------------- decoding */

/* Pushes a descriptor; or a message, and returns it. */
static const char *push_ext(tine__codec *c, lua_State *L, const msgpack_object_ext *ext)
{
    const unsigned char *at = (const unsigned char *)ext->ptr;
    if (ext->type != EXT_FD || ext->size != 4)
        return lua_pushfstring(L, "an extension type, which Lua has no value for");
    uint32_t index = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 |
                     (uint32_t)at[2] << 8 | (uint32_t)at[3];
    return bind_fds_push(L, c->came, index) ? NULL : lua_tostring(L, -1);
}

/* Pushes a value; or a message, and returns it. */
static const char *push(tine__codec *c, lua_State *L, const msgpack_object *o)
{
    const char *problem = NULL;
    luaL_checkstack(L, 8, "nested too deeply");
    switch (o->type) {
    case MSGPACK_OBJECT_NIL:
        lua_pushnil(L);
        break;
    case MSGPACK_OBJECT_BOOLEAN:
        lua_pushboolean(L, o->via.boolean);
        break;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        if (o->via.u64 > INT64_MAX)
            return lua_pushfstring(L, "an integer above 2^63 - 1");
        lua_pushinteger(L, (lua_Integer)o->via.u64);
        break;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        lua_pushinteger(L, o->via.i64);
        break;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        lua_pushnumber(L, o->via.f64);
        break;
    case MSGPACK_OBJECT_STR:
        lua_pushlstring(L, o->via.str.ptr, o->via.str.size);
        break;
    case MSGPACK_OBJECT_BIN:
        lua_pushlstring(L, o->via.bin.ptr, o->via.bin.size);
        break;
    case MSGPACK_OBJECT_ARRAY:
        lua_newtable(L);
        for (uint32_t i = 0; i < o->via.array.size && !problem; i++) {
            problem = push(c, L, &o->via.array.ptr[i]);
            if (!problem)
                lua_rawseti(L, -2, (lua_Integer)i + 1);
        }
        break;
    case MSGPACK_OBJECT_MAP:
        lua_newtable(L);
        for (uint32_t i = 0; i < o->via.map.size && !problem; i++) {
            const msgpack_object_kv *kv = &o->via.map.ptr[i];
            bool no_key =
                kv->key.type == MSGPACK_OBJECT_NIL ||
                (kv->key.type == MSGPACK_OBJECT_FLOAT64 && isnan(kv->key.via.f64)) ||
                (kv->key.type == MSGPACK_OBJECT_FLOAT32 && isnan(kv->key.via.f64));
            if (no_key)
                return lua_pushliteral(L, "a map with a key that Lua cannot have");
            problem = push(c, L, &kv->key);
            if (!problem)
                problem = push(c, L, &kv->val);
            if (!problem)
                lua_rawset(L, -3);
        }
        break;
    case MSGPACK_OBJECT_EXT:
        return push_ext(c, L, &o->via.ext);
    default:
        return lua_pushfstring(L, "a type that Lua has no value for");
    }
    return problem;
}

int tine__msgpack_decode(tine__codec *c, lua_State *L, const void *data, size_t len)
{
    size_t offset = 0;
    if (!c->unpacked) {
        msgpack_unpacked *fresh = malloc(sizeof *fresh);
        if (!fresh)
            return luaL_error(L, "not enough memory");
        msgpack_unpacked_init(fresh);
        c->unpacked = fresh;
    }
    msgpack_unpacked *u = c->unpacked;
    msgpack_unpack_return result = msgpack_unpack_next(u, data, len, &offset);
    if (result == MSGPACK_UNPACK_NOMEM_ERROR) {
        lua_pushliteral(L, "MessagePack that is nested too deeply, or too large");
        return -1;
    }
    if (result != MSGPACK_UNPACK_SUCCESS || offset != len ||
        u->data.type != MSGPACK_OBJECT_ARRAY) {
        lua_pushliteral(L, "malformed MessagePack: one array expected");
        return -1;
    }
    for (uint32_t i = 0; i < u->data.via.array.size; i++)
        if (push(c, L, &u->data.via.array.ptr[i]))
            return -1;
    return (int)u->data.via.array.size;
}

void tine__msgpack_close(tine__codec *c)
{
    if (!c->unpacked)
        return;
    msgpack_unpacked_destroy(c->unpacked);
    free(c->unpacked);
    c->unpacked = NULL;
}
