#include "frame.h"

#include <errno.h>
#include <string.h>

#include "base/fd.h"
#include "protocol.h"

enum { MAGIC = 0x7e17, PIECE = 65536, SMALL_FRAME = 65536 };
static const uint64_t large_body = (uint64_t)1 << 40;

void tine__frame_head(unsigned char head[TINE__FRAME_HEAD], int type, size_t nfds,
                      uint64_t len)
{
    head[0] = (unsigned char)type;
    head[1] = (unsigned char)nfds;
    head[2] = MAGIC & 0xff;
    head[3] = MAGIC >> 8;
    for (int i = 0; i < 8; i++)
        head[4 + i] = (unsigned char)(len >> (8 * i));
}

void tine__reader_init(tine__reader *r)
{
    memset(r, 0, sizeof *r);
}

static void drop_body(tine__reader *r)
{
    if (r->body.data == r->small)
        memset(&r->body, 0, sizeof r->body);
    else
        tine__buf_free(&r->body);
}

void tine__reader_free(tine__reader *r)
{
    tine__fd_close_all(r->fds, r->nfds);
    r->nfds = 0;
    drop_body(r);
}

unsigned char *tine__reader_room(tine__reader *r, size_t *room)
{
    if (r->nhead < TINE__FRAME_HEAD) {
        *room = TINE__FRAME_HEAD - r->nhead;
        return r->head + r->nhead;
    }
    /* The body grows with what arrives, not with what the header claims. */
    if (!r->body.data && r->want <= sizeof r->small)
        r->body = (tine__buf){.data = r->small, .cap = sizeof r->small};
    uint64_t missing = r->want - r->body.len;
    size_t piece = r->body.len < PIECE ? PIECE : r->body.len;
    *room = missing < piece ? (size_t)missing : piece;
    return tine__buf_room(&r->body, *room);
}

static int refuse(tine__reader *r, const char *problem)
{
    r->problem = problem;
    return -EPROTO;
}

static int parse_head(tine__reader *r)
{
    const unsigned char *h = r->head;
    if ((h[2] | h[3] << 8) != MAGIC || h[0] == 0 || h[0] >= TINE__FRAME_TYPES)
        return refuse(r, "garbage instead of a command");
    r->type = h[0];
    r->want_fds = h[1];
    r->want = 0;
    for (int i = 0; i < 8; i++)
        r->want |= (uint64_t)h[4 + i] << (8 * i);
    bool small = r->type == TINE__FRAME_HELLO || r->type == TINE__FRAME_FORK ||
                 r->type == TINE__FRAME_FDS || r->type == TINE__FRAME_MEMORY ||
                 r->type == TINE__FRAME_FAIL || r->type == TINE__FRAME_CHANNEL;
    if (r->want > (small ? SMALL_FRAME : large_body))
        return refuse(r, "an oversized command");
    return 0;
}

int tine__reader_got(tine__reader *r, size_t n, const int *fds, size_t nfds,
                     bool fds_lost)
{
    r->fds_lost = r->fds_lost || fds_lost;
    for (size_t i = 0; i < nfds; i++) {
        int fd = fds[i];
        if (r->nfds < TINE_MAX_FDS)
            r->fds[r->nfds++] = fd;
        else
            tine__fd_close(&fd);
    }
    if (r->nhead < TINE__FRAME_HEAD) {
        r->nhead += n;
        if (r->nhead < TINE__FRAME_HEAD)
            return 0;
        int err = parse_head(r);
        if (err < 0)
            return err;
    } else {
        r->body.len += n;
    }
    if (r->nfds > r->want_fds)
        return refuse(r, "a command with more descriptors than it names");
    if (r->body.len < r->want)
        return 0;
    if (r->nfds < r->want_fds && !r->fds_lost)
        return refuse(r, "a command without the descriptors that it names");
    return 1;
}

bool tine__reader_between(const tine__reader *r)
{
    return r->nhead == 0;
}

void tine__reader_next(tine__reader *r)
{
    tine__fd_close_all(r->fds, r->nfds);
    r->nfds = 0;
    r->nhead = 0;
    r->want = 0;
    r->fds_lost = false;
    drop_body(r);
}
