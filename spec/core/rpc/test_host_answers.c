/* Answers that the host reads without asking its loop, and what callbacks do meanwhile. */
#include <event2/event.h>
#include <signal.h>
#include <sys/resource.h>

#include "host_test.h"
#include "loop/loop_priv.h"
#include "process/local/local_priv.h"
#include "process/proc.h"
#include "rpc/client_priv.h"

static const char code[] =
    "function echo(...) return ... end\n"
    "function die() os.execute('p=$PPID; (sleep 0.05; kill -9 $p) &') return 'dead' "
    "end\n"
    "function fail(x) error(x ~= 'text' and { code = 7 } or x, 0) end\n"
    "function fail_number() error(42) end\n";

static struct {
    tine_host *host;
    tine_proc *idle;
    int ends, late, polls[2];
    pid_t child;
} w;

static tine_str str(const char *text)
{
    return (tine_str){text, strlen(text)};
}

static tine_rpc *open_rpc_with(tine_host *host, const char *name,
                               tine_serialiser serialiser)
{
    tine_rpc_options options = {.serialiser = serialiser};
    tine_proc *p;
    tine_rpc *rpc;
    tine_func func = {TINE_TEXT, name, strlen(name)};
    CHECK_INT(tine_proc_new(host, NULL, &p), 0);
    CHECK_INT(tine_proc_eval(p, TINE_TEXT, code, sizeof code - 1, NULL, 0), 0);
    CHECK_INT(tine_rpc_new(p, &func, &options, &rpc), 0);
    tine_proc_close(p);
    return rpc;
}

static tine_rpc *open_rpc(tine_host *host, const char *name)
{
    return open_rpc_with(host, name, TINE_STRINGS);
}

static void count_end(void *arg, tine_job *job, const tine_error *err,
                      const tine_str *results, size_t n)
{
    (void)arg, (void)job, (void)results, (void)n;
    CHECK(!err);
    w.ends++;
}

/* A call to a worker that is there, so that the next ones are waited for awake. */
static void warm_up(tine_host *host, tine_rpc *rpc)
{
    tine_str x = str("x");
    for (int i = 0; i < 20; i++) {
        CHECK_INT(tine_rpc_call(rpc, &x, 1, count_end, NULL, NULL), 0);
        await(host, &w.ends, i + 1);
    }
    w.ends = 0;
}

/* Sends the calls, and waits until all their answers are there, unread. */
static void await_answers(tine_host *host, bool turn)
{
    tine__client *c;
    if (turn) { /* then nothing is left to do but to hear them */
        host->loop->turn(host);
        tine__host_run_tasks(host);
    }
    LIST_FOREACH(c, &host->rpc->busy, busy)
    tine__client_flush(c);
    LIST_FOREACH(c, &host->rpc->busy, busy)
    for (int64_t end = test_usec() + DEADLINE_USEC;
         atomic_load(&c->region.page->flushed) == c->received;) {
        CHECK(test_usec() < end);
        usleep(1000);
    }
}

static void never_fires(void *arg, tine_timer *timer)
{
    (void)arg, (void)timer;
    CHECK(false);
}

static void count_late(void *arg, tine_proc *p, const tine_error *err)
{
    (void)arg, (void)p, (void)err;
    w.late++;
}

static void stop_it(void *arg, tine_job *job, const tine_error *err,
                    const tine_str *results, size_t n)
{
    count_end(arg, job, err, results, n);
    tine_host_stop(w.host);
    tine_proc_on_ready(w.idle, count_late, NULL);
}

static void stopped_by_an_answer(tine_host *host)
{
    seen s;
    tine_str x = str("x");
    w.host = host;
    tine_rpc *rpc = open_rpc(host, "echo");
    CHECK_INT(tine_proc_new(host, NULL, &w.idle), 0);
    see(&s, w.idle);
    await(host, &s.readies, 1);
    warm_up(host, rpc);
    for (int i = 0; i < 20; i++) {
        CHECK_INT(tine_rpc_call(rpc, &x, 1, stop_it, NULL, NULL), 0);
        CHECK_INT(tine_host_run(host), 1);
        CHECK_INT(w.ends, i + 1);
        CHECK_INT(w.late, i); /* with the callback that has stopped it, it was over */
        await(host, &w.late, i + 1);
    }
    tine_rpc_close(rpc, NULL, NULL);
    tine_proc_close(w.idle);
    CHECK_INT(tine_host_run(host), 0);
}

