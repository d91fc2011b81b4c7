/* Ending calls before they have ended by themselves, and deadlines: of calls, and of what a worker
 * has to do in time. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client_priv.h"

enum {
    EOF_PATIENCE = 1000000,
    CLOSED_PATIENCE = 10000000,
    HEAR_AGAIN = 1000,
    END_PATIENCE = 20000,
    SIGNAL_AGAIN = 1000,
    LOOK_AGAIN = 10000
};

/* When what need not be done is due. */
#define NEVER INT64_MAX

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* --------------------------------------------------------------------- recall */

uint64_t tine__client_started(tine__client *c)
{
    uint64_t started = atomic_load(&c->region.page->started);
    if (started >= c->seen && started <= c->handed)
        return c->seen = started;
    c->garbled = true;
    tine__client_broken(c, "it wrote garbage to its status page");
    return c->seen;
}

static bool has_started(tine__client *c, uint64_t serial)
{
    return tine__client_started(c) >= serial;
}

bool tine__client_has_started(tine__client *c, const tine_job *job)
{
    return has_started(c, job->serial);
}

/* What the page says is asked once: a worker that says something else later puts no deadline
 * off. Where another call has taken the job's place, that one started later. */
static int64_t async_start_of(tine__client *c, tine_job *job)
{
    const tine__page *page = c->region.page;
    if (job->started_usec)
        return job->started_usec;
    if (!has_started(c, job->serial))
        return -1;
    uint64_t ns = atomic_load(&page->starts[job->serial % TINE__WINDOW]);
    int64_t now = tine__now_usec();
    int64_t least = job->handed_usec ? job->handed_usec : job->queued_usec;
    int64_t at = ns / 1000 < INT64_MAX ? (int64_t)(ns / 1000) : now;
    job->started_usec = at > now ? now : at < least ? least : at;
    return job->started_usec;
}

void tine__client_note_start(tine__client *c, uint64_t serial)
{
    tine_job *job = tine__client_find(c, serial);
    if (job)
        async_start_of(c, job);
}

/* A worker that has nothing else to do gives a call back in this time. */
static int64_t patience_of(const tine__client *c)
{
    enum { LEAST = 1000000 };
    return c->config->grace_usec > LEAST ? c->config->grace_usec : LEAST;
}

bool tine__client_recall(tine__client *c, tine_job *job)
{
    uint64_t serial = job->serial, bit = UINT64_C(1) << serial % 64;
    if (c->config->async)
        return false;
    _Atomic uint64_t *word = &c->region.page->recall[serial % TINE__WINDOW / 64];
    atomic_fetch_or(word, bit);
    atomic_thread_fence(memory_order_seq_cst);
    if (has_started(c, serial) || c->garbled) {
        atomic_fetch_and(word, ~bit);
        job->recall_tried = true;
        return false;
    }
    c->recalled[serial % TINE__WINDOW / 64] |= bit;
    c->nrecalled++;
    tine__client_unlink(c, job);
    c->turn_usec = tine__now_usec();
    tine__client_wake_at(c, c->turn_usec + patience_of(c));
    return true;
}

/* Sync: not the first where that has been answered, and its answer not sent yet. */
tine_job *tine__client_running(tine__client *c, int64_t *since_usec)
{
    tine_job *job = c->first;
    if (!job || !has_started(c, job->serial))
        return NULL;
    if (!c->config->async && c->seen > job->serial)
        job = tine__client_find(c, c->seen);
    if (!job)
        return NULL;
    if (since_usec && c->config->async) {
        *since_usec = async_start_of(c, job);
    } else if (since_usec) {
        int64_t now = tine__now_usec(), least = job->handed_usec;
        uint64_t ns = atomic_load(&c->region.page->started_ns);
        int64_t at = ns / 1000 < INT64_MAX ? (int64_t)(ns / 1000) : now;
        *since_usec = at > now ? now : at < least ? least : at;
    }
    return job;
}

/* ----------------------------------------------------------------------- stop */

