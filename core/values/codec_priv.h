/* What the files of the serialisers share: codec*.c. Knows nothing of calls. */
#ifndef TINE_VALUES_CODEC_PRIV_H
#define TINE_VALUES_CODEC_PRIV_H

#include "codec.h"
#include "fd/fd.h"
#include "lua_format.h"

enum { CODEC_ENCODE, CODEC_DECODE };

struct tine__codec {
    tine_serialiser kind;
    int encode, decode; /* of those that work in Lua: registry references */
    int sends_functions, takes_functions, passes_fds;
    bind_fds out;   /* of what was encoded last */
    bind_fds *came; /* with what is decoded, or NULL */
    void *unpacked; /* of MessagePack, kept for its memory; or NULL */
};

/* Room for n more bytes; raises. */
unsigned char *tine__codec_room(lua_State *L, tine__buf *o, size_t n);
void tine__codec_function(lua_State *L, const tine__codec *c, int which);

/* NULL where descriptors are no values. */
bind_fds *tine__codec_out(tine__codec *c);

int tine__msgpack_encode(tine__codec *c, lua_State *L, int first, int n,
                         const char *what, tine__buf *out);
int tine__msgpack_decode(tine__codec *c, lua_State *L, const void *data, size_t len);
void tine__msgpack_close(tine__codec *c);

void tine__json_open(lua_State *L, tine__codec *c);
int tine__json_encode(tine__codec *c, lua_State *L, int first, int n, const char *what,
                      tine__buf *out);
int tine__json_decode(tine__codec *c, lua_State *L, const void *data, size_t len);

void tine__source_codec_open(lua_State *L, tine__codec *c, const char *source,
                             size_t len);
int tine__source_codec_encode(tine__codec *c, lua_State *L, int first, int n,
                              const char *what, tine__buf *out);
int tine__source_codec_decode(tine__codec *c, lua_State *L, const void *data,
                              size_t len);

#endif
