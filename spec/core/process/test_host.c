/* libtine in a C program that has no Lua: processes, and the order of their callbacks. */
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include "host_jobs.h"

static int pipe_with(const char *text)
{
    int fds[2];
    CHECK(pipe2(fds, O_CLOEXEC) == 0);
    CHECK(write(fds[1], text, strlen(text)) == (ssize_t)strlen(text));
    close(fds[1]);
    return fds[0];
}

/* ------------------------------------------------------------ the whole way */

static void conversation(tine_host *host)
{
    tine_proc *base = new_proc(host);
    seen of_base, of_worker;
    see(&of_base, base);
    load_job(base);
    tine_str args[] = {str("one"), {"t\0wo", 4}, {"", 0}};
    CHECK_INT(tine_proc_send_arg(base, args, 2), 0);
    int fd = pipe_with("piped");
    CHECK_INT(tine_proc_send_fd(base, &fd, 1), 0);
    tine_proc *worker = fork_proc(base);
    see(&of_worker, worker);
    CHECK_INT(tine_proc_send_arg(worker, args, 1), 0);
    CHECK_INT(tine_proc_pid(worker), 0);
    const char *answer = converse(host, worker, &of_worker, "job", "go");
    CHECK(memcmp(answer, "loaded: go one t\0wo piped one", 30) == 0);
    await(host, &of_worker.exits, 1);
    CHECK(of_worker.ok && of_worker.readies == 1 && of_worker.fds == 1);
    CHECK_INT(of_worker.exit.pid, tine_proc_pid(worker));
    CHECK(of_worker.exit.rusage.ru_maxrss > 0);
    CHECK(tine_proc_ended(worker) && tine_proc_consumed(worker));
    CHECK_INT(of_base.exits, 0);
    tine_proc_close(worker);
    tine_proc_close(base);
    run_out(host);
    CHECK(of_base.exits == 1 && of_base.ok);
    CHECK_INT(handles(host), 1); /* the default template */
    CHECK_INT(tine_host_reset(host), 0);
    run_out(host);
    CHECK_INT(handles(host), 0);
}

static void many_workers(tine_host *host)
{
    enum { N = 60 };
    static seen s[N];
    tine_proc *base = new_proc(host), *p[N];
    load_job(base);
    for (int i = 0; i < N; i++) {
        p[i] = fork_proc(base);
        see(&s[i], p[i]);
        run(p[i], i % 3 == 0 ? "fail" : "nothing", NULL, NULL);
    }
    run_out(host);
    for (int i = 0; i < N; i++) {
        CHECK_INT(s[i].exits, 1);
        CHECK_INT(s[i].errors, i % 3 == 0);
        CHECK_INT(s[i].exit.code, i % 3 == 0);
        tine_proc_close(p[i]);
    }
    tine_proc_close(base);
}

static void the_loop_waits_for_what_it_should(tine_host *host)
{
    static const char slow[] =
        "local t = os.clock() + 0.05 while os.clock() < t do end "
        "if tine_fd then tine_fd:write('x') end";
    tine_proc *p = new_proc(host), *worker, *detached;
    tine_proc_options options = {.detach = 1};
    seen s, of_detached;
    /* A command that is under way. */
    int fds[2];
    char byte;
    CHECK(pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0);
    CHECK_INT(tine_proc_send_fd(p, &fds[1], 1), 0);
    eval(p, "tine_fd = require('tine').run_args()");
    eval(p, slow);
    run_out(host);
    CHECK(read(fds[0], &byte, 1) == 1);
    close(fds[0]);
    CHECK(!tine_proc_busy(p) && !tine_proc_ended(p));
    /* A function that runs. */
    load_job(p);
    eval(p,
         "function slow() local t = os.clock() + 0.05 while os.clock() < t do end end");
    worker = fork_proc(p);
    see(&s, worker);
    run(worker, "slow", NULL, NULL);
    run_out(host);
    CHECK_INT(s.exits, 1);
    tine_proc_close(worker);
    /* Not one that is detached, once it has begun. */
    CHECK_INT(tine_proc_fork(p, &options, &detached), 0);
    see(&of_detached, detached);
    run(detached, "forever", seen_fd, &of_detached);
    run_out(host);
    CHECK(of_detached.fds == 1 && of_detached.exits == 0);
    close(of_detached.fd); /* ends it */
    await(host, &of_detached.exits, 1);
    tine_proc_close(detached);
    /* The end of one that was closed or killed. */
    worker = fork_proc(p);
    see(&s, worker);
    tine_proc_close(worker);
    run_out(host);
    CHECK(s.exits == 1 && s.ok && s.readies == 1);
    see(&s, p);
    CHECK_INT(tine_proc_kill(p, SIGKILL), 0);
    run_out(host);
    CHECK(s.exits == 1 && s.exit.signal == SIGKILL);
    tine_proc_close(p);
}

