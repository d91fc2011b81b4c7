/* What makes a process go when the one that made it goes, however that ends. Knows nothing of
 * what else ends with it. */
#ifndef TINE_BASE_PDEATHSIG_H
#define TINE_BASE_PDEATHSIG_H

#include <stdbool.h>
#include <sys/types.h>

/* It asks a process to see whether its parent lives, and to end if not. */
#define TINE__PDEATH_SIGNAL (SIGRTMAX - 1)

/* For a process whose parent has threads, or may have: ends this process when parent is
 * gone, and only then. Ends it at once if parent is gone already. */
void tine__pdeathsig_parent(pid_t parent);
/* What is then called, in a signal handler, instead of _exit; also in processes that are forked
 * from this one, when the signal is sent to them. */
void tine__pdeathsig_call(void (*end)(void));
/* Whether this process is guarded, and leads a process group that tine made for it. */
bool tine__pdeathsig_leads(void);
/* For a process forked by a single-threaded template: the kernel kills it. */
void tine__pdeathsig_template(pid_t parent);

/* Resets signal dispositions and the mask to what a new process has. Async-signal-safe. */
void tine__signals_reset(void);

#endif