void tine__client_end_stopped(tine__client *c, tine_job *job)
{
    static const tine__times none;
    char text[200];
    bool timeout = job->reason == TINE__REASON_TIMEOUT;
    tine_error err = {.kind = timeout ? TINE_KIND_TIMEOUT : TINE_KIND_CANCELLED,
                      .pid = c->pid,
                      .code = -1,
                      .signal = job->killed ? SIGKILL : 0};
    if (timeout && job->killed)
        tine__error_say(&err, text, sizeof text,
                        "the job took longer than %g s, and its worker (process %d) "
                        "was killed, since it did not end within %g s more",
                        (double)job->timeout_usec / 1e6, (int)c->pid,
                        (double)c->config->grace_usec / 1e6);
    else if (timeout)
        tine__error_say(&err, text, sizeof text, "the job took longer than %g s",
                        (double)job->timeout_usec / 1e6);
    else
        tine__error_say(&err, text, sizeof text, "the job was cancelled%s",
                        job->killed ? ", and its worker killed for it" : "");
    c->ops->ended(c->owner, c, job, &err, NULL, 0, &none);
}

void tine__client_nudge(tine__client *c)
{
    if (c->proc)
        tine__proc_nudge(c->proc, TINE__SIGNAL);
}

/* Has the error raised in the job's code; async: if that runs. Until it has ended: a first signal
 * may come before it sleeps, and would not wake it everywhere. */
static void point_at(tine__client *c, const tine_job *job)
{
    tine__page *page = c->region.page;
    uint64_t stop = job->serial * 2 + (job->reason == TINE__REASON_CANCEL);
    if (c->config->async && atomic_load(&page->running) != job->serial)
        return;
    atomic_store(&page->stop, stop);
    tine__client_nudge(c);
}

/* When to point at it again. */
static int64_t next_look(const tine__client *c, const tine_job *job, int64_t now)
{
    int64_t end = job->stop_usec + c->config->grace_usec;
    int64_t wait = now - job->stop_usec;
    wait = wait < SIGNAL_AGAIN ? SIGNAL_AGAIN : wait;
    wait = wait > LOOK_AGAIN ? LOOK_AGAIN : wait;
    return now + wait < end ? now + wait : end;
}

static void ask_to_stop(tine__client *c, tine_job *job)
{
    if (c->config->async) {
        unsigned char reason[4] = {(unsigned char)job->reason};
        tine__client_put(c, TINE__CANCEL, job->serial, reason, sizeof reason);
    }
    point_at(c, job);
    job->look_usec = next_look(c, job, job->stop_usec);
    tine__client_wake_at(c, job->look_usec);
}

/* It was taken back: its end is told in the next turn. */
static void doom(tine__client *c, tine_job *job)
{
    job->next = NULL;
    job->look_usec = NEVER;
    tine_job **link = &c->doomed;
    while (*link)
        link = &(*link)->next;
    *link = job;
    job->at = c;
    tine__host_post(c->config->host, &c->deferred_task);
}

void tine__client_stop(tine__client *c, tine_job *job, enum tine__reason reason)
{
    if (job->reason != TINE__REASON_NONE)
        return;
    job->reason = reason;
    job->last_look = false;
    job->stop_usec = tine__now_usec();
    if (tine__client_recall(c, job))
        doom(c, job);
    else
        ask_to_stop(c, job);
}

bool tine__client_withdraw(tine__client *c, tine_job *job)
{
    if (job->reason != TINE__REASON_NONE || !tine__client_recall(c, job))
        return false;
    job->reason = TINE__REASON_CANCEL;
    job->stop_usec = tine__now_usec();
    doom(c, job);
    return true;
}

void tine__client_tell_deferred(void *arg)
{
    tine__client *c = arg;
    tine__host_now(c->config->host);
    uint64_t last = c->ntraces; /* what callbacks ask for has its turn later */
    tine_job *doomed = c->doomed;
    c->doomed = NULL;
    while (doomed) {
        tine_job *job = doomed;
        doomed = job->next;
        job->next = NULL;
        job->at = NULL;
        tine__client_end_stopped(c, job);
    }
    tine__client_tell_idle(c, last);
}

/* ---------------------------------------------------------- deadlines of calls */