static void handed_over(tine_host *host)
{
    tine_host *other;
    tine_proc *p = new_proc(host), *q;
    seen s, t;
    CHECK_INT(tine_host_new(&other, NULL), 0);
    see(&s, p);
    load_job(p);
    CHECK_INT(tine_proc_to_fd(p, seen_fd, &s), 0);
    CHECK_INT(tine_proc_eval(p, TINE_TEXT, "", 0, NULL, 0), -TINE_ECONSUMED);
    await(host, &s.fds, 1);
    CHECK(s.fd >= 0);
    run_out(host); /* it is not this host's business any more */
    CHECK_INT(tine_proc_from_fd(other, s.fd, &q), 0);
    see(&t, q);
    CHECK(strcmp(converse(other, q, &t, "job", "hi"), "loaded: hi") == 0);
    await(other, &t.exits, 1);
    await(host, &s.exits, 1);
    CHECK(s.ok && t.readies == 1);
    tine_proc_close(p);
    tine_proc_close(q);
    run_out(other);
    tine_host_free(other);
}

static void nobody_behind_a_descriptor(tine_host *host)
{
    int pair[2], fd = test_marked_fd();
    tine_proc *p;
    seen s;
    CHECK_INT(tine_proc_from_fd(host, -1, &p), -EBADF);
    CHECK_INT(tine_proc_from_fd(host, fd, &p), -ENOTSOCK);
    close(fd);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    close(pair[1]);
    CHECK_INT(tine_proc_from_fd(host, pair[0], &p), 0);
    see(&s, p);
    run(p, "anything", seen_fd, &s);
    int64_t began = test_usec();
    run_out(host);
    CHECK(test_usec() - began < 5000000); /* not the timeout of an answer */
    CHECK(s.exits == 1 && s.fds == 1 && s.fd == -1 && s.errors == 1);
    CHECK_INT(s.kind, TINE_KIND_CLOSED);
    tine_proc_close(p);
}

/* ---------------------------------------------------------------- callbacks */

static char order[64];

static void note(char c)
{
    size_t n = strlen(order);
    if (n < sizeof order - 1) {
        order[n] = c;
        order[n + 1] = 0;
    }
}

static void note_ready(void *arg, tine_proc *p, const tine_error *err)
{
    (void)arg, (void)p;
    note(err ? 'R' : 'r');
}

static void note_error(void *arg, tine_proc *p, const tine_error *err)
{
    (void)arg, (void)p, (void)err;
    note('e');
}

static void note_fd(void *arg, tine_proc *p, int fd, const tine_error *err)
{
    (void)arg, (void)p;
    note(err ? 'F' : 'f');
    if (fd >= 0)
        close(fd);
}

static void note_idle(void *arg, tine_proc *p)
{
    (void)arg;
    CHECK(!tine_proc_busy(p));
    note('i');
}

static void note_exit(void *arg, tine_proc *p, const tine_error *err,
                      const tine_exit *info)
{
    (void)arg, (void)p, (void)info;
    note(err ? 'X' : 'x');
}

static tine_proc *noted(tine_proc *p)
{
    order[0] = 0;
    tine_proc_on_ready(p, note_ready, NULL);
    tine_proc_on_error(p, note_error, NULL);
    tine_proc_on_idle(p, note_idle, NULL);
    tine_proc_on_exit(p, note_exit, NULL);
    return p;
}

