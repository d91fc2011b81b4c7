/* What the files of a worker that serves calls share: rpc_server.c (its beginning and the parts of
 * a call), sync.c, async.c, interrupt.c. Knows nothing of the host but the call stream
 * (reply_ring.h). */
#ifndef TINE_CHILD_RPC_SERVER_H
#define TINE_CHILD_RPC_SERVER_H

#include <lua.h>

#include "base/clock.h"
#include "child.h"
#include "failure.h"
#include "reply_ring.h"
#include "values/codec.h"

typedef struct tine__rpc_server {
    lua_State *L;
    tine__child *child;
    tine__codec *codec;
    bool async, marks, retired, encodes_error;
    int func, done;      /* registry references; done: LUA_NOREF without one */
    int anchor, args;    /* likewise: of the codec; of what init got, or LUA_NOREF */
    uint64_t serial;     /* of the call whose code runs now, or 0 */
    tine__buf out;       /* scratch */
    tine__buf event_out; /* likewise: events are made while out is in use */
    tine__buf error_out; /* likewise */
} tine__rpc_server;

extern tine__rpc_server tine__server;

/* Serialises the error, where it is no text; without a value where that fails. The value is valid
 * until the next one is. */
void tine__failure_value(tine__failure *f);
/* Answers a call with an error. */
void tine__reply_failure(uint64_t serial, const uint64_t times[2],
                         const tine__failure *f);
/* Pushes what a call brought; as tine__codec_decode. */
int tine__rpc_server_decode(lua_State *L, uint64_t serial, const void *data,
                            size_t len);
/* Sends the descriptors among what was encoded last, for a frame with that serial. */
void tine__rpc_server_put_fds(uint64_t serial);
/* Async: whose code runs from now on; 0: no call's. */
void tine__rpc_server_switch(uint64_t serial);
/* Writes the marks to stdout and stderr. */
void tine__mark(uint64_t serial);

/* Functions for the table "tine.child". */
void tine__rpc_server_functions(lua_State *L);

/* No more calls will come: calls `done`, and leaves. */
void tine__rpc_server_finish(const tine__rpc_server *s) __attribute__((noreturn));
/* Tells the host why, and leaves. */
void tine__rpc_server_fatal(const tine__failure *f) __attribute__((noreturn));

/* Returns when the worker is to become a template. */
void tine__sync_run(tine__rpc_server *s);
void tine__async_run(tine__rpc_server *s) __attribute__((noreturn));
/* The call that a coroutine belongs to, or 0; and that it belongs to one from now on. */
uint64_t tine__async_call_of(lua_State *L, lua_State *co);
void tine__async_adopt(lua_State *L, lua_State *co, uint64_t serial);
bool tine__async_is_open(lua_State *L, uint64_t serial);

/* Whether a callback of the loop runs. In a signal handler, too. */
bool tine__async_in_callback(void);
/* Answers a question for a traceback: no call's code runs. */
void tine__async_tell(uint64_t number);

/* interrupt.c */
/* Puts resume and wrap in the place of the coroutine library's, to know which one runs. */
void tine__interrupt_open(lua_State *L);
/* Installs the handler of TINE__SIGNAL. */
void tine__interrupt_serve(lua_State *L);
/* Undoes that. */
void tine__interrupt_end(void);
/* The call that was to end has got the error, or has ended by itself. */
void tine__interrupt_calm(void);
/* Answers the question for a traceback with that number by the body of a TRACE. */
void tine__interrupt_tell(uint64_t number, const tine_str *parts, size_t nparts);
/* Answers a question for a traceback that has not been answered, when nothing runs. */
void tine__interrupt_settle(void);

#endif
