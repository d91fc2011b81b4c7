/* The heap: the allocator against a model, sealing and its failures, and Lua's
 * collector above what is sealed. */
#include <errno.h>
#include <lauxlib.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <lualib.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "heap/heap.h"

#define CHECK(c) ((c) ? (void)0 : die(__LINE__, #c))

enum { BLOCKS = 4000, ROUNDS = 60000 };

static void die(int line, const char *text)
{
    fprintf(stderr, "test_heap.c:%d: not so: %s\n", line, text);
    _exit(1);
}

typedef struct block {
    unsigned char *p;
    size_t size;
    unsigned char fill;
} block;

static block blocks[BLOCKS];
static int64_t in_use;

static uint32_t rnd(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

static size_t some_size(void)
{
    switch (rnd() % 200) {
    case 0:
        return 1 + rnd() % (4 << 20);
    case 1:
    case 2:
        return 1 + rnd() % (200 << 10);
    default:
        return 1 + rnd() % (rnd() % 8 ? 200 : 8000);
    }
}

static void check_fill(const block *b, size_t n)
{
    for (size_t i = 0; i < n; i += i < 256 ? 1 : 509)
        CHECK(b->p[i] == b->fill);
    CHECK(!n || b->p[n - 1] == b->fill);
}

/* Makes, resizes or frees a block, and checks what it held. */
static void change(tine__heap *h, block *b, size_t size)
{
    size_t kept = b->size < size ? b->size : size;
    if (b->p)
        check_fill(b, b->size);
    b->p = tine__heap_alloc(h, b->p, b->p ? b->size : LUA_TSTRING, size);
    CHECK(!b->p == !size);
    CHECK(size % 16 || (uintptr_t)b->p % 16 == 0);
    CHECK((uintptr_t)b->p % 8 == 0);
    if (b->size && size)
        check_fill(b, kept);
    in_use += (int64_t)size - (int64_t)b->size;
    b->size = size;
    b->fill = (unsigned char)rnd();
    if (size)
        memset(b->p, b->fill, size);
}

static void free_all(tine__heap *h)
{
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i].p)
            change(h, &blocks[i], 0);
    CHECK(in_use == 0);
}

static void play(tine__heap *h, int rounds)
{
    for (int i = 0; i < rounds; i++) {
        block *b = &blocks[rnd() % BLOCKS];
        change(h, b, b->p && rnd() % 2 ? 0 : some_size());
    }
}

static size_t resident(void)
{
    unsigned long size = 0, pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f && fscanf(f, "%lu %lu", &size, &pages) == 2);
    fclose(f);
    return pages * 4096;
}

static void test_blocks_keep_what_they_hold(void)
{
    tine__heap h;
    CHECK(tine__heap_open(&h) == 0);
    play(&h, ROUNDS);
    CHECK(h.stats.own == in_use);
    free_all(&h);
    CHECK(h.stats.own == 0);
    CHECK(h.arena.taken <= 4 * TINE__SIZE_CLASSES); /* one run of each class */
    tine__arena_close(&h.arena);
}

static void test_gives_memory_back(void)
{
    tine__heap h;
    size_t before = resident();
    CHECK(tine__heap_open(&h) == 0);
    for (int i = 0; i < BLOCKS; i++)
        change(&h, &blocks[i], 30000);
    free_all(&h);
    for (int i = 0; i < 4; i++)
        change(&h, &blocks[i], 30 << 20);
    CHECK(resident() > before + (100 << 20));
    free_all(&h);
#ifndef __SANITIZE_ADDRESS__
    CHECK(resident() < before + (20 << 20));
#endif
    tine__arena_close(&h.arena);
}

