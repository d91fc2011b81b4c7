/* What all workers of an rpc or a pool have in common, and the calls for them, made but not
 * handed over: bytes in memory. Knows nothing of processes and sockets. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "wire/protocol.h"

enum { DEFAULT_GRACE = 1000000, DEFAULT_SPAWN = 10000000, ALIGNMENT = 16 };

/* How many freed jobs are kept, of at most so many bytes: making one by malloc costs a tenth of
 * a call. */
#ifdef __SANITIZE_ADDRESS__
enum { SPARE = 0, SPARE_ROOM = 0 };
#else
enum { SPARE = 256, SPARE_ROOM = 512 };
#endif

static void put_func(tine__buf *b, const tine_func *func)
{
    tine__buf_u32(b, (uint32_t)func->kind);
    tine__buf_str(b, func->data ? func->data : "", func->data ? func->len : 0);
}

int tine__rpc_config_init(tine__rpc_config *s, tine_host *host, const tine_func *func,
                          const tine_rpc_options *options)
{
    static const tine_rpc_options defaults;
    const tine_rpc_options *o = options ? options : &defaults;
    memset(s, 0, sizeof *s);
    if (func->len > UINT32_MAX || o->init.len > UINT32_MAX ||
        o->done.len > UINT32_MAX || o->source.len > UINT32_MAX)
        return -EMSGSIZE;
    s->host = host;
    s->serialiser = o->serialiser;
    s->async = o->async != 0;
    s->grace_usec = o->grace_usec > 0 ? o->grace_usec : DEFAULT_GRACE;
    s->spawn_timeout_usec =
        o->spawn_timeout_usec > 0 ? o->spawn_timeout_usec : DEFAULT_SPAWN;
    s->on_output = o->on_output;
    tine__buf_u32(&s->serve, (s->async ? TINE__SERVE_ASYNC : 0) |
                                 (s->on_output ? TINE__SERVE_MARKS : 0));
    tine__buf_u32(&s->serve, (uint32_t)s->serialiser);
    tine__buf_str(&s->serve, o->source.data ? o->source.data : "",
                  o->source.data ? o->source.len : 0);
    put_func(&s->serve, func);
    put_func(&s->serve, &o->init);
    put_func(&s->serve, &o->done);
    if (!s->serve.failed)
        return 0;
    tine__rpc_config_free(s);
    return -ENOMEM;
}

void tine__rpc_config_free(tine__rpc_config *s)
{
    while (s->spare) {
        tine_job *job = s->spare;
        s->spare = job->next;
        free(job);
    }
    s->nspare = 0;
    tine__buf_free(&s->serve);
}

/* ------------------------------------------------------------------- jobs */

/* The size of the payload, or 0 with *err set. */
static size_t payload_size(const tine__rpc_config *s, const tine_str *args, size_t n,
                           int *err)
{
    size_t size = 0, each = s->serialiser == TINE_STRINGS ? 4 : 0;
    *err = 0;
    if (s->serialiser != TINE_STRINGS && n != 1)
        *err = -EINVAL;
    for (size_t i = 0; i < n && !*err; i++) {
        if (args[i].len > UINT32_MAX - each - size)
            *err = -EMSGSIZE;
        else
            size += each + args[i].len;
    }
    return *err ? 0 : size;
}

static void put_le32(unsigned char *to, uint32_t v)
{
    to[0] = (unsigned char)v;
    to[1] = (unsigned char)(v >> 8);
    to[2] = (unsigned char)(v >> 16);
    to[3] = (unsigned char)(v >> 24);
}

/* Memory for a job, of job->room bytes. */
static tine_job *take_memory(tine__rpc_config *s, size_t room)
{
    tine_job *job = s->spare;
    if (job && job->room >= room) {
        s->spare = job->next;
        s->nspare--;
        return job;
    }
    job = malloc(room);
    if (job)
        job->room = room;
    return job;
}

static int job_alloc(tine__rpc_config *s, tine_job **out, size_t size, size_t extra)
{
    size_t at = (sizeof(tine_job) + size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    tine_job *job = take_memory(s, at + extra);
    if (!job)
        return -ENOMEM;
    *job = (tine_job){.room = job->room, .len = size};
    if (extra) {
        job->pool = (void *)((unsigned char *)job + at);
        memset((void *)job->pool, 0, extra);
    }
    *out = job;
    return 0;
}

int tine__job_new_bare(tine_job **out, tine__rpc_config *s, const tine_str *args,
                       size_t n, size_t extra)
{
    int err;
    payload_size(s, args, n, &err);
    return err < 0 ? err : job_alloc(s, out, 0, extra);
}

int tine__job_new(tine_job **out, tine__rpc_config *s, const tine_str *args, size_t n,
                  size_t extra)
{
    int err;
    size_t size = payload_size(s, args, n, &err);
    if (!err)
        err = job_alloc(s, out, size, extra);
    if (err < 0)
        return err;
    unsigned char *to = (*out)->payload;
    for (size_t i = 0; i < n; i++) {
        if (s->serialiser == TINE_STRINGS) {
            put_le32(to, (uint32_t)args[i].len);
            to += 4;
        }
        if (args[i].len)
            memcpy(to, args[i].data, args[i].len);
        to += args[i].len;
    }
    return 0;
}

int tine__job_fds(const tine__rpc_config *s, tine_job *job, const int *fds, size_t n)
{
    if (n && s->serialiser == TINE_STRINGS)
        return -EINVAL; /* nothing could name them there */
    return n ? tine__fds_new(&job->fds, fds, n) : 0;
}

void tine__job_free(tine__rpc_config *s, tine_job *job)
{
    tine__fds_unref(job->fds);
    if (s->nspare + 1 > SPARE || job->room > SPARE_ROOM) {
        free(job);
        return;
    }
    job->next = s->spare;
    s->spare = job;
    s->nspare++;
}

uint64_t tine_job_id(const tine_job *job)
{
    return job->id;
}
