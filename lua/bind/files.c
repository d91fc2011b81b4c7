/* Lua files in a process forked by tine.here. Descriptors were closed below their
 * FILEs, and their numbers will be used again: such a FILE must never be touched, not
 * even by its finalizer. So the old metatable is made harmless, and the files whose
 * descriptors are still open get a fresh one. Iterators of file:lines look at no
 * metatable, nor does exit: where we can, we take the numbers out of the FILEs, too. */
#include "state.h"

#include <limits.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lualib.h>

static int do_nothing(lua_State *L)
{
    (void)L;
    return 0;
}

static int raise_closed(lua_State *L)
{
    return luaL_error(L,
                      "this file was closed when the process was forked by tine.here");
}

static int name_closed(lua_State *L)
{
    lua_pushliteral(L, "file (closed by a fork)");
    return 1;
}

/* Pushes a copy of the metatable at idx. */
static void push_copy(lua_State *L, int idx)
{
    lua_newtable(L);
    for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
        lua_pushvalue(L, -2);
        lua_pushvalue(L, -2);
        lua_rawset(L, -5);
    }
}

static void make_harmless(lua_State *L, int idx)
{
    static const luaL_Reg harmless[] = {{"__gc", do_nothing},
                                        {"__close", do_nothing},
                                        {"__index", raise_closed},
                                        {"__tostring", name_closed},
                                        {NULL, NULL}};

    lua_pushvalue(L, idx);
    luaL_setfuncs(L, harmless, 0);
    lua_pop(L, 1);
}

static int is_kept(int fd, const int *keep, size_t nkeep)
{
    size_t i;

    for (i = 0; i < nkeep; i++) {
        if (fd == keep[i])
            return 1;
    }
    return fd >= 0 && fd <= STDERR_FILENO;
}

static int is_open(const luaL_Stream *stream, const int *keep, size_t nkeep)
{
    if (!stream->closef)
        return 1; /* closed long before: it has no descriptor */
    return is_kept(fileno(stream->f), keep, nkeep);
}

#ifdef __GLIBC__
extern FILE *_IO_list_all;

/* A number that no descriptor has before all others are taken. Not -1: popen has those of all that
 * it has opened closed in its child, and fails for ever where one of them is no number at all. */
static int unused_number(void)
{
    long max = sysconf(_SC_OPEN_MAX);

    return max > 0 && max <= INT_MAX ? (int)max - 1 : INT_MAX;
}

/* All FILEs of the process. What is buffered in them is the other process's: it writes
 * and reads that, and a descriptor that both have must not be moved as we exit. */
static void detach_all(const int *keep, size_t nkeep)
{
    int unused = unused_number();
    FILE *f;

    for (f = _IO_list_all; f; f = f->_chain) {
        if (f->_fileno < 0)
            continue; /* it lives in memory */
        __fpurge(f);
        if (!is_kept(f->_fileno, keep, nkeep))
            f->_fileno = unused;
    }
}
#else
static void detach_all(const int *keep, size_t nkeep)
{
    (void)keep;
    (void)nkeep;
}
#endif

/* If the value on top is a file of the old metatable (old) and open, it gets the fresh
 * one. Returns whether it is usable now, and pops it. */
static int keep_file(lua_State *L, int old, int fresh, const int *keep, size_t nkeep)
{
    luaL_Stream *stream = lua_touserdata(L, -1);
    int kept = 0;

    if (stream && lua_getmetatable(L, -1)) {
        if (lua_rawequal(L, -1, fresh)) {
            kept = 1;
        } else if (lua_rawequal(L, -1, old) && is_open(stream, keep, nkeep)) {
            lua_pushvalue(L, fresh);
            lua_setmetatable(L, -3);
            kept = 1;
        }
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return kept;
}

/* io.stdin and its like, and the default files; of these, lost ones are replaced. */
static void keep_standard(lua_State *L, int old, int fresh, const int *keep,
                          size_t nkeep)
{
    static const char *const names[] = {"stdin", "stdout", "stderr"};
    static const char *const defaults[] = {"_IO_input", "_IO_output"};
    int i;

    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    if (lua_getfield(L, -1, LUA_IOLIBNAME) != LUA_TTABLE) {
        lua_pop(L, 2);
        return;
    }
    for (i = 0; i < 3; i++) {
        lua_getfield(L, -1, names[i]);
        keep_file(L, old, fresh, keep, nkeep);
    }
    for (i = 0; i < 2; i++) {
        lua_getfield(L, LUA_REGISTRYINDEX, defaults[i]);
        if (!keep_file(L, old, fresh, keep, nkeep)) {
            lua_getfield(L, -1, names[i]);
            lua_setfield(L, LUA_REGISTRYINDEX, defaults[i]);
        }
    }
    lua_pop(L, 2);
}

void bind_files_forked(lua_State *L, const int *keep, size_t nkeep, int idx)
{
    int old, fresh;
    lua_Integer i, n = (lua_Integer)lua_rawlen(L, idx);

    luaL_checkstack(L, 12, NULL);
    if (luaL_getmetatable(L, LUA_FILEHANDLE) != LUA_TTABLE) {
        lua_pop(L, 1);
        detach_all(keep, nkeep);
        return;
    }
    old = lua_gettop(L);
    push_copy(L, old);
    fresh = lua_gettop(L);
    keep_standard(L, old, fresh, keep, nkeep);
    for (i = 1; i <= n; i++) {
        lua_rawgeti(L, idx, i);
        keep_file(L, old, fresh, keep, nkeep);
    }
    make_harmless(L, old);
    detach_all(keep, nkeep);
    lua_pushvalue(L, fresh);
    lua_setfield(L, LUA_REGISTRYINDEX, LUA_FILEHANDLE);
    lua_pop(L, 2);
}