static void test_sealed_blocks_stay(void)
{
    tine__heap h;
    CHECK(tine__heap_open(&h) == 0);
    for (int seals = 1; seals <= 4; seals++) {
        play(&h, ROUNDS / 4);
        int64_t own = h.stats.own, shared = h.stats.shared;
        CHECK(tine__heap_seal_now(&h) == 0);
        CHECK(h.stats.own == 0 && h.stats.shared == own + shared);
        CHECK(h.stats.seals == (unsigned)seals && h.stats.sealed > 0);
        CHECK(seals > 1 || tine__heap_dirty_pages(&h) == 0);
        for (int i = 0; i < BLOCKS; i++)
            check_fill(&blocks[i], blocks[i].size);
    }
    int64_t shared = h.stats.shared;
    free_all(&h);
    CHECK(h.stats.shared == shared && h.stats.own == 0);
    tine__arena_close(&h.arena);
}

static void fail_to_seal(tine__heap *h, int resource, rlim_t value, int err)
{
    struct rlimit before, low;
    CHECK(getrlimit(resource, &before) == 0);
    low = before;
    low.rlim_cur = value;
    unsigned failures = h->stats.failures;
    CHECK(setrlimit(resource, &low) == 0);
    CHECK(tine__heap_seal_now(h) == err);
    CHECK(setrlimit(resource, &before) == 0);
    CHECK(h->stats.failures == failures + 1 && h->stats.error == err &&
          h->stats.failed);
}

static void test_failed_seal_leaves_a_working_heap(void)
{
    tine__heap h;
    CHECK(tine__heap_open(&h) == 0);
    play(&h, ROUNDS / 4);
    fail_to_seal(&h, RLIMIT_NOFILE, 0, -EMFILE);
    CHECK(h.stats.sealed == 0 && h.stats.own == in_use);
    play(&h, ROUNDS / 4);
    /* A gap, so that there are two stretches to seal, the second past the limit. */
    void *gap = tine__heap_alloc(&h, NULL, 0, 300 << 20);
    for (int i = 0; i < 40; i++)
        change(&h, &blocks[i], 4 << 20);
    tine__heap_alloc(&h, gap, 300 << 20, 0);
    fail_to_seal(&h, RLIMIT_FSIZE, 80 << 20, -EFBIG);
    CHECK(h.stats.sealed > 0 && h.stats.own > 0); /* it failed half-way */
    play(&h, ROUNDS / 4);
    CHECK(tine__heap_seal_now(&h) == 0);
    play(&h, ROUNDS / 4);
    free_all(&h);
    tine__arena_close(&h.arena);
}

/* In a process of its own, where system call `number` gives the error. */
static void with_refused(int number, int error, void (*test)(void))
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    int status;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
        test();
        _exit(0);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
}

static void seal_without_memfd(void)
{
    tine__heap h;
    CHECK(tine__heap_open(&h) == 0);
    play(&h, ROUNDS / 4);
    CHECK(tine__heap_seal_now(&h) == -ENOSYS);
    CHECK(h.stats.failures == 1 && h.stats.failed && h.stats.sealed == 0);
    CHECK(h.stats.own == in_use);
    play(&h, ROUNDS / 4);
    free_all(&h);
    CHECK(h.stats.own == 0);
}

/* Neither huge pages nor room for more address space are needed. */
static void seal_without_huge_pages(void)
{
    tine__heap h;
    CHECK(tine__heap_open(&h) == 0);
    for (int i = 0; i < 40; i++)
        change(&h, &blocks[i], 2 << 20);
    CHECK(tine__heap_seal_now(&h) == 0);
    CHECK(h.stats.huge == 0 && h.stats.seals == 1 && !h.stats.failures);
    for (int i = 0; i < 40; i++)
        check_fill(&blocks[i], blocks[i].size);
    CHECK(tine__heap_dirty_pages(&h) == 0);
    free_all(&h);
}

