/* Collections of what is a process's own: whatever refers to it from what is sealed keeps it,
 * and all else goes. Lua's whole test suite runs with one at each turn, where TINE_LUA_TESTS
 * names its folder. */
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "heap/heap.h"
#include "test.h"

static tine__heap *h;

static int own(lua_State *L)
{
    lua_pushboolean(L, tine__private_gc_collect(L, h));
    lua_pushinteger(L, h->stats.own);
    return 2;
}

static int seal(lua_State *L)
{
    unsigned before = h->stats.seals;
    tine__heap_seal(L);
    lua_pushboolean(L, h->stats.seals > before);
    return 1;
}

static int minor(lua_State *L)
{
    return lua_gc(L, LUA_GCSTEP, 0) * 0;
}

/* One at the next object that is made. */
static void on_count(lua_State *L, lua_Debug *d)
{
    (void)L;
    (void)d;
    if (h->own.state == TINE__PRIVATE_GC_IDLE)
        h->own.state = TINE__PRIVATE_GC_WANTED;
}

/* stress(n): one every n instructions from now on; 0: none. */
static int stress(lua_State *L)
{
    int n = (int)luaL_checkinteger(L, 1);
    lua_sethook(L, n ? on_count : NULL, n ? LUA_MASKCOUNT : 0, n);
    return 0;
}

static lua_State *new_state(void)
{
    static const char prelude[] =
        "data = {} for i = 1, 40000 do "
        "data[i] = { id = i, name = 'item ' .. i, at = { i }, f = function() return i "
        "end } "
        "end "
        "local all = data function check() for i = 1, #all do local d = all[i] "
        "assert(d.id == i and d.name == 'item ' .. i and d.at[1] == i and d.f() == i) "
        "end end "
        "function garbage(n) for i = 1, n or 20000 do local t = { i, 'g' .. i } end "
        "end";
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    tine__heap_adopt(L);
    h = tine__heap_of(L);
    CHECK(h);
    lua_register(L, "own", own);
    lua_register(L, "seal", seal);
    lua_register(L, "stress", stress);
    lua_register(L, "minor", minor);
    CHECK(luaL_dostring(L, prelude) == LUA_OK);
    return L;
}

/* In a state of its own; nothing is left of it. */
static void play(const char *name, const char *code)
{
    lua_State *L = new_state();
    if (luaL_dostring(L, code) != LUA_OK ||
        luaL_dostring(L, "stress(0) check()") != LUA_OK) {
        fprintf(stderr, "%s: %s\n", name, lua_tostring(L, -1));
        exit(1);
    }
    CHECK(h->stats.owns > 0);
    lua_close(L);
    tine__arena_close(&h->arena);
}

