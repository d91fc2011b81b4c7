/* Host side of a process: its queue of commands, its socket, its life. How processes come
 * into being is in birth.c. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fd.h"
#include "host.h"
#include "protocol.h"

enum { RETRY_USEC = 5000 };

/* ----------------------------------------------------------------- memory */

int tine__proc_alloc(tine_host *host, const tine_proc_options *options, tine_proc **out)
{
    tine_proc *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->host = host;
    p->pidfd = -1;
    p->info.code = -1;
    tine__chan_init(&p->chan, -1);
    if (options && options->name) {
        p->name = strndup(options->name, TINE__NAME_MAX);
        if (!p->name) {
            free(p);
            return -ENOMEM;
        }
    }
    p->detach = options && options->detach;
    p->line_arg = options ? options->arg : NULL;
    int err = tine__host_add(host, p);
    if (err < 0) {
        free(p->name);
        free(p);
        return err;
    }
    *out = p;
    return 0;
}

void tine__proc_adopt(tine_proc *parent, tine_proc *child)
{
    child->parent = parent;
    child->next_sibling = parent->children;
    if (parent->children)
        parent->children->prev_sibling = child;
    parent->children = child;
}

static void leave_parent(tine_proc *p)
{
    if (!p->parent)
        return;
    if (p->prev_sibling)
        p->prev_sibling->next_sibling = p->next_sibling;
    else
        p->parent->children = p->next_sibling;
    if (p->next_sibling)
        p->next_sibling->prev_sibling = p->prev_sibling;
    p->parent = p->next_sibling = p->prev_sibling = NULL;
}

static void count(tine_proc *p, bool on)
{
    if (p->counted == on)
        return;
    p->counted = on;
    p->host->nactive += on ? 1 : (size_t)-1;
}

static void free_watchers(tine_proc *p)
{
    tine_io_free(p->read_io);
    tine_io_free(p->write_io);
    tine_io_free(p->pidfd_io);
    tine_timer_free(p->timer);
    tine_timer_free(p->retry);
    p->read_io = p->write_io = p->pidfd_io = NULL;
    p->timer = p->retry = NULL;
}

static void leave_later(tine_proc *p)
{
    tine_host *host = p->host;
    tine_proc **link = &host->later, *before = NULL;
    if (!p->in_later)
        return;
    while (*link != p) {
        before = *link;
        link = &before->next_later;
    }
    *link = p->next_later;
    if (host->later_tail == p)
        host->later_tail = before;
}

void tine__proc_free(tine_proc *p)
{
    count(p, false);
    leave_later(p);
    while (p->children)
        leave_parent(p->children);
    leave_parent(p);
    free_watchers(p);
    tine__captures_close(p, false);
    tine__chan_free(&p->chan);
    tine__fd_close(&p->pidfd);
    tine__host_remove(p->host, p);
    free(p->cause);
    free(p->name);
    free(p);
}

/* --------------------------------------------------------------- the turn */

void tine__proc_later(tine_proc *p)
{
    tine_host *host = p->host;
    if (p->in_later)
        return;
    p->in_later = true;
    if (host->later_tail)
        host->later_tail->next_later = p;
    else
        host->later = p;
    host->later_tail = p;
    if (host->later == p)
        tine__loop_wake(host);
}

int tine_proc_busy(const tine_proc *p)
{
    if (p->ended)
        return 0;
    if (p->dying || p->fd_cb || !tine__chan_empty(&p->chan))
        return 1;
    if (p->given && !p->running)
        return 0; /* to_fd: somebody else's now */
    if (!p->made || p->sent > p->done)
        return !p->running || !p->detach || !p->made;
    if (p->running)
        return !p->detach;
    return 0;
}

/* It is on its way out, and its end is worth waiting for: it was killed, or it was closed or
 * has failed and has no workers. */
static bool is_leaving(const tine_proc *p)
{
    if (p->ended || p->killed)
        return !p->ended;
    return (p->closed || p->failed) && !p->children && !p->detach && !p->given;
}

