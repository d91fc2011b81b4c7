/* The pool's scheduler: which job goes to which worker, when a worker is started, retired or
 * given up. Decides only: no I/O, no clock, no loop, no callbacks. The time comes with each
 * question, in microseconds of any monotonic clock. Nothing here costs more than O(log n)
 * with n workers or queued jobs; but what waits for one worker only, when that retires or
 * ends, is queued again, which costs as much for each.
 *
 * Use: tell it what happened, then call tine__sched_next until it says NONE; ask again when
 * something has happened, or at the time it gives.
 *
 * Rules, in this order of rank:
 * - A job goes to the ready worker with the fewest jobs, of equals to the one that got
 *   its last job longest ago; never more than `load` to one. The highest priority goes first,
 *   equal ones in the order added.
 * - Where `load` is 0 it is found out: twice as many as before, from 2 up to 64, after so many short
 *   jobs in a row, as long as what is handed over takes TINE__SCHED_AHEAD_USEC at most, by the
 *   moving average of the jobs' times. A long job lowers it at once, a worker that dies to 2.
 * - Jobs of one key go to one worker, in order, from the first of them on as long as that
 *   worker takes jobs; which worker is decided by load, jobs waiting for it included. The
 *   last TINE__SCHED_KEYS keys are remembered. When that worker retires, those that have not been
 *   handed over wait until it has done the ones it has, and then go to another.
 * - A job that was handed over and has not started is taken back (STEAL) for a worker that is
 *   idle when nothing is queued and the one before it has run for steal_usec: no job waits
 *   behind a long one while a worker has nothing to do.
 * - A worker is started at once when there is none, or fewer than `idle`; one more when there has
 *   been a job that no idle worker could take for start_usec without a break, counted anew from
 *   each start; up to max. When many jobs wait, as many at a time as have waited for
 *   start_usec, doubling. Workers that are being replaced count towards max only once.
 * - Every stop_usec one idle worker above `idle` is stopped: of those idle, the one used
 *   longest ago, if it has been idle for stop_usec.
 * - A worker is given max_jobs at most (minus up to an eighth, at random, so that not all go at
 *   once); then it takes no more, and another is started while it works on. Closed or not.
 * - A worker past max_age (likewise), or marked by tine__sched_replace, is replaced: a
 *   replacement is started, the old one goes on working until that is ready, then takes no
 *   more jobs and is stopped when it has none. At most max(1, max / 4) at a time, of all that
 *   are due the one longest due first. After close as long as jobs wait.
 * - Those that take no more jobs count until they have done theirs: there is one worker more than
 *   max at most, but for the quarter that is being replaced.
 * - A job that is tried again goes behind all of its priority that wait by then, since it
 *   may be what workers die of; but with a key it keeps its place, as all of that key do. It may
 *   have to wait for a time: it counts as queued meanwhile, and those of its key wait for it.
 * - A job that is to run alone gets a worker that has no other, and gets none until it is done: an
 *   idle one; else the one with the fewest jobs takes no more, and when another is idle before
 *   it has done those, that one.
 * - A worker that ends before it is ready is a failure, and so is one that ends without having done
 *   a job well, unless (the pool's to say) it died of a job: that is the job's affair; or was
 *   killed by a signal when it was ready, which is its own: that only makes the next one come
 *   later, as below. While
 *   another lives, there is just none more for now: after the n-th in a row the next one is
 *   started 2^(n-2) * 50 ms later, 6.4 s at most (the first is free), and no job is told.
 *   Where none lives and none starts any more, TINE__SCHED_FAILURES since the last job that was done
 *   well break the pool: the caller fails all jobs. One worker is tried again after 1 s, then 2,
 *   4, ... 64 s, when there is a job, or `idle` wants one; when that is ready, the pool is
 *   mended. */
#ifndef TINE_POOL_SCHED_H
#define TINE_POOL_SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TINE__SCHED_FAILURES 5
#define TINE__SCHED_AHEAD_USEC 500
#define TINE__SCHED_KEYS 4096
#define TINE__SCHED_NO_QUEUE SIZE_MAX

