/* Host side of a process: its queue of commands, its socket, its life. How processes come
 * into being is in spawn.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "process.h"
#include "wire/protocol.h"

enum { RETRY_USEC = 5000 };

/* ----------------------------------------------------------------- memory */

int tine__proc_alloc(tine_host *host, const tine_proc_options *options, tine_proc **out)
{
    tine_proc *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->host = host;
    p->pidfd = p->own_channel = -1;
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
    child->sent_fds = parent->sent_fds;
    child->next_sibling = parent->children;
    if (parent->children)
        parent->children->prev_sibling = child;
    parent->children = child;
}

void tine__proc_leave_parent(tine_proc *p)
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
    tine__loop_count(p->host, on);
}

void tine__proc_free_watchers(tine_proc *p)
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

void tine__proc_drop_replay(tine_proc *p)
{
    tine__replay_unref(p->replay);
    p->replay = NULL;
}

void tine__proc_free(tine_proc *p)
{
    count(p, false);
    tine__proc_drop_replay(p);
    leave_later(p);
    while (p->children)
        tine__proc_leave_parent(p->children);
    tine__proc_leave_parent(p);
    tine__proc_free_watchers(p);
    tine__captures_close(p, false);
    tine__proc_free_questions(p);
    tine__chan_free(&p->chan);
    tine__fd_close(&p->pidfd);
    tine__fd_close(&p->own_channel);
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
    if (p->dying || p->fd_cb || p->questions || !tine__chan_empty(&p->chan))
        return 1;
    if (p->serves || (p->given && !p->running))
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
    return (p->closed || p->failed || p->dropped) && !p->held && !p->children &&
           !p->detach && !p->given;
}

/* Nobody reads the command socket. Of a process that is not ours, no other news will come. */
static void socket_ended(tine_proc *p)
{
    p->eof = true;
    if (!p->adopted || p->made)
        return;
    tine_error err = tine__error_make(TINE_KIND_CLOSED, 0,
                                      "the process behind the descriptor is gone");
    tine__proc_never(p, &err);
}

static void data_came(tine_proc *p)
{
    if (!p->made) {
        /* The answer to our greeting came before. */
        p->refs++;
        tine__host_reports(p->host, TINE__REPORTS_ALL);
        p->refs--;
        tine__proc_later(p);
    }
    if (p->made && (!p->consumed || p->held)) {
        tine__proc_broken(p, "it sent data before it was told to run");
    } else if (!p->made) {
        tine_error err = tine__error_make(
            TINE_KIND_PROTOCOL, 0,
            "something else than a process of tine is behind the descriptor");
        tine__proc_never(p, &err);
    }
}

static void on_command_socket(void *arg, tine_io *io, int events)
{
    tine_proc *p = arg;
    char byte;
    (void)io;
    (void)events;
    ssize_t n = recv(p->chan.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
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
            tine__proc_later(
                p); /* short of memory: try again for as long as it takes */
    } else if (!wanted && *io) {
        tine_io_free(*io);
        *io = NULL;
    }
}

void tine__proc_update(tine_proc *p)
{
    bool open = p->chan.fd >= 0 && !p->ended;
    bool over = p->dropped || (p->closed && !p->consumed);
    if (open && over && tine__chan_empty(&p->chan)) {
        watch(p, &p->read_io, false, 0, NULL);
        watch(p, &p->write_io, false, 0, NULL);
        /* Also where a fork of the program holds a duplicate of the socket. */
        shutdown(p->chan.fd, SHUT_WR);
        tine__fd_close(&p->chan.fd);
        open = false;
    }
    bool idle = p->adopted || (p->made && p->sent <= p->done);
    bool ours = !p->consumed || p->held || (p->adopted && !p->made);
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
void tine__proc_give(tine_proc *p)
{
    if (!p->consumed || p->held || p->dropped || p->given || !p->made || p->eof ||
        !tine__chan_empty(&p->chan))
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
    if (!p->serves)
        tine__fd_nonblock(fd, true);
    cb(p->fd_arg, p, fd, NULL);
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
        tine__proc_finish(p);
    else if (!p->ended)
        tine__proc_give(p);
    tine__proc_tell_late(p);
    tine__proc_update(p);
    p->was_busy = tine_proc_busy(p);
    if (was_busy && !p->was_busy && p->idle_cb && !p->ended)
        p->idle_cb(p->idle_arg, p);
    p->refs--;
    if (p->closed && p->ended && !p->in_later)
        tine__proc_free(p);
}
