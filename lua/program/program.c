/* A program as the interpreter of its processes: tine-template, or one of the user's with functions
 * of its own. Knows nothing of commands. */
#include "program.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/pdeathsig.h"
#include "child/child.h"
#include "child/embed.h"
#include "child/sweeper.h"
#include "process/local/exec.h"

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

void tine_preload(lua_State *L)
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

typedef struct program {
    void (*setup)(lua_State *L);
} program;

static int open_state(lua_State *L)
{
    const program *p = lua_touserdata(L, 1);
    lua_settop(L, 0);
    luaL_openlibs(L);
    tine_preload(L);
    if (p->setup)
        p->setup(L);
    return 0;
}

static int number(const char *text)
{
    char *end;
    long n = strtol(text, &end, 10);
    return *text && !*end && n >= 0 && n <= INT32_MAX ? (int)n : -1;
}

bool tine__program_is_asked(int argc, char **argv)
{
    if (argc != 4 || number(argv[2]) < 0 || number(argv[3]) < 0)
        return false;
    return strcmp(argv[1], "--serve") == 0 ||
           (strcmp(argv[1], "--sweep") == 0 && number(argv[3]) > 0);
}

void tine__program_serve(char **argv, void (*setup)(lua_State *L))
{
    program p = {setup};
    int parent = number(argv[3]);
    if (strcmp(argv[1], "--sweep") == 0)
        exit(tine__sweep(number(argv[2]), parent));
    if (parent)
        tine__pdeathsig_parent(parent);
    tine__title_own_environ();
    lua_State *L = luaL_newstate();
    if (!L) {
        fputs("tine: not enough memory for an interpreter\n", stderr);
        exit(1);
    }
    lua_pushcfunction(L, open_state);
    lua_pushlightuserdata(L, &p);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
        const char *why = lua_tostring(L, -1);
        fprintf(stderr, "tine: cannot set an interpreter up: %s\n",
                why ? why : "the error is no string");
        exit(1);
    }
    tine__serve_in_heap(L, number(argv[2]));
}

void tine_main(int argc, char **argv, void (*setup)(lua_State *L))
{
    /* The name, too: --serve may be an option of the program's own. */
    if (argc && strcmp(argv[0], TINE__EXEC_NAME) == 0 &&
        tine__program_is_asked(argc, argv))
        tine__program_serve(argv, setup);
    tine__exec_self();
}
