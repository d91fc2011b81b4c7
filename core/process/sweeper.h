/* One small process a host, which outlives it by a moment and ends what would be left then: what
 * was started by workers that died together with their template and the host, so that nobody is
 * there to see to it. It knows the sessions that the host's templates lead; all that they have made
 * is in these, unless it left them. A worker costs nothing.
 *
 * A SOCK_SEQPACKET from the host brings a message for each session: i32, its leader; fd: pidfd of
 * that. It ends with the host. */
#ifndef TINE_PROCESS_SWEEPER_H
#define TINE_PROCESS_SWEEPER_H

#include "process.h"

/* p leads a session, or is to be killed by itself. Where there is no interpreter, or no room for
 * one more process, p goes without. */
void tine__sweeper_watch(tine_host *host, const tine_proc *p);
/* Nothing is left to be swept. */
void tine__sweeper_end(tine_host *host);

#endif
