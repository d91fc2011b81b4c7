/* The host and what hangs on it, as the files of the host side share them:
 * loop.c (libevent) <- host.c (ids), reports.c (the report channel) <- process.c, birth.c,
 * stdio.c. */
#ifndef TINE_HOST_H
#define TINE_HOST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "chan.h"
#include "report.h"
#include "spin.h"
#include "tine.h"

struct event;
struct event_base;

struct tine_host {
    pid_t owner; /* the process that made it; in a fork of that, nothing works */
    const unsigned char *mark; /* 0 there; see host.c */
    struct event_base *base;
    bool own_base, running, stopped, draining, in_turn;
    /* Of a borrowed base: pending while there is something to wait for; see loop.c. */
    struct event *hold_event, *tick_event;
    bool holds;
    struct event *later_event; /* active when `later` has entries */
    tine_proc *later;          /* processes that want tine__proc_turn */
    tine_proc *later_tail;
    size_t nactive; /* timers, watchers and busy processes */

    int report_rx, report_tx; /* children get duplicates of tx */
    pid_t strange_pid;        /* who has reported of nobody last, and how often */
    unsigned strange;
    tine_io *report_io;
    void *report_buf;
    tine_host *aside; /* of another that went with a fork */

    tine_proc **slots; /* processes by the low half of their id */
    size_t nslots;
    uint32_t free_hint;
    unsigned depth;  /* callbacks of libevent's that are under way */
    uint64_t secret; /* of the high half: nobody can guess whom a report may be about */
    uint64_t nborn;

    enum { PIDFDS_UNKNOWN, PIDFDS_GIVEN, PIDFDS_REFUSED } pidfds; /* by the system */
    int sweeper_fd, sweeper_pidfd; /* see sweeper.h; or -1 */

    struct tine__setting *setting; /* that template_proc was made in, or NULL */
    tine_proc *template_proc;      /* the default template, or NULL */
    bool early;                    /* template_proc is the program's own fork */
    char *interpreter, *found_interpreter, *lua_path, *lua_cpath;
    tine_error_cb on_error;
    void *arg;
    int timer_fd; /* or -1: where the system refuses one, there is the alarm */
    tine_io *timer_io;
    struct event *alarm;
    int64_t armed_at;          /* what the timerfd is set to; 0: nothing */
    struct tine__caller *busy; /* workers that owe answers */
    size_t nbusy;
    uint64_t happened;   /* callbacks of the loop so far */
    int64_t now;         /* see tine__host_now */
    int64_t polled_usec; /* when libevent has looked at everything last */
    tine__spin spin;
    bool spurious;     /* all that has happened is that it fired for nothing */
    tine_timer **heap; /* from 1; by time */
    size_t nheap, heap_size;
    uint64_t timer_order;
    tine_timer *timers; /* all that live, for tine_host_free */
    tine_io *ios;
    tine_signal *signals;

    struct tine__task *tasks, *tasks_tail; /* posted */
    struct tine__board
        *board;     /* made with the first worker that serves calls, or NULL */
    tine_rpc *rpcs; /* all that live, for tine_host_free */
    tine_pool *pools;
    struct tine__inbox
        *came;              /* descriptors of the answer or event that is being told */
    unsigned char *scratch; /* what is read from workers passes through here, or NULL */
};

/* Something to be done soon, in the loop: part of what it is about. */
typedef struct tine__task {
    void (*run)(void *arg);
    void *arg;
    struct tine__task *next;
    bool posted;
} tine__task;

/* An error that outlives the callback in which it arrived. */
typedef struct tine__cause {
    tine_error error;
    char text[]; /* of its strings */
} tine__cause;

/* A pipe from a process's stdout or stderr. */
typedef struct tine__capture {
    tine_proc *proc;
    int fd;
    tine_io *io;
    tine__buf line;
    size_t scanned;
    size_t ask; /* octets to read at a time, 0: the most */
    bool reading;
    tine_line_cb cb;
} tine__capture;

