/* The host's end of a call stream, whatever pieces it comes in: from the socket, from the ring
 * of a worker that has died, or from both. The worker is played by the test, see peer.h. */
#include "peer.h"

static session s;

static bool is_one_of(tine_kind kind, tine_kind a, tine_kind b)
{
    return kind == a || kind == b;
}

/* ----------------------------------------------------------------------- pieces */

enum { SMALL = 10, HEAD_AND_TIMES = TINE__CALL_HEAD + TINE__CALL_TIMES };
enum { SMALL_ANSWER = HEAD_AND_TIMES + 4 + SMALL };

static void split_everywhere(peer *p, const void *arg)
{
    (void)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_send_all(p);
    for (size_t at = 0; at < SMALL_ANSWER; at++) {
        peer_start(p);
        peer_result(p, p->head.serial, 'a', SMALL);
        CHECK_INT(p->out.len, SMALL_ANSWER);
        peer_send(p, at);
        peer_await_read(p);
        peer_send_all(p);
        peer_await_read(p);
    }
    peer_leave(p);
}

static void check_results(int n, int byte, size_t len)
{
    for (int i = 0; i < n; i++) {
        const called *c = &s.calls[i];
        CHECK(c->ok && c->n == 1 && c->byte == byte && c->len == len);
        CHECK_INT(c->order, i + 1);
    }
}

static void answers_split_everywhere(tine_host *host)
{
    session_begin(&s, host, split_everywhere, NULL, NULL);
    session_call(&s, SMALL_ANSWER);
    session_end(&s);
    check_results(SMALL_ANSWER, 'a', SMALL);
    CHECK(!s.faults && s.seen.ok);
}

static void byte_by_byte(peer *p, const void *arg)
{
    (void)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_event(p, 0, "hello");
    peer_start(p);
    peer_event(p, 1, "one");
    peer_result(p, 1, 'x', SMALL);
    peer_start(p);
    peer_error(p, TINE__ERROR, 2, TINE_KIND_EXCEPTION, "as told");
    while (p->sent < p->out.len) {
        peer_send(p, 1);
        peer_await_read(p);
    }
    peer_leave(p);
}

static void frames_byte_by_byte(tine_host *host)
{
    session_begin(&s, host, byte_by_byte, NULL, NULL);
    session_call(&s, 2);
    session_end(&s);
    CHECK(s.calls[0].ok && s.calls[0].byte == 'x');
    CHECK(!s.calls[1].ok && s.calls[1].kind == TINE_KIND_EXCEPTION);
    CHECK(!strcmp(s.calls[1].message, "as told"));
    CHECK(s.events == 2 && !strcmp(s.last_event, "1: one"));
}

/* All answers in one piece, each with an event before it. */
static void in_one(peer *p, const void *arg)
{
    int n = *(const int *)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    for (int i = 0; i < n; i++) {
        peer_start(p);
        peer_event(p, p->head.serial, "e");
        peer_result(p, p->head.serial, 'b', SMALL);
    }
    peer_leave(p);
}

static void many_in_one_read(tine_host *host)
{
    static const int n = (int)TINE__WINDOW - 1;
    session_begin(&s, host, in_one, &n, NULL);
    session_call(&s, n);
    session_end(&s);
    check_results(n, 'b', SMALL);
    CHECK_INT(s.events, n);
}

/* Last ones first, and in pieces of odd sizes. */
static void backwards(peer *p, const void *arg)
{
    (void)arg;
    for (int i = 0; i < MOST_CALLS; i++)
        peer_start(p);
    peer_frame(p, TINE__READY, 0, NULL, 0);
    for (int i = MOST_CALLS; i > 0; i--)
        peer_result(p, (uint64_t)i, i % 256, (size_t)i * 37 % 5000);
    while (p->sent < p->out.len)
        peer_send(p, 1 + test_random() % 9000);
    peer_leave(p);
}

static void async_out_of_order(tine_host *host)
{
    static const tine_rpc_options options = {.async = 1};
    session_begin(&s, host, backwards, NULL, &options);
    session_call(&s, MOST_CALLS);
    session_end(&s);
    for (int i = 0; i < MOST_CALLS; i++) {
        const called *c = &s.calls[i];
        size_t len = (size_t)(i + 1) * 37 % 5000;
        CHECK(c->ok && c->n == 1 && c->len == len);
        CHECK(!len || c->byte == (i + 1) % 256);
        CHECK_INT(c->order, MOST_CALLS - i);
    }
}

/* ------------------------------------------------------------------------ sizes */

static const size_t sizes[] = {0,       1,       16383,   65535,   65536,
                               65537,   1 << 20, 5000000, 0,       (1 << 20) + 1,
                               9 << 20, 3,       131072,  1000000, 0};
enum { SIZES = sizeof sizes / sizeof *sizes };

static void all_sizes(peer *p, const void *arg)
{
    (void)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    for (size_t i = 0; i < SIZES; i++) {
        peer_start(p);
        peer_result(p, p->head.serial, 'z', sizes[i]);
        if (i % 3)
            peer_send_all(p);
    }
    peer_leave(p);
}

static void results_of_all_sizes(tine_host *host)
{
    session_begin(&s, host, all_sizes, NULL, NULL);
    session_call(&s, SIZES);
    session_end(&s);
    for (size_t i = 0; i < SIZES; i++) {
        CHECK(s.calls[i].ok && s.calls[i].n == 1 && s.calls[i].len == sizes[i]);
        CHECK(!sizes[i] || s.calls[i].byte == 'z');
    }
}

