/* Each function of the public header that has to do with pools and rpcs, against real workers, as
 * a C program uses it; and arguments and results in MessagePack, made and read by its C library. */
#include <math.h>
#include <msgpack.h>
#include <signal.h>

#include "host_test.h"

#define HOST(body) host_run(#body, body)

static const char code[] =
    "version, n = ..., 0\n"
    "local worker = require 'tine'\n"
    "local function spin() while true do end end\n"
    "function work(what, ...)\n"
    "  n = n + 1\n"
    "  if what == 'echo' then return ... end\n"
    "  if what == 'version' then return version end\n"
    "  if what == 'count' then return tostring(n) end\n"
    "  if what == 'pid' then\n"
    "    local f <close> = io.open('/proc/self/stat')\n"
    "    return f:read('l'):match('%d+')\n"
    "  end\n"
    "  if what == 'event' then worker.event(...) return ... end\n"
    "  if what == 'add' then local a, b = ... return a + b end\n"
    "  if what == 'spin' then spin() end\n"
    "  error('as told', 0)\n"
    "end\n"
    "function async(done, ...) done(work(...)) end\n";

enum { MOST = 16, ROOM = 200 };

/* What callbacks have told. */
static struct {
    int ends, oks, gone, told, texts, events;
    char first[MOST][ROOM]; /* of each end: its first result, or the message */
    tine_kind kind;         /* of the last error */
    bool ok;                /* of the last fault: there was none */
    char text[4000];
} w;

static tine_str str(const char *text)
{
    return (tine_str){text, strlen(text)};
}

static void copy(char *to, size_t size, const void *data, size_t len)
{
    (void)snprintf(to, size, "%.*s", (int)len, (const char *)data);
}

static void on_end(void *arg, tine_job *job, const tine_error *err,
                   const tine_str *results, size_t n)
{
    (void)arg;
    CHECK(job && tine_job_id(job) > 0 && w.ends < MOST);
    char *to = w.first[w.ends++];
    w.oks += !err;
    if (err) {
        w.kind = err->kind;
        copy(to, ROOM, err->message, err->message_len);
    } else if (n) {
        copy(to, ROOM, results[0].data, results[0].len);
    }
}

static void on_told(void *arg, const tine_error *err)
{
    (void)arg;
    w.told++;
    w.ok = !err;
    if (err)
        copy(w.text, sizeof w.text, err->message, err->message_len);
}

static void on_text(void *arg, const tine_error *err, const char *text, size_t len)
{
    (void)arg;
    CHECK(!err);
    w.texts++;
    copy(w.text, sizeof w.text, text, len);
}

static void on_gone(void *arg)
{
    (void)arg;
    w.gone++;
}

static void on_fault(void *arg, const tine_error *err)
{
    (void)arg;
    (void)err;
}

static tine_proc *new_proc(tine_host *host)
{
    tine_proc *p;
    CHECK_INT(tine_proc_new(host, NULL, &p), 0);
    return p;
}

static tine_proc *load(tine_host *host, const char *version)
{
    tine_proc *p = new_proc(host);
    tine_str arg = str(version);
    CHECK_INT(tine_proc_eval(p, TINE_TEXT, code, sizeof code - 1, &arg, 1), 0);
    return p;
}

static tine_pool *open_pool(tine_host *host, tine_proc **p, tine_pool_options options)
{
    static const tine_func work = {TINE_TEXT, "work", 4},
                           async = {TINE_TEXT, "async", 5};
    tine_pool *pool;
    memset(&w, 0, sizeof w);
    options.rpc.on_error = on_fault;
    *p = load(host, "1");
    CHECK_INT(tine_pool_new(*p, options.rpc.async ? &async : &work, &options, &pool),
              0);
    return pool;
}

static void close_pool(tine_host *host, tine_proc *p, tine_pool *pool)
{
    tine_pool_close(pool, -1, on_gone, NULL);
    await(host, &w.gone, 1);
    tine_proc_close(p);
}

static tine_job *call(tine_pool *pool, const char *what)
{
    tine_str arg = str(what);
    tine_job *job;
    CHECK_INT(tine_pool_call(pool, &arg, 1, NULL, on_end, NULL, &job), 0);
    return job;
}

