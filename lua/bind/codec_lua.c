/* The serialisers that work in Lua: JSON by way of tine.codec_json, and the user's own. */
#include <string.h>

#include <lauxlib.h>

#include "bind.h"
#include "codec_priv.h"

/* Keeps the functions encode and decode on top. */
static void keep(lua_State *L, bind_codec *c)
{
    c->decode = luaL_ref(L, LUA_REGISTRYINDEX);
    c->encode = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* The string on top is the encoding. */
static int append(lua_State *L, const char *what, bind_octets *out)
{
    size_t len;
    if (lua_type(L, -1) != LUA_TSTRING) {
        lua_pushfstring(L, "%s: freeze returned a %s, not a string", what,
                        luaL_typename(L, -1));
        return 0;
    }
    const char *octets = lua_tolstring(L, -1, &len);
    memcpy(bind_codec_room(L, out, len), octets, len);
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

static int decode(bind_codec *c, lua_State *L, const void *data, size_t len,
                  const char *prefix)
{
    luaL_checkstack(L, 4, "too many values");
    bind_codec_function(L, c, CODEC_DECODE);
    int base = lua_gettop(L);
    lua_pushlstring(L, data, len);
    return call(L, base, LUA_MULTRET, prefix);
}

/* ----------------------------------------------------------------------- JSON */

void bind_json_open(lua_State *L, bind_codec *c)
{
    lua_getglobal(L, "require");
    lua_pushliteral(L, "tine.codec_json");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "encode");
    lua_getfield(L, -2, "decode");
    keep(L, c);
    lua_pop(L, 1);
}

int bind_json_encode(bind_codec *c, lua_State *L, int first, int n, const char *what,
                     bind_octets *out)
{
    luaL_checkstack(L, n + 4, "too many values");
    bind_codec_function(L, c, CODEC_ENCODE);
    int base = lua_gettop(L);
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

int bind_json_decode(bind_codec *c, lua_State *L, const void *data, size_t len)
{
    return decode(c, L, data, len, "");
}

/* ----------------------------------------------------------------- the user's */

void bind_source_open(lua_State *L, bind_codec *c, const char *source, size_t len)
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

int bind_source_encode(bind_codec *c, lua_State *L, int first, int n, const char *what,
                       bind_octets *out)
{
    luaL_checkstack(L, n + 4, "too many values");
    bind_codec_function(L, c, CODEC_ENCODE);
    int base = lua_gettop(L);
    for (int i = 0; i < n; i++)
        lua_pushvalue(L, first + i);
    if (call(L, base, 1, "freeze: ") < 0)
        return 0;
    return append(L, what, out);
}

int bind_source_decode(bind_codec *c, lua_State *L, const void *data, size_t len)
{
    return decode(c, L, data, len, "thaw: ");
}
