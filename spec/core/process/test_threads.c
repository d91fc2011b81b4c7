/* Hosts that are not alone: other threads, one of which made the templates and has ended,
 * or forks, or waits for any child; and signals of all kinds at any time. */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include "host_test.h"
#include "process/proc.h"

static pthread_t start(void *(*body)(void *arg), void *arg)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, body, arg) == 0);
    return thread;
}

/* ------------------------------------------------- the thread that made the template */

typedef struct idler {
    tine_host *host;
    tine_proc *p;
    seen seen;
} idler;

static void *make_processes(void *arg)
{
    static const char code[] = "function echo(s) s:write(s:read() .. '.') end";
    idler *i = arg;
    check_works(i->host, false);
    CHECK(tine_proc_new_exec(i->host, NULL, &i->p) == 0);
    see(&i->seen, i->p);
    CHECK(tine_proc_eval(i->p, TINE_TEXT, code, sizeof code - 1, NULL, 0) == 0);
    await(i->host, &i->seen.readies, 1);
    return NULL;
}

static void check_survivors(idler *i, pid_t template_pid)
{
    check_works(i->host, false);
    CHECK_INT(tine_proc_pid(i->host->process->template_proc), template_pid);
    CHECK(strcmp(converse(i->host, i->p, &i->seen, "echo", "there"), "there.") == 0);
    await(i->host, &i->seen.exits, 1);
    CHECK(i->seen.ok && i->seen.errors == 0);
    tine_proc_close(i->p);
    check_works(i->host, false);
}

static void thread_ends(tine_host *host)
{
    idler i = {.host = host};
    CHECK(pthread_join(start(make_processes, &i), NULL) == 0);
    check_survivors(&i, tine_proc_pid(host->process->template_proc));
}

/* While the process lives, its main thread may end too: then a thread of a thread is the
 * parent, and after that one yet another. */
static void *second_of_process(void *arg)
{
    idler *i = arg;
    check_survivors(i, tine_proc_pid(i->host->process->template_proc));
    tine_host_free(i->host);
    exit(0);
}

static void *first_of_process(void *arg)
{
    static idler i;
    CHECK(pthread_join(*(pthread_t *)arg, NULL) == 0);
    CHECK(tine_host_new(&i.host, NULL) == 0);
    make_processes(&i);
    start(second_of_process, &i);
    return NULL;
}

static int join_child(pid_t pid)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

static void main_thread_ends(void)
{
    static pthread_t self;
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        self = pthread_self();
        alarm(TEST_SECONDS);
        start(first_of_process, &self);
        pthread_exit(NULL);
    }
    CHECK_INT(join_child(pid), 0);
}

/* The thread is gone, and then the whole process: nothing of it may stay. */
static void process_ends_after_thread(void)
{
    int pipes[2];
    pid_t theirs[2] = {0};
    CHECK(pipe2(pipes, O_CLOEXEC) == 0);
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        idler i = {0};
        CHECK(tine_host_new(&i.host, NULL) == 0);
        CHECK(pthread_join(start(make_processes, &i), NULL) == 0);
        theirs[0] = tine_proc_pid(i.host->process->template_proc);
        theirs[1] = tine_proc_pid(i.p);
        CHECK(write(pipes[1], theirs, sizeof theirs) == sizeof theirs);
        pause();
    }
    CHECK(read(pipes[0], theirs, sizeof theirs) == sizeof theirs);
    struct pollfd ends[2];
    for (int i = 0; i < 2; i++) {
        ends[i] =
            (struct pollfd){(int)syscall(SYS_pidfd_open, theirs[i], 0), POLLIN, 0};
        CHECK(ends[i].fd >= 0);
        CHECK_INT(poll(&ends[i], 1, 0), 0);
    }
    kill(pid, SIGKILL);
    for (int i = 0; i < 2; i++) {
        CHECK_INT(poll(&ends[i], 1, 10000), 1);
        close(ends[i].fd);
    }
    CHECK(WIFSIGNALED(join_child(pid)));
    close(pipes[0]);
    close(pipes[1]);
}

/* --------------------------------------------------------------- threads at work */

static atomic_bool enough;

static void *wait_until_enough(void *arg)
{
    (void)arg;
    while (!enough)
        poll(NULL, 0, 1);
    return NULL;
}