/* A call's first result. */
static const char *ask(tine_host *host, tine_pool *pool, const char *what)
{
    w.ends = w.oks = 0;
    call(pool, what);
    await(host, &w.ends, 1);
    CHECK_INT(w.oks, 1);
    return w.first[0];
}

/* Until so many workers are idle, of so many. */
static void await_idle(tine_host *host, tine_pool *pool, size_t n)
{
    tine_pool_stats stats;
    int64_t deadline = test_usec() + DEADLINE_USEC;
    do {
        CHECK(tine_host_poll(host, 1000) >= 0);
        tine_pool_get_stats(pool, &stats);
    } while ((stats.idle != n || stats.workers != n) && test_usec() < deadline);
    CHECK_INT(stats.idle, n);
    CHECK_INT(stats.workers, n);
}

/* ------------------------------------------------------------------------ pools */

static void broadcast(tine_host *host)
{
    tine_proc *p;
    tine_worker_stats workers[4];
    tine_str arg = str("pid");
    tine_pool *pool = open_pool(host, &p, (tine_pool_options){.max = 3});
    CHECK_INT(tine_pool_broadcast(pool, &arg, 1, on_end, NULL), 1); /* it makes one */
    await(host, &w.ends, 1);
    CHECK_INT(tine_pool_resize(pool, 3, 3), 0);
    await_idle(host, pool, 3);
    w.ends = w.oks = 0;
    CHECK_INT(tine_pool_broadcast(pool, &arg, 1, on_end, NULL), 3);
    CHECK_INT(tine_pool_pending(pool), 3);
    CHECK_INT(tine_pool_queued(pool), 3); /* handed over in the next turn */
    await(host, &w.ends, 3);
    CHECK_INT(w.oks, 3);
    CHECK_INT(tine_pool_queued(pool), 0);
    CHECK_INT(tine_pool_get_workers(pool, workers, 4), 3);
    for (int i = 0; i < 3; i++) {
        int found = 0;
        for (int k = 0; k < 3; k++)
            found += atoi(w.first[k]) == workers[i].pid;
        CHECK_INT(found, 1);
    }
    close_pool(host, p, pool);
}

/* No string can stand for one. */
static void descriptors_need_values(tine_host *host)
{
    static const int fd = 0;
    static const tine_call_options options = {.fds = &fd, .nfds = 1};
    tine_proc *p;
    tine_pool *pool = open_pool(host, &p, (tine_pool_options){.max = 1});
    CHECK_INT(tine_pool_call(pool, NULL, 0, &options, NULL, NULL, NULL), -EINVAL);
    close_pool(host, p, pool);
}

static void resize(tine_host *host)
{
    tine_proc *p;
    tine_pool *pool = open_pool(host, &p, (tine_pool_options){.max = 1, .idle = 1});
    CHECK_INT(tine_pool_resize(pool, 0, 0), -EINVAL);
    CHECK_INT(tine_pool_resize(pool, 2, 3), -EINVAL);
    await_idle(host, pool, 1);
    CHECK_INT(tine_pool_resize(pool, 4, 4), 0);
    await_idle(host, pool, 4);
    CHECK_INT(tine_pool_resize(pool, 2, 0), 0);
    await_idle(host, pool, 0); /* stop 0: at once */
    CHECK(!strcmp(ask(host, pool, "version"), "1"));
    close_pool(host, p, pool);
}

