/* The public functions of a process handle: commands, which are queued, and questions. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>

#include "base/fd.h"
#include "proc.h"
#include "wire/frame.h"
#include "wire/protocol.h"

/* ---------------------------------------------------------------- commands */

int tine__proc_usable(const tine_proc *p, enum tine__by by)
{
    bool user = by == TINE__BY_USER;
    if (tine__stale(p->host))
        return -TINE_ESTALE;
    if (p->owner != TINE__OWNER_USER && user)
        return -TINE_ECONSUMED;
    if (p->state != TINE__LIVES || (p->closed && user))
        return -TINE_ECLOSED;
    return 0;
}

static int usable(const tine_proc *p)
{
    return tine__proc_usable(p, TINE__BY_USER);
}

static bool is_kept(int type)
{
    switch (type) {
    case TINE__FRAME_HELLO:
    case TINE__FRAME_FORK:
    case TINE__FRAME_RUN:
    case TINE__FRAME_SERVE:
    case TINE__FRAME_MEMORY:
        return false;
    default:
        return true;
    }
}

void tine__proc_count(tine_proc *p)
{
    p->sent++;
    p->was_busy = true;
    tine__proc_update(p);
    tine__proc_later(p);
}

int tine__proc_put(tine_proc *p, enum tine__by by, int type, const tine_str *parts,
                   size_t nparts, const int *fds, size_t nfds)
{
    int err = tine__proc_usable(p, by);
    if (err < 0)
        return err;
    err = p->link->transport->put(p->link, type, parts, nparts, fds, nfds);
    if (err < 0)
        return err;
    if (p->replay && is_kept(type))
        p->replay = tine__replay_command(p->replay, type, parts, nparts, fds, nfds);
    tine__proc_count(p);
    return 0;
}

static int put(tine_proc *p, int type, const tine_str *parts, size_t nparts)
{
    return tine__proc_put(p, TINE__BY_USER, type, parts, nparts, NULL, 0);
}

/* A counted list of strings, with a prefix of b's content so far. */
static int put_strings(tine_proc *p, int type, tine__buf *b, const tine_str *strs,
                       size_t n)
{
    if (n > UINT32_MAX) {
        tine__buf_free(b);
        return -EMSGSIZE;
    }
    tine__buf_u32(b, (uint32_t)n);
    size_t fixed = b->len;
    tine_str *parts = malloc((2 * n + 1) * sizeof *parts);
    for (size_t i = 0; i < n; i++)
        tine__buf_u32(b, (uint32_t)strs[i].len);
    int err = b->failed || !parts ? -ENOMEM : 0;
    for (size_t i = 0; i < n && !err; i++) {
        if (strs[i].len > UINT32_MAX)
            err = -EMSGSIZE;
        parts[1 + 2 * i] = (tine_str){b->data + fixed + 4 * i, 4};
        parts[2 + 2 * i] = strs[i];
    }
    if (!err) {
        parts[0] = (tine_str){b->data, fixed};
        err = put(p, type, parts, 2 * n + 1);
    }
    free(parts);
    tine__buf_free(b);
    return err;
}

int tine_proc_eval(tine_proc *p, tine_code kind, const void *code, size_t len,
                   const tine_str *args, size_t nargs)
{
    tine__buf b = {0};
    if (len > UINT32_MAX)
        return -EMSGSIZE;
    tine__buf_u32(&b, (uint32_t)kind);
    tine__buf_str(&b, code, len);
    return put_strings(p, TINE__FRAME_EVAL, &b, args, nargs);
}

int tine_proc_require(tine_proc *p, const tine_str *names, size_t n)
{
    tine__buf b = {0};
    return put_strings(p, TINE__FRAME_REQUIRE, &b, names, n);
}

int tine_proc_send_arg(tine_proc *p, const tine_str *args, size_t n)
{
    tine__buf b = {0};
    return put_strings(p, TINE__FRAME_ARGS, &b, args, n);
}

