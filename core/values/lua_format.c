/* encode(functions, ...) and decode(bytes, functions) for Lua: the plain codec itself,
 * without the err tables of the API.
 *
 * Plain are nil, booleans, integers, floats, strings, tables of plain keys and values
 * without a metatable, err tables, in any graph, and, where asked for, Lua functions with
 * plain upvalues, which are copied by value and stay shared within one encoding. Then the
 * globals table, and any upvalue named _ENV, mean the receiver's globals. */

#include <lauxlib.h>

#include "lua_format.h"

/*** The values as a string.
@function encode
@tparam boolean functions whether Lua functions are taken
@param ... plain values
@treturn[1] string bytes
@treturn[2] nil
@treturn[2] string what was refused, with the path to it
*/
static int encode(lua_State *L)
{
    luaL_checkany(L, 1);
    if (tine__lua_encode(L, 2, lua_gettop(L) - 1, lua_toboolean(L, 1)))
        return 1;
    luaL_pushfail(L);
    lua_insert(L, -2);
    return 2;
}

/*** The values that a string encodes.
@function decode
@tparam string bytes
@tparam boolean functions whether functions are taken: only from a trusted sender
@return[1] the values
@treturn[2] nil
@treturn[2] string what is wrong with the bytes
*/
static int decode(lua_State *L)
{
    size_t len;
    const char *bytes = luaL_checklstring(L, 1, &len);
    int n = tine__lua_decode(L, bytes, len, lua_toboolean(L, 2));

    if (n >= 0)
        return n;
    luaL_pushfail(L);
    lua_insert(L, -2);
    return 2;
}

int tine__lua_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"encode", encode},
        {"decode", decode},
        {NULL, NULL},
    };

    luaL_setfuncs(L, functions, 0);
    return 1;
}