static void reload(tine_host *host)
{
    tine_proc *p, *second = load(host, "2"), *bad = new_proc(host), *late;
    tine_pool *pool =
        open_pool(host, &p, (tine_pool_options){.max = 2, .stop_usec = 10000000});
    CHECK(!strcmp(ask(host, pool, "version"), "1"));
    CHECK_INT(tine_pool_reload(pool, second, on_told, NULL), 0);
    CHECK_INT(tine_pool_reload(pool, bad, on_told, NULL), -EBUSY);
    CHECK(!tine_proc_consumed(bad));
    await(host, &w.told, 1);
    CHECK(w.ok && tine_proc_consumed(second));
    CHECK(!strcmp(ask(host, pool, "version"), "2"));
    static const char fails[] = "error('no such luck', 0)";
    CHECK_INT(tine_proc_eval(bad, TINE_TEXT, fails, sizeof fails - 1, NULL, 0), 0);
    CHECK_INT(tine_pool_reload(pool, bad, on_told, NULL), 0);
    await(host, &w.told, 2);
    CHECK(!w.ok && strstr(w.text, "no such luck"));
    CHECK(!strcmp(ask(host, pool, "version"), "2"));
    tine_pool_close(pool, -1, on_gone, NULL);
    late = load(host, "3");
    CHECK_INT(tine_pool_reload(pool, late, on_told, NULL), -TINE_ECLOSED);
    await(host, &w.gone, 1);
    CHECK_INT(w.told, 2);
    tine_proc_close(p);
    tine_proc_close(second);
    tine_proc_close(bad);
    tine_proc_close(late);
}

/* The workers that follow go on with what the promoted one has counted. */
static void promote(tine_host *host)
{
    tine_proc *p;
    tine_worker_stats worker;
    tine_pool *pool =
        open_pool(host, &p, (tine_pool_options){.max = 1, .stop_usec = 10000000});
    CHECK_INT(tine_pool_promote(pool, on_told, NULL), -ENOENT);
    for (int i = 1; i <= 3; i++)
        CHECK_INT(atoi(ask(host, pool, "count")), i);
    CHECK_INT(tine_pool_get_workers(pool, &worker, 1), 1);
    CHECK_INT(worker.generation, 0);
    CHECK_INT(tine_pool_promote(pool, on_told, NULL), 0);
    CHECK_INT(tine_pool_promote(pool, on_told, NULL), -EBUSY);
    await(host, &w.told, 1);
    CHECK(w.ok);
    CHECK_INT(atoi(ask(host, pool, "count")), 4);
    await_idle(host, pool, 1);
    CHECK_INT(tine_pool_get_workers(pool, &worker, 1), 1);
    CHECK_INT(worker.generation, 1);
    close_pool(host, p, pool);
    pool = open_pool(host, &p, (tine_pool_options){.max = 1, .rpc = {.async = 1}});
    CHECK(!strcmp(ask(host, pool, "version"), "1"));
    CHECK_INT(tine_pool_promote(pool, on_told, NULL), -EOPNOTSUPP);
    close_pool(host, p, pool);
}

/* The worker that runs the only job. */
static tine_worker_stats await_busy(tine_host *host, tine_pool *pool)
{
    tine_worker_stats worker = {.pid = 0};
    int64_t deadline = test_usec() + DEADLINE_USEC;
    while (!worker.job && test_usec() < deadline) {
        CHECK(tine_host_poll(host, 1000) >= 0);
        tine_pool_get_workers(pool, &worker, 1);
    }
    CHECK(worker.job);
    return worker;
}

static void traceback(tine_host *host)
{
    tine_proc *p;
    tine_pool *pool = open_pool(host, &p, (tine_pool_options){.max = 1});
    CHECK_INT(tine_pool_traceback(pool, getpid(), on_text, NULL), -ESRCH);
    tine_job *job = call(pool, "spin");
    tine_worker_stats worker = await_busy(host, pool);
    CHECK_INT(worker.job, tine_job_id(job));
    CHECK_INT(worker.state, TINE_WORKER_BUSY);
    CHECK_INT(worker.load, 1);
    int64_t deadline = test_usec() + DEADLINE_USEC;
    do { /* until it is there */
        w.texts = 0;
        CHECK_INT(tine_pool_traceback(pool, worker.pid, on_text, NULL), 0);
        CHECK_INT(w.texts, 0);
        await(host, &w.texts, 1);
        CHECK(strstr(w.text, "traceback"));
    } while (!strstr(w.text, "spin") && test_usec() < deadline);
    CHECK(strstr(w.text, "spin"));
    tine_job_cancel(job);
    await(host, &w.ends, 1);
    CHECK_INT(w.kind, TINE_KIND_CANCELLED);
    close_pool(host, p, pool);
}

