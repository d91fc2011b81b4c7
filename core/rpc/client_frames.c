/* What the frames say that come from a worker. All of it may be garbage, which ends the worker and
 * nothing else.
 *
 * Callbacks get what they are told where it has arrived, each string with a NUL behind it: on the
 * length of the next one, which has been read by then, or on the byte behind the frame, which is
 * put back afterwards. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client_priv.h"

static tine_error error_in(const tine__client *c, tine__cursor *cur)
{
    tine_error err = {.code = -1, .pid = c->pid};
    uint32_t kind = tine__get_u32(cur);
    tine_str message = tine__get_str(cur), traceback = tine__get_str(cur);
    if (kind > TINE_KIND_SYSTEM)
        cur->bad = true;
    if (cur->at != cur->end) {
        tine_str value = tine__get_str(cur);
        err.value = value.data;
        err.value_len = value.len;
        if (!cur->bad)
            tine__end_str(value);
    }
    if (!cur->bad) {
        tine__end_str(message);
        tine__end_str(traceback);
    }
    err.kind = (tine_kind)kind;
    if (err.kind == TINE_KIND_SYSTEM)
        err.sys_errno = ENOMEM; /* nothing else of that kind befalls a call */
    err.message = message.data;
    err.message_len = message.len;
    err.traceback = traceback.len ? traceback.data : NULL;
    err.traceback_len = traceback.len;
    return err;
}

/* The payload as callbacks get it. -1: malformed, or no memory. */
static int values_in(tine__client *c, tine__cursor *cur, size_t *n)
{
    *n = 0;
    while (c->config->serialiser != TINE_STRINGS ? *n == 0 : cur->at < cur->end) {
        if (*n == c->max_strs) {
            size_t most = c->max_strs ? c->max_strs * 2 : 8;
            tine_str *strs = realloc(c->strs, most * sizeof *strs);
            if (!strs)
                return -1;
            c->strs = strs;
            c->max_strs = most;
        }
        if (c->config->serialiser == TINE_STRINGS) {
            c->strs[*n] = tine__get_str(cur);
        } else {
            c->strs[*n] = (tine_str){cur->at, (size_t)(cur->end - cur->at)};
            cur->at = cur->end;
        }
        ++*n;
        if (cur->bad)
            return -1;
    }
    for (size_t i = 0; i < *n; i++)
        tine__end_str(c->strs[i]);
    return 0;
}

/* A worker's clock is the host's; what cannot be is garbage. */
static tine__times times_in(const tine_job *job, tine__cursor *cur)
{
    tine__times times;
    uint64_t started = tine__get_u64(cur) / 1000, run = tine__get_u64(cur) / 1000;
    int64_t least = job->handed_usec ? job->handed_usec : job->queued_usec;
    times.started_usec = started < INT64_MAX / 2 ? (int64_t)started : 0;
    times.run_usec = run < INT64_MAX / 2 ? (int64_t)run : 0;
    if (times.started_usec < least)
        times.started_usec = least;
    return times;
}

/* Sync: the worker may begin with the next call. */
static void next_turn(tine__client *c)
{
    c->answered++;
    c->turn_usec = c->config->host->now;
}

/* The call that a frame answers, taken out; NULL after an error. */
static tine_job *answered_job(tine__client *c, uint64_t serial)
{
    if (c->config->async) {
        tine_job *job = tine__client_find(c, serial);
        if (!job)
            tine__client_broken(c, "it answered a call that is not open");
        else
            tine__client_unlink(c, job);
        return job;
    }
    tine_job *job = c->first;
    if (serial != c->answered + 1 || !job || job->serial != serial) {
        tine__client_broken(c, serial <= c->answered
                                   ? "it answered a call twice"
                                   : "it answered a call that is not open");
        return NULL;
    }
    next_turn(c);
    tine__client_unlink(c, job);
    return job;
}

/* The descriptors that come with a frame are the callback's to take. */
static void on_fds(tine__client *c, const tine__client_frame *f)
{
    tine__cursor cur = {f->body, f->body + f->head.len, false};
    uint32_t n = tine__get_u32(&cur), first = tine__get_u32(&cur);
    if (!tine__get_done(&cur) || !tine__inbox_claim(&c->box, n, first, f->head.serial))
        tine__client_broken(c, "it sent garbage with descriptors");
}

static void on_answer(tine__client *c, const tine__client_frame *f)
{
    tine__cursor cur = {f->body, f->body + f->head.len, false};
    tine_error err;
    size_t n = 0;
    tine_job *job = answered_job(c, f->head.serial);
    if (!job)
        return;
    tine__times times = times_in(job, &cur);
    bool result = f->head.type == TINE__RESULT;
    if (result && !cur.bad) {
        cur.bad = values_in(c, &cur, &n) < 0;
    } else if (!result) {
        err = error_in(c, &cur);
        cur.bad = cur.bad || cur.at != cur.end;
    }
    if (cur.bad) {
        tine__client_broken(c, "it sent garbage in an answer");
        err = *tine__cause_error(c->cause);
        result = false;
    }
    c->ops->ended(c->owner, c, job, result ? NULL : &err, c->strs, result ? n : 0,
                  &times);
}

