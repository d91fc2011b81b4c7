/* Messages: put together in a buffer that grows, and taken apart with a cursor. Knows no message. */
#ifndef TINE_BASE_BUF_H
#define TINE_BASE_BUF_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "tine.h"

/* A growable piece of memory. Zeros is empty. */
typedef struct tine__buf {
    unsigned char *data;
    size_t len, cap;
    bool failed; /* one of the puts found no memory, and nothing is put any more */
} tine__buf;

void tine__buf_free(tine__buf *b);
/* Makes room for n more bytes. Returns where they go; or NULL, and b is as it was. */
unsigned char *tine__buf_room(tine__buf *b, size_t n);
/* Each appends. Numbers are little-endian; a string goes with its length, a u32, before it. */
void tine__buf_put(tine__buf *b, const void *data, size_t len);
void tine__buf_u32(tine__buf *b, uint32_t v);
void tine__buf_u64(tine__buf *b, uint64_t v);
void tine__buf_str(tine__buf *b, const void *data, size_t len);

/* Takes a message apart; inline, as it is done for each call. Reading past the end sets bad and gives zeros. */
typedef struct tine__cursor {
    const unsigned char *at, *end;
    bool bad;
} tine__cursor;

/* The next n bytes, or NULL. */
static inline const unsigned char *tine__get(tine__cursor *c, size_t n)
{
    if (c->bad || (size_t)(c->end - c->at) < n) {
        c->bad = true;
        return NULL;
    }
    const unsigned char *at = c->at;
    c->at += n;
    return at;
}

static inline uint32_t tine__get_u32(tine__cursor *c)
{
    uint32_t v = 0;
    const unsigned char *p = tine__get(c, sizeof v);
    if (p)
        memcpy(&v, p, sizeof v);
    return le32toh(v);
}

static inline uint64_t tine__get_u64(tine__cursor *c)
{
    uint64_t v = 0;
    const unsigned char *p = tine__get(c, sizeof v);
    if (p)
        memcpy(&v, p, sizeof v);
    return le64toh(v);
}

static inline tine_str tine__get_str(tine__cursor *c)
{
    size_t len = tine__get_u32(c);
    const unsigned char *p = tine__get(c, len);
    return p ? (tine_str){p, len} : (tine_str){"", 0};
}

/* Puts a NUL behind s, which lies in a message that is ours to write to: on what has been read
 * already, or, of the last one, on the byte behind the message. */
static inline void tine__end_str(tine_str s)
{
    ((unsigned char *)(size_t)s.data)[s.len] = 0;
}

/* Whether all was read, and nothing was missing. */
static inline bool tine__get_done(const tine__cursor *c)
{
    return !c->bad && c->at == c->end;
}

#endif
