/* The bytes of plain data, and what the files of the encoder share.
 *
 * An encoding is the version, a varint (LEB128) with the number of values, the values.
 * Multi-byte numbers are little-endian. Strings, tables, functions, descriptors and the cells
 * of upvalues are numbered from 0 in the order in which they start; one whose tag says
 * "shared" may be named again by its number.
 *
 *   table     TABLE hints item* [SEP] (key value)* END; SEP only after items
 *   hints     low half: items, high half: pairs. 0 for none, else 1 + ceil(log2(n)),
 *             at most 15. They size the table, and bound its counts from below
 *   err       ERR, and then as a table: a tine.error
 *   fd        FD index of a descriptor that comes with the bytes
 *   function  FUNCTION length(4 bytes) bytecode (CELL value | REF)* END */
#ifndef TINE_VALUES_LUA_FORMAT_PRIV_H
#define TINE_VALUES_LUA_FORMAT_PRIV_H

#include <stdint.h>

#include <lua.h>

#include "lua_format.h"

#include "fd/fd.h"

enum {
    PLAIN_VERSION = 1,
    PLAIN_MAX_DEPTH = 100000, /* tables and functions inside each other */
    PLAIN_MAX_HINT = 15,
};

enum {
    TAG_INT = 0x00,    /* 0x00 to 0x7f: the integer itself */
    TAG_STRING = 0x80, /* + length below 32 */
    TAG_STRING_SHARED = 0xa0,
    TAG_NIL = 0xc0,
    TAG_FALSE,
    TAG_TRUE,
    TAG_FLOAT,
    TAG_INT8,
    TAG_INT16,
    TAG_INT32,
    TAG_INT64,
    TAG_LONG_STRING = 0xc8, /* varint length; this and the next ones | 1 when shared */
    TAG_TABLE = 0xca,
    TAG_FUNCTION = 0xcc,
    TAG_CELL = 0xce,
    TAG_REF = 0xd0, /* varint number */
    TAG_GLOBALS,
    TAG_SEP,
    TAG_END,
    TAG_FD = 0xd4,        /* varint index of a descriptor; | 1 when shared */
    TAG_ERR = 0xd6,       /* | 1 when shared */
    TAG_SHORT_REF = 0xe0, /* + number below 32 */
};

/* Where an encoder stands in a table or function. */
enum plain_step {
    STEP_ITEMS,
    STEP_PAIRS,
    STEP_KEY, /* inside the key of a pair; its value waits on the stack */
    STEP_UPVALUES,
};

struct plain_frame {
    int base; /* stack index of the table or function; a table's current key is next */
    enum plain_step step;
    uint32_t head;  /* offset of the tag */
    uint32_t items; /* entries written so far; of a function: upvalues */
    uint32_t pairs;
};

/* Something written: its address, number, and the offset of its tag. */
struct plain_mark {
    const void *addr;
    uint32_t id;
    uint32_t at;
};

struct plain_marks {
    struct plain_mark *slots;
    size_t size; /* a power of two, or 0 */
    size_t used;
};

struct plain_encoder {
    lua_State *L;
    lua_Alloc alloc;
    void *alloc_arg;
    uint8_t *buf;
    size_t len, cap;
    struct plain_frame *frames;
    int nframes, max_frames;
    struct plain_marks seen;    /* all tables, functions, cells and long strings */
    struct plain_marks strings; /* short strings: the latest per slot */
    const void *globals;        /* where functions are plain; NULL: not looked at yet */
    uint32_t next_id;
    int functions;
    bind_fds *fds; /* NULL: descriptors are not plain */
    int asked;     /* stack index of objects and their descriptors, or false */
    int retry;     /* the value at the top is to be asked first */
    int arg;       /* the value at work, from 1 */
    int busy;      /* in use */
    int closing;   /* lua_close has begun: nothing frees it any more but its user */
};

/* lua_format_state.c; memory errors are raised. */

/* Pushes an encoder, ready to write its first byte. */
struct plain_encoder *tine__lua_push_encoder(lua_State *L);
void tine__lua_release(struct plain_encoder *e);
/* Room for n more bytes; 0 when there would be more than 4 GiB. */
int tine__lua_grow(struct plain_encoder *e, size_t n);
void tine__lua_grow_frames(struct plain_encoder *e);
/* The mark of what was written before; else NULL, and addr is marked and numbered as
 * what is written next. The one for short strings forgets, so that it stays small. */
const struct plain_mark *tine__lua_mark(struct plain_encoder *e, const void *addr);
const struct plain_mark *tine__lua_mark_string(struct plain_encoder *e, const char *s);

/* lua_format_path.c */

/* Pushes "PATH: WHAT", where PATH leads to what e is at; what NULL: describes the value
 * at the top of the stack. Returns 0. */
int tine__lua_refuse(struct plain_encoder *e, const char *what);

#endif