typedef struct tine__sched tine__sched;

typedef struct tine__sched_config {
    size_t max, idle, load; /* load 0: found out */
    int64_t start_usec, stop_usec, steal_usec;
    size_t queue; /* 0: no bound; TINE__SCHED_NO_QUEUE: see has_room */
    uint64_t max_jobs;
    int64_t max_age_usec;
    uint64_t seed; /* of the jitter */
} tine__sched_config;

/* What the scheduler keeps of a job: part of the pool's own. Zeros at first, but priority,
 * pinned and key. */
typedef struct tine__sched_job {
    int priority;
    uint64_t order;
    size_t at;                         /* place in a queue */
    struct tine__sched_worker *worker; /* handed to; or waiting for: key, pinned */
    bool pinned; /* worker was set by the pool: this one or none */
    bool queued, handed, has_key, parked, delayed;
    bool alone;                          /* as tine__sched_retry has it */
    uint64_t key;                        /* a hash of it */
    struct tine__sched_job *next, *prev; /* of a worker, in the order handed; orphans */
    int64_t due_usec;                    /* delayed: until then */
} tine__sched_job;

enum tine__sched_state {
    TINE__SCHED_STARTING,
    TINE__SCHED_READY,
    TINE__SCHED_RETIRING, /* takes no more jobs */
    TINE__SCHED_STOPPED   /* the pool was told to stop it */
};

typedef struct tine__sched_worker {
    enum tine__sched_state state;
    bool due;          /* is to be replaced */
    bool replaces_one; /* a replacement */
    bool good;         /* has done a job well */
    bool spent;        /* has been given all the jobs that it may do */
    size_t load;       /* jobs handed over */
    uint64_t jobs_done;
    int64_t since_usec; /* ready */
    /* The scheduler's own; see sched_priv.h. */
    struct tine__sched_private {
        size_t at_free, at_hungry, at_waited, at_held, at_idle, at_loaded, at_age,
            at_due, at_leaving;
        uint64_t used, limit_jobs, due_order;
        int64_t too_old_usec, idle_since_usec, busy_since_usec;
        bool kept; /* its last job was not to be had: no stealing until one is done */
        bool is_ready;                        /* counted as such */
        bool alone;                           /* its job is to have it alone */
        struct tine__sched_job *first, *last; /* handed over, in order */
        struct tine__prioq *waiting;          /* jobs that only it may take; or NULL */
        struct tine__affine *keys;            /* that are bound to it */
    } p;
} tine__sched_worker;

enum tine__sched_what {
    TINE__SCHED_NONE,
    TINE__SCHED_START,  /* make a worker, then tine__sched_started */
    TINE__SCHED_ASSIGN, /* hand job to worker; it counts as handed over */
    TINE__SCHED_STEAL,  /* try to take job back from worker, then tine__sched_again, or
                         * tine__sched_kept if it had started */
    TINE__SCHED_STOP,   /* tell worker to exit: it has no jobs and gets none */
    TINE__SCHED_DRAIN, /* the queue has room again, after a job was rejected or it was full */
    TINE__SCHED_BREAK /* no worker can be had: fail every queued job (tine__sched_pop) */
};

/* What the end of a worker says of those to come, where it has not done a job well. */
enum tine__sched_end {
    TINE__SCHED_END_FINE,   /* nothing */
    TINE__SCHED_END_FAILED, /* they may fare no better */
    TINE__SCHED_END_LOST    /* to make the next one at once may be in vain */
};

typedef struct tine__sched_action {
    enum tine__sched_what what;
    tine__sched_job *job;
    tine__sched_worker *worker;
    bool replacement; /* START: to be passed to tine__sched_started */
} tine__sched_action;

typedef struct tine__sched_try {
    bool ok;            /* of the last: as tine__sched_done has it */
    bool alone;         /* from now on it shares no worker */
    int64_t after_usec; /* not before that long */
} tine__sched_try;

