/* The host's end of a call stream against a worker that says what it must not. It is killed;
 * the call that ran fails with "protocol", those that had not started with "closed", and
 * nothing else happens. The worker is played by the test, see peer.h. */
#include "peer.h"
#include "rpc/client_priv.h"

static session s;

__attribute__((noreturn)) static void hang(void)
{
    for (;;)
        pause();
}

/* The worker is killed: the first call ran, the others had not started. */
static void expect_killed(const char *why)
{
    session_end(&s);
    CHECK(s.seen.exit.signal == SIGKILL);
    if (!strstr(s.calls[0].message, why))
        (void)fprintf(stderr, "got: %s\n", s.calls[0].message);
    CHECK(!s.calls[0].ok && s.calls[0].kind == TINE_KIND_PROTOCOL);
    CHECK(strstr(s.calls[0].message, why));
    for (int i = 1; i < s.made; i++)
        CHECK(!s.calls[i].ok && s.calls[i].kind == TINE_KIND_CLOSED);
}

/* --------------------------------------------------------------------- headers */

typedef struct bytes {
    unsigned char data[64];
    size_t len;
    bool early; /* before it is ready */
} bytes;

static void send_bytes(peer *p, const void *arg)
{
    const bytes *o = arg;
    if (!o->early)
        peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_start(p);
    tine__buf_put(&p->out, o->data, o->len);
    peer_send_all(p);
    hang();
}

static void expect_refused(tine_host *host, const bytes *o, const char *why)
{
    session_begin(&s, host, send_bytes, o, NULL);
    session_call(&s, 3);
    expect_killed(why);
}

static void unknown_kinds(tine_host *host)
{
    for (int type = 0; type < 256; type++) {
        bytes o = {.len = TINE__CALL_HEAD};
        if ((type > TINE__READY && type <= TINE__FATAL) || type == TINE__FAULT)
            continue;
        tine__call_head_put(o.data, type, 1, 0);
        const char *why = "it sent garbage on its socket";
        if (type == TINE__READY)
            why = "it said twice that it is ready";
        else if (type == TINE__PROMOTED)
            why = "it became a template without being asked";
        else if (type == TINE__FDS)
            why = "it sent garbage with descriptors";
        else if (type == TINE__FAULT)
            why = "it sent garbage in place of an error";
        expect_refused(host, &o, why);
    }
}

static void before_it_is_ready(tine_host *host)
{
    for (int type = TINE__RESULT; type < TINE__FATAL; type++) {
        bytes o = {.len = TINE__CALL_HEAD, .early = true};
        tine__call_head_put(o.data, type, 1, 0);
        expect_refused(host, &o, "it sent something else before it was ready");
    }
}

static void flipped_bits(tine_host *host)
{
    for (int bit = 0; bit < 24; bit++) {
        bytes o = {.len = TINE__CALL_HEAD + 20};
        tine__call_head_put(o.data, TINE__RESULT, 1, 20);
        o.data[5 + bit / 8] ^= (unsigned char)(1 << bit % 8);
        expect_refused(host, &o, "it sent garbage on its socket");
    }
}

static void random_bytes(tine_host *host)
{
    for (int i = 0; i < 100; i++) {
        bytes o = {.len = sizeof o.data, .early = i % 2};
        for (size_t k = 0; k < sizeof o.data; k++)
            o.data[k] = (unsigned char)test_random();
        expect_refused(host, &o, "it sent");
    }
}

static void unknown_calls(tine_host *host)
{
    static const uint64_t serials[] = {0, 2, 3, 4, 257, UINT64_MAX};
    for (size_t i = 0; i < sizeof serials / sizeof *serials; i++)
        for (int type = TINE__RESULT; type <= TINE__SKIPPED; type++) {
            bytes o = {.len = TINE__CALL_HEAD + TINE__CALL_TIMES};
            if (type > TINE__ERROR && type < TINE__SKIPPED)
                continue;
            tine__call_head_put(o.data, type, serials[i], TINE__CALL_TIMES);
            expect_refused(host, &o,
                           type == TINE__SKIPPED ? "it skipped a call"
                                                 : "it answered a call");
        }
}

/* --------------------------------------------------------------------- bodies */

typedef struct bad_body {
    int type;
    size_t len;
    unsigned char data[80];
    const char *why;
} bad_body;

static void send_body(peer *p, const void *arg)
{
    const bad_body *b = arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_start(p);
    peer_frame(p, b->type, 1, b->data, b->len);
    peer_send_all(p);
    hang();
}

