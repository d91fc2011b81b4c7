/* Exec of an interpreter from a host of any size and with any number of threads. Knows nothing of
 * the command socket but its number there. */
#ifndef TINE_PROCESS_LOCAL_EXEC_H
#define TINE_PROCESS_LOCAL_EXEC_H

#include <stdbool.h>
#include <sys/types.h>

/* In place of a descriptor for stdio. */
enum { TINE__EXEC_NULL = -1, TINE__EXEC_INHERIT = -2 };

typedef struct tine__exec_args {
    const char *path;
    int command_fd;                   /* becomes TINE__EXEC_FD */
    int stdio[3];                     /* a descriptor, or one of the above */
    bool detach;                      /* no tie to this process's life */
    bool apart;                       /* a session of its own, without a terminal */
    bool sweeps;                      /* it is the sweeper: see sweeper.h */
    const char *lua_path, *lua_cpath; /* or NULL */
} tine__exec_args;

#define TINE__EXEC_FD 3
#define TINE__EXEC_NAME "tine-template" /* argv[0] of an interpreter */

/* Blocks until the exec has happened. Gives *pidfd. On failure returns a negative errno and
 * sets *step to what could not be done, a static text. */
int tine__exec_start(const tine__exec_args *args, pid_t *pid, int *pidfd,
                     const char **step);
/* Where the interpreter is when nobody says: this program, if it has said that it is one, beside
 * the library, $TINE, PATH, where the library was to be installed. Gives a malloc'ed path, or NULL
 * when there is none. */
char *tine__exec_find(void);
/* From now on this program is its own interpreter. */
void tine__exec_self(void);

#endif
