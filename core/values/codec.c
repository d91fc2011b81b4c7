/* The serialisers of calls: what they have in common, and the two that need no library:
 * strings and plain Lua data. See codec.h. */
#include "codec.h"

#include <locale.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include "codec_priv.h"
#include "lua_format.h"

#define TYPE_NAME "tine.codec"

enum { MAX_STRING = 0xffffffff };

static const char *const names[] = {
    [TINE_STRINGS] = "string", [TINE_MSGPACK] = "msgpack", [TINE_LUA] = "lua",
    [TINE_JSON] = "json",      [TINE_SOURCE] = "source",   NULL};

unsigned char *tine__codec_room(lua_State *L, tine__buf *o, size_t n)
{
    unsigned char *to = tine__buf_room(o, n);
    if (!to)
        luaL_error(L, "not enough memory");
    return to;
}

/* -------------------------------------------------------------------- strings */

static int refuse_string(lua_State *L, int idx, int i, const char *what)
{
    lua_pushfstring(
        L,
        "%s[%d]: a %s (the serialiser \"string\" takes strings and numbers; "
        "see the option serialiser)",
        what, i, luaL_typename(L, idx));
    return 0;
}

const char *tine__codec_text(lua_State *L, int idx, size_t *len)
{
    bool fraction = lua_type(L, idx) == LUA_TNUMBER && !lua_isinteger(L, idx);
    const char *text = lua_tolstring(L, idx, len);
    const char *point = fraction ? localeconv()->decimal_point : ".";
    if (strcmp(point, ".") == 0 || !strstr(text, point))
        return text;
    luaL_gsub(L, text, point, ".");
    lua_replace(L, idx);
    return lua_tolstring(L, idx, len);
}

static int encode_strings(lua_State *L, int first, int n, const char *what,
                          tine__buf *out)
{
    for (int i = 0; i < n; i++) {
        size_t len;
        const char *s;
        int type = lua_type(L, first + i);
        if (type != LUA_TSTRING && type != LUA_TNUMBER)
            return refuse_string(L, first + i, i + 1, what);
        s = tine__codec_text(L, first + i, &len);
        if (len > MAX_STRING) {
            lua_pushfstring(L, "%s[%d]: a string of more than 4 GiB", what, i + 1);
            return 0;
        }
        unsigned char *to = tine__codec_room(L, out, 4 + len);
        to[0] = (unsigned char)len;
        to[1] = (unsigned char)(len >> 8);
        to[2] = (unsigned char)(len >> 16);
        to[3] = (unsigned char)(len >> 24);
        memcpy(to + 4, s, len);
        out->len += 4 + len;
    }
    return 1;
}

static int decode_strings(lua_State *L, const unsigned char *at, size_t len)
{
    int n = 0;
    while (len > 0) {
        size_t size = len < 4 ? 0
                              : (size_t)at[0] | (size_t)at[1] << 8 |
                                    (size_t)at[2] << 16 | (size_t)at[3] << 24;
        if (len < 4 || size > len - 4) {
            lua_pushliteral(L, "malformed strings");
            return -1;
        }
        if (n % 16 == 0)
            luaL_checkstack(L, 20, "too many values");
        lua_pushlstring(L, (const char *)at + 4, size);
        at += 4 + size;
        len -= 4 + size;
        n++;
    }
    return n;
}

/* ----------------------------------------------------------------- plain data */

/* "args[2].x: a userdata" is what the plain encoder says. */
static int rename_args(lua_State *L, const char *what)
{
    const char *message = lua_tostring(L, -1);
    if (strncmp(message, "args[", 5) == 0) {
        lua_pushfstring(L, "%s%s", what, message + 4);
        lua_remove(L, -2);
    }
    return 0;
}

void tine__codec_send_functions(tine__codec *c)
{
    c->sends_functions = 1;
}

void tine__codec_take_functions(tine__codec *c)
{
    c->takes_functions = 1;
}

static int encode_plain(tine__codec *c, lua_State *L, int first, int n,
                        const char *what, tine__buf *out)
{
    size_t len;
    luaL_checkstack(L, 8, "too many values");
    if (!tine__lua_encode_fds(L, first, n,
                              c->sends_functions ? BIND_FUNCTIONS : BIND_NO_FUNCTIONS,
                              tine__codec_out(c)))
        return rename_args(L, what);
    const char *bytes = lua_tolstring(L, -1, &len);
    memcpy(tine__codec_room(L, out, len), bytes, len);
    out->len += len;
    lua_pop(L, 1);
    return 1;
}

/* ------------------------------------------------------------------------ all */

static int codec_gc(lua_State *L)
{
    tine__codec *c = lua_touserdata(L, 1);
    tine__msgpack_close(c);
    free(c->out.fd);
    luaL_unref(L, LUA_REGISTRYINDEX, c->encode);
    luaL_unref(L, LUA_REGISTRYINDEX, c->decode);
    return 0;
}

