/* The numbers that a host and its processes agree on. Raise TINE__PROTOCOL with every
 * change of anything in this file: both sides refuse another version.
 *
 * Command socket, host to process: a stream of frames, see frame.h for the header.
 *   HELLO    u32 protocol, u64 id, u32 host pid, str host version, u32 flags, str name;
 *            fd: report channel
 *   FORK     u64 id, u32 flags, str name; fds: command socket, then the redirected ones
 *            of stdin, stdout and stderr
 *   EVAL     u32 tine_code, str code, u32 n, n x str
 *   REQUIRE  u32 n, n x str
 *   FDS      fds
 *   ARGS     u32 n, n x str
 *   RUN      u32 tine_code, str function; the stream is the user's from here on
 *   SERVE    u32 flags, u32 tine_serialiser, str source, three functions (func, init, done),
 *            each u32 tine_code, str (empty: none); u64 offset of its region; fd: the memory
 *            that it lies in. The stream is as call.h says from here on
 *   MEMORY   nothing: asks for a report MEMORY
 *   FAIL     u32 errno, str message: what could not be sent. The process fails with it
 *   CHANNEL  nothing; fd: the report channel, for a worker that has become a template
 *
 * Report channel, processes to host: SOCK_SEQPACKET, one report a message, all begin with
 * u32 magic, u32 type, u64 id of the process that it is about.
 *   HELLO    u32 protocol, u32 0, str tine version, str Lua version; fd: pidfd
 *   MADE     u64 commands its parent has carried out; fd: pidfd. The first that a new
 *            process sends, so that all it says or makes later comes after it
 *   IDLE     u64 commands carried out
 *   FAILED   u32 tine_kind, u32 errno, str message, str traceback
 *   EXITED   u64 commands its parent has carried out, u32 pid, u32 wait status,
 *            struct rusage; from its parent
 *   MEMORY   u64 commands carried out, the question included; u32 tine_heap_kind, u32
 *            seals, u64 own, u64 shared, u64 sealed, str failed
 *   CHANNEL  nothing; fd: where it will report from now on
 *
 * Templates share the report channel; whoever shuts it down shuts it for all. So a process that
 * was told to run lets go of it before it enters the user's function. If it serves calls, it has
 * another stream for what it says. If not, it makes a channel of its own (CHANNEL), for the one
 * report that it may still send: FAILED, of its function. The host reads that when it has ended.
 * Only who has forked workers of its own before stays on the shared one, to tell their ends.
 *
 * Integers are little-endian; str is u32 length and bytes. */
#ifndef TINE_WIRE_PROTOCOL_H
#define TINE_WIRE_PROTOCOL_H

#define TINE__PROTOCOL 5

enum tine__frame_type {
    TINE__FRAME_HELLO = 1,
    TINE__FRAME_FORK,
    TINE__FRAME_EVAL,
    TINE__FRAME_REQUIRE,
    TINE__FRAME_FDS,
    TINE__FRAME_ARGS,
    TINE__FRAME_RUN,
    TINE__FRAME_SERVE,
    TINE__FRAME_MEMORY,
    TINE__FRAME_FAIL,
    TINE__FRAME_CHANNEL,
    TINE__FRAME_TYPES
};

enum tine__report_type {
    TINE__REPORT_HELLO = 1,
    TINE__REPORT_MADE,
    TINE__REPORT_IDLE,
    TINE__REPORT_FAILED,
    TINE__REPORT_EXITED,
    TINE__REPORT_MEMORY,
    TINE__REPORT_CHANNEL
};

#define TINE__REPORT_MAGIC 0x74696e65u

/* Flags of FORK and HELLO: for descriptor n = 0, 1, 2 two bits TINE__STDIO_x << 2 * n; then: */
enum { TINE__STDIO_KEEP = 0, TINE__STDIO_NULL = 1, TINE__STDIO_FD = 2 };
#define TINE__FORK_DETACH (1u << 6)
#define TINE__FORK_LINES(n)                                                            \
    (1u << (7 + (n))) /* n 1 or 2: line-buffered for a callback */
#define TINE__FORK_FLAGS 0x77fu

/* Its parent may die without it: only the host's end takes it down. */
#define TINE__FORK_SPARE (1u << 10)

/* Flags of SERVE. With MARKS, "\0tine:" SERIAL "\n" is written to stdout and stderr before a
 * call starts, and with serial 0 after it has ended, when anything else was or may be written;
 * async: likewise when a call goes on, and when it waits. */
#define TINE__SERVE_ASYNC 1u
#define TINE__SERVE_MARKS 2u

/* Bytes. A report must fit into one message of the default socket buffer. */
#define TINE__REPORT_MAX 65536
#define TINE__REPORT_TEXT_MAX 30000 /* of a message, and of a traceback */
#define TINE__NAME_MAX 200
/* At the end of a text that was longer. */
#define TINE__CUT "\n... (cut)"

#endif