/* A timer that was closed fires for nothing while an answer comes: the poll is over. */
static void polled_beside_a_timer(tine_host *host)
{
    enum { LONG = 3000000 };
    tine_str x = str("x");
    tine_timer *t;
    tine_rpc *rpc = open_rpc(host, "echo");
    warm_up(host, rpc);
    for (int i = 0; i < 5; i++) {
        CHECK_INT(tine_rpc_call(rpc, &x, 1, count_end, NULL, NULL), 0);
        CHECK_INT(tine_timer_new(host, &t, 0, -1, never_fires, NULL), 0);
        tine_timer_free(t);
        await_answers(host, true);
        usleep(1000);
        int64_t began = test_usec();
        CHECK(tine_host_poll(host, LONG) >= 0);
        CHECK_INT(w.ends, i + 1);
        CHECK(test_usec() - began < LONG / 2);
    }
    tine_rpc_close(rpc, NULL, NULL);
    CHECK_INT(tine_host_run(host), 0);
}

static void fork_it(void *arg, tine_job *job, const tine_error *err,
                    const tine_str *results, size_t n)
{
    int status;
    count_end(arg, job, err, results, n);
    if (w.ends > 1)
        return;
    w.child = fork();
    CHECK(w.child >= 0);
    if (!w.child)
        return;
    for (int64_t end = test_usec() + DEADLINE_USEC;
         waitpid(w.child, &status, WNOHANG) == 0;) {
        CHECK(test_usec() < end);
        usleep(1000);
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* The other process leaves its parent's answers alone. */
static void forked(tine_host *host, bool turn)
{
    tine_str x = str("x");
    w.host = host;
    tine_rpc *a = open_rpc(host, "echo"), *b = open_rpc(host, "echo");
    warm_up(host, a);
    warm_up(host, b);
    CHECK_INT(tine_rpc_call(b, &x, 1, fork_it, NULL, NULL), 0);
    CHECK_INT(tine_rpc_call(a, &x, 1, fork_it, NULL, NULL), 0);
    await_answers(host, turn);
    int64_t end = test_usec() + DEADLINE_USEC;
    int rc = 1;
    while (rc > 0 && w.ends < 2 && test_usec() < end)
        rc = tine_host_poll(host, 100000);
    if (!w.child)
        _exit(rc == -TINE_ESTALE && w.ends == 1 && tine_host_run(host) == -TINE_ESTALE
                  ? 0
                  : 1);
    CHECK_INT(w.ends, 2);
    tine_rpc_close(a, NULL, NULL);
    tine_rpc_close(b, NULL, NULL);
    CHECK_INT(tine_host_run(host), 0);
}

static void forked_by_an_answer(tine_host *host)
{
    forked(host, true);
}

static void forked_in_the_loop(tine_host *host)
{
    forked(host, false);
}

static void poll_it(void *arg, tine_job *job, const tine_error *err,
                    const tine_str *results, size_t n)
{
    count_end(arg, job, err, results, n);
    w.polls[0] = tine_host_poll(w.host, 1000);
    w.polls[1] = tine_host_run(w.host);
}

/* In the program's own loop there is none of ours in a callback, either. */
static void no_loop_in_a_borrowed_one(void)
{
    struct event_base *base = event_base_new();
    tine_host_options options = {.base = base};
    tine_str x = str("x");
    CHECK_INT(tine_host_new(&w.host, &options), 0);
    tine_rpc *a = open_rpc(w.host, "echo"), *b = open_rpc(w.host, "echo");
    warm_up(w.host, a);
    warm_up(w.host, b);
    CHECK_INT(tine_rpc_call(a, &x, 1, poll_it, NULL, NULL), 0);
    CHECK_INT(tine_rpc_call(b, &x, 1, poll_it, NULL, NULL), 0);
    while (w.ends < 2)
        CHECK(event_base_loop(base, EVLOOP_ONCE) >= 0);
    CHECK_INT(w.polls[0], -EBUSY);
    CHECK_INT(w.polls[1], -EBUSY);
    tine_host_free(w.host);
    event_base_free(base);
}

static void kill_it(void *arg, tine_job *job, const tine_error *err,
                    const tine_str *results, size_t n)
{
    count_end(arg, job, err, results, n);
    CHECK_INT(tine_proc_kill(w.idle, SIGUSR1), 0); /* which reads reports */
}

/* Both answers are there when the first one's callback brings the other's end to light. */
static void ended_by_an_answer(tine_host *host)
{
    struct rlimit limit, low;
    tine_str x = str("x");
    seen s;
    w.host = host;
    tine_rpc *die = open_rpc(host, "die"), *echo = open_rpc(host, "echo");
    warm_up(host, echo);
    CHECK_INT(tine_proc_new(host, NULL, &w.idle), 0);
    see(&s, w.idle);
    CHECK_INT(tine_host_flush(host), 0);
    /* Without a descriptor free when it is made, it has no pidfd. */
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(fd);
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    low = limit;
    low.rlim_cur = (rlim_t)fd;
    CHECK(setrlimit(RLIMIT_NOFILE, &low) == 0);
    int64_t end = test_usec() + DEADLINE_USEC;
    while (!s.readies && test_usec() < end)
        CHECK(tine_host_poll(host, 10000) >= 0);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(s.readies == 1 && tine__local_of(w.idle->link)->pidfd < 0);
    CHECK_INT(tine_rpc_call(die, &x, 1, count_end, NULL, NULL), 0);
    CHECK_INT(tine_rpc_call(echo, &x, 1, kill_it, NULL, NULL), 0);
    pid_t pid = tine_rpc_pid(die);
    await_answers(host, true);
    while (pid > 0 && kill(pid, 0) == 0 && test_usec() < end) /* and reaped */
        usleep(1000);
    while (w.ends < 2 && test_usec() < end)
        CHECK(tine_host_poll(host, 100000) >= 0);
    CHECK_INT(w.ends, 2);
    tine_rpc_close(die, NULL, NULL);
    tine_rpc_close(echo, NULL, NULL);
    tine_proc_close(w.idle);
    CHECK_INT(tine_host_run(host), 0);
}

static void ignore_fault(void *arg, tine_proc *p, const tine_error *err)
{
    (void)arg, (void)p, (void)err;
}

typedef struct wanted {
    const char *message, *value; /* value NULL: none */
    size_t len;
    int ends;
} wanted;

static void check_valued(void *arg, tine_job *job, const tine_error *err,
                         const tine_str *results, size_t n)
{
    wanted *want = arg;
    (void)job, (void)results, (void)n;
    CHECK(err && err->kind == TINE_KIND_EXCEPTION);
    CHECK_INT(err->message_len, strlen(want->message));
    CHECK(memcmp(err->message, want->message, err->message_len) == 0);
    CHECK_INT(err->value_len, want->len);
    CHECK(!err->value == !want->value);
    CHECK(!want->value || memcmp(err->value, want->value, want->len) == 0);
    want->ends++;
}

static void expect_error(tine_host *host, tine_rpc *rpc, const tine_str *arg,
                         wanted want)
{
    CHECK_INT(tine_rpc_call(rpc, arg, 1, check_valued, &want, NULL), 0);
    await(host, &want.ends, 1);
}

static void errors_that_are_no_text(tine_host *host)
{
    static const char type[] = "(error object is a table value)";
    tine_str text = str("text"), nil = str("\x91\xc0"), packed = str("\x91\xa4text");
    tine_rpc *rpc = open_rpc_with(host, "fail", TINE_MSGPACK);
    expect_error(host, rpc, &nil,
                 (wanted){type,
                          "\x91\x81\xa4"
                          "code\x07",
                          8, 0});
    expect_error(host, rpc, &packed, (wanted){"text", NULL, 0, 0});
    tine_rpc_close(rpc, NULL, NULL);
    rpc = open_rpc(host, "fail");
    expect_error(host, rpc, &text, (wanted){"text", NULL, 0, 0});
    expect_error(host, rpc, &nil, (wanted){type, NULL, 0, 0});
    tine_rpc_close(rpc, NULL, NULL);
    rpc = open_rpc(host, "fail_number");
    expect_error(host, rpc, &nil, (wanted){"42", "42", 2, 0});
    tine_rpc_close(rpc, NULL, NULL);
}

static void with_host(void (*body)(tine_host *))
{
    tine_host *host;
    tine_host_options options = {.on_error = ignore_fault};
    memset(&w, 0, sizeof w);
    CHECK_INT(tine_host_new(&host, &options), 0);
    body(host);
    tine_host_free(host);
}

static void stops(void)
{
    with_host(stopped_by_an_answer);
}

static void polls(void)
{
    with_host(polled_beside_a_timer);
}

static void forks(void)
{
    with_host(forked_by_an_answer);
    with_host(forked_in_the_loop);
}

static void ends(void)
{
    with_host(ended_by_an_answer);
}

static void nests(void)
{
    memset(&w, 0, sizeof w);
    no_loop_in_a_borrowed_one();
}

static void values(void)
{
    with_host(errors_that_are_no_text);
}

int main(void)
{
    RUN(values);
    RUN(stops);
    RUN(polls);
    RUN(forks);
    RUN(nests);
    RUN(ends);
    return 0;
}
