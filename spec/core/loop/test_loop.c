/* The loop of a host: its own or a borrowed event_base, timers, watchers, signals, polling. */
#include <event2/event.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "host_test.h"

/* What a busy machine may add to a wait. */
enum { SLACK_USEC = 60000 };

static void never_fd(void *arg, tine_proc *p, int fd, const tine_error *err)
{
    (void)arg, (void)p, (void)err;
    if (fd >= 0)
        close(fd);
}

/* ------------------------------------------------------------------ polling */

static void poll_waits_no_longer_than_asked(tine_host *host)
{
    static const int64_t asked[] = {-5, 0, 1, 500, 1000, 5000, 20000};
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        int64_t best = INT64_MAX;
        for (int k = 0; k < 5; k++) {
            int64_t began = test_usec();
            CHECK_INT(tine_host_poll(host, asked[i]), 0);
            int64_t took = test_usec() - began;
            best = took < best ? took : best;
        }
        CHECK(best <= (asked[i] > 0 ? asked[i] : 0) + SLACK_USEC / 30);
        CHECK(best >= asked[i] - 100); /* there was nothing to come back for */
    }
}

static void poll_returns_when_something_happens(tine_host *host)
{
    tine_proc *p;
    seen s;
    CHECK_INT(tine_proc_new(host, NULL, &p), 0);
    see(&s, p);
    int64_t began = test_usec();
    while (!s.readies)
        CHECK(tine_host_poll(host, 20000000) >= 0);
    CHECK(test_usec() - began < 10000000);
    /* A command is on its way before the first wait. */
    CHECK_INT(tine_proc_eval(p, TINE_TEXT, "x = 1", 5, NULL, 0), 0);
    CHECK(tine_host_poll(host, 0) >= 0);
    while (tine_proc_busy(p))
        CHECK(tine_host_poll(host, 20000000) >= 0);
    CHECK(test_usec() - began < 15000000);
    CHECK_INT(tine_host_poll(host, 0), 0);
    tine_proc_close(p);
    while (tine_host_poll(host, 20000000) > 0)
        ;
    CHECK_INT(s.exits, 1);
}

/* A frame loop never loses time, whatever the processes do. */
static void polled_in_frames(tine_host *host)
{
    enum { N = 30 };
    static seen s[N];
    int64_t longest = 0;
    for (int i = 0; i < N; i++) {
        tine_proc *p;
        CHECK_INT(tine_proc_new(host, NULL, &p), 0);
        see(&s[i], p);
        CHECK_INT(tine_proc_eval(p, TINE_TEXT, "function f() end", 16, NULL, 0), 0);
        CHECK_INT(tine_proc_run(p, TINE_TEXT, "f", 1, never_fd, NULL), 0);
        tine_proc_close(p);
    }
    int64_t end = test_usec() + DEADLINE_USEC;
    for (int active = 1; active && test_usec() < end;) {
        int64_t began = test_usec();
        active = tine_host_poll(host, 1000);
        CHECK(active >= 0);
        longest = test_usec() - began > longest ? test_usec() - began : longest;
    }
    for (int i = 0; i < N; i++)
        CHECK(s[i].exits == 1 && s[i].ok);
    CHECK(longest < (int64_t)10 * SLACK_USEC);
}

static int nested_result[2];

static void nested(void *arg, tine_timer *timer)
{
    tine_host *host = arg;
    tine_timer_free(timer);
    tine_host_stop(host);
    nested_result[0] = tine_host_run(host);
    nested_result[1] = tine_host_poll(host, 1000);
}

static void no_loop_in_the_loop(tine_host *host)
{
    tine_timer *stop, *never;
    CHECK_INT(tine_timer_new(host, &stop, 0, -1, nested, host), 0);
    CHECK_INT(tine_timer_new(host, &never, 50000000, -1, nested, host), 0);
    CHECK_INT(tine_host_run(host), 1); /* what was stopped stays so */
    CHECK_INT(nested_result[0], -EBUSY);
    CHECK_INT(nested_result[1], -EBUSY);
    tine_timer_free(never);
    CHECK_INT(tine_host_run(host), 0);
    tine_host_stop(host); /* nothing runs: nothing to stop */
    CHECK_INT(tine_host_run(host), 0);
}

/* ------------------------------------------------------------------- timers */

static int fired;
static tine_timer *others[3];

static void count_timer(void *arg, tine_timer *timer)
{
    fired++;
    if (arg && fired == *(int *)arg)
        tine_timer_free(timer);
}

