/* Calls to one worker: a queue, and a client. The public functions of tine_rpc. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"

struct tine_rpc {
    LIST_ENTRY(tine_rpc) link; /* of the host's */
    tine__rpc_config config;
    tine__client *client; /* NULL when the worker has ended */
    pid_t pid;
    tine_job *first, *last; /* made and not handed over */
    tine_job *ended;        /* to be told so in the next turn */
    size_t pending;
    uint64_t ids;
    int64_t timeout_usec;
    tine_event_cb on_event;
    tine_fault_cb on_error;
    void *arg;
    tine__task task;
    tine__cause *cause; /* why the worker has ended */
    bool closed;
    bool holds; /* the loop */
    bool busy;  /* a callback is below us on the stack, which must find us alive */
    tine_gone_cb gone;
    void *gone_arg;
};

static void count(tine_rpc *rpc)
{
    bool on = rpc->pending > 0 || (rpc->closed && (rpc->client || rpc->gone));
    tine__loop_hold(rpc->config.host, &rpc->holds, on);
}

static void rpc_free(tine_rpc *rpc)
{
    tine_host *host = rpc->config.host;
    rpc->pending = 0;
    rpc->closed = false;
    count(rpc);
    LIST_REMOVE(rpc, link);
    tine__host_unpost(host, &rpc->task);
    tine__rpc_config_free(&rpc->config);
    free(rpc->cause);
    free(rpc);
}

/* ---------------------------------------------------------------------- queue */

static void append(tine_job **first, tine_job **last, tine_job *job)
{
    job->next = NULL;
    job->prev = *first ? *last : NULL;
    if (*first)
        (*last)->next = job;
    else
        *first = job;
    *last = job;
}

static void take_out(tine_rpc *rpc, tine_job *job)
{
    if (job->prev)
        job->prev->next = job->next;
    else
        rpc->first = job->next;
    if (job->next)
        job->next->prev = job->prev;
    else
        rpc->last = job->prev;
    job->next = job->prev = NULL;
}

static void end_job(tine_rpc *rpc, tine_job *job, const tine_error *err,
                    const tine_str *results, size_t n)
{
    rpc->pending--;
    job->ending = true;
    tine_call_cb cb = job->cb;
    if (cb)
        cb(job->arg, job, err, results, n);
    tine__job_free(&rpc->config, job);
}

static void end_later(tine_rpc *rpc, tine_job *job)
{
    job->ending = true;
    job->next = rpc->ended;
    rpc->ended = job;
    tine__host_post(rpc->config.host, &rpc->task);
}

/* Hands over what fits; the timer of a call counts from its start there. */
static void hand_over(tine_rpc *rpc)
{
    while (rpc->first && rpc->client && tine__client_has_room(rpc->client)) {
        tine_job *job = rpc->first;
        take_out(rpc, job);
        if (tine__client_give(rpc->client, job) < 0) {
            job->reason = TINE__REASON_NONE;
            end_later(rpc, job);
        }
    }
}

static void tell_fault(tine_rpc *rpc, const tine_error *err)
{
    tine_host *host = rpc->config.host;
    if (rpc->on_error)
        rpc->on_error(rpc->arg, err);
    else
        tine__host_fault(host, err);
}

/* Why calls fail that never started. */
static tine_error never_started(const tine_rpc *rpc, char *text, size_t size)
{
    const tine_error *cause = rpc->cause ? &rpc->cause->error : NULL;
    if (!cause)
        return tine__error_make(TINE_KIND_CLOSED, rpc->pid,
                                "the worker ended before the call started");
    if (cause->traceback) /* init, or what the template was told, has failed */
        return *cause;
    tine_error err = tine__error_print(TINE_KIND_CLOSED, rpc->pid, text, size,
                                       "the worker ended before the call started: %.*s",
                                       (int)cause->message_len, cause->message);
    err.signal = cause->signal;
    err.code = cause->code;
    err.status = cause->status;
    err.sys_errno = cause->sys_errno;
    return err;
}

/* They are nobody's any more, and cannot be cancelled. */
static void seize(tine_job *list)
{
    for (; list; list = list->next)
        list->ending = true;
}

static void fail_list(tine_rpc *rpc, tine_job *job, const tine_error *err)
{
    tine_error cancelled = tine__error_cancelled();
    while (job) {
        tine_job *next = job->next;
        bool was = job->reason == TINE__REASON_CANCEL;
        end_job(rpc, job, was ? &cancelled : err, NULL, 0);
        job = next;
    }
}

/* The client is closed when all is handed over. */
static void close_when_drained(tine_rpc *rpc)
{
    if (rpc->client && !rpc->first)
        tine__client_close(rpc->client);
}

