/* Descriptors that go with calls: sets that calls own, and what the call stream brings. Both ends
 * include it. Knows nothing of frames, loops and Lua. */
#ifndef TINE_WIRE_PASSING_H
#define TINE_WIRE_PASSING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TINE__FDS_AT_ONCE 253u /* the kernel's limit for a message */
#define TINE__FDS_MOST 1024u   /* of one call, result or event */

/* Closed with the last reference. */
typedef struct tine__fds {
    unsigned refs;
    size_t n;
    int fd[];
} tine__fds;

/* Duplicates n descriptors. Returns 0, -EMSGSIZE for too many, -ENOMEM or what dup fails with. */
int tine__fds_new(tine__fds **out, const int *fds, size_t n);
void tine__fds_unref(tine__fds *s); /* NULL is fine */

/* What came with one message. */
typedef struct tine__batch {
    struct tine__batch *next;
    size_t n;
    bool lost; /* some did not fit into this process */
    int fd[];
} tine__batch;

/* Zeros is empty. */
typedef struct tine__inbox {
    tine__batch *first, *last; /* of which no frame has spoken yet, in order */
    int *fds;                  /* of the frame to come; -1: lost, or taken */
    size_t n, cap;
    uint64_t serial; /* of that frame */
} tine__inbox;

/* As recv; descriptors that came go to the inbox, close-on-exec; without one the kernel closes
 * them, and it takes a fifth less time. */
ssize_t tine__passing_recv(int sock, void *to, size_t len, int flags, tine__inbox *in);
/* As send; the descriptors go with the first byte. n at most TINE__FDS_AT_ONCE. */
ssize_t tine__passing_send(int sock, const void *data, size_t len, int flags,
                           const int *fds, size_t n);
/* A frame says that the oldest message in the inbox brought that many for the frame with that
 * serial, the first of which has that index. Returns false where it did not. */
bool tine__inbox_claim(tine__inbox *in, uint32_t count, uint32_t first,
                       uint64_t serial);
/* Closes what the frame that is over has left. */
void tine__inbox_drop(tine__inbox *in);
void tine__inbox_free(tine__inbox *in);

#endif
