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

struct event_base;
typedef struct tine_host tine_host;
typedef struct tine_proc tine_proc;
typedef struct tine_timer tine_timer;
typedef struct tine_io tine_io;
typedef struct tine_signal tine_signal;

/* A string of octets. */
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
    TINE_ESTALE             /* the object belongs to the process we were forked from */
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

/* A failure, as callbacks get it; valid until the callback returns. */
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
    struct event_base *base; /* borrowed until tine_host_free; NULL: one of its own */
    /* The executable that holds the interpreter, copied; NULL: `tine-template` beside
     * the library, else $TINE, else found on PATH. */
    const char *interpreter;
    const char
        *lua_path; /* package.path of exec'ed processes, copied; NULL: Lua's own */
    const char *lua_cpath; /* package.cpath, likewise */
    /* Gets the errors of processes that have no handler of their own. NULL: they are
     * written to stderr, the only thing that this library ever prints. */
    tine_error_cb on_error;
    void *arg;
} tine_host_options;

/* Makes a host. options is borrowed and may be NULL. Gives *out, to be freed with
 * tine_host_free. Returns 0, -ENOMEM, -EMFILE or another errno. */
TINE_API int tine_host_new(tine_host **out, const tine_host_options *options);

/* Ends every process made by host that is not detached, waiting (briefly: they are killed)
 * for its direct children, and frees the host with all handles, timers and watchers. No
 * callback is called. Not to be called from a callback. NULL is fine. */
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
/* A line of a process's output, without its newline; borrowed. */
typedef void (*tine_line_cb)(void *arg, tine_proc *p, const char *line, size_t len);
/* fd is given (nonblocking, close-on-exec), or -1 with an err. Called exactly once. */
typedef void (*tine_fd_cb)(void *arg, tine_proc *p, int fd, const tine_error *err);
/* The process is there and ready (err NULL), or never will be. Called exactly once. */
typedef void (*tine_ready_cb)(void *arg, tine_proc *p, const tine_error *err);
typedef void (*tine_idle_cb)(void *arg, tine_proc *p);

typedef enum tine_stdio_how {
    TINE_STDIO_DEFAULT, /* exec'ed: stdin null, the others inherited; forked: as its template */
    TINE_STDIO_INHERIT, /* exec'ed: the host's own; forked: its template's */
    TINE_STDIO_NULL,
    TINE_STDIO_FD,   /* a duplicate of fd */
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

/* A new empty process, forked from the default template, which is exec'ed on first use and
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
/* Whether commands are queued or under way, or a function runs: the handle has business. */
TINE_API int tine_proc_busy(const tine_proc *p);
/* Whether run or to_fd has used the handle up. */
TINE_API int tine_proc_consumed(const tine_proc *p);

/* Drops the handle: what is queued is still carried out; a process that was not told to run
 * then exits, a template once its last worker has gone. Callbacks still come, on_exit last:
 * p is valid until it returns, but the caller does not use it any more. To be rid of them
 * too, set them to NULL before. NULL is fine. */
TINE_API void tine_proc_close(tine_proc *p);

/* -------------------------------------------------------- the Lua side
 * In libraries and executables that have Lua only: the Lua module and tine-template. */

struct lua_State;

/* Serves as a process of tine on the command socket fd, with L as the interpreter: carries
 * out what the host asks for, and ends the process. Takes fd. Never returns. */
TINE_API void tine_serve(struct lua_State *L, int fd) __attribute__((noreturn));

#ifdef __cplusplus
}
#endif
#endif
