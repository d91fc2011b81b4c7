/* A C program that has a pool of Lua workers and no Lua state of its own.
 *
 *   cc pool.c $(pkg-config --cflags --libs tine) -o pool && ./pool 1000000
 *
 * Counts the primes below a number: each worker a piece of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tine.h>

enum { PIECE = 20000 };

static const char code[] = "function primes(first, last)\n"
                           "  local count = 0\n"
                           "  for n = tonumber(first), tonumber(last) do\n"
                           "    local prime = n > 1\n"
                           "    for d = 2, math.floor(n ^ 0.5) do\n"
                           "      if n % d == 0 then prime = false break end\n"
                           "    end\n"
                           "    if prime then count = count + 1 end\n"
                           "  end\n"
                           "  return count\n"
                           "end\n";

typedef struct sum {
    long primes;
    int failed;
} sum;

static void on_count(void *arg, tine_job *job, const tine_error *err,
                     const tine_str *results, size_t n)
{
    sum *s = arg;
    char text[32];

    if (err || n != 1 || results->len >= sizeof text) {
        fprintf(stderr, "job %llu: %s\n", (unsigned long long)tine_job_id(job),
                err ? err->message : "not one short result");
        s->failed++;
        return;
    }
    memcpy(text, results->data, results->len);
    text[results->len] = '\0';
    s->primes += strtol(text, NULL, 10);
}

static void on_fault(void *arg, const tine_error *err)
{
    (void)arg;
    fprintf(stderr, "pool: %s\n", err->message);
}

static int check(int result, const char *what)
{
    if (result < 0)
        fprintf(stderr, "%s: %s\n", what, tine_strerror(result));
    return result;
}

/* Queues the calls for all pieces below limit. */
static int call_all(tine_pool *pool, long limit, sum *s)
{
    for (long first = 0; first < limit; first += PIECE) {
        char from[32], to[32];
        long last = first + PIECE < limit ? first + PIECE - 1 : limit - 1;
        tine_str args[] = {{from, (size_t)snprintf(from, sizeof from, "%ld", first)},
                           {to, (size_t)snprintf(to, sizeof to, "%ld", last)}};

        if (check(tine_pool_call(pool, args, 2, NULL, on_count, s, NULL), "call") < 0)
            return -1;
    }
    return 0;
}

static int run(tine_host *host, long limit, sum *s)
{
    tine_pool_options options = {.max = 2, .rpc.on_error = on_fault};
    tine_func func = {TINE_TEXT, "primes", strlen("primes")};
    tine_proc *template;
    tine_pool *pool;

    if (check(tine_proc_new(host, NULL, &template), "template") < 0 ||
        check(tine_proc_eval(template, TINE_TEXT, code, strlen(code), NULL, 0),
              "eval") < 0 ||
        check(tine_pool_new(template, &func, &options, &pool), "pool") < 0)
        return -1;
    tine_proc_close(template);
    if (call_all(pool, limit, s) < 0)
        return -1;
    tine_pool_close(pool, -1, NULL, NULL);
    return check(tine_host_run(host), "run");
}

int main(int argc, char **argv)
{
    long limit = argc > 1 ? strtol(argv[1], NULL, 10) : 200000;
    sum s = {0, 0};
    tine_host *host;

    if (limit < 1 || check(tine_host_new(&host, NULL), "host") < 0)
        return 2;
    int result = run(host, limit, &s);
    tine_host_free(host);
    if (result < 0 || s.failed)
        return 1;
    printf("%ld primes below %ld\n", s.primes, limit);
    return 0;
}
