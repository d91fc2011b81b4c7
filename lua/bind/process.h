/* Process handles, as process.c (commands), process_new.c and process_events.c share them. Knows
 * of the core what tine.h says. */
#ifndef TINE_BIND_PROCESS_H
#define TINE_BIND_PROCESS_H

#include "state.h"

#define BIND_PROCESS "tine.process"

/* The user values of a handle. The first three are lists of functions or nil. */
enum {
    BIND_ON_EXIT = 1,
    BIND_ON_ERROR,
    BIND_ON_READY,
    BIND_ON_FD,
    BIND_ON_STDOUT,
    BIND_ON_STDERR,
    BIND_ON_MEMORY, /* a list of functions, in the order asked */
    BIND_NSLOTS = BIND_ON_MEMORY
};

/* What used the handle up. */
enum { BIND_BY_RUN = 1, BIND_BY_TO_FD, BIND_BY_RPC, BIND_BY_POOL };

typedef struct bind_process {
    bind_object object; /* its core is a tine_proc */
    pid_t pid;          /* once closed */
    int consumer;
    int closing;    /* tine_proc_close was called, on_exit is still to come */
    int exited;     /* on_exit has been delivered */
    int exit_owed;  /* ... and is to be once more, for new callbacks */
    int ready_owed; /* on_ready is to come */
} bind_process;

/* Pushes a handle without a process. */
bind_process *bind_process_push(lua_State *L, bind_state *state);
/* The handle at index 1, of this very process. Raises as bind_raise does. */
bind_process *bind_process_check(lua_State *L, int level, const char *method);
/* The same, and it is not consumed. */
bind_process *bind_process_check_unused(lua_State *L, int level, const char *method);
/* The same, and it is neither closed nor consumed. */
bind_process *bind_process_check_open(lua_State *L, int level, const char *method);
/* Ends a method that queued something at the handle at index 1, with the core's answer.
 * Leaves and returns the handle, also when the process has already ended. */
int bind_process_queued(lua_State *L, bind_process *b, int level, const char *method,
                        int rc);
/* Anchors the handle at idx in the registry if it has business, else releases it. */
void bind_process_settle(lua_State *L, int idx, bind_process *b);
/* Releases it if it has no business. Raises nothing. */
void bind_process_unwind(bind_process *b);

/* memory.c: sets what is known of m in the table on top. */
void bind_set_memory(lua_State *L, const tine_memory *m);
int bind_process_memory(lua_State *L);
int bind_process_loaded(lua_State *L);

/* process_new.c: adds the functions that make handles to the table on top. */
void bind_process_open_births(lua_State *L);

/* process_events.c: adds the functions that take callbacks to the table on top. */
void bind_process_open_events(lua_State *L);
/* Gives the handle on top its new process. */
void bind_process_born(lua_State *L, bind_process *b, tine_proc *p);
/* Asks for on_exit of a process that has ended to be delivered once more. */
int bind_process_repeat_exit(bind_process *b);
/* Is told each line of stdout, stderr; its argument is the handle. */
void bind_process_on_stdout(void *arg, tine_proc *p, const char *line, size_t len);
void bind_process_on_stderr(void *arg, tine_proc *p, const char *line, size_t len);

#endif
