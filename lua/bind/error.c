/* The err tables of the Lua API: {kind=, message=, ...} with the metatable
 * "tine.error". This file goes into tine-template too: it needs Lua and the system,
 * nothing of tine.h. */
#define _GNU_SOURCE
#include "bind.h"

#include <stdio.h>
#include <string.h>

#include <lauxlib.h>

#define ERROR_TYPE "tine.error"

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

void bind_error_open(lua_State *L)
{
    luaL_checkstack(L, 3, NULL);
    if (luaL_newmetatable(L, ERROR_TYPE)) {
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
    luaL_setmetatable(L, ERROR_TYPE);
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
    const char *message;
    size_t len;

    luaL_checkstack(L, 6, NULL);
    describe(text, sizeof text, err);
    lua_pushnil(L);
    lua_pushfstring(L, "%s: %s", what, text);
    message = lua_tolstring(L, -1, &len);
    bind_push_error(L, "system", message, len);
    lua_remove(L, -2);
    lua_pushinteger(L, err);
    lua_setfield(L, -2, "errno");
    return 2;
}
