/* What calls.c (calls and their answers) and job.c (the userdata that stand for calls under way)
 * share: the records of calls. */
#ifndef TINE_BIND_CALLS_H
#define TINE_BIND_CALLS_H

#include <stdint.h>

#include "rpc.h"

enum { BIND_CHUNK = 256 };

typedef struct bind_record {
    bind_rpc *rpc;
    tine_job *job; /* NULL: free */
    uint32_t slot, next_free, generation;
    int has_event;  /* a handler of its own */
    int has_again;  /* and a function that says whether it is tried again */
    uint64_t owner; /* in an async worker: the call whose code made this one, or 0 */
} bind_record;

/* Of a Lua state; a userdata in its registry. */
typedef struct bind_calls {
    bind_record **chunks;
    uint32_t nchunks, free; /* slots count from 1; 0: none */
    tine_str *strs;
    size_t max_strs;
    tine__buf out;
    int callbacks, events, agains; /* registry references */
} bind_calls;

typedef struct bind_job {
    uint32_t slot, generation;
    lua_Integer id;
} bind_job;

static inline bind_record *bind_record_at(const bind_calls *c, uint32_t slot)
{
    return &c->chunks[(slot - 1) / BIND_CHUNK][(slot - 1) % BIND_CHUNK];
}

/* job.c */
extern const char bind_job_type[];
extern const char bind_calls_key; /* of the registry: the state's calls */

/* NULL: not opened yet. */
bind_calls *bind_calls_get(lua_State *L);

#endif