static void expect_bad_body(tine_host *host, const bad_body *b)
{
    session_begin(&s, host, send_body, b, NULL);
    session_call(&s, 3);
    expect_killed(b->why);
}

static void cut_answers(tine_host *host)
{
    static const int types[] = {TINE__RESULT, TINE__ERROR};
    for (size_t t = 0; t < 2; t++)
        for (size_t len = 0; len < 28; len++) {
            bad_body b = {types[t], len, {0}, "it sent garbage in an answer"};
            if (b.type == TINE__RESULT && len >= 16 && len % 4 == 0)
                continue; /* a list of empty values */
            expect_bad_body(host, &b);
        }
}

static void put32(unsigned char *to, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        to[i] = (unsigned char)(v >> 8 * i);
}

static void bad_lengths(tine_host *host)
{
    static const uint32_t lengths[] = {5, 0x7fffffff, 0x80000000, 0xfffffff0,
                                       UINT32_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        bad_body result = {TINE__RESULT, 24, {0}, "garbage in an answer"};
        bad_body error = {TINE__ERROR, 32, {0}, "garbage in an answer"};
        bad_body value = {TINE__ERROR, 36, {0}, "garbage in an answer"};
        bad_body event = {TINE__EVENT, 8, {0}, "garbage in an event"};
        bad_body fatal = {TINE__FATAL, 16, {0}, "garbage as its last words"};
        bad_body fault = {TINE__FAULT, 16, {0}, "garbage in place of an error"};
        bad_body trace = {TINE__TRACE, 8, {0}, "garbage as a traceback"};
        put32(result.data + 16, lengths[i]);
        put32(error.data + 20, lengths[i]);
        put32(value.data + 28, lengths[i]);
        put32(event.data, lengths[i]);
        put32(fatal.data + 4, lengths[i]);
        put32(fault.data + 4, lengths[i]);
        put32(trace.data, lengths[i]);
        expect_bad_body(host, &result);
        expect_bad_body(host, &error);
        expect_bad_body(host, &value);
        expect_bad_body(host, &event);
        expect_bad_body(host, &fatal);
        expect_bad_body(host, &fault);
        expect_bad_body(host, &trace);
    }
}

static void bad_kinds(tine_host *host)
{
    for (uint32_t i = 0; i < 2; i++) {
        bad_body error = {TINE__ERROR, 28, {0}, "garbage in an answer"};
        put32(error.data + 16, i ? UINT32_MAX : TINE_KIND_SYSTEM + 1);
        expect_bad_body(host, &error);
    }
}

/* A frame that claims 4 GiB: only what comes of it is kept. */
static void claim_much(peer *p, const void *arg)
{
    unsigned char head[TINE__CALL_HEAD];
    (void)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_start(p);
    tine__call_head_put(head, TINE__RESULT, 1, UINT32_MAX);
    tine__buf_put(&p->out, head, sizeof head);
    memset(tine__buf_room(&p->out, 3000000), 1, 3000000);
    p->out.len += 3000000;
    peer_send_all(p);
    peer_await_read(p);
    peer_die();
}

/* Until the worker has ended: the most memory that its client had for what it sent. */
static size_t most_kept(tine_host *host)
{
    size_t most = 0;
    while (!s.seen.exits) {
        CHECK(tine_host_poll(host, 10000) >= 0);
        if (!LIST_EMPTY(&host->rpc->busy) &&
            LIST_FIRST(&host->rpc->busy)->in.cap > most)
            most = LIST_FIRST(&host->rpc->busy)->in.cap;
    }
    return most;
}

static void lengths_far_too_large(tine_host *host)
{
    session_begin(&s, host, claim_much, NULL, NULL);
    session_call(&s, 2);
    size_t most = most_kept(host);
    session_end(&s);
    CHECK(most > 0 && most < 10000000);
    CHECK(s.calls[0].kind == TINE_KIND_CRASH && s.calls[1].kind == TINE_KIND_CLOSED);
}

/* ----------------------------------------------------------------- wrong answers */

/* serials of the answers, 0 ends */
static void answer_all(peer *p, const void *arg)
{
    const uint64_t *serials = arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    for (int i = 0; i < 3; i++)
        peer_start(p);
    while (*serials)
        peer_result(p, *serials++, 'a', 3);
    peer_send_all(p);
    hang();
}