/* A fork of the program would leave the locks of its other threads locked. */
static void here_is_refused(tine_host *host)
{
    tine_proc *p = NULL;
    int fd = -1;
    enough = false;
    pthread_t thread = start(wait_until_enough, NULL);
    CHECK_INT(tine_proc_here(host, NULL, &p, &fd), -EBUSY);
    CHECK_INT(tine_host_early(host, &fd), -EBUSY);
    CHECK(!p && fd == -1);
    enough = true;
    CHECK(pthread_join(thread, NULL) == 0);
    check_works(host, false);
}

static int inheritable(void)
{
    int n = 0;
    for (int fd = 3; fd < 1024; fd++) {
        int flags = fcntl(fd, F_GETFD);
        n += flags >= 0 && !(flags & FD_CLOEXEC);
    }
    return n;
}

/* Execs this program again and again, to see what it inherits. */
static void *exec_others(void *arg)
{
    int *expected = arg, runs = 0;
    char number[16];
    (void)snprintf(number, sizeof number, "%d", *expected);
    while (!enough || runs < 20) {
        pid_t pid = fork();
        if (pid == 0) {
            execl("/proc/self/exe", "test_threads", "--inherited", number,
                  (char *)NULL);
            _exit(127);
        }
        CHECK(pid > 0);
        CHECK_INT(join_child(pid), 0);
        runs++;
    }
    return NULL;
}

/* None of our descriptors is ever open without close-on-exec. */
static void others_inherit_nothing(tine_host *host)
{
    int expected = inheritable();
    enough = false;
    pthread_t thread = start(exec_others, &expected);
    for (int i = 0; i < 60; i++)
        check_works(host, i % 3 == 0);
    enough = true;
    CHECK(pthread_join(thread, NULL) == 0);
}

static void *reap_any(void *arg)
{
    int *stolen = arg;
    while (!enough) {
        if (waitpid(-1, NULL, 0) > 0)
            ++*stolen;
        else
            poll(NULL, 0, 1);
    }
    return NULL;
}

static bool tells_status_of_reaped(void)
{
    struct utsname name;
    int major = 0, minor = 0;
    CHECK(uname(&name) == 0);
    (void)sscanf(name.release, "%d.%d", &major, &minor);
    return major > 6 || (major == 6 && minor >= 15);
}

/* An exec'ed process is our own child: somebody else's wait may get its status. */
static void check_exec_exit(tine_host *host, bool kill_it, bool exact)
{
    static const char code[] = "function leave() os.exit(9) end";
    tine_proc *p;
    seen s;
    CHECK(tine_proc_new_exec(host, NULL, &p) == 0);
    see(&s, p);
    await(host, &s.readies, 1);
    if (kill_it) {
        CHECK(tine_proc_kill(p, SIGTERM) == 0);
    } else {
        CHECK(tine_proc_eval(p, TINE_TEXT, code, sizeof code - 1, NULL, 0) == 0);
        CHECK(tine_proc_run(p, TINE_TEXT, "leave", 5, NULL, NULL) == 0);
    }
    await(host, &s.exits, 1);
    CHECK(!s.ok && s.exits == 1);
    if (exact) {
        CHECK_INT(s.exit.signal, kill_it ? SIGTERM : 0);
        CHECK_INT(s.exit.code, kill_it ? -1 : 9);
    }
    tine_proc_close(p);
}

static void somebody_waits_for_any(tine_host *host)
{
    static int stolen;
    enough = false;
    pthread_t thread = start(reap_any, &stolen);
    bool exact = tells_status_of_reaped();
    for (int i = 0; i < 20; i++) {
        check_works(host, false);
        check_exec_exit(host, i % 2 == 0, exact);
    }
    CHECK(stolen > 0);
    /* The template too, which is found to be gone and replaced. */
    pid_t before = tine_proc_pid(host->process->template_proc);
    kill(before, SIGKILL);
    for (int64_t end = test_usec() + DEADLINE_USEC;
         host->process->template_proc && test_usec() < end;)
        CHECK(tine_host_poll(host, 1000) >= 0);
    check_works(host, false);
    CHECK(tine_proc_pid(host->process->template_proc) != before);
    enough = true;
    tine_host_reset(host); /* one last child, so that the wait returns */
    CHECK(pthread_join(thread, NULL) == 0);
}

/* ---------------------------------------------------------------------- signals */

static struct sigaction disposition(int signo)
{
    struct sigaction action;
    CHECK(sigaction(signo, NULL, &action) == 0);
    return action;
}

