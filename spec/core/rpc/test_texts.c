/* Whatever a callback is told has a NUL behind its last byte, also where the next thing that the
 * worker has sent lies directly behind it. That nothing is written or read outside of a buffer,
 * only valgrind or AddressSanitizer can tell: these are the edges. See peer.h, too: all that is
 * told there is checked. */
#include "peer.h"

static session s;

enum { CALLS = 40, VALUES = 5, LARGE = 200000, READ = 65536 };

static void put_times(tine__buf *b)
{
    tine__buf_u64(b, (uint64_t)test_usec() * 1000);
    tine__buf_u64(b, 1);
}

static void answer_many(peer *p, uint64_t serial)
{
    tine__buf b = {0};
    put_times(&b);
    for (size_t i = 0; i < VALUES; i++)
        tine__buf_str(&b, "xxxxx", i);
    peer_frame(p, TINE__RESULT, serial, b.data, b.len);
    tine__buf_free(&b);
}

/* All answers lie one behind the other. */
static void answers_together(peer *p, const void *arg)
{
    (void)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    for (int i = 0; i < CALLS; i++) {
        peer_start(p);
        uint64_t serial = p->head.serial;
        peer_event(p, serial, "an event");
        if (i % 4 == 0)
            peer_result(p, serial, 'a', (size_t)i);
        else if (i % 4 == 1)
            peer_error(p, TINE__ERROR, serial, TINE_KIND_EXCEPTION, "wrong again");
        else if (i % 4 == 2)
            answer_many(p, serial);
        else
            peer_result(p, serial, 'b', LARGE);
    }
    peer_leave(p);
}

static void check_answers(void)
{
    CHECK_INT(s.events, CALLS);
    for (int i = 0; i < CALLS; i++) {
        const called *c = &s.calls[i];
        CHECK_INT(c->ok, i % 4 != 1);
        if (i % 4 == 1)
            CHECK(strcmp(c->message, "wrong again") == 0);
        else
            CHECK_INT(c->len, i % 4 == 0 ? i : i % 4 == 2 ? VALUES - 1 : LARGE);
    }
}

static void in_answers(tine_host *host)
{
    session_begin(&s, host, answers_together, NULL, NULL);
    session_call(&s, CALLS);
    session_end(&s);
    check_answers();
}

/* What is read at once ends where the buffer does. */
static void full_reads(peer *p, const void *arg)
{
    char text[READ / 4 - TINE__CALL_HEAD - 4 + 1];
    (void)arg;
    memset(text, 'e', sizeof text);
    text[sizeof text - 1] = 0;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_send_all(p);
    for (int i = 0; i < CALLS; i++) {
        peer_await_read(p);
        for (int k = 0; k < 4; k++)
            peer_event(p, 0, text);
        CHECK_INT(p->out.len, READ);
        peer_send_all(p);
    }
    peer_leave(p);
}

static void at_the_end_of_the_buffer(tine_host *host)
{
    session_begin(&s, host, full_reads, NULL, NULL);
    await(host, &s.events, 4 * CALLS);
    session_end(&s);
}

/* The answers of a dead worker, from the end of its ring. */
static void leaves_a_ring(peer *p, const void *arg)
{
    (void)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_start(p);
    peer_result(p, p->head.serial, 'r', TINE__RING - TINE__CALL_HEAD * 2 - 20);
    CHECK_INT(p->out.len, TINE__RING);
    memcpy(p->ring, p->out.data, TINE__RING);
    atomic_store(&p->page->tail, TINE__RING);
    peer_die();
}

static void in_the_ring(tine_host *host)
{
    session_begin(&s, host, leaves_a_ring, NULL, NULL);
    session_call(&s, 1);
    session_end(&s);
    CHECK(s.calls[0].ok && s.calls[0].byte == 'r');
}

