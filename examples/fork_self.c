/* A C program with a Lua state that forks itself as a template: its workers begin with all that
 * the state has loaded, and nothing is executed.
 *
 *   cc fork_self.c $(pkg-config --cflags --libs tine-lua) -o fork_self && ./fork_self
 */
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>
#include <tine.h>
#include <unistd.h>

static const char loading[] = "squares = {}\n"
                              "for i = 1, 100000 do squares[i] = i * i end\n"
                              "function square(sock, i)\n"
                              "  sock:write(squares[tonumber(i)])\n"
                              "end\n";

static lua_State *load(void)
{
    lua_State *L = luaL_newstate();
    if (!L)
        return NULL;
    luaL_openlibs(L);
    tine_preload(L);
    if (luaL_dostring(L, loading) != LUA_OK) {
        fprintf(stderr, "%s\n", lua_tostring(L, -1));
        lua_close(L);
        return NULL;
    }
    return L;
}

static void on_answer(void *arg, tine_io *io, int events)
{
    char text[64];
    int fd = *(int *)arg;
    (void)events;
    ssize_t n = read(fd, text, sizeof text);
    if (n > 0) {
        printf("%.*s\n", (int)n, text);
        return;
    }
    tine_io_free(io);
    close(fd);
}

static int sock = -1;

static void on_socket(void *arg, tine_proc *p, int fd, const tine_error *err)
{
    tine_host *host = arg;
    tine_io *io;
    (void)p;
    if (err) {
        fprintf(stderr, "%s\n", err->message);
        return;
    }
    sock = fd;
    if (tine_io_new(host, &io, fd, TINE_READ, on_answer, &sock) < 0)
        close(fd);
}

static int ask(tine_host *host, tine_proc *template, const char *number)
{
    tine_str arg = {number, strlen(number)};
    tine_proc *p;
    int err = tine_proc_fork(template, NULL, &p);
    if (!err)
        err = tine_proc_send_arg(p, &arg, 1);
    if (!err)
        err = tine_proc_run(p, TINE_TEXT, "square", 6, on_socket, host);
    tine_proc_close(p);
    return err;
}

int main(int argc, char **argv)
{
    tine_host *host;
    tine_proc *template;
    int command_fd;
    lua_State *L = load();
    if (!L || tine_host_new(&host, NULL) < 0)
        return 1;
    int forked = tine_proc_here(host, NULL, &template, &command_fd);
    if (forked == 0)
        tine_serve(L, command_fd); /* the new process */
    if (forked < 0) {
        fprintf(stderr, "fork: %s\n", tine_strerror(forked));
        return 1;
    }
    int err = ask(host, template, argc > 1 ? argv[1] : "1000");
    tine_proc_close(template);
    if (!err)
        err = tine_host_run(host);
    tine_host_free(host);
    lua_close(L);
    return err < 0;
}