/* Bytes that are mapped by huge pages, of the mapping that begins there; -1: none begins. */
static long mapped_huge(const void *begin)
{
    char line[300];
    long kb, sum = -1;
    bool here = false;
    FILE *f = fopen("/proc/self/smaps", "re");
    CHECK(f);
    while (fgets(line, sizeof line, f)) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) {
            here = from == (unsigned long)(uintptr_t)begin;
            sum = here ? 0 : sum;
        } else if (here && (sscanf(line, "ShmemPmdMapped: %ld kB", &kb) == 1 ||
                            sscanf(line, "FilePmdMapped: %ld kB", &kb) == 1)) {
            sum += kb << 10;
        }
    }
    fclose(f);
    return sum;
}

/* Where the first objects lie, which all workers use, few as they are. */
static void test_the_first_block_is_one_page(void)
{
    tine__heap h;
    CHECK(tine__heap_open(&h) == 0);
    for (int i = 0; i < 40; i++)
        change(&h, &blocks[i], i < 20 ? (size_t)16 << i % 6 : (size_t)1 << 20);
    CHECK(tine__heap_seal_now(&h) == 0 && !h.stats.failures);
    for (int i = 0; i < 20; i++)
        check_fill(&blocks[i], blocks[i].size);
    if (h.stats.huge > 0) /* the system has them */
        CHECK(mapped_huge(h.arena.base) >= 2 << 20);
    free_all(&h);
}

/* ------------------------------------------------------------------------ with Lua */

static void run(lua_State *L, const char *code)
{
    if (luaL_dostring(L, code) != LUA_OK) {
        fprintf(stderr, "%s\n", lua_tostring(L, -1));
        die(__LINE__, code);
    }
}

static void test_minor_collections_only(void)
{
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    tine__heap_adopt(L);
    tine__heap *h = tine__heap_of(L);
    if (!h) { /* the system refuses */
        lua_close(L);
        return;
    }
    CHECK(h->accounts);
    tine__heap_seal(L);
    CHECK(!h->stats.seals);
    run(L, "data = {} for i = 1, 40000 do data[i] = {i, name = 'item ' .. i} end "
           "weak = setmetatable({}, {__mode = 'v'}) finalized = 0");
    tine__heap_seal(L);
    CHECK(h->stats.seals == 1 && !h->stats.failures && tine__heap_dirty_pages(h) == 0);
    run(L, "for i = 1, 400000 do local t = {i} "
           "if i % 1000 == 0 then weak[1] = t "
           "setmetatable(t, {__gc = function() finalized = finalized + 1 end}) end end "
           "assert(finalized > 100, finalized)");
    CHECK(h->stats.minors > 3 && h->stats.majors == 0);
    CHECK(h->stats.own < 8 << 20);
    CHECK(tine__heap_dirty_pages(h) < 60);
    run(L, "for i = 1, #data do assert(data[i][1] == i and data[i].name == 'item ' .. "
           "i) end "
           "for i = 1, 10 do weak[i] = {} end");
    lua_gc(L, LUA_GCSTEP, 0);
    run(L, "assert(next(weak) == nil)");
    /* What survives is kept, over many collections. */
    run(L,
        "own = {} for i = 1, 200000 do own[i] = {i, tostring(i)} end "
        "for i = 1, #own do assert(own[i][1] == i and own[i][2] == tostring(i)) end");
    lua_gc(L, LUA_GCCOLLECT);
    run(L,
        "for i = 1, #own do assert(own[i][1] == i and data[1].name == 'item 1') end");
    tine__heap_seal(L);
    CHECK(h->stats.seals == 2);
    run(L, "for i = 1, #own do assert(own[i][1] == i) end own, data = nil");
    lua_close(L);
}

int main(void)
{
    test_blocks_keep_what_they_hold();
    test_gives_memory_back();
    test_sealed_blocks_stay();
    test_failed_seal_leaves_a_working_heap();
    with_refused(SYS_memfd_create, ENOSYS, seal_without_memfd);
    with_refused(SYS_madvise, EINVAL, seal_without_huge_pages);
    test_the_first_block_is_one_page();
    test_minor_collections_only();
    return 0;
}
