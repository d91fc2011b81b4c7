/* What makes of local processes share: where their standard descriptors go. Knows nothing of what
 * the new process will do. */
#ifndef TINE_PROCESS_LOCAL_SPAWN_H
#define TINE_PROCESS_LOCAL_SPAWN_H

#include "local_priv.h"

/* The redirections of a new process: flags for the FORK or HELLO frame, and descriptors. */
typedef struct tine__redirect {
    uint32_t flags;
    int fds[3]; /* owned; -1: none */
} tine__redirect;

/* As options say. Nothing is open after an error. */
int tine__redirect_all(tine__local *l, const tine_proc_options *options,
                       tine__redirect *r);
/* The default for stdin of what is no fork of a template; sets l->apart. */
void tine__redirect_stdin(tine__local *l, const tine_proc_options *options,
                          tine__redirect *r);
void tine__redirect_close(tine__redirect *r);

/* TINE__STDIO_x of descriptor n. */
static inline int tine__redirect_kind(const tine__redirect *r, int n)
{
    return (int)(r->flags >> 2 * n & 3);
}

/* l, whose pid and pidfd are there, is our own child: it is watched, or killed. */
int tine__local_is_direct(tine__local *l);

#endif
