/* Calls of a Lua function from a C program with libtine: it gets a string of 5 bytes and
 * returns it. calls_host [-k UNDER_WAY] [-w WORKERS]: without -w one worker by rpc, with it a
 * pool. */
#include "bench.h"

#include <tine.h>
#include <unistd.h>

enum { WARM_UP = 1000 };

typedef struct bench {
    tine_host *host;
    tine_rpc *rpc;
    tine_pool *pool;
    size_t warm, count, out;
    double seconds, begin, end;
} bench;

static const char code[] = "function echo(s) return s end";
static const tine_str argument = {"hello", 5};

static void check(int result, const char *what)
{
    if (result < 0)
        bench_die("%s: %s", what, tine_strerror(result));
}

static void call(bench *b);

static void ended(void *arg, tine_job *job, const tine_error *err,
                  const tine_str *results, size_t n)
{
    bench *b = arg;

    (void)job;
    if (err || n != 1 || results->len != 5)
        bench_die("a call failed: %s", err ? err->message : "wrong result");
    b->out--;
    if (b->warm > 0) {
        if (--b->warm == 0)
            b->begin = bench_now();
    } else if (b->end == 0 && ++b->count % 64 == 0) {
        double now = bench_now();

        if (now - b->begin >= b->seconds)
            b->end = now;
    }
    if (b->end == 0)
        call(b);
}

static void call(bench *b)
{
    b->out++;
    if (b->pool)
        check(tine_pool_call(b->pool, &argument, 1, NULL, ended, b, NULL), "call");
    else
        check(tine_rpc_call(b->rpc, &argument, 1, ended, b, NULL), "call");
}

static void set_up(bench *b, size_t workers, size_t under_way)
{
    tine_func func = {TINE_TEXT, "echo", 4};
    tine_proc *p;

    check(tine_host_new(&b->host, NULL), "host");
    check(tine_proc_new(b->host, NULL, &p), "process");
    check(tine_proc_eval(p, TINE_TEXT, code, strlen(code), NULL, 0), "eval");
    if (workers) {
        size_t load = (under_way + workers - 1) / workers;
        tine_pool_options options = {.max = workers, .idle = workers, .load = load};

        check(tine_pool_new(p, &func, &options, &b->pool), "pool");
    } else {
        check(tine_rpc_new(p, &func, NULL, &b->rpc), "rpc");
    }
}

int main(int argc, char **argv)
{
    bench b = {0};
    size_t under_way = 1, workers = 0;
    int c;

    while ((c = getopt(argc, argv, "k:w:")) != -1) {
        if (c == 'k')
            under_way = bench_size(optarg, 1);
        else if (c == 'w')
            workers = bench_size(optarg, 1);
        else
            bench_die("usage: calls_host [-k UNDER_WAY] [-w WORKERS]");
    }
    set_up(&b, workers, under_way);
    while ((b.seconds = bench_next_round()) > 0) {
        b.warm = WARM_UP;
        b.count = 0;
        b.end = 0;
        for (size_t i = 0; i < under_way; i++)
            call(&b);
        check(tine_host_run(b.host), "run");
        bench_print_rate(b.count, b.end - b.begin);
    }
    tine_host_free(b.host);
    return 0;
}
