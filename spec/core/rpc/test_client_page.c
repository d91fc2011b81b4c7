/* The host's end of a call stream: what a worker writes into the shared page, one that never
 * reads, and callbacks of the host that do something to the rpc meanwhile. The worker is played
 * by the test, see peer.h. */
#include <sys/resource.h>

#include "peer.h"
#include "rpc/client_priv.h"

static session s;

static void work(peer *p, int n)
{
    for (int i = 0; i < n; i++) {
        peer_start(p);
        peer_result(p, p->head.serial, 'a', 3);
    }
    peer_send_all(p);
}

static void poll_for(tine_host *host, int64_t usec)
{
    for (int64_t end = test_usec() + usec; test_usec() < end;)
        CHECK(tine_host_poll(host, end - test_usec()) >= 0);
}

/* ------------------------------------------------------------- the shared page */

static uint64_t insane(void)
{
    static const uint64_t odd[] = {0,          1,          2,          UINT64_MAX,
                                   INT64_MAX,  UINT32_MAX, TINE__RING, TINE__RING + 1,
                                   1ULL << 63, 1000};
    uint64_t pick = test_random() % 12;
    if (pick < 10)
        return odd[pick];
    return pick == 10 ? test_random() % 2000 : (uint64_t)test_random() << 32 | 77;
}

static void scribble(peer *p)
{
    uint64_t *words = (uint64_t *)(void *)p->page;
    for (size_t i = 0; i < sizeof *p->page / sizeof *words; i++)
        __atomic_store_n(&words[i], insane(), __ATOMIC_SEQ_CST);
    for (size_t i = 0; i < TINE__RING; i++)
        p->ring[i] = (unsigned char)test_random();
}

typedef struct mess {
    uint32_t seed;
    bool answer;
} mess;

static void make_a_mess(peer *p, const void *arg)
{
    const mess *m = arg;
    for (uint32_t i = 0; i < m->seed % 4096; i++)
        test_random();
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_send_all(p);
    for (int i = 0; i < 6; i++) {
        CHECK(peer_read(p));
        scribble(p);
        if (m->answer)
            peer_result(p, p->head.serial, 'a', 3);
        peer_send_all(p);
        scribble(p);
    }
    peer_die();
}

static int texts;

static void on_text(void *arg, const tine_error *err, const char *text, size_t len)
{
    (void)arg, (void)text, (void)len;
    CHECK(!err || err->message_len);
    texts++;
}

static void pages_of_nonsense(tine_host *host)
{
    int asked = 0;
    texts = 0;
    for (uint32_t seed = 0; seed < 150; seed++) {
        mess m = {seed, seed % 2};
        tine_rpc_options options = {.async = seed / 2 % 2,
                                    .timeout_usec = seed % 3 ? 0 : 1000,
                                    .grace_usec = 1000};
        session_begin(&s, host, make_a_mess, &m, &options);
        session_call(&s, 8);
        if (seed % 5 == 0)
            asked += !tine_rpc_traceback(s.rpc, on_text, NULL);
        while (!s.seen.exits) {
            CHECK(tine_host_poll(host, 1000) >= 0);
            called *c = &s.calls[test_random() % 8];
            if (seed % 7 == 0 && c->job)
                tine_job_cancel(c->job);
        }
        session_end(&s);
        for (int i = 0; i < 8; i++)
            CHECK(s.calls[i].ok || s.calls[i].kind <= TINE_KIND_PROTOCOL);
    }
    CHECK_INT(texts, asked);
}

/* It always says that it has started just now, or will in a hundred years. */
static void never_old(peer *p, const void *arg)
{
    uint64_t ns = *(const uint64_t *)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_send_all(p);
    peer_start(p);
    for (;;) {
        uint64_t now = ns ? ns : (uint64_t)test_usec() * 1000;
        atomic_store(&p->page->started_ns, now);
        atomic_store(&p->page->starts[1], now);
    }
}

static void deadlines_in_spite_of_the_page(tine_host *host)
{
    static const uint64_t times[] = {0, UINT64_MAX, 1};
    for (size_t i = 0; i < 2 * sizeof times / sizeof *times; i++) {
        tine_rpc_options options = {
            .async = i % 2, .timeout_usec = 50000, .grace_usec = 10000};
        session_begin(&s, host, never_old, &times[i / 2], &options);
        session_call(&s, 2);
        await(host, &s.ended, 1);
        session_end(&s);
        CHECK(s.calls[0].kind == TINE_KIND_TIMEOUT);
        CHECK(s.calls[1].kind == TINE_KIND_CLOSED);
    }
}

