/* A client's life: the worker's process, the lists of calls, and the end. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "client_priv.h"
#include "wire/protocol.h"

enum { FIRST_TABLE = 64 };

/* --------------------------------------------------------------------- lists */

static size_t slot_of(const tine__client *c, uint64_t serial)
{
    return (size_t)serial & (c->ntable - 1);
}

/* Serials follow each other, so that the table is as good as an array. */
static int table_room(tine__client *c)
{
    if (!c->config->async || c->load < c->ntable)
        return 0;
    size_t n = c->ntable ? c->ntable * 2 : FIRST_TABLE;
    tine_job **table = calloc(n, sizeof *table);
    if (!table)
        return -ENOMEM;
    free(c->table);
    c->table = table;
    c->ntable = n;
    for (tine_job *job = c->first; job; job = job->next) {
        job->hash_next = table[slot_of(c, job->serial)];
        table[slot_of(c, job->serial)] = job;
    }
    return 0;
}

tine_job *tine__client_find(const tine__client *c, uint64_t serial)
{
    if (!c->config->async) {
        for (tine_job *job = c->first; job && job->serial <= serial; job = job->next)
            if (job->serial == serial)
                return job;
        return NULL;
    }
    tine_job *job = c->ntable ? c->table[slot_of(c, serial)] : NULL;
    while (job && job->serial != serial)
        job = job->hash_next;
    return job;
}

static void set_busy(tine__client *c)
{
    tine_host *host = c->config->host;
    LIST_INSERT_HEAD(&host->rpc->busy, c, busy);
    host->nbusy++;
    tine__flow_owes(host, &c->flow, true);
}

static void set_idle(tine__client *c)
{
    LIST_REMOVE(c, busy);
    c->config->host->nbusy--;
    tine__flow_owes(c->config->host, &c->flow, false);
}

static void link_job(tine__client *c, tine_job *job)
{
    job->at = c;
    job->next = NULL;
    job->prev = c->last;
    if (c->last)
        c->last->next = job;
    else
        c->first = job;
    c->last = job;
    if (!c->load++)
        set_busy(c);
    if (!c->config->async)
        return;
    job->hash_next = c->table[slot_of(c, job->serial)];
    c->table[slot_of(c, job->serial)] = job;
}

void tine__client_unlink(tine__client *c, tine_job *job)
{
    if (job->prev)
        job->prev->next = job->next;
    else
        c->first = job->next;
    if (job->next)
        job->next->prev = job->prev;
    else
        c->last = job->prev;
    if (!--c->load)
        set_idle(c);
    if (c->config->async) {
        if (c->closed && !c->first)
            tine__host_post(c->config->host, &c->flush_task);
        tine_job **link = &c->table[slot_of(c, job->serial)];
        while (*link != job)
            link = &(*link)->hash_next;
        *link = job->hash_next;
    }
    job->at = NULL;
    job->next = job->prev = job->hash_next = NULL;
}

int tine__client_give(tine__client *c, tine_job *job)
{
    int err = table_room(c);
    if (!err && job->fds)
        err = tine__client_put_fds(c, job->fds, c->handed + 1);
    if (!err)
        err = tine__client_put(c, TINE__CALL, c->handed + 1, job->payload, job->len);
    if (err < 0)
        return err;
    job->serial = ++c->handed;
    if (c->config->async && job->serial > TINE__WINDOW)
        tine__client_note_start(c, job->serial - TINE__WINDOW);
    if (c->ids)
        c->ids[job->serial % TINE__WINDOW] = job->id;
    job->recall_tried = false;
    job->blame = TINE__BLAME_OWN;
    job->started_usec = 0;
    link_job(c, job);
    if (job->timeout_usec > 0) {
        job->handed_usec = tine__now_usec();
        tine__client_wake_at(c, job->handed_usec + job->timeout_usec);
    }
    return 0;
}

bool tine__client_has_room(const tine__client *c)
{
    return c->config->async || c->handed - c->answered < TINE__WINDOW;
}

tine_job *tine__client_take_all(tine__client *c)
{
    tine_job *first = c->first;
    for (tine_job *job = first; job; job = job->next)
        job->at = NULL;
    c->first = c->last = NULL;
    if (c->load)
        set_idle(c);
    c->load = 0;
    if (c->table)
        memset(c->table, 0, c->ntable * sizeof *c->table);
    if (!c->doomed)
        return first;
    tine_job *last = c->doomed;
    while (last->next)
        last = last->next;
    last->next = first;
    first = c->doomed;
    c->doomed = NULL;
    return first;
}

