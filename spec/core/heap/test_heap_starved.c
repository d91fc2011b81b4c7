/* The heap where memory runs out: an allocation that is refused fails, and leaves all as it was;
 * once something is free again, all works; what is free is not kept from others. */
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fault.h"
#include "heap/heap.h"
#include "test.h"

enum { MB = 1 << 20, ROOM = 24 };

#ifdef __SANITIZE_ADDRESS__
enum { LIMITS = 0 }; /* it needs all address space */
#else
enum { LIMITS = 1 };
#endif

static tine__heap *h;

static size_t address_space(void)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    CHECK(f && fscanf(f, "%lu", &pages) == 1);
    fclose(f);
    return pages * 4096;
}

/* So much more than there is now. */
static void limit(int resource, size_t more)
{
    struct rlimit r;
    CHECK(getrlimit(resource, &r) == 0);
    r.rlim_cur = address_space() + more;
    CHECK(setrlimit(resource, &r) == 0);
}

/* In a process of its own. */
static void apart(void (*test)(int arg), int arg)
{
    int status;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        test(arg);
        fflush(NULL);
        _exit(0);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
}

/* ------------------------------------------------------------------------- blocks */

static void *get(size_t size)
{
    return tine__heap_alloc(h, NULL, 0, size);
}

static void put(void *p, size_t size)
{
    tine__heap_alloc(h, p, size, 0);
}

static void open_heap(void)
{
    static tine__heap heap;
    h = &heap;
    CHECK(tine__heap_open(h) == 0);
}

/* Small blocks that fill all, of which one here and there stays, leave no long stretch free; but
 * the address space is, for a long block elsewhere. */
static void test_of_scattered_blocks(int resource)
{
    enum { N = 2048, SIZE = 60000 };
    static char *blocks[N];
    open_heap();
    limit(resource, N / 2 * TINE__UNIT);
    int n = 0;
    while (n < N && (blocks[n] = get(SIZE)))
        memset(blocks[n++], 'x', SIZE);
    CHECK(n > N / 4 && n < N);
    for (int round = 0; round < 5; round++) {
        CHECK(!get((size_t)n / 2 * SIZE));
        for (int i = 0; i < n; i++)
            if (i % 8) {
                put(blocks[i], SIZE);
                blocks[i] = NULL;
            }
        char *p = get((size_t)n / 2 * SIZE);
        CHECK(p);
        memset(p, 'y', (size_t)n / 2 * SIZE);
        put(p, (size_t)n / 2 * SIZE);
        for (int i = 0; i < n; i++) {
            if (!blocks[i] && !(blocks[i] = get(SIZE)))
                break;
            memset(blocks[i], 'x', SIZE);
        }
        for (int i = 0; i < n; i += 8)
            CHECK(blocks[i][0] == 'x' && blocks[i][SIZE - 1] == 'x');
    }
}

/* Others want address space, too. */
static void test_gives_address_space_back(int resource)
{
    open_heap();
    size_t before = address_space();
    void *p = get(ROOM * MB);
    CHECK(p && address_space() > before + ROOM * MB / 2);
    put(p, ROOM * MB);
    CHECK(address_space() < before + 20 * MB);
    limit(resource, ROOM * MB / 2);
    p = mmap(NULL, ROOM * MB / 3, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
             -1, 0);
    CHECK(p != MAP_FAILED);
}

