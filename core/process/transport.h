/* The seam between a process's handle and what carries it. A transport makes processes, takes
 * commands to them, signals them, hands their sockets over, and tells what becomes of them. A
 * handle knows its transport by this table, and nothing of descriptors of processes, wait statuses
 * and the system; a transport knows nothing of callbacks, of who observes, and of calls. The
 * transport for processes below this kernel is local/. */
#ifndef TINE_PROCESS_TRANSPORT_H
#define TINE_PROCESS_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "tine.h"
#include "wire/figures.h"

typedef struct tine__transport tine__transport;
typedef struct tine__news tine__news;

/* What both sides know of a process: the first member of what a transport keeps of it. */
typedef struct tine__link {
    const tine__transport *transport;
    const tine__news *news;
    tine_host *host;
    tine_proc *proc; /* whose it is; for callbacks of the user's, which are told it */
    /* What the handle says: */
    struct tine__link *parent; /* whose process it was forked from, while both live */
    const char *name;          /* or NULL */
    void *line_arg;            /* for the callbacks of its output */
    int refs; /* callbacks under way: as long as there are any, nothing is freed */
    bool detach;
    bool spare; /* outlives its parent; see TINE__FORK_SPARE */
    bool
        over; /* nobody wants news of it any more: its end, or that it is never made, is known */
    /* What the transport says: */
    bool made;
    bool shut; /* nobody reads its commands any more */
    pid_t pid; /* 0: not known */
} tine__link;

/* How far a transport has read what its processes said: all of it; a process has ended, and how
 * will be told; there is more. */
enum tine__heard { TINE__HEARD_ALL, TINE__HEARD_END, TINE__HEARD_SOME };

/* To whom a signal goes: to the process; to all of its group, also when it has ended itself; to the
 * process, where that takes nothing but a system call. */
enum tine__target { TINE__TO_ONE, TINE__TO_GROUP, TINE__TO_ONE_AT_ONCE };

/* Down. Errors are negative errnos. None of these calls back, but for those that say so. */
struct tine__transport {
    size_t
        size; /* of what it keeps of a process, of which the link is zeroed but for its host, its
                  * news and what the handle says */
    bool far; /* no descriptor can go there, and no memory be shared */

    /* A new process has a handle; how it comes into being is told by another function, of the
     * transport's own, or by fork. */
    int (*open)(tine__link *l);
    /* Queues a command for parent that makes l. Failures that concern l alone are told as news. */
    int (*fork)(tine__link *parent, tine__link *l, const tine_proc_options *options);

    /* Queues a command, of one of the types in wire/protocol.h. Takes fds. -TINE_EFAR: it cannot
     * take descriptors. */
    int (*put)(tine__link *l, int type, const tine_str *parts, size_t nparts,
               const int *fds, size_t nfds);
    /* Queues SERVE. memory (borrowed): what the worker is to share with the host. */
    int (*serve)(tine__link *l, const tine_str *parts, size_t nparts, int memory);
    bool (*is_sent)(const tine__link *l); /* nothing is queued */
    /* Sends what can be sent now; the rest goes by itself. May call back. */
    int (*flush)(tine__link *l);
    /* Whether commands may come, and whether it has carried out all there were: then an end of the
     * process that nobody else tells is found out, and what it should not say. Told before what
     * changes it is flushed. */
    void (*listen)(tine__link *l, bool commanded, bool idle);
    /* No more commands will come. All are sent. */
    void (*shut_down)(tine__link *l);
    /* Hands over the socket, whose other end the process will have when it has carried out what was
     * sent. Gives a descriptor; -EAGAIN: not yet, or never. */
    int (*give)(tine__link *l);
    /* Takes it back: the process takes commands again. Takes fd, also on failure. */
    int (*take_back)(tine__link *l, int fd);

    /* -EAGAIN: it is not there yet. -ESRCH: it has ended. May call back. */
    int (*signal)(tine__link *l, int signo, enum tine__target target);
    /* Reads what has been said already. Calls back. */
    enum tine__heard (*hear)(tine__link *l);
    /* Delivers what it has written to stdout and stderr so far; last: that was all. Calls back. */
    void (*output)(tine__link *l, bool last);
    /* What the system says of its memory, if it knows. mappings: also what takes a walk over its
     * page tables. */
    void (*memory)(tine__link *l, bool mappings, tine_memory *m);

    /* The process that it was forked from has ended. It is taken along, unless it is spare or
     * detached; its own end is told. May call back. */
    void (*orphan)(tine__link *l);
    /* It is over, and all is told. What it has started goes with it. */
    void (*close)(tine__link *l);
    /* The handle goes, too. */
    void (*free)(tine__link *l);
};

/* Up. All may call back, and free others; l itself stays while it has refs. After over none has an
 * effect. When a callback has stopped the loop (host->stopped), what is left is told in its next
 * run. */
struct tine__news {
    /* l->made and l->pid are set. */
    void (*made)(tine__link *l);
    /* So many commands have been carried out. */
    void (*did)(tine__link *l, uint64_t commands);
    /* A command, or the entry function, has failed. */
    void (*failed)(tine__link *l, const tine_error *err);
    /* It cannot be made. */
    void (*never)(tine__link *l, const tine_error *err);
    /* It did what it should not, or does not answer: it is killed for it. */
    void (*broken)(tine__link *l, const char *what);
    void (*hung)(tine__link *l, const tine_error *err);
    /* how->code < 0 and no signal: nobody knows. */
    void (*ended)(tine__link *l, const tine_exit *how);
    /* The answer to the question that was its command of that number. */
    void (*memory)(tine__link *l, uint64_t command, const tine__figures *f);
    /* Something can be sent, or done, that could not be before. later: in a later turn. */
    void (*turn)(tine__link *l);
    void (*later)(tine__link *l);
    /* Something is wrong with all of a host's. */
    void (*fault)(tine_host *host, const tine_error *err);
};

#endif
