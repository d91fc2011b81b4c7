/* tine: Lua workers in many processes, from C.
 *
 * A host makes processes that hold a Lua 5.4 interpreter. A process loads code, is forked
 * into further ones that share what it has loaded, is handed descriptors and strings,
 * and at last runs a function. This header is all of the library that a program may use;
 * it needs neither Lua nor libevent to be compiled.
 *
 * Words used in every contract:
 *   takes    the callee owns it on success, and leaves it untouched on failure
 *   borrows  used until the function returns, unless it says otherwise
 *   gives    the caller owns the result
 *
 * Functions that can fail return a negative number: an errno value negated, or one of
 * TINE_E... . A host and all that belongs to it are used by one thread at a time. Nothing
 * here blocks unless it says so, and callbacks run only inside tine_host_run and
 * tine_host_poll, or in the program's own loop when it lent its event_base. A callback may
 * call everything here, and may close the very object that called it.
 *
 * In a process that was forked from the host by other means than this library, the host
 * and all that belongs to it answer -TINE_ESTALE and do nothing. */
#ifndef TINE_H
#define TINE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef TINE_API
#define TINE_API __attribute__((visibility("default")))
#endif

/* The most descriptors that one tine_proc_send_fd call takes: the kernel's own limit. */
#define TINE_MAX_FDS 253

/* This header's version, to compare with at compile time; tine_version() is the library's. */
#define TINE_VERSION_MAJOR 0
#define TINE_VERSION_MINOR 1
#define TINE_VERSION_PATCH 0
#define TINE_VERSION_NUM                                                               \
    (TINE_VERSION_MAJOR * 1000000 + TINE_VERSION_MINOR * 1000 + TINE_VERSION_PATCH)

struct event_base;
typedef struct tine_host tine_host;
typedef struct tine_proc tine_proc;
typedef struct tine_timer tine_timer;
typedef struct tine_io tine_io;
typedef struct tine_signal tine_signal;
typedef struct tine_rpc tine_rpc;
typedef struct tine_pool tine_pool;
typedef struct tine_job tine_job;

/* A string of bytes. */
typedef struct tine_str {
    const void *data;
    size_t len;
} tine_str;

/* ------------------------------------------------------------------ errors */

/* Own error numbers, outside errno's range; functions return them negated. */
enum {
    TINE_EEXCEPTION = 4001, /* Lua code raised an error */
    TINE_EEXIT,             /* the process left with a code other than 0 */
    TINE_ECRASH,            /* the process was ended by a signal */
    TINE_ECLOSED,           /* the process or the handle is closed */
    TINE_EPROTOCOL,         /* the other side does not speak our protocol */
    TINE_ECONSUMED,         /* the handle was used up by run or to_fd */
    TINE_ESTALE,            /* the object belongs to the process we were forked from */
    TINE_EFAR               /* neither descriptors nor memory can be sent where it is */
};

/* What went wrong, as API users tell errors apart. */
typedef enum tine_kind {
    TINE_KIND_EXCEPTION,
    TINE_KIND_EXIT,
    TINE_KIND_CRASH,
    TINE_KIND_TIMEOUT,
    TINE_KIND_CANCELLED,
    TINE_KIND_REJECTED,
    TINE_KIND_CLOSED,
    TINE_KIND_ENCODE,
    TINE_KIND_DECODE,
    TINE_KIND_PROTOCOL,
    TINE_KIND_SYSTEM
} tine_kind;

/* A failure, as callbacks get it; valid until the callback returns. Its texts, as all texts, lines,
 * results and events that callbacks get, have a NUL behind their last byte that is not counted.
 * Those of more than 1 MiB (of an rpc's or a pool's call) or 30000 bytes (of a process) are cut,
 * and say so at their end. */
typedef struct tine_error {
    tine_kind kind;
    const char *message;   /* never NULL; not NUL-free if Lua code put a NUL into it */
    size_t message_len;    /* bytes */
    const char *traceback; /* of the process where it happened, or NULL */
    size_t traceback_len;
    pid_t pid;          /* of the process where it happened, or 0 */
    int code;           /* exit code, or -1 */
    int signal;         /* signal number, or 0 */
    const char *status; /* how the process ended, in words, or NULL */
    int sys_errno;      /* errno, positive, or 0 */
    /* What a call's function has raised where that is no text: serialised as results are, as a
     * list of one value; an err of tine's own as two, a table of its fields and true. With
     * TINE_STRINGS: the text of a number. NULL where there is none, or it cannot be
     * serialised. */
    const void *value;
    size_t value_len; /* bytes */
    int started; /* of a call that ended with its pool: 1 it was cut off, -1 it never started */
    int broken; /* non-zero: its pool cannot make workers, and this is why */
    unsigned
        tries; /* of a pool's call that was tried more than once: how often; else 0 */
} tine_error;

