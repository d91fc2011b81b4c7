/* What the layers above see of processes beside tine.h: rpc and pool take processes over, and observe
 * them. Knows nothing of calls, and nothing of what carries a process (transport.h). What is in a
 * handle is in proc.h, for the files of this folder. */
#ifndef TINE_PROCESS_PROCESS_H
#define TINE_PROCESS_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "loop/loop.h"
#include "replay.h"
#include "tine.h"
#include "transport.h"
#include "wire/figures.h"

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

/* A failure that is nobody's: to the host's on_error, else to stderr. notify.c */
void tine__host_fault(tine_host *host, const tine_error *err);

/* ------------------------------------------------------------------ taking it over */

/* Queues SERVE with this body and memfd fd (borrowed), consumes p, and observes it. As
 * tine_proc_run otherwise; its own activity is nothing to wait for, and its whole group goes when
 * it ends. -TINE_EFAR: it is where no memory can be shared. */
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
/* Whether arg observes it, and its end is not known. */
bool tine__proc_is_observed(const tine_proc *p, const void *arg);
/* What callbacks of its output get. */
void tine__proc_set_line_arg(tine_proc *p, void *arg);
/* How to make another like it, taken out of it. */
tine__replay *tine__proc_take_replay(tine_proc *p);

/* ------------------------------------------------------------------------- asking */

tine_host *tine__proc_host(const tine_proc *p);
/* Commands queued so far, and whether so many have been carried out by a process that is there. */
uint64_t tine__proc_commands(const tine_proc *p);
bool tine__proc_has_done(const tine_proc *p, uint64_t commands);
/* What the system says of its memory; mappings: also what takes a walk over its page tables. */
void tine__proc_memory(const tine_proc *p, bool mappings, tine_memory *m);
/* Whether it, or one that it was forked from, was sent descriptors. */
bool tine__proc_was_sent_fds(const tine_proc *p);

/* ------------------------------------------------------------------------ telling */

/* Between these p stays, and takes no turn, whatever callbacks do. */
void tine__proc_hold_still(tine_proc *p);
void tine__proc_let_go(tine_proc *p);
/* Hears what it has said, or has been said of it, already. */
enum tine__heard tine__proc_hear(tine_proc *p);
/* Delivers what it has written so far. */
void tine__proc_read_output(tine_proc *p);
/* Signals p's process group, exactly: also when p itself has ended. */
int tine__proc_signal_group(tine_proc *p, int signo);
/* Signals p if that takes one system call; without a word otherwise. */
void tine__proc_nudge(tine_proc *p, int signo);

#endif
