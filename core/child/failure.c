#include "failure.h"

#include <lauxlib.h>
#include <stdbool.h>
#include <string.h>

#include "fd/fd.h"

/* Registry: {message, traceback, kind}, or false. */
static const char noted_key;

void tine__failure_open(lua_State *L)
{
    lua_pushboolean(L, 0);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &noted_key);
}

/* Pushes a field of the err table at idx; returns whether it is a string. */
static bool get_string(lua_State *L, int idx, const char *name)
{
    lua_pushstring(L, name);
    return lua_rawget(L, idx) == LUA_TSTRING;
}

/* What stopped a call keeps its kind on the way to the caller. */
static int kind_of(lua_State *L, int idx)
{
    int kind = TINE_KIND_EXCEPTION;
    if (get_string(L, idx, "kind"))
        for (int k = TINE_KIND_TIMEOUT; k <= TINE_KIND_CANCELLED; k++)
            if (strcmp(lua_tostring(L, -1), tine_kind_name((tine_kind)k)) == 0)
                kind = k;
    lua_pop(L, 1);
    return kind;
}

int tine__on_error(lua_State *L)
{
    luaL_checkstack(L, 10, NULL);
    lua_settop(L, 1);
    int kind = TINE_KIND_EXCEPTION;
    bool err = bind_is_error(L, 1), traced = false;
    lua_createtable(L, 3, 0);
    if (err)
        kind = kind_of(L, 1);
    if (!err || !get_string(L, 1, "message"))
        bind_push_error_text(L, 1);
    lua_rawseti(L, 2, 1);
    if (err)
        traced = get_string(L, 1, "traceback");
    if (!traced)
        luaL_traceback(L, L, NULL, 1);
    lua_rawseti(L, 2, 2);
    lua_pushinteger(L, kind);
    lua_rawseti(L, 2, 3);
    lua_settop(L, 2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &noted_key);
    return 1;
}

void tine__failure_note(lua_State *L)
{
    bool noted = lua_rawgetp(L, LUA_REGISTRYINDEX, &noted_key) == LUA_TTABLE;
    lua_pop(L, 1);
    if (noted || lua_type(L, -1) == LUA_TSTRING)
        return;
    lua_pushcfunction(L, tine__on_error);
    lua_pushvalue(L, -2);
    lua_call(L, 1, 0);
}

void tine__failure_from(lua_State *L, int status, tine_kind kind, tine__failure *f)
{
    static const char dumb[] = "an error that cannot be shown";
    int at = lua_gettop(L);
    *f = (tine__failure){.kind = kind, .L = L};
    f->message = (tine_str){dumb, sizeof dumb - 1};
    if (status == LUA_ERRMEM)
        f->kind = TINE_KIND_SYSTEM;
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &noted_key) == LUA_TTABLE &&
        status == LUA_ERRRUN) {
        lua_rawgeti(L, at + 1, 1);
        lua_rawgeti(L, at + 1, 2);
        lua_rawgeti(L, at + 1, 3);
        tine_kind own = (tine_kind)lua_tointeger(L, -1);
        if (kind == TINE_KIND_EXCEPTION || own == TINE_KIND_TIMEOUT ||
            own == TINE_KIND_CANCELLED)
            f->kind = own;
        f->message.data = lua_tolstring(L, at + 2, &f->message.len);
        f->traceback.data = lua_tolstring(L, at + 3, &f->traceback.len);
    } else if (lua_type(L, at) == LUA_TSTRING) {
        f->message.data = lua_tolstring(L, at, &f->message.len);
    }
    if (status == LUA_ERRRUN && f->kind == TINE_KIND_EXCEPTION &&
        lua_type(L, at) != LUA_TSTRING)
        f->at = at;
    lua_pushboolean(L, 0);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &noted_key);
}