/* It works on its first call for ever, and says of it what arg says. */
static void works_and_says(peer *p, const void *arg)
{
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_send_all(p);
    peer_start(p);
    usleep(30000); /* the host has seen it, or not */
    atomic_store(&p->page->started, *(const uint64_t *)arg);
    for (;;)
        pause();
}

/* A call that has started ends at its deadline, whatever the page says later. */
static void starts_that_are_taken_back(tine_host *host)
{
    static const uint64_t said[] = {0, UINT64_MAX, 3};
    for (size_t i = 0; i < 2 * sizeof said / sizeof *said; i++) {
        tine_rpc_options options = {
            .async = i % 2, .timeout_usec = 50000, .grace_usec = 10000};
        session_begin(&s, host, works_and_says, &said[i / 2], &options);
        session_call(&s, 2);
        await(host, &s.ended, 2);
        session_end(&s);
        CHECK(s.calls[0].kind == TINE_KIND_PROTOCOL ||
              s.calls[0].kind == TINE_KIND_TIMEOUT ||
              s.calls[0].kind == TINE_KIND_CLOSED);
        CHECK(!s.calls[0].ok && !s.calls[1].ok);
    }
}

/* It has answered the first call, has begun with the second, and is stopped: the answer is not sent. */
static void stops_in_the_second(peer *p, const void *arg)
{
    (void)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_send_all(p);
    peer_start(p);
    uint64_t at = TINE__CALL_HEAD; /* so much was sent */
    peer_result(p, 1, 'x', 1);
    memcpy((unsigned char *)p->page + TINE__PAGE_STATUS + at, p->out.data, p->out.len);
    atomic_store(&p->page->tail, at + p->out.len);
    peer_start(p);
    raise(SIGSTOP);
}

static void the_one_that_runs_is_late(tine_host *host)
{
    tine_rpc_options options = {.timeout_usec = 50000, .grace_usec = 50000};
    session_begin(&s, host, stops_in_the_second, NULL, &options);
    session_call(&s, 3);
    await(host, &s.ended, 3);
    session_end(&s);
    CHECK(s.calls[0].ok);
    CHECK(s.calls[1].kind == TINE_KIND_TIMEOUT);
    CHECK(s.calls[2].kind == TINE_KIND_CLOSED);
}

static void works_in_secret(peer *p, const void *arg)
{
    (void)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_send_all(p);
    for (;;)
        pause();
}

/* A worker that has nothing to do but to begin, and does not say that it has, is ended. */
static void never_begun(tine_host *host)
{
    for (int async = 0; async < 2; async++) {
        tine_rpc_options options = {
            .async = async, .timeout_usec = 50000, .grace_usec = 10000};
        session_begin(&s, host, works_in_secret, NULL, &options);
        session_call(&s, 2);
        await(host, &s.ended, 2);
        session_end(&s);
        CHECK(s.calls[0].kind == TINE_KIND_CLOSED &&
              s.calls[1].kind == TINE_KIND_CLOSED);
        CHECK_INT(s.seen.exits, 1);
    }
}

/* A call that was taken back, and is not given back, holds up those behind it for a second. */
static void recalled_in_vain(tine_host *host)
{
    tine_rpc_options options = {.grace_usec = 10000};
    session_begin(&s, host, works_in_secret, NULL, &options);
    session_call(&s, 3);
    poll_for(host, 20000);
    tine_job_cancel(s.calls[0].job);
    await(host, &s.ended, 3);
    session_end(&s);
    CHECK(s.calls[0].kind == TINE_KIND_CANCELLED);
    CHECK(s.calls[1].kind == TINE_KIND_CLOSED && s.calls[2].kind == TINE_KIND_CLOSED);
}

static void all_has_started(peer *p, const void *arg)
{
    (void)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_send_all(p);
    for (int i = 0; i < 3; i++)
        peer_start(p);
    atomic_store(&p->page->started, UINT64_MAX);
    peer_die();
}

static void call_again(called *c)
{
    if (c->session->made < MOST_CALLS) {
        int err = session_try_call(c->session, "again", 5);
        CHECK(err == 0 || err == -TINE_ECLOSED);
    }
}

/* Calls made by callbacks of calls that failed do not fail at once, again and again. */
static void calls_from_callbacks_of_crashes(tine_host *host)
{
    for (int async = 0; async < 2; async++) {
        tine_rpc_options options = {.async = async};
        session_begin(&s, host, all_has_started, NULL, &options);
        session_call(&s, 3);
        s.on_end = call_again;
        await(host, &s.seen.exits, 1);
        CHECK(s.made <= 6);
        session_end(&s);
    }
}

/* ----------------------------------------------------------------- who does not read */

