/* Regions of shared memory for workers that serve calls, many in one memfd: a descriptor for
 * each would be too many. See scoreboard.h. */
#include "scoreboard.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/queue.h>
#include <unistd.h>

#include "base/fd.h"

enum { REGIONS = 64 };

typedef struct chunk {
    LIST_ENTRY(chunk) spare; /* while it has a free region */
    LIST_ENTRY(chunk) all;
    unsigned char *memory;
    int fd;
    uint64_t free; /* a bit for each region */
} chunk;

struct tine__scoreboard {
    LIST_HEAD(, chunk) spare, all;
};

int tine__scoreboard_open(tine__scoreboard **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : -ENOMEM;
}

static void chunk_free(chunk *c)
{
    munmap(c->memory, (size_t)REGIONS * TINE__REGION);
    tine__fd_close(&c->fd);
    free(c);
}

void tine__scoreboard_free(tine__scoreboard *b)
{
    if (!b)
        return;
    for (chunk *c; (c = LIST_FIRST(&b->all));) {
        LIST_REMOVE(c, all);
        chunk_free(c);
    }
    free(b);
}

/* A file that has no name any more, in the first directory that takes it. */
static int unlinked_file(void)
{
    const char *dirs[] = {"/dev/shm", getenv("TMPDIR"), "/tmp", "/var/tmp"};
    char path[PATH_MAX];
    int fd = -1;
    for (size_t i = 0; fd < 0 && i < sizeof dirs / sizeof *dirs; i++) {
        if (!dirs[i] ||
            snprintf(path, sizeof path, "%s/tine-XXXXXX", dirs[i]) >= (int)sizeof path)
            continue;
        fd = mkostemp(path, O_CLOEXEC);
        if (fd >= 0)
            unlink(path);
    }
    return fd;
}

/* The seals keep whoever holds the descriptor from cutting the memory off under us. A file cannot
 * have them: where there is no memfd (containers refuse it), a worker is trusted with that until it
 * has mapped the memory, and closed the descriptor, which it does before any code of the user's. */
static int memory_file(size_t size)
{
    int fd = memfd_create("tine", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    bool sealable = fd >= 0;
    if (fd < 0 && (errno == ENOSYS || errno == EPERM || errno == EACCES))
        fd = unlinked_file();
    fd = fd < 0 ? -errno : tine__fd_above_stdio(fd);
    if (fd < 0)
        return fd;
    if (ftruncate(fd, (off_t)size) == 0 &&
        (!sealable ||
         fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0))
        return fd;
    int err = -errno;
    tine__fd_close(&fd);
    return err;
}

static int chunk_map(chunk *c)
{
    size_t size = (size_t)REGIONS * TINE__REGION;
    c->fd = memory_file(size);
    if (c->fd < 0)
        return c->fd;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    c->memory = memory;
    /* A fork of the program is no host of these workers. */
    madvise(memory, size, MADV_DONTFORK);
    return 0;
}

static chunk *grow(tine__scoreboard *b, int *err)
{
    chunk *c = calloc(1, sizeof *c);
    *err = -ENOMEM;
    if (!c)
        return NULL;
    c->fd = -1;
    *err = chunk_map(c);
    if (!c->memory) {
        tine__fd_close(&c->fd);
        free(c);
        return NULL;
    }
    c->free = ~UINT64_C(0);
    LIST_INSERT_HEAD(&b->all, c, all);
    LIST_INSERT_HEAD(&b->spare, c, spare);
    return c;
}

int tine__scoreboard_take(tine__scoreboard *b, tine__region *out)
{
    int err = 0;
    chunk *c = LIST_EMPTY(&b->spare) ? grow(b, &err) : LIST_FIRST(&b->spare);
    if (!c)
        return err;
    unsigned slot = (unsigned)__builtin_ctzll(c->free);
    c->free &= c->free - 1;
    if (!c->free)
        LIST_REMOVE(c, spare);
    out->offset = (uint64_t)slot * TINE__REGION;
    out->page = (tine__page *)(void *)(c->memory + out->offset);
    out->fd = c->fd;
    out->chunk = c;
    out->slot = slot;
    /* The ring needs no zeros: only what `tail` covers is ever read. */
    memset(out->page, 0, sizeof *out->page);
    return 0;
}

void tine__scoreboard_give_back(tine__scoreboard *b, tine__region *r)
{
    chunk *c = r->chunk;
    if (!c)
        return;
    if (!c->free)
        LIST_INSERT_HEAD(&b->spare, c, spare);
    c->free |= UINT64_C(1) << r->slot;
    if (c->free == ~UINT64_C(0)) {
        LIST_REMOVE(c, spare);
        LIST_REMOVE(c, all);
        chunk_free(c);
    }
    memset(r, 0, sizeof *r);
    r->fd = -1;
}
