/* What the files of the serialisers share: codec*.c. */
#ifndef TINE_BIND_CODEC_PRIV_H
#define TINE_BIND_CODEC_PRIV_H

#include "codec.h"
#include "fd/fd.h"
#include "lua_format.h"

enum { CODEC_ENCODE, CODEC_DECODE };

struct bind_codec {
    int kind;
    int encode, decode; /* of those that work in Lua: registry references */
    int sends_functions, takes_functions, passes_fds;
    bind_fds out;   /* of what was encoded last */
    bind_fds *came; /* with what is decoded, or NULL */
    void *unpacked; /* of MessagePack, kept for its memory; or NULL */
};

/* Room for n more octets; raises. */
unsigned char *bind_codec_room(lua_State *L, bind_octets *o, size_t n);
/* The message on top says "args[...": what is put in the place of args. Returns 0. */
int bind_codec_rename(lua_State *L, const char *what);
void bind_codec_function(lua_State *L, const bind_codec *c, int which);

/* NULL where descriptors are no values. */
bind_fds *bind_codec_out(bind_codec *c);

int bind_msgpack_encode(bind_codec *c, lua_State *L, int first, int n, const char *what,
                        bind_octets *out);
int bind_msgpack_decode(bind_codec *c, lua_State *L, const void *data, size_t len);
void bind_msgpack_close(bind_codec *c);

void bind_json_open(lua_State *L, bind_codec *c);
int bind_json_encode(bind_codec *c, lua_State *L, int first, int n, const char *what,
                     bind_octets *out);
int bind_json_decode(bind_codec *c, lua_State *L, const void *data, size_t len);

void bind_source_open(lua_State *L, bind_codec *c, const char *source, size_t len);
int bind_source_encode(bind_codec *c, lua_State *L, int first, int n, const char *what,
                       bind_octets *out);
int bind_source_decode(bind_codec *c, lua_State *L, const void *data, size_t len);

#endif
