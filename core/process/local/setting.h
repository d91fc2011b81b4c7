/* What a process gets from a host when it is made by exec, beside its options: the interpreter and
 * its module paths, the working directory, the environment. Knows nothing of what is made of it. */
#ifndef TINE_PROCESS_LOCAL_SETTING_H
#define TINE_PROCESS_LOCAL_SETTING_H

#include <stdbool.h>

#include "tine.h"

typedef struct tine__setting tine__setting;

/* As it is now; to be freed. NULL for want of memory. */
tine__setting *tine__setting_take(const tine_host *host);
/* Whether it is as it was. */
bool tine__setting_holds(const tine__setting *s, const tine_host *host);

#endif