/* A page that says that it has just started puts its deadline off once at most. If another call
 * has started since, the first has been answered, the page says: that answer is to come before long. */
static int64_t start_of(tine__client *c, tine_job *job)
{
    int64_t since;
    if (c->config->async)
        return async_start_of(c, job);
    const tine_job *running = tine__client_running(c, &since);
    if (!running || (running != job && job != c->first))
        return -1;
    if (c->timed != running->serial || since < c->timed_usec) {
        c->timed = running->serial;
        c->timed_usec = since;
    }
    return c->timed_usec + (running != job ? c->config->grace_usec : 0);
}

/* The worker has nothing to do but to begin with this job. */
static bool is_its_turn(const tine__client *c, const tine_job *job)
{
    bool sent = c->ready && c->sent == c->out.len;
    return sent && job == c->first && !c->nrecalled && c->seen < job->serial;
}

/* A worker that could have begun with the job for so long as it may take, and the grace, is not
 * going to. */
static int64_t begin_due(const tine__client *c, const tine_job *job)
{
    if (c->killed || !is_its_turn(c, job))
        return NEVER;
    int64_t from = c->turn_usec > job->handed_usec ? c->turn_usec : job->handed_usec;
    return from + job->timeout_usec + c->config->grace_usec;
}

/* When to look at a job that has not started: at the earliest it can be late when it has had its
 * time from now; sooner where others may take its place in the page. */
static int64_t start_look(const tine__client *c, const tine_job *job, int64_t now)
{
    return now + job->timeout_usec / (c->load > TINE__WINDOW ? 8 : 1) + 1;
}

/* When something is to be done about the job; not later than now: it is due. */
static int64_t job_deadline(tine__client *c, tine_job *job, int64_t now)
{
    if (job->reason != TINE__REASON_NONE)
        return c->killed ? NEVER : job->look_usec;
    if (job->timeout_usec <= 0)
        return NEVER;
    int64_t start = start_of(c, job);
    return start >= 0 ? start + job->timeout_usec
                      : earlier(begin_due(c, job), start_look(c, job, now));
}

/* It was told to end: it is told again, and when its grace is over its worker is killed. */
static void press(tine__client *c, tine_job *job, int64_t now)
{
    bool over = job->stop_usec + c->config->grace_usec <= now;
    if (over && job->last_look) {
        job->killed = true;
        c->killed_for = job->serial;
        tine__client_kill(c);
        return;
    }
    point_at(c, job);
    job->last_look = over; /* we may have been busy ever since */
    job->look_usec = over ? now + LOOK_AGAIN : next_look(c, job, now);
}

/* The job's deadline is over. Sees to it that the next one is later. */
static void expire_job(tine__client *c, tine_job *job, int64_t now)
{
    if (job->reason != TINE__REASON_NONE)
        press(c, job, now);
    else if (begin_due(c, job) <= now)
        tine__client_broken(c, "it did not begin with a call in time");
    else
        tine__client_stop(c, job, TINE__REASON_TIMEOUT);
}

/* Returns when the next one is due. */
static int64_t expire_jobs(tine__client *c, int64_t now)
{
    int64_t next = NEVER;
    for (tine_job *job = c->first, *after; job; job = after) {
        after = job->next; /* it may be taken back */
        int64_t at = job_deadline(c, job, now);
        if (at <= now) {
            expire_job(c, job, now);
            at = job_deadline(c, job, now);
        }
        next = earlier(next, at);
    }
    return next;
}

/* ------------------------------------------------------ deadlines of the worker */

/* What a process loads before it serves takes as long as it takes. Where it has nothing more to
 * load, and does not come to it, that counts. 0: it loads. */
static int64_t began(tine__client *c, int64_t now)
{
    uint64_t said = atomic_load(&c->region.page->began_ns) / 1000;
    if (!c->began_usec && said)
        c->began_usec = said < (uint64_t)now ? (int64_t)said : now;
    if (!c->began_usec && tine__proc_has_done(c->proc, c->before))
        c->began_usec = now;
    return c->began_usec;
}

