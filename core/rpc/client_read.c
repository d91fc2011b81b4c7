/* What comes from a worker: frames out of its socket, and after its death out of the ring. All of
 * it may be garbage, which ends the worker and nothing else.
 *
 * Callbacks get what they are told where it has arrived, each string with a NUL behind it: on the
 * length of the next one, which has been read by then, or on the byte behind the frame, which is
 * put back afterwards. So a buffer always has room for one byte more than it holds. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "client_priv.h"

enum { SCRATCH = 65536, READS_PER_WAKE = 16, DIRECT = 1 << 20, KEEP_BUFFER = 1 << 20 };
/* Of frames that are no answers, of which there may be no end: so many, then others have their
 * turn; FEW where others have calls that they wait for. */
enum { FRAMES_PER_WAKE = 64, FEW_FRAMES = 16 };
enum { HEARD = 64 }; /* when more owe answers they are left to the loop */

typedef struct frame {
    tine__call_head head;
    const unsigned char *body;
} frame;

/* ------------------------------------------------------------------ one frame */

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
static void on_fds(tine__client *c, const frame *f)
{
    tine__cursor cur = {f->body, f->body + f->head.len, false};
    uint32_t n = tine__get_u32(&cur), first = tine__get_u32(&cur);
    if (!tine__get_done(&cur) || !tine__inbox_claim(&c->box, n, first, f->head.serial))
        tine__client_broken(c, "it sent garbage with descriptors");
}

static void on_answer(tine__client *c, const frame *f)
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

static void on_event(tine__client *c, const frame *f)
{
    tine__cursor cur = {f->body, f->body + f->head.len, false};
    size_t n;
    tine_job *job = f->head.serial ? tine__client_find(c, f->head.serial) : NULL;
    if (values_in(c, &cur, &n) < 0)
        tine__client_broken(c, "it sent garbage in an event");
    else
        c->ops->event(c->owner, c, job, c->strs, n);
}

static void on_fatal(tine__client *c, const frame *f)
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

static void on_fault(tine__client *c, const frame *f)
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

static void on_trace(tine__client *c, const frame *f)
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

static void take_frame(tine__client *c, const frame *f)
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

static void on_frame(tine__client *c, const frame *f)
{
    tine_host *host = c->config->host;
    tine__inbox *before = host->came;
    host->came = &c->box;
    take_frame(c, f);
    host->came = before;
    if (c->box.n && f->head.type != TINE__FDS)
        tine__inbox_drop(&c->box);
}

size_t tine_host_fds(tine_host *host, int **fds)
{
    *fds = host->came ? host->came->fds : NULL;
    return host->came ? host->came->n : 0;
}

/* Whether descriptors came that no frame speaks of, nor the one whose beginning is there. */
static bool is_loaded(const tine__client *c)
{
    tine__call_head head;
    const tine__batch *b = c->box.first;
    if (!b || (!b->next && c->in.len && c->in.len < TINE__CALL_HEAD))
        return false;
    return b->next || !c->in.len || !tine__call_head_get(&head, c->in.data) ||
           head.type != TINE__FDS;
}

/* -------------------------------------------------------------------- streams */

static bool is_broken(const tine__client *c)
{
    return c->cause && c->cause->error.kind == TINE_KIND_PROTOCOL;
}

/* Carries out all whole frames; returns how many bytes they are. */
static size_t take_frames(tine__client *c, unsigned char *data, size_t len)
{
    size_t at = 0;
    while (len - at >= TINE__CALL_HEAD && !is_broken(c)) {
        frame f;
        if (!tine__call_head_get(&f.head, data + at)) {
            tine__client_broken(c, "it sent garbage on its socket");
            break;
        }
        if (len - at - TINE__CALL_HEAD < f.head.len)
            break;
        f.body = data + at + TINE__CALL_HEAD;
        at += TINE__CALL_HEAD + f.head.len;
        unsigned char behind = data[at];
        data[at] = 0;
        c->nframes += f.head.type != TINE__RESULT && f.head.type != TINE__ERROR;
        on_frame(c, &f);
        data[at] = behind;
    }
    return at;
}