/* --------------------------------------------------------------- from the client */

static void on_ended(void *owner, tine__client *c, tine_job *job, const tine_error *err,
                     const tine_str *results, size_t n, const tine__times *times)
{
    tine_rpc *rpc = owner;
    (void)c;
    (void)times;
    hand_over(rpc);
    if (rpc->closed)
        close_when_drained(rpc);
    end_job(rpc, job, err, results, n);
    count(rpc);
}

static void on_event(void *owner, tine__client *c, tine_job *job,
                     const tine_str *values, size_t n)
{
    tine_rpc *rpc = owner;
    if (rpc->on_event)
        rpc->on_event(rpc->arg, tine__client_pid(c), job, values, n);
}

/* Nothing is to be replaced here: calls go on as long as they come. */
static void on_retire(void *owner, tine__client *c)
{
    (void)owner;
    (void)c;
}

static void on_ready(void *owner, tine__client *c)
{
    (void)owner;
    (void)c;
}

static void finish(tine_rpc *rpc)
{
    tine_gone_cb gone = rpc->gone;
    void *arg = rpc->gone_arg;
    rpc->gone = NULL;
    if (gone)
        gone(arg);
    rpc_free(rpc);
}

static void run_task(void *arg)
{
    tine_rpc *rpc = arg;
    char text[400];
    tine_job *ended = rpc->ended, *list = NULL;
    rpc->ended = NULL;
    while (ended) { /* back in the order in which they were put there */
        tine_job *next = ended->next;
        ended->next = list;
        list = ended;
        ended = next;
    }
    while (list) {
        tine_job *next = list->next;
        tine_error err = never_started(rpc, text, sizeof text);
        if (list->reason == TINE__REASON_CANCEL)
            err = tine__error_cancelled();
        else if (rpc->client)
            err = tine__error_system(-ENOMEM, text, sizeof text, "call");
        end_job(rpc, list, &err, NULL, 0);
        list = next;
    }
    count(rpc);
    if (rpc->closed && !rpc->client && !rpc->ended && !rpc->first && !rpc->busy)
        finish(rpc);
}

static void on_gone(void *owner, tine__client *c, tine_job *unstarted,
                    const tine_error *why)
{
    tine_rpc *rpc = owner;
    char text[400];
    rpc->pid = tine__client_pid(c);
    rpc->cause = why ? tine__cause_new(why) : NULL;
    bool expected = rpc->closed && !why;
    bool carried = unstarted || rpc->first;
    rpc->busy = true;
    rpc->client = NULL;
    tine__client_free(c);
    tine_job *queued = rpc->first;
    rpc->first = rpc->last = NULL;
    tine_error err = never_started(rpc, text, sizeof text);
    seize(unstarted);
    seize(queued);
    fail_list(rpc, unstarted, &err);
    fail_list(rpc, queued, &err);
    if (why && !expected && (!carried || rpc->on_error))
        tell_fault(rpc, rpc->cause ? &rpc->cause->error : &err);
    rpc->busy = false;
    count(rpc);
    if (rpc->closed)
        tine__host_post(rpc->config.host, &rpc->task);
}

static void on_fault(void *owner, tine__client *c, const tine_error *err)
{
    (void)c;
    tell_fault(owner, err);
}

static void on_output(void *owner, tine__client *c, uint64_t job_id, int stream,
                      const char *line, size_t len)
{
    (void)owner;
    (void)c;
    (void)job_id;
    (void)stream;
    (void)line;
    (void)len;
}

/* ---------------------------------------------------------------------- public */

int tine_rpc_new(tine_proc *p, const tine_func *func, const tine_rpc_options *options,
                 tine_rpc **out)
{
    static const tine__client_ops ops = {on_ready, on_ended, on_event,  on_retire,
                                         NULL,     on_gone,  on_output, on_fault};
    tine_host *host = tine__proc_host(p);
    tine_rpc *rpc = calloc(1, sizeof *rpc);
    if (!rpc)
        return -ENOMEM;
    int err = tine__rpc_open(host);
    if (!err)
        err = tine__rpc_config_init(&rpc->config, host, func, options);
    if (err < 0) {
        free(rpc);
        return err;
    }
    rpc->config.on_output = NULL;
    if (options) {
        rpc->timeout_usec = options->timeout_usec;
        rpc->on_event = options->on_event;
        rpc->on_error = options->on_error;
        rpc->arg = options->arg;
    }
    rpc->task = (tine__task){.run = run_task, .arg = rpc};
    err = tine__client_new(p, &rpc->config, &ops, rpc, &rpc->client);
    if (err < 0) {
        tine__rpc_config_free(&rpc->config);
        free(rpc);
        return err;
    }
    LIST_INSERT_HEAD(&host->rpc->rpcs, rpc, link);
    *out = rpc;
    return 0;
}