static void never_read(peer *p, const void *arg)
{
    (void)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_send_all(p);
    for (;;)
        pause();
}

static int64_t cpu_usec(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return ((int64_t)r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1000000 +
           r.ru_utime.tv_usec + r.ru_stime.tv_usec;
}

static void who_never_reads(tine_host *host)
{
    enum { LARGE = 50000 };
    static char data[LARGE];
    for (int async = 0; async < 2; async++) {
        tine_rpc_options options = {.async = async, .grace_usec = 1000};
        session_begin(&s, host, never_read, NULL, &options);
        for (int i = 0; i < MOST_CALLS; i++)
            CHECK_INT(session_try_call(&s, data, LARGE), 0);
        poll_for(host, 50000);
        int64_t before = cpu_usec();
        poll_for(host, 200000);
        CHECK(cpu_usec() - before < 50000);
        CHECK(LIST_FIRST(&host->rpc->busy)->out.cap < (size_t)2 * MOST_CALLS * LARGE);
        CHECK(s.ended == 0);
        for (int i = 0; i < MOST_CALLS; i += 2)
            tine_job_cancel(s.calls[i].job);
        CHECK(s.ended == 0);
        await(host, &s.ended, MOST_CALLS / 2);
        tine_proc_kill(s.proc, SIGKILL);
        session_end(&s);
        for (int i = 0; i < MOST_CALLS; i++)
            CHECK(s.calls[i].kind == (i % 2 ? TINE_KIND_CLOSED : TINE_KIND_CANCELLED));
    }
}

enum { PIECE = 250000, AT_ONCE = 8 };
static char piece[PIECE];

static void one_more(called *c)
{
    if (c->session->made < MOST_CALLS)
        CHECK_INT(session_try_call(c->session, piece, PIECE), 0);
}

/* It is never quite through with what was sent to it. */
static void work_one_by_one(peer *p, const void *arg)
{
    (void)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    for (int i = 0; i < MOST_CALLS; i++) {
        work(p, 1);
        peer_await_read(p);
    }
    peer_leave(p);
}

static void who_reads_slowly(tine_host *host)
{
    session_begin(&s, host, work_one_by_one, NULL, NULL);
    s.on_end = one_more;
    for (int i = 0; i < AT_ONCE; i++)
        CHECK_INT(session_try_call(&s, piece, PIECE), 0);
    size_t most = 0;
    while (s.ended < MOST_CALLS) {
        CHECK(tine_host_poll(host, 10000) >= 0);
        if (!LIST_EMPTY(&host->rpc->busy) &&
            LIST_FIRST(&host->rpc->busy)->out.cap > most)
            most = LIST_FIRST(&host->rpc->busy)->out.cap;
    }
    session_end(&s);
    CHECK(most < (size_t)4 * AT_ONCE * PIECE);
    CHECK(s.calls[MOST_CALLS - 1].ok);
}

/* ------------------------------------------------------------------- callbacks */

static void work_and_leave(peer *p, const void *arg)
{
    peer_frame(p, TINE__READY, 0, NULL, 0);
    work(p, *(const int *)arg);
    peer_leave(p);
}

static void work_and_die(peer *p, const void *arg)
{
    peer_frame(p, TINE__READY, 0, NULL, 0);
    work(p, *(const int *)arg);
    peer_die();
}

/* Itself, and every other. */
static void cancel_all(called *c)
{
    session *all = c->session;
    for (int i = 0; i < all->made; i++)
        if (all->calls[i].job)
            tine_job_cancel(all->calls[i].job);
}

static void cancels_in_callbacks(tine_host *host)
{
    static const int one = 1;
    static const tine_rpc_options options = {.grace_usec = 1000};
    for (int how = 0; how < 3; how++) {
        session_begin(&s, host, how == 1 ? work_and_leave : work_and_die, &one,
                      &options);
        s.on_end = cancel_all;
        session_call(&s, how == 2 ? 5 : 400);
        session_end(&s);
        for (int i = 0; i < s.made; i++)
            CHECK(s.calls[i].ok || s.calls[i].kind == TINE_KIND_CANCELLED ||
                  s.calls[i].kind == TINE_KIND_CRASH ||
                  s.calls[i].kind == TINE_KIND_CLOSED);
    }
}

/* When all are queued and the worker dies, one callback cancels the others. */
static void cancels_at_the_end(tine_host *host)
{
    static const int none = 0;
    session_begin(&s, host, work_and_die, &none, NULL);
    s.on_end = cancel_all;
    session_call(&s, 500);
    session_end(&s);
}

static void cancels_at_teardown(void)
{
    tine_host *host;
    CHECK_INT(tine_host_new(&host, NULL), 0);
    session_begin(&s, host, never_read, NULL, NULL);
    s.on_end = cancel_all;
    session_call(&s, 500);
    CHECK_INT(tine_rpc_traceback(s.rpc, on_text, NULL), 0);
    poll_for(host, 10000);
    tine_job_cancel(s.calls[3].job);
    tine_job_cancel(s.calls[499].job);
    texts = 0;
    tine_host_free(host);
    CHECK_INT(s.ended, 500);
    for (int i = 0; i < 500; i++)
        CHECK_INT(s.calls[i].ends, 1);
}

static int asked_again, most_again;

static void ask_again(void *arg, const tine_error *err, const char *text, size_t len)
{
    (void)arg, (void)text, (void)len, (void)err;
    if (asked_again < most_again && s.rpc &&
        tine_rpc_traceback(s.rpc, ask_again, NULL) == 0)
        asked_again++;
}

static void tell_all_traces(peer *p, const void *arg)
{
    static const unsigned char text[] = {2, 0, 0, 0, 'h', 'i'};
    (void)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_send_all(p);
    peer_start(p);
    while (!atomic_load(&p->page->trace_asked))
        sched_yield();
    peer_frame(p, TINE__TRACE, UINT64_MAX, text, sizeof text);
    peer_send_all(p);
    peer_await_read(p);
    peer_die();
}

static void ask_no_more(void *arg, tine_timer *timer)
{
    (void)arg, (void)timer;
    most_again = 0;
}

/* A callback that asks again each time does not hold the loop up. */
static void questions_in_callbacks(tine_host *host)
{
    static const int none = 0;
    tine_timer *timer;
    asked_again = 0;
    most_again = 10000;
    session_begin(&s, host, tell_all_traces, NULL, NULL);
    session_call(&s, 1);
    CHECK_INT(tine_rpc_traceback(s.rpc, ask_again, NULL), 0);
    session_end(&s);
    CHECK(asked_again < 5);
    asked_again = 0;
    session_begin(&s, host, work_and_leave, &none, NULL);
    CHECK_INT(tine_rpc_traceback(s.rpc, ask_again, NULL), 0);
    most_again = INT32_MAX;
    CHECK_INT(tine_timer_new(host, &timer, 5000, -1, ask_no_more, NULL), 0);
    session_end(&s);
    tine_timer_free(timer);
    CHECK_INT(most_again, 0);
}

static char told[100];
static tine_kind refused;

static void on_told(void *arg, const tine_error *err, const char *text, size_t len)
{
    (void)arg;
    CHECK(len < sizeof told);
    if (len)
        memcpy(told, text, len);
    told[len] = '\0';
    refused = err ? err->kind : TINE_KIND_EXCEPTION;
}

/* Of a call that is open, and of one that is not; less the bytes that arg says. */
static void tell_of_calls(peer *p, const void *arg)
{
    tine__buf b = {0};
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_send_all(p);
    peer_start(p);
    while (!atomic_load(&p->page->trace_asked))
        sched_yield();
    tine__buf_str(&b, "here", 4);
    tine__buf_u64(&b, 1);
    tine__buf_str(&b, "waits", 5);
    tine__buf_u64(&b, 77);
    tine__buf_str(&b, "is not", 6);
    peer_frame(p, TINE__TRACE, 1, b.data, b.len - *(const size_t *)arg);
    tine__buf_free(&b);
    peer_send_all(p);
    peer_await_read(p);
    peer_die();
}

static void traces_of_many_calls(tine_host *host)
{
    static const tine_rpc_options options = {.async = true};
    for (size_t less = 0; less < 43; less++) {
        session_begin(&s, host, tell_of_calls, &less, &options);
        session_call(&s, 1);
        CHECK_INT(tine_rpc_traceback(s.rpc, on_told, NULL), 0);
        session_end(&s);
        bool whole = !strcmp(told, "here\njob 1: waits") || !strcmp(told, "here");
        CHECK(less == 0 || less == 18 || less == 35 ? whole
                                                    : refused != TINE_KIND_EXCEPTION);
    }
}

int main(void)
{
    HOST(pages_of_nonsense);
    HOST(deadlines_in_spite_of_the_page);
    HOST(starts_that_are_taken_back);
    HOST(the_one_that_runs_is_late);
    HOST(never_begun);
    HOST(recalled_in_vain);
    HOST(calls_from_callbacks_of_crashes);
    HOST(who_never_reads);
    HOST(who_reads_slowly);
    HOST(cancels_in_callbacks);
    HOST(cancels_at_the_end);
    RUN(cancels_at_teardown);
    HOST(questions_in_callbacks);
    HOST(traces_of_many_calls);
    return 0;
}
