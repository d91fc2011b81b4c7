/* The err tables of the Lua API: {kind=, message=, ...} with the metatable
 * "tine.error". This file goes into tine-template too: it needs Lua and the system,
 * nothing of tine.h. */
#include "fd.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <lauxlib.h>

/* The message and, on lines of its own, the traceback if there is one. */
static int error_tostring(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    lua_getfield(L, 1, "message");
    luaL_tolstring(L, -1, NULL);
    if (lua_getfield(L, 1, "traceback") == LUA_TSTRING) {
        lua_pushliteral(L, "\n");
        lua_insert(L, -2);
        lua_concat(L, 3);
    } else {
        lua_pop(L, 1);
    }
    return 1;
}

int bind_is_error(lua_State *L, int idx)
{
    int same;

    luaL_checkstack(L, 2, NULL);
    if (!lua_istable(L, idx) || !lua_getmetatable(L, idx))
        return 0;
    luaL_getmetatable(L, BIND_ERROR_TYPE);
    same = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return same;
}

/* Pushes the text that the value has of its own. A userdata's is often its address. */
static int push_own_text(lua_State *L, int idx)
{
    if (luaL_getmetafield(L, idx, "__tostring") == LUA_TNIL)
        return 0;
    lua_pop(L, 1);
    const char *text = luaL_tolstring(L, idx, NULL);
    if (!lua_isuserdata(L, idx) || !strstr(text, "0x"))
        return 1;
    lua_pop(L, 1);
    return 0;
}

void bind_push_error_text(lua_State *L, int idx)
{
    const char *type;

    luaL_checkstack(L, 6, NULL);
    if (push_own_text(L, idx))
        return;
    switch (lua_type(L, idx)) {
    case LUA_TNIL:
    case LUA_TBOOLEAN:
    case LUA_TNUMBER:
    case LUA_TSTRING:
        luaL_tolstring(L, idx, NULL);
        return;
    default:
        type = luaL_typename(L, idx);
        if (luaL_getmetafield(L, idx, "__name") != LUA_TSTRING)
            lua_pushstring(L, type);
        lua_pushfstring(L, "(error object is a %s value)", lua_tostring(L, -1));
        lua_remove(L, -2);
    }
}

void bind_error_open(lua_State *L)
{
    luaL_checkstack(L, 3, NULL);
    if (luaL_newmetatable(L, BIND_ERROR_TYPE)) {
        lua_pushcfunction(L, error_tostring);
        lua_setfield(L, -2, "__tostring");
    }
    lua_pop(L, 1);
}

void bind_push_error(lua_State *L, const char *kind, const char *message, size_t len)
{
    luaL_checkstack(L, 3, NULL);
    lua_createtable(L, 0, 4);
    lua_pushstring(L, kind);
    lua_setfield(L, -2, "kind");
    lua_pushlstring(L, message, len);
    lua_setfield(L, -2, "message");
    luaL_setmetatable(L, BIND_ERROR_TYPE);
}

int bind_fail_text(lua_State *L, const char *kind, int err, const char *format, ...)
{
    va_list args;
    const char *message;
    size_t len;

    luaL_checkstack(L, 6, NULL);
    lua_pushnil(L);
    va_start(args, format);
    lua_pushvfstring(L, format, args);
    va_end(args);
    message = lua_tolstring(L, -1, &len);
    bind_push_error(L, kind, message, len);
    lua_remove(L, -2);
    if (err) {
        lua_pushinteger(L, err);
        lua_setfield(L, -2, "errno");
    }
    return 2;
}

/* These two, unlike strerror, are safe in threads and do not follow the locale. */
static void describe(char *out, size_t size, int err)
{
    const char *text = strerrordesc_np(err);
    const char *name = strerrorname_np(err);

    if (text && name)
        snprintf(out, size, "%s (%s)", text, name);
    else
        snprintf(out, size, "error %d", err);
}

int bind_fail_errno(lua_State *L, const char *what, int err)
{
    char text[128];

    describe(text, sizeof text, err);
    return bind_fail_text(L, "system", err, "%s: %s", what, text);
}