static void cancel(tine_job *job)
{
    tine_rpc *rpc = job->owner;
    if (tine__stale(rpc->config.host) || job->ending ||
        job->reason != TINE__REASON_NONE)
        return;
    if (job->at) {
        tine__client_stop(job->at, job, TINE__REASON_CANCEL);
        return;
    }
    job->reason = TINE__REASON_CANCEL;
    take_out(rpc, job);
    end_later(rpc, job);
}

int tine_rpc_call(tine_rpc *rpc, const tine_str *args, size_t n, tine_call_cb cb,
                  void *arg, tine_job **out)
{
    return tine_rpc_call_fds(rpc, args, n, NULL, 0, cb, arg, out);
}

int tine_rpc_call_fds(tine_rpc *rpc, const tine_str *args, size_t n, const int *fds,
                      size_t nfds, tine_call_cb cb, void *arg, tine_job **out)
{
    tine_job *job;
    if (tine__stale(rpc->config.host))
        return -TINE_ESTALE;
    if (!tine_rpc_open(rpc))
        return -TINE_ECLOSED;
    int err = tine__job_new(&job, &rpc->config, args, n, 0);
    if (err < 0)
        return err;
    err = nfds ? tine__job_fds(&rpc->config, job, fds, nfds) : 0;
    if (err < 0) {
        tine__job_free(&rpc->config, job);
        return err;
    }
    job->owner = rpc;
    job->id = ++rpc->ids;
    job->cancel = cancel;
    job->cb = cb;
    job->arg = arg;
    job->timeout_usec = rpc->timeout_usec;
    append(&rpc->first, &rpc->last, job);
    rpc->pending++;
    hand_over(rpc);
    count(rpc);
    if (out)
        *out = job;
    return 0;
}

void tine_job_cancel(tine_job *job)
{
    job->cancel(job);
}

int tine_job_running(const tine_job *job)
{
    return job->at && tine__client_has_started(job->at, job);
}

int tine_job_withdraw(tine_job *job)
{
    if (job->at)
        return tine__client_withdraw(job->at, job);
    tine_job_cancel(job);
    return 1;
}

int tine_rpc_traceback(tine_rpc *rpc, tine_text_cb cb, void *arg)
{
    if (!rpc->client)
        return -TINE_ECLOSED;
    return tine__client_traceback(rpc->client, cb, arg);
}

pid_t tine_rpc_pid(const tine_rpc *rpc)
{
    return rpc->client ? tine__client_pid(rpc->client) : rpc->pid;
}

size_t tine_rpc_pending(const tine_rpc *rpc)
{
    return rpc->pending;
}

int tine_rpc_open(const tine_rpc *rpc)
{
    return !rpc->closed && rpc->client != NULL;
}

void tine_rpc_close(tine_rpc *rpc, tine_gone_cb gone, void *arg)
{
    if (!rpc || rpc->closed || tine__stale(rpc->config.host))
        return;
    rpc->closed = true;
    rpc->gone = gone;
    rpc->gone_arg = arg;
    close_when_drained(rpc);
    count(rpc);
    if (!rpc->client)
        tine__host_post(rpc->config.host, &rpc->task);
}

static void teardown(tine_rpc *rpc)
{
    tine_error closed = tine__error_make(TINE_KIND_CLOSED, 0, "the rpc was closed");
    tine_job *handed = NULL, *queued = rpc->first, *ended = rpc->ended;
    tine__client *c = rpc->client;
    rpc->client = NULL; /* what callbacks ask for now is refused */
    seize(queued);
    if (c) {
        handed = tine__client_take_all(c);
        seize(handed);
        tine__client_fail_traces(c, &closed);
        tine__client_free(c);
    }
    rpc->first = rpc->last = rpc->ended = NULL;
    fail_list(rpc, handed, &closed);
    fail_list(rpc, queued, &closed);
    fail_list(rpc, ended, &closed);
    finish(rpc);
}

static void close_all(tine_host *host)
{
    while (!LIST_EMPTY(&host->rpc->rpcs))
        /* Leaves the list. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
        teardown(LIST_FIRST(&host->rpc->rpcs));
    tine__clients_close(host);
}

int tine__rpc_open(tine_host *host)
{
    if (host->rpc)
        return 0;
    int err = tine__clients_open(host);
    if (!err)
        tine__host_at_close(host, close_all);
    return err;
}
