/* What the files of the pool share:
 *   pool.c            public calls, a job's way, the turn in which decisions are carried out
 *   jobs.c            what jobs are told at their end
 *   retries.c         which are tried again
 *   workers.c         workers' lives
 *   template.c        the template, its spare, and reload
 *   stats.c           what can be asked
 * Which job goes to which worker, and how many there are, is sched.h's; how they are talked
 * to is client.h's. State first, the user's callback last. The pool is freed only in its own
 * task: in every other function it is alive until that returns. Knows of
 * processes what process.h says, and nothing of frames. */
#ifndef TINE_POOL_POOL_H
#define TINE_POOL_POOL_H

#include "base/histogram.h"
#include "rpc/client.h"
#include "sched.h"

/* Bytes of a message that is made of another. */
enum { CAUSE_MAX = 4096 };

#define TINE__POOL_CLOSED "the pool was closed"

/* Why a job ends that no worker has ended. */
enum tine__fate {
    TINE__FATE_OPEN,
    TINE__FATE_CANCELLED,
    TINE__FATE_REJECTED,
    TINE__FATE_NO_WORKERS,
    TINE__FATE_CLOSED,
    TINE__FATE_WORKER_GONE, /* of a broadcast */
    TINE__FATE_RETURNED,    /* too many have gone before it started */
    TINE__FATE_NO_MEMORY
};

/* What becomes of a job whose try has ended. */
enum tine__verdict {
    TINE__VERDICT_END,
    TINE__VERDICT_AGAIN, /* it has spent a try */
    TINE__VERDICT_DOUBT, /* it may have: that will turn out when it runs alone */
    TINE__VERDICT_FREE   /* again, for another job's fault */
};

/* How often a job is tried again, and when. */
typedef struct tine__retries {
    unsigned crash;
    tine_retry other;
} tine__retries;

/* The tries of a job that have failed. */
typedef struct tine__tries {
    unsigned crash, timeout, exception;
    unsigned doubts;   /* of its worker's death among others */
    tine__cause *last; /* how the last has failed, or NULL */
} tine__tries;

typedef struct tine__pool_worker tine__pool_worker;
typedef struct tine__source tine__source;

/* What a pool keeps of a job beside what the client needs. */
struct tine__pool_part {
    tine__sched_job s; /* first */
    tine_job *job;
    tine_event_cb on_event;
    const tine__retries *retries; /* the pool's, or its own */
    tine__tries *tries;           /* NULL: none has failed */
    unsigned returned; /* how often its worker has gone without its fault, or doing */
    enum tine__fate fate;
    bool cancelled; /* somebody has asked for it, whatever it was doing */
};

/* A template that is held: the one that workers come from now, its spare, one that is to take
 * over, or one on its way out. */
struct tine__source {
    LIST_ENTRY(tine__source) link;
    tine_pool *pool;
    tine_proc *proc;      /* NULL once it has ended */
    tine__replay *replay; /* what it was told; NULL: it cannot be made again */
    uint64_t generation;
    tine__figures figures; /* of its memory, as its last worker has found it */
    bool ours;             /* nobody else has a handle of it */
    bool proven;  /* a worker of it, or of what it was made like, has been ready */
    bool dropped; /* was told to go */
};

struct tine__pool_worker {
    tine__sched_worker s; /* first */
    LIST_ENTRY(tine__pool_worker) link;
    tine_pool *pool;
    tine__client *client;
    uint64_t jobs, generation;
    int64_t rss_usec; /* when its memory was looked at */
    bool canary;      /* the first of a reload: the scheduler does not know it yet */
    bool charged;     /* a job has died of it, or it of a job */
    bool killed;      /* by the pool, for a deadline or at its end */
};

/* A host's part. */
typedef struct tine__pool_host {
    LIST_HEAD(, tine_pool) pools; /* all that live, for tine_host_free */
} tine__pool_host;

struct tine_pool {
    LIST_ENTRY(tine_pool) link; /* of the host's */
    tine_host *host;
    tine__rpc_config config;
    tine__sched *sched;
    LIST_HEAD(, tine__pool_worker) workers;
    LIST_HEAD(, tine__source) sources;
    tine__source *current, *spare, *candidate; /* the last three may be NULL */
    tine__pool_worker *canary;
    tine__pool_worker
        *promoting;       /* it is to become a template when it has no jobs left */
    int64_t promote_usec; /* when it may be thought of next */
    tine_fault_cb reload_cb;
    void *reload_arg;
    tine_job *ending, *ending_last; /* to be told in the next turn */
    size_t pending;                 /* calls not ended */
    uint64_t ids, generation;

