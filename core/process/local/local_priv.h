/* What the files of the local transport share: of each process its command socket, its pidfd and
 * what its output is read from, of each host the report channel and who may be meant on it. Knows
 * nothing of handles but what transport.h says. */
#ifndef TINE_PROCESS_LOCAL_LOCAL_PRIV_H
#define TINE_PROCESS_LOCAL_LOCAL_PRIV_H

#include "base/error.h"
#include "local.h"
#include "loop/loop.h"
#include "wire/chan.h"
#include "wire/report.h"

struct tine__capture;

typedef struct tine__local {
    tine__link link;
    uint64_t id; /* what it is called on the report channel */

    tine__chan chan;
    tine_io *read_io, *write_io;
    tine_timer *retry; /* a system that is short of something is tried again */
    bool commanded;    /* see listen */

    int pidfd;
    tine_io *pidfd_io; /* direct children and orphans: their end is not reported */
    int asks;          /* tries left to learn how it ended, see pidfd.c */
    tine_timer *timer; /* an answer is due */
    int hello_steps;   /* of the time for it, gone by */
    int own_channel;   /* where it reports now that it runs; -1: none */

    bool direct;  /* child of the host process itself, which reaps it */
    bool apart;   /* leads a session of its own */
    bool adopted; /* from_fd: somebody else reaps it */
    bool tidied;  /* who reaped it has ended what it has started */
    bool unheard; /* its report channel was shut */

    struct tine__capture *captures[3];
} tine__local;

/* A host's part. */
typedef struct tine__local_host {
    const tine__news *news;

    int report_rx, report_tx; /* children get duplicates of tx */
    tine_io *report_io;
    void *report_buf;
    bool draining;
    pid_t strange_pid; /* who has reported of nobody last, and how often */
    unsigned strange;

    tine__local **slots; /* processes by the low half of their id */
    size_t nslots;
    uint32_t free_hint;
    uint64_t secret; /* of the high half: nobody can guess whom a report may be about */
    uint64_t nborn;

    enum { PIDFDS_UNKNOWN, PIDFDS_GIVEN, PIDFDS_REFUSED } pidfds; /* by the system */
    int sweeper_fd, sweeper_pidfd; /* see sweeper.h; or -1 */
    bool sweeper_proven;           /* its interpreter has been heard of */

    char *interpreter, *found_interpreter, *lua_path, *lua_cpath;
} tine__local_host;

static inline tine__local *tine__local_of(tine__link *l)
{
    return (tine__local *)l;
}

/* The host's part of l's. */
static inline tine__local_host *tine__local_host_of(const tine__local *l)
{
    return l->link.host->local;
}

/* names.c: by their ids */
int tine__local_add(tine__local *l);
void tine__local_remove(tine__local *l);
tine__local *tine__local_find(const tine__local_host *h, uint64_t id);
tine__local *tine__local_find_pid(const tine__local_host *h, pid_t pid);

/* spawn.c */
int tine__local_fork(tine__link *parent, tine__link *l,
                     const tine_proc_options *options);
/* Queues the first command, which is answered on the report channel, or too late. */
int tine__local_greet(tine__local *l, uint32_t flags);
/* l could not be made: that is told. Returns 0. */
int tine__local_never(tine__local *l, int err, const char *what, const char *which);

/* socket.c: the command socket */
/* Makes one. Gives *far, the process's end. */
int tine__local_open_socket(tine__local *l, int *far);
int tine__local_put(tine__link *l, int type, const tine_str *parts, size_t nparts,
                    const int *fds, size_t nfds);
int tine__local_serve(tine__link *l, const tine_str *parts, size_t nparts, int memory);
bool tine__local_is_sent(const tine__link *l);
int tine__local_flush(tine__link *l);
void tine__local_listen(tine__link *l, bool commanded, bool idle);
void tine__local_shut_down(tine__link *l);
int tine__local_give(tine__link *l);
int tine__local_take_back(tine__link *l, int fd);
void tine__local_free_socket_watchers(tine__local *l);

/* report_channel.c */
int tine__reports_open(tine_host *host);
void tine__reports_close(tine__local_host *h);
/* Reads reports that have arrived, at most `most`. Returns whether none is left. ALL: what is there
 * now; a socket holds no more. */
enum { TINE__REPORTS_ALL = 1024 };
bool tine__reports_read(tine_host *host, int most);
/* What l, which has ended, has said on a channel of its own. */
void tine__reports_last(tine__local *l);
/* Takes note of those that have been made, and forgets what else was reported. */
void tine__reports_take_made(tine_host *host);

/* pidfd.c */
/* A pidfd above 2, or a negative errno. */
int tine__pidfd_open(pid_t pid);
/* Whether the system refuses them: then a process's number is the next best, which is its own until
 * its template has reaped it, and we are told that at once. */
bool tine__pidfd_is_refused(const tine__local *l);
/* Signals l, which has a pidfd. Returns 0 or a negative errno. */
int tine__pidfd_signal(const tine__local *l, int signo);
/* The same for its process group, exactly: also when l itself has ended. */
int tine__pidfd_signal_group(const tine__local *l, int signo);
/* Whether l has ended, which its pidfd tells before anybody does. */
bool tine__pidfd_has_ended(const tine__local *l);
/* How a process ended that somebody else has reaped, as wait() says. */
enum { TINE__END_UNKNOWN = -1, TINE__END_NOT_YET = -2 };
int tine__pidfd_status(const tine__local *l);
/* The same of one that may not have been reaped yet. */
int tine__pidfd_status_of_orphan(const tine__local *l);

/* endings.c */
/* Watches the pidfd of a process whose end nobody reports. */
int tine__pidfd_watch(tine__local *l);
/* l has ended, as wait() says, or TINE__END_UNKNOWN. pid: where its parent says it. */
void tine__local_ended(tine__local *l, pid_t pid, int status,
                       const struct rusage *rusage);
int tine__local_signal(tine__link *l, int signo, enum tine__target target);
void tine__local_orphan(tine__link *l);
/* Kills and reaps l if it is our own child. */
void tine__local_end_direct(tine__local *l);

/* stdio.c */
int tine__capture_open(tine__local *l, int n, const tine_stdio *how, int *write_end);
void tine__local_output(tine__link *l, bool last);
/* Closes without delivering what is left. */
void tine__captures_close(tine__local *l);

/* proc_memory.c */
void tine__local_memory(tine__link *l, bool mappings, tine_memory *m);

#endif
