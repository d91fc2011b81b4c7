/* lua_host SCRIPT [ARG...], or lua_host -e CODE: a plain Lua interpreter, as lua5.4 is, for
 * specs under sanitizers: linked with them, so that a module which needs them can be loaded.
 * Knows nothing of tine. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int with_traceback(lua_State *L)
{
    const char *message = luaL_tolstring(L, 1, NULL);
    luaL_traceback(L, L, message, 1);
    return 1;
}

/* arg[0] is the script, as in lua5.4; what came before it has negative indices. */
static void set_arg(lua_State *L, int argc, char **argv, int script)
{
    lua_createtable(L, argc - script, script + 1);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i - script);
    }
    lua_setglobal(L, "arg");
}

static int run(lua_State *L, int argc, char **argv)
{
    int inline_code = strcmp(argv[1], "-e") == 0;
    int script = inline_code ? 2 : 1;
    lua_pushcfunction(L, with_traceback);
    luaL_openlibs(L);
    set_arg(L, argc, argv, script);
    int bad =
        inline_code ? luaL_loadstring(L, argv[script]) : luaL_loadfile(L, argv[script]);
    if (!bad) {
        luaL_checkstack(L, argc, "too many arguments");
        for (int i = script + 1; i < argc; i++)
            lua_pushstring(L, argv[i]);
        bad = lua_pcall(L, argc - script - 1, 0, 1);
    }
    if (bad)
        (void)fprintf(stderr, "%s: %s\n", argv[0], luaL_tolstring(L, -1, NULL));
    return bad;
}

int main(int argc, char **argv)
{
    if (argc < 2 || (strcmp(argv[1], "-e") == 0 && argc < 3)) {
        (void)fprintf(stderr, "usage: %s SCRIPT [ARG...] | -e CODE\n", argv[0]);
        return EXIT_FAILURE;
    }
    /* What was printed before an abort is wanted. */
    (void)setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    lua_State *L = luaL_newstate();
    if (!L)
        return EXIT_FAILURE;
    int bad = run(L, argc, argv);
    lua_close(L);
    return bad ? EXIT_FAILURE : EXIT_SUCCESS;
}
