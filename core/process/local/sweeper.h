/* One small process a host, which outlives it by a moment and ends what would be left then: what
 * was started by workers that died together with their template and the host, so that nobody is
 * there to see to it. It knows the sessions that the host's templates lead; all that they have made
 * is in these, unless it left them. A worker costs nothing.
 *
 * A SOCK_SEQPACKET from the host brings a message for each session: i32, its leader; fd: pidfd of
 * that. It ends with the host. */
#ifndef TINE_PROCESS_LOCAL_SWEEPER_H
#define TINE_PROCESS_LOCAL_SWEEPER_H

#include "local_priv.h"

/* l leads a session, or is to be killed by itself. Where there is no interpreter, or no room for
 * one more process, l goes without. */
void tine__sweeper_watch(const tine__local *l);
/* An interpreter has not answered, or wrongly. When none has done it well, what runs as the sweeper is no sweeper, and is
 * ended; the next process brings another one. */
void tine__sweeper_doubt(tine__local_host *h);
/* Nothing is left to be swept. */
void tine__sweeper_end(tine__local_host *h);

#endif
