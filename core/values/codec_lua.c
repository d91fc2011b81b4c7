/* The serialisers that work in Lua: JSON by way of tine.codec_json, and the user's own. */
#include <string.h>

#include <lauxlib.h>

#include "codec_priv.h"
#include "fd/fd.h"

/* Keeps the functions encode and decode on top. */
static void keep(lua_State *L, tine__codec *c)
{
    c->decode = luaL_ref(L, LUA_REGISTRYINDEX);
    c->encode = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* The string on top is the encoding. */
static int append(lua_State *L, const char *what, tine__buf *out)
{
    size_t len;
    if (lua_type(L, -1) != LUA_TSTRING) {
        lua_pushfstring(L, "%s: freeze returned a %s, not a string", what,
                        luaL_typename(L, -1));
        return 0;
    }
    const char *bytes = lua_tolstring(L, -1, &len);
    memcpy(tine__codec_room(L, out, len), bytes, len);
    out->len += len;
    lua_pop(L, 1);
    return 1;
}

/* Makes the error value on top a message. */
static void as_message(lua_State *L, const char *prefix)
{
    bind_push_error_text(L, lua_gettop(L));
    lua_pushfstring(L, "%s%s", prefix, lua_tostring(L, -1));
    lua_replace(L, -3);
    lua_pop(L, 1);
}

/* Whether the value on top is the err that stops a call. */
static int is_stop(lua_State *L)
{
    if (!bind_is_error(L, -1))
        return 0;
    lua_pushliteral(L, "kind");
    lua_rawget(L, -2);
    const char *kind = lua_tostring(L, -1);
    int stop = kind && (strcmp(kind, "timeout") == 0 || strcmp(kind, "cancelled") == 0);
    lua_pop(L, 1);
    return stop;
}

/* Calls the function at base with what is above it. Returns the number of results, or -1
 * with a message. */
static int call(lua_State *L, int base, int nresults, const char *prefix)
{
    int status = lua_pcall(L, lua_gettop(L) - base, nresults, 0);
    if (status == LUA_OK)
        return lua_gettop(L) - base + 1;
    /* The call is being stopped, or there is no memory: not the function's fault. */
    if (status == LUA_ERRMEM || is_stop(L))
        lua_error(L);
    as_message(L, prefix);
    return -1;
}

static int decode(tine__codec *c, lua_State *L, const void *data, size_t len,
                  const char *prefix)
{
    luaL_checkstack(L, 4, "too many values");
    tine__codec_function(L, c, CODEC_DECODE);
    int base = lua_gettop(L);
    lua_pushlstring(L, data, len);
    return call(L, base, LUA_MULTRET, prefix);
}

/* ----------------------------------------------------------------------- JSON */

void tine__json_open(lua_State *L, tine__codec *c)
{
    lua_getglobal(L, "require");
    lua_pushliteral(L, "tine.codec_json");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "encode");
    lua_getfield(L, -2, "decode");
    keep(L, c);
    lua_pop(L, 1);
}

/* put(value): its index; nil, and a message where it cannot be sent. */
static int json_put(lua_State *L)
{
    tine__codec *c = lua_touserdata(L, lua_upvalueindex(1));
    lua_settop(L, 1);
    int index = bind_fds_put(L, &c->out, 1);
    if (index >= 0) {
        lua_pushinteger(L, index);
        return 1;
    }
    lua_pushnil(L);
    lua_insert(L, 2);
    return lua_gettop(L) - 1;
}

/* take(index): the descriptor. */
static int json_take(lua_State *L)
{
    tine__codec *c = lua_touserdata(L, lua_upvalueindex(1));
    if (!bind_fds_push(L, c->came, (uint32_t)luaL_checkinteger(L, 1)))
        return lua_error(L);
    return 1;
}

/* Pushes a function of tine.codec_json, and the one that it asks. */
static void push_helper(lua_State *L, tine__codec *c, const char *name, lua_CFunction f)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_getfield(L, -1, "tine.codec_json");
    lua_getfield(L, -1, name);
    lua_replace(L, -3);
    lua_pop(L, 1);
    lua_pushlightuserdata(L, c);
    lua_pushcclosure(L, f, 1);
}

static int encode_json(tine__codec *c, lua_State *L, int first, int n, const char *what,
                       tine__buf *out, int fds)
{
    luaL_checkstack(L, n + 8, "too many values");
    int base = lua_gettop(L) + 1;
    if (fds)
        push_helper(L, c, "encode_fds", json_put);
    else
        tine__codec_function(L, c, CODEC_ENCODE);
    lua_pushstring(L, what);
    for (int i = 0; i < n; i++)
        lua_pushvalue(L, first + i);
    if (call(L, base, 2, "") < 0)
        return 0;
    if (lua_isnil(L, -2)) {
        lua_remove(L, -2);
        return 0;
    }
    lua_pop(L, 1);
    return append(L, what, out);
}

int tine__json_encode(tine__codec *c, lua_State *L, int first, int n, const char *what,
                      tine__buf *out)
{
    int top = lua_gettop(L);
    int ok = encode_json(c, L, first, n, what, out, 0);
    if (ok || !tine__codec_out(c))
        return ok;
    lua_settop(L, top);
    return encode_json(c, L, first, n, what, out, 1);
}

int tine__json_decode(tine__codec *c, lua_State *L, const void *data, size_t len)
{
    if (!c->came)
        return decode(c, L, data, len, "");
    luaL_checkstack(L, 8, "too many values");
    int base = lua_gettop(L) + 1;
    push_helper(L, c, "decode_fds", json_take);
    lua_pushlstring(L, data, len);
    return call(L, base, LUA_MULTRET, "");
}

/* ----------------------------------------------------------------- the user's */

void tine__source_codec_open(lua_State *L, tine__codec *c, const char *source,
                             size_t len)
{
    int base = lua_gettop(L);
    if (luaL_loadbufferx(L, source, len, "=serialiser", "t") != LUA_OK)
        lua_error(L);
    lua_call(L, 0, 2);
    if (!lua_isfunction(L, base + 1) || !lua_isfunction(L, base + 2))
        luaL_error(L,
                   "the serialiser's source must give two functions, freeze and thaw");
    keep(L, c);
}

int tine__source_codec_encode(tine__codec *c, lua_State *L, int first, int n,
                              const char *what, tine__buf *out)
{
    luaL_checkstack(L, n + 4, "too many values");
    tine__codec_function(L, c, CODEC_ENCODE);
    int base = lua_gettop(L);
    for (int i = 0; i < n; i++)
        lua_pushvalue(L, first + i);
    if (call(L, base, 1, "freeze: ") < 0)
        return 0;
    return append(L, what, out);
}

int tine__source_codec_decode(tine__codec *c, lua_State *L, const void *data,
                              size_t len)
{
    return decode(c, L, data, len, "thaw: ");
}
