/* Serialisers: lists of Lua values as octets and back, for calls. Serves the host's binding
 * and the workers; knows Lua, and nothing of tine's core. */
#ifndef TINE_BIND_CODEC_H
#define TINE_BIND_CODEC_H

#include <lua.h>
#include <stddef.h>

/* The numbers are those of tine_serialiser. */
enum { BIND_STRINGS, BIND_MSGPACK, BIND_LUA, BIND_JSON, BIND_SOURCE };

/* The most values of a list. A function that is called with more may run out of Lua's stack, of a
 * million, as soon as it passes its `...` on. */
#define BIND_MOST_VALUES 200000

typedef struct bind_codec bind_codec;

/* A growable piece of memory; zeros is empty. */
typedef struct bind_octets {
    unsigned char *data;
    size_t len, cap;
} bind_octets;

/* Room for n more octets, or NULL. */
unsigned char *bind_octets_room(bind_octets *o, size_t n);
void bind_octets_free(bind_octets *o);

/* Pushes a userdata, whose address is returned: the codec of that kind. source is for
 * BIND_SOURCE: Lua text that returns freeze and thaw. Raises where that, or a module that
 * the kind needs, fails to load: a string. */
bind_codec *bind_codec_push(lua_State *L, int kind, const char *source, size_t len);
/* From now on Lua functions are values that it encodes, or decodes. Only a host encodes them,
 * in arguments; only its worker decodes them, from there: bytecode can do anything. Of
 * BIND_LUA only; others have none. */
void bind_codec_send_functions(bind_codec *c);
void bind_codec_take_functions(bind_codec *c);
/* Appends the octets of the n values from index first on. Returns 1; or 0, with out->len
 * as it was and a message pushed: the path to the value and what it is, such as
 * "args[2].list[7]: a userdata"; what names the list: "args", "results", "event". Any error
 * of the user's freeze is such a message. Raises want of memory only. */
int bind_codec_encode(bind_codec *c, lua_State *L, int first, int n, const char *what,
                      bind_octets *out);
/* Whether descriptors are values; at first they are not. Never of BIND_STRINGS and BIND_SOURCE. */
void bind_codec_pass_fds(bind_codec *c, int on);
/* Those among what was encoded last, borrowed of their objects: valid until Lua runs again. */
const int *bind_codec_fds(const bind_codec *c, size_t *n);
/* Pushes the values and returns how many; or -1 with a message pushed. Takes any octets. */
int bind_codec_decode(bind_codec *c, lua_State *L, const void *data, size_t len);
/* The same with the descriptors that came with the octets: those that the values have are set to
 * -1. */
int bind_codec_decode_fds(bind_codec *c, lua_State *L, const void *data, size_t len,
                          int *fds, size_t n);
/* As lua_tolstring, for a string or a number; that has a decimal point in every locale. */
const char *bind_codec_text(lua_State *L, int idx, size_t *len);
/* Pushes what is wrong with a list of so many values. Returns 0. */
int bind_codec_refuse_count(lua_State *L, const char *what, size_t n);

/* Appends the octets of the error value at idx, a positive one. Returns 1; or 0 where the
 * serialiser has none for it, with nothing pushed. Raises want of memory. */
int bind_codec_encode_error(bind_codec *c, lua_State *L, int idx, bind_octets *out);
/* Pushes what that encoded; nil for anything else. */
void bind_codec_decode_error(bind_codec *c, lua_State *L, const void *data, size_t len);

/* Sets codec(kind[, source]) in the table on top: the codec itself, for the specs. */
void bind_codec_open(lua_State *L);

#endif
