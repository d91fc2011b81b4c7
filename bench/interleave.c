/* Measures programs against each other, in turns: starts all of them, then lets one after
 * another measure for a while, round after round (A B C A B C ...), so that whatever else
 * the machine does falls on all alike. Only one runs at a time, the others wait.
 *
 *   interleave ROUNDS SECONDS DEADLINE COMMAND...
 *
 * bench.h tells what it says to a COMMAND (given to sh) and hears from it. A program
 * without a clock may answer with two lines, "begin" and "end COUNT", as they happen: it is
 * timed here. DEADLINE is the most seconds that a program may take for anything. Prints
 *   INDEX result KEY=NUMBER ...     for each round
 *   INDEX skip REASON               the program says that it cannot run here ("skip=...")
 *   INDEX fail REASON               it died, or took too long; it gets no more turns */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct program {
    size_t index;
    pid_t pid; /* leads a process group; 0: no longer there */
    int pidfd, in, out;
    char text[4096]; /* output not yet taken, and how much */
    size_t len;
    char first
        [512]; /* the turn's first line that was no answer: says why, if it fails */
} program;

static double deadline;

static void start(program *p, const char *command)
{
    int in[2], out[2];

    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0)
        bench_die("pipe: %s", strerror(errno));
    p->pid = fork();
    if (p->pid < 0)
        bench_die("fork: %s", strerror(errno));
    if (p->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        setpgid(0, 0);
        signal(SIGPIPE, SIG_DFL);
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        dup2(out[1], STDERR_FILENO);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    setpgid(p->pid, p->pid);
    p->pidfd = pidfd_open(p->pid, 0);
    if (p->pidfd < 0)
        bench_die("pidfd_open: %s", strerror(errno));
    close(in[0]);
    close(out[1]);
    p->in = in[1];
    p->out = out[0];
}

/* Ends the program and all that it has left in its process group; returns the status. */
static int stop(program *p)
{
    struct pollfd fd = {.fd = p->pidfd, .events = POLLIN};
    int status = 0;

    close(p->in);
    /* A host of 2 GB has much to free. */
    if (poll(&fd, 1, 30000) != 1)
        snprintf(p->first, sizeof p->first, "does not end at its end of file");
    kill(-p->pid, SIGKILL);
    waitpid(p->pid, &status, 0);
    close(p->pidfd);
    close(p->out);
    p->pid = 0;
    return status;
}

static void drop(program *p, const char *how, const char *why)
{
    printf("%zu %s %s\n", p->index, how, why);
    fflush(stdout);
    stop(p);
}

/* Moves the first line of the program's output to line. */
static int take_line(program *p, char *line, size_t size)
{
    char *newline = memchr(p->text, '\n', p->len);
    size_t len = newline ? (size_t)(newline - p->text) : p->len;

    if (!newline && p->len < sizeof p->text)
        return 0;
    snprintf(line, size, "%.*s", (int)len, p->text);
    p->len -= newline ? len + 1 : len;
    memmove(p->text, p->text + len + (newline != NULL), p->len);
    return 1;
}

/* Waits for a line of output. Returns 0 when there will be none, or none in time: the
 * descendants of a dead program may hold its output open, so its end counts. */
static int read_line(program *p, char *line, size_t size, double until)
{
    while (!take_line(p, line, size)) {
        struct pollfd fds[2] = {{.fd = p->out, .events = POLLIN},
                                {.fd = p->pidfd, .events = POLLIN}};
        double left = until - bench_now();
        ssize_t n;

        if (left <= 0 || poll(fds, 2, (int)(left * 1000) + 1) <= 0) {
            snprintf(p->first, sizeof p->first, "nothing heard for %g s", deadline);
            return 0;
        }
        if (fds[0].revents == 0)
            return 0;
        n = read(p->out, p->text + p->len, sizeof p->text - p->len);
        if (n <= 0)
            return 0;
        p->len += (size_t)n;
    }
    return 1;
}

static int is_answer(const char *line)
{
    const char *equals = strchr(line, '=');

    return equals && strcspn(line, " ") > (size_t)(equals - line);
}

/* Waits until the program has said what it should: "ready", or the result of a round. */
static int expect(program *p, int ready)
{
    double until = bench_now() + deadline, begin = -1;
    char line[sizeof p->text];

    p->first[0] = '\0';
    while (read_line(p, line, sizeof line, until)) {
        double now = bench_now();

        if (strncmp(line, "skip=", 5) == 0) {
            drop(p, "skip", line + 5);
            return 0;
        }
        if (ready && strcmp(line, "ready") == 0)
            return 1;
        if (!ready && strcmp(line, "begin") == 0) {
            begin = now;
        } else if (begin >= 0 && strncmp(line, "end ", 4) == 0) {
            printf("%zu result ", p->index);
            bench_print_rate(strtoul(line + 4, NULL, 10), now - begin);
            return 1;
        } else if (!ready && is_answer(line)) {
            printf("%zu result %s\n", p->index, line);
            return 1;
        } else if (p->first[0] == '\0') {
            snprintf(p->first, sizeof p->first, "%.500s", line);
        }
    }
    drop(p, "fail", p->first[0] ? p->first : "ended without a word");
    return 0;
}

static void take_turn(program *p, double seconds)
{
    char line[64];
    int len = snprintf(line, sizeof line, "%g\n", seconds);

    if (write(p->in, line, (size_t)len) != len) {
        drop(p, "fail", p->first[0] ? p->first : "ended between two rounds");
        return;
    }
    expect(p, 0);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    size_t rounds, n;
    program *programs;
    double seconds;

    if (argc < 5)
        bench_die("usage: interleave ROUNDS SECONDS DEADLINE COMMAND...");
    rounds = bench_size(argv[1], 1);
    seconds = strtod(argv[2], NULL);
    deadline = strtod(argv[3], NULL);
    if (!(seconds > 0) || !(deadline > 0))
        bench_die("SECONDS and DEADLINE must be positive");
    n = (size_t)argc - 4;
    programs = calloc(n, sizeof *programs);
    if (!programs)
        bench_die("no memory");
    signal(SIGPIPE, SIG_IGN);
    /* The programs' servers outlive them for a moment: collect them, if init does not. */
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (size_t i = 0; i < n; i++) {
        programs[i].index = i + 1;
        start(&programs[i], argv[i + 4]);
    }
    for (size_t i = 0; i < n; i++)
        expect(&programs[i], 1);
    for (size_t round = 0; round < rounds; round++)
        for (size_t i = 0; i < n; i++)
            if (programs[i].pid)
                take_turn(&programs[i], seconds);
    for (size_t i = 0; i < n; i++)
        if (programs[i].pid && stop(&programs[i]) != 0)
            printf("%zu fail %s\n", i + 1,
                   programs[i].first[0] ? programs[i].first : "did not exit with 0");
    free(programs);
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    return 0;
}
