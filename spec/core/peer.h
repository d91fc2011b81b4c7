/* A worker that is played by the test: a real process, forked from the test program by
 * tine_proc_here, that takes SERVE, and from then on sends and does what a script says, byte
 * by byte. And the host's side of it: an rpc whose every call is written down. */
#ifndef TINE_SPEC_PEER_H
#define TINE_SPEC_PEER_H

#include <linux/sockios.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "host_test.h"
#include "process/process.h"
#include "rpc/client.h"
#include "wire/call.h"
#include "wire/frame.h"
#include "wire/protocol.h"
#include "wire/report.h"

#define HOST(body) host_run(#body, body)

/* ------------------------------------------------------------ the worker's side */

typedef struct peer {
    int fd;
    tine__page *page;
    unsigned char *ring;
    tine__buf out; /* frames, of which `sent` bytes are sent */
    size_t sent;
    tine__call_head head; /* of the last frame read */
    tine__buf body;
} peer;

typedef void (*peer_script)(peer *p, const void *arg);

enum { PEER_SECONDS = 60 };

/* In the worker's process, first of all. */
static void (*peer_prepare)(void);

TEST_UNUSED static void peer_frame(peer *p, int type, uint64_t serial, const void *body,
                                   size_t len)
{
    unsigned char head[TINE__CALL_HEAD];
    tine__call_head_put(head, type, serial, (uint32_t)len);
    tine__buf_put(&p->out, head, sizeof head);
    tine__buf_put(&p->out, body, len);
    CHECK(!p->out.failed);
}

/* An answer with one value of len bytes, each of them `byte`. */
TEST_UNUSED static void peer_result(peer *p, uint64_t serial, int byte, size_t len)
{
    tine__buf b = {0};
    tine__buf_u64(&b, (uint64_t)test_usec() * 1000);
    tine__buf_u64(&b, 1000);
    tine__buf_u32(&b, (uint32_t)len);
    unsigned char *to = tine__buf_room(&b, len);
    CHECK(to);
    memset(to, byte, len);
    b.len += len;
    peer_frame(p, TINE__RESULT, serial, b.data, b.len);
    tine__buf_free(&b);
}

TEST_UNUSED static void peer_error(peer *p, int type, uint64_t serial, uint32_t kind,
                                   const char *text)
{
    tine__buf b = {0};
    if (type == TINE__ERROR) {
        tine__buf_u64(&b, 1);
        tine__buf_u64(&b, 2);
    }
    tine__buf_u32(&b, kind);
    tine__buf_str(&b, text, strlen(text));
    tine__buf_str(&b, "trace", 5);
    peer_frame(p, type, serial, b.data, b.len);
    tine__buf_free(&b);
}

TEST_UNUSED static void peer_event(peer *p, uint64_t serial, const char *text)
{
    tine__buf b = {0};
    tine__buf_str(&b, text, strlen(text));
    peer_frame(p, TINE__EVENT, serial, b.data, b.len);
    tine__buf_free(&b);
}

/* Nothing of what was sent is unread. */
TEST_UNUSED static void peer_await_read(const peer *p)
{
    int left = 1;
    while (ioctl(p->fd, SIOCOUTQ, &left) == 0 && left > 0)
        sched_yield();
}

