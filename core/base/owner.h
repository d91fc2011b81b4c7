/* Which process made something: forks of it are told apart from it without a system call. Knows
 * nothing of hosts. */
#ifndef TINE_BASE_OWNER_H
#define TINE_BASE_OWNER_H

#include <stdbool.h>
#include <sys/types.h>

typedef struct tine__owner {
    pid_t pid;
    const unsigned char
        *mark; /* 0 in every fork; NULL where the kernel cannot do that */
} tine__owner;

void tine__owner_open(tine__owner *o);
void tine__owner_close(tine__owner *o);
bool tine__owner_is_us(const tine__owner *o);

#endif
