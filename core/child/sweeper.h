/* What `tine-template --sweep` does: see core/process/local/sweeper.h. Knows no process but the leaders
 * that it is told of. */
#ifndef TINE_CHILD_SWEEPER_H
#define TINE_CHILD_SWEEPER_H

#include <sys/types.h>

/* fd: the host's end is elsewhere. Returns the exit code when all is done. */
int tine__sweep(int fd, pid_t host);

#endif