/* "exception", "exit", ...: the name of a kind. */
TINE_API const char *tine_kind_name(tine_kind kind);
/* "ENOENT", "TINE_ECLOSED", ...: the name of a (negative) error number. */
TINE_API const char *tine_errname(int err);
/* A sentence for a (negative) error number. Valid until the thread's next call. */
TINE_API const char *tine_strerror(int err);
/* The library's version, "MAJOR.MINOR.PATCH". */
TINE_API const char *tine_version(void);

/* -------------------------------------------------------------------- host */

typedef void (*tine_error_cb)(void *arg, tine_proc *p, const tine_error *err);

typedef struct tine_host_options {
    /* Borrowed until tine_host_free; NULL: one of its own. The host does not keep the base's
     * loop from ending when tine_host_active is 0. */
    struct event_base *base;
    /* The executable that holds the interpreter, copied; NULL: `tine-template` beside
     * the library, else $TINE, else found on PATH. */
    const char *interpreter;
    const char
        *lua_path; /* package.path of exec'ed processes, copied; NULL: Lua's own */
    const char *lua_cpath; /* package.cpath, likewise */
    /* Gets the errors of processes that have no handler of their own, and (p is NULL) of rpcs
     * and pools without. NULL: they are written to stderr, the only thing that this library
     * ever prints. */
    tine_error_cb on_error;
    void *arg;
} tine_host_options;

/* Makes a host. options is borrowed and may be NULL. Gives *out, to be freed with
 * tine_host_free. Returns 0, -ENOMEM, -EMFILE or another errno. */
TINE_API int tine_host_new(tine_host **out, const tine_host_options *options);

/* Ends every process made by host that is not detached, with what it has started in its
 * process group, waiting (briefly: they are killed) for its direct children, and frees the
 * host with all handles, timers and watchers. No callback is called, except those of calls
 * that have not ended. Not to be called from a callback. NULL is fine. */
TINE_API void tine_host_free(tine_host *host);

/* Later exec'ed processes use this executable; NULL: the default. */
TINE_API int tine_host_set_interpreter(tine_host *host, const char *path);
/* The executable that would be used now, or NULL where none is found. Borrowed by the
 * caller until the next call with this host. */
TINE_API const char *tine_host_interpreter(tine_host *host);
/* Later exec'ed processes get these as package.path and package.cpath. */
TINE_API int tine_host_set_lua_path(tine_host *host, const char *path,
                                    const char *cpath);

/* Runs the loop until tine_host_stop (returns 1) or until nothing is left to wait for
 * (returns 0). Left to wait for are timers, watchers, commands that are queued or under
 * way, and processes that run a function and are not detached; idle processes are not.
 * Also with a borrowed event_base. Negative on error. */
TINE_API int tine_host_run(tine_host *host);
/* Makes the innermost tine_host_run return after the callback under way. */
TINE_API void tine_host_stop(tine_host *host);
/* Handles what is ready, waiting at most max_usec microseconds for it (0: not at all).
 * Returns 1 if something is left to wait for, else 0; negative on error. */
TINE_API int tine_host_poll(tine_host *host, int64_t max_usec);
/* Whether tine_host_run would wait. */
TINE_API int tine_host_active(const tine_host *host);
/* Writes out what can be written now of all that is queued, without waiting for the loop. */
TINE_API int tine_host_flush(tine_host *host);
/* Forgets the default template and the early one: they end when their last worker has. */
TINE_API int tine_host_reset(tine_host *host);

/* ---------------------------------------------------- timers and watchers */

typedef void (*tine_timer_cb)(void *arg, tine_timer *timer);
typedef void (*tine_io_cb)(void *arg, tine_io *io, int events);
typedef void (*tine_signal_cb)(void *arg, tine_signal *sig, int signo);

enum { TINE_READ = 1, TINE_WRITE = 2 };

/* Calls cb once after after_usec microseconds, and if every_usec >= 0 again each
 * every_usec. Gives *out, to be freed with tine_timer_free, also when it has fired. */
TINE_API int tine_timer_new(tine_host *host, tine_timer **out, int64_t after_usec,
                            int64_t every_usec, tine_timer_cb cb, void *arg);
TINE_API void tine_timer_free(tine_timer *timer);
/* Calls cb each time fd is ready for events (TINE_READ, TINE_WRITE, or both). fd stays the
 * caller's, and must be open until tine_io_free. */
TINE_API int tine_io_new(tine_host *host, tine_io **out, int fd, int events,
                         tine_io_cb cb, void *arg);
TINE_API void tine_io_free(tine_io *io);
/* Calls cb in the loop each time the signal came. libevent delivers signals to one event_base
 * of a process at a time: have watchers on one host only. The previous disposition is back after
 * tine_signal_free. -EINVAL for SIGKILL, SIGSTOP and SIGCHLD, which stays the program's. */