/* What each does is what the comment says, after the seal. */
static const struct {
    const char *name, *code;
} plays[] = {
    {"garbage that has become old is collected, and finalized once",
     "assert(seal()) local n, most = 0, 0 local kept = {} "
     "for r = 1, 200 do local q = {} "
     "for i = 1, 1000 do q[i] = { i, 's' .. i .. r } end "
     "q.f = setmetatable({}, { __gc = function() n = n + 1 end }) kept[r % 20] = q "
     "local done, bytes = own() assert(done) most = math.max(most, bytes) end "
     "assert(most < 8 << 20, most) kept = nil own() garbage() "
     "collectgarbage() own() garbage() collectgarbage() assert(n == 200, n)"},
    {"own values in sealed tables, also in some that only sealed ones refer to",
     "assert(seal()) "
     "for i = 1, #data, 100 do data[i].extra = { 'own ' .. i } "
     "data[i].at.x = function() return i * 2 end end "
     "for r = 1, 3 do own() garbage() collectgarbage() "
     "for i = 1, #data, 100 do assert(data[i].extra[1] == 'own ' .. i) "
     "assert(data[i].at.x() == i * 2) end end "
     "for i = 1, #data do data[i].extra = nil data[i].at.x = nil end"},
    {"own values in upvalues of sealed closures, shared by two",
     "local a, b = {}, {} "
     "function set(x) a = x end function get() return a end "
     "function set2(x) b[#b + 1] = x end function get2() return b end "
     "assert(seal()) set { 'own' } set2 { 1 } set2 { 2 } own() garbage() own() "
     "assert(get()[1] == 'own' and get2()[2][1] == 2) "
     "set { 'other' } own() garbage() assert(get()[1] == 'other')"},
    {"metatables and user values that are given later",
     "local t, f = {}, io.tmpfile() assert(seal()) "
     "setmetatable(t, { __index = { x = { 'own' } } }) debug.setuservalue(f, { 'v' }, "
     "1) "
     "debug.setmetatable(1, { __call = function(n, m) return { n + m } end }) "
     "own() garbage() own() assert(t.x[1] == 'own' and (5)(6)[1] == 11) "
     "debug.setmetatable(1, nil) setmetatable(t, nil)"},
    {"coroutines: suspended before the seal, made after it, dead ones",
     "local function f(...) local kept = { ... } while true do "
     "local more = { coroutine.yield(kept) } kept[#kept + 1] = more end end "
     "local before = {} for i = 1, 50 do before[i] = coroutine.wrap(f) before[i](i) "
     "end "
     "assert(seal()) local after = {} "
     "for i = 1, 50 do after[i] = coroutine.wrap(f) after[i](i) end "
     "for r = 1, 5 do own() garbage(3000) "
     "for i = 1, 50 do local k, l = before[i]('x' .. r), after[i]('x' .. r) "
     "assert(k[1] == i and l[1] == i and k[r + 1][1] == 'x' .. r) "
     "assert(l[r + 1][1] == 'x' .. r) end end "
     "before, after = nil, nil own() garbage() own()"},
    {"weak tables, sealed and own",
     "local v, k = setmetatable({}, { __mode = 'v' }), setmetatable({}, { __mode = 'k' "
     "}) "
     "v.old, k[data[1]] = data[1], 'sealed' assert(seal()) "
     "local kept = { {}, {} } v[1], v[2], k[kept[1]], k[{}] = kept[1], {}, { 'e' }, 2 "
     "v.old = data[2] k[kept[2]] = kept[2] "
     "own() collectgarbage() own() collectgarbage() "
     "assert(v[1] == kept[1] and v.old == data[2]) "
     "assert(k[kept[1]][1] == 'e' and k[data[1]] == 'sealed' and k[kept[2]] == "
     "kept[2]) "
     "local n = 0 for _ in pairs(k) do n = n + 1 end assert(n <= 4, n)"},
    {"finalizers that sealed objects get later, and ones that resurrect",
     "local t, n, back = {}, 0, {} assert(seal()) "
     "setmetatable(t, { __gc = function() n = n + 1 end }) "
     "for i = 1, 10 do setmetatable({}, { __gc = function(o) back[#back + 1] = o end "
     "}) end "
     "own() garbage() collectgarbage() own() garbage() collectgarbage() "
     "assert(#back == 10 and n == 0) back = {} own() garbage() own() t = nil "
     "collectgarbage() own()"},
    {"seals one after another, with all that was between",
     "assert(seal()) for r = 1, 4 do own() local t = {} "
     "for i = 1, 30000 do t[i] = { i, 'r' .. r .. i } end _G['t' .. r] = t "
     "_G['c' .. r] = coroutine.wrap(function(x) while true do x = { coroutine.yield(x) "
     "} "
     "end end) _G['c' .. r](r) data[r].extra = { r } "
     "setmetatable(t, { __gc = function() end }) assert(seal()) own() garbage() "
     "for s = 1, r do local t = _G['t' .. s] for i = 1, #t do "
     "assert(t[i][1] == i and t[i][2] == 'r' .. s .. i) end "
     "assert(data[s].extra[1] == s) assert(_G['c' .. s]({ s })) end end "
     "for r = 1, 4 do data[r].extra = nil end"},
    {"a full collection, after which there are none until the next seal",
     "assert(seal()) for i = 1, 20000 do data[i + 20000] = nil end "
     "collectgarbage 'incremental' collectgarbage() collectgarbage 'generational' "
     "for i = 20001, 40000 do data[i] = { id = i, name = 'item ' .. i, at = { i }, "
     "f = function() return i end } end "
     "assert(seal()) own() garbage() own() check()"},
    {"own values that are old when they are stored where something was",
     "for i = 1, 100 do data[i].x, data[i].s, data[i].l = false, false, false end "
     "local list = { false, false } assert(seal()) "
     "local x, s, l = { 'own' }, 'own string', ('long '):rep(20) .. #data "
     "local y = x local f = function() return y end local c = "
     "coroutine.wrap(function() "
     "coroutine.yield() return 'alive' end) c() minor() minor() minor() "
     "data[7].x, data[8].s, data[9].l, list[1], list[2] = x, s, l, f, c "
     "x, s, l, f, c = nil, nil, nil, nil, nil own() garbage() own() garbage() "
     "assert(data[7].x[1] == 'own' and data[8].s == 'own ' .. 'string') "
     "assert(data[9].l == ('long '):rep(20) .. #data and list[1]() == data[7].x) "
     "assert(list[2]() == 'alive')"},
    {"sealed weak tables that are written to again after one",
     "for _, mode in ipairs { 'v', 'kv', 'k' } do _G[mode] = setmetatable({}, "
     "{ __mode = mode }) for i = 1, 64 do _G[mode][i] = false end end assert(seal()) "
     "for i = 1, 64 do v[i], kv[i], k[i] = { i }, { i }, { i } end own() "
     "for r = 1, 10 do for i = 1, 64 do v[i], kv[i], k[i] = { i }, { i }, { i } end "
     "minor() garbage(2000) for i = 1, 64 do assert(not v[i] or v[i][1] == i) "
     "assert(not kv[i] or kv[i][1] == i) assert(k[i][1] == i) end end"},
    {"what finalizers touch while it is sealed",
     "cache = { x = false } for i = 1, 200 do cache[i] = {} end local mt mt = { __gc = "
     "function() cache.x = { 'x' } coroutine.wrap(function() end)() "
     "if mt then setmetatable({}, mt) end end } setmetatable({}, mt) assert(seal()) "
     "own() "
     "for r = 1, 5 do cache.x = { 'mine' .. r } minor() garbage(2000) "
     "assert(cache.x[1]) local c = coroutine.create(function(v) while true do "
     "v = coroutine.yield(v) or v end end) coroutine.resume(c) "
     "more = {} for i = 1, 30000 do more[i] = { i, 'm' .. i } end assert(seal()) "
     "coroutine.resume(c, { r }) own() garbage(2000) "
     "assert(select(2, coroutine.resume(c))[1] == r) end mt = nil"},
    {"one at every turn",
     "assert(seal()) stress(23) local t = {} for i = 1, 300 do t[i % 50] = { i, 'x' .. "
     "i, "
     "function() return t end } data[i].extra = t[i % 50] end "
     "local c = coroutine.wrap(function() stress(17) for i = 1, 50 do "
     "coroutine.yield({ i }) end end) for i = 1, 50 do assert(c()[1] == i) end "
     "assert(pcall(error, { 1 }) == false) "
     "local s = {} for w in ('a b c d e'):gmatch '%a' do s[#s + 1] = w .. #s end "
     "assert(table.concat(s) == 'a0b1c2d3e4') "
     "assert(load('return ' .. ('{'):rep(50) .. '1' .. ('}'):rep(50))()) "
     "for i = 1, 300 do data[i].extra = nil end stress(0)"},
};

