/* How often a second a program can be started and waited for, one after another, with
 * posix_spawn (which does not copy this process): `exec_c lua5.4 -e ""`. */
#include "bench.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WARM_UP = 5 };

extern char **environ;

static void run_once(char **argv)
{
    pid_t pid;
    int status, err = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);

    if (err != 0)
        bench_die("%s: %s", argv[0], strerror(err));
    if (waitpid(pid, &status, 0) != pid || status != 0)
        bench_die("%s failed", argv[0]);
}

static void one_after_another(char **argv, double seconds)
{
    size_t count = 0;
    double begin, now;

    for (int i = 0; i < WARM_UP; i++)
        run_once(argv);
    begin = bench_now();
    do {
        run_once(argv);
        count++;
        now = bench_now();
    } while (now - begin < seconds);
    bench_print_rate(count, now - begin);
}

int main(int argc, char **argv)
{
    bench_options o = {0};
    double seconds;
    int c;

    while ((c = getopt(argc, argv, "+m:")) != -1) {
        if (c == 'm')
            o.host_mb = bench_size(optarg, 0);
        else
            break;
    }
    if (c != -1 || optind >= argc)
        bench_die("usage: exec_c [-m HOST_MB] PROGRAM [ARG...]");
    bench_touch(o.host_mb);
    while ((seconds = bench_next_round()) > 0)
        one_after_another(argv + optind, seconds);
    return 0;
}
