/* What the C programs of the benchmark share: the clock, memory to be big with, and their
 * conversation with bench/interleave, which is:
 *   the program, when it is set up    "ready"
 *   interleave, for each round        SECONDS, how long to measure
 *   the program                       KEY=NUMBER ..., all on one line
 * and end of file when it is over. By hand: `echo 1 | build/bench/spawn_c`. */
#ifndef TINE_BENCH_H
#define TINE_BENCH_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* What a program was asked for on its command line. */
typedef struct bench_options {
    size_t under_way; /* -k: how many at a time */
    size_t host_mb;   /* -m: memory that the host touches first, in MiB */
    int memory;       /* -i: measure an idle process's memory instead */
    int exec;         /* -x: by exec of a fresh interpreter */
} bench_options;

static inline void __attribute__((noreturn, format(printf, 1, 2)))
bench_die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

/* Seconds on the monotonic clock. */
static inline double bench_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static inline size_t bench_size(const char *text, size_t least)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (*text == '\0' || *end != '\0' || value < least)
        bench_die("not a number of at least %zu: %s", least, text);
    return (size_t)value;
}

/* Says that the program is set up, then waits for the next round each time: returns how many
 * seconds to measure, or 0 at the end. */
static inline double bench_next_round(void)
{
    static int ready;
    char line[64];
    double seconds;

    if (!ready) {
        ready = 1;
        puts("ready");
    }
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 0;
    seconds = strtod(line, NULL);
    if (!(seconds > 0))
        bench_die("not a time in seconds: %s", line);
    return seconds;
}

/* Makes this process mb MiB bigger, for the rest of its life, as a program would that
 * allocates its data in blocks: small pages, unless the system decides otherwise. */
static inline void bench_touch(size_t mb)
{
    static void *held; /* each block starts with the address of the one before */

    for (size_t i = 0; i < mb * 16; i++) {
        void **block = malloc(65536 - 64);

        if (!block)
            bench_die("no memory for a host of %zu MB", mb);
        memset(block, 'x', 65536 - 64);
        *block = held;
        held = block;
    }
}

static inline void bench_print_rate(size_t count, double elapsed)
{
    printf("rate=%.2f count=%zu seconds=%.4f\n", (double)count / elapsed, count,
           elapsed);
}

#endif