/* mremap unmaps where it is to move to, and fails then where the limit has sunk meanwhile. */
static void test_block_that_cannot_be_moved(int resource)
{
    enum { SIZE = 2 * MB, SMALL = 1000 };
    open_heap();
    char *p = get(SIZE), *behind = get(SIZE), *room = get(3 * SIZE), *end = get(SIZE);
    CHECK(p && behind && room && end);
    memset(p, 'x', SIZE);
    put(room, 3 * SIZE);
    struct rlimit before, none;
    CHECK(getrlimit(resource, &before) == 0);
    none = before;
    none.rlim_cur = SMALL;
    CHECK(setrlimit(resource, &none) == 0);
    char *q = tine__heap_alloc(h, p, SIZE, 2 * SIZE);
    CHECK(setrlimit(resource, &before) == 0);
    if (!q) {
        CHECK(p[0] == 'x' && p[SIZE - 1] == 'x');
        q = tine__heap_alloc(h, p, SIZE, 2 * SIZE);
    }
    CHECK(q && q[0] == 'x' && q[SIZE - 1] == 'x');
    memset(q, 'y', 2 * SIZE);
    int64_t own = h->stats.own;
    put(q, 2 * SIZE);
    CHECK(h->stats.own == own - 2 * SIZE);
}

/* A block that is made smaller stays where it is, and counts what it is said to have. */
static void test_shrinking_never_fails(int unused)
{
    (void)unused;
    open_heap();
    char *p = get(1000), *small = get(100);
    memset(p, 'x', 1000);
    struct rlimit none = {1000, RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_AS, &none) == 0);
    fault_set(1, 100);
    char *q = tine__heap_alloc(h, p, 1000, 300);
    fault_set(0, 0);
    CHECK(q && q[299] == 'x' && h->stats.own == 400);
    put(q, 300);
    put(small, 100);
    CHECK(h->stats.own == 0);
}

/* What was free when it was sealed is never handed out, though what lies around it is sealed
 * again. */
static void test_sealed_gaps_stay(int unused)
{
    (void)unused;
    enum { N = 40 };
    char *blocks[N], *more[N];
    open_heap();
    for (int i = 0; i < N; i++)
        memset(blocks[i] = get(MB), 'x', MB);
    for (int i = 1; i < N; i += 2)
        put(blocks[i], MB);
    CHECK(tine__heap_seal_now(h) == 0);
    for (int i = 0; i < N; i += 2)
        memset(blocks[i], 'y', MB);
    for (int i = 0; i < N; i++)
        memset(more[i] = get(MB / 2), 'z', MB / 2);
    CHECK(tine__heap_seal_now(h) == 0);
    for (int i = 0; i < N; i++)
        memset(get(MB), '!', MB);
    for (int i = 0; i < N; i++) {
        CHECK(i % 2 || (blocks[i][0] == 'y' && blocks[i][MB - 1] == 'y'));
        CHECK(more[i][0] == 'z' && more[i][MB / 2 - 1] == 'z');
    }
}

/* ------------------------------------------------------------------------ with Lua */

static lua_State *new_state(bool sealed)
{
    static const char data[] =
        "data = {} for i = 1, 20000 do data[i] = { id = i, name = 'item ' .. i } end";
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    tine__heap_adopt(L);
    h = tine__heap_of(L);
    CHECK(h && luaL_dostring(L, data) == LUA_OK);
    if (sealed) {
        tine__heap_seal(L);
        CHECK(h->stats.sealed > 0);
    }
    return L;
}

static const char *const hungry[] = {
    "local t = {} for i = 1, 1 << 40 do t[i] = ('x'):rep(MB) .. i end",
    "local t = {} for i = 1, 1 << 40 do t[i] = ('x'):rep(100000) .. i end",
    "local t = {} for i = 1, 1 << 40 do t[i] = ('x'):rep(2 * MB + i) end",
    "local t = {} for i = 1, 1 << 40 do t[i] = { i } end",
    "local t = {} for i = 1, 1 << 40 do t[i] = i + 0.5 end",
    "local t while true do t = { t } end",
    "local s = 'x' while true do s = s .. s end",
    "return ('x'):rep(MB):gsub('x', ('y'):rep(1000))",
    "local t = {} for i = 1, 999 do t[i] = ('x'):rep(20000) end t = table.concat(t)",
    "local t = {} for i = 1, 1 << 40 do t[i] = coroutine.create(print) end",
    "local t = {} for i = 1, 1 << 40 do t[i] = function() return i end end",
    "return ('x'):rep(1 << 30)"};

