/* What the files that stand for tine_rpc and tine_pool in Lua share: rpc.c (the userdata, its
 * options and events), calls.c (calls and their answers), pool.c. Knows of the core what tine.h
 * says. */
#ifndef TINE_BIND_RPC_H
#define TINE_BIND_RPC_H

#include "state.h"
#include "values/codec.h"

/* User values of an rpc or pool. */
enum {
    BIND_RPC_ON_EVENT = 1, /* the handlers: functions, or nil */
    BIND_RPC_ON_ERROR,
    BIND_RPC_ON_LINE,
    BIND_RPC_ON_DRAIN,
    BIND_RPC_ON_DESTROY,
    BIND_RPC_CODEC,
    BIND_RPC_AGAIN,   /* the function that says whether a job is tried again, or nil */
    BIND_RPC_CLOSERS, /* a list of functions to be called when all has gone, or nil */
    BIND_RPC_NSLOTS = BIND_RPC_CLOSERS
};

typedef struct bind_rpc {
    bind_object object; /* core: a tine_rpc or a tine_pool */
    int is_pool;
    int strings; /* the serialiser is "string" */
    tine__codec *codec;
    size_t pending; /* calls and questions without an answer: anchored meanwhile */
    int closing;
    int counted;     /* in idle_key: somebody waits for its on_destroy */
    int wants_death; /* it has an on_destroy */
} bind_rpc;

extern const char bind_rpc_type[];

/* The rpc or pool at index 1, which must be one. */
bind_rpc *bind_rpc_self(lua_State *L);
/* One answer more, or one less, is owed. */
void bind_rpc_owe(lua_State *L, int idx, bind_rpc *b);
void bind_rpc_paid(bind_rpc *b);
/* As bind_fail, with words for what can befall an rpc or pool. */
int bind_rpc_fail(lua_State *L, const bind_rpc *b, const char *what, int rc);
/* Stack that is left above values, so that a function can be called with them. */
#define BIND_CALL_ROOM 1000
/* Pushes the values, decoded; returns how many, or -1 with a message. */
int bind_rpc_values(lua_State *L, bind_rpc *b, const tine_str *values, size_t n);

/* On top is why an event cannot be decoded: tells on_error, or stderr. */
void bind_rpc_lost_event(lua_State *L, bind_rpc *b);

/* job.c: sets functions of jobs in the table on top; before calls.c. */
void bind_job_open(lua_State *L);
/* calls.c: sets the functions that call in the table on top. */
void bind_calls_open(lua_State *L);
/* Whether the user wants a job to be tried again, by the function of the pool arg. */
int bind_calls_again(void *arg, tine_job *core, const tine_error *err, unsigned tries);
/* Encodes the values from first to last as the C API takes them. Returns the number of
 * tine_str, which are valid until the next call, or -1 with a message pushed. */
int bind_calls_encode(lua_State *L, bind_rpc *b, int first, int last, tine_str **out);

/* pool.c */
void bind_pool_open(lua_State *L);

/* rpc.c */
void bind_rpc_open(lua_State *L);
/* Reads the field `retries` of the table at idx, a number or a table. Returns 0 where it is nil, 2
 * where its `exception` is a function, which is pushed then, else 1. */
int bind_pool_retries(lua_State *L, int idx, unsigned *crash, tine_retry *r);
/* Reads the pool's own options from the table at idx, for the userdata at self. */
void bind_pool_options(lua_State *L, int self, int idx, tine_pool_options *o);
int64_t bind_field_usec(lua_State *L, int idx, const char *name);

#endif