static void free_others(void *arg, tine_timer *timer)
{
    (void)arg;
    fired++;
    for (int i = 0; i < 3; i++)
        tine_timer_free(others[i]);
    (void)timer;
}

static void timers(tine_host *host)
{
    tine_timer *t;
    int most = 5;
    fired = 0;
    CHECK_INT(tine_timer_new(host, &t, 2000, -1, count_timer, NULL), 0);
    int64_t began = test_usec();
    CHECK_INT(tine_host_run(host), 0);
    CHECK(fired == 1 && test_usec() - began >= 1900);
    tine_timer_free(t); /* also when it has fired */
    fired = 0;
    CHECK_INT(tine_timer_new(host, &t, -1, 1000, count_timer, &most), 0);
    CHECK_INT(tine_host_run(host), 0);
    CHECK_INT(fired, 5);
    fired = 0;
    for (int i = 0; i < 3; i++) /* all due at once, the first of them frees all */
        CHECK_INT(tine_timer_new(host, &others[i], 0, 0, free_others, NULL), 0);
    CHECK_INT(tine_host_run(host), 0);
    CHECK_INT(fired, 1);
    static const int64_t far_away[] = {INT64_MAX, INT64_MAX / 1000, (int64_t)1 << 52};
    for (int i = 0; i < 3; i++) {
        CHECK_INT(tine_timer_new(host, &t, far_away[i], far_away[i], count_timer, NULL),
                  0);
        CHECK_INT(tine_host_poll(host, 100), 1);
        CHECK_INT(tine_host_poll(host, 0), 1);
        tine_timer_free(t);
    }
    CHECK_INT(fired, 1);
    CHECK_INT(tine_timer_new(host, &t, 1000, -1, count_timer, NULL),
              0); /* for host_free */
}

/* ----------------------------------------------------------------- watchers */

static int io_events;

static void on_io(void *arg, tine_io *io, int events)
{
    io_events = events;
    if (arg)
        tine_io_free(io);
}

static void watchers(tine_host *host)
{
    int pair[2], file = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    tine_io *io, *second;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    CHECK_INT(tine_io_new(host, &io, pair[0], 0, on_io, NULL), -EINVAL);
    CHECK_INT(tine_io_new(host, &io, pair[0], 8, on_io, NULL), -EINVAL);
    CHECK_INT(tine_io_new(host, &io, -1, TINE_READ, on_io, NULL), -EBADF);
    CHECK_INT(tine_io_new(host, &io, 100000, TINE_READ, on_io, NULL), -EBADF);
    CHECK_INT(tine_io_new(host, &io, file, TINE_READ, on_io, NULL), -EPERM);
    close(file);
    io_events = 0;
    CHECK_INT(tine_io_new(host, &io, pair[0], TINE_READ | TINE_WRITE, on_io, host), 0);
    CHECK_INT(tine_host_run(host), 0);
    CHECK_INT(io_events, TINE_WRITE);
    /* Two on one descriptor. */
    CHECK_INT(tine_io_new(host, &io, pair[0], TINE_READ, on_io, NULL), 0);
    CHECK_INT(tine_io_new(host, &second, pair[0], TINE_READ, on_io, host), 0);
    io_events = 0;
    CHECK_INT(tine_host_poll(host, 1000), 1);
    CHECK_INT(io_events, 0);
    CHECK(write(pair[1], "x", 1) == 1);
    CHECK_INT(tine_host_poll(host, 1000000), 1);
    CHECK_INT(io_events, TINE_READ);
    tine_io_free(io);
    CHECK_INT(tine_host_run(host), 0);
    close(pair[0]);
    close(pair[1]);
}

/* ------------------------------------------------------------------ signals */

static int signalled, own_handler;

static void on_signal(void *arg, tine_signal *sig, int signo)
{
    (void)sig;
    signalled = signo;
    tine_host_stop(arg);
}

static void on_own_signal(int signo)
{
    own_handler = signo;
}

static void signals(tine_host *host)
{
    tine_signal *s;
    static const int wrong[] = {0, -1, SIGKILL, SIGSTOP, SIGCHLD, 1000};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK_INT(tine_signal_new(host, &s, wrong[i], on_signal, host), -EINVAL);
    signal(SIGUSR1, on_own_signal);
    CHECK_INT(tine_signal_new(host, &s, SIGUSR1, on_signal, host), 0);
    raise(SIGUSR1);
    CHECK_INT(tine_host_run(host), 1);
    CHECK_INT(signalled, SIGUSR1);
    CHECK_INT(own_handler, 0);
    tine_signal_free(s);
    raise(SIGUSR1);
    CHECK_INT(own_handler, SIGUSR1);
    CHECK_INT(tine_host_run(host), 0);
    signal(SIGUSR1, SIG_DFL);
}

