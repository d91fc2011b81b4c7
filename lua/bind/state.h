/* What ties a Lua state to the core: the state's host, the userdata that stand
 * for things of the core, and calls from the core into Lua. Only files that use tine.h
 * see it. Knows of the core what tine.h says. */
#ifndef TINE_BIND_STATE_H
#define TINE_BIND_STATE_H

#include <lua.h>

#include "child/module.h"
#include "tine.h"

typedef struct bind_state bind_state;
typedef struct bind_object bind_object;

/* The head of each userdata that stands for something of the core. */
struct bind_object {
    bind_state *state;
    bind_object *next, **prev; /* in state->objects while core is not NULL */
    void *core;   /* the tine_proc, tine_timer, ...; NULL: none (any more) */
    int anchored; /* in the registry */
    int stale;    /* core went with a fork of the process */
    uint64_t job; /* in an async worker: whose code has made it, or 0 */
};

/* One for each Lua state. */
struct bind_state {
    lua_State *L;         /* the main state, in which callbacks run */
    tine_host *host;      /* NULL until it is needed */
    bind_object *objects; /* all with a core */
    size_t watchers;      /* active timers and descriptors */
    lua_Unsigned calls;   /* from the core so far */
    volatile int entered; /* of them, under way */
    int depth;            /* polls under way */
    void *call_records;   /* of calls.c; valid for as long as the host is */
    void (*free_calls)(void *call_records); /* NULL: there are none */
    int stopping;                           /* the poll under way is to return */
    int nerrors; /* errors of callbacks that are to be raised */
    int closed;  /* the state is being closed */
    /* Or NULL. */
    const tine__jobs *jobs;
};

/* Makes it, unless it is there. */
void bind_state_open(lua_State *L);
/* L's, with a host for this very process, or without (NULL) if making it
 * failed: then nil and an err are pushed. Raises when the state is being closed. */
bind_state *bind_state_host(lua_State *L);
/* L's, which may have no host. If the process was forked off the one that
 * made the host, the host is gone after this call, and its objects are stale. */
bind_state *bind_state_check(lua_State *L);
/* In a process forked by the core: forgets the host and all that belongs to it, which
 * is not freed. */
void bind_state_forked(lua_State *L);

/* Initialises the object on top of the stack, which has no core yet. */
void bind_object_init(bind_state *state, bind_object *o);
/* Gives o its core, or takes it away. */
void bind_object_attach(bind_object *o, void *core);
void bind_object_detach(bind_object *o);
/* Keeps the userdata at idx from being collected. */
void bind_object_anchor(lua_State *L, int idx, bind_object *o);
/* Lets it be collected again; raises nothing. */
void bind_object_release(bind_object *o);
/* Makes a userdata that is not anchored known to bind_object_push. */
void bind_object_know(lua_State *L, int idx, bind_object *o);
/* Pushes the userdata of o. Gives nil if it is not anchored, and the collector has
 * found that it is garbage. Raises nothing. */
void bind_object_push(lua_State *L, bind_object *o);

/* Calls f with arg as a light userdata, from a callback of the core, in the name of the job that o
 * belongs to: an error in it goes where bind_call puts it. Returns 0 when f could not even be
 * called. */
int bind_enter_for(bind_object *o, lua_CFunction f, void *arg);
/* The same in nobody's name, but f calls the user by lua_call, once and last: an error goes where bind_call
 * would put it. Costs half as much. */
int bind_enter_call(bind_state *state, lua_CFunction f, void *arg);
/* Inside of bind_enter_for: calls the function under the nargs values on top. An error that
 * it raises is kept, with the traceback if it is a string, and stops the loop. */
void bind_call(bind_state *state, int nargs);
/* The same; returns whether its first result is true. */
int bind_ask(bind_state *state, int nargs);
/* Pops the error on top: it is the running job's, or kept, and stops the loop. */
void bind_keep_error(lua_State *L, bind_state *state);
/* Raises the oldest error kept, if there is one. */
void bind_raise_kept(lua_State *L, bind_state *state);

/* Pushes the err table for a failure that the core tells of. */
void bind_push_failure(lua_State *L, const tine_error *err);
/* Pushes nil and an err for a negative result of the core, with a message "WHAT: text".
 * Returns 2. */
int bind_fail(lua_State *L, const char *what, int rc);
/* Raises a message that blames the function at a level: 1 is the caller of the running
 * C function, 2 the caller of that. The format is one of lua_pushfstring. */
int bind_raise(lua_State *L, int level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* signals.c: the signal at idx: a number, "TERM" or "SIGTERM". Raises if it is none. */
int bind_signal_check(lua_State *L, int idx);
/* raise(signal): ends the process by it, where it can. */
int bind_signal_raise(lua_State *L);

/* terminal.c: terminal_width(fd): columns, or nil where that is no terminal. */
int bind_terminal_width(lua_State *L);
/* unread(fd or path): the bytes of a regular file that are still to be read; nil for others. */
int bind_unread(lua_State *L);
/* open_input(path): a descriptor to read from, or nil and a message. Never waits. */
int bind_open_input(lua_State *L);

/* cpus.c: the processors that this process may use, at least 1. root is put before the
 * paths of proc and sys, for tests: "" for the system's own. */
int bind_cpus(const char *root);

/* files.c: after a fork that has closed all descriptors but 0, 1, 2 and some, keeps
 * only those Lua files usable that have one of these. keep, nkeep: the others that are
 * open; idx: a list of values, of which some may be Lua files for them. */
void bind_files_forked(lua_State *L, const int *keep, size_t nkeep, int idx);

/* Each pushes a table of its functions. */
void bind_loop_open(lua_State *L);
void bind_process_open(lua_State *L);

#endif
