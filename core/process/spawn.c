/* How processes come into being: exec, fork of a template, fork of the program itself, and
 * descriptors of processes that somebody else made. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/blocking.h"
#include "base/fd.h"
#include "base/pdeathsig.h"
#include "exec.h"
#include "process.h"
#include "setting.h"
#include "sweeper.h"
#include "wire/protocol.h"

/* How long an interpreter may take until it answers. It is counted in steps: of a time that
 * the host spends away from its loop, only one counts. */
enum { HELLO_USEC = 500000, HELLO_STEPS = 20 };

/* The redirections of a birth: flags for the FORK or HELLO frame, and descriptors. */
typedef struct redirect {
    uint32_t flags;
    int fds[3]; /* owned; -1: none */
} redirect;

static void redirect_close(redirect *r)
{
    tine__fd_close_all(r->fds, 3);
}

static int blocking_dup(int fd)
{
    int blocking = tine__fd_blocking(fd);
    return blocking == fd ? tine__fd_dup(fd) : blocking;
}

static int redirect_one(tine_proc *p, const tine_stdio *how, int n, redirect *r)
{
    int fd = -1, err = 0;
    switch (how->how) {
    case TINE_STDIO_NULL:
        r->flags |= (uint32_t)TINE__STDIO_NULL << 2 * n;
        return 0;
    case TINE_STDIO_FD:
        fd = blocking_dup(how->fd);
        err = fd < 0 ? fd : 0;
        break;
    case TINE_STDIO_LINES:
        if (n == 0)
            return -EINVAL;
        r->flags |= TINE__FORK_LINES(n);
        err = tine__capture_open(p, n, how, &fd);
        break;
    default:
        return 0;
    }
    r->fds[n] = err ? -1 : fd;
    r->flags |= (uint32_t)TINE__STDIO_FD << 2 * n;
    return err;
}

static int redirect_all(tine_proc *p, const tine_proc_options *options, redirect *r)
{
    *r = (redirect){.fds = {-1, -1, -1}};
    if (p->detach)
        r->flags |= TINE__FORK_DETACH;
    int err = 0;
    for (int n = 0; options && n < 3 && !err; n++)
        err = redirect_one(p, &options->stdio[n], n, r);
    if (err)
        redirect_close(r);
    return err;
}

static int stdio_kind(const redirect *r, int n)
{
    return r->flags >> 2 * n & 3;
}

/* p could not be made: its callbacks are told in the next turn of the loop. */
static int never(tine_proc *p, int err, const char *what, const char *which)
{
    char text[PATH_MAX + 200];
    tine_error error = tine__error_system(err, text, sizeof text, "cannot %s%s%s", what,
                                          which ? " " : "", which ? which : "");
    tine__proc_never(p, &error);
    return 0;
}

static int never_redirected(tine_proc *p, int err)
{
    return never(
        p, err,
        err == -EOPNOTSUPP
            ? "redirect its standard input and output to what is nonblocking for "
              "all who have it, and cannot be opened anew: make it blocking first"
            : "redirect its standard input and output",
        NULL);
}

/* ------------------------------------------------------------ direct children */

static void on_no_hello(void *arg, tine_timer *timer)
{
    tine_proc *p = arg;
    (void)timer;
    tine_timer_free(p->timer);
    p->timer = NULL;
    if (++p->hello_steps < HELLO_STEPS &&
        tine__timer_internal(p->host, &p->timer, HELLO_USEC, on_no_hello, p) == 0)
        return;
    tine_error err = tine__error_make(
        TINE_KIND_TIMEOUT, p->pid,
        p->adopted ? "no process of tine answers behind the descriptor"
                   : "the interpreter did not answer: is it a tine-template?");
    if (!p->direct) {
        tine__proc_never(p, &err);
        return;
    }
    /* Its end, when it has been reaped, brings the error. */
    tine_proc_kill(p, SIGKILL);
    tine__proc_failed(p, &err);
}

