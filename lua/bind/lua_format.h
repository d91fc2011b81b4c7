/* Plain Lua data as octets and back; see plain.c for what is plain. */
#ifndef TINE_BIND_LUA_FORMAT_H
#define TINE_BIND_LUA_FORMAT_H

#include <lua.h>
#include <stddef.h>

/* What refusals call the light userdata NULL. */
#define BIND_NULL_TEXT                                                                 \
    "a light userdata (cjson.null? the serialiser \"json\" has it; others have nil "   \
    "and false)"

/* Whether Lua functions are plain, too. */
enum {
    BIND_NO_FUNCTIONS,
    BIND_CODE,     /* they are: the first value is code, and the others its arguments */
    BIND_FUNCTIONS /* they are; all values are arguments */
};

/* Pushes a string that encodes the n values from index first. On failure pushes a message
 * that names the value, such as "upvalue 'conf'.list[7]: a userdata" (of code), "args[2].x: a
 * userdata". Returns 1 for success, else 0. */
int bind_plain_encode(lua_State *L, int first, int n, int functions);
/* Pushes the values encoded in data and returns how many. -1 with a message pushed when
 * the data is malformed, or holds a function and functions is 0: for what comes from the
 * host itself alone it may be anything else, since bytecode can do anything. */
int bind_plain_decode(lua_State *L, const char *data, size_t len, int functions);
int bind_plain_open(lua_State *L); /* sets encode and decode in the table on top */

#endif
