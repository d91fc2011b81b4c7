/* Descriptors that ride with a message (SCM_RIGHTS). Knows nothing of messages but the room for
 * them. */
#ifndef TINE_BASE_RIGHTS_H
#define TINE_BASE_RIGHTS_H

#include <stddef.h>
#include <sys/socket.h>

/* Room for n of them, or of what else a control message brings. */
#define TINE__RIGHTS_ROOM(n)                                                           \
    union {                                                                            \
        struct cmsghdr align;                                                          \
        char space[CMSG_SPACE((n) * sizeof(int))];                                     \
    }

/* Has msg carry n descriptors; 0: none. control has room for them, for as long as msg. */
void tine__rights_put(struct msghdr *msg, void *control, const int *fds, size_t n);
/* Those that came with msg, most at most, which its control has room for. Returns how many. */
size_t tine__rights_get(struct msghdr *msg, int *fds, size_t most);

#endif
