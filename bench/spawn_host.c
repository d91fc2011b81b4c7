/* New workers from a C program with libtine and no Lua of its own: made, told to run a Lua
 * function that returns at once, and seen to end. Options as in spawn_c, and -x: each by
 * exec of a fresh interpreter. */
#include "bench.h"

#include <tine.h>
#include <unistd.h>

enum { WARM_UP = 16 };

typedef struct bench {
    tine_host *host;
    tine_proc *template; /* NULL: each worker is exec'ed */
    double seconds, begin, end;
    size_t warm; /* still to come before the clock starts */
    size_t count;
} bench;

static const char code[] = "function noop() end";

static void check(int result, const char *what)
{
    if (result < 0)
        bench_die("%s: %s", what, tine_strerror(result));
}

static void start(bench *b);

static void ended(void *arg, tine_proc *p, const tine_error *err, const tine_exit *info)
{
    bench *b = arg;

    (void)p;
    (void)info;
    if (err)
        bench_die("a worker failed: %s", err->message);
    if (b->warm > 0) {
        if (--b->warm == 0)
            b->begin = bench_now();
    } else if (b->end == 0) {
        double now = bench_now();

        b->count++;
        if (now - b->begin >= b->seconds)
            b->end = now;
    }
    if (b->end == 0)
        start(b);
}

static void start(bench *b)
{
    tine_proc *p;

    if (b->template) {
        check(tine_proc_fork(b->template, NULL, &p), "fork");
    } else {
        check(tine_proc_new_exec(b->host, NULL, &p), "new_exec");
        check(tine_proc_eval(p, TINE_TEXT, code, strlen(code), NULL, 0), "eval");
    }
    check(tine_proc_on_exit(p, ended, b), "on_exit");
    check(tine_proc_run(p, TINE_TEXT, "noop", 4, NULL, NULL), "run");
    tine_proc_close(p);
}

static void measure(bench *b, double seconds, size_t under_way)
{
    b->seconds = seconds;
    b->warm = under_way + WARM_UP;
    b->count = 0;
    b->end = 0;
    for (size_t i = 0; i < under_way; i++)
        start(b);
    check(tine_host_run(b->host), "loop");
    if (b->end == 0)
        bench_die("the loop ended before the time was up");
    bench_print_rate(b->count, b->end - b->begin);
}

int main(int argc, char **argv)
{
    bench_options o = {.under_way = 1};
    bench b = {0};
    double seconds;
    int c;

    while ((c = getopt(argc, argv, "k:m:x")) != -1) {
        if (c == 'k')
            o.under_way = bench_size(optarg, 1);
        else if (c == 'm')
            o.host_mb = bench_size(optarg, 0);
        else if (c == 'x')
            o.exec = 1;
        else
            bench_die("usage: spawn_host [-k UNDER_WAY] [-m HOST_MB] [-x]");
    }
    bench_touch(o.host_mb);
    check(tine_host_new(&b.host, NULL), "host");
    if (!o.exec) {
        check(tine_proc_new(b.host, NULL, &b.template), "new");
        check(tine_proc_eval(b.template, TINE_TEXT, code, strlen(code), NULL, 0),
              "eval");
    }
    while ((seconds = bench_next_round()) > 0)
        measure(&b, seconds, o.under_way);
    tine_proc_close(b.template);
    tine_host_free(b.host);
    return 0;
}