static void order_of_callbacks(tine_host *host)
{
    tine_proc *p = noted(new_proc(host));
    load_job(p);
    run(p, "nothing", note_fd, NULL);
    run_out(host);
    CHECK(strcmp(order, "rfix") == 0);
    tine_proc_close(p);
    p = noted(new_proc(host));
    load_job(p);
    run(p, "fail", note_fd, NULL);
    run_out(host);
    CHECK(strcmp(order, "rfeiX") == 0 || strcmp(order, "refiX") == 0);
    tine_proc_close(p);
    p = noted(new_proc(host));
    run_out(host);
    CHECK(strcmp(order, "ri") == 0);
    eval(p, "error 'no'");
    run_out(host); /* a process that failed and has no workers leaves */
    CHECK(strncmp(order, "rie", 3) == 0 && strspn(order + 3, "i") == strlen(order) - 4);
    CHECK(order[strlen(order) - 1] == 'X');
    tine_proc_close(p);
    tine_proc *dead = noted(new_proc(host));
    CHECK_INT(tine_proc_kill(dead, SIGKILL), 0);
    run(dead, "nothing", note_fd, NULL);
    run_out(host);
    CHECK(order[strlen(order) - 1] == 'X' && strchr(order, 'r'));
    CHECK(!strchr(order, 'F') != !strchr(order, 'f'));
    tine_proc_close(dead);
}

static void callbacks_that_come_late(tine_host *host)
{
    tine_proc *p = new_proc(host);
    tine_proc_on_error(p, NULL, NULL);
    load_job(p);
    run(p, "nothing", NULL, NULL);
    run_out(host);
    noted(p);
    CHECK(strcmp(order, "") == 0); /* not at once */
    CHECK(tine_host_active(host));
    run_out(host);
    CHECK(strcmp(order, "rx") == 0);
    run_out(host);
    CHECK(strcmp(order, "rx") == 0); /* nor twice */
    tine_proc_close(p);
}

/* How often each thing happened that closed a handle. */
static int closed_in;

static void close_ready(void *arg, tine_proc *p, const tine_error *err)
{
    (void)err;
    if (!arg || !closed_in)
        tine_proc_close(arg ? arg : p);
    closed_in++;
}

static void close_error(void *arg, tine_proc *p, const tine_error *err)
{
    close_ready(arg, p, err);
}

static void close_fd(void *arg, tine_proc *p, int fd, const tine_error *err)
{
    close(fd);
    close_ready(arg, p, err);
}

static void close_idle(void *arg, tine_proc *p)
{
    close_ready(arg, p, NULL);
}

static void close_line(void *arg, tine_proc *p, const char *line, size_t len)
{
    (void)line;
    CHECK_INT(len, 4);
    close_ready(arg, p, NULL);
}

static void close_exit(void *arg, tine_proc *p, const tine_error *err,
                       const tine_exit *info)
{
    (void)info;
    close_ready(arg, p, err);
}

static void set_closing(tine_proc *p, int which, void *arg)
{
    switch (which) {
    case 0:
        tine_proc_on_ready(p, close_ready, arg);
        break;
    case 1:
        tine_proc_on_error(p, close_error, arg);
        break;
    case 2:
        tine_proc_on_idle(p, close_idle, arg);
        break;
    default:
        tine_proc_on_exit(p, close_exit, arg);
        break;
    }
}

/* Closes itself in callback `which` of a process that is run, or fails, or stays idle. */
static void close_itself(tine_host *host, int which, const char *func, bool exec)
{
    tine_proc *p;
    tine_proc_options options = {
        .stdio[1] = {.how = TINE_STDIO_LINES, .on_line = close_line}};
    const tine_proc_options *with = which == 5 ? &options : NULL;
    closed_in = 0;
    CHECK_INT((exec ? tine_proc_new_exec : tine_proc_new)(host, with, &p), 0);
    if (func && strcmp(func, "fail") != 0)
        tine_proc_on_error(p, NULL, NULL);
    tine_proc_on_exit(p, note_exit, NULL);
    tine_proc_on_error(p, note_error, NULL);
    order[0] = 0;
    load_job(p);
    eval(p, which == 5 ? "print('line')" : "");
    if (which < 4)
        set_closing(p, which, NULL);
    if (func)
        run(p, func, which == 4 ? close_fd : NULL, NULL);
    run_out(host);
    if (closed_in)
        CHECK(which == 3 || strchr(order, 'x') || strchr(order, 'X'));
    else
        tine_proc_close(p);
    run_out(host);
    CHECK(handles(host) <= 1);
}

