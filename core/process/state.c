/* What becomes of a process, and how its callbacks are told: made, failed, ended, or never
 * made at all. Each of them is told exactly once. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "process.h"
#include "sweeper.h"

static void tell_ready(tine_proc *p, const tine_error *err)
{
    const tine__observer *o = p->observer;
    if (o && o->ready && !err && !p->observer_ready) {
        p->observer_ready = true;
        o->ready(p->observer_arg, p);
    }
    tine_ready_cb cb = p->ready_cb;
    p->ready_cb = NULL;
    if (cb)
        cb(p->ready_arg, p, err);
}

static void print_error(tine_proc *p, const tine_error *err)
{
    fprintf(stderr, "tine: process %d%s%s%s: %.*s%s%.*s\n", (int)err->pid,
            p->name ? " (" : "", p->name ? p->name : "", p->name ? ")" : "",
            (int)err->message_len, err->message, err->traceback ? "\n" : "",
            (int)err->traceback_len, err->traceback ? err->traceback : "");
}

void tine__host_fault(tine_host *host, const tine_error *err)
{
    if (host->on_error)
        host->on_error(host->arg, NULL, err);
    else
        fprintf(stderr, "tine: %.*s%s%.*s\n", (int)err->message_len, err->message,
                err->traceback ? "\n" : "", (int)err->traceback_len,
                err->traceback ? err->traceback : "");
}

/* Returns whether somebody inside the library takes care of it. */
static bool tell_observer(tine_proc *p, const tine_error *err)
{
    const tine__observer *o = p->observer;
    if (!o || !o->failed)
        return p->observer_told;
    if (!p->observer_told)
        o->failed(p->observer_arg, p, err);
    p->observer_told = true;
    return true;
}

/* An error that no handler took is printed, unless another callback will carry it. */
static void tell_error(tine_proc *p, bool carried)
{
    const tine_error *err = tine__cause_error(p->cause);
    if (p->error_told)
        return;
    if (tell_observer(p, err))
        carried = true;
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

/* The texts of an error that is made up on the spot. */
typedef struct exit_text {
    char status[128], message[400];
} exit_text;

/* How p ended, where that was not well. */
static tine_error exit_error(const tine_proc *p, exit_text *t)
{
    if (p->info.code < 0 && !p->info.signal)
        snprintf(t->status, sizeof t->status, "ended, and nobody was left to see how");
    else
        tine__status_text(p->info.signal ? p->info.signal : p->info.code << 8,
                          t->status, sizeof t->status);
    tine_error err = tine__error_print(
        p->info.signal ? TINE_KIND_CRASH : TINE_KIND_EXIT, p->info.pid, t->message,
        sizeof t->message, "process %d%s%s%s %s", (int)p->info.pid, p->name ? " (" : "",
        p->name ? p->name : "", p->name ? ")" : "", t->status);
    err.code = p->info.code;
    err.signal = p->info.signal;
    err.status = t->status;
    return err;
}

static void tell_exit(tine_proc *p)
{
    exit_text text;
    tine_error err;
    tine_exit_cb cb = p->exit_cb;
    p->exit_cb = NULL;
    if (!cb)
        return;
    if (!p->made) {
        cb(p->exit_arg, p, tine__cause_error(p->cause), &p->info);
    } else if (p->info.code == 0) {
        cb(p->exit_arg, p, NULL, &p->info);
    } else {
        err = exit_error(p, &text);
        cb(p->exit_arg, p, &err, &p->info);
    }
}

static void tell_observer_ended(tine_proc *p)
{
    const tine__observer *o = p->observer;
    void *arg = p->observer_arg;
    exit_text text;
    tine_error err;
    tine__proc_ignore(p);
    if (!o || !o->ended)
        return;
    const tine_error *why = NULL;
    if (!p->made) {
        why = tine__cause_error(p->cause);
    } else if (p->info.code != 0) {
        err = exit_error(p, &text);
        why = &err;
    }
    o->ended(arg, p, why, &p->info, p->failed ? tine__cause_error(p->cause) : NULL);
}

static void orphaned(tine_proc *p)
{
    struct rusage none;
    tine__proc_leave_parent(p);
    if (p->pidfd < 0)
        p->pidfd = tine__pidfd_open(p->pid);
    /* The system has killed it, unless it gave up its user, or its tie to its parent. */
    if (!p->detach && !p->spare && p->pidfd >= 0)
        tine__pidfd_signal(p, SIGKILL);
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
        tine_error err =
            tine__error_make(TINE_KIND_CLOSED, 0, "the process to fork from has ended");
        if (p->failed) {
            err = *tine__cause_error(p->cause);
            tine__error_say(&err, text, sizeof text,
                            "the process to fork from failed: %.*s",
                            (int)err.message_len, err.message);
        }
        tine__proc_leave_parent(child);
        tine__proc_never(child, &err);
    }
}

