/* The child shares our memory until it execs (as in vfork), so nothing of a big host is
 * copied; between clone and exec it makes system calls only. */
#include "exec.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/blocking.h"
#include "base/fd.h"
#include "base/pdeathsig.h"

enum { STACK_SIZE = 256 * 1024, CLEAR_OF_STDIO = 10 };

typedef struct spawn_child {
    const tine__exec_args *args;
    char *const *argv;
    char *const *envp;
    int own[3]; /* our stdin, stdout and stderr, as it inherits them */
    int err;
    const char *step;
} spawn_child;

static int fail(spawn_child *c, const char *step)
{
    c->err = errno;
    c->step = step;
    /* Not _exit: where a call does not return, AddressSanitizer tidies up the stack, and
     * this is none that it knows. */
    syscall(SYS_exit_group, 127);
    return -1;
}

/* A source for stdio descriptor n that no later dup2 overwrites. */
static int stdio_source(const spawn_child *c, int n)
{
    int fd = c->args->stdio[n];
    if (fd == TINE__EXEC_INHERIT && fcntl(n, F_GETFD) >= 0)
        fd = c->own[n];
    if (fd >= 0)
        return fcntl(fd, F_DUPFD, CLEAR_OF_STDIO);
    int null = open("/dev/null", n == 0 ? O_RDONLY : O_WRONLY);
    return null < 0 ? null : fcntl(null, F_DUPFD, CLEAR_OF_STDIO);
}

static int child_main(void *arg)
{
    spawn_child *c = arg;
    const tine__exec_args *args = c->args;
    tine__signals_reset();
    if (args->apart)
        setsid();
    int source[4];
    for (int n = 0; n < 3; n++)
        if ((source[n] = stdio_source(c, n)) < 0)
            return fail(c, "redirect its standard input and output");
    source[3] = fcntl(args->command_fd, F_DUPFD, CLEAR_OF_STDIO);
    if (source[3] < 0)
        return fail(c, "hand it its command socket");
    for (int n = 0; n < 4; n++)
        if (dup2(source[n], n) < 0)
            return fail(c, "redirect its standard input and output");
    tine__fd_close_from(4, NULL, 0);
    execve(args->path, c->argv, c->envp);
    return fail(c, "execute");
}

static bool is_variable(const char *entry, const char *name)
{
    size_t len = strlen(name);
    return strncmp(entry, name, len) == 0 && entry[len] == '=';
}

/* The environment, with Lua's module paths put in. The versioned names win over LUA_PATH. */
static char **environment(const tine__exec_args *args)
{
    static const char *const names[2] = {"LUA_PATH_5_4", "LUA_CPATH_5_4"};
    const char *const values[2] = {args->lua_path, args->lua_cpath};
    size_t n = 0, size = 0, to = 0;
    while (environ && environ[n])
        n++;
    for (int i = 0; i < 2; i++)
        size += values[i] ? strlen(names[i]) + strlen(values[i]) + 2 : 0;
    char **envp = malloc((n + 3) * sizeof *envp + size);
    if (!envp)
        return NULL;
    char *text = (char *)(envp + n + 3);
    for (size_t i = 0; i < n; i++) {
        bool replaced = false;
        for (int k = 0; k < 2; k++)
            replaced = replaced || (values[k] && is_variable(environ[i], names[k]));
        if (!replaced)
            envp[to++] = environ[i];
    }
    for (int i = 0; i < 2; i++) {
        if (!values[i])
            continue;
        envp[to++] = text;
        text += sprintf(text, "%s=%s", names[i], values[i]) + 1;
    }
    envp[to] = NULL;
    return envp;
}

static int run_clone(spawn_child *c, pid_t *pid, int *pidfd)
{
    char *stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED)
        return -errno;
    sigset_t all, before;
    sigfillset(&all);
    /* A handler of the host must not run in the child, on the host's memory. */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    *pid = clone(child_main, stack + STACK_SIZE,
                 CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, c, pidfd);
    int err = *pid < 0 ? -errno : 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    munmap(stack, STACK_SIZE);
    return err;
}

static void reap(pid_t pid)
{
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

/* Whoever started us may have left them nonblocking. */
static void open_own(int own[3])
{
    for (int n = 0; n < 3; n++)
        if ((own[n] = tine__fd_blocking(n)) < 0)
            own[n] = n;
}

static void close_own(int own[3])
{
    for (int n = 0; n < 3; n++)
        if (own[n] != n)
            tine__fd_close(&own[n]);
}

int tine__exec_start(const tine__exec_args *args, pid_t *pid, int *pidfd,
                     const char **step)
{
    char fd[16], parent[16];
    snprintf(fd, sizeof fd, "%d", TINE__EXEC_FD);
    snprintf(parent, sizeof parent, "%d", args->detach ? 0 : (int)getpid());
    char *argv[] = {TINE__EXEC_NAME, args->sweeps ? "--sweep" : "--serve", fd, parent,
                    NULL};
    *step = "make a process for";
    char **envp = environment(args);
    if (!envp)
        return -ENOMEM;
    spawn_child child = {.args = args, .argv = argv, .envp = envp};
    int fdnum = -1;
    open_own(child.own);
    int err = run_clone(&child, pid, &fdnum);
    close_own(child.own);
    free(envp);
    if (err < 0)
        return err;
    *pidfd = tine__fd_above_stdio(fdnum);
    if (child.err) {
        *step = child.step;
        err = -child.err;
        reap(*pid);
        tine__fd_close(pidfd);
        return err;
    }
    if (*pidfd < 0) {
        err = *pidfd;
        kill(*pid, SIGKILL);
        reap(*pid);
    }
    return err;
}

static char *executable(const char *dir, size_t len, const char *name)
{
    char *path = malloc(len + strlen(name) + 2);
    if (!path)
        return NULL;
    sprintf(path, "%.*s/%s", (int)len, dir, name);
    if (access(path, X_OK) == 0)
        return path;
    free(path);
    return NULL;
}

static char *beside_library(void)
{
    Dl_info info;
    if (!dladdr((void *)(size_t)tine__exec_find, &info) || !info.dli_fname)
        return NULL;
    /* For code linked into the program itself the loader gives argv[0]. */
    char *real = strchr(info.dli_fname, '/') ? realpath(info.dli_fname, NULL) : NULL;
    if (!real && !(real = realpath("/proc/self/exe", NULL)))
        return NULL;
    size_t len = (size_t)(strrchr(real, '/') - real);
    char *path = executable(real, len, "tine-template");
    if (!path)
        path = executable(real, len, "tine/tine-template");
    free(real);
    return path;
}

static bool is_interpreter;

void tine__exec_self(void)
{
    is_interpreter = true;
}

char *tine__exec_find(void)
{
    /* Not where that leads to: the file may be replaced while the program runs. */
    char *path = is_interpreter ? strdup("/proc/self/exe") : beside_library();
    if (path)
        return path;
    const char *env = getenv("TINE");
    if (env && *env)
        return strdup(env);
    const char *dirs = getenv("PATH");
    for (size_t len; !path && dirs && *dirs; dirs += dirs[len] ? len + 1 : len) {
        len = strcspn(dirs, ":");
        path = executable(dirs, len, "tine-template");
    }
#ifdef TINE__INSTALLED_IN
    if (!path)
        path = executable(TINE__INSTALLED_IN, sizeof TINE__INSTALLED_IN - 1,
                          "tine-template");
#endif
    return path;
}
