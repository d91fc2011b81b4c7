/* A worker that becomes another program. All that can fail is done first, and undone where the
 * program cannot be executed after all: then the process is as it was. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <linux/close_range.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/blocking.h"
#include "base/fd.h"
#include "child.h"
#include "fd/fd.h"

/* The arguments. */
enum { STDIN = 1, CWD = 4, ENV, PROGRAM };

typedef struct plan {
    char **argv, **envp;
    const char *what; /* failed: the option's name, or NULL */
    int place[3];     /* what becomes 0, 1, 2; -1: what is there */
    int saved[3];     /* what was there; -1: nothing */
    int cwd;          /* the directory, where that is another; -1 */
    int *inherited;
    size_t ninherited;
    sigset_t ignored, mask;
} plan;

/* ---------------------------------------------------------- descriptors from 3 up */

/* Notes those that programs inherit. */
static void note_inherited(plan *p)
{
    DIR *dir = opendir("/proc/self/fd");
    const struct dirent *entry;
    size_t room = 0;
    while (dir && (entry = readdir(dir))) {
        int fd = atoi(entry->d_name);
        int flags = fd < 3 ? -1 : fcntl(fd, F_GETFD);
        if (flags < 0 || flags & FD_CLOEXEC)
            continue;
        if (p->ninherited == room) {
            room = room ? 2 * room : 16;
            int *more = realloc(p->inherited, room * sizeof *more);
            if (!more)
                break;
            p->inherited = more;
        }
        p->inherited[p->ninherited++] = fd;
    }
    if (dir)
        closedir(dir);
}

/* What the program gets: stdin, stdout, stderr. If it cannot be executed, all stays open. */
static void keep_stdio_only(void)
{
    if (syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC) == 0)
        return;
    /* Before Linux 5.11. */
    long end = sysconf(_SC_OPEN_MAX);
    for (int fd = 3; fd < end; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (flags >= 0)
            fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
    }
}

/* ------------------------------------------------------------- descriptors 0 to 2 */

static const char *const stdio_names[] = {"stdin", "stdout", "stderr"};

static int negative(int fd)
{
    return fd < 0 ? -errno : fd;
}

/* A descriptor of its own for the program, or a negative errno. A program that knows nothing of
 * O_NONBLOCK would lose what finds no room, and not wait for more. */
static int open_place(lua_State *L, int idx, int n)
{
    bool given = lua_isinteger(L, idx);
    if (lua_type(L, idx) == LUA_TSTRING)
        return tine__fd_above_stdio(negative(open("/dev/null", O_RDWR | O_CLOEXEC)));
    int from = given ? (int)lua_tointeger(L, idx) : n;
    int fd = tine__fd_blocking(from);
    if (fd == from)
        return given ? tine__fd_dup(from) : -EBADF;
    return fd;
}

/* These return 0 or an errno, and then p->what. */
static int open_places(lua_State *L, plan *p)
{
    for (int n = 0; n < 3; n++) {
        int fd = open_place(L, STDIN + n, n);
        if (fd >= 0) {
            p->place[n] = fd;
        } else if (!lua_isnil(L, STDIN + n)) {
            p->what = stdio_names[n];
            return -fd;
        }
    }
    return 0;
}

static int place_all(plan *p)
{
    for (int n = 0; n < 3; n++) {
        if (p->place[n] < 0)
            continue;
        p->saved[n] = tine__fd_dup(n);
        if (p->saved[n] < 0 && p->saved[n] != -EBADF) {
            p->what = stdio_names[n];
            return -p->saved[n];
        }
        dup2(p->place[n], n);
    }
    return 0;
}

static void put_back(plan *p)
{
    for (int n = 0; n < 3; n++) {
        if (p->saved[n] >= 0)
            dup2(p->saved[n], n);
        else if (p->saved[n] == -EBADF)
            close(n);
    }
}

/* ---------------------------------------------------------------------- directory */

static int change_directory(plan *p, const char *path)
{
    if (!path)
        return 0;
    p->what = "cwd";
    p->cwd =
        tine__fd_above_stdio(negative(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)));
    if (p->cwd < 0)
        return -p->cwd;
    return chdir(path) < 0 ? errno : 0;
}

static void go_back(lua_State *L, plan *p)
{
    if (p->cwd >= 0 && fchdir(p->cwd) < 0)
        lua_warning(L, "exec: the working directory is lost", 0);
    tine__fd_close(&p->cwd);
}

/* ------------------------------------------------------------------------ signals */