/* What a part of the library that has taken a process over (rpc, pool) hears of it, beside
 * the user's own callbacks, and before them. Any may be NULL. */
typedef struct tine__observer {
    /* As tine_fd_cb. */
    void (*given)(void *arg, tine_proc *p, int fd, const tine_error *err);
    void (*ready)(void *arg, tine_proc *p);
    /* Instead of being printed, where the user has no on_error. */
    void (*failed)(void *arg, tine_proc *p, const tine_error *err);
    /* p has ended or was never made; err NULL: code 0. cause: why it failed before, or NULL.
     * After this p is not the observer's any more. */
    void (*ended)(void *arg, tine_proc *p, const tine_error *err, const tine_exit *info,
                  const tine_error *cause);
    /* What its interpreter said of its memory last. */
    void (*figures)(void *arg, tine__figures *out);
} tine__observer;

/* The life of a process handle:
 *   born       the handle exists; its birth is queued at its parent (fork) or under way (exec)
 *   made       MADE or HELLO arrived: the process is there
 *   consumed   run or to_fd was queued; when all is written the socket goes to `fd_cb`
 *   dying      it is known to have failed or ended; `turn` will tell the callbacks
 *   ended      on_exit has been delivered
 * The struct goes when it is both closed by the user and ended. */
struct tine_proc {
    tine_host *host;
    uint64_t id;
    pid_t pid;
    int pidfd;
    int own_channel; /* where it reports now that it runs; -1: none */
    tine_io *pidfd_io; /* direct children and orphans: their end is not reported */
    tine_timer *timer; /* an answer is due */
    int hello_steps;   /* of the time for it, gone by */
    tine_timer *retry; /* a system that is short of something is tried again */
    tine_proc *parent; /* whose reports tell of our birth and end; NULL: nobody's */
    tine_proc *children, *next_sibling, *prev_sibling;

    tine__chan chan;
    tine_io *read_io, *write_io;
    uint64_t sent, done; /* commands queued, and known to be carried out */

    bool direct;  /* child of the host process itself: it reaps it */
    bool apart;   /* leads a session of its own */
    bool adopted; /* from_fd: somebody else reaps it */
    bool made, consumed, running, given, closed, dying, ended, detach;
    bool unheard;  /* its report channel was shut */
    bool sent_fds; /* it, or one that it was forked from, was sent descriptors */
    bool in_later, exit_late, error_late, was_busy, counted, blocked, eof;
    bool error_told, failed;
    bool hidden; /* the default template: no user has a handle of it */
    bool killed; /* by us, with a signal that hardly any process survives */
    int pending_kill;
    int asks; /* tries left to learn how it ended, see pidfd.c */
    int refs; /* callbacks under way */
    tine_proc *next_later;

    const tine__observer *observer;
    void *observer_arg;
    bool observer_ready, observer_told;
    bool held, dropped,
        forking; /* by a pool as its template: a close by the user waits for it */
    bool serves; /* its own activity is nothing to wait for: its calls are */
    bool spare;  /* outlives its parent; see TINE__FORK_SPARE */

    tine__cause *cause; /* why it failed; NULL also for want of memory, see `failed` */
    tine_exit info;
    char *name;
    tine__capture *captures[3];
    void *line_arg;

    tine_exit_cb exit_cb;
    void *exit_arg;
    tine_error_cb error_cb;
    void *error_arg;
    tine_ready_cb ready_cb;
    void *ready_arg;
    tine_fd_cb fd_cb;
    void *fd_arg;
    tine_idle_cb idle_cb;
    void *idle_arg;
    struct tine__question *questions; /* for its memory, in the order asked */
};

/* loop.c */
int tine__loop_open(tine_host *host, struct event_base *base);
void tine__loop_close(tine_host *host);
/* There is one more, or one less, to wait for. */
void tine__loop_count(tine_host *host, bool more);
/* Makes the loop call tine__host_turn soon. */
void tine__loop_wake(tine_host *host);
/* The same in its next round, when others have had their turn: what was activated by a callback
 * libevent runs before it looks at anything else. */