TINE_API int tine_signal_new(tine_host *host, tine_signal **out, int signo,
                             tine_signal_cb cb, void *arg);
TINE_API void tine_signal_free(tine_signal *sig);

/* --------------------------------------------------------------- processes */

/* How a process came to its end. */
typedef struct tine_exit {
    pid_t pid;            /* 0 if it was never made */
    int code;             /* exit code, or -1 if a signal ended it or nobody can know */
    int signal;           /* or 0 */
    struct rusage rusage; /* zeros where nobody can know */
} tine_exit;

/* err is NULL for exit code 0. Called exactly once. */
typedef void (*tine_exit_cb)(void *arg, tine_proc *p, const tine_error *err,
                             const tine_exit *info);
/* A line of a process's output, without its newline; borrowed. One of more than 1 MiB comes in
 * pieces of at least that, each as a line of its own. */
typedef void (*tine_line_cb)(void *arg, tine_proc *p, const char *line, size_t len);
/* fd is given (nonblocking, close-on-exec), or -1 with an err. Called exactly once. */
typedef void (*tine_fd_cb)(void *arg, tine_proc *p, int fd, const tine_error *err);
/* The process is there and ready (err NULL), or never will be. Called exactly once. */
typedef void (*tine_ready_cb)(void *arg, tine_proc *p, const tine_error *err);

/* What a process's Lua allocates from. */
typedef enum tine_heap_kind {
    TINE_HEAP_UNKNOWN,
    TINE_HEAP_MALLOC, /* malloc */
    TINE_HEAP_PLAIN,  /* tine's heap, of which nothing is sealed */
    TINE_HEAP_SEALED  /* tine's heap, and what was loaded before a fork is sealed */
} tine_heap_kind;

#define TINE_MEMORY_TEXT 120

/* The memory of a process, in bytes; -1 for what is not known. The first part is what its
 * interpreter says, the second what the system does (/proc/PID/stat, /proc/PID/smaps). */
typedef struct tine_memory {
    pid_t pid; /* 0: not known */
    tine_heap_kind heap;
    int64_t own;    /* Lua's, but for what is shared; without tine's heap: all of it */
    int64_t shared; /* Lua's, in sealed memory */
    int64_t sealed; /* address space that is sealed */
    int64_t seals;  /* how often, in this process and those that it was forked from */
    char failed[TINE_MEMORY_TEXT]; /* why a seal failed last, or "" */

    int64_t rss; /* resident */
    int64_t pss; /* resident, each page divided by the number of those who map it */
    /* Resident and nobody else's. Of sealed memory only what is copied. */
    int64_t private_rss;
    /* Pages of sealed memory of which this process has a copy, because it, or whom it was
     * forked from, has written to them. */
    int64_t copied;
    int64_t minor_faults, major_faults; /* taken so far: a number */
} tine_memory;

/* Either err or memory is NULL. */
typedef void (*tine_memory_cb)(void *arg, tine_proc *p, const tine_error *err,
                               const tine_memory *memory);
typedef void (*tine_idle_cb)(void *arg, tine_proc *p);

typedef enum tine_stdio_how {
    TINE_STDIO_DEFAULT, /* exec'ed: stdin null, the others inherited; forked: as its template */
    TINE_STDIO_INHERIT, /* exec'ed: the host's own; forked: its template's */
    TINE_STDIO_NULL,
    TINE_STDIO_FD, /* a duplicate of fd; of its file opened anew where that is nonblocking;
                      * EOPNOTSUPP where that cannot be: a nonblocking socket */
    TINE_STDIO_LINES /* stdout and stderr only: each line to on_line, in the host */
} tine_stdio_how;

typedef struct tine_stdio {
    tine_stdio_how how;
    int fd; /* borrowed */
    tine_line_cb on_line;
} tine_stdio;

/* All zeros is the default. Everything is borrowed. */
typedef struct tine_proc_options {
    const char *name;    /* shown in the process title as `tine: NAME` */
    tine_stdio stdio[3]; /* stdin, stdout, stderr */
    void *arg;           /* for on_line */
    int detach;          /* non-zero: may outlive the host */
    const int *keep; /* tine_proc_here: descriptors that stay open in the new process */
    size_t nkeep;
} tine_proc_options;

/* A new empty process, forked from the default template, which is exec'ed on first use (and
 * anew when interpreter, module paths, working directory or environment have changed) and
 * kept (or from the early template, where there is one). options may be NULL. Gives *out,
 * to be given back with tine_proc_close. Failures to make the process arrive at its
 * callbacks, as do all later ones; only -ENOMEM and -TINE_ESTALE are returned. */
