/* The scheduler's workers: when one is started, replaced, stopped or given up. See sched.h. */
#include <errno.h>
#include <stdlib.h>

#include "sched_priv.h"

enum {
    BACKOFF_USEC = 50000,
    MOST_BACKOFF = 7, /* doublings */
    FIRST_RETRY_USEC = 1000000,
    LAST_RETRY_USEC = 64000000
};

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t draw(tine__sched *s)
{
    uint64_t x = s->random += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* Up to an eighth less, so that not all go at once. */
static uint64_t jitter(tine__sched *s, uint64_t limit)
{
    uint64_t most = limit / 8;
    return most ? limit - draw(s) % (most + 1) : limit;
}

/* ---------------------------------------------------------------------- places */

static inline void set_place(tine__prioq *q, tine__sched_worker *w, size_t place,
                             bool wanted)
{
    if (!wanted && !place)
        return;
    if (wanted && !place)
        tine__prioq_add(q, w); /* there is room since it was started */
    else if (wanted)
        tine__prioq_moved(q, w);
    else
        tine__prioq_remove(q, w);
}

static void count(size_t *n, bool *was, bool is)
{
    if (*was != is)
        *n += is ? 1 : (size_t)-1;
    *was = is;
}

void tine__sched_place(tine__sched *s, tine__sched_worker *w)
{
    struct tine__sched_private *p = &w->p;
    bool ready = w->state == TINE__SCHED_READY;
    bool room = w->load < s->load && !p->alone;
    const tine__sched_job *next = p->waiting ? tine__prioq_first(p->waiting) : NULL;
    bool waits = next != NULL, apart = waits && next->alone;
    bool feed = waits && (apart ? !w->load : room);
    bool retiring = w->state == TINE__SCHED_RETIRING; /* only what is pinned waits */
    count(&s->nready, &p->is_ready, ready);
    set_place(&s->free, w, p->at_free, ready && room && !apart);
    set_place(&s->waited, w, p->at_waited, waits);
    set_place(&s->hungry, w, p->at_hungry, (ready || retiring) && feed);
    set_place(&s->held, w, p->at_held, ready && apart && w->load && !next->has_key);
    set_place(&s->idle, w, p->at_idle, ready && !w->load && !waits);
    set_place(&s->loaded, w, p->at_loaded,
              (ready || retiring) && w->load > 1 && !p->kept);
    set_place(&s->ages, w, p->at_age, ready && s->config.max_age_usec && !w->due);
    if (ready && w->due && !p->due_order)
        p->due_order = ++s->uses;
    set_place(&s->due, w, p->at_due, ready && w->due);
    set_place(&s->leaving, w, p->at_leaving, retiring && !w->load && !waits);
}

/* ----------------------------------------------------------------- what happened */

int tine__sched_started(tine__sched *s, tine__sched_worker *w, bool replacement,
                        int64_t now)
{
    tine__prioq *all[] = {&s->free, &s->hungry, &s->waited, &s->held,   &s->idle,
                          &s->ages, &s->loaded, &s->due,    &s->leaving};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (tine__prioq_reserve(all[i], s->nworkers + 1) < 0)
            return -ENOMEM;
    w->state = TINE__SCHED_STARTING;
    w->replaces_one = replacement;
    s->nworkers++;
    s->nstarting++;
    s->nreplacing += replacement;
    s->last_start = now;
    return 0;
}

void tine__sched_not_started(tine__sched *s, bool replacement, int64_t now)
{
    (void)replacement;
    s->last_start = now;
    tine__sched_failed(s, now);
}

void tine__sched_leave(tine__sched *s, tine__sched_worker *w)
{
    if (w->state != TINE__SCHED_READY)
        return;
    w->state = TINE__SCHED_RETIRING;
    s->nretiring++;
    tine__prioq_remove(&s->hungry, w);
    tine__prioq_remove(&s->waited, w);
    tine__prioq_remove(&s->held, w);
    /* What waits for it by its key is to wait for others; what is pinned it still does. */
    tine__sched_job *pinned = NULL, *job;
    while (w->p.waiting && (job = tine__prioq_first(w->p.waiting)) != NULL) {
        tine__prioq_remove(w->p.waiting, job);
        if (job->pinned) {
            job->next = pinned;
            pinned = job;
            continue;
        }
        job->worker = NULL;
        if (tine__sched_route(s, job) < 0)
            tine__prioq_add(&s->queue, job); /* there is room; routed again later */
    }
    while ((job = pinned) != NULL) {
        pinned = job->next;
        job->next = NULL;
        tine__prioq_add(w->p.waiting, job);
    }
    tine__sched_place(s, w);
}

void tine__sched_ready(tine__sched *s, tine__sched_worker *w, int64_t now)
{
    if (w->state != TINE__SCHED_STARTING)
        return;
    w->state = TINE__SCHED_READY;
    w->since_usec = w->p.idle_since_usec = now;
    w->p.limit_jobs = jitter(s, s->config.max_jobs);
    w->p.too_old_usec = now + (int64_t)jitter(s, (uint64_t)s->config.max_age_usec);
    s->nstarting--;
    if (now >= s->next_start) /* else it was begun with those that failed */
        s->shortages = 0;
    s->broken = s->probing = false;
    tine__sched_place(s, w);
    if (!w->replaces_one)
        return;
    w->replaces_one = false;
    s->nreplacing--;
    tine__sched_worker *old = tine__prioq_first(&s->due);
    if (old)
        tine__sched_leave(s, old);
}

void tine__sched_retire(tine__sched *s, tine__sched_worker *w, int64_t now)
{
    (void)now;
    tine__sched_leave(s, w);
}

void tine__sched_replace(tine__sched *s, tine__sched_worker *w, int64_t now)
{
    (void)now;
    w->due = true;
    tine__sched_place(s, w);
}

/* Workers that take jobs, or will; replacements count for those they replace. */
static size_t capacity(const tine__sched *s)
{
    return s->nready + s->nstarting - s->nreplacing;
}

static void forget(tine__sched *s, tine__sched_worker *w)
{
    count(&s->nready, &w->p.is_ready, false);
    tine__prioq_remove(&s->free, w);
    tine__prioq_remove(&s->hungry, w);
    tine__prioq_remove(&s->waited, w);
    tine__prioq_remove(&s->held, w);
    tine__prioq_remove(&s->idle, w);
    tine__prioq_remove(&s->loaded, w);
    tine__prioq_remove(&s->ages, w);
    tine__prioq_remove(&s->due, w);
    tine__prioq_remove(&s->leaving, w);
}

static bool any_lives(const tine__sched *s)
{
    return s->nready + s->nretiring > 0;
}

static int64_t pause_after(const tine__sched *s)
{
    unsigned n =
        s->failures < s->shortages || any_lives(s) ? s->shortages : s->failures;
    n = n < s->losses ? s->losses : n;
    if (n < 2)
        return 0;
    return (int64_t)BACKOFF_USEC << (n - 2 < MOST_BACKOFF ? n - 2 : MOST_BACKOFF);
}

void tine__sched_gone(tine__sched *s, tine__sched_worker *w, enum tine__sched_end end,
                      int64_t now)
{
    bool expected = w->state == TINE__SCHED_STOPPED;
    if (w->state == TINE__SCHED_STARTING) {
        s->nstarting--;
        s->nreplacing -= w->replaces_one;
    }
    if (w->state == TINE__SCHED_RETIRING)
        s->nretiring--;
    w->state = TINE__SCHED_STOPPED;
    while (w->p.keys)
        tine__affinity_bind(w->p.keys, NULL);
    forget(s, w);
    tine__sched_disperse(s, w);
    forget(s, w);
    if (w->p.waiting)
        tine__prioq_free(w->p.waiting);
    free(w->p.waiting);
    w->p.waiting = NULL;
    s->nworkers--;
    if (!expected)
        tine__sched_lower_load(s);
    bool counts = !expected && !w->good;
    if (counts && end == TINE__SCHED_END_LOST) {
        s->losses++;
        s->next_start = now + pause_after(s);
    }
    if (counts && end == TINE__SCHED_END_FAILED)
        tine__sched_failed(s, now);
    else if (s->broken && !s->probing && s->nqueued && !capacity(s))
        s->tell_broken = true; /* nobody is there for what it left */
}

/* Nobody is there, and what is to be known of workers is known when those that start have come up,
 * or not. */
static bool is_doubtful(const tine__sched *s)
{
    return s->failures >= TINE__SCHED_FAILURES && !any_lives(s);
}

/* While a worker lives, jobs get done, and there is just none more for now. */
void tine__sched_failed(tine__sched *s, int64_t now)
{
    s->failures++;
    s->shortages++;
    s->next_start = now + pause_after(s);
    if (!is_doubtful(s) || s->nstarting)
        return;
    s->tell_broken = true;
    if (s->broken && !s->probing)
        return; /* one from before */
    s->retry_usec = !s->retry_usec                        ? FIRST_RETRY_USEC
                    : s->retry_usec < LAST_RETRY_USEC / 2 ? s->retry_usec * 2
                                                          : LAST_RETRY_USEC;
    s->retry_at = now + s->retry_usec;
    s->broken = true;
    s->probing = false;
}

void tine__sched_succeeded(tine__sched *s)
{
    s->failures = s->losses = 0;
    s->retry_usec = 0;
    s->broken = s->probing = false;
}

void tine__sched_resize(tine__sched *s, size_t max, size_t idle, int64_t now)
{
    (void)now;
    s->config.max = max;
    s->config.idle = idle;
}

void tine__sched_close(tine__sched *s, int64_t now)
{
    (void)now;
    s->closed = true;
}

size_t tine__sched_workers(const tine__sched *s)
{
    return s->nworkers;
}

/* -------------------------------------------------------------------- decisions */

/* One more than max while one is on its way out. */
static bool has_room(const tine__sched *s, size_t extra)
{
    return s->nready + s->nstarting + s->nretiring < s->config.max + extra;
}

/* Queued, and to be begun with now. */
static size_t waiting(const tine__sched *s)
{
    return s->nqueued - s->nlater;
}

/* Jobs that an idle worker could begin with. */
static size_t backlog(const tine__sched *s)
{
    return waiting(s) + s->nhanded - s->nbusy;
}

/* Closed, and no job is left that is not under way. */
static bool is_over(const tine__sched *s)
{
    return s->closed && !backlog(s) && !s->nlater;
}

/* A broken pool tries one worker; when that is ready, it is mended. */
static bool may_start(const tine__sched *s, int64_t now)
{
    if (s->broken)
        return s->probing && !s->nstarting;
    return now >= s->next_start && !(is_doubtful(s) && s->nstarting);
}

static bool start(tine__sched_action *action, bool replacement)
{
    *action = (tine__sched_action){TINE__SCHED_START, NULL, NULL, replacement};
    return true;
}

/* Since when a job has been waiting that no idle worker takes. */
static void note_waiting(tine__sched *s, int64_t now)
{
    bool waits = backlog(s) > 0 && !s->idle.n;
    if (!waits) {
        s->waiting_since = -1;
        s->burst = 1;
    } else if (s->waiting_since < 0) {
        s->waiting_since = now;
    }
}

static int64_t busy_start_at(const tine__sched *s)
{
    if (s->waiting_since < 0 || capacity(s) >= s->config.max || !has_room(s, 1))
        return -1;
    int64_t from = s->waiting_since;
    if (s->last_start > from)
        from = s->last_start;
    return from + s->config.start_usec;
}

/* Another worker for jobs that wait. */
static bool start_for_jobs(tine__sched *s, int64_t now, tine__sched_action *action)
{
    if (!has_room(s, 1))
        return false;
    if (waiting(s) && capacity(s) == 0)
        return start(action, false);
    if (s->waiting_since < 0 || backlog(s) <= s->nstarting - s->nreplacing ||
        capacity(s) >= s->config.max)
        return false;
    /* In the place of one that is on its way out: at once. */
    if (s->config.start_usec == 0 || s->nretiring > s->nstarting)
        return start(action, false);
    if (s->burst > 1 && s->burst_usec == now) { /* the rest of those due now */
        s->burst--;
        return start(action, false);
    }
    int64_t at = busy_start_at(s);
    if (at < 0 || at > now)
        return false;
    s->starts = s->starts ? s->starts * 2 : 1;
    s->burst = s->starts;
    s->burst_usec = now;
    return start(action, false);
}

static bool start_for_spent(tine__sched *s, tine__sched_action *action)
{
    if (is_over(s) || capacity(s) >= s->config.max)
        s->nowed = 0;
    if (!s->nowed || !has_room(s, 1))
        return false;
    s->nowed--;
    return start(action, false);
}

static size_t most_replacing(const tine__sched *s)
{
    return s->config.max / 4 > 1 ? s->config.max / 4 : 1;
}

static void note_ages(tine__sched *s, int64_t now)
{
    tine__sched_worker *old;
    while ((old = tine__prioq_first(&s->ages)) && old->p.too_old_usec <= now) {
        old->due = true;
        tine__sched_place(s, old);
    }
}

static bool replace(tine__sched *s, tine__sched_action *action)
{
    if (is_over(s) || s->nreplacing >= most_replacing(s) || s->nreplacing >= s->due.n ||
        !has_room(s, most_replacing(s)))
        return false;
    return start(action, true);
}

static bool stop(tine__sched *s, tine__sched_worker *w, int64_t now,
                 tine__sched_action *action)
{
    if (w->state == TINE__SCHED_RETIRING)
        s->nretiring--;
    w->state = TINE__SCHED_STOPPED;
    s->last_stop = now;
    tine__sched_place(s, w);
    *action = (tine__sched_action){TINE__SCHED_STOP, NULL, w, false};
    return true;
}

static size_t fewest(const tine__sched *s)
{
    return s->closed ? 0 : s->config.idle;
}

static int64_t stop_at(const tine__sched *s)
{
    const tine__sched_worker *w = tine__prioq_first(&s->idle);
    if (!w || capacity(s) <= fewest(s))
        return -1;
    if (is_over(s) || capacity(s) > s->config.max)
        return 0;
    int64_t at = w->p.idle_since_usec + s->config.stop_usec;
    int64_t next = s->last_stop < 0 ? at : s->last_stop + s->config.stop_usec;
    return at > next ? at : next;
}

static bool shrink(tine__sched *s, int64_t now, tine__sched_action *action)
{
    tine__sched_worker *w = tine__prioq_first(&s->leaving);
    if (w)
        return stop(s, w, now, action);
    int64_t at = stop_at(s);
    if (at >= 0 && at <= now)
        return stop(s, tine__prioq_first(&s->idle), now, action);
    return false;
}

void tine__sched_trim(tine__sched *s)
{
    tine__sched_worker *w;
    while (s->nready > s->config.max && (w = tine__prioq_first(&s->free)) != NULL)
        tine__sched_leave(s, w);
}

bool tine__sched_workers_next(tine__sched *s, int64_t now, tine__sched_action *action)
{
    note_waiting(s, now);
    note_ages(s, now);
    if (s->waiting_since < 0)
        s->starts = 0;
    if (shrink(s, now, action))
        return true;
    if (s->broken && !s->probing && now >= s->retry_at && fewest(s))
        s->probing = true;
    if (!may_start(s, now))
        return false;
    if (!s->closed && capacity(s) < fewest(s) && has_room(s, 1))
        return start(action, false);
    return start_for_spent(s, action) || start_for_jobs(s, now, action) ||
           replace(s, action);
}

static void earlier(int64_t *when, int64_t at)
{
    if (at >= 0 && (*when < 0 || at < *when))
        *when = at;
}

int64_t tine__sched_workers_when(const tine__sched *s, int64_t now)
{
    int64_t when = -1;
    bool wanted = (waiting(s) && !capacity(s)) ||
                  (!s->closed && !s->broken && capacity(s) < fewest(s)) ||
                  (s->due.n > s->nreplacing && !is_over(s));
    wanted = wanted || s->nowed;
    if (wanted && now < s->next_start && !s->broken)
        earlier(&when, s->next_start);
    if (s->broken && !s->probing && fewest(s))
        earlier(&when, s->retry_at);
    bool starts = !s->broken && !(is_doubtful(s) && s->nstarting);
    int64_t at =
        starts && backlog(s) > s->nstarting - s->nreplacing ? busy_start_at(s) : -1;
    earlier(&when, at >= 0 && at < s->next_start ? s->next_start : at);
    earlier(&when, stop_at(s));
    const tine__sched_worker *old = tine__prioq_first(&s->ages);
    if (old)
        earlier(&when, old->p.too_old_usec);
    return when;
}
