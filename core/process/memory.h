/* What a process says of its interpreter's memory, in a report or in the page that it
 * shares with the host, and what the system says of the rest. */
#ifndef TINE_PROCESS_MEMORY_H
#define TINE_PROCESS_MEMORY_H

#include <stdbool.h>
#include <sys/types.h>

#include "tine.h"
#include "wire/figures.h"

/* Everything unknown. */
void tine__memory_clear(tine_memory *m);
void tine__memory_take(tine_memory *m, const tine__figures *f);
/* What /proc tells of a process that is alive, zombies included, and stays so: all that can
 * be read. With mappings also what needs a walk over its page tables. */
void tine__memory_read(tine_memory *m, pid_t pid, bool mappings);

#endif
