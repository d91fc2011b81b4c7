/* The message for a value that is not plain: the path to it, and what it is. */
#include "fd/fd.h"
#include "lua_format.h"
#include "lua_format_priv.h"

#include <string.h>

#include <lauxlib.h>
#include <lualib.h>

enum {
    MAX_KEY = 40, /* bytes of a string key that are shown */
    MAX_HEAD = 12,
    MAX_TAIL = 8, /* of a longer path the first and the last parts are shown */
};

static int in_set(char c, const char *set)
{
    return c != '\0' && strchr(set, c) != NULL;
}

static int is_identifier(const char *s, size_t len)
{
    static const char word[] = "0123456789_abcdefghijklmnopqrstuvwxyz"
                               "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    size_t i;

    if (len == 0 || len > MAX_KEY || in_set(s[0], "0123456789"))
        return 0;
    for (i = 0; i < len; i++) {
        if (!in_set(s[i], word))
            return 0;
    }
    return 1;
}

static void add_string_key(luaL_Buffer *b, const char *s, size_t len)
{
    static const char digits[] = "0123456789";
    size_t i;

    if (is_identifier(s, len)) {
        luaL_addchar(b, '.');
        luaL_addlstring(b, s, len);
        return;
    }
    luaL_addstring(b, "[\"");
    for (i = 0; i < len && i < MAX_KEY; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c < 0x20 || c == 0x7f) {
            luaL_addchar(b, '\\');
            luaL_addchar(b, digits[c / 100]);
            luaL_addchar(b, digits[c / 10 % 10]);
            luaL_addchar(b, digits[c % 10]);
            continue;
        }
        if (c == '"' || c == '\\')
            luaL_addchar(b, '\\');
        luaL_addchar(b, s[i]);
    }
    luaL_addstring(b, len > MAX_KEY ? "...\"]" : "\"]");
}

/* lua_pushfstring writes numbers as tostring does. */
static void add_key(luaL_Buffer *b, int idx)
{
    lua_State *L = b->L;
    const char *s;
    size_t len;

    switch (lua_type(L, idx)) {
    case LUA_TSTRING:
        s = lua_tolstring(L, idx, &len);
        add_string_key(b, s, len);
        return;
    case LUA_TNUMBER:
        if (lua_isinteger(L, idx))
            lua_pushfstring(L, "[%I]", (LUAI_UACINT)lua_tointeger(L, idx));
        else
            lua_pushfstring(L, "[%f]", (LUAI_UACNUMBER)lua_tonumber(L, idx));
        luaL_addvalue(b);
        return;
    case LUA_TBOOLEAN:
        luaL_addstring(b, lua_toboolean(L, idx) ? "[true]" : "[false]");
        return;
    default:
        luaL_addchar(b, '[');
        luaL_addstring(b, luaL_typename(L, idx));
        luaL_addchar(b, ']');
    }
}

static void add_upvalue(luaL_Buffer *b, const struct plain_frame *f, int is_first)
{
    const char *name = lua_getupvalue(b->L, f->base, (int)f->items);

    lua_pop(b->L, 1);
    if (!is_first)
        luaL_addchar(b, ' ');
    if (strcmp(name, "(no name)") == 0)
        lua_pushfstring(b->L, "upvalue #%d", (int)f->items);
    else
        lua_pushfstring(b->L, "upvalue '%s'", name);
    luaL_addvalue(b);
}

static void add_step(luaL_Buffer *b, const struct plain_frame *f, int is_first)
{
    switch (f->step) {
    case STEP_ITEMS:
        lua_pushfstring(b->L, "[%I]", (LUAI_UACINT)f->items);
        luaL_addvalue(b);
        break;
    case STEP_PAIRS:
        add_key(b, f->base + 1);
        break;
    case STEP_KEY:
        luaL_addstring(b, " (a key)");
        break;
    case STEP_UPVALUES:
        add_upvalue(b, f, is_first);
        break;
    }
}

static void push_path(const struct plain_encoder *e)
{
    lua_State *L = e->L;
    luaL_Buffer b;
    int i, cut, is_code;

    is_code = e->functions == BIND_CODE && e->arg == 1 && e->nframes > 0 &&
              e->frames[0].step == STEP_UPVALUES;
    cut = e->nframes > MAX_HEAD + MAX_TAIL;
    luaL_buffinit(L, &b);
    if (!is_code) {
        lua_pushfstring(L, "args[%d]", e->arg);
        luaL_addvalue(&b);
    }
    for (i = 0; i < e->nframes; i++) {
        if (cut && i == MAX_HEAD) {
            luaL_addstring(&b, " ... ");
            i = e->nframes - MAX_TAIL;
        }
        add_step(&b, &e->frames[i], is_code && i == 0);
    }
    luaL_pushresult(&b);
}

/* Pushes the name of a loaded module that is the table at idx. Returns 0 with nothing pushed
 * where there is none. */
static int push_module(lua_State *L, int idx)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        if (lua_rawequal(L, -1, idx) && lua_type(L, -2) == LUA_TSTRING) {
            lua_pop(L, 1);
            lua_remove(L, -2);
            return 1;
        }
    }
    lua_pop(L, 1);
    return 0;
}

