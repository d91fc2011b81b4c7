#include "owner.h"

#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MARK_SIZE = 4096 };

/* A page that is all zeros in every fork of this process, however it was made: asking it
 * costs no system call. */
static const unsigned char *make_mark(void)
{
    unsigned char *mark = mmap(NULL, MARK_SIZE, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mark == MAP_FAILED)
        return NULL;
    if (madvise(mark, MARK_SIZE, MADV_WIPEONFORK) < 0) {
        munmap(mark, MARK_SIZE);
        return NULL;
    }
    *mark = 1;
    return mark;
}

void tine__owner_open(tine__owner *o)
{
    o->pid = getpid();
    o->mark = make_mark();
}

void tine__owner_close(tine__owner *o)
{
    if (o->mark)
        munmap((void *)(size_t)o->mark, MARK_SIZE);
    o->mark = NULL;
}

bool tine__owner_is_us(const tine__owner *o)
{
    return o->mark ? *o->mark != 0 : o->pid == getpid();
}