TINE_API int tine_proc_new(tine_host *host, const tine_proc_options *options,
                           tine_proc **out);
/* The same, by exec of a fresh interpreter (or from the early template). */
TINE_API int tine_proc_new_exec(tine_host *host, const tine_proc_options *options,
                                tine_proc **out);
/* A new process, forked from p when p has carried out what was queued before, with p's
 * interpreter state and the descriptors and strings sent to p so far. */
TINE_API int tine_proc_fork(tine_proc *p, const tine_proc_options *options,
                            tine_proc **out);
/* A process handle from a descriptor that tine_proc_to_fd gave, perhaps in another
 * process. Takes fd. */
TINE_API int tine_proc_from_fd(tine_host *host, int fd, tine_proc **out);
/* Forks the running program. Returns 1 in the program, with *out given; in the new process
 * returns 0 with *command_fd given: the caller passes it to tine_serve and never returns
 * to what it did before. There, all descriptors but 0, 1, 2, command_fd and options->keep
 * are closed, signal handlers and mask are reset, and no host may be used. Returns -EBUSY
 * when other threads run, since a fork would leave their locks locked for ever.
 * stdio is flushed before. Blocks for the fork itself. */
TINE_API int tine_proc_here(tine_host *host, const tine_proc_options *options,
                            tine_proc **out, int *command_fd);
/* As tine_proc_here, and the new process is the template of all later tine_proc_new and
 * tine_proc_new_exec. Returns 1 in the program and 0 in the new process. */
TINE_API int tine_host_early(tine_host *host, int *command_fd);

/* How code and functions are given. */
typedef enum tine_code {
    TINE_TEXT, /* eval: Lua source text; run: the name of a function, "a.b.fn" or "fn" */
    TINE_PLAIN /* eval: as encoded by the Lua binding: a function or source text, then its
                * arguments; run: a function. Only for the same version of Lua. */
} tine_code;

/* The following queue a command, to be carried out in order, and copy what they are given.
 * They return 0, -ENOMEM, -EMSGSIZE (over 4 GiB - 1 in one command), -TINE_ECONSUMED after
 * tine_proc_run or tine_proc_to_fd, or -TINE_ECLOSED when the process has already ended or
 * failed (its callbacks tell why; that of tine_proc_run and tine_proc_to_fd, which then return
 * 0, too). */

/* Runs code with args as its `...` (TINE_PLAIN: nargs is 0). An error in it arrives at
 * on_error; the process then carries out nothing more and leaves with code 1, as soon as it
 * has no workers. */
TINE_API int tine_proc_eval(tine_proc *p, tine_code kind, const void *code, size_t len,
                            const tine_str *args, size_t nargs);
/* Loads modules by name. */
TINE_API int tine_proc_require(tine_proc *p, const tine_str *names, size_t n);
/* Descriptors for the entry function. Takes them. nfds <= TINE_MAX_FDS, else -EINVAL;
 * -EBADF if one is not open. */
TINE_API int tine_proc_send_fd(tine_proc *p, const int *fds, size_t nfds);
/* Of something for p that cannot be had: in its turn among the commands p fails with it, as when
 * an eval fails. what: "hand over a descriptor"; err: a negative errno. */
TINE_API int tine_proc_fail(tine_proc *p, const char *what, int err);
/* Strings for the entry function. */
TINE_API int tine_proc_send_arg(tine_proc *p, const tine_str *args, size_t n);
/* Enters func as func(sock, ...): its end of the socket, then all descriptors and strings
 * in the order sent. When all is sent and the process is made, cb gets this end. With a
 * NULL cb this end is closed. Consumes p. When func returns, the process exits. */
TINE_API int tine_proc_run(tine_proc *p, tine_code kind, const void *func, size_t len,
                           tine_fd_cb cb, void *arg);
/* When all is sent, cb gets the command socket, for tine_proc_from_fd. Consumes p. */
TINE_API int tine_proc_to_fd(tine_proc *p, tine_fd_cb cb, void *arg);

/* These may be called at any time until p is closed. Each replaces the callback set before;
 * a callback for something that has already happened is called in the next turn of the
 * loop. */
TINE_API int tine_proc_on_exit(tine_proc *p, tine_exit_cb cb, void *arg);
TINE_API int tine_proc_on_error(tine_proc *p, tine_error_cb cb, void *arg);
TINE_API int tine_proc_on_ready(tine_proc *p, tine_ready_cb cb, void *arg);
/* Called each time p goes from busy to not busy (see tine_proc_busy), and before on_exit. */
TINE_API int tine_proc_on_idle(tine_proc *p, tine_idle_cb cb, void *arg);

