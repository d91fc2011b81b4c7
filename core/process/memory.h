/* What is known of a process's memory, of what it says itself. Knows nothing of where the rest comes
 * from. */
#ifndef TINE_PROCESS_MEMORY_H
#define TINE_PROCESS_MEMORY_H

#include "tine.h"
#include "wire/figures.h"

/* Everything unknown. */
void tine__memory_clear(tine_memory *m);
void tine__memory_take(tine_memory *m, const tine__figures *f);

#endif