static int put_hello(tine_proc *p, uint32_t flags)
{
    tine__buf b = {0};
    int report = tine__fd_dup(p->host->report_tx);
    if (report < 0)
        return report;
    tine__buf_u32(&b, TINE__PROTOCOL);
    tine__buf_u64(&b, p->id);
    tine__buf_u32(&b, (uint32_t)p->host->owner.pid);
    tine__buf_str(&b, tine_version(), strlen(tine_version()));
    tine__buf_u32(&b, flags);
    tine__buf_str(&b, p->name ? p->name : "", p->name ? strlen(p->name) : 0);
    tine_str body = {b.data, b.len};
    int err =
        b.failed ? -ENOMEM : tine__proc_put(p, TINE__FRAME_HELLO, &body, 1, &report, 1);
    tine__buf_free(&b);
    if (err < 0)
        tine__fd_close(&report);
    return err < 0
               ? err
               : tine__timer_internal(p->host, &p->timer, HELLO_USEC, on_no_hello, p);
}

static int open_socket(tine_proc *p, int *far)
{
    int pair[2];
    int err = tine__fd_pair(SOCK_STREAM, pair);
    if (err < 0)
        return err;
    tine__chan_init(&p->chan, pair[0]);
    *far = pair[1];
    return 0;
}

static int exec_interpreter(tine_proc *p, redirect *r, int far)
{
    tine_host *host = p->host;
    const char *step = NULL;
    tine__exec_args args = {
        .path = tine_host_interpreter(host),
        .command_fd = far,
        .detach = p->detach,
        .apart = p->apart,
        .lua_path = host->lua_path,
        .lua_cpath = host->lua_cpath,
    };
    if (!args.path)
        return never(p, -ENOENT,
                     "find tine-template (name it: tine.interpreter in Lua, "
                     "tine_host_set_interpreter in C, or $TINE)",
                     NULL);
    for (int n = 0; n < 3; n++)
        args.stdio[n] = stdio_kind(r, n) == TINE__STDIO_FD     ? r->fds[n]
                        : stdio_kind(r, n) == TINE__STDIO_NULL ? TINE__EXEC_NULL
                                                               : TINE__EXEC_INHERIT;
    int err = tine__exec_start(&args, &p->pid, &p->pidfd, &step);
    if (err < 0)
        return never(p, err, step, args.path);
    p->direct = true;
    err = tine__proc_watch(p);
    if (err < 0)
        tine__proc_end_direct(p);
    else
        tine__sweeper_watch(host, p);
    return err;
}

/* Ctrl-C is the host's alone, and without a terminal nothing can be stopped in the background
 * of it. Who reads it must stay. */
static void default_stdin(tine_proc *p, redirect *r, const tine_proc_options *options)
{
    if (!options || options->stdio[0].how == TINE_STDIO_DEFAULT)
        r->flags |= TINE__STDIO_NULL;
    p->apart = p->detach || stdio_kind(r, 0) != TINE__STDIO_KEEP;
}

static int begin(tine_host *host, const tine_proc_options *options, tine_proc **out)
{
    *out = NULL;
    if (tine__stale(host))
        return -TINE_ESTALE;
    return tine__proc_alloc(host, options, out);
}

int tine__proc_exec(tine_host *host, const tine_proc_options *options, tine_proc **out)
{
    redirect r;
    int far = -1;
    int err = begin(host, options, out);
    if (err < 0)
        return err;
    tine_proc *p = *out;
    p->was_busy = true;
    p->replay = tine__replay_birth(NULL, options, true);
    if ((err = redirect_all(p, options, &r)) < 0)
        return never_redirected(p, err);
    default_stdin(p, &r, options);
    err = open_socket(p, &far);
    if (!err)
        err = put_hello(p, r.flags);
    if (!err)
        err = exec_interpreter(p, &r, far);
    redirect_close(&r);
    tine__fd_close(&far);
    return err < 0 ? never(p, err, "make a command socket", NULL) : 0;
}

static int default_template(tine_host *host)
{
    static const tine_proc_options options = {.name = "template"};
    const tine_proc *known = host->template_proc;
    bool holds =
        host->early || (host->setting && tine__setting_holds(host->setting, host));
    if (known && !tine_proc_ended(known) && !known->eof) {
        if (holds)
            return 0;
        tine_host_reset(host);
    }
    free(host->setting);
    host->setting = tine__setting_take(host);
    int err =
        host->setting ? tine__proc_exec(host, &options, &host->template_proc) : -ENOMEM;
    if (!err)
        host->template_proc->hidden = true;
    return err;
}