void tine__loop_wake_next(tine_host *host);
/* A watcher or timer that is nothing to wait for. */
int tine__io_internal(tine_host *host, tine_io **out, int fd, int events, tine_io_cb cb,
                      void *arg);
int tine__timer_internal(tine_host *host, tine_timer **out, int64_t after_usec,
                         tine_timer_cb cb, void *arg);

/* In place of a timerfd: calls tine__timers_due in so many microseconds, or some more. */
int tine__loop_alarm_open(tine_host *host);
void tine__loop_alarm(tine_host *host, int64_t usec);

/* timers.c */
void tine__timers_due(tine_host *host);
int tine__timers_open(tine_host *host);
void tine__timers_close(tine_host *host);
/* The loop is to wake up at that time, or before. */
void tine__timers_wake_at(tine_host *host, int64_t usec);

/* host.c */
/* CLOCK_MONOTONIC. */
int64_t tine__now_usec(void);
/* The same; host->now is what it was when it was asked last, which where many answers are read at
 * once is near enough. */
int64_t tine__host_now(tine_host *host);
/* A failure that is nobody's: to the host's on_error, else to stderr. */
void tine__host_fault(tine_host *host, const tine_error *err);
/* Runs the task in this or the next turn of the loop, once. */
void tine__host_post(tine_host *host, tine__task *task);
void tine__host_unpost(tine_host *host, tine__task *task);
/* rpc.c, pool.c: for tine_host_free. Calls that have not ended are told so. */
void tine__rpc_teardown(tine_rpc *rpc);
void tine__pool_teardown(tine_pool *pool);
/* caller_read.c: reads what workers say that they have sent, of TINE__HEARD at most. Returns whether
 * there was such. */
enum { TINE__HEARD = 64 };
bool tine__callers_hear(tine_host *host);
bool tine__stale(const tine_host *host);
/* Calls tine__proc_turn for all that asked for it. */
void tine__host_turn(tine_host *host);
int tine__host_add(tine_host *host, tine_proc *p);
void tine__host_remove(tine_host *host, tine_proc *p);
tine_proc *tine__host_find(tine_host *host, uint64_t id);
tine_proc *tine__host_find_pid(tine_host *host, pid_t pid);

/* reports.c */
int tine__reports_open(tine_host *host);
/* Reads reports that have arrived, at most `most`. Returns whether none is left. ALL: what is there
 * now; a socket holds no more. */
enum { TINE__REPORTS_ALL = 1024 };
bool tine__host_reports(tine_host *host, int most);
/* What p, which has ended, has said on a channel of its own. */
void tine__reports_last(tine_proc *p);
/* Takes note of those that have been made, and forgets what else was reported. */
void tine__host_take_made(tine_host *host);

/* process.c: memory, the command socket, the turn */
int tine__proc_alloc(tine_host *host, const tine_proc_options *options,
                     tine_proc **out);
void tine__proc_free(tine_proc *p);
void tine__proc_adopt(tine_proc *parent, tine_proc *child);
void tine__proc_leave_parent(tine_proc *p);
void tine__proc_free_watchers(tine_proc *p);
void tine__proc_later(tine_proc *p);
void tine__proc_turn(tine_proc *p);
/* Brings watchers and counts in line with the state. */
void tine__proc_update(tine_proc *p);
int tine__proc_flush(tine_proc *p);
/* Hands the socket over if it is due. */
void tine__proc_give(tine_proc *p);