/* When a call that was taken back, and is the next to be answered, must have been skipped. */
static int64_t skip_due(const tine__client *c, int64_t now)
{
    uint64_t next = c->answered + 1;
    if (!c->nrecalled || c->killed)
        return NEVER;
    if (!(c->recalled[next % TINE__WINDOW / 64] & UINT64_C(1) << next % 64))
        return now + patience_of(c); /* another call is before it */
    return c->turn_usec + patience_of(c);
}

/* When it must be ready, or must have become a template. */
static int64_t change_due(tine__client *c, int64_t now)
{
    int64_t patience = c->config->spawn_timeout_usec;
    if (c->killed || (c->ready && !c->promoted_usec))
        return NEVER;
    if (c->ready)
        return c->promoted_usec + patience;
    int64_t since = began(c, now);
    return (since ? since : now) + patience;
}

/* When one that has closed its socket must have ended. */
static int64_t end_due(const tine__client *c)
{
    if (!c->eof_usec || c->killed)
        return NEVER;
    return c->eof_usec + (c->closed ? CLOSED_PATIENCE : EOF_PATIENCE);
}

static int64_t worker_deadline(tine__client *c, int64_t now)
{
    return earlier(skip_due(c, now), earlier(change_due(c, now), end_due(c)));
}

static void give_change_up(tine__client *c)
{
    char text[100];
    if (c->ready) {
        tine__client_broken(c, "it did not become a template in time");
        return;
    }
    tine_error err =
        tine__error_print(TINE_KIND_TIMEOUT, tine__client_pid(c), text, sizeof text,
                          "the worker was not ready within %g s",
                          (double)c->config->spawn_timeout_usec / 1e6);
    if (!c->cause)
        c->cause = tine__cause_new(&err);
    tine__client_kill(c);
}

/* A deadline of the worker's is over: it is killed. */
static void expire_worker(tine__client *c, int64_t now)
{
    if (skip_due(c, now) <= now)
        tine__client_broken(c, "it did not give a call back in time");
    else if (change_due(c, now) <= now)
        give_change_up(c);
    else if (end_due(c) <= now)
        tine__client_broken(c, "it closed its socket");
}

/* A host that was busy has yet to hear what its worker has said in time. Returns 0, or how long
 * it has to wait until it has heard all, in microseconds. c may be gone. */
static int64_t hear(tine__client *c)
{
    enum tine__heard heard = tine__proc_hear(c->proc);
    if (heard == TINE__HEARD_END)
        return END_PATIENCE; /* how it has ended will be told */
    if (c->read_io)
        tine__client_readable(c, c->read_io, TINE_READ);
    return heard == TINE__HEARD_ALL ? 0 : HEAR_AGAIN;
}

/* ----------------------------------------------------------------------- timer */

static void on_timer(void *arg, tine_timer *timer)
{
    tine__client *c = arg;
    tine_proc *p = c->proc;
    int64_t now = tine__now_usec(), wait = 0;
    (void)timer;
    tine_timer_free(c->timer);
    c->timer = NULL;
    if (worker_deadline(c, now) <= now) {
        tine__proc_hold_still(p); /* its end may come to light now */
        wait = hear(c);
        tine__proc_let_go(p);
        if (!tine__proc_is_observed(p, c)) /* or it has become a template */
            return;
        if (!wait)
            expire_worker(c, now);
    }
    int64_t next = worker_deadline(c, now);
    if (next <= now)
        next = now + wait;
    next = earlier(next, expire_jobs(c, now));
    next = earlier(next, tine__client_traces_due(c, now));
    if (next != NEVER)
        tine__client_wake_at(c, next);
    tine__client_expire_traces(c, now);
}

/* The timer is not moved when what it was for is over: it finds nothing then. */
void tine__client_wake_at(tine__client *c, int64_t usec)
{
    if (c->timer && c->timer_at <= usec)
        return;
    tine_timer_free(c->timer);
    c->timer = NULL;
    int64_t after = usec - tine__now_usec();
    c->timer_at = usec;
    if (tine__timer_internal(c->config->host, &c->timer, after > 0 ? after : 0,
                             on_timer, c) < 0)
        c->timer = NULL; /* no memory; the next call asks again */
}