/* Making processes changes neither dispositions nor the mask. */
static void settings_stay(tine_host *host)
{
    struct sigaction before[65], after;
    sigset_t mask_before, mask_after;
    memset(before, 0, sizeof before);
    for (int i = 1; i < 65; i++)
        sigaction(i, NULL, &before[i]);
    sigprocmask(SIG_SETMASK, NULL, &mask_before);
    check_works(host, false);
    check_works(host, true);
    sigprocmask(SIG_SETMASK, NULL, &mask_after);
    for (int i = 1; i < 65; i++) {
        memset(&after, 0, sizeof after);
        sigaction(i, NULL, &after);
        CHECK(after.sa_handler == before[i].sa_handler);
        CHECK_INT(sigismember(&mask_after, i), sigismember(&mask_before, i));
    }
}

/* ------------------------------------------------------- whose base, how many */

static void tick(evutil_socket_t fd, short events, void *arg)
{
    (void)fd, (void)events;
    ++*(int *)arg;
}

static struct event_base *the_base;

static void borrowed_base(void)
{
    struct event_base *base = event_base_new();
    struct timeval often = {0, 2000};
    int ticks = 0;
    struct event *mine = event_new(base, -1, EV_PERSIST, tick, &ticks);
    CHECK(event_add(mine, &often) == 0);
    tine_host *host;
    tine_host_options options = {.base = base};
    CHECK_INT(tine_host_new(&host, &options), 0);
    check_works(host, false);
    /* The program's own timer is nothing that the host would wait for. */
    CHECK_INT(tine_host_run(host), 0);
    CHECK_INT(tine_host_active(host), 0);
    /* In the program's own loop. */
    tine_proc *p;
    seen s;
    CHECK_INT(tine_proc_new(host, NULL, &p), 0);
    see(&s, p);
    tine_proc_close(p);
    while (!s.exits || !ticks)
        CHECK(event_base_loop(base, EVLOOP_ONCE) >= 0);
    CHECK(s.ok);
    /* Freed with a process under way; the base stays usable. */
    CHECK_INT(tine_proc_new(host, NULL, &p), 0);
    see(&s, p);
    await(host, &s.readies, 1);
    CHECK_INT(tine_proc_eval(p, TINE_TEXT, "x = 1", 5, NULL, 0), 0);
    tine_host_free(host);
    ticks = 0;
    while (ticks < 2)
        CHECK(event_base_loop(base, EVLOOP_ONCE) >= 0);
    CHECK_INT(event_base_get_num_events(base, EVENT_BASE_COUNT_ADDED), 1);
    event_free(mine);
    event_base_free(base);
}

static void end_loop(evutil_socket_t fd, short events, void *arg)
{
    const seen *s = arg;
    (void)fd, (void)events;
    if (s->exits)
        event_base_loopbreak(the_base);
}

static void note_fired(void *arg, tine_timer *timer)
{
    (void)timer;
    ++*(int *)arg;
}

/* The program's own loop ends when there is nothing to wait for, and not before. */
static void dispatched(void)
{
    static const char code[] = "function f(s) s:read() end";
    struct event_base *base = event_base_new();
    tine_host_options options = {.base = base};
    tine_host *host;
    tine_proc *p;
    tine_timer *timer;
    seen s;
    int times = 0;
    CHECK_INT(tine_host_new(&host, &options), 0);
    CHECK_INT(event_base_dispatch(base), 1);
    CHECK_INT(tine_timer_new(host, &timer, 20000, -1, note_fired, &times), 0);
    CHECK_INT(event_base_dispatch(base), 1);
    CHECK_INT(times, 1);
    tine_timer_free(timer);
    CHECK_INT(tine_proc_new(host, NULL, &p), 0);
    see(&s, p);
    CHECK_INT(tine_proc_eval(p, TINE_TEXT, code, sizeof code - 1, NULL, 0), 0);
    CHECK_INT(event_base_dispatch(base), 1);
    CHECK(s.readies == 1 && s.exits == 0); /* it is idle */
    CHECK_INT(tine_proc_run(p, TINE_TEXT, "f", 1, NULL, NULL), 0);
    CHECK_INT(event_base_dispatch(base), 1);
    CHECK(s.exits == 1 && s.ok);
    tine_proc_close(p);
    CHECK_INT(event_base_dispatch(base), 1);
    tine_host_free(host);
    event_base_free(base);
}

