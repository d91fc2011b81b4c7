/* The least that a kernel allows for one worker: socketpair, fork, _exit in the child, end
 * of file in the parent, waitpid. Also what plain fork costs a big host (-m), and what
 * memory an idle forked child has of its own (-i). */
#include "bench.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WARM_UP = 16, MOST_UNDER_WAY = 1024 };

typedef struct worker {
    pid_t pid;
    int fd;
} worker;

static worker start(int idle)
{
    worker w;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        bench_die("socketpair: %s", strerror(errno));
    w.pid = fork();
    if (w.pid < 0)
        bench_die("fork: %s", strerror(errno));
    if (w.pid == 0) {
        char byte = 'r';

        if (idle) {
            close(pair[0]);
            if (write(pair[1], &byte, 1) != 1 || read(pair[1], &byte, 1) < 0)
                _exit(1);
        }
        _exit(0);
    }
    close(pair[1]);
    w.fd = pair[0];
    return w;
}

/* Reads the end of file and the exit status. */
static void finish(const worker *w)
{
    char byte;
    int status;

    if (read(w->fd, &byte, 1) != 0)
        bench_die("the child wrote something");
    close(w->fd);
    if (waitpid(w->pid, &status, 0) != w->pid || status != 0)
        bench_die("the child failed");
}

static void one_after_another(double seconds)
{
    size_t count = 0;
    double begin, now, before;

    for (int i = 0; i < WARM_UP; i++) {
        worker w;

        before = bench_now();
        w = start(0);
        finish(&w);
        /* From a host so big that each takes long, one is enough. */
        if (bench_now() - before > 0.005)
            break;
    }
    begin = bench_now();
    do {
        worker w = start(0);

        finish(&w);
        count++;
        now = bench_now();
    } while (now - begin < seconds);
    bench_print_rate(count, now - begin);
}

static void many_under_way(double seconds, size_t n)
{
    static worker workers[MOST_UNDER_WAY];
    static struct pollfd fds[MOST_UNDER_WAY];
    size_t count = 0, warm = n + WARM_UP, left = n;
    double begin = 0, end = 0;

    for (size_t i = 0; i < n; i++) {
        workers[i] = start(0);
        fds[i] = (struct pollfd){.fd = workers[i].fd, .events = POLLIN};
    }
    while (left > 0) {
        if (poll(fds, n, -1) < 0)
            bench_die("poll: %s", strerror(errno));
        for (size_t i = 0; i < n; i++) {
            if (fds[i].fd < 0 || fds[i].revents == 0)
                continue;
            finish(&workers[i]);
            if (warm > 0 && --warm == 0)
                begin = bench_now();
            else if (warm == 0 && end == 0) {
                double now = bench_now();

                count++;
                if (now - begin >= seconds)
                    end = now;
            }
            fds[i].fd = -1;
            if (end == 0) {
                workers[i] = start(0);
                fds[i].fd = workers[i].fd;
            } else {
                left--;
            }
        }
    }
    bench_print_rate(count, end - begin);
}

/* The sum of the lines of /proc/PID/FILE that start with key, in kB. */
static long proc_kb(pid_t pid, const char *file, const char *key)
{
    char path[64], line[256];
    long total = 0;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%ld/%s", (long)pid, file);
    f = fopen(path, "r");
    if (!f)
        bench_die("%s: %s", path, strerror(errno));
    while (fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0)
            total += strtol(line + strlen(key), NULL, 10);
    fclose(f);
    return total;
}

static void idle_memory(void)
{
    worker w = start(1);
    char byte;
    long dirty, clean;

    if (read(w.fd, &byte, 1) != 1)
        bench_die("the idle child did not start");
    usleep(50000);
    dirty = proc_kb(w.pid, "smaps_rollup", "Private_Dirty:");
    clean = proc_kb(w.pid, "smaps_rollup", "Private_Clean:");
    printf("private_kb=%ld private_dirty_kb=%ld pss_kb=%ld anonymous_kb=%ld rss_kb=%ld "
           "page_tables_kb=%ld\n",
           dirty + clean, dirty, proc_kb(w.pid, "smaps_rollup", "Pss:"),
           proc_kb(w.pid, "smaps_rollup", "Anonymous:"),
           proc_kb(w.pid, "smaps_rollup", "Rss:"), proc_kb(w.pid, "status", "VmPTE:"));
    shutdown(w.fd, SHUT_WR);
    finish(&w);
}

int main(int argc, char **argv)
{
    bench_options o = {.under_way = 1};
    double seconds;
    int c;

    while ((c = getopt(argc, argv, "k:m:i")) != -1) {
        if (c == 'k')
            o.under_way = bench_size(optarg, 1);
        else if (c == 'm')
            o.host_mb = bench_size(optarg, 0);
        else if (c == 'i')
            o.memory = 1;
        else
            bench_die("usage: spawn_c [-k UNDER_WAY] [-m HOST_MB] [-i]");
    }
    if (o.under_way > MOST_UNDER_WAY)
        bench_die("at most %d under way", MOST_UNDER_WAY);
    bench_touch(o.host_mb);
    while ((seconds = bench_next_round()) > 0) {
        if (o.memory)
            idle_memory();
        else if (o.under_way == 1)
            one_after_another(seconds);
        else
            many_under_way(seconds, o.under_way);
    }
    return 0;
}