/* own_model.lua, which lies beside this file. */
static void run_model(int seed)
{
    char path[400] = __FILE__;
    lua_State *L = new_state();
    snprintf(strrchr(path, '/') + 1, 20, "own_model.lua");
    if (luaL_loadfile(L, path) == LUA_OK) {
        lua_pushinteger(L, seed);
        lua_pushinteger(L, 10000);
    }
    if (lua_gettop(L) < 3 || lua_pcall(L, 2, 0, 0) != LUA_OK ||
        luaL_dostring(L, "check()") != LUA_OK) {
        fprintf(stderr, "seed %d: %s\n", seed, lua_tostring(L, -1));
        exit(1);
    }
    CHECK(h->stats.owns > 0);
    lua_close(L);
    tine__arena_close(&h->arena);
}

/* Not db.lua, which has hooks of its own. */
static void run_suite(const char *folder)
{
    static const char *const files[] = {
        "attrib", "bitwise", "calls", "closure", "code",  "constructs", "coroutine",
        "errors", "events",  "goto",  "locals",  "math",  "nextvar",    "pm",
        "sort",   "strings", "tpack", "utf8",    "vararg"};
    CHECK(chdir(folder) == 0);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        lua_State *L = new_state();
        lua_pushstring(L, files[i]);
        lua_setglobal(L, "file");
        if (luaL_dostring(L, "_port, _soft, _nomsg = true, true, true ARG = {} "
                             "assert(seal()) io.output '/dev/null' "
                             "debug = nil local own, check = own, check "
                             "stress(997) dofile(file .. '.lua') "
                             "own() own() check()") != LUA_OK) {
            fprintf(stderr, "%s: %s\n", files[i], lua_tostring(L, -1));
            exit(1);
        }
        fprintf(stderr, "%s: fine, %u collections\n", files[i], h->stats.owns);
        lua_close(L);
        tine__arena_close(&h->arena);
    }
}

int main(void)
{
    for (size_t i = 0; i < sizeof plays / sizeof *plays; i++)
        play(plays[i].name, plays[i].code);
    for (int seed = 1; seed <= 4; seed++)
        run_model(seed);
    if (getenv("TINE_LUA_TESTS"))
        run_suite(getenv("TINE_LUA_TESTS"));
    return 0;
}
