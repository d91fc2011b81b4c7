/* tine-template: the executable that a host execs to get an interpreter. */
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "child.h"
#include "embed.h"
#include "guard.h"
#include "protocol.h"
#include "sweeper.h"

int luaopen_tine_core(lua_State *L);

static int load_embedded(lua_State *L)
{
    const struct tine_embedded *script = lua_touserdata(L, lua_upvalueindex(1));
    char name[80];
    snprintf(name, sizeof name, "=%s", script->name);
    if (luaL_loadbufferx(L, script->data, script->len, name, "t") != LUA_OK)
        return lua_error(L);
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

/* `require "tine"` is at hand in every process, compiled only when it is asked for. */
static void preload(lua_State *L)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    for (const struct tine_embedded *e = tine_embedded; e->name; e++) {
        if (strncmp(e->name, "tine.template.", 14) == 0)
            continue;
        lua_pushlightuserdata(L, (void *)(size_t)e);
        lua_pushcclosure(L, load_embedded, 1);
        lua_setfield(L, -2, e->name);
    }
    lua_pushcfunction(L, luaopen_tine_core);
    lua_setfield(L, -2, "tine.core");
    lua_pop(L, 1);
}

static int open_libraries(lua_State *L)
{
    luaL_openlibs(L);
    preload(L);
    return 0;
}

static int usage(FILE *to)
{
    fprintf(
        to,
        "tine-template %s (%s, protocol %d)\n"
        "The interpreter of tine's processes. A host program starts it with a socket:\n"
        "  tine-template --serve FD PARENT\n"
        "To serve on a descriptor by hand, see `tine serve --help`.\n",
        tine_version(), LUA_RELEASE, TINE__PROTOCOL);
    return to == stdout ? 0 : 2;
}

static int number(const char *text)
{
    char *end;
    long n = strtol(text, &end, 10);
    return *text && !*end && n >= 0 && n <= INT32_MAX ? (int)n : -1;
}

int main(int argc, char **argv)
{
    if (argc == 2 &&
        (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "--help") == 0))
        return usage(stdout);
    int fd = argc == 4 ? number(argv[2]) : -1;
    int parent = argc == 4 ? number(argv[3]) : -1;
    if (fd >= 0 && parent > 0 && strcmp(argv[1], "--sweep") == 0)
        return tine__sweep(fd, parent);
    if (fd < 0 || parent < 0 || strcmp(argv[1], "--serve") != 0)
        return usage(stderr);
    if (parent)
        tine__guard_parent(parent);
    tine__title_own_environ();
    lua_State *L = luaL_newstate();
    if (!L) {
        fputs("tine-template: not enough memory for an interpreter\n", stderr);
        return 1;
    }
    lua_pushcfunction(L, open_libraries);
    if (lua_pcall(L, 0, 0, 0) != LUA_OK) {
        fprintf(stderr, "tine-template: %s\n", lua_tostring(L, -1));
        return 1;
    }
    tine__serve_in_heap(L, fd);
}
