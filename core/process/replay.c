/* See replay.h. */
#include "replay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "wire/protocol.h"

tine__replay *tine__replay_ref(tine__replay *r)
{
    if (r)
        r->refs++;
    return r;
}

void tine__replay_unref(tine__replay *r)
{
    while (r && --r->refs == 0) {
        tine__replay *before = r->before;
        if (r->fd)
            tine__fd_close_all(r->fd, r->nfds);
        free(r->fd);
        free(r);
        r = before;
    }
}

/* A new one that takes before; NULL, and before is given back, if it is too much. */
static tine__replay *append(tine__replay *before, int type, size_t len, size_t nfds)
{
    size_t bytes = before ? before->bytes : 0, fds = before ? before->fds : 0;
    bool fits = len <= TINE__REPLAY_BYTES - bytes && nfds <= TINE__REPLAY_FDS - fds;
    tine__replay *r = fits ? calloc(1, sizeof *r + len + 1) : NULL;
    if (r && nfds) {
        r->fd = malloc(nfds * sizeof *r->fd);
        if (!r->fd) {
            free(r);
            r = NULL;
        }
    }
    if (!r) {
        tine__replay_unref(before);
        return NULL;
    }
    r->before = before;
    r->refs = 1;
    r->type = type;
    r->bytes = bytes + len;
    r->fds = fds + nfds;
    r->count = (before ? before->count : 0) + 1;
    r->len = len;
    r->nfds = nfds;
    for (size_t i = 0; i < nfds; i++)
        r->fd[i] = -1;
    return r;
}

/* Duplicates fd into place i; NULL, and r is given back, where that cannot be. */
static tine__replay *keep_fd(tine__replay *r, size_t i, int fd)
{
    r->fd[i] = tine__fd_dup(fd);
    if (r->fd[i] >= 0)
        return r;
    tine__replay_unref(r);
    return NULL;
}

static bool says_nothing(const tine_proc_options *o)
{
    return !o->name && !o->detach && o->stdio[0].how == TINE_STDIO_DEFAULT &&
           o->stdio[1].how == TINE_STDIO_DEFAULT &&
           o->stdio[2].how == TINE_STDIO_DEFAULT;
}

tine__replay *tine__replay_birth(tine__replay *r, const tine_proc_options *options,
                                 bool exec)
{
    static const tine_proc_options none;
    const tine_proc_options *o = options ? options : &none;
    if (!exec && (!r || says_nothing(o)))
        return r;
    size_t len = o->name ? strnlen(o->name, TINE__NAME_MAX) : 0;
    r = append(r, TINE__REPLAY_BIRTH, len, 3);
    if (!r)
        return NULL;
    if (len)
        memcpy(r->data, o->name, len);
    r->fds -= 3;
    r->detach = o->detach;
    for (int n = 0; n < 3 && r; n++) {
        r->stdio[n] = o->stdio[n].how;
        if (!exec && r->stdio[n] == TINE_STDIO_INHERIT)
            r->stdio[n] = TINE_STDIO_DEFAULT; /* its template's */
        if (r->stdio[n] == TINE_STDIO_FD) {
            r->fds++;
            r = keep_fd(r, (size_t)n, o->stdio[n].fd);
        } else if (r->stdio[n] == TINE_STDIO_LINES) {
            tine__replay_unref(r);
            return NULL;
        }
    }
    return r;
}

tine__replay *tine__replay_command(tine__replay *r, int type, const tine_str *parts,
                                   size_t nparts, const int *fds, size_t nfds)
{
    size_t len = 0, at = 0;
    for (size_t i = 0; i < nparts; i++)
        len += parts[i].len;
    r = append(r, type, len, nfds);
    for (size_t i = 0; i < nparts && r; i++) {
        if (parts[i].len)
            memcpy(r->data + at, parts[i].data, parts[i].len);
        at += parts[i].len;
    }
    for (size_t i = 0; i < nfds && r; i++)
        r = keep_fd(r, i, fds[i]);
    return r;
}
