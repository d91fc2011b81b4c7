/* What makes a process go when the one that made it goes, however that ends. */
#ifndef TINE_GUARD_H
#define TINE_GUARD_H

#include <sys/types.h>

/* For a process whose parent has threads, or may have: ends this process when parent is
 * gone, and only then. Ends it at once if parent is gone already. */
void tine__guard_parent(pid_t parent);
/* For a process forked by a single-threaded template: the kernel kills it. */
void tine__guard_template(pid_t parent);

/* Resets signal dispositions and the mask to what a new process has. Async-signal-safe. */
void tine__signals_reset(void);

#endif
