/* Sealing: what the arena holds is copied to files in memory, piece by piece, and each
 * file is mapped privately where its contents have been. Linux copies no page tables at
 * fork for such a mapping until it is written to (mm/memory.c, vma_needs_copy). */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "heap.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

/* Units. Free runs shorter than GAP_MAX are sealed with their neighbours, as holes of
 * the file: each mapping costs at every fork. */
enum { GAP_MAX = 4096, PAGE = 4096 };
enum { HUGE_SIZE = 2 << 20 };

typedef struct sealing {
    tine__heap *heap;
    int fd;            /* the piece's file */
    const char *begin; /* the piece */
    const char *end;
    const char *origin;    /* what lies there is at 0 in the file */
    uint32_t first;        /* the run in which the piece begins */
    const char *from, *to; /* to be written: neighbours in one call */
    uint32_t done;         /* the unit up to which the stretch is mapped */
    uint32_t cuts[2];      /* the units where the string table begins and ends */
    int64_t bytes;         /* of Lua's, newly sealed */
    bool in_cores;         /* it is to be in core dumps */
    bool dirty[TINE__PIECES];
} sealing;

static char *address(const sealing *s, uint32_t u)
{
    return tine__arena_at(&s->heap->arena, u);
}

static void note_failure(tine__heap *h, const char *what, int err)
{
    h->stats.failures++;
    h->stats.failed = what;
    h->stats.error = err;
}

/* ------------------------------------------------------------------- writing a file */

/* Not pwrite: to AddressSanitizer's the free blocks in between are errors. */
static long write_at(const sealing *s, const char *from, size_t len)
{
    return syscall(SYS_pwrite64, s->fd, from, len, (off_t)(from - s->origin));
}

static int flush(sealing *s)
{
    while (s->from < s->to) {
        long n = write_at(s, s->from, (size_t)(s->to - s->from));
        if (n < 0 && errno != EINTR)
            return -errno;
        s->from += n > 0 ? n : 0;
    }
    return 0;
}

static int add(sealing *s, const char *from, const char *to)
{
    int err = 0;
    if (from != s->to) {
        err = flush(s);
        s->from = from;
    }
    s->to = to;
    return err;
}

/* What is in use of a run, in whole pages, as far as it lies in the piece. u: the run,
 * which is made the next one. */
static bool next_extent(const sealing *s, uint32_t *u, const char **from,
                        const char **to)
{
    const tine__run *runs = s->heap->arena.runs;
    for (const char *at; (at = address(s, *u)) < s->end; *u += runs[*u].units) {
        size_t used = (tine__heap_extent(&runs[*u]) + PAGE - 1) / PAGE * PAGE;
        *from = at < s->begin ? s->begin : at;
        *to = at + used < s->end ? at + used : s->end;
        if (*from < *to) {
            *u += runs[*u].units;
            return true;
        }
    }
    return false;
}

static int write_extents(sealing *s)
{
    const char *from, *to;
    int err = 0;
    s->from = s->to = s->begin;
    for (uint32_t u = s->first; !err && next_extent(s, &u, &from, &to);)
        err = add(s, from, to);
    return err ? err : flush(s);
}

/* ---------------------------------------------------------------------------- pieces */

static int make_file(sealing *s)
{
    struct rlimit limit;
    off_t len = (off_t)(s->end - s->origin);
    /* Past RLIMIT_FSIZE there is a deadly signal rather than an error. */
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < INT64_MAX &&
        len > (off_t)limit.rlim_cur)
        return -EFBIG;
    return ftruncate(s->fd, len) < 0 ? -errno : 0;
}

/* Of the first block, where small things of all kinds lie far apart that all workers use: they map
 * it at one fault. All other blocks are as fast to fork, and quicker to seal, with small
 * pages: a huge one is cleared before it is filled. */
static void make_huge(const sealing *s)
{
    if (s->heap && s->begin == address(s, 1) && s->end - s->origin >= HUGE_SIZE &&
        madvise((void *)(uintptr_t)s->origin, HUGE_SIZE, MADV_COLLAPSE) == 0)
        s->heap->stats.huge++;
}