static void traced(peer *p, const void *arg)
{
    tine__buf b = {0};
    (void)arg;
    peer_frame(p, TINE__READY, 0, NULL, 0);
    peer_send_all(p);
    peer_start(p);
    while (!atomic_load(&p->page->trace_asked))
        sched_yield();
    tine__buf_str(&b, "stack traceback", 15);
    peer_frame(p, TINE__TRACE, atomic_load(&p->page->trace_asked), b.data, b.len);
    tine__buf_free(&b);
    peer_result(p, p->head.serial, 'a', 1);
    peer_leave(p);
}

static void told_text(void *arg, const tine_error *err, const char *text, size_t len)
{
    CHECK(!err && strcmp(text, "stack traceback") == 0);
    check_text(text, len);
    ++*(int *)arg;
}

static void in_tracebacks(tine_host *host)
{
    int told = 0;
    session_begin(&s, host, traced, NULL, NULL);
    session_call(&s, 1);
    CHECK_INT(tine_rpc_traceback(s.rpc, told_text, &told), 0);
    await(host, &told, 1);
    session_end(&s);
    CHECK(s.calls[0].ok);
}

/* ------------------------------------------------------------- of real processes */

static struct {
    int lines;
    char text[4][40];
    size_t longest, bytes;
} heard;

static void on_line(void *arg, tine_proc *p, const char *line, size_t len)
{
    (void)arg, (void)p;
    check_text(line, len);
    if (heard.lines < 4)
        (void)snprintf(heard.text[heard.lines], sizeof heard.text[0], "%s", line);
    heard.lines++;
    heard.bytes += len;
    if (len > heard.longest)
        heard.longest = len;
}

static void output_of(tine_host *host, const char *code)
{
    tine_proc_options options = {
        .stdio[1] = {.how = TINE_STDIO_LINES, .on_line = on_line}};
    tine_proc *p;
    seen t;
    memset(&heard, 0, sizeof heard);
    CHECK_INT(tine_proc_new(host, &options, &p), 0);
    see(&t, p);
    CHECK_INT(tine_proc_eval(p, TINE_TEXT, code, strlen(code), NULL, 0), 0);
    tine_proc_close(p);
    await(host, &t.exits, 1);
}

static void in_lines(tine_host *host)
{
    output_of(host, "io.write('one\\n\\nthree\\nno newline')");
    CHECK_INT(heard.lines, 4);
    CHECK(strcmp(heard.text[0], "one") == 0 && strcmp(heard.text[1], "") == 0);
    CHECK(strcmp(heard.text[2], "three") == 0);
    CHECK(strcmp(heard.text[3], "no newline") == 0);
}

/* One that is too long comes in pieces, as tine.h says. */
static void in_pieces_of_a_line(tine_host *host)
{
    enum { MIB = 1 << 20 };
    output_of(host,
              "io.write(('x'):rep(5 << 19), '\\n', ('y'):rep((1 << 20) - 1), '\\n')");
    CHECK_INT(heard.bytes, (5 << 19) + MIB - 1);
    CHECK(heard.lines >= 3 && heard.lines <= 4);
    CHECK(heard.longest >= MIB && heard.longest < 2 * MIB);
}

static void in_reports(tine_host *host)
{
    static const char *const codes[] = {"error('short')", "error(('long'):rep(300))",
                                        "error(('cut'):rep(30000))", "not Lua"};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        tine_proc *p;
        seen t;
        CHECK_INT(tine_proc_new(host, NULL, &p), 0);
        see(&t, p);
        CHECK_INT(tine_proc_eval(p, TINE_TEXT, codes[i], strlen(codes[i]), NULL, 0), 0);
        await(host, &t.errors, 1);
        tine_proc_close(p);
        await(host, &t.exits, 1);
    }
}

int main(void)
{
    HOST(in_answers);
    HOST(at_the_end_of_the_buffer);
    HOST(in_the_ring);
    HOST(in_tracebacks);
    HOST(in_lines);
    HOST(in_pieces_of_a_line);
    HOST(in_reports);
    return 0;
}