static void expect_wrong(tine_host *host, const uint64_t *serials, bool async, int good,
                         const char *why)
{
    tine_rpc_options options = {.async = async};
    session_begin(&s, host, answer_all, serials, &options);
    session_call(&s, 3);
    session_end(&s);
    int oks = 0;
    for (int i = 0; i < 3; i++) {
        const called *c = &s.calls[i];
        bool first = c->kind == TINE_KIND_PROTOCOL;
        oks += c->ok;
        CHECK(c->ok || first || c->kind == TINE_KIND_CLOSED);
        CHECK(c->ok || strstr(c->message, why));
    }
    CHECK_INT(oks, good);
    CHECK_INT(s.seen.exit.signal, SIGKILL);
}

static void wrong_answers(tine_host *host)
{
    static const uint64_t twice[] = {1, 1, 2, 3, 0}, twice_later[] = {1, 2, 1, 3, 0},
                          swapped[] = {1, 3, 2, 0}, unknown[] = {1, 2, 9, 3, 0},
                          backwards_twice[] = {3, 2, 3, 1, 0};
    expect_wrong(host, twice, false, 1, "it answered a call twice");
    expect_wrong(host, twice_later, false, 2, "it answered a call twice");
    expect_wrong(host, swapped, false, 1, "it answered a call that is not open");
    expect_wrong(host, unknown, false, 2, "it answered a call that is not open");
    expect_wrong(host, twice, true, 1, "it answered a call that is not open");
    expect_wrong(host, unknown, true, 2, "it answered a call that is not open");
    expect_wrong(host, backwards_twice, true, 2, "it answered a call that is not open");
}

/* ------------------------------------------------------------------------ ends */

static void close_socket(peer *p, const void *arg)
{
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_start(p);
    peer_send_all(p);
    if (*(const int *)arg)
        shutdown(p->fd, SHUT_RDWR);
    else
        shutdown(p->fd, SHUT_WR);
    hang();
}

static void closes_its_socket(tine_host *host)
{
    static const int all[] = {0, 1};
    for (int i = 0; i < 2; i++) {
        session_begin(&s, host, close_socket, &all[i], NULL);
        session_call(&s, 3);
        await(host, &s.seen.exits, 1); /* of one that is to leave it would be 10 s */
        expect_killed("it closed its socket");
    }
}

static void leave_early(peer *p, const void *arg)
{
    int how = *(const int *)arg;
    if (how == 1)
        peer_die();
    if (how == 2)
        peer_error(p, TINE__FATAL, 0, TINE_KIND_EXCEPTION, "init has failed");
    peer_send_all(p);
    _exit(how == 2);
}

static void leaves_before_it_is_ready(tine_host *host)
{
    static const int how[] = {0, 1, 2};
    for (int i = 0; i < 3; i++) {
        session_begin(&s, host, leave_early, &how[i], NULL);
        session_call(&s, 3);
        session_end(&s);
        for (int k = 0; k < 3; k++) {
            CHECK(s.calls[k].kind == (i == 2 ? TINE_KIND_EXCEPTION : TINE_KIND_CLOSED));
            CHECK(i < 2 || !strcmp(s.calls[k].message, "init has failed"));
        }
    }
}

/* Last words, and then it goes on talking. */
static void talk_on(peer *p, const void *arg)
{
    (void)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_start(p);
    peer_send_all(p);
    peer_error(p, TINE__FATAL, 0, TINE_KIND_PROTOCOL, "the host sent garbage");
    peer_send(p, 10);
    peer_await_read(p);
    memset(tine__buf_room(&p->out, 20000000), 1, 20000000);
    p->out.len += 20000000;
    peer_send_all(p);
    peer_await_read(p);
    _exit(1);
}

static void talks_after_its_last_words(tine_host *host)
{
    session_begin(&s, host, talk_on, NULL, NULL);
    session_call(&s, 2);
    size_t most = most_kept(host);
    session_end(&s);
    CHECK(most < 200000);
    for (int i = 0; i < 2; i++) /* both get the words, since there is a traceback */
        CHECK(s.calls[i].kind == TINE_KIND_PROTOCOL);
}

/* Its own child lives on in another group, and never stops writing. */
static void leave_a_writer(peer *p, const void *arg)
{
    (void)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_start(p);
    peer_send_all(p);
    if (fork() == 0) {
        setsid();
        alarm(PEER_SECONDS);
        while (p->out.len < 200000)
            peer_event(p, 1, "");
        for (;; p->sent = 0)
            peer_send(p, SIZE_MAX);
    }
    for (int left = 0; left < 100000; sched_yield())
        CHECK(ioctl(p->fd, SIOCOUTQ, &left) == 0);
    peer_die();
}