/* Why what was asked for cannot be had; ended: what to say where all went well. */
static tine_error end_error(const tine_proc *p, const char *ended, exit_text *text)
{
    if (p->failed)
        return *tine__cause_error(p->cause);
    if (p->info.code != 0)
        return exit_error(p, text);
    return tine__error_make(TINE_KIND_CLOSED, p->pid, ended);
}

/* run or to_fd will have no socket. */
static void tell_no_socket(tine_proc *p)
{
    exit_text text;
    tine_fd_cb cb = p->fd_cb;
    p->fd_cb = NULL;
    if (!cb)
        return;
    tine_error err =
        end_error(p, "the process ended before the socket could be handed over", &text);
    cb(p->fd_arg, p, -1, &err);
}

static void tell_no_memory(tine_proc *p)
{
    exit_text text;
    tine_error err = end_error(p, "the process ended before it answered", &text);
    tine__proc_refuse_memory(p, &err);
}

/* The last that is heard of p. */
void tine__proc_finish(tine_proc *p)
{
    tine_proc *parent = p->parent;
    p->dying = false;
    p->ended = true;
    tine__proc_drop_replay(p);
    tine__proc_free_watchers(p);
    tine__proc_leave_parent(p);
    if (parent)
        tine__proc_update(parent);
    /* It may have ended before our turn came, and left its last words in the socket. */
    if (p->running)
        tine__proc_give(p);
    tine__captures_close(p, true);
    bool carried = p->fd_cb || p->observer || p->ready_cb || (!p->made && p->exit_cb) ||
                   (p->hidden && !p->made);
    if (p->failed)
        tell_error(p, carried);
    bereave(p);
    tine__chan_free(&p->chan);
    /* What it has started goes with it. Who reaped it has seen to that before, if anybody did. */
    bool unknown = p->info.code < 0 && !p->info.signal;
    if (p->made && !p->direct && !p->detach && !p->adopted && (!parent || unknown))
        tine__proc_signal_group(p, SIGKILL);
    tine__fd_close(&p->pidfd);
    tell_no_socket(p);
    tell_no_memory(p);
    tell_ready(p, tine__cause_error(p->cause));
    if (p->host->template_proc == p) {
        p->host->template_proc = NULL;
        p->host->early = false;
    }
    p->closed = p->closed || p->hidden;
    if (p->idle_cb)
        p->idle_cb(p->idle_arg, p);
    p->exit_late = false;
    tell_observer_ended(p);
    tell_exit(p);
}

void tine__proc_tell_late(tine_proc *p)
{
    if (p->error_late && p->failed) {
        p->error_late = false;
        tell_error(p, false);
    }
    if (p->ready_cb && (p->made || p->ended))
        tell_ready(p, p->made ? NULL : tine__cause_error(p->cause));
    if (p->fd_cb && p->ended)
        tell_no_socket(p);
    tine__proc_answer_memory(p);
    if (p->observer && p->ended) /* it came after the end */
        tell_observer_ended(p);
    if (p->exit_late && p->ended) {
        p->exit_late = false;
        tell_exit(p);
    }
}

/* ------------------------------------------------------------------- news */

int tine__proc_signal(tine_proc *p, int signo)
{
    if (p->pidfd < 0 && p->pid) {
        /* There was no descriptor to spare when it was made. Take one now, and see that
         * its end was not reported meanwhile. */
        int fd = tine__pidfd_open(p->pid);
        if (fd < 0 && !tine__pidfds_refused(p->host))
            return fd;
        p->pidfd = fd < 0 ? -1 : fd;
        p->refs++;
        tine__host_reports(p->host, TINE__REPORTS_ALL);
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
    if (p->spare)
        tine__sweeper_watch(p->host, p);
    p->refs++;
    if (p->pending_kill)
        tine__proc_signal(p, p->pending_kill);
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
    tine_error err = tine__error_print(TINE_KIND_PROTOCOL, p->pid, text, sizeof text,
                                       "process %d was killed: %s", (int)p->pid, what);
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
    tine_error err = tine__error_print(
        p->info.signal ? TINE_KIND_CRASH : TINE_KIND_EXIT, p->pid, message,
        sizeof message, "the new process %s before it was ready", text);
    err.code = p->info.code;
    err.signal = p->info.signal;
    err.status = text;
    remember(p, &err);
}

void tine__proc_ended(tine_proc *p, int status, const struct rusage *rusage)
{
    if (p->ended || p->dying)
        return;
    if (status) /* else its function has not failed */
        tine__reports_last(p);
    tine__fd_close(&p->own_channel);
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
