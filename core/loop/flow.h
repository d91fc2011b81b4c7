/* Sources of which there may be no end: a worker's events, the lines of a process. Who sends more
 * than can be taken, for long, while calls of others are under way, is not watched any more: it has
 * turns from time to time, and waits between them, since what it sends to is full. All of these
 * together have a tenth of the host's time, and what nobody else wants. */
#ifndef TINE_LOOP_FLOW_H
#define TINE_LOOP_FLOW_H

#include <sys/queue.h>

#include "loop.h"

/* Part of the source. Zeros but for the first two. */
typedef struct tine__flow {
    /* One turn, which says tine__flow_had at its end. */
    void (*turn)(void *arg);
    void *arg;
    TAILQ_ENTRY(tine__flow) others; /* those held back */
    tine_io *io;                    /* not watched while it is held back */
    int64_t usec;                   /* of turns, less what it lost when all was taken */
    bool held;
    bool is_long; /* it has taken too much: nobody waits for its sake */
    bool owes;    /* answers: it is one of the host's busy ones itself */
} tine__flow;

/* A turn has taken so long; dry: there was no more. io: what it is watched with. */
void tine__flow_had(tine_host *host, tine__flow *f, tine_io *io, int64_t usec,
                    bool dry);
/* Before its io is freed. */
void tine__flow_end(tine_host *host, tine__flow *f);
void tine__flow_owes(tine_host *host, tine__flow *f, bool owes);

#endif
