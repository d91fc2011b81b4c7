/* A worker that becomes another program. */
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <linux/close_range.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/blocking.h"
#include "child.h"
#include "fd/fd.h"

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

/* A program that knows nothing of it would lose what finds no room, and not wait for more. */
static void block_stdio(void)
{
    for (int n = 0; n < 3; n++) {
        int fd = tine__fd_blocking(n);
        if (fd < 0 || fd == n)
            continue;
        dup2(fd, n);
        close(fd);
    }
}

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

int tine__exec(lua_State *L)
{
    int n = lua_gettop(L);
    luaL_checkstring(L, 1);
    char **argv = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *argv, 0);
    for (int i = 1; i <= n; i++) {
        size_t len;
        const char *word = luaL_checklstring(L, i, &len);
        luaL_argcheck(L, strlen(word) == len, i,
                      "a string without zero bytes expected");
        argv[i - 1] = (char *)(size_t)word;
    }
    argv[n] = NULL;
    sigset_t ignored, mask;
    fflush(NULL);
    block_stdio();
    keep_stdio_only();
    default_signals(&ignored, &mask);
    execvp(argv[0], argv);
    int err = errno;
    restore_signals(&ignored, &mask);
    lua_pushfstring(L, "exec %s", argv[0]);
    return bind_fail_errno(L, lua_tostring(L, -1), err);
}