TEST_UNUSED static void peer_send(peer *p, size_t most)
{
    size_t end = p->out.len - p->sent < most ? p->out.len : p->sent + most;
    while (p->sent < end) {
        ssize_t n = send(p->fd, p->out.data + p->sent, end - p->sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            _exit(3); /* the host has had enough of us */
        p->sent += n > 0 ? (size_t)n : 0;
    }
}

TEST_UNUSED static void peer_send_all(peer *p)
{
    peer_send(p, SIZE_MAX);
    p->out.len = p->sent = 0;
}

TEST_UNUSED __attribute__((noreturn)) static void peer_die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Returns false at the end of the stream. */
TEST_UNUSED static bool peer_bytes(int fd, void *to, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = recv(fd, (char *)to + done, len - done, 0);
        if (n == 0 || (n < 0 && errno != EINTR))
            return false;
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

/* The next call. */
TEST_UNUSED static bool peer_read(peer *p)
{
    unsigned char head[TINE__CALL_HEAD];
    p->body.len = 0;
    if (!peer_bytes(p->fd, head, sizeof head))
        return false;
    CHECK(tine__call_head_get(&p->head, head));
    unsigned char *to = tine__buf_room(&p->body, p->head.len + 1);
    CHECK(to);
    p->body.len = p->head.len;
    return peer_bytes(p->fd, to, p->head.len);
}

TEST_UNUSED static void peer_start(peer *p)
{
    if (!peer_read(p))
        _exit(0);
    CHECK_INT(p->head.type, TINE__CALL);
    atomic_store(&p->page->started_ns, (uint64_t)test_usec() * 1000);
    atomic_store(&p->page->started, p->head.serial);
}

/* As a good worker: until the host closes. */
TEST_UNUSED __attribute__((noreturn)) static void peer_leave(peer *p)
{
    peer_send_all(p);
    while (peer_read(p))
        ;
    _exit(0);
}

/* The body of the next command, with at most one descriptor. */
static int peer_command(int fd, int type, tine__buf *body)
{
    unsigned char head[TINE__FRAME_HEAD];
    char space[CMSG_SPACE(sizeof(int))] __attribute__((aligned(16)));
    struct iovec iov = {head, 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = space,
                         .msg_controllen = sizeof space};
    int got = -1;
    ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
    if (n == 0)
        _exit(0); /* the host wants us no more */
    CHECK_INT(n, 1);
    CHECK(peer_bytes(fd, head + 1, sizeof head - 1));
    CHECK_INT(head[0], type);
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    if (c)
        memcpy(&got, CMSG_DATA(c), sizeof got);
    size_t len = (size_t)head[4] | (size_t)head[5] << 8 | (size_t)head[6] << 16;
    body->len = 0;
    unsigned char *to = tine__buf_room(body, len);
    CHECK(to && peer_bytes(fd, to, len));
    body->len = len;
    return got;
}

static void peer_greet(int fd)
{
    tine__buf body = {0}, report = {0};
    int channel = peer_command(fd, TINE__FRAME_HELLO, &body);
    tine__cursor cur = {body.data, body.data + body.len, false};
    CHECK_INT(tine__get_u32(&cur), TINE__PROTOCOL);
    tine__report r = {.type = TINE__REPORT_HELLO,
                      .id = tine__get_u64(&cur),
                      .protocol = TINE__PROTOCOL,
                      .version = {"0", 1},
                      .lua = {"0", 1}};
    tine__report_encode(&report, &r);
    CHECK(send(channel, report.data, report.len, 0) == (ssize_t)report.len);
    close(channel);
    tine__buf_free(&body);
    tine__buf_free(&report);
}

__attribute__((noreturn)) static void peer_main(int fd, peer_script script,
                                                const void *arg)
{
    peer p = {.fd = fd};
    uint64_t offset = 0;
    alarm(PEER_SECONDS);
    if (peer_prepare)
        peer_prepare();
    peer_greet(fd);
    int memfd = peer_command(fd, TINE__FRAME_SERVE, &p.body);
    CHECK(memfd >= 0 && p.body.len > 8);
    for (size_t i = 0; i < 8; i++)
        offset |= (uint64_t)p.body.data[p.body.len - 8 + i] << 8 * i;
    void *memory = mmap(NULL, TINE__REGION, PROT_READ | PROT_WRITE, MAP_SHARED, memfd,
                        (off_t)offset);
    CHECK(memory != MAP_FAILED);
    close(memfd);
    p.page = memory;
    p.ring = (unsigned char *)memory + TINE__PAGE_STATUS;
    script(&p, arg);
    _exit(0);
}

/* -------------------------------------------------------------- the host's side */

typedef struct called {
    struct session *session;
    tine_job *job; /* until it has ended */
    int ends, order;
    bool ok;
    tine_kind kind;
    char message[200];
    size_t n, len; /* values, and the bytes of the last one */
    int byte;      /* that all of them are; -1: they differ */
} called;

enum { MOST_CALLS = 600 };

typedef struct session {
    tine_host *host;
    tine_proc *proc;
    tine_rpc *rpc;
    seen seen;
    called calls[MOST_CALLS];
    int made, ended, gone, faults, events;
    tine_kind fault_kind;
    char last_event[200], fault[200];
    void (*on_end)(called *c); /* in the callback of each call */
} session;

TEST_UNUSED static void session_ended(void *arg, tine_job *job, const tine_error *err,
                                      const tine_str *results, size_t n)
{
    called *c = arg;
    session *s = c->session;
    CHECK(!c->job || c->job == job);
    CHECK_INT(c->ends++, 0);
    c->order = ++s->ended;
    c->ok = !err;
    if (err) {
        c->kind = err->kind;
        CHECK(err->message_len);
        check_error(err);
        (void)snprintf(c->message, sizeof c->message, "%.*s", (int)err->message_len,
                       err->message);
    }
    c->n = n;
    for (size_t i = 0; i < n; i++) {
        const unsigned char *data = results[i].data;
        c->len = results[i].len;
        c->byte = c->len ? data[0] : -1;
        check_text(data, c->len);
        for (size_t k = 0; k < c->len; k++)
            if (data[k] != data[0])
                c->byte = -1;
    }
    if (s->on_end)
        s->on_end(c);
    c->job = NULL;
}

TEST_UNUSED static void session_event(void *arg, pid_t pid, tine_job *job,
                                      const tine_str *values, size_t n)
{
    session *s = arg;
    CHECK(pid > 0);
    s->events++;
    for (size_t i = 0; i < n; i++)
        check_text(values[i].data, values[i].len);
    (void)snprintf(s->last_event, sizeof s->last_event, "%d: %.*s",
                   job ? (int)tine_job_id(job) : 0, n ? (int)values[0].len : 0,
                   n ? (const char *)values[0].data : "");
}

TEST_UNUSED static void session_fault(void *arg, const tine_error *err)
{
    session *s = arg;
    check_error(err);
    s->fault_kind = err->kind;
    (void)snprintf(s->fault, sizeof s->fault, "%.*s", (int)err->message_len,
                   err->message);
    s->faults++;
}

TEST_UNUSED static void session_gone(void *arg)
{
    session *s = arg;
    s->gone++;
    s->rpc = NULL;
}

/* Returns what tine_proc_here or tine_rpc_new failed with, or 0. */
TEST_UNUSED static int session_try(session *s, tine_host *host, peer_script script,
                                   const void *arg, const tine_rpc_options *given)
{
    static const tine_func func = {TINE_TEXT, "f", 1};
    tine_rpc_options options = {0};
    int fd;
    memset(s, 0, sizeof *s);
    s->host = host;
    if (given)
        options = *given;
    options.on_event = session_event;
    options.on_error = session_fault;
    options.arg = s;
    int result = tine_proc_here(host, NULL, &s->proc, &fd);
    if (result == 0)
        peer_main(fd, script, arg);
    if (result < 0)
        return result;
    see(&s->seen, s->proc);
    return tine_rpc_new(s->proc, &func, &options, &s->rpc);
}

TEST_UNUSED static void session_begin(session *s, tine_host *host, peer_script script,
                                      const void *arg, const tine_rpc_options *options)
{
    CHECK_INT(session_try(s, host, script, arg, options), 0);
}

TEST_UNUSED static int session_try_call(session *s, const void *data, size_t len)
{
    tine_str args = {data, len};
    CHECK(s->made < MOST_CALLS);
    called *c = &s->calls[s->made];
    memset(c, 0, sizeof *c);
    c->session = s;
    int err = tine_rpc_call(s->rpc, &args, 1, session_ended, c, &c->job);
    s->made += !err;
    return err;
}

TEST_UNUSED static void session_call(session *s, int n)
{
    while (n--)
        CHECK_INT(session_try_call(s, "argument", 8), 0);
}

/* Waits until the process has ended and the rpc has gone, and sees that nothing is missing. */
TEST_UNUSED static void session_end(session *s)
{
    if (s->rpc)
        tine_rpc_close(s->rpc, session_gone, s);
    while (s->rpc)
        await(s->host, &s->gone, 1);
    await(s->host, &s->seen.exits, 1);
    tine_proc_close(s->proc);
    CHECK_INT(s->ended, s->made);
    for (int i = 0; i < s->made; i++)
        CHECK_INT(s->calls[i].ends, 1);
    while (tine_host_active(s->host))
        CHECK(tine_host_poll(s->host, 1000) >= 0);
    CHECK(LIST_EMPTY(&s->host->rpc->busy) && LIST_EMPTY(&s->host->rpc->rpcs) &&
          !s->host->nbusy);
}

#endif
