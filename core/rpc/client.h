/* The host's end of one worker that serves calls: hands calls over, takes answers and
 * events in, keeps deadlines, and when the worker has died, finds out what became of each
 * call. It decides nothing about which call goes where: that is rpc.c's and pool.c's.
 *
 * Owner's callbacks run in the loop only. In each of them the owner may do anything to any
 * client, this one included: tine__client_free is for `gone` only, but kill and close are
 * for any time. It knows nothing of what carries the process. */
#ifndef TINE_RPC_CLIENT_H
#define TINE_RPC_CLIENT_H

#include "process/process.h"
#include "wire/frame.h"
#include "wire/passing.h"
#include "wire/scoreboard.h"

typedef struct tine__client tine__client;

/* A host's part. */
typedef struct tine__rpc_host {
    LIST_HEAD(, tine__client) busy; /* workers that owe answers */
    LIST_HEAD(, tine_rpc) rpcs;     /* all that live, for tine_host_free */
    tine__scoreboard *scoreboard;   /* made with the first worker, or NULL */
    struct tine__inbox
        *came;              /* descriptors of the answer or event that is being told */
    unsigned char *scratch; /* what is read from workers passes through here */
} tine__rpc_host;

/* What is the same for all workers of one owner: made once, borrowed by its clients. */
typedef struct tine__rpc_config {
    tine_host *host;
    tine_serialiser serialiser;
    bool async;
    int64_t grace_usec, spawn_timeout_usec; /* defaults filled in */
    tine__buf serve;                        /* the body of SERVE up to the offset */
    tine_output_cb on_output;               /* whether output is captured */
    tine_job *spare;                        /* freed jobs, kept for the next ones */
    size_t nspare;
} tine__rpc_config;

/* Copies what it needs of the options. Returns 0, -ENOMEM, -EMSGSIZE. */
int tine__rpc_config_init(tine__rpc_config *s, tine_host *host, const tine_func *func,
                          const tine_rpc_options *options);
void tine__rpc_config_free(tine__rpc_config *s);

/* Whose fault it was, as far as one can know, that the worker has died under a job. */
enum tine__blame {
    TINE__BLAME_OWN,   /* the job's */
    TINE__BLAME_OTHER, /* another one's: its code ran, or it was to be ended by force */
    TINE__BLAME_SHARED /* one of those that were open, this one included */
};

/* A call. */
struct tine_job {
    /* The client's, while it is handed over: */
    tine__client *at;      /* NULL: not handed over */
    uint64_t serial;       /* there */
    tine_job *next, *prev; /* calls handed to one client, by serial; else the owner's */
    tine_job *hash_next;   /* async */
    int64_t handed_usec;   /* when; CLOCK_MONOTONIC */
    int64_t stop_usec;     /* when it was told to end, 0: it was not */
    int64_t look_usec;     /* when to see whether it has */
    enum tine__reason reason;
    bool killed;    /* its worker was killed for it */
    bool last_look; /* its grace is over; what it has said meanwhile is heard first */
    bool recall_tried;      /* in vain; the worker may have skipped it all the same */
    enum tine__blame blame; /* where its worker has died under it */
    /* The owner's: */
    void *owner;
    /* Wherever it is. */
    void (*cancel)(tine_job *job);
    uint64_t id;
    tine_call_cb cb;
    void *arg;
    int64_t timeout_usec;         /* 0: none */
    int64_t queued_usec;          /* when it was made */
    int64_t started_usec;         /* async: there; 0: not yet, or nobody has asked */
    bool ending;                  /* rpc: nothing but its callback is left */
    struct tine__pool_part *pool; /* what a pool knows of it, or NULL */
    tine__fds *fds;               /* that go with it, or NULL */
    size_t room;                  /* of its memory */
    size_t len;                   /* of the payload */
    unsigned char payload[];      /* kept until the call has ended */
};

/* A job with the args serialised as the config has it, everything else zero. */
int tine__job_new(tine_job **out, tine__rpc_config *s, const tine_str *args, size_t n,
                  size_t extra);
/* The same without the args, which are only looked at: for one that will never be handed
 * over. */
int tine__job_new_bare(tine_job **out, tine__rpc_config *s, const tine_str *args,
                       size_t n, size_t extra);
/* Duplicates descriptors that are to go with the job, which has none yet. -EINVAL where no value
 * can stand for them; also negative: of what tine__fds_new says. */
int tine__job_fds(const tine__rpc_config *s, tine_job *job, const int *fds, size_t n);
void tine__job_free(tine__rpc_config *s, tine_job *job);

/* rpc.c: for a host that is to have rpcs or pools; more than once is fine. */
int tine__rpc_open(tine_host *host);

/* The times of a call, CLOCK_MONOTONIC; zeros where it never started or nobody knows. */
typedef struct tine__times {
    int64_t started_usec, run_usec;
} tine__times;