static void counts_of_values(peer *p, const void *arg)
{
    static const int counts[] = {0, 1, 100000, 7};
    (void)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    for (int i = 0; i < 4; i++) {
        tine__buf b = {0};
        peer_start(p);
        tine__buf_u64(&b, 0);
        tine__buf_u64(&b, 0);
        for (int k = 0; k < counts[i]; k++)
            tine__buf_str(&b, "ccc", 3);
        peer_frame(p, TINE__RESULT, p->head.serial, b.data, b.len);
        tine__buf_free(&b);
    }
    peer_leave(p);
}

static void results_of_all_counts(tine_host *host)
{
    static const size_t counts[] = {0, 1, 100000, 7};
    session_begin(&s, host, counts_of_values, NULL, NULL);
    session_call(&s, 4);
    session_end(&s);
    for (int i = 0; i < 4; i++)
        CHECK(s.calls[i].ok && s.calls[i].n == counts[i]);
}

/* ------------------------------------------------------------- socket and ring */

/* What was put into the ring, and how much of it into the socket, when the worker died. */
typedef struct cut {
    size_t before; /* bytes of the stream before, all sent */
    size_t sent, tail;
} cut;

enum { RING_CALLS = 3 };

static void put_in_ring(peer *p, size_t before, size_t len)
{
    for (size_t i = 0; i < len; i++)
        p->ring[(before + i) % TINE__RING] = p->out.data[i];
}

/* One more call than answers: it runs when the worker dies. */
static void die_with_ring(peer *p, const void *arg)
{
    const cut *c = arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    if (c->before) {
        char text[TINE__RING];
        memset(text, 'e', sizeof text);
        text[c->before - 2 * TINE__CALL_HEAD - 4] = 0;
        peer_event(p, 0, text);
        CHECK_INT(p->out.len, c->before);
    }
    size_t before = p->out.len;
    peer_send_all(p);
    for (int i = 0; i < RING_CALLS; i++) {
        peer_start(p);
        peer_result(p, p->head.serial, '0' + i, SMALL);
    }
    put_in_ring(p, before, p->out.len);
    peer_start(p);
    CHECK(c->sent <= c->tail && c->tail <= p->out.len);
    atomic_store(&p->page->tail, before + c->tail);
    peer_send(p, c->sent);
    peer_die();
}

static void expect_cut(tine_host *host, const cut *c)
{
    int whole = (int)(c->tail / SMALL_ANSWER);
    session_begin(&s, host, die_with_ring, c, NULL);
    session_call(&s, RING_CALLS + 2);
    session_end(&s);
    for (int i = 0; i < RING_CALLS + 2; i++) {
        const called *call = &s.calls[i];
        CHECK_INT(call->order, i + 1);
        if (i < whole)
            CHECK(call->ok && call->byte == '0' + i && call->len == SMALL);
        else if (i == whole)
            CHECK(!call->ok && call->kind == TINE_KIND_CRASH);
        else
            CHECK(!call->ok && call->kind == TINE_KIND_CLOSED);
    }
}

/* It dies after each byte that it sends, the rest lying in the ring. */
static void ring_after_socket(tine_host *host)
{
    cut c = {.tail = (size_t)RING_CALLS * SMALL_ANSWER};
    for (c.sent = 0; c.sent <= c.tail; c.sent++)
        expect_cut(host, &c);
}

/* The ring's end lies at each byte of the answers. */
static void ring_wraps(tine_host *host)
{
    cut c = {.tail = (size_t)RING_CALLS * SMALL_ANSWER};
    for (size_t i = 0; i <= c.tail; i += 3) {
        c.before = TINE__RING - i;
        c.sent = i % 7;
        expect_cut(host, &c);
    }
}

/* Nothing of the later answers is in the ring: the socket has all, cut at each byte. */
static void dies_after_each_byte(tine_host *host)
{
    for (size_t at = 0; at <= (size_t)RING_CALLS * SMALL_ANSWER; at++) {
        cut c = {.sent = at, .tail = at};
        expect_cut(host, &c);
    }
}

/* A large answer is sent past the ring: its bytes there are old ones. */
static void die_in_large(peer *p, const void *arg)
{
    const size_t *sent = arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_start(p);
    peer_result(p, 1, 'l', 100000);
    peer_start(p);
    memset(p->ring, 0x55, TINE__RING);
    atomic_store(&p->page->tail, TINE__CALL_HEAD);
    peer_send(p, *sent);
    peer_die();
}

static void dies_within_a_large_answer(tine_host *host)
{
    size_t whole = TINE__CALL_HEAD + HEAD_AND_TIMES + 4 + 100000;
    size_t cuts[] = {16, 17, 31, 32, 33, 70000, whole - 1, whole};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        session_begin(&s, host, die_in_large, &cuts[i], NULL);
        session_call(&s, 3);
        session_end(&s);
        bool all = cuts[i] == whole;
        CHECK(all ? s.calls[0].ok && s.calls[0].byte == 'l'
                  : s.calls[0].kind == TINE_KIND_CRASH);
        for (int k = 1; k < 3; k++)
            CHECK(!s.calls[k].ok &&
                  is_one_of(s.calls[k].kind, TINE_KIND_CRASH, TINE_KIND_CLOSED));
    }
}

int main(void)
{
    HOST(answers_split_everywhere);
    HOST(frames_byte_by_byte);
    HOST(many_in_one_read);
    HOST(async_out_of_order);
    HOST(results_of_all_sizes);
    HOST(results_of_all_counts);
    HOST(ring_after_socket);
    HOST(ring_wraps);
    HOST(dies_after_each_byte);
    HOST(dies_within_a_large_answer);
    return 0;
}