tine__codec *tine__codec_push(lua_State *L, tine_serialiser kind, const char *source,
                              size_t len)
{
    tine__codec *c = lua_newuserdatauv(L, sizeof *c, 2);
    memset(c, 0, sizeof *c);
    c->kind = kind;
    c->encode = c->decode = LUA_NOREF;
    if (luaL_newmetatable(L, TYPE_NAME)) {
        lua_pushcfunction(L, codec_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    if (kind == TINE_JSON)
        tine__json_open(L, c);
    else if (kind == TINE_SOURCE)
        tine__source_codec_open(L, c, source, len);
    return c;
}

/* Pushes a function of the codec's Lua side. */
void tine__codec_function(lua_State *L, const tine__codec *c, int which)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, which == CODEC_ENCODE ? c->encode : c->decode);
}

int tine__codec_refuse_count(lua_State *L, const char *what, size_t n)
{
    lua_pushfstring(L, "%s: %I values, too many for a call (%d): put them into a table",
                    what, (LUAI_UACINT)n, TINE__MOST_VALUES);
    return 0;
}

int tine__codec_encode(tine__codec *c, lua_State *L, int first, int n, const char *what,
                       tine__buf *out)
{
    size_t before = out->len;
    int ok;
    c->out.n = 0;
    if (n > TINE__MOST_VALUES)
        return tine__codec_refuse_count(L, what, (size_t)n);
    switch (c->kind) {
    case TINE_STRINGS:
        ok = encode_strings(L, first, n, what, out);
        break;
    case TINE_MSGPACK:
        ok = tine__msgpack_encode(c, L, first, n, what, out);
        break;
    case TINE_LUA:
        ok = encode_plain(c, L, first, n, what, out);
        break;
    case TINE_JSON:
        ok = tine__json_encode(c, L, first, n, what, out);
        break;
    default:
        ok = tine__source_codec_encode(c, L, first, n, what, out);
        break;
    }
    if (!ok)
        out->len = before;
    return ok;
}

static int decode(tine__codec *c, lua_State *L, const void *data, size_t len)
{
    switch (c->kind) {
    case TINE_STRINGS:
        return decode_strings(L, data, len);
    case TINE_MSGPACK:
        return tine__msgpack_decode(c, L, data, len);
    case TINE_LUA:
        return tine__lua_decode_fds(L, data, len, c->takes_functions, c->came);
    case TINE_JSON:
        return tine__json_decode(c, L, data, len);
    default:
        return tine__source_codec_decode(c, L, data, len);
    }
}

int tine__codec_decode(tine__codec *c, lua_State *L, const void *data, size_t len)
{
    int top = lua_gettop(L), n = decode(c, L, data, len);
    if (n <= TINE__MOST_VALUES)
        return n;
    lua_settop(L, top);
    tine__codec_refuse_count(L, "values", (size_t)n);
    return -1;
}

int tine__codec_decode_fds(tine__codec *c, lua_State *L, const void *data, size_t len,
                           int *fds, size_t n)
{
    bind_fds came = {fds, n, n};
    c->came = &came;
    int result = tine__codec_decode(c, L, data, len);
    c->came = NULL;
    return result;
}

/* ------------------------------------------------------------------- for Lua */

static int codec_encode(lua_State *L)
{
    tine__codec *c = luaL_checkudata(L, 1, TYPE_NAME);
    tine__buf out = {0};
    if (!tine__codec_encode(c, L, 2, lua_gettop(L) - 1, "args", &out)) {
        tine__buf_free(&out);
        lua_pushnil(L);
        lua_insert(L, -2);
        return 2;
    }
    lua_pushlstring(L, (const char *)out.data, out.len);
    tine__buf_free(&out);
    return 1;
}

static int codec_decode(lua_State *L)
{
    tine__codec *c = luaL_checkudata(L, 1, TYPE_NAME);
    size_t len;
    const char *data = luaL_checklstring(L, 2, &len);
    int n = tine__codec_decode(c, L, data, len);
    if (n >= 0)
        return n;
    lua_pushnil(L);
    lua_insert(L, -2);
    return 2;
}

/* codec(kind[, source]): an object with encode(...) and decode(bytes). */
static int codec_new(lua_State *L)
{
    size_t len;
    tine_serialiser kind = (tine_serialiser)luaL_checkoption(L, 1, NULL, names);
    const char *source = luaL_optlstring(L, 2, "", &len);
    tine__codec_push(L, kind, source, len);
    if (luaL_getmetafield(L, -1, "__index") == LUA_TNIL) {
        static const luaL_Reg methods[] = {
            {"encode", codec_encode}, {"decode", codec_decode}, {NULL, NULL}};
        lua_getmetatable(L, -1);
        luaL_newlib(L, methods);
        lua_setfield(L, -2, "__index");
        lua_pop(L, 1);
    } else {
        lua_pop(L, 1);
    }
    return 1;
}

void tine__codec_open(lua_State *L)
{
    lua_newtable(L);
    for (int kind = 0; names[kind]; kind++) {
        lua_pushinteger(L, kind);
        lua_setfield(L, -2, names[kind]);
    }
    lua_setfield(L, -2, "serialisers");
    lua_pushcfunction(L, codec_new);
    lua_setfield(L, -2, "codec");
}
