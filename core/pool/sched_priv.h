/* What the files of the scheduler share: sched.c (jobs), sched_next.c (what is to be done), sched_workers.c (workers), sched_retry.c,
 * sched_affinity.c. Knows nothing of processes, and does no I/O. */
#ifndef TINE_POOL_SCHED_PRIV_H
#define TINE_POOL_SCHED_PRIV_H

#include "base/prioq.h"
#include "sched.h"

/* A key that is remembered, and the worker that its jobs go to. */
typedef struct tine__affine {
    uint64_t key;
    tine__sched_worker *worker; /* NULL: none yet, or no more */
    size_t open;                /* jobs that have not ended */
    size_t handed;              /* of those handed over, to that worker */
    size_t delayed;            /* of those that are delayed: the others wait for them */
    struct tine__affine *next; /* in the same slot */
    struct tine__affine *older, *newer;
    struct tine__affine *next_of_worker, *prev_of_worker;
    tine__prioq
        parked; /* jobs that wait for a worker on its way out, or a delayed one */
    size_t at_parking;
} tine__affine;

typedef struct tine__affinity {
    tine__affine **slots;
    size_t n, nslots;
    tine__affine *oldest, *newest;
} tine__affinity;

struct tine__sched {
    tine__sched_config config;
    uint64_t random, orders, uses;
    tine__prioq queue; /* jobs that any worker may take */
    size_t nqueued;    /* all that are not handed over */
    size_t
        nlater; /* of those: that are delayed, or wait for one of their key that is */
    size_t nhanded;
    tine__prioq delayed; /* due first */
    size_t load;         /* most that is handed to one now */
    uint64_t pace;       /* PACE times the moving average of the jobs' times, usec */
    size_t streak;       /* short jobs since load was changed */
    bool was_full;
    tine__affinity keys;
    tine__sched_job *orphans; /* pinned ones of workers that have gone */

    size_t nworkers, nstarting, nready, nretiring; /* nready: those that take jobs */
    size_t nbusy;                                  /* of all: with a load */
    size_t nreplacing;                             /* replacements that start */
    size_t nowed;        /* workers to be started for those that are spent */
    tine__prioq parking; /* keys with jobs parked: the best job first */
    tine__prioq free;    /* ready, load below the limit: least loaded first */
    tine__prioq waited;  /* jobs wait for them alone: the best job first */
    tine__prioq hungry;  /* of those: may be given one now */
    tine__prioq held; /* busy ones that take no more, for a job that is to run alone */
    tine__prioq idle; /* ready, no load: idle longest first */
    tine__prioq loaded;  /* load above 1: longest at its job first */
    tine__prioq ages;    /* ready: by when they are too old */
    tine__prioq due;     /* to be replaced: longest due first */
    tine__prioq leaving; /* retiring, without jobs: to be stopped */

    int64_t waiting_since; /* no idle worker has been there for a job; -1: one was */
    int64_t last_start, last_stop;
    size_t burst, starts; /* left of those due now; as many as there were last time */
    int64_t burst_usec;   /* when they were due */
    bool closed;

    unsigned failures;  /* since the last job that was done well */
    unsigned losses;    /* ready ones killed, since then */
    unsigned shortages; /* since the last worker that was ready */
    int64_t next_start;
    bool broken, probing, tell_broken; /* probing: one worker is tried */
    int64_t retry_at, retry_usec;      /* 0: no job was done well since it broke last */
};

/* sched_affinity.c */
int tine__affinity_open(tine__affinity *k);
void tine__affinity_free(tine__affinity *k);
void tine__parked_init(tine__prioq *parked); /* sched.c */
/* The entry for a key, made if need be; NULL: no memory. */
tine__affine *tine__affinity_get(tine__affinity *k, uint64_t key);
tine__affine *tine__affinity_find(const tine__affinity *k, uint64_t key);
/* Its jobs go to w from now on; NULL: to nobody. */
void tine__affinity_bind(tine__affine *e, tine__sched_worker *w);

/* Parks a job until the worker that has others of its key has done them, or delayed ones are
 * due. */
int tine__sched_park(tine__sched *s, tine__affine *e, tine__sched_job *job);
void tine__sched_unpark(tine__sched *s, tine__affine *e, tine__sched_job *job);
/* Those that were parked go on, if nothing holds them up any more. */
void tine__sched_release(tine__sched *s, tine__affine *e);
/* The job, if it has a key, is delayed: others of the key that wait are not to overtake it. */
void tine__sched_hold_key(tine__sched *s, const tine__sched_job *job);
void tine__sched_let_key_go(tine__sched *s, const tine__sched_job *job);

/* sched_retry.c */
bool tine__sched_due_before(const void *a, const void *b);
/* Takes a delayed job out of those. */
void tine__sched_undelay(tine__sched *s, tine__sched_job *job);
/* Those whose time has come wait from now on like all others. */
void tine__sched_begin_due(tine__sched *s, int64_t now);
/* A job that is to run alone, and waits nowhere, is to wait for a worker; there is one that has
 * room. e: of its key, or NULL. */
int tine__sched_set_apart(tine__sched *s, tine__affine *e, tine__sched_job *job);
/* One that waits for a busy worker goes to an idle one, unless there is a better, any. */
void tine__sched_move_apart(tine__sched *s, const tine__sched_job *any);

/* sched_next.c: of those that take one more job; NULL: none does. */
tine__sched_worker *tine__sched_least_loaded(const tine__sched *s);

/* sched.c */
/* The one that goes first, of two that may be NULL. */
tine__sched_job *tine__sched_better(tine__sched_job *a, tine__sched_job *b);
void tine__sched_hand(tine__sched *s, tine__sched_job *job, tine__sched_worker *w,
                      int64_t now);
bool tine__sched_before(const tine__sched_job *a, const tine__sched_job *b);
/* The job waits for w alone. */
int tine__sched_wait_for(tine__sched *s, tine__sched_worker *w, tine__sched_job *job);
/* Takes a queued job out of where it waits. */
void tine__sched_unqueue(tine__sched *s, tine__sched_job *job);
/* It has come back from its worker; ok as tine__sched_done has it. */
void tine__sched_came_back(tine__sched *s, tine__sched_job *job, bool ok, int64_t now);
/* Counts it as queued, where it waits already. */
void tine__sched_count_queued(tine__sched *s, tine__sched_job *job);
/* The job is no concern of the scheduler any more. */
void tine__sched_forget_job(tine__sched *s, const tine__sched_job *job);
bool tine__sched_takes_jobs(const tine__sched_worker *w);
/* Puts a queued job where it waits. */
int tine__sched_route(tine__sched *s, tine__sched_job *job);
/* As few as ever, where it is found out: what dies takes the time of those behind it. */
void tine__sched_lower_load(tine__sched *s);
/* It is not handed over any more. */
void tine__sched_unhand(tine__sched *s, tine__sched_job *job);
/* Jobs that wait for w alone are to wait for others. */
void tine__sched_disperse(tine__sched *s, tine__sched_worker *w);

/* sched_workers.c: w's place in all queues, after anything has changed. */
void tine__sched_place(tine__sched *s, tine__sched_worker *w);
/* What is to be done about workers. */
int64_t tine__sched_workers_when(const tine__sched *s, int64_t now);
bool tine__sched_workers_next(tine__sched *s, int64_t now, tine__sched_action *action);
/* Too many since a resize: those that work take no more. */
void tine__sched_trim(tine__sched *s);
void tine__sched_failed(tine__sched *s, int64_t now);
/* It takes no more jobs. */
void tine__sched_leave(tine__sched *s, tine__sched_worker *w);

#endif