static bool keep(tine__client *c, const unsigned char *data, size_t len)
{
    if (tine__buf_room(&c->in, len + 1)) {
        tine__buf_put(&c->in, data, len);
        return true;
    }
    tine__buf_free(&c->in);
    tine__client_broken(c, "there is no memory for what it sent");
    return false;
}

/* n bytes came; there is room for one more behind them. */
static void feed(tine__client *c, unsigned char *data, size_t n)
{
    c->received += n;
    if (is_broken(c))
        return;
    if (!c->in.len) {
        size_t used = take_frames(c, data, n);
        if (used < n && !is_broken(c))
            keep(c, data + used, n - used);
        return;
    }
    if (!keep(c, data, n))
        return;
    size_t used = take_frames(c, c->in.data, c->in.len);
    if (used)
        memmove(c->in.data, c->in.data + used, c->in.len - used);
    c->in.len -= used;
    if (!c->in.len && c->in.cap > KEEP_BUFFER)
        tine__buf_free(&c->in);
}

/* Bytes that a large frame lacks, to be received where they belong; else 0. */
static size_t missing(const tine__client *c)
{
    tine__call_head head;
    if (c->in.len < TINE__CALL_HEAD || !tine__call_head_get(&head, c->in.data))
        return 0;
    size_t need = TINE__CALL_HEAD + (size_t)head.len - c->in.len;
    return need > SCRATCH ? need : 0;
}

/* Returns as recv. *asked: how much there was room for. */
static ssize_t read_some(tine__client *c, size_t *asked)
{
    tine_host *host = c->config->host;
    size_t direct = missing(c);
    unsigned char *to = host->scratch;
    *asked = c->ask ? c->ask : SCRATCH;
    if (direct) {
        *asked = direct < DIRECT ? direct : DIRECT;
        to = tine__buf_room(&c->in, *asked + 1);
        if (!to) {
            tine__buf_free(&c->in);
            tine__client_broken(c, "there is no memory for what it sent");
            errno = ENOMEM;
            return -1;
        }
    }
    ssize_t n;
    do
        n = tine__passing_recv(c->fd, to, *asked, MSG_DONTWAIT, &c->box);
    while (n < 0 && errno == EINTR);
    if (n > 0) {
        tine__host_now(host);
        /* What a job has written comes before its end. */
        if (c->config->on_output && c->proc)
            tine__proc_read_output(c->proc);
    }
    if (n > 0 && direct) {
        c->in.len += (size_t)n;
        c->received += (size_t)n;
        if (!missing(c) && (size_t)n == direct) {
            take_frames(c, c->in.data, c->in.len);
            tine__buf_free(&c->in);
        }
    } else if (n > 0) {
        feed(c, to, (size_t)n);
    }
    if (c->box.first && !is_broken(c) && is_loaded(c))
        tine__client_broken(c, "it sent descriptors that it does not speak of");
    return n;
}

int tine__client_open_scratch(tine_host *host)
{
    if (!host->scratch)
        host->scratch = malloc(SCRATCH + 1);
    return host->scratch ? 0 : -ENOMEM;
}

static void at_eof(tine__client *c)
{
    tine_io_free(c->read_io);
    c->read_io = NULL;
    if (!c->eof_usec) {
        c->eof_usec = tine__now_usec();
        tine__client_wake_at(c, c->eof_usec);
    }
}

/* n bytes were nframes frames: of small ones less is read at a time, since what has been read must
 * be carried out. What comes next may be of another size. */
static void set_pace(tine__client *c, size_t n, size_t nframes, size_t budget)
{
    size_t most = c->ask ? c->ask * 2 : SCRATCH;
    size_t ask = nframes ? n * budget / nframes : SCRATCH;
    if (ask > most)
        ask = most;
    c->ask = ask < SCRATCH ? ask : SCRATCH;
    if (c->ask < budget * TINE__CALL_HEAD)
        c->ask = budget * TINE__CALL_HEAD;
}

static size_t budget_of(const tine__client *c)
{
    size_t mine = c->first ? 1 : 0;
    return c->config->host->nbusy > mine ? FEW_FRAMES : FRAMES_PER_WAKE;
}