typedef struct tine__client_ops {
    /* init has returned. */
    void (*ready)(void *owner, tine__client *c);
    /* job, which is not the client's any more, has ended. err NULL: results. The owner
     * calls job->cb and frees the job. Also called for a job that ran when the worker died
     * (TINE_KIND_CRASH, TIMEOUT, CANCELLED, PROTOCOL). */
    void (*ended)(void *owner, tine__client *c, tine_job *job, const tine_error *err,
                  const tine_str *results, size_t n, const tine__times *times);
    void (*event)(void *owner, tine__client *c, tine_job *job, const tine_str *values,
                  size_t n);
    void (*retire)(void *owner, tine__client *c);
    /* As tine__client_promote asked for. The owner takes the process with
     * tine__client_release, or kills it. */
    void (*promoted)(void *owner, tine__client *c);
    /* The process has ended and every call that had started is through `ended`. unstarted:
     * those that had not, by serial, linked by next; the owner's again. why NULL: as it was
     * told to, code 0. The owner frees the client in it. */
    void (*gone)(void *owner, tine__client *c, tine_job *unstarted,
                 const tine_error *why);
    /* job_id 0: written outside of any. */
    void (*output)(void *owner, tine__client *c, uint64_t job_id, int stream,
                   const char *line, size_t len);
    /* Something went wrong in the worker that is of no open call. */
    void (*fault)(void *owner, tine__client *c, const tine_error *err);
} tine__client_ops;

/* Makes p serve: consumes it as tine_proc_run does. For output to be captured p must have
 * been forked with tine__client_stdio. Returns as tine_proc_run. */
int tine__client_new(tine_proc *p, const tine__rpc_config *s,
                     const tine__client_ops *ops, void *owner, tine__client **out);
/* Sets stdout and stderr of options for a process that tine__client_new will get. */
void tine__client_stdio(tine_proc_options *options, const tine__rpc_config *s);
/* For `gone`, and for tine_host_free, where the process has been dealt with: jobs are taken
 * out before with tine__client_take_all. */
void tine__client_free(tine__client *c);

/* Hands a job over. May be done before ready. Sent in this turn of the loop. -ENOMEM. */
int tine__client_give(tine__client *c, tine_job *job);
/* Sync: whether fewer than TINE__WINDOW are handed over. */
bool tine__client_has_room(const tine__client *c);
/* Takes a job back that has surely not started. Returns false if it may have. */
bool tine__client_recall(tine__client *c, tine_job *job);
/* The job is to end: an error in it now, SIGKILL after the grace. Its end comes through
 * `ended`; if it had not started, in the next turn. */
void tine__client_stop(tine__client *c, tine_job *job, enum tine__reason reason);
/* The same for one that has not started; false: it may have, and nothing is done. */
bool tine__client_withdraw(tine__client *c, tine_job *job);
/* No more calls will come: the worker exits when it has answered those it has. */
void tine__client_close(tine__client *c);
/* SIGKILL to the worker's process group. */
void tine__client_kill(tine__client *c);
/* client_promote.c: instead of closing: the worker, which has no calls, is to become a template.
 * Sync only. Returns 0 or -ENOMEM; `promoted` or `gone` will follow. */
int tine__client_promote(tine__client *c);
/* In `promoted`: the process is held as by tine__proc_hold, and the client freed. */
tine_proc *tine__client_release(tine__client *c, const tine__observer *observer,
                                void *arg);
/* Takes all jobs out, without a word: linked by next. */
tine_job *tine__client_take_all(tine__client *c);
/* traceback.c: every question is answered with err: for teardown. */
void tine__client_fail_traces(tine__client *c, const tine_error *err);
/* Asks what the worker runs now. cb is called once, in a later turn. */
int tine__client_traceback(tine__client *c, tine_text_cb cb, void *arg);

/* client_memory.c: what the worker (arg: its client) says of its memory; of its template's,
 * as that was when the worker was forked. */
void tine__client_figures(void *arg, tine__figures *f);
void tine__client_template_figures(tine__client *c, tine__figures *f);
/* What the system says of it, while it lives: as tine__proc_memory. */
void tine__client_memory(const tine__client *c, bool mappings, tine_memory *m);

/* client_read.c: has the host hear answers before it sleeps; at the end, when no client is left,
 * frees what clients share. */
int tine__clients_open(tine_host *host);
void tine__clients_close(tine_host *host);

pid_t tine__client_pid(const tine__client *c);
size_t tine__client_load(const tine__client *c);
bool tine__client_is_ready(const tine__client *c);
/* Whether a job that was handed over has started, by what the page says now. */
bool tine__client_has_started(tine__client *c, const tine_job *job);
/* The job that runs (async: the oldest), and since when; NULL if none. */
tine_job *tine__client_running(tine__client *c, int64_t *since_usec);
void *tine__client_tag(const tine__client *c); /* the owner's own */
void tine__client_set_tag(tine__client *c, void *tag);

#endif
