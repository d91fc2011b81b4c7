/* Sealing: what the arena holds is copied to a file in memory, piece by piece, and
 * each piece of the file is mapped privately where its contents have been. Linux
 * copies no page tables at fork for such a mapping until it is written to
 * (mm/memory.c, vma_needs_copy). */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "heap.h"

/* Units. Free runs shorter than GAP_MAX are sealed with their neighbours: each
 * mapping costs at every fork. */
enum { GAP_MAX = 64, PAGE = 4096 };

typedef struct sealing {
    tine__heap *heap;
    int fd;
    off_t at, limit;   /* where in the file the piece goes; how long it may become */
    const char *piece; /* the piece's start */
    const char *from, *to; /* to be written: neighbours in one call */
    uint32_t done;         /* the unit up to which the stretch is mapped */
    uint32_t cuts[2];      /* the units where the string table begins and ends */
    int64_t bytes;         /* of Lua's, newly sealed */
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

/* ------------------------------------------------------------------- writing the
 * file */

static int flush(sealing *s)
{
    while (s->from < s->to) {
        /* Not pwrite: to AddressSanitizer's the free blocks in between are errors. */
        long n = syscall(SYS_pwrite64, s->fd, s->from, (size_t)(s->to - s->from),
                         s->at + (s->from - s->piece));
        if (n < 0 && errno != EINTR)
            return -errno;
        s->from += n > 0 ? n : 0;
    }
    return 0;
}

static int add(sealing *s, const char *from, const char *to)
{
    int err = 0;
    if (from >= to)
        return 0;
    if (from != s->to) {
        err = flush(s);
        s->from = from;
    }
    s->to = to;
    return err;
}

/* A page is left out in the file after each piece, or the kernel would join the
 * mappings. */
static int finish_piece(sealing *s, uint32_t begin, uint32_t end)
{
    size_t len = (size_t)(end - begin) << TINE__UNIT_SHIFT;
    int err = flush(s);
    if (err)
        return err;
    if (ftruncate(s->fd, s->at + (off_t)len) < 0 ||
        mmap(address(s, begin), len, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, s->fd, s->at) == MAP_FAILED)
        return -errno;
    s->at += (off_t)len + PAGE;
    s->piece = address(s, end);
    s->done = end;
    return 0;
}

/* Past RLIMIT_FSIZE there is a deadly signal rather than an error. */
static int check_room(const sealing *s, uint32_t begin, uint32_t end)
{
    off_t len = (off_t)(end - begin) << TINE__UNIT_SHIFT;
    return s->at + len <= s->limit ? 0 : -EFBIG;
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

static int write_stretch(sealing *s, uint32_t begin, uint32_t end)
{
    const tine__arena *a = &s->heap->arena;
    uint32_t piece = begin, next = piece_end(s, begin, end);
    int err = check_room(s, piece, next);
    s->piece = s->from = s->to = address(s, begin);
    for (uint32_t u = begin; u < end && !err; u += a->runs[u].units) {
        const tine__run *r = &a->runs[u];
        size_t used = (tine__heap_extent(r) + PAGE - 1) / PAGE * PAGE;
        const char *from = address(s, u), *to = from + used;
        while (piece < end && next <= u + r->units && !err) {
            const char *cut = address(s, next);
            err = add(s, from, to < cut ? to : cut);
            if (!err)
                err = finish_piece(s, piece, next);
            from = from < cut ? cut : from;
            piece = next;
            next = piece_end(s, piece, end);
            if (!err)
                err = check_room(s, piece, next);
        }
        if (!err)
            err = add(s, from, to);
    }
    return err;
}

/* ------------------------------------------------------------------------ what to
 * seal */

static bool wanted(const sealing *s, uint32_t u)
{
    const tine__run *r = &s->heap->arena.runs[u];
    if (r->kind == TINE__RUN_FREE)
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
        if (r->kind == TINE__RUN_FREE)
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
    s->done = begin;
    int err = write_stretch(s, begin, end);
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
        } else if (begin && (r->kind != TINE__RUN_FREE || r->units > GAP_MAX)) {
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

int tine__heap_seal_now(tine__heap *h)
{
    sealing s = {.heap = h,
                 .fd = memfd_create("tine-heap", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
    struct rlimit limit;
    if (s.fd < 0) {
        note_failure(h, "memfd_create", -errno);
        return h->stats.error;
    }
    s.limit = INT64_MAX;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < INT64_MAX)
        s.limit = (off_t)limit.rlim_cur;
    if (h->stats.sealed)
        tine__heap_find_dirty(h, s.dirty);
    find_cuts(&s);
    tine__arena_purge(&h->arena, 0);
    int err = seal_runs(&s);
    tine__heap_turn_page(h);
    if (!err)
        s.bytes = h->stats.own - h->foreign; /* exactly, and it is all */
    h->stats.shared += s.bytes;
    h->stats.own -= s.bytes;
    h->stats.sealed = sealed_bytes(&h->arena);
    if (err)
        note_failure(h, "mapping", err);
    else
        h->stats.seals++;
    /* What is still mapped in workers to come is what it was. */
    fcntl(s.fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    close(s.fd);
    return err;
}

/* ----------------------------------------------------------------------- when to
 * seal */

static int prepare(lua_State *L)
{
    tine__gc_prepare(L, tine__heap_of(L));
    return 0;
}

void tine__heap_seal(lua_State *L)
{
    tine__heap *h = tine__heap_of(L);
    int err = 0;
    if (!h || h->stats.own < h->next_seal || !lua_checkstack(L, 1))
        return;
    lua_pushcfunction(L, prepare);
    if (lua_pcall(L, 0, 0, 0) != LUA_OK) {
        lua_pop(L, 1);
        err = -ENOMEM;
        note_failure(h, "collecting", err);
    } else if (h->stats.own - h->kept >= TINE__SEAL_WORTH) {
        err = tine__heap_seal_now(h);
        h->kept = h->stats.own;
    }
    h->hot = false;
    if (h->stats.sealed)
        tine__gc_arm(L, h);
    /* A failure is not to be met again at each fork. */
    h->next_seal = h->stats.own + TINE__SEAL_WORTH + (err ? h->stats.own / 4 : 0);
}
