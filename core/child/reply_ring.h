/* A worker's end of the call stream: requests in, answers out; see call.h. One for a process.
 * Knows no Lua. What fails because the host is gone ends the process. */
#ifndef TINE_CHILD_REPLY_RING_H
#define TINE_CHILD_REPLY_RING_H

#include <stdbool.h>

#include "tine.h"
#include "wire/call.h"
#include "wire/passing.h"

/* Takes fd (the stream) and memfd. passes: whether calls may bring descriptors. Returns 0 or a
 * negative errno. */
int tine__reply_open(int fd, int memfd, uint64_t offset, bool passes);
/* Sends what waits, and PROMOTED; gives the stream back. The page is not ours any more. */
int tine__reply_close(void);
tine__page *tine__reply_page(void); /* NULL: this process serves no calls */

/* Queues a frame whose body is the parts one after another. What is queued survives our death,
 * and goes out with the next flush. May write, and wait for the host, when the queue is full
 * or the frame large. */
void tine__reply_put(int type, uint64_t serial, const tine_str *parts, size_t nparts);
/* Sends descriptors for the next frame, which has that serial. Waits for the host where need be. */
void tine__reply_put_fds(uint64_t serial, const int *fds, size_t n);
void tine__reply_error(int type, uint64_t serial, const uint64_t times[2],
                       tine_kind kind, tine_str message, tine_str traceback,
                       tine_str value);
/* Sends what is queued; wait: all of it, however long that takes. Returns whether all has
 * gone. */
bool tine__reply_flush(bool wait);
/* Whether so much waits that it should be sent while calls are carried out. */
bool tine__reply_is_time(void);
/* The user's code is about to run: what waits is sent by a signal if that takes longer than
 * a millisecond. Costs nothing when nothing waits, or a signal is on its way already. */
void tine__reply_arm(void);
/* The signal is not to send what waits: what the last call has printed is not complete yet. */
void tine__reply_hold(bool held);
/* In the signal's handler. */
void tine__reply_on_signal(void);

/* The next request. Returns 1, 0 (none, with wait false), or -1 at the end of the stream. *body is
 * valid until the next call. */
int tine__request(tine__call_head *head, const unsigned char **body, bool wait);
/* The descriptors that came with it: set to -1 what is taken. */
tine__inbox *tine__request_fds(void);
/* Whether one is there that asks for no system call. */
bool tine__request_ready(void);
int tine__reply_fd(void);

#endif