/* Likewise of the innermost module that the refused value, at the top, is or lies in. */
static int push_enclosing(const struct plain_encoder *e)
{
    lua_State *L = e->L;
    int i;

    if (push_module(L, lua_gettop(L)))
        return 1;
    for (i = e->nframes - 1; i >= 0; i--) {
        if (e->frames[i].step != STEP_UPVALUES && push_module(L, e->frames[i].base))
            return 1;
    }
    return 0;
}

/* Pushes the name in the table at idx of the value at value. Returns as push_module. */
static int push_name_in(lua_State *L, int idx, int value)
{
    for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
        if (lua_rawequal(L, -1, value) && lua_type(L, -2) == LUA_TSTRING) {
            lua_pop(L, 1);
            return 1;
        }
    }
    return 0;
}

/* Pushes "string.format; use it as a global" for the function at func, if it is Lua's own. */
static int push_own_function(lua_State *L, int func)
{
    static const char *const libs[] = {
        LUA_GNAME,     LUA_STRLIBNAME, LUA_TABLIBNAME,  LUA_MATHLIBNAME, LUA_IOLIBNAME,
        LUA_OSLIBNAME, LUA_COLIBNAME,  LUA_UTF8LIBNAME, LUA_LOADLIBNAME, LUA_DBLIBNAME,
    };
    size_t i;

    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    for (i = 0; i < sizeof libs / sizeof libs[0]; i++) {
        lua_settop(L, func + 1);
        lua_pushstring(L, libs[i]);
        if (lua_rawget(L, func + 1) != LUA_TTABLE || !push_name_in(L, func + 2, func))
            continue;
        lua_pushfstring(L, "%s%s%s; use it as a global", i == 0 ? "" : libs[i],
                        i == 0 ? "" : ".", lua_tostring(L, -1));
        return 1;
    }
    lua_settop(L, func);
    return 0;
}

/* Pushes "cjson.encode" for the function at func, if a loaded module has it. */
static int push_member(lua_State *L, int func)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    for (lua_pushnil(L); lua_next(L, func + 1); lua_settop(L, func + 2)) {
        if (lua_type(L, -2) != LUA_TSTRING || !lua_istable(L, -1) ||
            !push_name_in(L, func + 3, func))
            continue;
        lua_pushfstring(L, "%s.%s", lua_tostring(L, func + 2), lua_tostring(L, -1));
        return 1;
    }
    lua_settop(L, func);
    return 0;
}

#define REQUIRE_IT "require the module in the function that uses it"

/* Pushes what the C function at the top is, and what to do about it. */
static void push_c_function(const struct plain_encoder *e)
{
    lua_State *L = e->L;
    int func = lua_gettop(L);

    if (push_own_function(L, func))
        lua_pushfstring(L, "a C function (%s)", lua_tostring(L, -1));
    else if (push_enclosing(e))
        lua_pushfstring(L, "a C function (in the module '%s': " REQUIRE_IT ")",
                        lua_tostring(L, -1));
    else if (push_member(L, func))
        lua_pushfstring(L, "a C function (%s: " REQUIRE_IT ")", lua_tostring(L, -1));
    else
        lua_pushliteral(L, "a C function");
}

static void push_type(lua_State *L)
{
    switch (lua_type(L, -1)) {
    case LUA_TTABLE:
        lua_pushliteral(L, "a table with a metatable");
        break;
    case LUA_TFUNCTION:
        lua_pushstring(L, lua_iscfunction(L, -1) ? "a C function" : "a function");
        break;
    case LUA_TTHREAD:
        lua_pushliteral(L, "a coroutine");
        break;
    case LUA_TLIGHTUSERDATA:
        lua_pushstring(L, lua_touserdata(L, -1) ? "a light userdata" : BIND_NULL_TEXT);
        break;
    default:
        if (luaL_getmetafield(L, -1, "__name") != LUA_TSTRING)
            lua_pushliteral(L, "a userdata");
        else
            lua_pushfstring(L, "a userdata (%s)", lua_tostring(L, -1));
    }
}

/* Pushes what the value at the top is. */
static void push_kind(const struct plain_encoder *e)
{
    lua_State *L = e->L;
    int value = lua_gettop(L);

    if (e->functions && lua_iscfunction(L, value)) {
        push_c_function(e);
        return;
    }
    if (e->functions && push_enclosing(e)) {
        lua_pushvalue(L, value);
        push_type(L);
        lua_pushfstring(L, "%s (in the module '%s': " REQUIRE_IT ")",
                        lua_tostring(L, -1), lua_tostring(L, value + 1));
        return;
    }
    push_type(L);
}

int tine__lua_refuse(struct plain_encoder *e, const char *what)
{
    lua_State *L = e->L;

    if (what == NULL) {
        push_kind(e);
        what = lua_tostring(L, -1);
    }
    push_path(e);
    lua_pushfstring(L, "%s: %s", lua_tostring(L, -1), what);
    return 0;
}