/* ------------------------------------------------------------------ the process */

static void on_given(void *arg, tine_proc *p, int fd, const tine_error *err)
{
    tine__client *c = arg;
    if (fd < 0) {
        if (err && !c->cause)
            c->cause = tine__cause_new(err);
        return;
    }
    c->pid = tine_proc_pid(p);
    c->fd = fd;
    if (tine__io_internal(c->config->host, &c->read_io, fd, TINE_READ,
                          tine__client_readable, c) < 0)
        tine__client_broken(c, "there is no memory to watch it");
    tine__client_flush(c);
}

static void on_made(void *arg, tine_proc *p)
{
    tine__client *c = arg;
    if (tine__proc_has_done(p, c->before))
        c->began_usec = tine__now_usec();
}

static void on_failed(void *arg, tine_proc *p, const tine_error *err)
{
    tine__client *c = arg;
    (void)p;
    if (!c->cause)
        c->cause = tine__cause_new(err);
}

void tine__client_broken(tine__client *c, const char *what)
{
    char text[300];
    if (c->killed)
        return;
    tine_error err = tine__error_print(TINE_KIND_PROTOCOL, c->pid, text, sizeof text,
                                       "worker %d was killed: %s", (int)c->pid, what);
    free(c->cause);
    c->cause = tine__cause_new(&err);
    tine__client_kill(c);
}

void tine__client_kill(tine__client *c)
{
    c->killed = true;
    tine__client_unwatch(c); /* what has come is read when it has ended */
    if (!c->proc)
        return;
    tine__proc_signal_group(c->proc, SIGKILL);
    tine_proc_kill(c->proc, SIGKILL); /* also when it is not made yet */
}

void tine__client_close(tine__client *c)
{
    if (c->closed)
        return;
    c->closed = true;
    if (c->config->async && c->first)
        c->said_end = tine__client_put(c, TINE__END, 0, NULL, 0) == 0;
    tine__host_post(c->config->host, &c->flush_task);
}

/* What a call gets that ran when the worker ended. */
static tine_error crash_of(const tine__client *c, const tine_error *how, char *text,
                           size_t size)
{
    tine_error err = {.pid = c->pid};
    if (how)
        err = *how;
    if (c->cause && c->cause->error.kind == TINE_KIND_PROTOCOL)
        return c->cause->error;
    err.kind = TINE_KIND_CRASH;
    tine__error_say(&err, text, size, "the worker (process %d) %s while the job ran",
                    (int)c->pid, err.status ? err.status : "exited with code 0");
    return err;
}

/* The serial of the call that it has died of, which may have been answered; 0: nobody knows. */
static uint64_t guilty_of(const tine__client *c, uint64_t started)
{
    if (c->killed_for)
        return c->killed_for;
    if (c->garbled || (c->cause && c->cause->error.kind == TINE_KIND_PROTOCOL))
        return 0;
    uint64_t running = atomic_load(&c->region.page->running);
    return running <= started ? running : 0;
}

/* Of the calls handed over: those that ran fail, the others are given back. */
static void settle_dead(tine__client *c, const tine_error *how)
{
    char text[256];
    uint64_t started = tine__client_started(c);
    tine_error crash = crash_of(c, how, text, sizeof text);
    bool one = !c->config->async;
    uint64_t guilty = guilty_of(c, started);
    if (c->garbled && c->first) /* it may have been any of those; sync: the first */
        started = one ? c->first->serial : c->handed;
    const tine_job *second = c->first ? c->first->next : NULL;
    bool several = second && second->serial <= started;
    while (c->first && c->first->serial <= started) {
        static const tine__times none;
        tine_job *job = c->first;
        if (!one && guilty && job->serial != guilty)
            job->blame = TINE__BLAME_OTHER;
        else if (!one && !guilty && several)
            job->blame = TINE__BLAME_SHARED;
        tine__client_unlink(c, job);
        if (job->reason != TINE__REASON_NONE)
            tine__client_end_stopped(c, job);
        else
            c->ops->ended(c->owner, c, job, &crash, NULL, 0, &none);
        if (one) /* what else the page says is garbage */
            break;
    }
}

