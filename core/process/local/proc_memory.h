/* What the system says of a process's memory. Knows processes by their numbers only. */
#ifndef TINE_PROCESS_LOCAL_PROC_MEMORY_H
#define TINE_PROCESS_LOCAL_PROC_MEMORY_H

#include <stdbool.h>
#include <sys/types.h>

#include "tine.h"

/* What /proc tells of a process that is alive, zombies included, and stays so: all that can
 * be read. With mappings also what needs a walk over its page tables. */
void tine__memory_read(tine_memory *m, pid_t pid, bool mappings);

#endif