/* Takes what the worker has sent, not all if that is much. Returns whether anything has come. */
static bool read_worker(tine__client *c)
{
    tine_proc *p = c->proc;
    size_t asked;
    bool came = false;
    if (c->reading)
        return false;
    c->reading = true;
    tine__proc_hold_still(p); /* its end, which a callback may bring to light, waits */
    size_t budget = budget_of(c);
    c->nframes = 0;
    for (int i = 0; i < READS_PER_WAKE && c->nframes < budget && !c->killed; i++) {
        size_t before = c->nframes;
        ssize_t n = read_some(c, &asked);
        if (n > 0) {
            came = true;
            set_pace(c, (size_t)n, c->nframes - before, budget);
        }
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != ENOMEM)) {
            at_eof(c);
            break;
        }
        if (n < (ssize_t)asked)
            break;
    }
    tine__proc_let_go(p);
    c->reading = false;
    if (c->out.len > c->sent)
        tine__client_flush(c);
    if (c->promoted && !c->killed && !c->eof_usec)
        c->ops->promoted(c->owner, c);
    return came;
}

void tine__client_readable(void *arg, tine_io *io, int events)
{
    (void)io;
    (void)events;
    read_worker(arg);
}

static bool is_worth_hearing(const tine_host *host)
{
    return host->nbusy && host->nbusy <= HEARD;
}

/* Reads what workers say that they have sent, of HEARD at most. */
static bool hear(tine_host *host)
{
    tine__client *heard[HEARD];
    size_t n = 0;
    tine__client *c;
    LIST_FOREACH(c, &host->busy, busy)
    if (n < HEARD && c->read_io &&
        atomic_load_explicit(&c->region.page->flushed, memory_order_acquire) !=
            c->received)
        heard[n++] = c;
    /* A callback may bring to light that another's process has ended: it is kept till then. */
    tine_proc *procs[HEARD];
    for (size_t i = 0; i < n; i++) {
        procs[i] = heard[i]->proc;
        tine__proc_hold_still(procs[i]);
    }
    bool any = false;
    for (size_t i = 0; i < n && !host->stopped && !tine__stale(host); i++)
        if (heard[i]->read_io)
            any = read_worker(heard[i]) || any;
    for (size_t i = 0; i < n; i++)
        tine__proc_let_go(procs[i]);
    return any;
}

void tine__clients_open(tine_host *host)
{
    static const tine__look look = {is_worth_hearing, hear};
    host->look = &look;
}

void tine__clients_close(tine_host *host)
{
    tine__scoreboard_free(host->scoreboard);
    free(host->scratch);
    host->scoreboard = NULL;
    host->scratch = NULL;
}

/* What is there now: a process that it has left behind may write for ever. */
static void drain_socket(tine__client *c)
{
    size_t asked;
    int left = 0;
    if (c->fd < 0 || ioctl(c->fd, FIONREAD, &left) < 0)
        return;
    while (left > 0 && !is_broken(c)) {
        ssize_t n = read_some(c, &asked);
        if (n <= 0)
            break;
        left -= (int)n;
    }
}

static void drain_ring(tine__client *c)
{
    unsigned char *scratch = c->config->host->scratch;
    const unsigned char *ring =
        (const unsigned char *)c->region.page + TINE__PAGE_STATUS;
    uint64_t tail = atomic_load(&c->region.page->tail);
    if (tail <= c->received || tail - c->received > TINE__RING)
        return;
    while (c->received < tail && !is_broken(c)) {
        size_t at = c->received % TINE__RING;
        size_t n = TINE__RING - at;
        if (n > tail - c->received)
            n = (size_t)(tail - c->received);
        memcpy(scratch, ring + at, n);
        feed(c, scratch, n);
    }
}

void tine__client_drain(tine__client *c)
{
    c->reading = true;
    drain_socket(c);
    if (!is_broken(c))
        drain_ring(c);
    c->reading = false;
    tine_io_free(c->read_io);
    tine_io_free(c->write_io);
    c->read_io = c->write_io = NULL;
    tine__fd_close(&c->fd);
}