/* The process id, or 0 while unknown. */
TINE_API pid_t tine_proc_pid(const tine_proc *p);
/* Signals exactly this process, never another with a reused id; if it is not made yet, as
 * soon as it is. Returns 0, -EINVAL, -ESRCH once it has ended, or another errno. */
TINE_API int tine_proc_kill(tine_proc *p, int signo);
/* Whether the process has ended or could not be made. */
TINE_API int tine_proc_ended(const tine_proc *p);
/* Why it failed or could not be made, as on_error tells, or NULL. Valid until p is closed, or a
 * turn of the loop. */
TINE_API const tine_error *tine_proc_why(const tine_proc *p);
/* Whether commands are queued or under way, or a function runs: the handle has business. */
TINE_API int tine_proc_busy(const tine_proc *p);
/* Whether run or to_fd has used the handle up. */
TINE_API int tine_proc_consumed(const tine_proc *p);

/* Tells when all that was queued before has been carried out (err NULL), or that it will not be:
 * something of it failed, and err is that. cb is called once, in a later turn of the loop. Returns
 * 0, -ENOMEM, -TINE_ECONSUMED, or -TINE_ECLOSED when p has ended or is closed: tine_proc_why
 * says why. */
TINE_API int tine_proc_await_loaded(tine_proc *p, tine_ready_cb cb, void *arg);

/* Asks for the memory of p, as it is when what was queued before is carried out. Nobody can
 * ask the interpreter of a process that was told to run or whose socket was passed on: of it
 * only what the system says is known. One that serves calls says it after each. The answer
 * takes about 0.3 ms of the host's time, for smaps, and 20 ms more for each GB that p has
 * touched. cb is called once, in a later turn of the loop, in the order asked; with err if p
 * ends before it answers. Returns 0, -ENOMEM, or -TINE_ECLOSED when p has ended or is
 * closed. */
TINE_API int tine_proc_memory(tine_proc *p, tine_memory_cb cb, void *arg);

/* Drops the handle: what is queued is still carried out; a process that was not told to run
 * then exits, a template once its last worker has gone. Callbacks still come, on_exit last:
 * p is valid until it returns, but the caller does not use it any more. To be rid of them
 * too, set them to NULL before. NULL is fine. */
TINE_API void tine_proc_close(tine_proc *p);

/* -------------------------------------------------------- calls: one worker */

/* How arguments, results and events become bytes. With TINE_STRINGS lists of values are
 * arrays of strings; with the others they are one string: the bytes of that form. */
typedef enum tine_serialiser {
    TINE_STRINGS,
    TINE_MSGPACK, /* a MessagePack array of the values */
    TINE_LUA,     /* the Lua binding's own form */
    TINE_JSON,    /* a JSON array of the values */
    TINE_SOURCE   /* as the user's Lua functions have it */
} tine_serialiser;

/* A function in a worker. data NULL: none. */
typedef struct tine_func {
    tine_code kind;
    const void *data;
    size_t len;
} tine_func;

/* The end of a call: its results, or err. Called exactly once, also when the call never
 * started, or everything is torn down. job is valid until it returns. */
typedef void (*tine_call_cb)(void *arg, tine_job *job, const tine_error *err,
                             const tine_str *results, size_t n);
/* An event from the worker pid; job is what it ran for, or NULL. */
typedef void (*tine_event_cb)(void *arg, pid_t pid, tine_job *job,
                              const tine_str *values, size_t n);
/* A line of a worker's output, as tine_line_cb has it; stream is 1 or 2, job the number of the
 * job that wrote it, or 0. */
typedef void (*tine_output_cb)(void *arg, pid_t pid, uint64_t job, int stream,
                               const char *line, size_t len);
/* A failure that belongs to no call, such as a worker that dies between calls. */
typedef void (*tine_fault_cb)(void *arg, const tine_error *err);
/* Everything is done; the object is freed when it returns. */
typedef void (*tine_gone_cb)(void *arg);
/* The traceback of what a worker runs now, or err; of an async one that runs nothing, those of
 * its open calls, each by the number of its job. Called exactly once. */
typedef void (*tine_text_cb)(void *arg, const tine_error *err, const char *text,
                             size_t len);

/* All zeros is the default. Everything is borrowed, and copied where it is needed longer. */
typedef struct tine_rpc_options {
    tine_func init; /* called first, with the descriptors and strings sent */
    /* Called in each worker after its last call, before it leaves: because the host has closed,
     * or it is replaced. Not in one that dies, is killed, or becomes a template. An error in it
     * is told to on_error. */
    tine_func done;
    int async; /* non-zero: func(done, ...) may answer later, many calls at once */
    tine_serialiser serialiser;
    tine_str source;      /* TINE_SOURCE: Lua text that returns freeze and thaw */
    int64_t timeout_usec; /* a call may run, from its start; 0: for ever */
    int64_t grace_usec;   /* from the error raised in it to SIGKILL; 0: 1 s */
    /* A worker may take until init has returned, from when it is there and has loaded what it
     * was told to before, or its template was; 0: 10 s. */
    int64_t spawn_timeout_usec;
    tine_event_cb on_event;
    tine_fault_cb on_error; /* NULL: the host's on_error */
    /* Pools only: workers' output; NULL: it goes where the template's goes. Async: the job is the
     * one whose function runs; what the loop calls has none. */
    tine_output_cb on_output;
    void *arg; /* of these */
} tine_rpc_options;

