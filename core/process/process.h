/* The host and what hangs on it, as the files of the host side share them:
 * loop.c (libevent) <- host.c (ids), report_channel.c (the report channel) <- socket.c, spawn.c,
 * stdio.c. */
#ifndef TINE_PROCESS_PROCESS_H
#define TINE_PROCESS_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "loop/loop.h"
#include "replay.h"
#include "tine.h"
#include "wire/chan.h"
#include "wire/report.h"

/* A pipe from a process's stdout or stderr. */
typedef struct tine__capture {
    tine_proc *proc;
    int fd;
    tine_io *io;
    tine__buf line;
    size_t scanned;
    size_t ask; /* bytes to read at a time, 0: the most */
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
    int own_channel;   /* where it reports now that it runs; -1: none */
    tine_io *pidfd_io; /* direct children and orphans: their end is not reported */
    tine_timer *timer; /* an answer is due */
    int hello_steps;   /* of the time for it, gone by */
    tine_timer *retry; /* a system that is short of something is tried again */
    tine_proc *parent; /* whose reports tell of our birth and end; NULL: nobody's */
    tine_proc *children, *next_sibling, *prev_sibling;

    tine__chan chan;
    tine__replay *replay; /* until it is consumed; NULL: it cannot be made again */
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

/* host.c */
/* A failure that is nobody's: to the host's on_error, else to stderr. */
void tine__host_fault(tine_host *host, const tine_error *err);
int tine__host_add(tine_host *host, tine_proc *p);
void tine__host_remove(tine_host *host, tine_proc *p);
tine_proc *tine__host_find(tine_host *host, uint64_t id);
tine_proc *tine__host_find_pid(tine_host *host, pid_t pid);

/* report_channel.c */
int tine__reports_open(tine_host *host);
/* Reads reports that have arrived, at most `most`. Returns whether none is left. ALL: what is there
 * now; a socket holds no more. */
enum { TINE__REPORTS_ALL = 1024 };
bool tine__host_reports(tine_host *host, int most);
/* What p, which has ended, has said on a channel of its own. */
void tine__reports_last(tine_proc *p);
/* Takes note of those that have been made, and forgets what else was reported. */
void tine__host_take_made(tine_host *host);

/* spawn.c: a new process by exec, whatever the host's template is. */
int tine__proc_exec(tine_host *host, const tine_proc_options *options, tine_proc **out);

/* socket.c: memory, the command socket, the turn */
int tine__proc_alloc(tine_host *host, const tine_proc_options *options,
                     tine_proc **out);
void tine__proc_free(tine_proc *p);
/* Nobody will want another like it. */
void tine__proc_drop_replay(tine_proc *p);
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

/* state.c: what becomes of it, and who is told */
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

/* memory.c: a report that answers the first question, or is garbage. */
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

/* stdio.c */
int tine__capture_open(tine_proc *p, int n, const tine_stdio *how, int *write_end);
/* Delivers what has been written so far, up to what a pipe holds. */
void tine__captures_read(tine_proc *p);
/* Delivers what is left and closes. */
void tine__captures_close(tine_proc *p, bool deliver);

#endif
