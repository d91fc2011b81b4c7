/* A process's handle, as the files of this folder share it:
 * handle.c (memory, the turn) <- state.c (what becomes of it) <- notify.c (who is told);
 * command.c, memory.c (what is asked of it); spawn.c, replay.c (made, and made again); host.c.
 * Knows its transport by the table in transport.h. */
#ifndef TINE_PROCESS_PROC_H
#define TINE_PROCESS_PROC_H

#include "process.h"

/* A host's part. */
typedef struct tine__process_host {
    tine_proc *all;                /* handles that live */
    tine_proc *later, *later_tail; /* that want tine__proc_turn */
    tine_proc *template_proc;      /* the default template, or NULL */
    bool early;                    /* it is the program's own fork */
    struct tine__setting *setting; /* that it was made in, or NULL */
    tine_error_cb on_error;
    void *arg;
    tine_host *aside; /* of a host that went with a fork: another such */
} tine__process_host;

/* A handle's life. It goes when it is both ended and closed by the user. */
enum tine__proc_state {
    TINE__LIVES, /* or is to: its link knows whether it is made */
    TINE__DYING, /* it has ended, or cannot be made: `turn` will tell the callbacks */
    TINE__ENDED  /* they are told */
};

/* Whose it is. From FUNC on the socket goes to fd_cb when all is sent and the process is made. */
enum tine__proc_owner {
    TINE__OWNER_USER, /* who may command it */
    TINE__OWNER_POOL, /* as its template, which we command: a close by the user waits */
    TINE__OWNER_NOBODY, /* a pool has dropped it: no more commands come */
    TINE__OWNER_FUNC,   /* the function that it was told to run */
    TINE__OWNER_CALLS,  /* it serves: its own activity is nothing to wait for */
    TINE__OWNER_OTHER   /* who gets its socket by to_fd; or it had ended before */
};

/* Who is told what: notify.c. */
typedef struct tine__notify {
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
    const tine__observer *observer;
    void *observer_arg;
    bool error_told, observer_ready, observer_told; /* already */
    bool exit_late, error_late; /* asked for afterwards: told in the next turn */
} tine__notify;

struct tine_proc {
    tine__link *link; /* in the same piece of memory */
    tine_host *host;
    tine_proc *next, *prev; /* of the host's */
    tine_proc *parent; /* whose reports tell of our birth and end; NULL: nobody's */
    tine_proc *children, *next_sibling, *prev_sibling;

    tine__replay *replay; /* until it is consumed; NULL: it cannot be made again */
    uint64_t sent, done;  /* commands queued, and known to be carried out */

    enum tine__proc_state state;
    enum tine__proc_owner owner;
    bool given;    /* the socket was handed over */
    bool closed;   /* the user wants no more of it */
    bool sent_fds; /* it, or one that it was forked from, was sent descriptors */
    bool in_later, was_busy;
    bool holds;  /* the loop */
    bool failed; /* see cause */
    bool hidden; /* the default template: no user has a handle of it */
    bool killed; /* by us, with a signal that hardly any process survives */
    int pending_kill;
    tine_proc *next_later;

    tine__cause *cause; /* why it failed; NULL also for want of memory, see `failed` */
    tine_exit info;
    char *name;

    tine__notify notify;
    struct tine__question *questions; /* for its memory, in the order asked */
};

/* Whether it takes commands, the user's or ours. */
static inline bool tine__proc_is_commanded(const tine_proc *p)
{
    return p->owner == TINE__OWNER_USER || p->owner == TINE__OWNER_POOL;
}

static inline bool tine__proc_is_running(const tine_proc *p)
{
    return p->owner == TINE__OWNER_FUNC || p->owner == TINE__OWNER_CALLS;
}

/* make.c: a handle with that transport, and a process that make makes, which tells of its failure as
 * news and returns 0. As tine_proc_new otherwise. */
int tine__proc_make(tine_host *host, const tine__transport *transport,
                    int (*make)(tine__link *l, const tine_proc_options *options),
                    const tine_proc_options *options, tine_proc **out);
/* The same by exec, whatever the host's template is. */
int tine__proc_exec(tine_host *host, const tine_proc_options *options, tine_proc **out);
/* The two halves of it: before, and when its greeting is on its way. */
int tine__proc_begin(tine_host *host, const tine__transport *transport,
                     const tine_proc_options *options, tine_proc **out);
void tine__proc_begun(tine_proc *p);

/* handle.c: memory, the tree, the turn */
int tine__proc_alloc(tine_host *host, const tine__transport *transport,
                     const tine_proc_options *options, tine_proc **out);
void tine__proc_free(tine_proc *p);
/* Nobody will want another like it. */
void tine__proc_drop_replay(tine_proc *p);
void tine__proc_adopt(tine_proc *parent, tine_proc *child);
void tine__proc_leave_parent(tine_proc *p);
void tine__proc_later(tine_proc *p);
void tine__proc_turn(tine_proc *p);
/* Brings what the transport is to do, and counts, in line with the state. */
void tine__proc_update(tine_proc *p);
int tine__proc_flush(tine_proc *p);
/* Hands the socket over if it is due. */
void tine__proc_give(tine_proc *p);

/* state.c: what becomes of it */
extern const tine__news tine__proc_news;
void tine__proc_did(tine_proc *p, uint64_t seq);
/* Remembers why p failed, if nothing was known before, and tells on_error. */
void tine__proc_failed(tine_proc *p, const tine_error *err);
/* p failed and is to be killed: it broke the protocol. */
void tine__proc_broken(tine_proc *p, const char *what);
void tine__proc_never(tine_proc *p, const tine_error *err);
/* For the turn: the last that is heard of a dying p, and what was asked for too late. */
void tine__proc_finish(tine_proc *p);
void tine__proc_tell_late(tine_proc *p);

/* notify.c: who is told, each once */
void tine__tell_ready(tine_proc *p, const tine_error *err);
/* An error that no handler took is printed, unless another callback will carry it. */
void tine__tell_error(tine_proc *p, bool carried);
void tine__tell_exit(tine_proc *p);
void tine__tell_observer_ended(tine_proc *p);
/* run or to_fd will have no socket. */
void tine__tell_no_socket(tine_proc *p);
void tine__tell_no_memory(tine_proc *p);

/* memory.c: a report that answers the first question, or is garbage. */
void tine__proc_told_memory(tine_proc *p, uint64_t command, const tine__figures *f);
/* Answers what needs no answer of p's. */
void tine__proc_answer_memory(tine_proc *p);
/* p has ended. */
void tine__proc_refuse_memory(tine_proc *p, const tine_error *err);
void tine__proc_free_questions(tine_proc *p);

/* command.c */
/* Who queues a command: the user, or a part of the library that holds p for the user. */
enum tine__by { TINE__BY_USER, TINE__BY_HOLDER };
/* 0, or why p takes no commands. */
int tine__proc_usable(const tine_proc *p, enum tine__by by);
/* Queues a frame. Takes fds. */
int tine__proc_put(tine_proc *p, enum tine__by by, int type, const tine_str *parts,
                   size_t nparts, const int *fds, size_t nfds);
/* A command is queued. */
void tine__proc_count(tine_proc *p);

#endif