static void closes_itself_in_any_callback(tine_host *host)
{
    for (int which = 0; which < 6; which++)
        for (int exec = 0; exec < 2; exec++) {
            close_itself(host, which, "nothing", exec);
            close_itself(host, which, "fail", exec);
            close_itself(host, which, "missing", exec);
            close_itself(host, which, NULL, exec);
        }
}

static void closes_others_in_any_callback(tine_host *host)
{
    for (int which = 0; which < 4; which++)
        for (int relative = 0; relative < 3; relative++) {
            tine_proc *base = new_proc(host), *p, *others[3];
            load_job(base);
            p = fork_proc(base);
            others[0] = base;
            others[1] = fork_proc(base);
            others[2] = fork_proc(p);
            closed_in = 0;
            tine_proc_on_error(p, note_error, NULL);
            set_closing(p, which, others[relative]);
            eval(p, which == 1 ? "error 'no'" : "x = 1");
            for (int i = 0; i < 3; i++)
                if (i != relative)
                    tine_proc_close(others[i]);
            tine_proc_close(p);
            run_out(host);
            if (!closed_in++)
                tine_proc_close(others[relative]);
            run_out(host);
            CHECK(handles(host) <= 1);
        }
}

static void fork_in_ready(void *arg, tine_proc *p, const tine_error *err)
{
    CHECK(!err);
    tine_proc *worker = fork_proc(p);
    see(arg, worker);
    run(worker, "nothing", NULL, NULL);
    tine_proc_close(worker);
    tine_proc_close(p);
}

static void forks_in_a_callback(tine_host *host)
{
    seen s;
    tine_proc *p = new_proc(host);
    load_job(p);
    tine_proc_on_ready(p, fork_in_ready, &s);
    run_out(host);
    CHECK(s.exits == 1 && s.ok);
    CHECK_INT(handles(host), 1);
}

/* A callback that stops the loop loses nothing of what comes later. */
static void stop_error(void *arg, tine_proc *p, const tine_error *err)
{
    seen_error(arg, p, err);
    tine_host_stop(p->host);
}

static void stopped_at_each_news(tine_host *host)
{
    enum { N = 6 };
    static seen s[N];
    tine_proc *p[N];
    int exits = 0, errors = 0;
    for (int i = 0; i < N; i++) {
        CHECK_INT((i % 2 ? tine_proc_new : tine_proc_new_exec)(host, NULL, &p[i]), 0);
        see(&s[i], p[i]);
        tine_proc_on_error(p[i], stop_error, &s[i]);
        eval(p[i], "error 'told'");
        tine_proc_close(p[i]);
    }
    int64_t end = test_usec() + DEADLINE_USEC;
    while (exits < N && test_usec() < end) {
        CHECK(tine_host_run(host) >= 0);
        poll(NULL, 0, 30); /* all their news is there at once */
        exits = errors = 0;
        for (int i = 0; i < N; i++) {
            exits += s[i].exits;
            errors += s[i].errors;
            CHECK(s[i].exits <= s[i].errors);
        }
    }
    CHECK_INT(exits, N);
    CHECK_INT(errors, N);
}

int main(void)
{
    HOST(conversation);
    HOST(many_workers);
    HOST(the_loop_waits_for_what_it_should);
    HOST(handed_over);
    HOST(nobody_behind_a_descriptor);
    HOST(order_of_callbacks);
    HOST(callbacks_that_come_late);
    HOST(closes_itself_in_any_callback);
    HOST(closes_others_in_any_callback);
    HOST(forks_in_a_callback);
    HOST(stopped_at_each_news);
    return 0;
}
