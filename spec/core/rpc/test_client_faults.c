/* Every allocation of the host fails once, and descriptors run out, while an rpc is made, calls
 * are made, and answers are read. Each call still ends once, and nothing stays behind. The
 * worker is played by the test, see peer.h. */
#include <event2/event.h>
#include <sys/resource.h>

#include "fault_each.h"
#include "peer.h"
#include "rpc/client_priv.h"

static session s;

enum { CALLS = 12, LARGE = 300000 };

static void quiet(int severity, const char *text)
{
    (void)severity, (void)text;
}

static void no_word(void *arg, tine_proc *p, const tine_error *err)
{
    (void)arg, (void)p;
    CHECK(err->message);
}

static struct rlimit limit;

static void no_faults(void)
{
    fault_set(0, 0);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

/* Small and large answers, in pieces, and an event for each. */
static void work(peer *p, const void *arg)
{
    (void)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    for (int i = 0; i < CALLS; i++) {
        peer_start(p);
        peer_event(p, p->head.serial, "event");
        peer_result(p, p->head.serial, 'a', i % 4 ? 10 : LARGE);
        peer_send(p, 100);
        peer_send_all(p);
    }
    peer_leave(p);
}

static void on_text(void *arg, const tine_error *err, const char *text, size_t len)
{
    (void)err, (void)text, (void)len;
    ++*(int *)arg;
}

/* As session_end; what is missing may be so for want of memory. */
static bool end(void)
{
    bool fine = s.made == CALLS;
    session_end(&s);
    for (int i = 0; i < s.made; i++) {
        const called *c = &s.calls[i];
        fine = fine && c->ok;
        if (!c->ok)
            CHECK(c->kind == TINE_KIND_SYSTEM || c->kind == TINE_KIND_PROTOCOL ||
                  c->kind == TINE_KIND_CRASH || c->kind == TINE_KIND_CLOSED ||
                  c->kind == TINE_KIND_CANCELLED);
    }
    return fine;
}

/* Returns whether all went as if nothing had happened. */
static bool use(tine_host *host)
{
    static const tine_rpc_options options = {.timeout_usec = 60000000};
    int asked = 0, texts = 0;
    int err = session_try(&s, host, work, NULL, &options);
    if (err < 0) {
        CHECK(err == -ENOMEM || err == -EMFILE);
        CHECK(!s.rpc);
        if (!s.proc)
            return false;
        tine_proc_close(s.proc);
        await(host, &s.seen.exits, 1);
        return false;
    }
    for (int i = 0; i < CALLS; i++) {
        err = session_try_call(&s, "argument", 8);
        CHECK(err == 0 || err == -ENOMEM || err == -TINE_ECLOSED);
    }
    asked = tine_rpc_traceback(s.rpc, on_text, &texts) == 0;
    bool fine = end();
    CHECK_INT(texts, asked);
    return fine && s.events >= CALLS;
}

static bool failing(long n, long more, bool *hit)
{
    tine_host *host;
    tine_host_options options = {.on_error = no_word};
    CHECK_INT(tine_host_new(&host, &options), 0);
    fault_set(n, more);
    bool fine = use(host);
    *hit = fault_hit;
    fault_set(0, 0);
    CHECK(use(host));
    tine_host_free(host);
    return fine;
}

static void each_allocation_fails(void)
{
    fault_each(failing, 0);
}

static void runs_of_allocations_fail(void)
{
    fault_each(failing, 3);
}

/* A call that could not be handed over is cancelled before it is told so. */
static void cancelled_after_a_failure(tine_host *host)
{
    for (long n = 1; n < 6; n++) {
        session_begin(&s, host, work, NULL, NULL);
        session_call(&s, 2);
        fault_set(n, 100);
        int err = session_try_call(&s, "argument", 8);
        int other = session_try_call(&s, "argument", 8);
        fault_set(0, 0);
        if (!err)
            tine_job_cancel(s.calls[2].job);
        if (!err && !other)
            tine_job_cancel(s.calls[3].job);
        tine_proc_kill(s.proc, SIGKILL);
        session_end(&s);
    }
}

/* As many descriptors as there are, and n more. */
static void few_descriptors(tine_host *host)
{
    struct rlimit few;
    bool fine = false;
    CHECK(use(host));
    for (rlim_t n = 0; n < 20 && !fine; n++) {
        int lowest = dup(0);
        CHECK(lowest >= 0);
        close(lowest);
        few = limit;
        few.rlim_cur = (rlim_t)lowest + n;
        size_t fds = test_fds();
        CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
        fine = use(host);
        CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        CHECK_INT(test_fds(), fds);
    }
    CHECK(fine);
    CHECK(use(host));
}

int main(void)
{
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    peer_prepare = no_faults;
    event_set_mem_functions(__wrap_malloc, __wrap_realloc, free);
    event_set_log_callback(quiet);
    RUN(each_allocation_fails);
    RUN(runs_of_allocations_fail);
    HOST(cancelled_after_a_failure);
    HOST(few_descriptors);
    return 0;
}