static void heirs_that_write_for_ever(tine_host *host)
{
    session_begin(&s, host, leave_a_writer, NULL, NULL);
    session_call(&s, 2);
    session_end(&s);
    CHECK(s.calls[0].kind == TINE_KIND_CRASH && s.calls[1].kind == TINE_KIND_CLOSED);
}

/* A handle whose process is no more. */
typedef struct with_fds {
    size_t messages; /* that bring descriptors */
    uint32_t count, first;
    int type;
    const char *why;
} with_fds;

static void send_fds(peer *p, const void *arg)
{
    const with_fds *w = arg;
    unsigned char body[TINE__CALL_FDS] = {(unsigned char)w->count, 0, 0, 0,
                                          (unsigned char)w->first};
    int fds[] = {0, 1, 2};
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_start(p);
    for (size_t i = 0; i < w->messages; i++) {
        peer_frame(p, w->type, 1, body, w->type == TINE__FDS ? sizeof body : 0);
        ssize_t n = tine__passing_send(p->fd, p->out.data + p->sent,
                                       p->out.len - p->sent, MSG_NOSIGNAL, fds, 3);
        CHECK_INT(n, p->out.len - p->sent);
        p->sent = p->out.len;
    }
    atomic_store(&p->page->tail, p->sent);
    hang();
}

static void descriptors_that_nobody_speaks_of(tine_host *host)
{
    static const with_fds bad[] = {
        {1, 2, 0, TINE__FDS, "it sent garbage with descriptors"},
        {1, 4, 0, TINE__FDS, "it sent garbage with descriptors"},
        {1, 0, 0, TINE__FDS, "it sent garbage with descriptors"},
        {1, 3, 1, TINE__FDS, "it sent garbage with descriptors"},
        {1, 0, 0, TINE__RETIRE, "it sent descriptors that it does not speak of"},
        {500, 0, 0, TINE__RETIRE, "it sent descriptors that it does not speak of"},
    };
    static const tine_rpc_options options = {.serialiser = TINE_MSGPACK};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        session_begin(&s, host, send_fds, &bad[i], &options);
        session_call(&s, 3);
        expect_killed(bad[i].why);
    }
}

/* By strings they do not arrive at all. */
static void descriptors_by_strings(tine_host *host)
{
    static const with_fds bad[] = {
        {1, 3, 0, TINE__FDS, "it sent garbage with descriptors"}};
    size_t after_one = 0;
    for (int i = 0; i < 3; i++) {
        session_begin(&s, host, send_fds, &bad[0], NULL);
        session_call(&s, 3);
        expect_killed(bad[0].why);
        after_one = i ? after_one : test_fds(); /* a host's first one opens more */
    }
    CHECK_INT(test_fds(), after_one);
}

static void process_that_has_ended(tine_host *host)
{
    static const tine_func func = {TINE_TEXT, "f", 1};
    tine_rpc_options options = {.on_error = session_fault, .arg = &s};
    int fd;
    memset(&s, 0, sizeof s);
    s.host = host;
    int result = tine_proc_here(host, NULL, &s.proc, &fd);
    if (result == 0)
        _exit(4);
    CHECK_INT(result, 1);
    see(&s.seen, s.proc);
    await(host, &s.seen.exits, 1);
    int err = tine_rpc_new(s.proc, &func, &options, &s.rpc);
    CHECK_INT(err, 0); /* as of tine_proc_run: the callbacks tell */
    session_call(&s, 2);
    session_end(&s);
    for (int i = 0; i < 2; i++)
        CHECK(s.calls[i].kind == TINE_KIND_CLOSED);
}

int main(void)
{
    HOST(unknown_kinds);
    HOST(before_it_is_ready);
    HOST(flipped_bits);
    HOST(random_bytes);
    HOST(unknown_calls);
    HOST(cut_answers);
    HOST(bad_lengths);
    HOST(bad_kinds);
    HOST(lengths_far_too_large);
    HOST(wrong_answers);
    HOST(closes_its_socket);
    HOST(leaves_before_it_is_ready);
    HOST(talks_after_its_last_words);
    HOST(heirs_that_write_for_ever);
    HOST(descriptors_that_nobody_speaks_of);
    HOST(descriptors_by_strings);
    HOST(process_that_has_ended);
    return 0;
}
