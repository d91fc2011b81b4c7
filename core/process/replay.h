/* What a process was told before it was consumed, so that another can be made like it: a list,
 * newest first, which forks share. Immutable and counted. NULL stands for what cannot be made
 * again: it came from elsewhere, a function of the host's gets its output, or it was too much.
 * Knows nothing of what commands mean. */
#ifndef TINE_PROCESS_REPLAY_H
#define TINE_PROCESS_REPLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "tine.h"

enum {
    TINE__REPLAY_BYTES = 16 << 20, /* of commands, of all that one process was told */
    TINE__REPLAY_FDS = 64,         /* each is one more descriptor of the host's */
    TINE__REPLAY_BIRTH = 0         /* no type of a frame */
};

typedef struct tine__replay tine__replay;

/* A birth, or a command. */
struct tine__replay {
    tine__replay *before;
    unsigned refs;
    int type;
    size_t bytes, fds, count; /* with all before */
    tine_stdio_how stdio[3];  /* of a birth */
    bool detach;
    size_t len, nfds;
    int *fd;     /* owned; of a birth three, -1 where there is none */
    char data[]; /* the command's body; of a birth its name. And a NUL */
};

tine__replay *tine__replay_ref(tine__replay *r);
void tine__replay_unref(tine__replay *r);
/* r (taken), and then another birth: of an interpreter where r is NULL and exec is true, else a
 * fork. options may be NULL. */
tine__replay *tine__replay_birth(tine__replay *r, const tine_proc_options *options,
                                 bool exec);
/* r (taken), and then a command; all else is borrowed. */
tine__replay *tine__replay_command(tine__replay *r, int type, const tine_str *parts,
                                   size_t nparts, const int *fds, size_t nfds);
/* replay_make.c: a new process, by exec, that is told all of it. Gives *out. Returns 0 or a negative errno. */
int tine__replay_make(tine_host *host, const tine__replay *r, tine_proc **out);

#endif
