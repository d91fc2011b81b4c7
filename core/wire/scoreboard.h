/* The scoreboard: regions of shared memory, one for each worker that serves calls; see
 * call.h for what is in one. Knows nothing of processes. */
#ifndef TINE_WIRE_SCOREBOARD_H
#define TINE_WIRE_SCOREBOARD_H

#include "call.h"
#include "tine.h"

typedef struct tine__scoreboard tine__scoreboard; /* of a host */

typedef struct tine__region {
    tine__page
        *page; /* mapped in the host, zeroed; the ring lies TINE__PAGE_STATUS on */
    uint64_t offset; /* where it lies in the memfd */
    void *chunk;     /* private */
    int fd;          /* borrowed: the memfd */
    unsigned slot;   /* private */
} tine__region;

/* Returns 0, -ENOMEM, -EMFILE or another errno. */
int tine__scoreboard_open(tine__scoreboard **out);
void tine__scoreboard_free(tine__scoreboard *b);
/* A region nobody uses. O(1), but for each 64th. */
int tine__scoreboard_take(tine__scoreboard *b, tine__region *out);
/* Only when the worker that had it is surely gone. The last of a memfd closes it. */
void tine__scoreboard_give_back(tine__scoreboard *b, tine__region *r);

#endif
