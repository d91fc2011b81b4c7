/* How local processes come into being: by exec, by fork of a template, and as descriptors of
 * processes that somebody else made. here.c forks the program itself. */
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>

#include "base/blocking.h"
#include "base/fd.h"
#include "exec.h"
#include "sweeper.h"
#include "wire/protocol.h"

/* How long an interpreter may take until it answers. It is counted in steps: of a time that
 * the host spends away from its loop, only one counts. */
enum { HELLO_USEC = 500000, HELLO_STEPS = 20 };

/* ------------------------------------------------------------------ redirections */

void tine__redirect_close(tine__redirect *r)
{
    tine__fd_close_all(r->fds, 3);
}

static int blocking_dup(int fd)
{
    int blocking = tine__fd_blocking(fd);
    return blocking == fd ? tine__fd_dup(fd) : blocking;
}

static int redirect_one(tine__local *l, const tine_stdio *how, int n, tine__redirect *r)
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
        err = tine__capture_open(l, n, how, &fd);
        break;
    default:
        return 0;
    }
    r->fds[n] = err ? -1 : fd;
    r->flags |= (uint32_t)TINE__STDIO_FD << 2 * n;
    return err;
}

int tine__redirect_all(tine__local *l, const tine_proc_options *options,
                       tine__redirect *r)
{
    *r = (tine__redirect){.fds = {-1, -1, -1}};
    if (l->link.detach)
        r->flags |= TINE__FORK_DETACH;
    int err = 0;
    for (int n = 0; options && n < 3 && !err; n++)
        err = redirect_one(l, &options->stdio[n], n, r);
    if (err)
        tine__redirect_close(r);
    return err;
}

/* Ctrl-C is the host's alone, and without a terminal nothing can be stopped in the background
 * of it. Who reads it must stay. */
void tine__redirect_stdin(tine__local *l, const tine_proc_options *options,
                          tine__redirect *r)
{
    if (!options || options->stdio[0].how == TINE_STDIO_DEFAULT)
        r->flags |= TINE__STDIO_NULL;
    l->apart = l->link.detach || tine__redirect_kind(r, 0) != TINE__STDIO_KEEP;
}

int tine__local_never(tine__local *l, int err, const char *what, const char *which)
{
    char text[PATH_MAX + 200];
    tine_error error = tine__error_system(err, text, sizeof text, "cannot %s%s%s", what,
                                          which ? " " : "", which ? which : "");
    l->link.news->never(&l->link, &error);
    return 0;
}

static int never_redirected(tine__local *l, int err)
{
    return tine__local_never(
        l, err,
        err == -EOPNOTSUPP
            ? "redirect its standard input and output to what is nonblocking for "
              "all who have it, and cannot be opened anew: make it blocking first"
            : "redirect its standard input and output",
        NULL);
}

/* ------------------------------------------------------------ direct children */

static void on_no_hello(void *arg, tine_timer *timer)
{
    tine__local *l = arg;
    tine__link *link = &l->link;
    (void)timer;
    tine_timer_free(l->timer);
    l->timer = NULL;
    if (++l->hello_steps < HELLO_STEPS &&
        tine__timer_internal(link->host, &l->timer, HELLO_USEC, on_no_hello, l) == 0)
        return;
    tine_error err = tine__error_make(
        TINE_KIND_TIMEOUT, link->pid,
        l->adopted ? "no process of tine answers behind the descriptor"
                   : "the interpreter did not answer: is it a tine-template?");
    if (!l->direct) {
        link->news->never(link, &err);
        return;
    }
    tine__sweeper_doubt(tine__local_host_of(l));
    link->news->hung(link, &err);
}

int tine__local_greet(tine__local *l, uint32_t flags)
{
    const tine_host *host = l->link.host;
    const char *name = l->link.name ? l->link.name : "";
    tine__buf b = {0};
    int report = tine__fd_dup(host->local->report_tx);
    if (report < 0)
        return report;
    tine__buf_u32(&b, TINE__PROTOCOL);
    tine__buf_u64(&b, l->id);
    tine__buf_u32(&b, (uint32_t)host->owner.pid);
    tine__buf_str(&b, tine_version(), strlen(tine_version()));
    tine__buf_u32(&b, flags);
    tine__buf_str(&b, name, strlen(name));
    tine_str body = {b.data, b.len};
    int err = b.failed
                  ? -ENOMEM
                  : tine__local_put(&l->link, TINE__FRAME_HELLO, &body, 1, &report, 1);
    tine__buf_free(&b);
    if (err < 0)
        tine__fd_close(&report);
    return err < 0 ? err
                   : tine__timer_internal(l->link.host, &l->timer, HELLO_USEC,
                                          on_no_hello, l);
}

