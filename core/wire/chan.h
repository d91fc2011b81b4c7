/* The sending half of a command socket: a queue of frames with their descriptors, written
 * out in as few system calls as possible. Knows no loop and no meaning of a frame. */
#ifndef TINE_WIRE_CHAN_H
#define TINE_WIRE_CHAN_H

#include <stdbool.h>
#include <stddef.h>

#include "tine.h"

struct tine__segment;

typedef struct tine__chan {
    int fd; /* owned; -1 when closed */
    struct tine__segment *head, *tail;
} tine__chan;

void tine__chan_init(tine__chan *c, int fd);
/* Closes the socket and every descriptor that was still queued. */
void tine__chan_free(tine__chan *c);
bool tine__chan_empty(const tine__chan *c);
/* Queues a frame whose body is the nparts pieces one after another (copied).
 * fds  taken. Returns 0, -ENOMEM, or -EMSGSIZE. */
int tine__chan_put(tine__chan *c, int type, const tine_str *parts, size_t nparts,
                   const int *fds, size_t nfds);
/* Writes what the socket takes. Returns 0 when the queue is empty, -EAGAIN when the socket
 * is full, -ENOBUFS when the system is short of something and a later try may do, or
 * another errno when the channel is broken (-EPIPE: nobody reads). */
int tine__chan_flush(tine__chan *c);

#endif