/* fate.c: what becomes of it, and who is told */
void tine__proc_made(tine_proc *p, pid_t pid, int pidfd);
void tine__proc_did(tine_proc *p, uint64_t seq);
/* Remembers why p failed, if nothing was known before, and tells on_error. */
void tine__proc_failed(tine_proc *p, const tine_error *err);
/* p failed and is to be killed: it broke the protocol. */
void tine__proc_broken(tine_proc *p, const char *what);
/* p has ended, as wait() says; or was never made (pid 0). */
void tine__proc_ended(tine_proc *p, int status, const struct rusage *rusage);
void tine__proc_never(tine_proc *p, const tine_error *err);
int tine__proc_signal(tine_proc *p, int signo);
/* For the turn: the last that is heard of a dying p, and what was asked for too late. */
void tine__proc_finish(tine_proc *p);
void tine__proc_tell_late(tine_proc *p);

/* meter.c: a report that answers the first question, or is garbage. */
void tine__proc_told_memory(tine_proc *p, const tine__report *r);
/* Answers what needs no answer of p's. */
void tine__proc_answer_memory(tine_proc *p);
/* p has ended. */
void tine__proc_refuse_memory(tine_proc *p, const tine_error *err);
void tine__proc_free_questions(tine_proc *p);

/* command.c: queues a frame. Takes fds. */
int tine__proc_put(tine_proc *p, int type, const tine_str *parts, size_t nparts,
                   const int *fds, size_t nfds);

/* Queues SERVE with this body and memfd fd (borrowed), consumes p, and observes it. As
 * tine_proc_run otherwise; p->serves is set, and its whole group goes when it ends. */
int tine__proc_serve(tine_proc *p, const tine_str *parts, size_t nparts, int fd,
                     const tine__observer *observer, void *arg);
/* Makes p the template of a pool: consumed for the user, but for us: fork only. */
int tine__proc_hold(tine_proc *p, const tine__observer *observer, void *arg);
/* A worker that served has become a template, fd is its command socket again: held. */
void tine__proc_reclaim(tine_proc *p, int fd, const tine__observer *observer,
                        void *arg);
/* Gives it up again: it ends as after tine_proc_close. Its end is still observed. */
void tine__proc_unhold(tine_proc *p);
/* A worker or a spare template of a held p; the caller closes *out as any other handle. */
int tine__proc_fork_held(tine_proc *p, const tine_proc_options *options, bool spare,
                         tine_proc **out);
/* Stops observing. */
void tine__proc_ignore(tine_proc *p);
/* Signals p's process group, exactly: also when p itself has ended. pidfd.c. */
int tine__proc_signal_group(tine_proc *p, int signo);

/* endings.c, without a word to anybody: */
/* Kills and reaps p if it is our own child. */
void tine__proc_end_direct(tine_proc *p);
/* Kills all that are not detached, with all that they have started. */
void tine__host_end_procs(tine_host *host);

/* pidfd.c */
/* Watches the pidfd of a process whose end nobody reports. */
int tine__proc_watch(tine_proc *p);
/* Signals p, which has a pidfd. Returns 0 or a negative errno. */
int tine__pidfd_signal(const tine_proc *p, int signo);
/* A pidfd above 2, or a negative errno. */
int tine__pidfd_open(pid_t pid);
/* Whether the system refuses them: then a process's number is the next best, which is its own until
 * its template has reaped it, and we are told that at once. */
bool tine__pidfds_refused(tine_host *host);
/* How a process ended that somebody else has reaped, as wait() says; -1 if nobody knows. */
int tine__pidfd_status(const tine_proc *p);

/* cause.c */
tine_error tine__error_cancelled(void);
tine__cause *tine__cause_new(const tine_error *err);
/* An error of kind "system"; the text is in the caller's buffer. */
tine_error tine__error_system(int err, char *buf, size_t size, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* How a wait status reads, e.g. "was killed by signal 11 (SIGSEGV)". */
void tine__status_text(int status, char *buf, size_t size);

/* stdio.c */
int tine__capture_open(tine_proc *p, int n, const tine_stdio *how, int *write_end);
/* Delivers what has been written so far, up to what a pipe holds. */
void tine__captures_read(tine_proc *p);
/* Delivers what is left and closes. */
void tine__captures_close(tine_proc *p, bool deliver);

#endif