static void withdrawing(tine_host *host)
{
    tine_proc *p;
    tine_pool *pool = open_pool(host, &p, (tine_pool_options){.max = 1, .load = 2});
    tine_job *runs = call(pool, "spin"), *handed = call(pool, "version"),
             *waits = call(pool, "version");
    w.ends = w.oks = 0;
    await_busy(host, pool);
    CHECK_INT(tine_job_withdraw(runs), 0);
    CHECK_INT(tine_job_withdraw(handed), 1);
    CHECK_INT(tine_job_withdraw(waits), 1);
    CHECK_INT(w.ends, 0);
    await(host, &w.ends, 2);
    CHECK_INT(w.oks, 0);
    CHECK_INT(w.kind, TINE_KIND_CANCELLED);
    CHECK_INT(tine_job_withdraw(runs), 0);
    tine_job_cancel(runs);
    await(host, &w.ends, 3);
    CHECK(!strcmp(ask(host, pool, "version"), "1")); /* the worker lives */
    close_pool(host, p, pool);
}

static void figures(tine_host *host)
{
    tine_proc *p;
    tine_memory memory;
    tine_worker_stats workers[3], measured[3];
    tine_pool *pool = open_pool(host, &p, (tine_pool_options){.max = 2, .idle = 2});
    await_idle(host, pool, 2);
    CHECK(atoi(ask(host, pool, "pid")) > 0);
    CHECK_INT(tine_pool_get_workers(pool, NULL, 0), 2);
    memset(workers, 0xff, sizeof workers);
    CHECK_INT(tine_pool_get_workers(pool, workers, 1), 2);
    CHECK_INT(workers[1].pid, -1); /* it was not asked for */
    CHECK_INT(tine_pool_get_workers(pool, workers, 3), 2);
    CHECK_INT(tine_pool_measure_workers(pool, measured, 3), 2);
    CHECK_INT(workers[0].jobs + workers[1].jobs, 1);
    for (int i = 0; i < 2; i++) {
        CHECK_INT(workers[i].pid, measured[i].pid);
        CHECK_INT(workers[i].state, TINE_WORKER_IDLE);
        CHECK(workers[i].age_usec > 0 && !workers[i].job && !workers[i].load);
        CHECK(workers[i].rss > 0 && workers[i].memory.private_rss == -1);
        CHECK(measured[i].memory.private_rss > 0 && measured[i].memory.pss > 0);
        CHECK(measured[i].memory.own > 0);
        CHECK(measured[i].memory.heap != TINE_HEAP_UNKNOWN);
    }
    CHECK_INT(tine_pool_get_template(pool, 0, &memory), 0);
    CHECK_INT(memory.pid, tine_proc_pid(p));
    CHECK(memory.rss > 0 && memory.private_rss == -1 && memory.own > 0);
    CHECK_INT(tine_pool_get_template(pool, 1, &memory), 0);
    CHECK(memory.private_rss >= 0 && memory.pss > 0);
    close_pool(host, p, pool);
    /* One whose template has ended before there was a worker, and a spare, has none. */
    pool = open_pool(host, &p, (tine_pool_options){.max = 1});
    CHECK_INT(tine_proc_kill(p, SIGKILL), 0);
    for (int64_t end = test_usec() + DEADLINE_USEC; !tine_proc_ended(p);)
        CHECK(tine_host_poll(host, 1000) >= 0 && test_usec() < end);
    call(pool, "version");
    await(host, &w.ends, 1);
    CHECK_INT(w.oks, 0);
    CHECK(strstr(w.first[0], "the pool's template has ended"));
    CHECK_INT(tine_pool_get_template(pool, 0, &memory), -ESRCH);
    CHECK_INT(memory.pid, 0);
    close_pool(host, p, pool);
}

/* ------------------------------------------------------------------------- rpcs */

