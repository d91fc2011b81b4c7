/* A pool of Lua workers, driven by a program that has no Lua state. */
#include <signal.h>

#include "host_test.h"
#include "pool/pool.h"
#include "process/process.h"

#define HOST(body) host_run(#body, body)

static const char code[] =
    "local worker = require 'tine'\n"
    "function work(what, a)\n"
    "  if what == 'echo' then return a end\n"
    "  if what == 'events' then\n"
    "    for i = 1, tonumber(a) do worker.event('event', tostring(i)) end\n"
    "    return 'done'\n"
    "  end\n"
    "  if what == 'hang' then while true do end end\n"
    "  if what == 'die' then os.exit(3, false) end\n"
    "  if what == 'nth' then\n"
    "    tries = (tries or 0) + 1\n"
    "    if tries < tonumber(a) then error('try ' .. tries, 0) end\n"
    "    return tostring(tries)\n"
    "  end\n"
    "  error('as told', 0)\n"
    "end\n";

static tine_str str(const char *text)
{
    return (tine_str){text, strlen(text)};
}

typedef struct call {
    struct world *world;
    tine_job *job;
    int ends, order, events;
    bool ok;
    tine_kind kind;
    size_t n;
    char first[100]; /* result, or the message */
    unsigned tries, asked;
} call;

enum { MOST = 3000 };

typedef struct world {
    tine_host *host;
    tine_proc *proc;
    tine_pool *pool;
    call calls[MOST];
    int made, ended, gone, events, faults, drained;
    void (*on_end)(call *c);
} world;

static world w;

static void copy(char *to, size_t size, const void *data, size_t len)
{
    (void)snprintf(to, size, "%.*s", (int)len, (const char *)data);
}

static void on_end(void *arg, tine_job *job, const tine_error *err,
                   const tine_str *results, size_t n)
{
    call *c = arg;
    CHECK(!c->job || c->job == job);
    CHECK_INT(c->ends++, 0);
    c->order = ++w.ended;
    c->ok = !err;
    c->n = n;
    if (err) {
        c->kind = err->kind;
        c->tries = err->tries;
        CHECK(err->message && err->message_len);
        copy(c->first, sizeof c->first, err->message, err->message_len);
    } else if (n) {
        copy(c->first, sizeof c->first, results[0].data, results[0].len);
    }
    if (w.on_end)
        w.on_end(c);
    c->job = NULL;
}

static void on_event(void *arg, pid_t pid, tine_job *job, const tine_str *values,
                     size_t n)
{
    (void)arg;
    CHECK(pid > 0 && job && n == 2);
    CHECK(values[0].len == 5 && !memcmp(values[0].data, "event", 5));
    w.events++;
}

static void on_job_event(void *arg, pid_t pid, tine_job *job, const tine_str *values,
                         size_t n)
{
    call *c = arg;
    char number[20];
    CHECK(pid > 0 && job == c->job && n == 2);
    copy(number, sizeof number, values[1].data, values[1].len);
    CHECK_INT(atoi(number), ++c->events);
}

static void on_fault(void *arg, const tine_error *err)
{
    (void)arg;
    CHECK(err->message);
    w.faults++;
}

static void on_gone(void *arg)
{
    (void)arg;
    w.gone++;
    w.pool = NULL;
}

static void begin(tine_host *host, const tine_pool_options *given)
{
    static const tine_func func = {TINE_TEXT, "work", 4};
    tine_pool_options options = {.max = 2};
    memset(&w, 0, sizeof w);
    w.host = host;
    if (given)
        options = *given;
    options.rpc.on_event = on_event;
    options.rpc.on_error = on_fault;
    CHECK_INT(tine_proc_new(host, NULL, &w.proc), 0);
    CHECK_INT(tine_proc_eval(w.proc, TINE_TEXT, code, sizeof code - 1, NULL, 0), 0);
    CHECK_INT(tine_pool_new(w.proc, &func, &options, &w.pool), 0);
}

static call *make(const char *what, const char *a, const tine_call_options *options)
{
    tine_str args[] = {str(what), str(a)};
    CHECK(w.made < MOST);
    call *c = &w.calls[w.made++];
    CHECK_INT(tine_pool_call(w.pool, args, 2, options, on_end, c, &c->job), 0);
    return c;
}

static void end(int64_t kill_after_usec)
{
    if (w.pool)
        tine_pool_close(w.pool, kill_after_usec, on_gone, NULL);
    await(w.host, &w.gone, 1);
    CHECK_INT(w.ended, w.made);
    for (int i = 0; i < w.made; i++)
        CHECK_INT(w.calls[i].ends, 1);
    tine_proc_close(w.proc);
    CHECK(LIST_EMPTY(&w.host->pool->pools) && LIST_EMPTY(&w.host->rpc->busy));
}

