/* Frames on a command socket, without any I/O: bytes in, frames out, and the reverse.
 *
 * A frame is a header of 12 bytes and a body: u8 type, u8 number of descriptors that ride
 * with the frame's first byte, u16 magic, u64 length of the body, little-endian.
 *
 * The reader never asks for a byte past the frame that it is reading, since after a RUN
 * the stream belongs to somebody else. */
#ifndef TINE_WIRE_FRAME_H
#define TINE_WIRE_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tine.h"

#define TINE__FRAME_HEAD 12
#define TINE__SMALL_BODY 256

/* A growable piece of memory. Zeros is empty. */
typedef struct tine__buf {
    unsigned char *data;
    size_t len, cap;
    bool failed; /* an append found no memory; the content is worthless */
} tine__buf;

void tine__buf_free(tine__buf *b);
/* Makes room for n more bytes. Returns where they go, or NULL. */
unsigned char *tine__buf_room(tine__buf *b, size_t n);
void tine__buf_put(tine__buf *b, const void *data, size_t len);
void tine__buf_u32(tine__buf *b, uint32_t v);
void tine__buf_u64(tine__buf *b, uint64_t v);
void tine__buf_str(tine__buf *b, const void *data, size_t len);

/* Takes a message apart. Reading past the end sets bad and gives zeros. */
typedef struct tine__cursor {
    const unsigned char *at, *end;
    bool bad;
} tine__cursor;

uint32_t tine__get_u32(tine__cursor *c);
uint64_t tine__get_u64(tine__cursor *c);
tine_str tine__get_str(tine__cursor *c);
/* Puts a NUL behind s, which lies in a message that is ours to write to: on what has been read
 * already, or, of the last one, on the byte behind the message. */
void tine__end_str(tine_str s);
/* Whether all was read, and nothing was missing. */
bool tine__get_done(const tine__cursor *c);

/* Writes the header of a frame with a body of len bytes. */
void tine__frame_head(unsigned char head[TINE__FRAME_HEAD], int type, size_t nfds,
                      uint64_t len);

typedef struct tine__reader {
    unsigned char head[TINE__FRAME_HEAD];
    size_t nhead;
    int type;
    size_t want_fds;
    uint64_t want; /* bytes of the body */
    tine__buf body;
    unsigned char small[TINE__SMALL_BODY]; /* the place of a body that fits */
    int fds[TINE_MAX_FDS];                 /* arrived with this frame; -1 where taken */
    size_t nfds;
    bool fds_lost; /* the process was out of descriptors: some did not arrive */
    const char *problem;
} tine__reader;

void tine__reader_init(tine__reader *r);
/* Closes what was not taken, and frees. */
void tine__reader_free(tine__reader *r);
/* Where the next bytes go and at most how many; NULL when out of memory. Never 0. */
unsigned char *tine__reader_room(tine__reader *r, size_t *room);
/* n bytes were put there, nfds descriptors (taken) came along. Returns 1 when the frame is
 * complete, 0 when more is needed, -EPROTO with r->problem set when this is no frame. */
int tine__reader_got(tine__reader *r, size_t n, const int *fds, size_t nfds,
                     bool fds_lost);
/* Whether nothing of a frame has been read: the stream may end here. */
bool tine__reader_between(const tine__reader *r);
/* Forgets the complete frame, closing descriptors that were not taken. */
void tine__reader_next(tine__reader *r);

#endif