static void rpc_questions(tine_host *host)
{
    static const tine_func func = {TINE_TEXT, "work", 4};
    tine_proc *p = load(host, "1");
    tine_rpc *rpc;
    tine_str arg = str("pid");
    memset(&w, 0, sizeof w);
    CHECK_INT(tine_rpc_new(p, &func, NULL, &rpc), 0);
    CHECK(tine_rpc_open(rpc) && !tine_rpc_pending(rpc));
    for (int i = 0; i < 3; i++)
        CHECK_INT(tine_rpc_call(rpc, &arg, 1, on_end, NULL, NULL), 0);
    CHECK_INT(tine_rpc_pending(rpc), 3);
    await(host, &w.ends, 3);
    CHECK_INT(w.oks, 3);
    CHECK_INT(tine_rpc_pending(rpc), 0);
    CHECK_INT(atoi(w.first[0]), tine_rpc_pid(rpc));
    CHECK_INT(tine_rpc_pid(rpc), tine_proc_pid(p));
    CHECK_INT(tine_rpc_call(rpc, &arg, 1, on_end, NULL, NULL), 0);
    tine_rpc_close(rpc, on_gone, NULL);
    CHECK(!tine_rpc_open(rpc));
    CHECK_INT(tine_rpc_pending(rpc), 1);
    CHECK_INT(tine_rpc_call(rpc, &arg, 1, on_end, NULL, NULL), -TINE_ECLOSED);
    await(host, &w.gone, 1);
    CHECK_INT(w.oks, 4);
    tine_proc_close(p);
}

/* ------------------------------------------------------------------ MessagePack */

/* Whether bytes are just the MessagePack array ["text", 7, -3, 2.5, true, nil, [1, "x"], ""]. */
static void check_values(const tine_str *values, size_t n)
{
    msgpack_unpacked u;
    size_t at = 0;
    CHECK_INT(n, 1);
    msgpack_unpacked_init(&u);
    CHECK_INT(msgpack_unpack_next(&u, values[0].data, values[0].len, &at),
              MSGPACK_UNPACK_SUCCESS);
    CHECK_INT(at, values[0].len);
    CHECK_INT(u.data.type, MSGPACK_OBJECT_ARRAY);
    CHECK_INT(u.data.via.array.size, 8);
    const msgpack_object *o = u.data.via.array.ptr;
    CHECK(o[0].type == MSGPACK_OBJECT_STR && o[0].via.str.size == 4 &&
          !memcmp(o[0].via.str.ptr, "text", 4));
    CHECK(o[1].type == MSGPACK_OBJECT_POSITIVE_INTEGER && o[1].via.u64 == 7);
    CHECK(o[2].type == MSGPACK_OBJECT_NEGATIVE_INTEGER && o[2].via.i64 == -3);
    CHECK(o[3].type == MSGPACK_OBJECT_FLOAT && fabs(o[3].via.f64 - 2.5) < 1e-9);
    CHECK(o[4].type == MSGPACK_OBJECT_BOOLEAN && o[4].via.boolean);
    CHECK_INT(o[5].type, MSGPACK_OBJECT_NIL);
    CHECK(o[6].type == MSGPACK_OBJECT_ARRAY && o[6].via.array.size == 2);
    CHECK_INT(o[6].via.array.ptr[0].via.u64, 1);
    CHECK(o[7].type == MSGPACK_OBJECT_STR && o[7].via.str.size == 0);
    msgpack_unpacked_destroy(&u);
}

static void on_values(void *arg, tine_job *job, const tine_error *err,
                      const tine_str *results, size_t n)
{
    (void)arg;
    (void)job;
    CHECK(!err);
    check_values(results, n);
    w.ends++;
}

static void on_event(void *arg, pid_t pid, tine_job *job, const tine_str *values,
                     size_t n)
{
    (void)arg;
    CHECK(pid > 0 && job);
    check_values(values, n);
    w.events++;
}

static void on_sum(void *arg, tine_job *job, const tine_error *err,
                   const tine_str *results, size_t n)
{
    msgpack_unpacked u;
    size_t at = 0;
    (void)arg;
    (void)job;
    CHECK(!err);
    CHECK_INT(n, 1);
    msgpack_unpacked_init(&u);
    CHECK_INT(msgpack_unpack_next(&u, results[0].data, results[0].len, &at),
              MSGPACK_UNPACK_SUCCESS);
    CHECK_INT(u.data.via.array.size, 1);
    CHECK_INT(u.data.via.array.ptr[0].via.i64, INT64_C(0x100000000) - 1);
    msgpack_unpacked_destroy(&u);
    w.ends++;
}

