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

#include "base/buf.h"
#include "tine.h"

#define TINE__FRAME_HEAD 12
#define TINE__SMALL_BODY 256

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