int tine_proc_send_fd(tine_proc *p, const int *fds, size_t nfds)
{
    if (nfds > TINE_MAX_FDS)
        return -EINVAL;
    for (size_t i = 0; i < nfds; i++)
        if (fcntl(fds[i], F_GETFD) < 0)
            return -EBADF;
    if (!nfds)
        return usable(p);
    int err = tine__proc_put(p, TINE__BY_USER, TINE__FRAME_FDS, NULL, 0, fds, nfds);
    p->sent_fds = p->sent_fds || !err;
    return err;
}

int tine_proc_fail(tine_proc *p, const char *what, int err)
{
    char text[300];
    tine__buf b = {0};
    tine_error error = tine__error_system(err, text, sizeof text, "cannot %s", what);
    tine__buf_u32(&b, (uint32_t)error.sys_errno);
    tine__buf_str(&b, error.message, error.message_len);
    tine_str body = {b.data, b.len};
    int result = b.failed ? -ENOMEM : put(p, TINE__FRAME_FAIL, &body, 1);
    tine__buf_free(&b);
    return result;
}

/* run or to_fd came too late: the callback tells, as every time. */
static int consume_ended(tine_proc *p, int err, tine_fd_cb cb, void *arg)
{
    if (err != -TINE_ECLOSED || p->closed)
        return err;
    p->owner = TINE__OWNER_OTHER;
    p->notify.fd_cb = cb;
    p->notify.fd_arg = arg;
    tine__proc_later(p);
    return 0;
}

/* Nothing more can be queued: let the worker start while the host goes on. */
static void set_off(tine_proc *p)
{
    tine__proc_update(p); /* before it can do anything */
    if (p->parent)
        tine__proc_flush(p->parent);
    tine__proc_flush(p);
}

int tine_proc_run(tine_proc *p, tine_code kind, const void *func, size_t len,
                  tine_fd_cb cb, void *arg)
{
    tine__buf b = {0};
    if (len > UINT32_MAX)
        return -EMSGSIZE;
    tine__buf_u32(&b, (uint32_t)kind);
    tine__buf_u32(&b, (uint32_t)len);
    tine_str parts[] = {{b.data, b.len}, {func, len}};
    int err = b.failed ? -ENOMEM : put(p, TINE__FRAME_RUN, parts, 2);
    tine__buf_free(&b);
    if (err < 0)
        return consume_ended(p, err, cb, arg);
    p->owner = TINE__OWNER_FUNC;
    tine__proc_drop_replay(p);
    p->notify.fd_cb = cb;
    p->notify.fd_arg = arg;
    set_off(p);
    return 0;
}

static void give_to_observer(void *arg, tine_proc *p, int fd, const tine_error *err)
{
    const tine__observer *o = p->notify.observer;
    (void)arg;
    if (o && o->given)
        o->given(p->notify.observer_arg, p, fd, err);
    else
        tine__fd_close(&fd);
}

int tine__proc_serve(tine_proc *p, const tine_str *parts, size_t nparts, int fd,
                     const tine__observer *observer, void *arg)
{
    int err = usable(p);
    if (!err)
        err = p->link->transport->serve(p->link, parts, nparts, fd);
    if (!err)
        tine__proc_count(p);
    else
        err = consume_ended(p, err, give_to_observer, NULL);
    if (err < 0)
        return err;
    p->notify.observer = observer;
    p->notify.observer_arg = arg;
    p->owner = TINE__OWNER_CALLS;
    tine__proc_drop_replay(p);
    p->notify.fd_cb = give_to_observer;
    set_off(p);
    return 0;
}

int tine__proc_hold(tine_proc *p, const tine__observer *observer, void *arg)
{
    int err = usable(p);
    if (err < 0)
        return err;
    p->owner = TINE__OWNER_POOL;
    p->notify.observer = observer;
    p->notify.observer_arg = arg;
    tine__proc_update(p);
    return 0;
}

void tine__proc_unhold(tine_proc *p)
{
    p->owner = TINE__OWNER_NOBODY;
    tine__proc_update(p);
    tine__proc_later(p);
}