int tine_proc_new_exec(tine_host *host, const tine_proc_options *options,
                       tine_proc **out)
{
    *out = NULL;
    if (tine__stale(host))
        return -TINE_ESTALE;
    if (host->early && host->template_proc)
        return tine_proc_fork(host->template_proc, options, out);
    return tine__proc_exec(host, options, out);
}

int tine_proc_new(tine_host *host, const tine_proc_options *options, tine_proc **out)
{
    *out = NULL;
    if (tine__stale(host))
        return -TINE_ESTALE;
    int err = default_template(host);
    return err < 0 ? err : tine_proc_fork(host->template_proc, options, out);
}

/* --------------------------------------------------------------------- fork */

static int put_fork(tine_proc *parent, tine_proc *p, redirect *r, int *far)
{
    tine__buf b = {0};
    int fds[4] = {*far};
    size_t nfds = 1;
    for (int n = 0; n < 3; n++)
        if (r->fds[n] >= 0)
            fds[nfds++] = r->fds[n];
    tine__buf_u64(&b, p->id);
    tine__buf_u32(&b, r->flags);
    tine__buf_str(&b, p->name ? p->name : "", p->name ? strlen(p->name) : 0);
    tine_str body = {b.data, b.len};
    int err = b.failed ? -ENOMEM
                       : tine__proc_put(parent, TINE__FRAME_FORK, &body, 1, fds, nfds);
    tine__buf_free(&b);
    if (err < 0)
        return err;
    *far = r->fds[0] = r->fds[1] = r->fds[2] = -1;
    return 0;
}

/* A fork of a process that cannot be forked any more fails as that one did. */
static int never_forked(tine_proc *p, tine_proc *parent, int err)
{
    if (!parent->cause)
        return never(p, err, "fork from a process that has ended", NULL);
    char text[600];
    tine_error cause = parent->cause->error;
    tine__error_say(&cause, text, sizeof text, "the process to fork from failed: %.*s",
                    (int)cause.message_len, cause.message);
    tine__proc_never(p, &cause);
    return 0;
}

static int fork_proc(tine_proc *parent, const tine_proc_options *options, bool spare,
                     tine_proc **out)
{
    redirect r;
    int far = -1;
    int err = begin(parent->host, options, out);
    if (err < 0)
        return err;
    tine_proc *p = *out;
    p->was_busy = true;
    if ((err = redirect_all(p, options, &r)) < 0)
        return never_redirected(p, err);
    if ((err = open_socket(p, &far)) < 0) {
        redirect_close(&r);
        return never(p, err, "make a command socket", NULL);
    }
    if (spare)
        r.flags |= TINE__FORK_SPARE;
    p->spare = p->apart = spare;
    err = put_fork(parent, p, &r, &far);
    if (!err)
        tine__proc_adopt(parent, p);
    redirect_close(&r);
    tine__fd_close(&far);
    tine__proc_update(p);
    if (err == -TINE_ECLOSED)
        return never_forked(p, parent, err);
    return err < 0 ? never(p, err, "queue a fork", NULL) : 0;
}

int tine_proc_fork(tine_proc *parent, const tine_proc_options *options, tine_proc **out)
{
    *out = NULL;
    if (parent->consumed)
        return -TINE_ECONSUMED;
    int err = fork_proc(parent, options, false, out);
    if (!err && !(*out)->ended)
        (*out)->replay =
            tine__replay_birth(tine__replay_ref(parent->replay), options, false);
    return err;
}

int tine__proc_fork_held(tine_proc *p, const tine_proc_options *options, bool spare,
                         tine_proc **out)
{
    p->forking = true;
    int err = fork_proc(p, options, spare, out);
    p->forking = false;
    return err;
}

int tine_proc_from_fd(tine_host *host, int fd, tine_proc **out)
{
    int type = 0;
    socklen_t len = sizeof type;
    *out = NULL;
    if (tine__stale(host))
        return -TINE_ESTALE;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
        return -errno;
    if (type != SOCK_STREAM)
        return -EPROTOTYPE;
    int err = begin(host, NULL, out);
    if (err < 0)
        return err;
    tine_proc *p = *out;
    p->adopted = true;
    p->was_busy = true;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    tine__chan_init(&p->chan, fd);
    err = put_hello(p, 0);
    return err < 0 ? never(p, err, "queue a greeting", NULL) : 0;
}

