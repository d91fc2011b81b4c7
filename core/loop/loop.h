/* The loop of a host: watchers, timers, signals, and the turns in which what was posted is done.
 * Knows nothing of processes and calls, whose layers give it what it is to call; their own parts of a
 * host are named here, and nothing more. */
#ifndef TINE_LOOP_LOOP_H
#define TINE_LOOP_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "base/clock.h"
#include "base/owner.h"
#include "tine.h"

struct event_base;

/* Something that can be looked at without asking libevent, as long as that is worth waiting awake
 * for. */
typedef struct tine__look {
    bool (*is_worth)(const tine_host *host);
    /* Takes what is there, and returns whether there was any: not what only promised to be. */
    bool (*take)(tine_host *host);
} tine__look;

/* What all layers know of a host; the rest is in their own parts. */
struct tine_host {
    tine__owner owner; /* the process that made it; in a fork of that, nothing works */
    bool stopped;      /* by tine_host_stop: what is left is told in the next run */
    int64_t now;       /* see tine__host_now */
    size_t nbusy;      /* workers that owe answers: others take small bites meanwhile */
    size_t nbusy_long; /* of these: who sends all the time, see flow.h */
    uint64_t happened; /* callbacks, and what was read, so far */

    struct tine__loop *loop; /* each known to its own layer's files alone */
    struct tine__local_host *local;
    struct tine__process_host *process;
    struct tine__rpc_host *rpc;
    struct tine__pool_host *pool;
};

/* Something to be done soon, in the loop: part of what it is about. */
typedef struct tine__task {
    void (*run)(void *arg);
    void *arg;
    STAILQ_ENTRY(tine__task) link;
    bool posted;
} tine__task;

/* loop.c */
/* turn: what is done when tine__loop_wake has asked for it, before the tasks that were posted. */
int tine__loop_open(tine_host *host, struct event_base *base,
                    void (*turn)(tine_host *host));
void tine__loop_close(tine_host *host);
/* While *holds is true, which is set to on, there is something to wait for: the loop goes on. */
void tine__loop_hold(tine_host *host, bool *holds, bool on);
/* Has it look there before it sleeps. */
void tine__loop_look(tine_host *host, const tine__look *look);
/* Whether there is one CPU only: who waits awake then keeps others from working. */
bool tine__loop_is_alone(const tine_host *host);
/* Makes the loop take a turn soon. */
void tine__loop_wake(tine_host *host);
/* Whether the turn has something to do, which the loop is to run on for. */
void tine__loop_expect(tine_host *host, bool turn);
/* A watcher or timer that is nothing to wait for. */
int tine__io_internal(tine_host *host, tine_io **out, int fd, int events, tine_io_cb cb,
                      void *arg);
int tine__timer_internal(tine_host *host, tine_timer **out, int64_t after_usec,
                         tine_timer_cb cb, void *arg);

/* Stops watching, or begins again: 0 or -ENOMEM. */
int tine__io_watch(tine_io *io, bool on);
/* In place of a timerfd: calls tine__timers_due in so many microseconds, or some more. */
int tine__loop_alarm_open(tine_host *host);
void tine__loop_alarm(tine_host *host, int64_t usec);

/* timer.c */
void tine__timers_due(tine_host *host);
int tine__timers_open(tine_host *host);
void tine__timers_close(tine_host *host);
/* The loop is to wake up at that time, or before. */
void tine__timers_wake_at(tine_host *host, int64_t usec);

/* flow.c */
void tine__flows_close(tine_host *host);

/* turn.c */
/* CLOCK_MONOTONIC; host->now is what it was when it was asked last, which where many answers are
 * read at once is near enough. */
int64_t tine__host_now(tine_host *host);
/* Whether this is another process than the one that made the host. */
bool tine__stale(const tine_host *host);
/* Runs the task in this or the next turn of the loop, once. */
void tine__host_post(tine_host *host, tine__task *task);
void tine__host_unpost(tine_host *host, tine__task *task);
/* For the turn: runs what was posted. */
void tine__host_run_tasks(tine_host *host);
/* Has tine_host_free call it, once, as a layer's own part is to go: the last one added comes
 * first. Calls that have not ended are told so. */
void tine__host_at_close(tine_host *host, void (*closer)(tine_host *host));
void tine__host_call_closers(tine_host *host);

#endif