static bool run(lua_State *L, const char *code)
{
    int top = lua_gettop(L);
    bool good = luaL_loadstring(L, code) == LUA_OK && lua_pcall(L, 0, 0, 0) == LUA_OK;
    if (!good && !strstr(lua_tostring(L, -1), "memory"))
        fprintf(stderr, "%s\n", lua_tostring(L, -1));
    lua_settop(L, top);
    return good;
}

/* A job fails for want of memory, and the next has all of it. */
static void fail_and_go_on(lua_State *L)
{
    for (size_t i = 0; i < sizeof hungry / sizeof *hungry; i++) {
        CHECK(!run(L, hungry[i]));
        tine__gc_relieve(L);
        CHECK(h->stats.own < 8 * MB);
        for (int mb = 2; mb <= 10; mb += 8) {
            lua_pushinteger(L, mb);
            lua_setglobal(L, "size");
            CHECK(run(L, "assert(#('y'):rep(size * MB) == size * MB)"));
            tine__gc_relieve(L);
        }
        CHECK(run(L, "for i = 1, #data do assert(data[i].name == 'item ' .. i) end"));
    }
}

static void lua_goes_on(int resource, bool sealed)
{
    lua_State *L = new_state(sealed);
    lua_pushinteger(L, MB);
    lua_setglobal(L, "MB");
    limit(resource, ROOM * MB);
    for (int round = 0; round < 2; round++)
        fail_and_go_on(L);
    CHECK(h->own.state != TINE__PRIVATE_GC_UNDER_WAY);
    lua_close(L);
}

static void test_lua_goes_on(int resource)
{
    lua_goes_on(resource, false);
}

static void test_sealed_lua_goes_on(int resource)
{
    lua_goes_on(resource, true);
}

/* ------------------------------------------------------- the nth request is refused */

static const char work[] =
    "local t = {} "
    "for i = 1, 300 do t[i] = { i, tostring(i), function() return i end } end "
    "for i = 1, 40 do t[i] = ('x'):rep(i * 10000) .. i end "
    "for i = 1, 3 do t[i] = ('x'):rep(i * 500000) .. i end "
    "local c = coroutine.wrap(function(...) return table.concat({...}, ',') end) "
    "t[1] = c(1, 2, 3) data[1].extra = t t = nil "
    "collectgarbage('step') data[1].extra = nil";

static void with_refused(int sealed)
{
    lua_State *L = new_state(sealed);
    bool hit = true;
    CHECK(run(L, work));
    for (long nth = 1, more = 0; hit || more < 40; nth += hit ? 1 : -nth + 1) {
        more += hit ? 0 : 20;
        fault_set(nth, more);
        bool good = run(L, work);
        hit = fault_hit;
        fault_set(0, 0);
        CHECK(good || hit);
        tine__gc_relieve(L);
        CHECK(run(L, work));
        CHECK(h->own.state != TINE__PRIVATE_GC_UNDER_WAY);
    }
    CHECK(run(L, "for i = 1, #data do assert(data[i].name == 'item ' .. i) end"));
    run(L, "collectgarbage('collect', 'full')");
    CHECK(h->stats.own < 8 * MB);
    lua_close(L);
}

int main(void)
{
    static const int limits[] = {RLIMIT_AS, RLIMIT_DATA};
    for (int i = 0; i < 2 * LIMITS; i++) {
        apart(test_of_scattered_blocks, limits[i]);
        apart(test_gives_address_space_back, limits[i]);
        apart(test_block_that_cannot_be_moved, limits[i]);
        apart(test_lua_goes_on, limits[i]);
        apart(test_sealed_lua_goes_on, limits[i]);
    }
    if (LIMITS)
        apart(test_shrinking_never_fails, 0);
    apart(test_sealed_gaps_stay, 0);
    apart(with_refused, false);
    apart(with_refused, true);
    return 0;
}