/* What is nothing to wait for is heard all the same while the program's loop runs. */
static void idle_in_a_borrowed_base(void)
{
    struct timeval often = {0, 2000};
    struct event_base *base = the_base = event_base_new();
    tine_host_options options = {.base = base};
    tine_host *host;
    tine_proc *p;
    seen s;
    CHECK_INT(tine_host_new(&host, &options), 0);
    CHECK_INT(tine_proc_new(host, NULL, &p), 0);
    see(&s, p);
    CHECK_INT(event_base_dispatch(base), 1);
    struct event *mine = event_new(base, -1, EV_PERSIST, end_loop, &s);
    CHECK(event_add(mine, &often) == 0);
    CHECK_INT(kill(tine_proc_pid(p), SIGKILL), 0);
    CHECK_INT(event_base_dispatch(base), 0);
    CHECK(s.exits == 1 && s.exit.signal == SIGKILL);
    tine_proc_close(p);
    event_free(mine);
    CHECK_INT(tine_host_run(host), 0);
    int64_t before = test_usec();
    CHECK_INT(tine_host_poll(host, 30000), 0);
    CHECK(test_usec() - before >= 30000);
    tine_host_free(host);
    event_base_free(base);
}

static void two_hosts(void)
{
    struct event_base *base = event_base_new();
    tine_host_options shared = {.base = base};
    for (int borrowed = 0; borrowed < 2; borrowed++) {
        tine_host *a, *b;
        CHECK_INT(tine_host_new(&a, borrowed ? &shared : NULL), 0);
        CHECK_INT(tine_host_new(&b, borrowed ? &shared : NULL), 0);
        check_works(a, false);
        check_works(b, true);
        check_works(b, false);
        check_works(a, true);
        tine_host_free(a);
        check_works(b, false);
        tine_host_free(b);
    }
    event_base_free(base);
}

/* -------------------------------------------------------- short of descriptors */

static void scenario(tine_host *host)
{
    tine_proc *p, *q;
    seen s, t;
    CHECK_INT(tine_proc_new(host, NULL, &p), 0);
    see(&s, p);
    CHECK_INT(tine_proc_fork(p, NULL, &q), 0);
    see(&t, q);
    tine_proc_eval(q, TINE_TEXT, "function f() end", 16, NULL, 0);
    tine_proc_run(q, TINE_TEXT, "f", 1, never_fd, NULL);
    tine_proc_close(q);
    tine_proc_close(p);
    CHECK_INT(tine_host_run(host), 0);
    CHECK(s.exits == 1 && t.exits == 1);
    CHECK(s.ok || s.errors);
    CHECK(t.ok || t.errors || t.exit.signal || t.exit.code);
}

static void with_few_descriptors(void)
{
    struct rlimit before, few;
    bool made = false;
    int used = dup(0);
    close(used);
    getrlimit(RLIMIT_NOFILE, &before);
    for (unsigned more = 0; more < 40; more++) {
        tine_host *host = NULL;
        few = before;
        few.rlim_cur = (rlim_t)used + more;
        CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
        int err = tine_host_new(&host, NULL);
        CHECK(err == 0 || err == -EMFILE);
        CHECK(!made || !err);
        made = !err;
        if (made)
            scenario(host);
        tine_host_free(host);
        CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
    }
    CHECK(made);
}

/* Started with 0, 1 and 2 closed: the host stays away from them. */
static int low_descriptors(void)
{
    tine_host *host;
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    if (tine_host_new(&host, NULL) < 0)
        return 2;
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            return 3;
    check_works(host, false);
    check_works(host, true);
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            return 4;
    tine_host_free(host);
    return 0;
}

static void without_standard_descriptors(void)
{
    int status;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        _exit(low_descriptors());
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_INT(status, 0);
}

#define HOST(body) host_run(#body, body)

int main(void)
{
    HOST(poll_waits_no_longer_than_asked);
    HOST(poll_returns_when_something_happens);
    HOST(polled_in_frames);
    HOST(no_loop_in_the_loop);
    HOST(timers);
    HOST(watchers);
    HOST(signals);
    HOST(settings_stay);
    RUN(borrowed_base);
    RUN(dispatched);
    RUN(idle_in_a_borrowed_base);
    RUN(two_hosts);
    RUN(with_few_descriptors);
    RUN(without_standard_descriptors);
    return 0;
}
