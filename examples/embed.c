/* A C program that is the interpreter of its own workers: each of them has the program's functions,
 * and nothing else need be installed.
 *
 *   cc embed.c $(pkg-config --cflags --libs tine-lua) -o embed && ./embed rules.lua
 *
 * A small game: the rules are a script, which runs in workers; the world is C, and the script calls
 * back into it. Without a script it plays its own rules. */
#include <lauxlib.h>
#include <lua.h>
#include <stdio.h>
#include <string.h>
#include <tine.h>

enum { UNITS = 6 };

static const char own_rules[] =
    "function move(name, strength)\n"
    "  local step = game.roll(name, tonumber(strength))\n"
    "  return ('%s moves %d'):format(name, step), game.version\n"
    "end\n";

/* What the script calls: the same for the same unit. */
static int roll(lua_State *L)
{
    size_t len;
    const char *name = luaL_checklstring(L, 1, &len);
    lua_Integer most = luaL_checkinteger(L, 2);
    luaL_argcheck(L, most > 0, 2, "a strength above 0 expected");
    unsigned sum = 0;
    for (size_t i = 0; i < len; i++)
        sum = sum * 31 + (unsigned char)name[i];
    lua_pushinteger(L, 1 + (lua_Integer)(sum % (unsigned)most));
    return 1;
}

/* Called in each interpreter that is made of this program. */
static void setup(lua_State *L)
{
    static const luaL_Reg functions[] = {{"roll", roll}, {NULL, NULL}};
    luaL_newlib(L, functions);
    lua_pushliteral(L, "1.0");
    lua_setfield(L, -2, "version");
    lua_setglobal(L, "game");
}

static void on_moved(void *arg, tine_job *job, const tine_error *err,
                     const tine_str *results, size_t n)
{
    int *failed = arg;
    (void)job;
    if (err) {
        fprintf(stderr, "%s\n", err->message);
        *failed = 1;
        return;
    }
    printf("%.*s (rules %.*s)\n", (int)results[0].len, (const char *)results[0].data,
           n > 1 ? (int)results[1].len : 1,
           n > 1 ? (const char *)results[1].data : "?");
}

static int load_rules(tine_proc *template, const char *path)
{
    char text[65536];
    FILE *f = path ? fopen(path, "r") : NULL;
    if (!path)
        return tine_proc_eval(template, TINE_TEXT, own_rules, sizeof own_rules - 1,
                              NULL, 0);
    if (!f) {
        perror(path);
        return -1;
    }
    size_t n = fread(text, 1, sizeof text, f);
    fclose(f);
    return tine_proc_eval(template, TINE_TEXT, text, n, NULL, 0);
}

static int play(tine_pool *pool, int *failed)
{
    static const char *const names[UNITS] = {"Ada", "Bob", "Cid", "Dee", "Eve", "Fay"};
    for (int i = 0; i < UNITS; i++) {
        char strength[16];
        int len = snprintf(strength, sizeof strength, "%d", i + 1);
        tine_str args[] = {{names[i], strlen(names[i])}, {strength, (size_t)len}};
        int err = tine_pool_call(pool, args, 2, NULL, on_moved, failed, NULL);
        if (err < 0)
            return err;
    }
    return 0;
}

int main(int argc, char **argv)
{
    tine_main(argc, argv, setup); /* in a worker it does not return */
    tine_host *host;
    tine_proc *template;
    tine_pool *pool;
    tine_func move = {TINE_TEXT, "move", 4};
    tine_pool_options options = {.max = 1};
    int failed = 0;
    if (tine_host_new(&host, NULL) < 0 || tine_proc_new(host, NULL, &template) < 0)
        return 1;
    if (load_rules(template, argc > 1 ? argv[1] : NULL) < 0 ||
        tine_pool_new(template, &move, &options, &pool) < 0)
        return 1;
    if (play(pool, &failed) < 0)
        return 1;
    tine_pool_close(pool, -1, NULL, NULL);
    tine_proc_close(template);
    if (tine_host_run(host) < 0)
        return 1;
    tine_host_free(host);
    return failed;
}