/* Makes p a worker that serves calls of func. Consumes p, whose handle stays the caller's:
 * pid, kill, on_exit and close work. Gives *out, to be given back with tine_rpc_close.
 * Returns what tine_proc_run returns. */
TINE_API int tine_rpc_new(tine_proc *p, const tine_func *func,
                          const tine_rpc_options *options, tine_rpc **out);
/* Queues a call; args are copied. Calls start in the order made. *job (job may be NULL) is
 * valid until cb has returned. Returns 0, -ENOMEM, -EMSGSIZE (over 4 GiB - 1), -EINVAL, or
 * -TINE_ECLOSED when the worker has ended or the rpc is closed; then cb is not called. */
TINE_API int tine_rpc_call(tine_rpc *rpc, const tine_str *args, size_t n,
                           tine_call_cb cb, void *arg, tine_job **job);
/* The same with descriptors, which are duplicated at once, and closed with the call: the worker's
 * side gets those to which args have indices, 0 to nfds - 1, as its serialiser writes them (MessagePack:
 * extension type 102, 4 bytes, big-endian). -EINVAL with TINE_STRINGS. nfds at most 1024. Also negative: an errno. */
TINE_API int tine_rpc_call_fds(tine_rpc *rpc, const tine_str *args, size_t n,
                               const int *fds, size_t nfds, tine_call_cb cb, void *arg,
                               tine_job **job);
/* In a callback of an answer or an event: the descriptors that came with it, by index. Those that are
 * kept are to be set to -1, which also stands for one that this process had no room for; the
 * others are closed when the callback has returned. Returns how many. */
TINE_API size_t tine_host_fds(tine_host *host, int **fds);
/* Asks what the worker runs now. */
TINE_API int tine_rpc_traceback(tine_rpc *rpc, tine_text_cb cb, void *arg);
/* The worker's process id, or 0 while unknown. */
TINE_API pid_t tine_rpc_pid(const tine_rpc *rpc);
/* Calls that have not ended. */
TINE_API size_t tine_rpc_pending(const tine_rpc *rpc);
/* Whether calls can be made: neither closed nor ended. */
TINE_API int tine_rpc_open(const tine_rpc *rpc);
/* Drops rpc: queued calls are still carried out, then the worker exits, and last of all
 * gone is called (it may be NULL). Events still come. NULL is fine. */
TINE_API void tine_rpc_close(tine_rpc *rpc, tine_gone_cb gone, void *arg);

/* A job's number: counted from 1 in each rpc and pool. */
TINE_API uint64_t tine_job_id(const tine_job *job);
/* Ends a job: one that has not started is taken back; in one that runs an error is raised,
 * and after the grace its worker is killed. Its callback gets TINE_KIND_CANCELLED, in a later
 * turn of the loop. One that catches the error and returns in time has its results. */
TINE_API void tine_job_cancel(tine_job *job);
/* Ends a job that has not started, as tine_job_cancel does. Returns 1, or 0 if it may have
 * started: then it goes on. */
TINE_API int tine_job_withdraw(tine_job *job);
/* Whether a worker has begun with it, by what is known now. */
TINE_API int tine_job_running(const tine_job *job);

/* ------------------------------------------------------------------- pools */

/* No call waits but for its worker to start: it is rejected when max workers have all they can do,
 * one call each, or `load` of them where they are async. start_usec is 0 then. */
#define TINE_NO_QUEUE SIZE_MAX

/* What is tried again beside jobs whose worker died; all zeros: nothing. A job has so many tries of
 * each kind, each counted by itself. */
typedef struct tine_retry {
    unsigned timeout;   /* how often a job that ended with TINE_KIND_TIMEOUT */
    unsigned exception; /* with TINE_KIND_EXCEPTION */
    /* Whether one that ended with TINE_KIND_EXCEPTION is to be tried again: asked each time in place
     * of `exception`, if it is not NULL, and bounded by nothing else. tries: how often the job has
     * been tried, 1 or more. May do all that a callback may. */
    int (*again)(void *arg, tine_job *job, const tine_error *err, unsigned tries);
    void *arg; /* of again */
    /* How long a job waits before it is tried again for the first time; doubled at each. It counts as
     * queued meanwhile, can be cancelled, and with a key those of its key wait for it. */
    int64_t delay_usec;
} tine_retry;

