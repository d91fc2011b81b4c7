/* Error values that are no text, on their way from a worker to the caller: see call.h. A
 * tine.error goes as a table of its fields and true after it, since serialisers know no
 * metatables. */
#include <string.h>

#include <lauxlib.h>

#include "codec_priv.h"
#include "fd/fd.h"

enum { MOST = 1 << 30 };

static const char *const fields[] = {"kind",   "message", "traceback", "pid",  "code",
                                     "signal", "status",  "errno",     "value"};
enum { NFIELDS = sizeof fields / sizeof *fields };

/* Pushes a plain table with the first n fields of the err at idx. */
static void push_fields(lua_State *L, int idx, int n)
{
    lua_createtable(L, 0, n);
    for (int i = 0; i < n; i++) {
        lua_pushstring(L, fields[i]);
        lua_pushvalue(L, -1);
        lua_rawget(L, idx);
        lua_rawset(L, -3);
    }
}

static int encode(tine__codec *c, lua_State *L, int idx, int n, tine__buf *out)
{
    int top = lua_gettop(L);
    int ok = tine__codec_encode(c, L, idx, n, "value", out);
    lua_settop(L, top);
    return ok;
}

/* Without the value that it has itself if need be. */
static int encode_err(tine__codec *c, lua_State *L, int idx, tine__buf *out)
{
    int ok = 0, base = lua_gettop(L);
    for (int n = NFIELDS; !ok && n >= NFIELDS - 1; n--) {
        lua_settop(L, base);
        push_fields(L, idx, n);
        lua_pushboolean(L, 1);
        ok = encode(c, L, base + 1, 2, out);
    }
    lua_settop(L, base);
    return ok;
}

static int encode_number(lua_State *L, int idx, tine__buf *out)
{
    size_t len;
    const char *text;
    if (lua_type(L, idx) != LUA_TNUMBER)
        return 0;
    lua_pushvalue(L, idx);
    text = tine__codec_text(L, lua_gettop(L), &len);
    memcpy(tine__codec_room(L, out, len), text, len);
    out->len += len;
    lua_pop(L, 1);
    return 1;
}

int tine__codec_encode_error(tine__codec *c, lua_State *L, int idx, tine__buf *out)
{
    size_t before = out->len;
    int ok;
    luaL_checkstack(L, LUA_MINSTACK, "an error");
    if (c->kind == TINE_STRINGS)
        ok = encode_number(L, idx, out);
    else if (lua_isnil(L, idx))
        return 0;
    else if (bind_is_error(L, idx))
        ok = encode_err(c, L, idx, out);
    else
        ok = encode(c, L, idx, 1, out);
    if (out->len - before > MOST)
        ok = 0;
    if (!ok)
        out->len = before;
    return ok;
}

void tine__codec_decode_error(tine__codec *c, lua_State *L, const void *data,
                              size_t len)
{
    int base = lua_gettop(L);
    luaL_checkstack(L, LUA_MINSTACK, "an error");
    if (c->kind == TINE_STRINGS) {
        lua_pushlstring(L, data, len);
        return;
    }
    int n = tine__codec_decode(c, L, data, len);
    if (n == 2 && lua_istable(L, base + 1) && lua_toboolean(L, base + 2)) {
        lua_settop(L, base + 1);
        luaL_setmetatable(L, BIND_ERROR_TYPE);
    } else if (n < 1) {
        lua_settop(L, base);
        lua_pushnil(L);
    }
    lua_settop(L, base + 1);
}