static int map_piece(const sealing *s)
{
    /* What is mapped in workers to come stays what it was. */
    fcntl(s->fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    /* With the unit before the first run, which is nobody's: a huge page is mapped whole. */
    const char *from = s->heap && s->begin == address(s, 1) ? s->origin : s->begin;
    void *p =
        mmap((void *)(uintptr_t)from, (size_t)(s->end - from), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, s->fd, (off_t)(from - s->origin));
    if (p == MAP_FAILED)
        return -errno;
    /* One page written to would put all of the mapping into a core dump. */
    if (!s->in_cores)
        madvise(p, (size_t)(s->end - from), MADV_DONTDUMP);
    make_huge(s);
    return 0;
}

/* In the file all lies as it does in huge pages of the address space. */
static int seal_piece(sealing *s, uint32_t begin, uint32_t end)
{
    s->begin = address(s, begin);
    s->end = address(s, end);
    s->origin = s->begin - (uintptr_t)s->begin % HUGE_SIZE;
    s->fd = memfd_create("tine-heap", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (s->fd < 0)
        return -errno;
    int err = make_file(s);
    if (!err)
        err = write_extents(s);
    if (!err)
        err = map_piece(s);
    close(s->fd);
    return err;
}

/* Where the piece that begins there ends. */
static uint32_t piece_end(const sealing *s, uint32_t begin, uint32_t end)
{
    uint32_t next = (begin / TINE__PIECE + 1) * TINE__PIECE;
    for (int i = 0; i < 2; i++)
        if (s->cuts[i] > begin && s->cuts[i] < next)
            next = s->cuts[i];
    return next < end ? next : end;
}

/* ------------------------------------------------------------------------ what to seal */

static bool wanted(const sealing *s, uint32_t u)
{
    const tine__run *r = &s->heap->arena.runs[u];
    if (tine__run_is_free(r))
        return false;
    if (!r->sealed)
        return true;
    uint32_t last = (u + r->units - 1) / TINE__PIECE;
    for (uint32_t p = u / TINE__PIECE; p <= last; p++)
        if (s->dirty[p % TINE__PIECES])
            return true;
    return false;
}

static void mark_sealed(sealing *s, uint32_t begin)
{
    tine__arena *a = &s->heap->arena;
    for (uint32_t u = begin; u < s->done; u += a->runs[u].units) {
        tine__run *r = &a->runs[u];
        if (u + r->units > s->done)
            break;
        if (tine__run_is_free(r) && !r->sealed)
            tine__arena_retire(a, u);
        if (!r->sealed)
            s->bytes += tine__heap_live(r);
        r->sealed = true;
        r->flag = false;
    }
}

static size_t sealed_bytes(const tine__arena *a)
{
    size_t units = 0;
    for (uint32_t u = 1; u < a->top; u += a->runs[u].units)
        units += a->runs[u].sealed ? a->runs[u].units : 0;
    return units << TINE__UNIT_SHIFT;
}

static int seal_stretch(sealing *s, uint32_t begin, uint32_t end)
{
    const tine__run *runs = s->heap->arena.runs;
    int err = 0;
    s->done = s->first = begin;
    while (s->done < end && !err) {
        uint32_t next = piece_end(s, s->done, end);
        err = seal_piece(s, s->done, next);
        if (!err)
            s->done = next;
        while (s->first + runs[s->first].units <= s->done && s->first < end)
            s->first += runs[s->first].units;
    }
    mark_sealed(s, begin);
    return err;
}

static int seal_runs(sealing *s)
{
    const tine__arena *a = &s->heap->arena;
    uint32_t begin = 0, end = 0;
    int err = 0;
    for (uint32_t u = 1; u < a->top && !err; u += a->runs[u].units) {
        const tine__run *r = &a->runs[u];
        if (wanted(s, u)) {
            begin = begin ? begin : u;
            end = u + r->units;
        } else if (begin && (!tine__run_is_free(r) || r->units > GAP_MAX)) {
            err = seal_stretch(s, begin, end);
            begin = 0;
        }
    }
    return begin && !err ? seal_stretch(s, begin, end) : err;
}

static void find_cuts(sealing *s)
{
    const tine__arena *a = &s->heap->arena;
    const void *strings = tine__gc_strings(s->heap);
    if (!strings || !tine__arena_has(a, strings))
        return;
    const tine__run *r = tine__arena_run(a, strings);
    s->cuts[0] = (uint32_t)(r - a->runs);
    s->cuts[1] = s->cuts[0] + r->units;
}

/* As long as nothing is allocated next to it, nobody writes to the description of what is
 * sealed either; at 4 GB it is 2 MB. */
static void seal_table(const tine__heap *h)
{
    enum { WORTH = 16 * PAGE };
    const tine__arena *a = &h->arena;
    size_t len = a->top * sizeof *a->runs / PAGE * PAGE;
    sealing s = {.begin = (char *)a->runs, .fd = -1, .in_cores = h->in_cores};
    if (len < WORTH)
        return;
    s.end = s.begin + len;
    s.from = s.origin = s.begin;
    s.to = s.end;
    s.fd = memfd_create("tine-runs", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (s.fd >= 0 && make_file(&s) == 0 && flush(&s) == 0)
        (void)map_piece(&s);
    if (s.fd >= 0)
        close(s.fd);
}

int tine__heap_seal_now(tine__heap *h)
{
    sealing s = {.heap = h, .in_cores = h->in_cores};
    if (h->stats.sealed)
        tine__heap_find_dirty(h, s.dirty);
    find_cuts(&s);
    tine__arena_purge(&h->arena, 0);
    int err = seal_runs(&s);
    tine__heap_turn_page(h);
    seal_table(h);
    if (!err)
        s.bytes = h->stats.own - h->foreign; /* exactly, and it is all */
    h->stats.shared += s.bytes;
    h->stats.own -= s.bytes;
    h->stats.sealed = sealed_bytes(&h->arena);
    if (err)
        note_failure(h, "sealing", err);
    else
        h->stats.seals++;
    return err;
}

/* ----------------------------------------------------------------- when to seal */

static int prepare(lua_State *L)
{
    tine__gc_prepare(L, tine__heap_of(L));
    return 0;
}

static int make_ready(lua_State *L)
{
    tine__private_gc_ready(L, tine__heap_of(L));
    return 0;
}

static bool call(lua_State *L, lua_CFunction f)
{
    lua_pushcfunction(L, f);
    if (lua_pcall(L, 0, 0, 0) == LUA_OK)
        return true;
    lua_pop(L, 1);
    return false;
}

void tine__heap_seal(lua_State *L)
{
    tine__heap *h = tine__heap_of(L);
    int err = 0;
    if (!h || h->stats.own < h->next_seal || !lua_checkstack(L, 2))
        return;
    if (!call(L, prepare)) {
        err = -ENOMEM;
        note_failure(h, "collecting", err);
    } else if (h->stats.own - h->kept >= TINE__SEAL_WORTH) {
        err = tine__heap_seal_now(h);
        h->kept = h->stats.own;
        if (!err)
            call(L, make_ready); /* or collections of our own are impossible */
    }
    h->hot = false;
    if (h->stats.sealed)
        tine__gc_arm(L, h);
    /* A failure is not to be met again at each fork. */
    h->next_seal = h->stats.own + TINE__SEAL_WORTH + (err ? h->stats.own / 4 : 0);
}