/* All zeros is the default, but for max, which is set. Everything is borrowed. */
typedef struct tine_pool_options {
    tine_rpc_options rpc;
    size_t max;  /* most workers, at least 1 */
    size_t idle; /* fewest workers kept */
    /* Calls handed to one worker at a time. 0: found out, 2 to 64, as many as take half a
     * millisecond; with async 2. */
    size_t load;
    int64_t start_usec; /* of all-busy before one more starts */
    int64_t stop_usec;  /* between stopping idle workers; 0: at once */
    size_t queue;       /* most calls waiting; 0: no limit; or TINE_NO_QUEUE */
    /* How often a job whose worker died is tried again: behind those of its priority that wait
     * by then, but with a key in its place. Async: the job whose code ran spends a try; where
     * that is not known, each that was open runs alone in a worker until it has ended, and those
     * that no worker dies of spend none. */
    unsigned retries;
    uint64_t max_jobs;        /* a worker past one of these is replaced; 0: no limit */
    uint64_t max_rss;         /* bytes */
    int64_t max_age_usec;     /* since it was ready */
    void (*on_drain)(void *); /* the queue has room again; gets rpc.arg */
    /* tine_pool_promote by itself, when two workers and half of all have each this many bytes
     * of Lua's of their own; 0: never. A failure goes to rpc.on_error. */
    uint64_t promote_own;
    tine_retry retry; /* what else is tried again */
} tine_pool_options;

typedef struct tine_call_options {
    int64_t timeout_usec; /* 0: the pool's; < 0: none */
    int priority;         /* higher goes first; equal ones in order */
    int retries;          /* of a job whose worker died; 0: the pool's; < 0: none */
    tine_str
        key; /* calls of one key go to one worker while it lives; data NULL: none */
    tine_event_cb on_event; /* of this job; NULL: the pool's. Gets the call's arg */
    const int *fds;         /* as of tine_rpc_call_fds */
    size_t nfds;
    const tine_retry *retry; /* copied; NULL: the pool's */
} tine_call_options;

/* A pool of workers forked from p as it will be when all queued for it is done. Consumes p
 * as tine_rpc_new does. Gives *out, to be given back with tine_pool_close. */
TINE_API int tine_pool_new(tine_proc *p, const tine_func *func,
                           const tine_pool_options *options, tine_pool **out);
/* As tine_rpc_call; options may be NULL. A call that finds the queue full, and one to a pool
 * that cannot make workers, fail at their callback. */
TINE_API int tine_pool_call(tine_pool *pool, const tine_str *args, size_t n,
                            const tine_call_options *options, tine_call_cb cb,
                            void *arg, tine_job **job);
/* Calls once in every worker there is now (one is started if there is none), ahead of what
 * is queued. cb is called for each. Returns the number of calls made, or negative. */
TINE_API int tine_pool_broadcast(tine_pool *pool, const tine_str *args, size_t n,
                                 tine_call_cb cb, void *arg);
/* New bounds; workers too many finish what they have. -EINVAL for max 0 or idle > max. */
TINE_API int tine_pool_resize(tine_pool *pool, size_t max, size_t idle);
/* Workers come from p once the first has: the old ones finish what they have, each when its
 * replacement is ready, and then cb gets NULL: all later calls go to new ones. If the first
 * fails, the pool keeps what it has and cb gets the cause. Consumes p. -EBUSY while one is
 * under way. */
TINE_API int tine_pool_reload(tine_pool *pool, tine_proc *p, tine_fault_cb cb,
                              void *arg);
/* Makes the worker that has done the most jobs, when it has none and its replacement is ready, the
 * template of the workers to come: they share what it has loaded and cached. As tine_pool_reload
 * otherwise. -ENOENT: no worker has done a job yet; -EOPNOTSUPP: async, or descriptors were
 * sent to the template, which only one process can use. init is called in the new workers,
 * too. */
TINE_API int tine_pool_promote(tine_pool *pool, tine_fault_cb cb, void *arg);
/* Asks what a worker runs now. -ESRCH when pid is none of the pool's. */
TINE_API int tine_pool_traceback(tine_pool *pool, pid_t pid, tine_text_cb cb,
                                 void *arg);
/* Finishes what is queued, then ends the workers; gone is called last, and may be NULL. After
 * kill_after_usec (< 0: never; 0: now) what still runs is killed, and calls not ended fail.
 * Called again, it can only shorten the time. */
TINE_API void tine_pool_close(tine_pool *pool, int64_t kill_after_usec,
                              tine_gone_cb gone, void *arg);
