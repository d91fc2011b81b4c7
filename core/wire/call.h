/* What host and worker say to each other once a worker serves calls: the frames of the
 * call stream, and the page of memory that they share. Both sides include it; no I/O.
 *
 * The call stream is the command socket after SERVE. A frame is a header of 16 bytes
 * and a body: u32 length of the body, u8 type, u8 0, u16 magic, u64 serial; little-endian.
 * A serial numbers the calls handed to one worker, from 1.
 *
 * Host to worker:
 *   CALL     payload: the arguments, serialised
 *   CANCEL   u32 tine__reason; async only. The call is to end, whatever it is doing
 *   END      async only: no more calls will come, but CANCEL may
 *   LOOK     async only: a traceback is asked for; no signal wakes a loop that waits
 *   PROMOTE  sync only, and nothing is under way: the worker is to become a template. The last
 *            frame of the host's; after PROMOTED the stream is a command socket again
 * Worker to host:
 *   READY    init has returned; the first frame unless it is FATAL
 *   RESULT   times, payload: the results, serialised
 *   ERROR    times, u32 tine_kind, str message, str traceback; str value where the error was no
 *            text and could be serialised: one value; a tine.error is two, a table and true. Of
 *            TINE_STRINGS the text of a number
 *   EVENT    payload; serial: the call that runs, or 0
 *   RETIRE   the worker wants no calls beyond those it has
 *   TRACE    str text; serial: the number of the question, as in the page. Async: and, once for
 *            each call that it tells of, u64 serial, str text
 *   SKIPPED  the call was recalled before it started
 *   PROMOTED the last frame of the worker's
 *   FATAL    u32 tine_kind, str message, str traceback: it will leave now
 *   FAULT    likewise, but it goes on: async, an error of what an answered call has started
 * Both ways:
 *   FDS      u32 count, u32 first; serial: as of the CALL, RESULT or EVENT that follows. Its first
 *            byte comes with that many descriptors (SCM_RIGHTS), which that frame's payload
 *            names by their indices, from first on. Begins anew with first 0. Never in the ring
 * times: u64 start (CLOCK_MONOTONIC, ns), u64 duration (ns). str: u32 length and bytes.
 * A payload of TINE_STRINGS is one str after another. */
#ifndef TINE_WIRE_CALL_H
#define TINE_WIRE_CALL_H

#include <endian.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "tine.h"

enum tine__call_frame {
    TINE__CALL = 1,
    TINE__CANCEL,
    TINE__PROMOTE,
    TINE__END,
    TINE__LOOK,
    TINE__READY = 16,
    TINE__RESULT,
    TINE__ERROR,
    TINE__EVENT,
    TINE__RETIRE,
    TINE__TRACE,
    TINE__SKIPPED,
    TINE__FATAL,
    TINE__PROMOTED,
    TINE__FAULT,
    TINE__FDS
};

#define TINE__CALL_HEAD 16
#define TINE__CALL_TIMES 16
#define TINE__CALL_FDS 8
#define TINE__CALL_MAGIC 0x7463u

/* Why a call is to end before it has. */
enum tine__reason { TINE__REASON_NONE, TINE__REASON_TIMEOUT, TINE__REASON_CANCEL };

typedef struct tine__call_head {
    uint32_t len;
    int type;
    uint64_t serial;
} tine__call_head;

static inline void tine__call_head_put(unsigned char to[TINE__CALL_HEAD], int type,
                                       uint64_t serial, uint32_t len)
{
    uint32_t word = htole32((uint32_t)type | (uint32_t)TINE__CALL_MAGIC << 16);
    len = htole32(len);
    serial = htole64(serial);
    memcpy(to, &len, 4);
    memcpy(to + 4, &word, 4);
    memcpy(to + 8, &serial, 8);
}

/* Returns false for garbage. */
static inline bool tine__call_head_get(tine__call_head *head,
                                       const unsigned char from[TINE__CALL_HEAD])
{
    uint32_t word;
    memcpy(&head->len, from, 4);
    memcpy(&word, from + 4, 4);
    memcpy(&head->serial, from + 8, 8);
    head->len = le32toh(head->len);
    head->serial = le64toh(head->serial);
    word = le32toh(word);
    head->type = (int)(word & 0xff);
    return word >> 16 == TINE__CALL_MAGIC && (word >> 8 & 0xff) == 0;
}

