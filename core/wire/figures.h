/* What a process says of its interpreter's memory, in a report or in the page that it shares with
 * the host. Knows nothing of where they come from. */
#ifndef TINE_WIRE_FIGURES_H
#define TINE_WIRE_FIGURES_H

#include <stdint.h>

#include "tine.h"

typedef struct tine__figures {
    tine_heap_kind heap; /* TINE_HEAP_UNKNOWN: it has not said anything yet */
    int64_t own, shared, sealed, seals;
    char failed[TINE_MEMORY_TEXT];
} tine__figures;

#endif