/* An exec resets handlers, but neither what is ignored nor the mask. */
static void default_signals(sigset_t *ignored, sigset_t *mask)
{
    struct sigaction action;
    sigset_t none;
    sigemptyset(ignored);
    for (int signo = 1; signo <= SIGRTMAX; signo++) {
        if (sigaction(signo, NULL, &action) < 0 || action.sa_handler != SIG_IGN)
            continue;
        sigaddset(ignored, signo);
        signal(signo, SIG_DFL);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, mask);
}

static void restore_signals(const sigset_t *ignored, const sigset_t *mask)
{
    for (int signo = 1; signo <= SIGRTMAX; signo++)
        if (sigismember(ignored, signo) == 1)
            signal(signo, SIG_IGN);
    sigprocmask(SIG_SETMASK, mask, NULL);
}

/* ---------------------------------------------------------- arguments, environment */

static char **push_argv(lua_State *L, int n)
{
    luaL_checkstack(L, LUA_MINSTACK, NULL);
    char **argv = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *argv, 0);
    for (int i = 0; i < n; i++)
        argv[i] = (char *)(size_t)luaL_checkstring(L, PROGRAM + i);
    argv[n] = NULL;
    return argv;
}

/* Whether the list at ENV, of "NAME=VALUE" and "NAME", has another word on that variable. */
static bool is_changed(lua_State *L, const char *variable)
{
    size_t len = strcspn(variable, "=");
    size_t n = lua_rawlen(L, ENV);
    bool changed = false;
    for (size_t i = 1; i <= n && !changed; i++) {
        lua_rawgeti(L, ENV, (lua_Integer)i);
        const char *word = lua_tostring(L, -1);
        changed = strcspn(word, "=") == len && strncmp(word, variable, len) == 0;
        lua_pop(L, 1);
    }
    return changed;
}

static char **push_envp(lua_State *L)
{
    size_t n = 0, nchanges;
    if (lua_isnil(L, ENV)) {
        lua_pushnil(L);
        return environ;
    }
    while (environ && environ[n])
        n++;
    nchanges = lua_rawlen(L, ENV);
    char **envp = lua_newuserdatauv(L, (n + nchanges + 1) * sizeof *envp, 0);
    size_t end = 0;
    for (size_t i = 0; i < n; i++)
        if (!is_changed(L, environ[i]))
            envp[end++] = environ[i];
    for (size_t i = 1; i <= nchanges; i++) {
        lua_rawgeti(L, ENV, (lua_Integer)i);
        const char *word = lua_tostring(L, -1); /* the list keeps it */
        if (strchr(word, '='))
            envp[end++] = (char *)(size_t)word;
        lua_pop(L, 1);
    }
    envp[end] = NULL;
    return envp;
}

static int try_exec(plan *p)
{
    char **own = environ;
    p->what = NULL;
    note_inherited(p);
    keep_stdio_only();
    default_signals(&p->ignored, &p->mask);
    environ = p->envp; /* whose PATH counts */
    execvp(p->argv[0], p->argv);
    int err = errno;
    environ = own;
    restore_signals(&p->ignored, &p->mask);
    for (size_t i = 0; i < p->ninherited; i++)
        fcntl(p->inherited[i], F_SETFD, 0);
    free(p->inherited);
    return err;
}

static int fail(lua_State *L, const plan *p, int err)
{
    const char *text = lua_pushfstring(L, "exec %s", p->argv[0]);
    if (p->what)
        text = lua_pushfstring(L, "%s: %s", text, p->what);
    if (p->what && err == EOPNOTSUPP)
        text = lua_pushfstring(
            L,
            "%s: what is nonblocking for all who have it, and cannot "
            "be opened anew, is not for programs: make it blocking first",
            text);
    return bind_fail_errno(L, text, err);
}

int tine__exec(lua_State *L)
{
    plan p = {.place = {-1, -1, -1}, .saved = {-1, -1, -1}, .cwd = -1};
    p.argv = push_argv(L, lua_gettop(L) - PROGRAM + 1);
    p.envp = push_envp(L);
    fflush(NULL);
    int err = open_places(L, &p);
    if (!err)
        err = change_directory(&p, lua_tostring(L, CWD));
    if (!err)
        err = place_all(&p);
    if (!err)
        err = try_exec(&p);
    put_back(&p);
    go_back(L, &p);
    tine__fd_close_all(p.place, 3);
    tine__fd_close_all(p.saved, 3);
    return fail(L, &p, err);
}