/* ------------------------------------------------------------- the shared page
 *
 * A worker serving calls maps one region: a page of status, then a ring. Only the worker
 * and the host map it, and the worker only its own.
 *
 * Answers that fit are put into the ring, and sent from there, many at a time. `tail` is the
 * offset in the stream of worker to host up to which there is something to send, all sent
 * bytes included: byte `o` lies at ring[o % TINE__RING]. One store of tail makes a whole
 * frame appear. So what a worker had answered and not sent when it died is not lost: the host
 * takes the bytes between what it has received and tail from the ring. A frame that does
 * not fit is sent from elsewhere with the ring empty, and tail moved behind it afterwards:
 * what lies in a socket outlives its sender.
 *
 * `started` is stored before a call starts, when all before it have been answered. So of a
 * dead worker, when its stream and ring are used up: calls up to `started` that have no
 * answer were running, those above it had not started.
 *
 * recall: bit (serial % TINE__WINDOW) set by the host takes a call back that is handed over
 * but not started. Both sides store, then fence (seq_cst), then load: the worker `started`,
 * then the bit; the host the bit, then `started`. If the host finds started < serial, the
 * call will not start; the worker answers SKIPPED. Sync only: with async there is no window,
 * and a CANCEL frame instead. The worker clears the bit of a call when it answers it.
 *
 * starts: when a call started, at serial % TINE__WINDOW, async only: there many run at a time.
 * The worker stores it before `started`. A later call takes the place of one that is
 * TINE__WINDOW before it; the host looks before it hands such a one over.
 *
 * flushed and sends are hints: who waits awake looks at them, since looking at a socket that the
 * other side writes to at this moment costs both a lock, and on a virtual machine a halt.
 *
 * Signal TINE__SIGNAL makes a worker look at the page: at stop (raise an error in that call if
 * it runs, once) and at trace_asked (say the traceback, then store trace_told). It does not
 * interrupt system calls that can be restarted, but for those of a call that is to end, when it
 * comes again: the host sends it until that has ended.
 *
 * Async: calls that wait are ended by CANCEL frames. Only the one whose code keeps the loop from
 * reading them needs the signal, so the host puts into stop the one that it finds in `running`,
 * and looks again while one that is to end has not. The worker looks at stop whenever it goes on
 * with a call. */
#define TINE__WINDOW 256u
#define TINE__RING 16384u
#define TINE__PAGE_STATUS 4096u
#define TINE__REGION (TINE__PAGE_STATUS + TINE__RING)
#define TINE__SIGNAL SIGURG

typedef struct tine__page {
    /* Written by the worker: a cache line. */
    _Alignas(
        64) _Atomic uint64_t started; /* serial of the last call that has started */
    _Atomic uint64_t started_ns;      /* when; CLOCK_MONOTONIC */
    _Atomic uint64_t tail;
    _Atomic uint64_t trace_told;
    _Atomic uint64_t flushed;  /* bytes of the stream that are in the socket */
    _Atomic uint64_t running;  /* async: serial of the call whose code runs, or 0 */
    _Atomic uint32_t idle;     /* nothing runs: the worker waits for calls */
    _Atomic uint64_t began_ns; /* when it was told to serve, before init; 0: not yet */
    /* Written by the host. */
    _Alignas(
        64) _Atomic uint64_t stop; /* serial * 2, + 1: it was cancelled, not late */
    _Atomic uint64_t trace_asked;
    _Atomic uint64_t sends; /* how often the host has written to the socket */
    _Atomic int32_t cpu;    /* and on which CPU it was then */
    _Alignas(64) _Atomic uint64_t recall[TINE__WINDOW / 64];
    _Alignas(64) _Atomic uint64_t starts[TINE__WINDOW]; /* the worker; as started_ns */
    /* Written by the worker: its interpreter's memory when the last call ended (async: in
     * the last turn of its loop). heap is not 0 when the others are there. */
    _Alignas(64) _Atomic int64_t own;
    _Atomic int64_t shared, sealed;
    _Atomic int64_t template_own; /* as it was before init */
    _Atomic uint32_t seals;
    _Atomic uint32_t heap; /* tine_heap_kind */
    char seal_failed[TINE_MEMORY_TEXT];
} tine__page;

_Static_assert(sizeof(tine__page) <= TINE__PAGE_STATUS, "the status is a page");

#endif
