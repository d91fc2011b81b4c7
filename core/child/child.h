/* What the files of the child side share. A process of tine is one `tine__child`: its
 * command socket, the report channel, the interpreter, and the workers forked from it.
 * Knows of the host only what protocol.h says. */
#ifndef TINE_CHILD_CHILD_H
#define TINE_CHILD_CHILD_H

#include <lua.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "tine.h"
#include "wire/frame.h"
#include "wire/report.h"

/* A power of two. */
#define TINE__FIRST_WORKERS 16

typedef struct tine__worker {
    pid_t pid; /* 0: free */
    bool detached;
    bool blind; /* made when there was no epoll set to tell of its end */
    uint64_t id;
} tine__worker;

/* The workers that live, by pid: a hash table of open addressing. And what is known of their ends
 * without asking the system for each: see children.c. */
typedef struct tine__children {
    tine__worker *slots;
    size_t nslots, n;
    size_t nblind;
    bool deaf;                      /* user code has its own way with SIGCHLD */
    int ends;                       /* an epoll set of their pidfds, or -1 */
    volatile sig_atomic_t signaled; /* SIGCHLD came since all were looked at */
    volatile pid_t signaled_pid;    /* of whom the last one told */
    int64_t look_usec; /* when all are to be looked at; 0: there is no need */
    tine__worker first[TINE__FIRST_WORKERS]; /* the slots while they are enough */
    tine__worker *inherited; /* the parent's slots: see tine__children_forget */
} tine__children;

/* Where ps looks for the title: title.c. */
typedef struct tine__title {
    char *place; /* NULL: not found */
    size_t room, written;
    bool looked; /* for it */
} tine__title;

/* What the page that the host shares is told of the memory: memory.c. */
typedef struct tine__meter {
    struct tine__page *page;
    const struct tine__heap *heap; /* or NULL */
    unsigned seals;                /* as the page has it, failures included */
} tine__meter;

typedef struct tine__child {
    lua_State *L;
    int cmd;            /* -1 after run, and when the host has dropped us */
    int report;         /* -1 before HELLO */
    uint64_t id;        /* the host's name for us */
    uint64_t seq, told; /* commands carried out, and known to the host to be */
    bool detach;
    bool leads;                         /* a process group that tine made for it */
    volatile sig_atomic_t held, ending; /* see tine__hold */
    bool apart;  /* in a session that tine made: it has no terminal */
    bool named;  /* it was given a name of its own, to be kept when it runs */
    bool failed; /* nothing more is carried out; `why` is what later forks are told */
    tine_kind why_kind;
    char why[400];         /* in place: memory may be what is missing */
    sigset_t waiting_mask; /* while asleep: SIGCHLD gets through */
    tine__reader reader;
    tine__children workers;
    bool flushed;       /* no user code has run since stdio was flushed */
    void *random_state; /* of math.random, or NULL: then */
    /* Registry references: what was sent for the entry function, in order, and what will be
     * its socket. Made before the fork: a worker that runs asks for no memory of its own. */
    int args, sock;
    int randomseed; /* is the registry reference of math.randomseed */
    tine__title title;
    tine__meter meter;
} tine__child;

/* ending.c */
extern tine__child tine__self;
/* Ends the process, stdio flushed, nothing finalized. */
void tine__leave(int code) __attribute__((noreturn));
/* Flushes stdio, where anything may have been written since the last time. */
void tine__flush(tine__child *c);
/* The host has gone. Ends this process, with its workers and with all that they and it
 * have started, but for what is detached. */
void tine__end(void) __attribute__((noreturn));
/* The same in a signal handler. What it needs may be in the middle of a change: then it waits
 * for tine__release. */
void tine__end_unless_held(void);
#define tine__hold() (tine__self.held++)
void tine__release(void);
bool tine__host_is_gone(const tine__child *c);

/* report_send.c: reports. A host that is gone takes us with it. Where too many descriptors are in
 * flight, fd stays behind. */
void tine__report_send(tine__child *c, const tine__report *r, int fd);
void tine__report_send_failed(tine__child *c, uint64_t id, tine_kind kind,
                              int sys_errno, tine_str message, tine_str traceback);