/* Nobody reads the command socket. Of a process that is not ours, no other news will come. */
static void socket_ended(tine_proc *p)
{
    p->eof = true;
    if (!p->adopted || p->made)
        return;
    tine_error err = {.kind = TINE_KIND_CLOSED, .code = -1};
    err.message = "the process behind the descriptor is gone";
    err.message_len = strlen(err.message);
    tine__proc_never(p, &err);
}

static void data_came(tine_proc *p)
{
    if (!p->made) {
        /* The answer to our greeting came before. */
        p->refs++;
        tine__host_reports(p->host, INT32_MAX);
        p->refs--;
        tine__proc_later(p);
    }
    if (p->made && !p->consumed) {
        tine__proc_broken(p, "it sent data before it was told to run");
    } else if (!p->made) {
        tine_error err = {.kind = TINE_KIND_PROTOCOL, .code = -1};
        err.message = "something else than a process of tine is behind the descriptor";
        err.message_len = strlen(err.message);
        tine__proc_never(p, &err);
    }
}

static void on_command_socket(void *arg, tine_io *io, int events)
{
    tine_proc *p = arg;
    char octet;
    (void)io;
    (void)events;
    ssize_t n = recv(p->chan.fd, &octet, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    tine_io_free(p->read_io);
    p->read_io = NULL;
    p->eof = true;
    if (n > 0)
        data_came(p);
    else
        socket_ended(p);
}

static void on_writable(void *arg, tine_io *io, int events)
{
    (void)io;
    (void)events;
    tine__proc_turn(arg);
}

static void on_retry(void *arg, tine_timer *timer)
{
    tine_proc *p = arg;
    (void)timer;
    tine_timer_free(p->retry);
    p->retry = NULL;
    tine__proc_turn(p);
}

static void watch(tine_proc *p, tine_io **io, bool wanted, int events, tine_io_cb cb)
{
    if (wanted && !*io) {
        int err = tine__io_internal(p->host, io, p->chan.fd, events, cb, p);
        if (err < 0 && events == TINE_WRITE)
            tine__proc_later(p); /* short of memory: try again for as long as it takes */
    } else if (!wanted && *io) {
        tine_io_free(*io);
        *io = NULL;
    }
}

void tine__proc_update(tine_proc *p)
{
    bool open = p->chan.fd >= 0 && !p->ended;
    if (open && p->closed && !p->consumed && tine__chan_empty(&p->chan)) {
        watch(p, &p->read_io, false, 0, NULL);
        watch(p, &p->write_io, false, 0, NULL);
        /* Also where a fork of the program holds a duplicate of the socket. */
        shutdown(p->chan.fd, SHUT_WR);
        tine__fd_close(&p->chan.fd);
        open = false;
    }
    bool idle = p->adopted || (p->made && p->sent <= p->done);
    bool ours = !p->consumed || (p->adopted && !p->made);
    watch(p, &p->read_io, open && ours && !p->eof && (idle || p->read_io), TINE_READ,
          on_command_socket);
    watch(p, &p->write_io, open && p->blocked, TINE_WRITE, on_writable);
    count(p, tine_proc_busy(p) || is_leaving(p));
}

int tine__proc_flush(tine_proc *p)
{
    if (tine__chan_empty(&p->chan))
        return 0;
    int err = tine__chan_flush(&p->chan);
    p->blocked = err == -EAGAIN;
    if (err == -ENOBUFS) {
        if (!p->retry &&
            tine__timer_internal(p->host, &p->retry, RETRY_USEC, on_retry, p) < 0)
            tine__proc_later(p);
    } else if (err < 0 && err != -EAGAIN) {
        /* Nobody reads any more. How it ended, the reports or the pidfd will tell. */
        watch(p, &p->read_io, false, 0, NULL);
        watch(p, &p->write_io, false, 0, NULL);
        int fd = p->chan.fd;
        p->chan.fd = -1;
        tine__chan_free(&p->chan);
        p->chan.fd = fd;
        shutdown(fd, SHUT_WR); /* if somebody does read, that was all */
        socket_ended(p);
    }
    return err;
}

/* Hands the socket over as soon as all is sent to a process that is there. At eof what was
 * queued is lost: the end of the process will tell. */
static void give(tine_proc *p)
{
    if (!p->consumed || p->given || !p->made || p->eof || !tine__chan_empty(&p->chan))
        return;
    p->given = true;
    watch(p, &p->read_io, false, 0, NULL);
    watch(p, &p->write_io, false, 0, NULL);
    int fd = p->chan.fd;
    p->chan.fd = -1;
    tine_fd_cb cb = p->fd_cb;
    p->fd_cb = NULL;
    if (!cb) {
        tine__fd_close(&fd);
        return;
    }
    tine__fd_nonblock(fd, true);
    cb(p->fd_arg, p, fd, NULL);
}

static const tine_error *cause_of(const tine_proc *p)
{
    static const tine_error no_memory = {.kind = TINE_KIND_SYSTEM,
                                         .message = "out of memory",
                                         .message_len = sizeof "out of memory" - 1,
                                         .code = -1,
                                         .sys_errno = ENOMEM};
    return p->cause ? &p->cause->error : &no_memory;
}

static void tell_ready(tine_proc *p, const tine_error *err)
{
    tine_ready_cb cb = p->ready_cb;
    p->ready_cb = NULL;
    if (cb)
        cb(p->ready_arg, p, err);
}

static void print_error(tine_proc *p, const tine_error *err)
{
    fprintf(stderr, "tine: %s%s[%d]: %.*s%s%.*s\n", p->name ? p->name : "",
            p->name ? " " : "", (int)err->pid, (int)err->message_len, err->message,
            err->traceback ? "\n" : "", (int)err->traceback_len,
            err->traceback ? err->traceback : "");
}

/* An error that no handler took is printed, unless another callback will carry it. */
static void tell_error(tine_proc *p, bool carried)
{
    const tine_error *err = cause_of(p);
    if (p->error_told)
        return;
    if (!p->error_cb && carried)
        return;
    p->error_told = true;
    if (p->error_cb)
        p->error_cb(p->error_arg, p, err);
    else if (p->host->on_error)
        p->host->on_error(p->host->arg, p, err);
    else
        print_error(p, err);
}

static void tell_exit(tine_proc *p)
{
    char text[128], message[400];
    tine_exit_cb cb = p->exit_cb;
    p->exit_cb = NULL;
    if (!cb)
        return;
    if (!p->made) {
        cb(p->exit_arg, p, cause_of(p), &p->info);
        return;
    }
    if (p->info.code == 0) {
        cb(p->exit_arg, p, NULL, &p->info);
        return;
    }
    if (p->info.code < 0 && !p->info.signal)
        snprintf(text, sizeof text, "ended, and nobody was left to see how");
    else
        tine__status_text(p->info.signal ? p->info.signal : p->info.code << 8, text,
                          sizeof text);
    int n = snprintf(message, sizeof message, "process %d%s%s%s %s", (int)p->info.pid,
                     p->name ? " (" : "", p->name ? p->name : "", p->name ? ")" : "", text);
    tine_error err = {
        .kind = p->info.signal ? TINE_KIND_CRASH : TINE_KIND_EXIT,
        .message = message,
        .message_len = (size_t)n < sizeof message ? (size_t)n : sizeof message - 1,
        .pid = p->info.pid,
        .code = p->info.code,
        .signal = p->info.signal,
        .status = text,
    };
    cb(p->exit_arg, p, &err, &p->info);
}

static void orphaned(tine_proc *p)
{
    struct rusage none;
    leave_parent(p);
    if (p->pidfd < 0)
        p->pidfd = tine__pidfd_open(p->pid);
    if (p->pidfd >= 0 && tine__proc_watch(p) == 0)
        return;
    /* Its parent-death signal has killed it, or will at once. */
    memset(&none, 0, sizeof none);
    tine__proc_ended(p, SIGKILL, &none);
}

static void bereave(tine_proc *p)
{
    char text[600];
    while (p->children) {
        tine_proc *child = p->children;
        if (child->made) {
            orphaned(child);
            continue;
        }
        tine_error err = p->failed ? *cause_of(p)
                                   : (tine_error){.kind = TINE_KIND_CLOSED, .code = -1};
        int n = snprintf(text, sizeof text, "the process to fork from %s%.*s",
                         p->failed ? "failed: " : "has ended",
                         p->failed ? (int)err.message_len : 0,
                         p->failed ? err.message : "");
        err.message = text;
        err.message_len = (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
        leave_parent(child);
        tine__proc_never(child, &err);
    }
}

/* The last that is heard of p. */
static void finish(tine_proc *p)
{
    tine_proc *parent = p->parent;
    p->dying = false;
    p->ended = true;
    free_watchers(p);
    leave_parent(p);
    if (parent)
        tine__proc_update(parent);
    /* It may have ended before our turn came, and left its last words in the socket. */
    if (p->running)
        give(p);
    tine__captures_close(p, true);
    bool carried = p->fd_cb || p->ready_cb || (!p->made && p->exit_cb) ||
                   (p->hidden && !p->made);
    if (p->failed)
        tell_error(p, carried);
    bereave(p);
    tine__chan_free(&p->chan);
    tine__fd_close(&p->pidfd);
    tine_error closed = {.kind = TINE_KIND_CLOSED, .code = -1, .pid = p->pid};
    closed.message = "the process ended before the socket could be handed over";
    closed.message_len = strlen(closed.message);
    const tine_error *err = p->failed ? cause_of(p) : &closed;
    tine_fd_cb fd_cb = p->fd_cb;
    p->fd_cb = NULL;
    if (fd_cb)
        fd_cb(p->fd_arg, p, -1, err);
    tell_ready(p, err);
    if (p->host->template_proc == p) {
        p->host->template_proc = NULL;
        p->host->early = false;
    }
    p->closed = p->closed || p->hidden;
    if (p->idle_cb)
        p->idle_cb(p->idle_arg, p);
    p->exit_late = false;
    tell_exit(p);
}

static void tell_late(tine_proc *p)
{
    if (p->error_late && p->failed) {
        p->error_late = false;
        tell_error(p, false);
    }
    if (p->ready_cb && (p->made || p->ended))
        tell_ready(p, p->made ? NULL : cause_of(p));
    if (p->exit_late && p->ended) {
        p->exit_late = false;
        tell_exit(p);
    }
}

void tine__proc_turn(tine_proc *p)
{
    if (p->refs) { /* a callback of p is below us on the stack */
        tine__proc_later(p);
        return;
    }
    p->refs++;
    bool was_busy = p->was_busy;
    if (!p->ended && !p->dying)
        tine__proc_flush(p);
    if (p->dying)
        finish(p);
    else if (!p->ended)
        give(p);
    tell_late(p);
    tine__proc_update(p);
    p->was_busy = tine_proc_busy(p);
    if (was_busy && !p->was_busy && p->idle_cb && !p->ended)
        p->idle_cb(p->idle_arg, p);
    p->refs--;
    if (p->closed && p->ended && !p->in_later)
        tine__proc_free(p);
}

/* ------------------------------------------------------------------- news */

static int signal_now(tine_proc *p, int signo)
{
    if (p->pidfd < 0 && p->pid) {
        /* There was no descriptor to spare when it was made. Take one now, and see that
         * its end was not reported meanwhile. */
        int fd = tine__pidfd_open(p->pid);
        if (fd < 0)
            return fd;
        p->pidfd = fd;
        p->refs++;
        tine__host_reports(p->host, INT32_MAX);
        p->refs--;
        if (p->ended || p->dying)
            return -ESRCH;
    }
    int err = tine__pidfd_signal(p, signo);
    if (err < 0)
        return err;
    p->killed = p->killed || signo == SIGKILL || signo == SIGTERM;
    tine__proc_update(p);
    return 0;
}

/* Nobody but its pidfd will tell of its end. -ESRCH: it has ended since it answered. */
static int watch_adopted(tine_proc *p, pid_t pid, int pidfd)
{
    char text[200];
    int fd = pidfd >= 0 ? pidfd : tine__pidfd_open(pid);
    if (fd >= 0)
        p->pidfd = fd;
    int err = fd < 0 ? fd : tine__proc_watch(p);
    if (err < 0 && err != -ESRCH) {
        tine_error error = tine__error_system(
            err, text, sizeof text, "cannot watch the process behind the descriptor");
        tine__proc_never(p, &error);
    }
    return err;
}

void tine__proc_made(tine_proc *p, pid_t pid, int pidfd)
{
    tine_timer_free(p->timer);
    p->timer = NULL;
    int err = p->adopted ? watch_adopted(p, pid, pidfd) : 0;
    if (err < 0 && err != -ESRCH)
        return;
    p->made = true;
    p->pid = p->info.pid = pid;
    if (pidfd >= 0 && !p->adopted)
        p->pidfd = pidfd;
    p->refs++;
    if (p->pending_kill)
        signal_now(p, p->pending_kill);
    tell_ready(p, NULL);
    if (p->failed)
        tell_error(p, false);
    p->refs--;
    if (err < 0) {
        static const struct rusage none;
        tine__proc_ended(p, -1, &none); /* how, nobody can know */
    } else {
        tine__proc_turn(p);
    }
}

void tine__proc_did(tine_proc *p, uint64_t seq)
{
    if (seq > p->done && seq <= p->sent) {
        p->done = seq;
        if (p->done == p->sent)
            tine__proc_turn(p);
    }
}

static void remember(tine_proc *p, const tine_error *err)
{
    if (p->failed)
        return;
    p->failed = true;
    p->cause = tine__cause_new(err);
}

void tine__proc_failed(tine_proc *p, const tine_error *err)
{
    if (p->failed)
        return;
    remember(p, err);
    if (!p->made)
        return; /* of a direct child that dies in its start: told when it has ended */
    p->refs++;
    tell_error(p, false);
    p->refs--;
    tine__proc_later(p);
}

void tine__proc_never(tine_proc *p, const tine_error *err)
{
    if (p->ended || p->dying)
        return;
    free(p->cause);
    p->cause = NULL;
    p->failed = false;
    remember(p, err);
    p->dying = true;
    tine__proc_later(p);
}

void tine__proc_broken(tine_proc *p, const char *what)
{
    char text[300];
    int n = snprintf(text, sizeof text, "process %d was killed: %s", (int)p->pid, what);
    tine_error err = {
        .kind = TINE_KIND_PROTOCOL,
        .message = text,
        .message_len = (size_t)n < sizeof text ? (size_t)n : sizeof text - 1,
        .pid = p->pid,
        .code = -1,
    };
    tine_proc_kill(p, SIGKILL);
    tine__proc_failed(p, &err);
}

static void never_ready(tine_proc *p, int status)
{
    char text[128], message[400];
    if (status < 0)
        snprintf(text, sizeof text, "ended");
    else
        tine__status_text(status, text, sizeof text);
    snprintf(message, sizeof message, "the new process %s before it was ready", text);
    tine_error err = {
        .kind = p->info.signal ? TINE_KIND_CRASH : TINE_KIND_EXIT,
        .message = message,
        .message_len = strlen(message),
        .pid = p->pid,
        .code = p->info.code,
        .signal = p->info.signal,
        .status = text,
    };
    remember(p, &err);
}

void tine__proc_ended(tine_proc *p, int status, const struct rusage *rusage)
{
    if (p->ended || p->dying)
        return;
    if (status >= 0) {
        p->info.signal = status & 0x7f;
        p->info.code = p->info.signal ? -1 : (status >> 8) & 0xff;
    }
    p->info.pid = p->pid;
    p->info.rusage = *rusage;
    if (!p->made && !p->failed)
        never_ready(p, status);
    p->dying = true;
    tine__proc_turn(p);
}

/* ---------------------------------------------------------------- commands */

static int usable(const tine_proc *p)
{
    if (tine__stale(p->host))
        return -TINE_ESTALE;
    if (p->consumed)
        return -TINE_ECONSUMED;
    if (p->ended || p->dying || p->closed)
        return -TINE_ECLOSED;
    return 0;
}

int tine__proc_put(tine_proc *p, int type, const tine_str *parts, size_t nparts,
                   const int *fds, size_t nfds)
{
    int err = usable(p);
    if (err < 0)
        return err;
    err = tine__chan_put(&p->chan, type, parts, nparts, fds, nfds);
    if (err < 0)
        return err;
    p->sent++;
    p->was_busy = true;
    tine__proc_update(p);
    tine__proc_later(p);
    return 0;
}

/* A counted list of strings, with a prefix of b's content so far. */
static int put_strings(tine_proc *p, int type, tine__buf *b, const tine_str *strs, size_t n)
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
        err = tine__proc_put(p, type, parts, 2 * n + 1, NULL, 0);
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
    return tine__proc_put(p, TINE__FRAME_FDS, NULL, 0, fds, nfds);
}

int tine_proc_run(tine_proc *p, tine_code kind, const void *func, size_t len, tine_fd_cb cb,
                  void *arg)
{
    tine__buf b = {0};
    if (len > UINT32_MAX)
        return -EMSGSIZE;
    tine__buf_u32(&b, (uint32_t)kind);
    tine__buf_u32(&b, (uint32_t)len);
    tine_str parts[] = {{b.data, b.len}, {func, len}};
    int err = b.failed ? -ENOMEM : tine__proc_put(p, TINE__FRAME_RUN, parts, 2, NULL, 0);
    tine__buf_free(&b);
    if (err < 0)
        return err;
    p->consumed = p->running = true;
    p->fd_cb = cb;
    p->fd_arg = arg;
    /* Nothing more can be queued: let the worker start while the host goes on. */
    if (p->parent)
        tine__proc_flush(p->parent);
    tine__proc_flush(p);
    tine__proc_update(p);
    return 0;
}

int tine_proc_to_fd(tine_proc *p, tine_fd_cb cb, void *arg)
{
    int err = usable(p);
    if (err < 0)
        return err;
    p->consumed = true;
    p->fd_cb = cb;
    p->fd_arg = arg;
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
    p->exit_cb = cb;
    p->exit_arg = arg;
    if (p->ended && cb) {
        p->exit_late = true;
        tine__proc_later(p);
    }
    return 0;
}

int tine_proc_on_error(tine_proc *p, tine_error_cb cb, void *arg)
{
    if (tine__stale(p->host))
        return -TINE_ESTALE;
    p->error_cb = cb;
    p->error_arg = arg;
    if (p->failed && !p->error_told && cb && (p->made || p->ended)) {
        p->error_late = true;
        tine__proc_later(p);
    }
    return 0;
}

int tine_proc_on_ready(tine_proc *p, tine_ready_cb cb, void *arg)
{
    if (tine__stale(p->host))
        return -TINE_ESTALE;
    p->ready_cb = cb;
    p->ready_arg = arg;
    if (p->made || p->ended)
        tine__proc_later(p);
    return 0;
}

int tine_proc_on_idle(tine_proc *p, tine_idle_cb cb, void *arg)
{
    if (tine__stale(p->host))
        return -TINE_ESTALE;
    p->idle_cb = cb;
    p->idle_arg = arg;
    return 0;
}

pid_t tine_proc_pid(const tine_proc *p)
{
    return p->made || p->direct ? p->pid : 0;
}

int tine_proc_kill(tine_proc *p, int signo)
{
    if (tine__stale(p->host))
        return -TINE_ESTALE;
    if (signo < 1 || signo > SIGRTMAX)
        return -EINVAL;
    if (p->ended || p->dying)
        return -ESRCH;
    if (!p->made && p->pidfd < 0) {
        p->pending_kill = signo;
        return 0;
    }
    return signal_now(p, signo);
}

int tine_proc_ended(const tine_proc *p)
{
    return p->ended || p->dying;
}

int tine_proc_consumed(const tine_proc *p)
{
    return p->consumed;
}

void tine_proc_close(tine_proc *p)
{
    if (!p || tine__stale(p->host))
        return;
    p->closed = true;
    tine__proc_update(p);
    tine__proc_later(p);
}