static void set_handler(int signo, void (*handler)(int signo))
{
    struct sigaction action = {.sa_handler = handler}; /* without SA_RESTART */
    CHECK(sigaction(signo, &action, NULL) == 0);
}

static void sigchld_is_ignored(tine_host *host)
{
    set_handler(SIGCHLD, SIG_IGN);
    bool exact = tells_status_of_reaped();
    for (int i = 0; i < 4; i++) {
        check_works(host, false);
        check_exec_exit(host, i % 2 == 0, exact);
    }
    CHECK(disposition(SIGCHLD).sa_handler == SIG_IGN);
    set_handler(SIGCHLD, SIG_DFL);
}

static volatile sig_atomic_t nsignals;

static void on_signal(int signo)
{
    (void)signo;
    nsignals++;
}

static void signals_at_any_time(tine_host *host)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    struct itimerspec often = {{0, 100000}, {0, 100000}}; /* 10 000 a second */
    timer_t timer;
    set_handler(SIGALRM, on_signal);
    set_handler(SIGCHLD, on_signal);
    nsignals = 0;
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    CHECK(timer_settime(timer, 0, &often, NULL) == 0);
    for (int i = 0; i < 100 || nsignals < 1000; i++)
        check_works(host, i % 10 == 0);
    check_exec_exit(host, false, true);
    check_exec_exit(host, true, true);
    timer_delete(timer);
    CHECK(disposition(SIGCHLD).sa_handler == on_signal);
    CHECK(disposition(SIGALRM).sa_handler == on_signal);
    set_handler(SIGALRM, SIG_DFL);
    set_handler(SIGCHLD, SIG_DFL);
}

/* Neither do our settings reach a process, nor does anything change them. */
static void blocked_and_ignored_signals(tine_host *host)
{
    static const char code[] =
        "function status(s)\n"
        "  local text = io.open('/proc/self/status'):read('a')\n"
        "  s:write(text:match('SigBlk:%s*(%x+)') .. text:match('SigIgn:%s*(%x+)'))\n"
        "end";
    sigset_t most, before, after;
    tine_proc *p;
    seen s;
    sigfillset(&most);
    sigdelset(&most, SIGALRM); /* the test's deadline */
    sigprocmask(SIG_SETMASK, &most, &before);
    for (int signo = SIGUSR1; signo <= SIGUSR2; signo++)
        set_handler(signo, SIG_IGN);
    set_handler(SIGPIPE, SIG_IGN);
    set_handler(SIGCHLD, SIG_IGN);
    for (int exec = 0; exec < 2; exec++) {
        CHECK((exec ? tine_proc_new_exec : tine_proc_new)(host, NULL, &p) == 0);
        see(&s, p);
        CHECK(tine_proc_eval(p, TINE_TEXT, code, sizeof code - 1, NULL, 0) == 0);
        const char *answer = converse(host, p, &s, "status", "");
        CHECK(strspn(answer, "0") == 32 && strlen(answer) == 32);
        await(host, &s.exits, 1);
        tine_proc_close(p);
    }
    sigprocmask(SIG_SETMASK, &before, &after);
    for (int signo = 1; signo <= SIGRTMAX; signo++)
        CHECK(sigismember(&most, signo) == sigismember(&after, signo) ||
              signo == SIGKILL || signo == SIGSTOP || signo == 32 || signo == 33);
    CHECK(disposition(SIGPIPE).sa_handler == SIG_IGN);
    for (int signo = SIGUSR1; signo <= SIGUSR2; signo++)
        set_handler(signo, SIG_DFL);
    set_handler(SIGPIPE, SIG_DFL);
    set_handler(SIGCHLD, SIG_DFL);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--inherited") == 0)
        return inheritable() != atoi(argv[2]);
    host_run("the thread that made the template ends", thread_ends);
    test_run("the main thread ends", main_thread_ends);
    test_run("the process ends after its thread", process_ends_after_thread);
    host_run("here() beside threads", here_is_refused);
    host_run("other threads exec", others_inherit_nothing);
    host_run("another thread waits for any child", somebody_waits_for_any);
    host_run("SIGCHLD is ignored", sigchld_is_ignored);
    host_run("signals at any time", signals_at_any_time);
    host_run("blocked and ignored signals", blocked_and_ignored_signals);
    return 0;
}