/* The process has failed: it carries out nothing more. */
void tine__fail(tine__child *c, tine_kind kind, int sys_errno, const char *message,
                size_t len, const char *traceback, size_t traceback_len);
/* The same of a system call; err: errno. */
void tine__fail_system(tine__child *c, const char *what, int err);

/* The process was told to run: see protocol.h. */
void tine__channel_own(tine__child *c);
void tine__channel_leave(tine__child *c);

/* children.c */
/* Workers that end interrupt the sleep of the command loop, and nothing else. */
void tine__catch_sigchld(tine__child *c);
/* User code has run: it may have changed that. */
void tine__check_sigchld(tine__child *c);
/* Sees that the next tine__children_add finds room. Returns 0 or -ENOMEM. */
int tine__children_room(tine__children *w);
int tine__children_add(tine__children *w, pid_t pid, uint64_t id, bool detached);
void tine__children_init(tine__children *w);
/* In a new process: those were its parent's. */
void tine__children_forget(tine__children *w);
/* Before a fork: sees that the new one can be watched, if the system lets us. */
void tine__children_watch(tine__children *w);
/* In the new process, before it forgets them: has its parent watch pidfd, its own, or -1. */
void tine__children_join(const tine__children *w, pid_t self, int pidfd);
/* SIGCHLD came, and told of pid. */
void tine__children_signaled(tine__children *w, pid_t pid);
/* Milliseconds until tine__reap is to be called though nothing happens, or -1. */
int tine__children_wait_ms(const tine__children *w);
/* Reaps workers that have ended, ends what they have started, and reports how. Other children are
 * left alone. */
void tine__reap(tine__child *c);
/* From now on workers are reaped in a signal handler: the process runs the user's code. */
void tine__reap_by_signal(void);

/* fork.c */
/* Carries out a FORK frame. In the new process c is its own afterwards. */
void tine__fork(tine__child *c, tine__reader *frame);
/* Redirections as the flags of FORK and HELLO say; fds may be NULL. Returns 0 or a negative
 * errno. */
int tine__redirect(uint32_t flags, int *fds, size_t nfds);

/* interp.c: all that is done in the interpreter, protected. */
void tine__interp_open(tine__child *c);
/* As tine_serve, for a state whose memory is to come from a heap of ours. */
void tine__serve_in_heap(lua_State *L, int fd) __attribute__((noreturn));
void tine__interp_reseed(tine__child *c);
/* Carries out EVAL, REQUIRE, FDS or ARGS; an error ends in tine__fail. */
void tine__interp_command(tine__child *c, tine__reader *frame);
/* Carries out RUN. Returns the exit code. */
int tine__interp_run(tine__child *c, tine__reader *frame);

/* Pushes what run_args returns; clears it. */
int tine__push_run_args(lua_State *L);

/* memory.c: answers MEMORY. */
void tine__memory_tell(tine__child *c);
/* From now on the page tells of c's memory. */
void tine__memory_serve(tine__child *c);
/* A call has ended. */
void tine__memory_publish(tine__child *c);

/* rpc_server.c: carries out SERVE. */
void tine__serve_calls(tine__child *c, tine__reader *frame);

/* exec.c: exec(stdin, stdout, stderr, cwd, env, program, ...), program searched for in PATH:
 * replaces the process, or returns nil, err, and the process is as it was. Of the first three: nil
 * for what is there, "null", or a descriptor; env: nil, or a list of "NAME=VALUE", and "NAME" of
 * what is to be removed. The program gets descriptors 0 to 2 only, and default signals. */
int tine__exec(lua_State *L);

/* lookup.c: pushes the function of that name, or raises an error that says what is there. */
void tine__push_function(lua_State *L, const char *name, size_t len);
/* lookup.c: pushes what a file of templates/ returns, "tine.template.NAME". */
void tine__push_embedded(lua_State *L, const char *name);

/* title.c */
/* The environment's place may be written over: it has been moved. Only in our own main. */
void tine__title_own_environ(void);
void tine__title_set(tine__child *c, const char *name, size_t len);

#endif
