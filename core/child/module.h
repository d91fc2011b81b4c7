/* What the module `tine` gives to the async backend, which runs in its loop, and gets from it. The
 * module lies above: it leaves its part, a light userdata, in the registry. Knows nothing of the
 * module beyond. */
#ifndef TINE_CHILD_MODULE_H
#define TINE_CHILD_MODULE_H

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

#include "tine.h"

#define TINE__MODULE "tine.module"
/* Registry: a tine__interrupts of the child's, a light userdata, for the module to fill in. */
#define TINE__INTERRUPTS "tine.interrupts"

typedef struct tine__interrupts {
    /* Makes a poll of the module's loop that is under way return. Called in a signal handler. */
    void (*volatile loop)(void);
} tine__interrupts;

/* What an async worker gives to the module, so that callbacks and coroutines belong to the job that
 * has started them. */
typedef struct tine__jobs {
    /* The job whose code runs, or 0; and that another one's does from now on. */
    uint64_t (*current)(void);
    void (*enter)(uint64_t job);
    /* The job that a coroutine belongs to, or 0. */
    uint64_t (*of)(lua_State *L, lua_State *co);
    /* Message handler of callbacks. */
    lua_CFunction handler;
    /* An error, on top, in what belongs to the job. Returns whether that is told; else the error is
     * nobody's, and has its traceback. */
    int (*failed)(lua_State *L, uint64_t job);
} tine__jobs;

typedef struct tine__module {
    /* The state's link to its host, made where there is none; NULL: there can be none, and nil and
     * an err are pushed. */
    void *(*link)(lua_State *L);
    tine_host *(*host)(const void *link);
    void (*take_jobs)(void *link, const tine__jobs *jobs);
    /* Calls f with arg as a light userdata: an error in it goes where those of callbacks go. */
    int (*enter)(void *link, lua_CFunction f, void *arg);
    /* Whether a callback runs. In a signal handler, too. */
    bool (*is_entered)(const void *link);
} tine__module;

#endif
