/* Every allocation of a host fails once, in libevent too, and every sendmsg: nothing crashes,
 * hangs, or stays behind, and each handle is told how it ended. */
#include <event2/event.h>
#include <signal.h>

#include "fault_each.h"
#include "host_test.h"

static int64_t deadline;

static int error_of_send;
static long sends, bad_sends;

static void quiet(int severity, const char *text)
{
    (void)severity, (void)text;
}

static void any_fd(void *arg, tine_proc *p, int fd, const tine_error *err)
{
    int *calls = arg;
    (void)p;
    CHECK((fd >= 0) == !err);
    ++*calls;
    if (fd >= 0)
        close(fd);
}

static void any_line(void *arg, tine_proc *p, const char *line, size_t len)
{
    (void)arg, (void)p, (void)line, (void)len;
}

static void any_error(void *arg, tine_proc *p, const tine_error *err)
{
    (void)p;
    CHECK(err->message && err->message_len);
    ++*(int *)arg;
}

static void turn(tine_host *host)
{
    int result = tine_host_poll(host, 1000);
    CHECK(result >= 0 || result == -ENOMEM);
    CHECK(test_usec() < deadline);
}

/* A base with all kinds of commands, a worker of it that runs, and one by exec. Returns
 * whether all went as if nothing had happened. */
static bool use(tine_host *host)
{
    static const char code[] =
        "print(...) function f(s, fd, arg) assert(fd and arg) end";
    tine_proc_options options = {.name = "faulty"};
    options.stdio[1] = (tine_stdio){.how = TINE_STDIO_LINES, .on_line = any_line};
    tine_str args[] = {{"one", 3}, {"two", 3}}, module = {"string", 6};
    tine_proc *p[3] = {NULL};
    seen s[3] = {{0}};
    int fds = 0, fd = test_marked_fd(), bad = 0, made = 0;
    if (!tine_proc_new(host, &options, &p[0])) {
        bad -= tine_proc_eval(p[0], TINE_TEXT, code, sizeof code - 1, args, 2);
        bad -= tine_proc_require(p[0], &module, 1);
        bad -= tine_proc_send_arg(p[0], args, 1);
        int err = tine_proc_send_fd(p[0], &fd, 1);
        bad -= err;
        fd = err ? fd : -1;
        bad -= tine_proc_fork(p[0], NULL, &p[1]);
    }
    if (fd >= 0)
        close(fd); /* not taken */
    if (p[1]) {
        see(&s[1], p[1]);
        int err = tine_proc_run(p[1], TINE_TEXT, "f", 1, any_fd, &fds);
        bad -= err;
        made += !err;
    }
    bad -= tine_proc_new_exec(host, NULL, &p[2]);
    for (int i = 0; i < 3; i += 2)
        if (p[i])
            see(&s[i], p[i]);
    for (int i = 0; i < 3; i++)
        tine_proc_close(p[i]);
    for (int i = 0; i < 3; i++)
        while (p[i] && !s[i].exits)
            turn(host);
    CHECK_INT(fds, made);
    for (int i = 0; i < 3; i++) {
        CHECK(!p[i] || s[i].exits == 1);
        bad += !p[i] || !s[i].ok || s[i].errors;
        CHECK(!p[i] || s[i].ok || s[i].message[0]);
    }
    while (tine_host_active(host))
        turn(host);
    return !bad;
}

/* Returns whether all was fine. */
static bool scenario(void)
{
    tine_host *host = NULL;
    int errors = 0;
    tine_host_options options = {.on_error = any_error, .arg = &errors};
    deadline = test_usec() + DEADLINE_USEC;
    int err = tine_host_new(&host, &options);
    CHECK(err == 0 || err == -ENOMEM);
    if (err)
        return false;
    bool fine = use(host), hit = fault_hit;
    fault_set(0, 0);
    fault_hit = hit;
    bad_sends = 0;
    /* What failed for want of memory is past: the host works. */
    bool again = use(host);
    CHECK(again);
    tine_host_free(host);
    return fine;
}

static bool failing(long n, long more, bool *hit)
{
    fault_set(n, more);
    bool fine = scenario();
    *hit = fault_hit;
    fault_set(0, 0);
    return fine;
}

static void each_allocation_fails(void)
{
    fault_each(failing, 0);
}

static void runs_of_allocations_fail(void)
{
    fault_each(failing, 4);
}

static int failing_sendmsg(const struct msghdr *msg, size_t *most)
{
    (void)msg, (void)most;
    sends++;
    if (bad_sends <= 0)
        return 0;
    bad_sends--;
    return error_of_send;
}

/* Shortages pass: all works in the end. */
static void sendmsg_fails_for_a_while(void)
{
    static const int errors[] = {EINTR, EAGAIN, ENOBUFS, ENOMEM, ETOOMANYREFS};
    fault_sendmsg = failing_sendmsg;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        for (long n = 1; n < 40; n *= 3) {
            error_of_send = errors[i];
            bad_sends = n;
            CHECK(scenario());
        }
    fault_sendmsg = NULL;
    CHECK(sends > 0);
}

static int broken_sendmsg(const struct msghdr *msg, size_t *most)
{
    (void)msg, (void)most;
    return --bad_sends == 0 ? EPIPE : 0;
}

/* A socket that breaks at the nth sendmsg ends its process, and nothing else. */
static void sendmsg_breaks(void)
{
    fault_sendmsg = broken_sendmsg;
    for (long n = 1; n < 12; n++) {
        bad_sends = n;
        scenario();
    }
    fault_sendmsg = NULL;
}

int main(void)
{
    event_set_mem_functions(__wrap_malloc, __wrap_realloc, free);
    event_set_log_callback(quiet);
    RUN(sendmsg_fails_for_a_while);
    RUN(sendmsg_breaks);
    RUN(each_allocation_fails);
    RUN(runs_of_allocations_fail);
    return 0;
}
