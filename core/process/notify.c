/* How the callbacks of a process are told what has become of it: made, failed, ended, or never
 * made at all. Each of them is told exactly once. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "proc.h"

void tine__tell_ready(tine_proc *p, const tine_error *err)
{
    const tine__observer *o = p->notify.observer;
    if (o && o->ready && !err && !p->notify.observer_ready) {
        p->notify.observer_ready = true;
        o->ready(p->notify.observer_arg, p);
    }
    tine_ready_cb cb = p->notify.ready_cb;
    p->notify.ready_cb = NULL;
    if (cb)
        cb(p->notify.ready_arg, p, err);
}

static void print_error(tine_proc *p, const tine_error *err)
{
    char who[40] = "a new process";
    if (err->pid)
        (void)snprintf(who, sizeof who, "process %d", (int)err->pid);
    fprintf(stderr, "tine: %s%s%s%s: %.*s%s%.*s\n", who, p->name ? " (" : "",
            p->name ? p->name : "", p->name ? ")" : "", (int)err->message_len,
            err->message, err->traceback ? "\n" : "", (int)err->traceback_len,
            err->traceback ? err->traceback : "");
}

void tine__host_fault(tine_host *host, const tine_error *err)
{
    const tine__process_host *h = host->process;
    if (h->on_error)
        h->on_error(h->arg, NULL, err);
    else
        fprintf(stderr, "tine: %.*s%s%.*s\n", (int)err->message_len, err->message,
                err->traceback ? "\n" : "", (int)err->traceback_len,
                err->traceback ? err->traceback : "");
}

/* Returns whether somebody inside the library takes care of it. */
static bool tell_observer(tine_proc *p, const tine_error *err)
{
    const tine__observer *o = p->notify.observer;
    if (!o || !o->failed)
        return p->notify.observer_told;
    if (!p->notify.observer_told)
        o->failed(p->notify.observer_arg, p, err);
    p->notify.observer_told = true;
    return true;
}

/* An error that no handler took is printed, unless another callback will carry it. */
void tine__tell_error(tine_proc *p, bool carried)
{
    const tine_error *err = tine__cause_error(p->cause);
    if (p->notify.error_told)
        return;
    if (tell_observer(p, err))
        carried = true;
    if (!p->notify.error_cb && carried)
        return;
    p->notify.error_told = true;
    if (p->notify.error_cb)
        p->notify.error_cb(p->notify.error_arg, p, err);
    else if (p->host->process->on_error)
        p->host->process->on_error(p->host->process->arg, p, err);
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
        tine__exit_text(&p->info, t->status, sizeof t->status);
    tine_error err = tine__error_print(
        p->info.signal ? TINE_KIND_CRASH : TINE_KIND_EXIT, p->info.pid, t->message,
        sizeof t->message, "process %d%s%s%s %s", (int)p->info.pid, p->name ? " (" : "",
        p->name ? p->name : "", p->name ? ")" : "", t->status);
    err.code = p->info.code;
    err.signal = p->info.signal;
    err.status = t->status;
    return err;
}

void tine__tell_exit(tine_proc *p)
{
    exit_text text;
    tine_error err;
    tine_exit_cb cb = p->notify.exit_cb;
    p->notify.exit_cb = NULL;
    if (!cb)
        return;
    if (!p->link->made) {
        cb(p->notify.exit_arg, p, tine__cause_error(p->cause), &p->info);
    } else if (p->info.code == 0) {
        cb(p->notify.exit_arg, p, NULL, &p->info);
    } else {
        err = exit_error(p, &text);
        cb(p->notify.exit_arg, p, &err, &p->info);
    }
}

void tine__tell_observer_ended(tine_proc *p)
{
    const tine__observer *o = p->notify.observer;
    void *arg = p->notify.observer_arg;
    exit_text text;
    tine_error err;
    tine__proc_ignore(p);
    if (!o || !o->ended)
        return;
    const tine_error *why = NULL;
    if (!p->link->made) {
        why = tine__cause_error(p->cause);
    } else if (p->info.code != 0) {
        err = exit_error(p, &text);
        why = &err;
    }
    o->ended(arg, p, why, &p->info, p->failed ? tine__cause_error(p->cause) : NULL);
}

/* Why what was asked for cannot be had; ended: what to say where all went well. */
static tine_error end_error(const tine_proc *p, const char *ended, exit_text *text)
{
    if (p->failed)
        return *tine__cause_error(p->cause);
    if (p->info.code != 0)
        return exit_error(p, text);
    return tine__error_make(TINE_KIND_CLOSED, p->link->pid, ended);
}

/* run or to_fd will have no socket. */
void tine__tell_no_socket(tine_proc *p)
{
    exit_text text;
    tine_fd_cb cb = p->notify.fd_cb;
    p->notify.fd_cb = NULL;
    if (!cb)
        return;
    tine_error err =
        end_error(p, "the process ended before the socket could be handed over", &text);
    cb(p->notify.fd_arg, p, -1, &err);
}

void tine__tell_no_memory(tine_proc *p)
{
    exit_text text;
    tine_error err = end_error(p, "the process ended before it answered", &text);
    tine__proc_refuse_memory(p, &err);
}