/* ----------------------------------------------------------------------- calls */

static void calls_and_events(tine_host *host)
{
    begin(host, NULL);
    call *echo = make("echo", "hello", NULL), *bad = make("fail", "", NULL);
    tine_call_options options = {.on_event = on_job_event};
    call *own = make("events", "7", &options), *common = make("events", "5", NULL);
    for (int i = 0; i < 2000; i++)
        make("echo", "x", NULL);
    CHECK_INT(tine_pool_pending(w.pool), w.made);
    end(-1);
    CHECK(echo->ok && !strcmp(echo->first, "hello"));
    CHECK(!bad->ok && bad->kind == TINE_KIND_EXCEPTION);
    CHECK(!strcmp(bad->first, "as told"));
    CHECK(own->ok && own->events == 7);
    CHECK(common->ok && w.events == 5);
    for (int i = 4; i < w.made; i++)
        CHECK(w.calls[i].ok && !strcmp(w.calls[i].first, "x"));
}

static void priorities(tine_host *host)
{
    tine_pool_options options = {.max = 1, .load = 1};
    begin(host, &options);
    for (int i = 0; i < 50; i++) {
        tine_call_options o = {.priority = i % 5};
        make("echo", "x", &o);
    }
    end(-1);
    for (int i = 0; i < 50; i++)
        for (int k = 0; k < 50; k++)
            if (i % 5 > k % 5 || (i % 5 == k % 5 && i < k))
                CHECK(w.calls[i].order < w.calls[k].order);
}

static void cancelled_jobs(tine_host *host)
{
    tine_pool_options options = {.max = 1, .rpc = {.grace_usec = 5000000}};
    begin(host, &options);
    call *first = make("echo", "x", NULL);
    await(host, &w.ended, 1);
    call *hangs = make("hang", "", NULL);
    for (int i = 0; i < 20; i++)
        make("echo", "x", NULL);
    for (int i = 0; i < 20; i++)
        CHECK(tine_host_poll(host, 1000) >= 0);
    for (int i = 3; i < w.made; i += 2)
        tine_job_cancel(w.calls[i].job);
    CHECK_INT(w.ended, 1);
    await(host, &w.ended, 1 + (w.made - 3 + 1) / 2);
    CHECK_INT(hangs->ends, 0);
    tine_job_cancel(hangs->job);
    tine_job_cancel(hangs->job);
    end(-1);
    CHECK(first->ok && hangs->kind == TINE_KIND_CANCELLED);
    for (int i = 2; i < w.made; i++)
        CHECK(i % 2 ? w.calls[i].kind == TINE_KIND_CANCELLED : w.calls[i].ok);
}

static void a_full_queue(tine_host *host)
{
    tine_pool_options options = {.max = 1, .queue = 10};
    int rejected = 0;
    begin(host, &options);
    for (int i = 0; i < 100; i++)
        make("echo", "x", NULL);
    CHECK_INT(w.ended, 0);
    end(-1);
    for (int i = 0; i < w.made; i++) {
        CHECK(w.calls[i].ok || w.calls[i].kind == TINE_KIND_REJECTED);
        rejected += !w.calls[i].ok;
    }
    CHECK(rejected > 0 && rejected <= 90);
}

