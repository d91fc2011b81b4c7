/* What becomes of a process: made, failed, ended, or never made at all, as its transport has it. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proc.h"

/* ------------------------------------------------------------------- its end */

/* Those that were forked from it, and those that were to be. */
static void bereave(tine_proc *p)
{
    char text[600];
    while (p->children) {
        tine_proc *child = p->children;
        tine__proc_leave_parent(child);
        if (child->link->made) {
            child->link->transport->orphan(child->link);
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
        tine__proc_never(child, &err);
    }
}

/* Nobody's template any more, if it was one. */
static void forget_template(const tine_proc *p)
{
    tine__process_host *h = p->host->process;
    if (h->template_proc == p) {
        h->template_proc = NULL;
        h->early = false;
    }
}

/* The last that is heard of p. */
void tine__proc_finish(tine_proc *p)
{
    tine_proc *parent = p->parent;
    tine__link *l = p->link;
    p->state = TINE__ENDED;
    tine__proc_drop_replay(p);
    tine__proc_leave_parent(p);
    if (parent)
        tine__proc_update(parent);
    /* It may have ended before our turn came, and left its last words in the socket. */
    if (tine__proc_is_running(p))
        tine__proc_give(p);
    l->transport->output(l, true);
    bool carried = p->notify.fd_cb || p->notify.observer || p->notify.ready_cb ||
                   (!l->made && p->notify.exit_cb) || (p->hidden && !l->made);
    if (p->failed)
        tine__tell_error(p, carried);
    bereave(p);
    l->transport->close(l);
    tine__tell_no_socket(p);
    tine__tell_no_memory(p);
    tine__tell_ready(p, tine__cause_error(p->cause));
    forget_template(p);
    p->closed = p->closed || p->hidden;
    if (p->notify.idle_cb)
        p->notify.idle_cb(p->notify.idle_arg, p);
    p->notify.exit_late = false;
    tine__tell_observer_ended(p);
    tine__tell_exit(p);
}

void tine__proc_tell_late(tine_proc *p)
{
    bool made = p->link->made, ended = p->state == TINE__ENDED;
    if (p->notify.error_late && p->failed) {
        p->notify.error_late = false;
        tine__tell_error(p, false);
    }
    if (p->notify.ready_cb && (made || ended))
        tine__tell_ready(p, made ? NULL : tine__cause_error(p->cause));
    if (p->notify.fd_cb && ended)
        tine__tell_no_socket(p);
    tine__proc_answer_memory(p);
    if (p->notify.observer && ended) /* it came after the end */
        tine__tell_observer_ended(p);
    if (p->notify.exit_late && ended) {
        p->notify.exit_late = false;
        tine__tell_exit(p);
    }
}

static void remember(tine_proc *p, const tine_error *err)
{
    if (p->failed)
        return;
    p->failed = true;
    p->cause = tine__cause_new(err);
}

static void begin_to_die(tine_proc *p)
{
    p->state = TINE__DYING;
    p->link->over = true;
}

/* ------------------------------------------------------------------------ news */

static void on_made(tine__link *l)
{
    tine_proc *p = l->proc;
    p->info.pid = l->pid;
    l->refs++;
    if (p->pending_kill)
        tine_proc_kill(p, p->pending_kill);
    tine__tell_ready(p, NULL);
    if (p->failed)
        tine__tell_error(p, false);
    l->refs--;
    tine__proc_turn(p);
}

void tine__proc_did(tine_proc *p, uint64_t seq)
{
    if (seq > p->done && seq <= p->sent) {
        p->done = seq;
        if (p->done == p->sent)
            tine__proc_turn(p);
    }
}

void tine__proc_failed(tine_proc *p, const tine_error *err)
{
    if (p->failed)
        return;
    remember(p, err);
    if (!p->link->made)
        return; /* of a direct child that dies in its start: told when it has ended */
    p->link->refs++;
    tine__tell_error(p, false);
    p->link->refs--;
    tine__proc_later(p);
}

void tine__proc_never(tine_proc *p, const tine_error *err)
{
    if (p->state != TINE__LIVES)
        return;
    free(p->cause);
    p->cause = NULL;
    p->failed = false;
    remember(p, err);
    begin_to_die(p);
    tine__proc_later(p);
}

void tine__proc_broken(tine_proc *p, const char *what)
{
    char text[300];
    pid_t pid = p->link->pid;
    tine_error err = tine__error_print(TINE_KIND_PROTOCOL, pid, text, sizeof text,
                                       "process %d was killed: %s", (int)pid, what);
    tine_proc_kill(p, SIGKILL);
    tine__proc_failed(p, &err);
}

static void never_ready(tine_proc *p, const tine_exit *how)
{
    char text[128], message[400];
    if (how->code < 0 && !how->signal)
        snprintf(text, sizeof text, "ended");
    else
        tine__exit_text(how, text, sizeof text);
    tine_error err = tine__error_print(how->signal ? TINE_KIND_CRASH : TINE_KIND_EXIT,
                                       how->pid, message, sizeof message,
                                       "the new process %s before it was ready", text);
    err.code = how->code;
    err.signal = how->signal;
    err.status = text;
    remember(p, &err);
}

static void on_ended(tine__link *l, const tine_exit *how)
{
    tine_proc *p = l->proc;
    if (l->over)
        return;
    p->info = *how;
    if (!l->made && !p->failed)
        never_ready(p, how);
    begin_to_die(p);
    tine__proc_turn(p);
}

static void on_did(tine__link *l, uint64_t commands)
{
    tine__proc_did(l->proc, commands);
}

static void on_failed(tine__link *l, const tine_error *err)
{
    tine__proc_failed(l->proc, err);
}

static void on_never(tine__link *l, const tine_error *err)
{
    tine__proc_never(l->proc, err);
}

static void on_broken(tine__link *l, const char *what)
{
    tine__proc_broken(l->proc, what);
}

/* Its end brings the error. */
static void on_hung(tine__link *l, const tine_error *err)
{
    tine_proc_kill(l->proc, SIGKILL);
    tine__proc_failed(l->proc, err);
}

static void on_memory(tine__link *l, uint64_t command, const tine__figures *f)
{
    tine__proc_told_memory(l->proc, command, f);
}

static void on_turn(tine__link *l)
{
    tine__proc_turn(l->proc);
}

static void on_later(tine__link *l)
{
    tine__proc_later(l->proc);
}

const tine__news tine__proc_news = {
    .made = on_made,
    .did = on_did,
    .failed = on_failed,
    .never = on_never,
    .broken = on_broken,
    .hung = on_hung,
    .ended = on_ended,
    .memory = on_memory,
    .turn = on_turn,
    .later = on_later,
    .fault = tine__host_fault,
};
