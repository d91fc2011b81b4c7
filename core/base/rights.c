#include "rights.h"

#include <string.h>

void tine__rights_put(struct msghdr *msg, void *control, const int *fds, size_t n)
{
    if (!n)
        return;
    size_t size = n * sizeof *fds;
    memset(control, 0, CMSG_SPACE(size));
    msg->msg_control = control;
    msg->msg_controllen = CMSG_SPACE(size);
    struct cmsghdr *c = CMSG_FIRSTHDR(msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(c), fds, size);
}

size_t tine__rights_get(struct msghdr *msg, int *fds, size_t most)
{
    size_t n = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t here = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        here = here < most - n ? here : most - n;
        memcpy(fds + n, CMSG_DATA(c), here * sizeof(int));
        n += here;
    }
    return n;
}