/* A job that was taken back; or one that we took for started when it was not. */
static void on_skipped(tine__client *c, uint64_t serial)
{
    uint64_t bit = UINT64_C(1) << serial % 64;
    uint64_t *word = &c->recalled[serial % TINE__WINDOW / 64];
    if (c->config->async || serial != c->answered + 1) {
        tine__client_broken(c, "it skipped a call that was not to be");
        return;
    }
    if (c->nrecalled && *word & bit && !(c->first && c->first->serial == serial)) {
        *word &= ~bit;
        c->nrecalled--;
        next_turn(c);
        return;
    }
    tine_job *job = c->first;
    if (!job || job->serial != serial || !job->recall_tried) {
        tine__client_broken(c, "it skipped a call that was not to be");
        return;
    }
    next_turn(c);
    tine__client_unlink(c, job);
    if (job->reason != TINE__REASON_NONE) {
        tine__client_end_stopped(c, job);
    } else if (tine__client_give(c, job) < 0) {
        static const tine__times none;
        c->ops->ended(c->owner, c, job, &tine__error_no_memory, NULL, 0, &none);
    }
}

static void on_event(tine__client *c, const tine__client_frame *f)
{
    tine__cursor cur = {f->body, f->body + f->head.len, false};
    size_t n;
    tine_job *job = f->head.serial ? tine__client_find(c, f->head.serial) : NULL;
    if (values_in(c, &cur, &n) < 0)
        tine__client_broken(c, "it sent garbage in an event");
    else
        c->ops->event(c->owner, c, job, c->strs, n);
}

static void on_fatal(tine__client *c, const tine__client_frame *f)
{
    tine__cursor cur = {f->body, f->body + f->head.len, false};
    tine_error err = error_in(c, &cur);
    if (cur.bad) {
        tine__client_broken(c, "it sent garbage as its last words");
        return;
    }
    if (c->cause)
        return;
    c->cause = tine__cause_new(&err);
}

static void on_fault(tine__client *c, const tine__client_frame *f)
{
    tine__cursor cur = {f->body, f->body + f->head.len, false};
    tine_error err = error_in(c, &cur);
    if (!tine__get_done(&cur)) {
        tine__client_broken(c, "it sent garbage in place of an error");
        return;
    }
    err.pid = tine__client_pid(c);
    tine__cause *cause = tine__cause_new(&err);
    c->ops->fault(c->owner, c, cause ? &cause->error : &err);
    free(cause);
}

static void on_ready(tine__client *c)
{
    if (c->ready) {
        tine__client_broken(c, "it said twice that it is ready");
        return;
    }
    c->ready = true;
    c->turn_usec = c->config->host->now;
    c->ops->ready(c->owner, c);
}

/* What a traceback says of one call; calls that have ended meanwhile are left out. */
static void put_call(const tine__client *c, tine__buf *b, uint64_t serial,
                     tine_str text)
{
    const tine_job *job = tine__client_find(c, serial);
    char name[40];
    if (!job)
        return;
    int n = snprintf(name, sizeof name, "%sjob %llu: ", b->len ? "\n" : "",
                     (unsigned long long)job->id);
    tine__buf_put(b, name, (size_t)n);
    tine__buf_put(b, text.data, text.len);
}

static void on_trace(tine__client *c, const tine__client_frame *f)
{
    tine__cursor cur = {f->body, f->body + f->head.len, false};
    tine__buf b = {0};
    tine_str text = tine__get_str(&cur);
    tine__buf_put(&b, text.data, text.len);
    while (c->config->async && !cur.bad && cur.at < cur.end) {
        uint64_t serial = tine__get_u64(&cur);
        tine_str one = tine__get_str(&cur);
        if (!cur.bad)
            put_call(c, &b, serial, one);
    }
    tine__buf_put(&b, "", 1);
    if (!tine__get_done(&cur)) {
        tine__client_broken(c, "it sent garbage as a traceback");
    } else if (b.failed) {
        tine__end_str(text);
        tine__client_told_trace(c, f->head.serial, text);
    } else {
        tine__client_told_trace(c, f->head.serial, (tine_str){b.data, b.len - 1});
    }
    tine__buf_free(&b);
}

static void on_retire(tine__client *c)
{
    if (c->retired) {
        tine__client_broken(c, "it said twice that it wants no more calls");
        return;
    }
    c->retired = true;
    c->ops->retire(c->owner, c);
}

static void take_frame(tine__client *c, const tine__client_frame *f)
{
    int type = f->head.type;
    if (!c->ready && type != TINE__READY && type != TINE__FATAL) {
        tine__client_broken(c, "it sent something else before it was ready");
        return;
    }
    if (c->promoted) {
        tine__client_broken(c, "it sent something after its last word");
        return;
    }
    switch (type) {
    case TINE__READY:
        on_ready(c);
        break;
    case TINE__RESULT:
    case TINE__ERROR:
        on_answer(c, f);
        break;
    case TINE__SKIPPED:
        on_skipped(c, f->head.serial);
        break;
    case TINE__EVENT:
        on_event(c, f);
        break;
    case TINE__FDS:
        on_fds(c, f);
        break;
    case TINE__RETIRE:
        on_retire(c);
        break;
    case TINE__TRACE:
        on_trace(c, f);
        break;
    case TINE__FATAL:
        on_fatal(c, f);
        break;
    case TINE__FAULT:
        on_fault(c, f);
        break;
    case TINE__PROMOTED:
        if (c->promoted_usec && !c->first)
            c->promoted = true;
        else
            tine__client_broken(c, "it became a template without being asked");
        break;
    default:
        tine__client_broken(c, "it sent garbage on its socket");
        break;
    }
}

void tine__client_take_frame(tine__client *c, const tine__client_frame *f)
{
    tine_host *host = c->config->host;
    tine__inbox *before = host->rpc->came;
    host->rpc->came = &c->box;
    take_frame(c, f);
    host->rpc->came = before;
    if (c->box.n && f->head.type != TINE__FDS)
        tine__inbox_drop(&c->box);
}

size_t tine_host_fds(tine_host *host, int **fds)
{
    const tine__inbox *came = host->rpc ? host->rpc->came : NULL;
    *fds = came ? came->fds : NULL;
    return came ? came->n : 0;
}
