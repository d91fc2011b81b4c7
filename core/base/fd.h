/* Descriptors: made close-on-exec, never 0 to 2, and -1 when there is none. Knows nothing of what
 * they are for. */
#ifndef TINE_BASE_FD_H
#define TINE_BASE_FD_H

#include <stdbool.h>
#include <stddef.h>

/* Closes *fd if there is one and sets it to -1. Keeps errno. */
void tine__fd_close(int *fd);
void tine__fd_close_all(int *fds, size_t n);
/* A close-on-exec duplicate above 2, or a negative errno. */
int tine__fd_dup(int fd);
/* Moves a new descriptor above 2: a program may run with 0, 1 or 2 closed. Takes fd, also on
 * failure. Returns the descriptor or a negative errno. */
int tine__fd_above_stdio(int fd);
/* A connected AF_UNIX pair, close-on-exec and above 2. Returns 0 or a negative errno. */
int tine__fd_pair(int type, int pair[2]);
/* A pipe, likewise; [0] reads and is nonblocking. */
int tine__fd_pipe(int pair[2]);
int tine__fd_nonblock(int fd, bool on);
/* Closes every descriptor from lowest up, except those in keep (sorted, ascending).
 * Async-signal-safe. */
void tine__fd_close_from(int lowest, const int *keep, size_t nkeep);

#endif