static void on_ended(void *arg, tine_proc *p, const tine_error *err,
                     const tine_exit *info, const tine_error *cause)
{
    tine__client *c = arg;
    c->proc = NULL;
    (void)p;
    tine__host_now(c->config->host);
    if (info->pid)
        c->pid = info->pid;
    if (cause && !c->cause)
        c->cause = tine__cause_new(cause);
    tine_timer_free(c->timer);
    c->timer = NULL;
    tine__client_drain(c);
    tine__client_tell_deferred(c);
    settle_dead(c, err);
    tine_error closed =
        tine__error_make(TINE_KIND_CLOSED, c->pid, "the worker has ended");
    tine__client_fail_traces(c, &closed);
    /* Only now: callbacks may have handed over more. */
    tine_job *unstarted = tine__client_take_all(c);
    const tine_error *why = c->cause ? &c->cause->error : err;
    tine_error early =
        tine__error_make(TINE_KIND_EXIT, c->pid,
                         c->ready ? "the worker exited by itself"
                                  : "the worker exited before it was ready");
    early.code = 0;
    early.status = "exited with code 0";
    if (!why && !c->closed)
        why = &early;
    c->ops->gone(c->owner, c, unstarted, why);
}

/* -------------------------------------------------------------------- memory */

static int serve(tine__client *c, tine_proc *p)
{
    static const tine__observer observer = {.given = on_given,
                                            .ready = on_made,
                                            .failed = on_failed,
                                            .ended = on_ended,
                                            .figures = tine__client_figures};
    unsigned char offset[8];
    for (int i = 0; i < 8; i++)
        offset[i] = (unsigned char)(c->region.offset >> 8 * i);
    const tine__buf *body = &c->config->serve;
    tine_str parts[] = {{body->data, body->len}, {offset, sizeof offset}};
    c->before = tine__proc_commands(p);
    return tine__proc_serve(p, parts, 2, c->region.fd, &observer, c);
}

int tine__client_new(tine_proc *p, const tine__rpc_config *s,
                     const tine__client_ops *ops, void *owner, tine__client **out)
{
    tine_host *host = s->host;
    tine__client *c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    c->config = s;
    c->ops = ops;
    c->owner = owner;
    c->fd = -1;
    c->flow = (tine__flow){.turn = tine__client_turn, .arg = c};
    c->flush_task = (tine__task){.run = tine__client_flush_task, .arg = c};
    c->deferred_task = (tine__task){.run = tine__client_tell_deferred, .arg = c};
    if (s->on_output)
        c->ids = calloc(TINE__WINDOW, sizeof *c->ids);
    int err = s->on_output && !c->ids ? -ENOMEM : 0;
    if (!err && !host->rpc->scoreboard)
        err = tine__scoreboard_open(&host->rpc->scoreboard);
    if (!err)
        err = tine__scoreboard_take(host->rpc->scoreboard, &c->region);
    if (!err)
        err = serve(c, p);
    if (err < 0) {
        if (c->region.chunk)
            tine__scoreboard_give_back(host->rpc->scoreboard, &c->region);
        free(c->ids);
        free(c);
        return err;
    }
    c->proc = p;
    if (s->on_output)
        tine__proc_set_line_arg(p, c);
    tine__client_wake_at(c, tine__now_usec() + s->spawn_timeout_usec);
    *out = c;
    return 0;
}

void tine__client_free(tine__client *c)
{
    tine_host *host = c->config->host;
    if (c->proc) {
        tine__proc_ignore(c->proc);
        tine__proc_set_line_arg(c->proc, NULL);
    }
    tine__host_unpost(host, &c->flush_task);
    tine__host_unpost(host, &c->deferred_task);
    tine_timer_free(c->timer);
    tine__client_unwatch(c);
    tine_io_free(c->write_io);
    tine__fd_close(&c->fd);
    tine__client_drop_fds(c);
    tine__buf_free(&c->out);
    tine__buf_free(&c->in);
    tine__inbox_free(&c->box);
    free(c->strs);
    free(c->table);
    free(c->ids);
    free(c->cause);
    for (tine__trace *t; (t = LIST_FIRST(&c->traces));) {
        LIST_REMOVE(t, link);
        free(t);
    }
    tine__loop_hold(host, &c->asked, false);
    tine__scoreboard_give_back(host->rpc->scoreboard, &c->region);
    free(c);
}