int tine__sched_new(tine__sched **out, const tine__sched_config *config);
void tine__sched_free(tine__sched *s);
/* Room for jobs is made here, so that nothing else asks for memory but started.
 * Returns 0, -EAGAIN (the queue is full), -EHOSTDOWN (broken, and not to be tried yet),
 * -ENOMEM. A pinned job is never refused for want of room. */
int tine__sched_add(tine__sched *s, tine__sched_job *job, int64_t now);
/* Whether a job may be queued, as far as the bound goes; without a queue: while there are fewer than
 * max workers may have at a time. */
bool tine__sched_has_room(const tine__sched *s);
/* What add says now to one that is not pinned, but for -ENOMEM. */
int tine__sched_may_add(tine__sched *s, int64_t now);
/* Back at its old place: it was taken back, or its worker died before it started. Never refused. -ENOMEM. */
int tine__sched_again(tine__sched *s, tine__sched_job *job, int64_t now);
/* A job handed over has failed and is tried again: behind all that wait at its priority when its
 * time has come, but with a key at its old place. Never refused. -ENOMEM. */
int tine__sched_retry(tine__sched *s, tine__sched_job *job, const tine__sched_try *how,
                      int64_t now);
/* Takes a queued job out. */
void tine__sched_remove(tine__sched *s, tine__sched_job *job);
/* A queued job, best first, which is taken out; NULL: none. Pinned ones of workers that have gone
 * come first: the pool tells them. */
tine__sched_job *tine__sched_pop(tine__sched *s);
/* A pinned job whose worker has gone, taken out; NULL: none. */
tine__sched_job *tine__sched_orphan(tine__sched *s);
/* A job handed over has ended. ok: it ran, and the worker came out of it alive; such ones make
 * its good name, and count towards max_jobs. */
void tine__sched_done(tine__sched *s, tine__sched_job *job, bool ok, int64_t now);
/* How long a job ran, one that came out well. */
void tine__sched_ran(tine__sched *s, int64_t usec);
/* STEAL was in vain. */
void tine__sched_kept(tine__sched *s, tine__sched_job *job, int64_t now);

int tine__sched_started(tine__sched *s, tine__sched_worker *w, bool replacement,
                        int64_t now);
/* START could not be carried out at all: counts as a failure. */
void tine__sched_not_started(tine__sched *s, bool replacement, int64_t now);
void tine__sched_ready(tine__sched *s, tine__sched_worker *w, int64_t now);
/* It takes no more jobs (it said so, or it is to go), and is stopped when it has none. A
 * replacement is started as needed. */
void tine__sched_retire(tine__sched *s, tine__sched_worker *w, int64_t now);
/* It is to be replaced, replacement first. */
void tine__sched_replace(tine__sched *s, tine__sched_worker *w, int64_t now);
/* It has ended. Its handed jobs must have been told (done) or brought back (again, retry)
 * before, in any order. */
void tine__sched_gone(tine__sched *s, tine__sched_worker *w, enum tine__sched_end end,
                      int64_t now);
void tine__sched_resize(tine__sched *s, size_t max, size_t idle, int64_t now);
/* No new jobs come: workers are stopped as they become idle, none is started but for
 * queued jobs. */
void tine__sched_close(tine__sched *s, int64_t now);

tine__sched_action tine__sched_next(tine__sched *s, int64_t now);
/* ASSIGN, where that is what can be done; false: it is not. */
bool tine__sched_next_assign(tine__sched *s, int64_t now, tine__sched_action *action);
/* When tine__sched_next may have something to do though nothing happens; -1: never. */
int64_t tine__sched_when(const tine__sched *s, int64_t now);

bool tine__sched_broken(const tine__sched *s);
/* A worker can be made, or it is worth trying: failures are counted anew. */
void tine__sched_succeeded(tine__sched *s);
size_t tine__sched_queued(const tine__sched *s);
size_t tine__sched_workers(const tine__sched *s);
/* A worker that takes jobs, the least loaded; NULL: none. Next in no order: for stats. */
tine__sched_worker *tine__sched_least(const tine__sched *s);

#endif