void tine__proc_ignore(tine_proc *p)
{
    p->notify.observer = NULL;
    p->notify.observer_arg = NULL;
}

void tine__proc_reclaim(tine_proc *p, int fd, const tine__observer *observer, void *arg)
{
    int err = p->link->transport->take_back(p->link, fd);
    p->given = false;
    p->owner = TINE__OWNER_POOL;
    p->link->line_arg = NULL;
    p->notify.observer = observer;
    p->notify.observer_arg = arg;
    if (err < 0)
        tine__proc_broken(p, "there is no report channel for it as a template");
    else
        tine__proc_count(p);
}

int tine_proc_to_fd(tine_proc *p, tine_fd_cb cb, void *arg)
{
    int err = p->link->transport->far ? -TINE_EFAR : usable(p);
    if (err < 0)
        return consume_ended(p, err, cb, arg);
    p->owner = TINE__OWNER_OTHER;
    tine__proc_drop_replay(p);
    p->notify.fd_cb = cb;
    p->notify.fd_arg = arg;
    p->was_busy = true;
    tine__proc_update(p);
    tine__proc_later(p);
    return 0;
}

/* --------------------------------------------------------- asking and telling */

int tine_proc_on_exit(tine_proc *p, tine_exit_cb cb, void *arg)
{
    if (tine__stale(p->host))
        return -TINE_ESTALE;
    p->notify.exit_cb = cb;
    p->notify.exit_arg = arg;
    if (p->state == TINE__ENDED && cb) {
        p->notify.exit_late = true;
        tine__proc_later(p);
    }
    return 0;
}

int tine_proc_on_error(tine_proc *p, tine_error_cb cb, void *arg)
{
    if (tine__stale(p->host))
        return -TINE_ESTALE;
    p->notify.error_cb = cb;
    p->notify.error_arg = arg;
    if (p->failed && !p->notify.error_told && cb &&
        (p->link->made || p->state == TINE__ENDED)) {
        p->notify.error_late = true;
        tine__proc_later(p);
    }
    return 0;
}

int tine_proc_on_ready(tine_proc *p, tine_ready_cb cb, void *arg)
{
    if (tine__stale(p->host))
        return -TINE_ESTALE;
    p->notify.ready_cb = cb;
    p->notify.ready_arg = arg;
    if (p->link->made || p->state == TINE__ENDED)
        tine__proc_later(p);
    return 0;
}

int tine_proc_on_idle(tine_proc *p, tine_idle_cb cb, void *arg)
{
    if (tine__stale(p->host))
        return -TINE_ESTALE;
    p->notify.idle_cb = cb;
    p->notify.idle_arg = arg;
    return 0;
}

pid_t tine_proc_pid(const tine_proc *p)
{
    return p->link->pid;
}

int tine_proc_kill(tine_proc *p, int signo)
{
    if (tine__stale(p->host))
        return -TINE_ESTALE;
    if (signo < 1 || signo > SIGRTMAX)
        return -EINVAL;
    if (p->state != TINE__LIVES)
        return -ESRCH;
    int err = p->link->transport->signal(p->link, signo, TINE__TO_ONE);
    if (err == -EAGAIN) {
        p->pending_kill = signo;
        return 0;
    }
    if (err < 0)
        return err;
    p->killed = p->killed || signo == SIGKILL || signo == SIGTERM;
    tine__proc_update(p);
    return 0;
}

const tine_error *tine_proc_why(const tine_proc *p)
{
    return p->failed && p->cause ? &p->cause->error : NULL;
}

int tine_proc_ended(const tine_proc *p)
{
    return p->state != TINE__LIVES;
}

int tine_proc_consumed(const tine_proc *p)
{
    return p->owner != TINE__OWNER_USER;
}

void tine_proc_close(tine_proc *p)
{
    if (!p || tine__stale(p->host))
        return;
    p->closed = true;
    tine__proc_update(p);
    tine__proc_later(p);
}
