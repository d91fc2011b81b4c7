/* From the name of an entry function to the function. */
#include <lauxlib.h>
#include <string.h>

#include "child.h"
#include "embed.h"

static bool is_callable(lua_State *L, int idx)
{
    if (lua_isfunction(L, idx))
        return true;
    if (luaL_getmetafield(L, idx, "__call") == LUA_TNIL)
        return false;
    lua_pop(L, 1);
    return true;
}

/* Replaces the value on top by what the dotted path leads to from it, or by nil. */
static void walk(lua_State *L, const char *path, size_t len)
{
    for (const char *end = path + len; path <= end;) {
        const char *dot = memchr(path, '.', (size_t)(end - path));
        size_t n = (size_t)((dot ? dot : end) - path);
        int type = lua_type(L, -1);
        if (type != LUA_TTABLE && type != LUA_TUSERDATA) {
            lua_pop(L, 1);
            lua_pushnil(L);
            return;
        }
        lua_pushlstring(L, path, n);
        lua_gettable(L, -2);
        lua_remove(L, -2);
        path += n + 1;
    }
}

/* The longest loaded module whose name begins the path wins, then the globals. */
static bool find(lua_State *L, const char *name, size_t len)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    int loaded = lua_gettop(L);
    for (size_t n = len; n > 0; n--) {
        if (n < len && name[n] != '.')
            continue;
        lua_pushlstring(L, name, n);
        lua_rawget(L, loaded);
        if (n < len)
            walk(L, name + n + 1, len - n - 1);
        if (is_callable(L, -1)) {
            lua_remove(L, loaded);
            return true;
        }
        lua_pop(L, 1);
    }
    lua_pushglobaltable(L);
    walk(L, name, len);
    lua_remove(L, loaded);
    if (is_callable(L, -1))
        return true;
    lua_pop(L, 1);
    return false;
}

void tine__push_embedded(lua_State *L, const char *name)
{
    const struct tine_embedded *script = tine_embedded;
    while (script->name && strcmp(script->name, name) != 0)
        script++;
    if (!script->name)
        luaL_error(L, "%s is not compiled in", name);
    lua_pushfstring(L, "=%s", name);
    if (luaL_loadbufferx(L, script->data, script->len, lua_tostring(L, -1), "t") !=
        LUA_OK)
        lua_error(L);
    lua_remove(L, -2);
    lua_call(L, 0, 1);
}

/* The message is made by templates/names.lua, which is loaded only here. */
static void explain(lua_State *L, const char *name, size_t len)
{
    tine__push_embedded(L, "tine.template.names");
    lua_pushlstring(L, name, len);
    lua_call(L, 1, 1);
    lua_error(L);
}

void tine__push_function(lua_State *L, const char *name, size_t len)
{
    luaL_checkstack(L, 8, "entry function");
    if (!find(L, name, len)) {
        lua_pushlstring(L, name, len); /* terminated */
        explain(L, lua_tostring(L, -1), len);
    }
}