static int exec_interpreter(tine__local *l, const tine__redirect *r, int far)
{
    tine_host *host = l->link.host;
    const char *step = NULL;
    tine__exec_args args = {
        .path = tine__local_interpreter(host),
        .command_fd = far,
        .detach = l->link.detach,
        .apart = l->apart,
        .lua_path = host->local->lua_path,
        .lua_cpath = host->local->lua_cpath,
    };
    if (!args.path)
        return tine__local_never(
            l, -ENOENT,
            "find tine-template (name it: tine.interpreter in Lua, "
            "tine_host_set_interpreter in C, or $TINE)",
            NULL);
    for (int n = 0; n < 3; n++)
        args.stdio[n] = tine__redirect_kind(r, n) == TINE__STDIO_FD ? r->fds[n]
                        : tine__redirect_kind(r, n) == TINE__STDIO_NULL
                            ? TINE__EXEC_NULL
                            : TINE__EXEC_INHERIT;
    int err = tine__exec_start(&args, &l->link.pid, &l->pidfd, &step);
    if (err < 0) {
        l->link.pid = 0;
        return tine__local_never(l, err, step, args.path);
    }
    return tine__local_is_direct(l);
}

int tine__local_is_direct(tine__local *l)
{
    l->direct = true;
    int err = tine__pidfd_watch(l);
    if (err < 0)
        tine__local_end_direct(l);
    else
        tine__sweeper_watch(l);
    return err;
}

int tine__local_exec(tine__link *link, const tine_proc_options *options)
{
    tine__local *l = tine__local_of(link);
    tine__redirect r;
    int far = -1;
    int err = tine__redirect_all(l, options, &r);
    if (err < 0)
        return never_redirected(l, err);
    tine__redirect_stdin(l, options, &r);
    err = tine__local_open_socket(l, &far);
    if (!err)
        err = tine__local_greet(l, r.flags);
    if (!err)
        err = exec_interpreter(l, &r, far);
    tine__redirect_close(&r);
    tine__fd_close(&far);
    return err < 0 ? tine__local_never(l, err, "make a command socket", NULL) : 0;
}

/* --------------------------------------------------------------------- fork */

static int put_fork(tine__link *parent, tine__local *l, tine__redirect *r, int *far)
{
    const char *name = l->link.name ? l->link.name : "";
    tine__buf b = {0};
    int fds[4] = {*far};
    size_t nfds = 1;
    for (int n = 0; n < 3; n++)
        if (r->fds[n] >= 0)
            fds[nfds++] = r->fds[n];
    tine__buf_u64(&b, l->id);
    tine__buf_u32(&b, r->flags);
    tine__buf_str(&b, name, strlen(name));
    tine_str body = {b.data, b.len};
    int err = b.failed ? -ENOMEM
                       : tine__local_put(parent, TINE__FRAME_FORK, &body, 1, fds, nfds);
    tine__buf_free(&b);
    if (err < 0)
        return err;
    *far = r->fds[0] = r->fds[1] = r->fds[2] = -1;
    return 0;
}

int tine__local_fork(tine__link *parent, tine__link *link,
                     const tine_proc_options *options)
{
    tine__local *l = tine__local_of(link);
    tine__redirect r;
    int far = -1;
    int err = tine__redirect_all(l, options, &r);
    if (err < 0) {
        never_redirected(l, err);
        return err;
    }
    if ((err = tine__local_open_socket(l, &far)) < 0) {
        tine__redirect_close(&r);
        tine__local_never(l, err, "make a command socket", NULL);
        return err;
    }
    if (link->spare)
        r.flags |= TINE__FORK_SPARE;
    l->apart = link->spare;
    if ((err = put_fork(parent, l, &r, &far)) < 0)
        tine__local_never(l, err, "queue a fork", NULL);
    tine__redirect_close(&r);
    tine__fd_close(&far);
    return err;
}

/* -------------------------------------------------------------------- adoption */

int tine__local_is_socket(int fd)
{
    int type = 0;
    socklen_t len = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
        return -errno;
    return type == SOCK_STREAM ? 0 : -EPROTOTYPE;
}

int tine__local_adopt(tine__link *link, int fd)
{
    tine__local *l = tine__local_of(link);
    l->adopted = true;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    tine__chan_init(&l->chan, fd);
    int err = tine__local_greet(l, 0);
    return err < 0 ? tine__local_never(l, err, "queue a greeting", NULL) : 0;
}
