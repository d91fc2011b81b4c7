/* session STATE LIMIT COMMAND ARG...: runs a command in a session of its own, and ends it when it
 * hangs, for tools/run-tests. All that it starts stays below this process, whatever sessions or
 * parents it has later: what is left over when the command has ended is found, told and killed.
 * TINE_SPEC_SESSION is this process's id, for the command.
 *
 * The file STATE says what the command does now: a number, the seconds that this may take, its
 * name, a line each. When these are over the command gets SIGINT, and 10 seconds later all is
 * killed; as it is when the command takes longer than LIMIT seconds.
 *
 * The last line of the output is "session: W s, C s of CPU". Exit codes: 0, 1: the command
 * returned 0 or something else; 2: it hung or left something, and it is said what. */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Seconds. What was told to go may take a moment. */
enum { ALLOWED = 120, GRACE = 10, PARTING = 20 };
enum { PAUSE_MSEC = 100, LINE = 1024, MOST = 32768 };
enum { BAD = 2 };

typedef struct process {
    pid_t pid, parent;
    char state;
} process;

static volatile sig_atomic_t stopped;

static pid_t command;
static bool ended;
static int status;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void stop(int sig)
{
    stopped = sig;
}

static void wake(int sig)
{
    (void)sig; /* a rest is over */
}

static pid_t start(char **argv)
{
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid)
        return pid;
    (void)close_range(3, ~0U, 0); /* whatever lock or pipe a caller has left open */
    /* A shell may have us ignore them. */
    (void)signal(SIGINT, SIG_DFL);
    (void)signal(SIGQUIT, SIG_DFL);
    char number[32];
    (void)snprintf(number, sizeof number, "%d", parent);
    setenv("TINE_SPEC_SESSION", number, 1);
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(127);
    execvp(argv[0], argv);
    perror(argv[0]);
    _exit(127);
}

/* Takes note of what has ended. Returns whether there is a child yet. */
static bool reap(void)
{
    for (;;) {
        int st;
        pid_t pid = waitpid(-1, &st, WNOHANG);
        if (pid < 0)
            return errno != ECHILD;
        if (pid == 0)
            return true;
        if (pid == command) {
            ended = true;
            status = st;
        }
    }
}

static void rest(void)
{
    struct timespec t = {0, PAUSE_MSEC * 1000000L};
    nanosleep(&t, NULL);
}

/* --- what is below this process --- */

static bool read_stat(const char *pid, process *p)
{
    char path[64];
    char line[LINE];
    (void)snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    size_t n = fread(line, 1, sizeof line - 1, f);
    (void)fclose(f);
    line[n] = 0;
    const char *rest_of_line = strrchr(line, ')');
    p->pid = (pid_t)strtol(pid, NULL, 10);
    return rest_of_line && sscanf(rest_of_line, ") %c %d", &p->state, &p->parent) == 2;
}

static size_t all_processes(process *list, size_t most)
{
    size_t n = 0;
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    while (dir && n < most && (entry = readdir(dir)))
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' &&
            read_stat(entry->d_name, &list[n]))
            n++;
    if (dir)
        closedir(dir);
    return n;
}

static bool is_below(const process *list, size_t n, pid_t pid)
{
    for (size_t depth = 0; depth < n && pid > 1; depth++) {
        if (pid == getpid())
            return true;
        size_t i = 0;
        while (i < n && list[i].pid != pid)
            i++;
        if (i == n)
            return false;
        pid = list[i].parent;
    }
    return false;
}

/* Does something with each process below this one, zombies apart. */
static void for_each(void (*fn)(pid_t))
{
    static process list[MOST];
    size_t n = all_processes(list, MOST);
    for (size_t i = 0; i < n; i++)
        if (list[i].pid != getpid() && list[i].state != 'Z' &&
            is_below(list, n, list[i].parent))
            fn(list[i].pid);
}

static void tell(pid_t pid)
{
    char path[64];
    char text[LINE] = "";
    (void)snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f)
        (void)fclose(f);
    for (size_t i = 0; i + 1 < n; i++)
        if (!text[i])
            text[i] = ' ';
    printf("%d %s\n", pid, text);
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
}

static void end_all(void)
{
    while (reap()) {
        for_each(end);
        rest();
    }
}

/* --- the watchdog --- */

static struct {
    char text[LINE]; /* of the file STATE */
    char name[LINE];
    double allowed, began, asked;
} test;

static void look(const char *path)
{
    char text[LINE] = "";
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f)
        (void)fclose(f);
    if (test.began > 0 && (n == 0 || strcmp(text, test.text) == 0))
        return;
    memcpy(test.text, text, sizeof text);
    test.began = now();
    test.asked = 0;
    if (sscanf(text, "%*s %lf %1023[^\n]", &test.allowed, test.name) < 2)
        test.allowed = ALLOWED;
}

/* Returns false when all has to be ended. */
static bool watch(double over)
{
    double time = now();
    if (time > over) {
        printf("test: watchdog: the specs take too long: %s\n", test.name);
        return false;
    }
    if (test.asked > 0 && time - test.asked > GRACE) {
        printf("test: watchdog: not to be interrupted: %s\n", test.name);
        return false;
    }
    if (test.asked == 0 && time - test.began > test.allowed) {
        printf("test: watchdog: longer than %.0f s: %s\n", test.allowed, test.name);
        kill(command, SIGINT);
        test.asked = time;
    }
    return true;
}

/* Whether all went well until now. */
static bool wait_for_command(const char *state, double over)
{
    while (reap(), !ended && !stopped) {
        look(state);
        if (!watch(over))
            return false;
        rest();
    }
    return !stopped;
}

/* Whether nothing was left over. */
static bool wait_for_all(void)
{
    double over = now() + PARTING;
    while (reap() && !stopped)
        if (now() < over) {
            rest();
        } else {
            printf("test: processes left over:\n");
            for_each(tell);
            return false;
        }
    return !stopped;
}

/* --- */

static void prepare(void)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    action.sa_handler = wake;
    sigaction(SIGCHLD, &action, NULL);
}

static double cpu_time(void)
{
    struct rusage u;
    getrusage(RUSAGE_CHILDREN, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        (void)fprintf(stderr, "usage: session STATE LIMIT COMMAND ARG...\n");
        return BAD;
    }
    (void)setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    double began = now();
    prepare();
    command = start(argv + 3);
    if (command < 0) {
        perror("fork");
        return BAD;
    }
    bool fine =
        wait_for_command(argv[1], began + strtod(argv[2], NULL)) && wait_for_all();
    end_all();
    printf("session: %.2f s, %.2f s of CPU\n", now() - began, cpu_time());
    return fine ? status != 0 : BAD;
}