/* ------------------------------------------------------ the program itself */

static int threads(void)
{
    struct stat st;
    return stat("/proc/self/task", &st) < 0 ? 1 : (int)st.st_nlink - 2;
}

/* A thread that was joined is counted until the kernel has done with it. */
static bool alone(void)
{
    const struct timespec moment = {0, 1000000};
    for (int tries = 0; threads() > 1; tries++) {
        if (tries == 20)
            return false;
        nanosleep(&moment, NULL);
    }
    return true;
}

static int by_number(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

static void child_stdio(const redirect *r)
{
    for (int n = 0; n < 3; n++) {
        int fd = r->fds[n];
        if (stdio_kind(r, n) == TINE__STDIO_NULL || (fd < 0 && fcntl(n, F_GETFD) < 0))
            fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (fd >= 0 && fd != n)
            dup2(fd, n);
        else if (fd == n)
            fcntl(n, F_SETFD, 0);
    }
}

/* In the fork: everything of the program but what was asked for ends here. */
static void become_child(const redirect *r, bool detach, pid_t parent, const int *keep,
                         size_t nkeep)
{
    tine__signals_reset();
    if (detach || stdio_kind(r, 0) != TINE__STDIO_KEEP)
        setsid();
    if (!detach)
        tine__pdeathsig_parent(parent);
    child_stdio(r);
    tine__fd_close_from(3, keep, nkeep);
}

static pid_t fork_program(const redirect *r, const tine_proc *p,
                          const tine_proc_options *options, int far)
{
    size_t nkeep = options ? options->nkeep : 0;
    int *keep = malloc((nkeep + 1) * sizeof *keep);
    if (!keep)
        return -ENOMEM;
    if (nkeep)
        memcpy(keep, options->keep, nkeep * sizeof *keep);
    keep[nkeep++] = far;
    qsort(keep, nkeep, sizeof *keep, by_number);
    pid_t parent = getpid();
    sigset_t all, before;
    sigfillset(&all);
    fflush(NULL);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork();
    if (pid == 0)
        become_child(r, p->detach, parent, keep, nkeep);
    else
        sigprocmask(SIG_SETMASK, &before, NULL);
    int err = errno;
    free(keep);
    return pid < 0 ? -err : pid;
}

static int born_here(tine_proc *p, pid_t pid)
{
    p->pid = pid;
    int fd = tine__pidfd_open(pid);
    if (fd < 0) {
        kill(pid, SIGKILL);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
        return fd;
    }
    p->pidfd = fd;
    p->direct = true;
    int err = tine__proc_watch(p);
    if (err < 0)
        tine__proc_end_direct(p);
    else
        tine__sweeper_watch(p->host, p);
    return err;
}

int tine_proc_here(tine_host *host, const tine_proc_options *options, tine_proc **out,
                   int *command_fd)
{
    redirect r;
    int far = -1;
    int err = begin(host, options, out);
    if (err < 0)
        return err;
    tine_proc *p = *out;
    *out = NULL;
    if (!alone()) {
        tine__proc_free(p);
        return -EBUSY;
    }
    if ((err = redirect_all(p, options, &r)) < 0) {
        tine__proc_free(p);
        return err;
    }
    default_stdin(p, &r, options);
    err = open_socket(p, &far);
    if (!err)
        err = put_hello(p, r.flags);
    pid_t pid = err ? err : fork_program(&r, p, options, far);
    if (pid == 0) {
        *command_fd = far;
        return 0;
    }
    redirect_close(&r);
    tine__fd_close(&far);
    err = pid < 0 ? pid : born_here(p, pid);
    if (err < 0) {
        tine__proc_free(p);
        return err;
    }
    *out = p;
    return 1;
}

int tine_host_early(tine_host *host, int *command_fd)
{
    static const tine_proc_options options = {.name = "template"};
    tine_proc *p;
    int result = tine_proc_here(host, &options, &p, command_fd);
    if (result != 1)
        return result;
    tine_host_reset(host);
    p->hidden = true;
    host->template_proc = p;
    host->early = true;
    return 1;
}