TINE_API int tine_pool_open(const tine_pool *pool);
/* Calls that have not ended. */
TINE_API size_t tine_pool_pending(const tine_pool *pool);
/* Of those: that are in the queue, which `queue` bounds. Costs nothing, unlike the stats. */
TINE_API size_t tine_pool_queued(const tine_pool *pool);
/* Whether `queue` has room for a call now. */
TINE_API int tine_pool_has_room(const tine_pool *pool);

/* Of a distribution, in microseconds; percentiles are right to 1/16. */
typedef struct tine_histogram {
    uint64_t count;
    double mean, stddev;
    uint64_t min, p50, p90, p99, p999, max;
} tine_histogram;

typedef enum tine_worker_state {
    TINE_WORKER_STARTING,
    TINE_WORKER_IDLE,
    TINE_WORKER_BUSY,
    TINE_WORKER_RETIRING, /* finishes what it has */
    TINE_WORKER_STOPPING  /* was told to exit, or killed */
} tine_worker_state;

typedef struct tine_worker_stats {
    pid_t pid;
    tine_worker_state state;
    uint64_t jobs;       /* done */
    size_t load;         /* calls handed to it and not ended */
    uint64_t job;        /* the number of the one that runs, or 0 */
    int64_t job_usec;    /* for how long it has run */
    int64_t age_usec;    /* since it was ready */
    uint64_t rss;        /* bytes; 0 where unknown */
    uint64_t generation; /* 0 for the first template's, 1 more with each reload */
    /* What it said when its last call ended (async: in the last turn of its loop). Only
     * tine_pool_measure_workers knows private_rss, pss and copied. */
    tine_memory memory;
} tine_worker_stats;

typedef struct tine_pool_stats {
    size_t workers, starting, idle, busy, retiring; /* workers: all */
    size_t queued;                                  /* not handed to a worker */
    size_t running;                                 /* handed over and not ended */
    uint64_t calls, done, failed;                   /* failed: of done */
    uint64_t rejected, cancelled, timeouts;         /* jobs that ended so */
    uint64_t retried;                               /* tries but for each job's first */
    uint64_t started, crashed, recycled;            /* workers */
    tine_histogram wait;                            /* from the call to its start */
    tine_histogram run;                             /* from start to end */
    int broken; /* it cannot make workers now: calls fail with the cause */
    /* Whether the template is made anew, with all that it was told, should it and its spare die
     * together: not one of tine_proc_from_fd or tine_proc_here, nor a fork of such a one, nor one
     * whose output goes to functions, nor one that was told more than 16 MiB or sent more than 64
     * descriptors. And how often that was done. */
    int replayable;
    uint64_t replays;
} tine_pool_stats;

TINE_API void tine_pool_get_stats(const tine_pool *pool, tine_pool_stats *out);
/* Fills in up to n, returns how many there are. Reads /proc/PID/stat of each: some 15 us. */
TINE_API size_t tine_pool_get_workers(const tine_pool *pool, tine_worker_stats *out,
                                      size_t n);
/* As tine_pool_get_workers, with all of their memory: of each what tine_proc_memory costs. */
TINE_API size_t tine_pool_measure_workers(const tine_pool *pool, tine_worker_stats *out,
                                          size_t n);
/* The memory of the process that workers are forked from; measure: all of it, as above. Of its
 * interpreter it is what the worker that was ready last has found. -ESRCH when there is none
 * any more. */
TINE_API int tine_pool_get_template(const tine_pool *pool, int measure,
                                    tine_memory *out);

/* -------------------------------------------------------- the Lua side
 * In libtine-lua only, which has all of libtine and is linked in its place, with Lua 5.4
 * (pkg-config tine-lua; CMake: tine::tine-lua, tine::tine-lua-static). */

struct lua_State;

/* To be called first in main: lets the program be the interpreter of its own processes, so that
 * nothing else need be installed. Where a host has executed it as one, this does not return: it
 * makes an interpreter with Lua's libraries and `require "tine"`, calls setup in it (it may be
 * NULL; protected: it may raise an error, which ends that process), and serves. Every template and
 * worker then has what setup registers: the program's own functions. Elsewhere it returns at
 * once, and hosts that are made later execute this program, unless they are told otherwise.
 * A static program is linked with -rdynamic for its templates to load C modules. */
TINE_API void tine_main(int argc, char **argv, void (*setup)(struct lua_State *L));

/* Makes `require "tine"` work in an interpreter of the program's own. May raise an error of
 * Lua's: out of memory. */
TINE_API void tine_preload(struct lua_State *L);

/* Serves as a process of tine on the command socket fd, with L as the interpreter: carries
 * out what the host asks for, and ends the process. Takes fd. Never returns. */
TINE_API void tine_serve(struct lua_State *L, int fd) __attribute__((noreturn));

#ifdef __cplusplus
}
#endif
#endif
