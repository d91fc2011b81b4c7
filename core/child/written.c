/* What is written to sealed memory after all. A fork copies page tables for the
 * whole mapping that a written page lies in, as long as the mapping lives; so pages
 * that a template writes to (Lua's records of calls, tables that an eval changes)
 * are taken out of it, to be plain memory, and the rest becomes as new. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "heap.h"

/* A mapping with more than CARVE_MAX written pages is left to be sealed again. The
 * cost of looking is kept to a quarter of the cost of forks since the last look. */
enum { PAGE = 4096, CARVE_MAX = 256, LOOK_SHARE = 4, CARVED_MAX = 512 };

int64_t tine__heap_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Notes the first `room` written pages, by number in the mapping, and returns how
 * many there are. What is present and not of the file is a copy. */
static size_t find_written(int pagemap, const char *from, size_t pages, uint32_t *which,
                           size_t room)
{
    enum { ENTRIES = 512 };
    static const uint64_t here = 3ull << 62, of_file = 1ull << 61;
    uint64_t entries[ENTRIES];
    size_t first = (uintptr_t)from / PAGE, written = 0;
    for (size_t done = 0; done < pages;) {
        size_t want = pages - done < ENTRIES ? pages - done : ENTRIES;
        ssize_t got =
            pread(pagemap, entries, want * 8, (off_t)((first + done) * 8)) / 8;
        if (got <= 0)
            break;
        for (size_t i = 0; i < (size_t)got; i++)
            if ((entries[i] & here) && !(entries[i] & of_file) && written++ < room)
                which[written - 1] = (uint32_t)(done + i);
        done += (size_t)got;
    }
    return written;
}

/* The next mapping of sealed memory of this heap's. */
static bool next_mapping(const tine__heap *h, FILE *maps, char **from, size_t *pages)
{
    char line[400];
    while (fgets(line, sizeof line, maps)) {
        unsigned long begin, end;
        if (strstr(line, "/memfd:tine-heap") &&
            sscanf(line, "%lx-%lx", &begin, &end) == 2 &&
            tine__arena_has(&h->arena, (void *)begin)) {
            *from = (char *)begin;
            *pages = (end - begin) / PAGE;
            return true;
        }
    }
    return false;
}

/* Makes a mapping as new, but for the contents of the written pages. */
static bool carve(char *from, size_t pages, const uint32_t *which, size_t n)
{
    size_t len = pages * PAGE;
    /* The old mapping stays, empty, without what made fork copy it. Since Linux
     * 5.13. */
    char *moved = mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    if (moved == MAP_FAILED)
        return false;
    for (size_t i = 0; i < n; i++) {
        char *page = from + (size_t)which[i] * PAGE;
        /* Where this is refused the page is written to the old mapping, as it was
         * before. */
        (void)mmap(page, PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
        tine__heap_copy_raw(page, moved + (size_t)which[i] * PAGE, PAGE);
    }
    munmap(moved, len);
    return true;
}

typedef void visit(const tine__heap *h, char *from, size_t pages, size_t written,
                   const uint32_t *which, void *arg);

static void visit_mappings(const tine__heap *h, visit *f, void *arg)
{
    uint32_t which[CARVE_MAX];
    char *from;
    size_t pages;
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    FILE *maps = pagemap < 0 ? NULL : fopen("/proc/self/maps", "re");
    while (maps && next_mapping(h, maps, &from, &pages))
        f(h, from, pages, find_written(pagemap, from, pages, which, CARVE_MAX), which,
          arg);
    if (maps)
        fclose(maps);
    if (pagemap >= 0)
        close(pagemap);
}

static void count_one(const tine__heap *h, char *from, size_t pages, size_t written,
                      const uint32_t *which, void *sum)
{
    (void)h, (void)from, (void)pages, (void)which;
    *(size_t *)sum += written;
}

size_t tine__heap_written(const tine__heap *h)
{
    size_t sum = 0;
    visit_mappings(h, count_one, &sum);
    return sum;
}

static void mark_one(const tine__heap *h, char *from, size_t pages, size_t written,
                     const uint32_t *which, void *dirty)
{
    (void)which;
    uint32_t u = (uint32_t)((size_t)(from - h->arena.base) >> TINE__UNIT_SHIFT);
    if (written > CARVE_MAX && pages)
        ((bool *)dirty)[u / TINE__PIECE % TINE__PIECES] = true;
}

void tine__heap_find_dirty(const tine__heap *h, bool *dirty)
{
    visit_mappings(h, mark_one, dirty);
}

/* Not the string table: it is written to at random. It has mappings of its own. */
static void carve_one(const tine__heap *h, char *from, size_t pages, size_t written,
                      const uint32_t *which, void *carved)
{
    const char *strings = tine__gc_strings(h);
    if (!written || written > CARVE_MAX ||
        (strings >= from && strings < from + pages * PAGE) ||
        *(unsigned *)carved + written > CARVED_MAX)
        return;
    if (carve(from, pages, which, written))
        *(unsigned *)carved += (unsigned)written;
}

void tine__heap_changed(lua_State *L)
{
    tine__heap *h = tine__heap_of(L);
    if (h)
        h->changed = true;
}

void tine__heap_forked(lua_State *L, int64_t began)
{
    tine__heap *h = tine__heap_of(L);
    if (!h || !h->stats.sealed || !h->changed)
        return;
    int64_t now = tine__heap_clock();
    h->fork_ns += now - began;
    if (h->fork_ns < LOOK_SHARE * h->look_ns)
        return;
    visit_mappings(h, carve_one, &h->stats.carved);
    h->look_ns = tine__heap_clock() - now;
    h->fork_ns = 0;
    h->changed = false;
}
