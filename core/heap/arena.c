/* Runs of units: taken from bins of free ones, joined with their free neighbours
 * when they come back. Knows nothing of blocks. */
#include "arena.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* Units. STALE_KEPT may stay with us though they are free. The table of runs is
 * mapped for so many units at a time that it takes whole pages. Free runs of CLOSE_MIN and
 * more are unmapped when their memory is given back. */
enum { OPEN_STEP = 64, RUNS_STEP = 2048, STALE_KEPT = 128, CLOSE_MIN = 16 };

/* How far the arena may grow, and how far below all other mappings it begins. */
static const size_t ROOM = (size_t)1 << 38, DISTANCE = (size_t)1 << 40;
/* What the base is a multiple of. */
static const size_t HUGE_PAGE = (size_t)2 << 20;

static bool map_at(void *at, size_t len)
{
    /* Accounted for like any memory: limits of address space and of data hold. */
    void *p =
        mmap(at, len, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (p != MAP_FAILED && p != at) {
        munmap(p, len); /* a kernel that takes the address for a hint */
        errno = EEXIST;
    }
    return p == at;
}

/* Nothing is reserved, as that would count against limits: the kernel places what
 * others map as high as it can, and we grow upwards from far below. */
int tine__arena_open(tine__arena *a)
{
    memset(a, 0, sizeof *a);
    void *probe = mmap(NULL, TINE__UNIT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (probe == MAP_FAILED)
        return -errno;
    munmap(probe, TINE__UNIT);
    uintptr_t high = (uintptr_t)probe & ~(HUGE_PAGE - 1);
    if (high < 2 * DISTANCE)
        return -ENOMEM;
    a->base = (char *)(high - DISTANCE);
    a->limit = (uint32_t)(ROOM >> TINE__UNIT_SHIFT);
    a->runs = (tine__run *)(high - DISTANCE - a->limit * sizeof *a->runs);
    a->top = 1; /* the unit before belongs to nobody */
    a->open = 0;
    if (!map_at(a->runs, RUNS_STEP * sizeof *a->runs)) {
        int err = -errno;
        memset(a, 0, sizeof *a);
        return err;
    }
    a->described = RUNS_STEP;
    return 0;
}

void tine__arena_close(tine__arena *a)
{
    if (!a->base)
        return;
    munmap(a->base, (size_t)a->open << TINE__UNIT_SHIFT);
    munmap(a->runs, a->described * sizeof *a->runs);
    memset(a, 0, sizeof *a);
}

static unsigned bin_of(uint32_t units)
{
    return 31u - (unsigned)__builtin_clz(units);
}

static void mark(tine__arena *a, uint32_t u, uint32_t n, tine__run_kind kind)
{
    tine__run *last = &a->runs[u + n - 1];
    last->kind = TINE__RUN_NONE;
    last->first = u;
    a->runs[u].kind = kind;
    a->runs[u].units = n;
    if (tine__run_is_free(&a->runs[u]))
        last->kind = kind;
}

static void put(tine__arena *a, uint32_t u, uint32_t n, tine__run_kind kind, bool stale)
{
    tine__run *r = &a->runs[u];
    uint32_t *bin = &a->bins[bin_of(n)];
    mark(a, u, n, kind);
    r->flag = stale;
    r->sealed = false;
    r->prev = 0;
    r->next = *bin;
    if (r->next)
        a->runs[r->next].prev = u;
    *bin = u;
    a->stale += stale ? n : 0;
}

static void unlink_run(tine__arena *a, uint32_t u)
{
    tine__run *r = &a->runs[u];
    if (r->prev)
        a->runs[r->prev].next = r->next;
    else
        a->bins[bin_of(r->units)] = r->next;
    if (r->next)
        a->runs[r->next].prev = r->prev;
    a->stale -= r->flag ? r->units : 0;
}

static uint32_t find(const tine__arena *a, uint32_t n)
{
    unsigned bin = bin_of(n);
    uint32_t u = a->bins[bin];
    for (int tries = 0; u && tries < 8; tries++, u = a->runs[u].next)
        if (a->runs[u].units >= n)
            return u;
    while (++bin < TINE__ARENA_BINS)
        if (a->bins[bin])
            return a->bins[bin];
    return 0;
}

/* Maps `need` units, or, if it can, `wish`. Returns how many, or 0. */
static uint32_t open_units(tine__arena *a, uint32_t u, uint32_t need, uint32_t wish)
{
    char *at = tine__arena_at(a, u);
    if (map_at(at, (size_t)wish << TINE__UNIT_SHIFT))
        return wish;
    return map_at(at, (size_t)need << TINE__UNIT_SHIFT) ? need : 0;
}

static uint32_t rounded(uint32_t units)
{
    return (units + OPEN_STEP - 1) / OPEN_STEP * OPEN_STEP;
}

/* Makes units below `end` accessible, some ahead; neighbours become one mapping. */
static bool open_up_to(tine__arena *a, uint32_t end)
{
    uint32_t ahead = rounded(end);
    if (end <= a->open)
        return true;
    if (end > a->limit)
        return false;
    while (a->described < ahead) {
        if (!map_at(a->runs + a->described, RUNS_STEP * sizeof *a->runs))
            return false;
        a->described += RUNS_STEP;
    }
    a->open += open_units(a, a->open, end - a->open, ahead - a->open);
    return end <= a->open;
}

/* Makes the first n units of a free run accessible, some ahead. If others have allocated there
 * meanwhile, it is retired, and errno is EEXIST. */
static bool open_run(tine__arena *a, uint32_t u, uint32_t n)
{
    uint32_t all = a->runs[u].units, wish = rounded(n);
    if (a->runs[u].kind != TINE__RUN_CLOSED)
        return true;
    uint32_t got = open_units(a, u, n, wish < all ? wish : all);
    if (!got && errno == EEXIST)
        tine__arena_retire(a, u);
    if (!got)
        return false;
    unlink_run(a, u);
    put(a, u, got, TINE__RUN_FREE, false);
    if (got < all)
        put(a, u + got, all - got, TINE__RUN_CLOSED, false);
    return true;
}

/* The first n units of a free run, without those behind them. */
static void cut(tine__arena *a, uint32_t u, uint32_t n)
{
    tine__run *r = &a->runs[u];
    uint32_t rest = r->units - n;
    unlink_run(a, u);
    if (rest)
        put(a, u + n, rest, TINE__RUN_FREE, r->flag);
}

static uint32_t try_to_take(tine__arena *a, uint32_t n)
{
    uint32_t u;
    while ((u = find(a, n)) && !open_run(a, u, n))
        if (errno != EEXIST)
            return 0;
    if (u) {
        cut(a, u, n);
    } else {
        if (!a->base || n > a->limit - a->top || !open_up_to(a, a->top + n))
            return 0;
        u = a->top;
        a->top += n;
    }
    mark(a, u, n, TINE__RUN_LARGE);
    a->runs[u].sealed = false;
    a->taken += n;
    return u;
}

uint32_t tine__arena_take(tine__arena *a, uint32_t n)
{
    uint32_t u = try_to_take(a, n);
    return u || !tine__arena_close_free(a) ? u : try_to_take(a, n);
}

/* Puts a run among the free ones, joined with its neighbours that are like it. Not with one
 * that was retired. Returns where it begins then. */
static uint32_t join(tine__arena *a, uint32_t u, tine__run_kind kind, bool stale)
{
    uint32_t n = a->runs[u].units, after = u + n, before = a->runs[u - 1].first;
    if (after < a->top && a->runs[after].kind == kind && !a->runs[after].sealed) {
        unlink_run(a, after);
        n += a->runs[after].units;
    }
    if (u > 1 && a->runs[u - 1].kind == kind && !a->runs[before].sealed) {
        u = before;
        unlink_run(a, u);
        n += a->runs[u].units;
    }
    put(a, u, n, kind, stale);
    return u;
}

void tine__arena_give(tine__arena *a, uint32_t u)
{
    a->taken -= a->runs[u].units;
    join(a, u, TINE__RUN_FREE, true);
    if (a->stale > STALE_KEPT + a->taken / 4)
        tine__arena_purge(a, STALE_KEPT / 2 + a->taken / 8);
}

bool tine__arena_mend(tine__arena *a, uint32_t u, uint32_t n)
{
    char *at = tine__arena_at(a, u);
    if (map_at(at, (size_t)n << TINE__UNIT_SHIFT) || errno == EEXIST)
        return true;
    munmap(at, (size_t)a->runs[u].units << TINE__UNIT_SHIFT);
    a->taken -= a->runs[u].units;
    join(a, u, TINE__RUN_CLOSED, false);
    return false;
}

bool tine__arena_resize(tine__arena *a, uint32_t u, uint32_t n)
{
    uint32_t old = a->runs[u].units, after = u + old;
    if (n < old) {
        mark(a, u, n, TINE__RUN_LARGE);
        mark(a, u + n, old - n, TINE__RUN_LARGE);
        tine__arena_give(a, u + n);
    } else if (n > old && after == a->top) {
        if (n > a->limit - u || !open_up_to(a, u + n))
            return false;
        a->top = u + n;
        a->taken += n - old;
        mark(a, u, n, TINE__RUN_LARGE);
    } else if (n > old) {
        tine__run *r = &a->runs[after];
        if (!tine__run_is_free(r) || r->sealed || r->units < n - old ||
            !open_run(a, after, n - old))
            return false;
        cut(a, after, n - old);
        a->taken += n - old;
        mark(a, u, n, TINE__RUN_LARGE);
    }
    return true;
}

/* Unmaps a free run. */
static bool close_run(tine__arena *a, uint32_t u)
{
    if (munmap(tine__arena_at(a, u), (size_t)a->runs[u].units << TINE__UNIT_SHIFT) < 0)
        return false; /* there are too many mappings */
    unlink_run(a, u);
    join(a, u, TINE__RUN_CLOSED, false);
    return true;
}

static void purge_run(tine__arena *a, uint32_t u)
{
    tine__run *r = &a->runs[u];
    if (r->units >= CLOSE_MIN && close_run(a, u))
        return;
    madvise(tine__arena_at(a, u), (size_t)r->units << TINE__UNIT_SHIFT, MADV_DONTNEED);
    r->flag = false;
    a->stale -= r->units;
}

void tine__arena_purge(tine__arena *a, uint32_t keep)
{
    for (unsigned bin = TINE__ARENA_BINS; bin-- > 0;) {
        for (uint32_t u = a->bins[bin], next; u && a->stale > keep; u = next) {
            next = a->runs[u].next;
            if (a->runs[u].flag)
                purge_run(a, u);
        }
    }
}

bool tine__arena_close_free(tine__arena *a)
{
    bool any = false;
    for (uint32_t u = 1; u < a->top; u += a->runs[u].units)
        if (a->runs[u].kind == TINE__RUN_FREE && !a->runs[u].sealed)
            any = close_run(a, u) || any;
    return any;
}

void tine__arena_retire(tine__arena *a, uint32_t u)
{
    unlink_run(a, u);
    a->runs[u].sealed = true;
}
