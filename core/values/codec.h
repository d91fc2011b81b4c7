/* Serialisers (tine_serialiser): lists of Lua values as bytes and back, for calls. Serves the
 * host's binding and the workers; knows Lua, and nothing of tine's core. */
#ifndef TINE_VALUES_CODEC_H
#define TINE_VALUES_CODEC_H

#include <lua.h>
#include <stddef.h>

#include "base/buf.h"

/* The most values of a list. A function that is called with more may run out of Lua's stack, of a
 * million, as soon as it passes its `...` on. */
#define TINE__MOST_VALUES 200000

typedef struct tine__codec tine__codec;

/* Pushes a userdata, whose address is returned: the codec of that kind. source is for
 * TINE_SOURCE: Lua text that returns freeze and thaw. Raises where that, or a module that
 * the kind needs, fails to load: a string. */
tine__codec *tine__codec_push(lua_State *L, tine_serialiser kind, const char *source,
                              size_t len);
/* From now on Lua functions are values that it encodes, or decodes. Only a host encodes them,
 * in arguments; only its worker decodes them, from there: bytecode can do anything. Of
 * TINE_LUA only; others have none. */
void tine__codec_send_functions(tine__codec *c);
void tine__codec_take_functions(tine__codec *c);
/* Appends the bytes of the n values from index first on. Returns 1; or 0, with out->len
 * as it was and a message pushed: the path to the value and what it is, such as
 * "args[2].list[7]: a userdata"; what names the list: "args", "results", "event". Any error
 * of the user's freeze is such a message. Raises want of memory only. */
int tine__codec_encode(tine__codec *c, lua_State *L, int first, int n, const char *what,
                       tine__buf *out);
/* Whether descriptors are values; at first they are not. Never of TINE_STRINGS and TINE_SOURCE. */
void tine__codec_pass_fds(tine__codec *c, int on);
/* Those among what was encoded last, borrowed of their objects: valid until Lua runs again. */
const int *tine__codec_fds(const tine__codec *c, size_t *n);
/* Pushes the values and returns how many; or -1 with a message pushed. Takes any bytes. */
int tine__codec_decode(tine__codec *c, lua_State *L, const void *data, size_t len);
/* The same with the descriptors that came with the bytes: those that the values have are set to
 * -1. */
int tine__codec_decode_fds(tine__codec *c, lua_State *L, const void *data, size_t len,
                           int *fds, size_t n);
/* As lua_tolstring, for a string or a number; that has a decimal point in every locale. */
const char *tine__codec_text(lua_State *L, int idx, size_t *len);
/* Pushes what is wrong with a list of so many values. Returns 0. */
int tine__codec_refuse_count(lua_State *L, const char *what, size_t n);

/* Appends the bytes of the error value at idx, a positive one. Returns 1; or 0 where the
 * serialiser has none for it, with nothing pushed. Raises want of memory. */
int tine__codec_encode_error(tine__codec *c, lua_State *L, int idx, tine__buf *out);
/* Pushes what that encoded; nil for anything else. */
void tine__codec_decode_error(tine__codec *c, lua_State *L, const void *data,
                              size_t len);

/* Sets in the table on top `serialisers`, their numbers by their names in Lua, and
 * codec(kind[, source]): the codec itself, for the specs. */
void tine__codec_open(lua_State *L);

#endif