static void pack_text(msgpack_packer *pk, const char *text)
{
    msgpack_pack_str(pk, strlen(text));
    msgpack_pack_str_body(pk, text, strlen(text));
}

/* The name of what is to be done, and the values. */
static void pack_values(msgpack_sbuffer *b, const char *what)
{
    msgpack_packer pk;
    msgpack_packer_init(&pk, b, msgpack_sbuffer_write);
    msgpack_pack_array(&pk, 9);
    pack_text(&pk, what);
    pack_text(&pk, "text");
    msgpack_pack_int(&pk, 7);
    msgpack_pack_int(&pk, -3);
    msgpack_pack_double(&pk, 2.5);
    msgpack_pack_true(&pk);
    msgpack_pack_nil(&pk);
    msgpack_pack_array(&pk, 2);
    msgpack_pack_int(&pk, 1);
    pack_text(&pk, "x");
    pack_text(&pk, "");
}

static void msgpack_in_a_pool(tine_host *host)
{
    tine_proc *p;
    msgpack_packer pk;
    tine_pool_options options = {.max = 2};
    options.rpc.serialiser = TINE_MSGPACK;
    options.rpc.on_event = on_event;
    tine_pool *pool = open_pool(host, &p, options);
    static const char *const names[] = {"echo", "event", "echo"};
    for (int i = 0; i < 3; i++) {
        msgpack_sbuffer b;
        msgpack_sbuffer_init(&b);
        pack_values(&b, names[i]);
        tine_str args = {b.data, b.size};
        CHECK_INT(tine_pool_call(pool, &args, 1, NULL, on_values, NULL, NULL), 0);
        CHECK_INT(tine_pool_call(pool, &args, 0, NULL, on_values, NULL, NULL), -EINVAL);
        msgpack_sbuffer_destroy(&b); /* what is queued is a copy */
    }
    msgpack_sbuffer b;
    msgpack_sbuffer_init(&b);
    msgpack_packer_init(&pk, &b, msgpack_sbuffer_write);
    msgpack_pack_array(&pk, 3);
    pack_text(&pk, "add");
    msgpack_pack_int64(&pk, INT64_C(0x100000000));
    msgpack_pack_int64(&pk, -1);
    tine_str args = {b.data, b.size}, bad = {b.data, b.size - 1};
    CHECK_INT(tine_pool_call(pool, &args, 1, NULL, on_sum, NULL, NULL), 0);
    await(host, &w.ends, 4);
    CHECK_INT(w.events, 1);
    CHECK_INT(tine_pool_call(pool, &bad, 1, NULL, on_end, NULL, NULL), 0);
    await(host, &w.ends, 5);
    CHECK_INT(w.oks, 0);
    CHECK_INT(w.kind, TINE_KIND_DECODE);
    msgpack_sbuffer_destroy(&b);
    close_pool(host, p, pool);
}

static void msgpack_in_an_rpc(tine_host *host)
{
    static const tine_func func = {TINE_TEXT, "async", 5};
    static const tine_rpc_options options = {.async = 1, .serialiser = TINE_MSGPACK};
    tine_proc *p = load(host, "1");
    tine_rpc *rpc;
    msgpack_sbuffer b;
    memset(&w, 0, sizeof w);
    CHECK_INT(tine_rpc_new(p, &func, &options, &rpc), 0);
    msgpack_sbuffer_init(&b);
    pack_values(&b, "echo");
    tine_str args = {b.data, b.size};
    CHECK_INT(tine_rpc_call(rpc, &args, 1, on_values, NULL, NULL), 0);
    tine_rpc_close(rpc, on_gone, NULL);
    await(host, &w.gone, 1);
    CHECK_INT(w.ends, 1);
    msgpack_sbuffer_destroy(&b);
    tine_proc_close(p);
}

int main(void)
{
    HOST(broadcast);
    HOST(descriptors_need_values);
    HOST(resize);
    HOST(reload);
    HOST(promote);
    HOST(traceback);
    HOST(withdrawing);
    HOST(figures);
    HOST(rpc_questions);
    HOST(msgpack_in_a_pool);
    HOST(msgpack_in_an_rpc);
    return 0;
}
