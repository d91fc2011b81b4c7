/* Plain Lua data as bytes and back; see lua_format.c for what is plain. Knows nothing of where
 * they go. */
#ifndef TINE_VALUES_LUA_FORMAT_H
#define TINE_VALUES_LUA_FORMAT_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

/* Descriptors among values: what is encoded is the index. Zeros is empty. */
typedef struct bind_fds {
    int *fd; /* borrowed of their objects; when decoding, taken by being set to -1 */
    size_t n, cap;
} bind_fds;

/* The index that an open descriptor gets; -1 with a message pushed. */
int bind_fds_add(lua_State *L, bind_fds *fds, int fd);
/* The descriptor of the object at idx, which is asked: Lua is called; -2 where it has none. */
int bind_fds_ask(lua_State *L, int idx);
/* The index of the value at idx, as bind_fd_check takes it but for numbers; -1 with a message
 * pushed where it is closed; -2 where it is none. May call Lua. */
int bind_fds_put(lua_State *L, bind_fds *fds, int idx);
/* Pushes a tine.fd that owns the one with that index, or a message: then returns 0. */
int bind_fds_push(lua_State *L, bind_fds *fds, uint32_t index);

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
int tine__lua_encode(lua_State *L, int first, int n, int functions);
/* The same with descriptors; fds NULL: they are refused. */
int tine__lua_encode_fds(lua_State *L, int first, int n, int functions, bind_fds *fds);
/* Pushes the values encoded in data and returns how many. -1 with a message pushed when
 * the data is malformed, or holds a function and functions is 0: for what comes from the
 * host itself alone it may be anything else, since bytecode can do anything. */
int tine__lua_decode(lua_State *L, const char *data, size_t len, int functions);
/* The same with descriptors; fds NULL: none came. */
int tine__lua_decode_fds(lua_State *L, const char *data, size_t len, int functions,
                         bind_fds *fds);
int tine__lua_open(lua_State *L); /* sets encode and decode in the table on top */

#endif