static size_t resident(void)
{
    unsigned long size, pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    CHECK(f && fscanf(f, "%lu %lu", &size, &pages) == 2);
    (void)fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* What is refused takes no memory for its arguments until it is told. */
static void a_burst_of_large_calls(tine_host *host)
{
    enum { LARGE = 64 << 10, CALLS = 2500, BOUND = 32 << 20 };
    static char large[LARGE + 1];
    tine_pool_options options = {.max = 1, .queue = 10};
    memset(large, 'x', LARGE);
    begin(host, &options);
    size_t before = resident();
    for (int i = 0; i < CALLS; i++)
        make("echo", large, NULL);
    size_t grown = resident() > before ? resident() - before : 0;
    CHECK(grown < BOUND);
    end(-1);
    for (int i = 10; i < w.made; i++)
        CHECK(!w.calls[i].ok && w.calls[i].kind == TINE_KIND_REJECTED);
    for (int i = 0; i < 10; i++)
        CHECK(w.calls[i].ok && w.calls[i].first[98] == 'x');
}

/* Calls do not wait in the queue for workers that have nothing to do. */
static void room_at_the_workers(tine_host *host)
{
    tine_pool_options options = {.max = 4, .idle = 4, .load = 2, .queue = 1};
    tine_call_options keyed = {.key = {"k", 1}};
    tine_pool_stats stats = {.idle = 0};
    int64_t deadline = test_usec() + DEADLINE_USEC;
    begin(host, &options);
    for (; stats.idle < 4 && test_usec() < deadline;
         tine_pool_get_stats(w.pool, &stats))
        CHECK(tine_host_poll(host, 1000) >= 0);
    CHECK_INT(stats.idle, 4);
    for (int i = 0; i < 12; i++)
        make("echo", "x", NULL);
    await(host, &w.ended, 12);
    for (int i = 0; i < 12; i++)
        CHECK_INT(w.calls[i].ok, i < 4 * 2 + 1);
    for (int i = 0; i < 6; i++) /* what waits for one worker alone does wait */
        make("echo", "x", &keyed);
    end(-1);
    for (int i = 0; i < 6; i++)
        CHECK_INT(w.calls[12 + i].ok, i < 2 + 1);
}

static void workers_that_die(tine_host *host)
{
    tine_pool_options options = {.max = 2, .load = 4};
    tine_call_options again = {.retries = 2};
    tine_pool_stats stats;
    begin(host, &options);
    call *dies = make("die", "", &again);
    for (int i = 0; i < 200; i++)
        make(i % 50 == 7 ? "die" : "echo", "x", NULL);
    await(host, &w.ended, w.made);
    tine_pool_get_stats(w.pool, &stats);
    CHECK_INT(stats.done, w.made);
    CHECK_INT(stats.retried, 2);
    end(-1);
    CHECK(dies->kind == TINE_KIND_CRASH && strstr(dies->first, "tried 3 times"));
    for (int i = 1; i < w.made; i++)
        CHECK((i - 1) % 50 == 7 ? w.calls[i].kind == TINE_KIND_CRASH : w.calls[i].ok);
}

/* -------------------------------------------------------------------- retries */

static int thrice(void *arg, tine_job *job, const tine_error *err, unsigned tries)
{
    call *c = arg;
    CHECK(job == c->job && err->kind == TINE_KIND_EXCEPTION && err->traceback);
    CHECK_INT(tries, ++c->asked);
    return tries < 3;
}

static void retries_of_a_pool(tine_host *host)
{
    tine_pool_options options = {.max = 1,
                                 .stop_usec = DEADLINE_USEC,
                                 .retries = 1,
                                 .retry = {.exception = 2, .delay_usec = 1000}};
    tine_pool_stats stats;
    begin(host, &options);
    call *good = make("nth", "3", NULL);
    await(host, &w.ended, 1);
    call *bad = make("fail", "", NULL);
    tine_call_options none = {.retries = -1, .retry = &(tine_retry){0}};
    call *once = make("fail", "", &none), *dies = make("die", "", &none);
    call *twice = make("die", "", NULL);
    await(host, &w.ended, w.made);
    tine_pool_get_stats(w.pool, &stats);
    CHECK_INT(stats.retried, 2 + 2 + 1);
    CHECK_INT(stats.queued, 0);
    end(-1);
    CHECK(good->ok && !strcmp(good->first, "3"));
    CHECK(bad->kind == TINE_KIND_EXCEPTION && !strcmp(bad->first, "as told"));
    CHECK_INT(bad->tries, 3);
    CHECK(once->kind == TINE_KIND_EXCEPTION && once->tries == 0);
    CHECK(dies->kind == TINE_KIND_CRASH && dies->tries == 0);
    CHECK(twice->kind == TINE_KIND_CRASH && twice->tries == 2);
    CHECK(strstr(twice->first, "(tried 2 times)"));
}

/* As long as the program says so; a call's own, which is copied. */
static void retries_that_are_asked_for(tine_host *host)
{
    begin(host, NULL);
    for (int i = 0; i < 20; i++) {
        tine_retry retry = {.again = thrice, .arg = &w.calls[w.made]};
        tine_call_options options = {.retry = &retry};
        make("fail", "", &options);
        memset(&retry, 0x55, sizeof retry);
    }
    end(-1);
    for (int i = 0; i < w.made; i++) {
        CHECK_INT(w.calls[i].asked, 3);
        CHECK_INT(w.calls[i].tries, 3);
        CHECK(w.calls[i].kind == TINE_KIND_EXCEPTION);
    }
}

static void retries_that_wait(tine_host *host)
{
    enum { MINUTE = 60000000 };
    tine_pool_options options = {
        .max = 2, .queue = 100, .retry = {.exception = 1, .delay_usec = MINUTE}};
    tine_pool_stats stats = {.queued = 0};
    int64_t began = test_usec();
    begin(host, &options);
    for (int i = 0; i < 100; i++)
        make("fail", "", NULL);
    while (stats.retried < 100 && test_usec() < began + DEADLINE_USEC) {
        CHECK(tine_host_poll(host, 1000) >= 0);
        tine_pool_get_stats(w.pool, &stats);
    }
    CHECK_INT(stats.queued, 100);
    CHECK_INT(stats.running, 0);
    CHECK_INT(tine_pool_queued(w.pool), 100);
    CHECK(!tine_pool_has_room(w.pool));
    for (int i = 0; i < 50; i++) {
        CHECK(!tine_job_running(w.calls[i].job));
        if (i % 2)
            tine_job_cancel(w.calls[i].job);
        else
            CHECK_INT(tine_job_withdraw(w.calls[i].job), 1);
    }
    await(host, &w.ended, 50);
    CHECK(tine_pool_has_room(w.pool));
    end(0);
    CHECK(test_usec() < began + MINUTE);
    for (int i = 0; i < 100; i++) {
        CHECK_INT(w.calls[i].kind, i < 50 ? TINE_KIND_CANCELLED : TINE_KIND_EXCEPTION);
        CHECK_INT(w.calls[i].tries, i < 50 ? 0 : 1);
    }
}

/* ------------------------------------------------------------------------ ends */

static void close_it(call *c)
{
    (void)c;
    if (w.pool && tine_pool_open(w.pool))
        tine_pool_close(w.pool, -1, on_gone, NULL);
}

static void close_and_kill(call *c)
{
    (void)c;
    if (w.pool)
        tine_pool_close(w.pool, 0, on_gone, NULL);
}

static void closed_in_a_callback(tine_host *host)
{
    begin(host, NULL);
    w.on_end = close_it;
    for (int i = 0; i < 500; i++)
        make("echo", "x", NULL);
    await(host, &w.gone, 1);
    end(-1);
    for (int i = 0; i < w.made; i++)
        CHECK(w.calls[i].ok);
    begin(host, NULL);
    w.on_end = close_and_kill;
    for (int i = 0; i < 500; i++)
        make("echo", "x", NULL);
    await(host, &w.gone, 1);
    end(-1);
    for (int i = 1; i < w.made; i++)
        CHECK(w.calls[i].ok || w.calls[i].kind == TINE_KIND_CLOSED);
}

static void closed_and_killed(tine_host *host)
{
    for (int i = 0; i < 3; i++) {
        begin(host, NULL);
        make("hang", "", NULL);
        for (int k = 0; k < 300; k++)
            make(k % 3 ? "echo" : "hang", "x", NULL);
        for (int k = 0; k < i * 20; k++)
            CHECK(tine_host_poll(host, 1000) >= 0);
        int64_t began = test_usec();
        end(0);
        CHECK(test_usec() - began < 5000000);
        for (int k = 0; k < w.made; k++)
            CHECK(w.calls[k].ok || w.calls[k].kind == TINE_KIND_CLOSED);
    }
}

/* Itself, and what comes next. */
static void cancel_others(call *c)
{
    tine_job_cancel(c->job);
    for (int i = 0; i < w.made; i++)
        if (w.calls[i].job)
            tine_job_cancel(w.calls[i].job);
    if (w.pool && tine_pool_open(w.pool) && w.made < 600)
        make("echo", "again", NULL);
}

static void cancels_in_callbacks(tine_host *host)
{
    begin(host, NULL);
    w.on_end = cancel_others;
    for (int i = 0; i < 300; i++)
        make(i % 100 == 99 ? "die" : "echo", "x", NULL);
    await(host, &w.ended, 600);
    w.on_end = NULL;
    end(-1);
}

static void freed_with_calls_under_way(void)
{
    for (int i = 0; i < 4; i++) {
        tine_host *host;
        tine_pool_options options = {.max = 2,
                                     .retry = {.exception = 9, .delay_usec = 100000}};
        CHECK_INT(tine_host_new(&host, NULL), 0);
        begin(host, &options);
        w.on_end = i % 2 ? cancel_others : NULL;
        for (int k = 0; k < 200; k++)
            make(k % 2 ? "hang" : k % 4 ? "echo" : "fail", "x", NULL);
        for (int k = 0; k < i * 10; k++)
            CHECK(tine_host_poll(host, 1000) >= 0);
        if (i == 3)
            tine_pool_close(w.pool, 1000000, on_gone, NULL);
        tine_host_free(host);
        CHECK_INT(w.ended, w.made);
        CHECK_INT(w.gone, i == 3);
        for (int k = 0; k < w.made; k++)
            CHECK_INT(w.calls[k].ends, 1);
    }
}

int main(void)
{
    HOST(calls_and_events);
    HOST(priorities);
    HOST(cancelled_jobs);
    HOST(a_full_queue);

    HOST(a_burst_of_large_calls);
    HOST(room_at_the_workers);
    HOST(workers_that_die);
    HOST(retries_of_a_pool);
    HOST(retries_that_are_asked_for);
    HOST(retries_that_wait);
    HOST(closed_in_a_callback);
    HOST(closed_and_killed);
    HOST(cancels_in_callbacks);
    RUN(freed_with_calls_under_way);
    return 0;
}
