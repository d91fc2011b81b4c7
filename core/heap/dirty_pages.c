/* What is written to sealed memory after all. A fork copies page tables for the
 * whole mapping that a written page lies in, as long as the mapping lives; so pages
 * that a template writes to (Lua's records of calls, tables that an eval changes)
 * are taken out of it, to be plain memory, and the rest becomes as new. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "heap.h"

/* A mapping with more than CARVE_MAX written pages is left to be sealed again. The
 * cost of looking is kept to a quarter of the cost of forks since the last look. */
enum { PAGE = 4096, CARVE_MAX = 256, LOOK_SHARE = 4, CARVED_MAX = 512 };

/* A scan for pages that are present, or swapped out, and not of a file: copies. */
typedef struct region {
    uint64_t from, to, categories;
} region;

typedef struct scan {
    int pagemap;
    bool by_entries; /* the kernel has no ioctl for it */
    bool failed;
    uint64_t at, end;
    int n, next;
    region regions[64];
} scan;

/* As in linux/fs.h since Linux 6.7. */
struct pm_scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask,
        any_of, returned;
};
#define PM_SCAN _IOWR('f', 16, struct pm_scan)
enum { IS_FILE = 1 << 2, IS_PRESENT = 1 << 3, IS_SWAPPED = 1 << 4 };

static bool scan_by_ioctl(scan *s)
{
    struct pm_scan arg = {.size = sizeof arg,
                          .start = s->at,
                          .end = s->end,
                          .vec = (uint64_t)(uintptr_t)s->regions,
                          .vec_len = sizeof s->regions / sizeof *s->regions,
                          .inverted = IS_FILE,
                          .mask = IS_FILE,
                          .any_of = IS_PRESENT | IS_SWAPPED,
                          .returned = IS_PRESENT};
    int n = ioctl(s->pagemap, PM_SCAN, &arg);
    if (n < 0)
        return false;
    s->n = n;
    s->at = arg.walk_end;
    return true;
}

static void scan_by_entries(scan *s)
{
    enum { ENTRIES = 512 };
    static const uint64_t here = 3ull << 62, of_file = 1ull << 61;
    uint64_t entries[ENTRIES], left = (s->end - s->at) / PAGE;
    ssize_t got = pread(s->pagemap, entries, (left < ENTRIES ? left : ENTRIES) * 8,
                        (off_t)(s->at / PAGE * 8)) /
                  8;
    if (got <= 0) {
        s->failed = true;
        s->at = s->end;
    }
    for (ssize_t i = 0; i < got && s->n < 64; i++, s->at += PAGE) {
        region *last = s->n ? &s->regions[s->n - 1] : NULL;
        if (!(entries[i] & here) || (entries[i] & of_file))
            continue;
        if (last && last->to == s->at)
            last->to += PAGE;
        else
            s->regions[s->n++] = (region){s->at, s->at + PAGE, 0};
    }
}

/* The next of them that lie together, or NULL. */
static const region *scan_next(scan *s)
{
    while (s->next == s->n && s->at < s->end) {
        s->n = s->next = 0;
        if (!s->by_entries)
            s->by_entries = !scan_by_ioctl(s);
        if (s->by_entries)
            scan_by_entries(s);
    }
    return s->next < s->n ? &s->regions[s->next++] : NULL;
}

/* Notes the first `room` written pages, by number in the mapping, and returns how
 * many there are. */
static size_t find_written(int pagemap, const char *from, size_t pages, uint32_t *which,
                           size_t room)
{
    uint64_t begin = (uintptr_t)from;
    scan s = {.pagemap = pagemap, .at = begin, .end = begin + pages * PAGE};
    size_t written = 0;
    for (const region *r; (r = scan_next(&s)) != NULL;)
        for (uint64_t at = r->from; at < r->to; at += PAGE)
            if (written++ < room)
                which[written - 1] = (uint32_t)((at - begin) / PAGE);
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

size_t tine__heap_dirty_pages(const tine__heap *h)
{
    size_t sum = 0;
    visit_mappings(h, count_one, &sum);
    return sum;
}

/* Of the whole address space of what is sealed: written pages lie in mappings of many kinds,
 * and what was swapped out counts, too. */
bool tine__heap_each_dirty_page(const tine__heap *h,
                                void (*f)(void *arg, const tine__run *r, char *page),
                                void *arg)
{
    enum { UNIT_SIZE = 1 << TINE__UNIT_SHIFT };
    const tine__arena *a = &h->arena;
    uint64_t base = (uintptr_t)a->base;
    uint32_t u = 1; /* the run that the page lies in */
    scan s = {.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC),
              .at = base + UNIT_SIZE,
              .end = base + (uint64_t)a->top * UNIT_SIZE};
    if (s.pagemap < 0)
        return false;
    for (const region *r; (r = scan_next(&s)) != NULL;) {
        for (uint64_t at = r->from; at < r->to; at += PAGE) {
            while (u + a->runs[u].units <= (at - base) / UNIT_SIZE)
                u += a->runs[u].units;
            if (a->runs[u].sealed)
                f(arg, &a->runs[u], a->base + (at - base));
        }
    }
    close(s.pagemap);
    return !s.failed;
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
    int64_t now = (int64_t)tine__clock_ns();
    h->fork_ns += now - began;
    if (h->fork_ns < LOOK_SHARE * h->look_ns)
        return;
    visit_mappings(h, carve_one, &h->stats.carved);
    h->look_ns = (int64_t)tine__clock_ns() - now;
    h->fork_ns = 0;
    h->changed = false;
}