    tine_pool_options options; /* of rpc only what is no string */
    tine__retries retries;
    tine__cause *dead; /* workers can never be made again, but for a reload */
    bool is_dead;
    unsigned replayed; /* templates in a row of which no worker has been ready */
    tine__cause *last; /* why the last worker failed */
    tine__cause *told; /* what on_error was told of that last, and when */
    int64_t told_usec;
    tine__task task;
    tine_timer *timer;
    int64_t timer_at, kill_at; /* -1: never */
    bool closed, killed;
    bool holds;   /* the loop */
    bool rolling; /* old workers take jobs until the reload has replaced them */
    tine_gone_cb gone;
    void *gone_arg;

    struct {
        uint64_t calls, done, failed, rejected, cancelled, timeouts, retried;
        uint64_t started, crashed, recycled, replays;
    } n;
    tine__histogram wait, run;
};

/* pool.c */
void tine__pool_wake(tine_pool *pool);
/* Hands over what waits, where a worker has room. */
void tine__pool_assign(tine_pool *pool, int64_t now);

/* jobs.c */
/* A failure that belongs to no call. */
void tine__pool_fault(tine_pool *pool, const tine_error *err);
/* Workers cannot be made; the same again is not told within a minute. */
void tine__pool_fault_once(tine_pool *pool, const tine_error *err);
/* Notes whether the loop is to run on for its sake. */
void tine__pool_count(tine_pool *pool);
/* The job, which nobody has any more, ends in the next turn. */
void tine__pool_end_later(tine_pool *pool, tine_job *job, enum tine__fate fate);
/* Everything that is queued. */
void tine__pool_end_queued(tine_pool *pool, enum tine__fate fate);
/* Tells a job its end, and frees it. */
void tine__pool_end(tine_pool *pool, tine_job *job, const tine_error *err,
                    const tine_str *results, size_t n);
/* Tells those that are to end in this turn. */
void tine__pool_tell_ends(tine_pool *pool);
/* Why there are no workers, when they cannot be made; the text is in the caller's buffer. */
tine_error tine__pool_no_workers(const tine_pool *pool, char *text, size_t size);

/* retries.c */
/* Gives a new job its own, from what the call says. -ENOMEM. */
int tine__retries_take(tine_pool *pool, tine_job *job, const tine_call_options *o);
/* What is kept of it for that. */
void tine__retries_free(tine_pool *pool, tine_job *job);
/* Whether its worker has died under the job. */
bool tine__is_crash(const tine_error *err);
/* What becomes of a job that has ended with err. May ask the user. */
enum tine__verdict tine__retries_judge(tine_pool *pool, tine_job *job,
                                       const tine_error *err);
/* Queues it again; not for TINE__VERDICT_END. ok: its worker came out of it alive. */
void tine__retries_queue(tine_pool *pool, tine_job *job, enum tine__verdict verdict,
                         const tine_error *err, bool ok);
/* How often it was tried and has failed. */
unsigned tine__retries_count(const tine_job *job);
/* err as a job gets it that was tried so often: in the message of a crash or a timeout, which is cut
 * to fit into size, 100 at least, it says so; and why it is tried no more, if that is not NULL. */
tine_error tine__retries_tell(const tine_error *err, unsigned times, const char *why,
                              char *text, size_t size);

/* workers.c */
void tine__pool_start(tine_pool *pool, bool replacement);
/* The first worker of the candidate. Returns 0 or a negative errno. */
int tine__pool_start_canary(tine_pool *pool);
void tine__pool_kill_workers(tine_pool *pool);
void tine__pool_free_worker(tine__pool_worker *w);

/* template.c */
int tine__source_hold(tine_pool *pool, tine_proc *p, bool ours, tine__source **out);
void tine__source_drop(tine__source *source);
void tine__pool_make_spare(tine_pool *pool);
/* The canary is ready. */
void tine__pool_take_over(tine_pool *pool);
/* Promotes if the option says so. */
void tine__pool_consider_promotion(tine_pool *pool, int64_t now);
void tine__pool_promoted(tine_pool *pool, tine__pool_worker *w);
/* Whether workers of an older template take jobs. */
bool tine__pool_has_old(const tine_pool *pool);
/* The reload has ended: err NULL, all calls go to workers from it. */
void tine__pool_reloaded(tine_pool *pool, const tine_error *err);
void tine__pool_reload_failed(tine_pool *pool, const tine_error *err);
void tine__pool_free_sources(tine_pool *pool);

#endif
