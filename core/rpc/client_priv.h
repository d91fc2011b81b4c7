/* What the files of the client share: client.c (life), client_send.c (frames out), client_read.c
 * and client_frames.c (frames in), deadline.c (deadlines), traceback.c (questions),
 * client_facts.c. Knows nothing of owners but their table of functions. */
#ifndef TINE_RPC_CLIENT_PRIV_H
#define TINE_RPC_CLIENT_PRIV_H

#include <sys/queue.h>

#include "client.h"
#include "loop/flow.h"

/* A question for a traceback. */
typedef struct tine__trace {
    LIST_ENTRY(tine__trace) link;
    tine_text_cb cb;
    void *arg;
    uint64_t number;
    int64_t asked_usec;
    bool idle; /* nothing ran: it is answered already */
} tine__trace;

/* Where in `out` a frame begins with which descriptors go. */
typedef struct tine__fd_mark {
    struct tine__fd_mark *next;
    size_t at;
    tine__fds *set;
    size_t first, n;
} tine__fd_mark;

/* Its life: made -> given (the socket) -> ready -> closed, killed, eof, in any order -> the
 * process has ended: `gone`. */
struct tine__client {
    const tine__rpc_config *config;
    const tine__client_ops *ops;
    void *owner, *tag;
    LIST_ENTRY(tine__client) busy; /* while it has calls */
    tine_proc *proc;               /* NULL once it has ended */
    pid_t pid;
    tine__region region;
    uint64_t before;    /* commands that p is to carry out before it serves */
    int64_t began_usec; /* the time for getting ready runs since then; 0: not yet */

    int fd; /* -1 before it is given */
    tine_io *read_io, *write_io;
    tine__flow flow;
    tine__buf out; /* frames, of which `sent` bytes are sent */
    size_t sent;
    uint64_t nsends;
    tine__fd_mark *fd_marks; /* of out, in order */
    tine__inbox box;
    tine__buf in;      /* the beginning of a frame */
    uint64_t received; /* bytes of the stream so far */
    size_t ask;        /* bytes to read at a time, 0: the most */
    size_t nframes;    /* no answers, since it was readable last */
    tine_str *strs;    /* results taken apart */
    size_t max_strs;

    tine_job *first, *last; /* handed over and not ended, by serial */
    size_t load;
    uint64_t handed, answered; /* serials: the last ones; answered: sync only */
    uint64_t seen;             /* the highest serial that the page said had started */
    int64_t
        turn_usec; /* sync: when it could have begun with its first call, or skipped it */
    uint64_t recalled[TINE__WINDOW / 64]; /* by serial: SKIPPED is expected */
    size_t nrecalled;
    tine_job **table; /* async: by serial */
    size_t ntable;
    tine_job *doomed; /* recalled to be ended; told in the next turn */

    tine__task flush_task, deferred_task;
    tine_timer *timer;
    int64_t timer_at;
    uint64_t timed; /* sync: the serial of the call whose deadline was looked at last */
    int64_t timed_usec;              /* when that started */
    LIST_HEAD(, tine__trace) traces; /* the last one first */
    bool asked;                      /* there are some: holds the loop */
    uint64_t ntraces;
    uint64_t marks[3]; /* number of the job that writes to stdout and stderr */
    uint64_t *ids; /* of the last WINDOW calls, by serial; NULL: output is not caught */

    uint64_t killed_for; /* the serial of the job that it was killed for, or 0 */
    bool retired;        /* it has said so */
    bool ready, closed, shut, killed, reading, flushing_later;
    bool said_end; /* async: END is sent; the socket is shut when nothing is open */
    bool garbled;  /* its page holds what cannot be */
    bool promoted; /* the worker has said so, its last word */
    int64_t promoted_usec; /* when it was asked to, 0: it was not */
    int64_t eof_usec;      /* when the worker closed its end, 0: not yet */
    tine__cause *cause;    /* why it fails, known before it has ended */
};

/* client_frames.c */
typedef struct tine__client_frame {
    tine__call_head head;
    const unsigned char *body; /* the byte behind it is ours to write to */
} tine__client_frame;

void tine__client_take_frame(tine__client *c, const tine__client_frame *f);

/* client_read.c */
void tine__client_readable(void *arg, tine_io *io, int events);
/* The turn of one that is held back. */
void tine__client_turn(void *arg);
void tine__client_unwatch(tine__client *c);
/* Takes what is left in the socket and the ring of a dead worker. */
void tine__client_drain(tine__client *c);

/* client.c */
void tine__client_broken(tine__client *c, const char *what);
/* Takes a job out of the lists. */
void tine__client_unlink(tine__client *c, tine_job *job);
tine_job *tine__client_find(const tine__client *c, uint64_t serial);

/* client_send.c */
/* Queues a frame, which is sent in this turn of the loop. */
int tine__client_put(tine__client *c, int type, uint64_t serial, const void *body,
                     size_t len);
/* Queues the frames that bring a job's descriptors. Where one fails, the worker drops those before
 * it. */
int tine__client_put_fds(tine__client *c, tine__fds *set, uint64_t serial);
void tine__client_flush(tine__client *c);
void tine__client_flush_task(void *arg); /* the same */
/* Descriptors that were to be sent will not be. */
void tine__client_drop_fds(tine__client *c);

/* deadline.c */
/* Sees that the timer fires at that time or before. */
void tine__client_wake_at(tine__client *c, int64_t usec);
/* Signals the worker to look at what its page asks of it, if that is known to be it. */
void tine__client_nudge(tine__client *c);
/* The serial of the last call that has started. A page that takes back what it has said, or tells of
 * calls that nobody has handed over, ends its worker. */
uint64_t tine__client_started(tine__client *c);
/* Async: a call is about to take this one's place in `starts`. */
void tine__client_note_start(tine__client *c, uint64_t serial);
/* Ends a job for the reason it was stopped for; it is unlinked. */
void tine__client_end_stopped(tine__client *c, tine_job *job);
/* Tells of jobs that were taken back to be ended, and of answered questions. */
void tine__client_tell_deferred(void *arg);

/* traceback.c */
/* The worker has answered all questions up to that number. */
void tine__client_told_trace(tine__client *c, uint64_t number, tine_str text);
/* Nothing ran when those up to that number were asked. */
void tine__client_tell_idle(tine__client *c, uint64_t last);
/* When the first question that has time left will have none; INT64_MAX: there is none. */
int64_t tine__client_traces_due(const tine__client *c, int64_t now);
/* Gives up those that have no time left. c may be gone. */
void tine__client_expire_traces(tine__client *c, int64_t now);

#endif
