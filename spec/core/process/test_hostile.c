/* Hostile input that needs descriptors, or ids that only the host knows: frames with too
 * many or too few descriptors, and reports forged by one process about another. */
#include <signal.h>
#include <sys/socket.h>

#include "host_test.h"
#include "process/local/local_priv.h"
#include "process/proc.h"
#include "wire/frame.h"
#include "wire/protocol.h"
#include "wire/report.h"

/* -------------------------------------------------------- command sockets */

typedef struct raw {
    tine_proc *p;
    seen seen;
} raw;

static void open_raw(tine_host *host, raw *r)
{
    CHECK(tine_proc_new(host, NULL, &r->p) == 0);
    see(&r->seen, r->p);
    CHECK(tine_proc_to_fd(r->p, seen_fd, &r->seen) == 0);
    await(host, &r->seen.fds, 1);
}

static void close_raw(tine_host *host, raw *r)
{
    close(r->seen.fd);
    await(host, &r->seen.exits, 1);
    tine_proc_close(r->p);
}

static void send_bytes(int sock, const void *data, size_t len, const int *fds,
                       size_t nfds)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(TINE_MAX_FDS * sizeof(int))];
    } control;
    struct iovec iov = {(void *)(size_t)data, len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (nfds) {
        memset(&control, 0, sizeof control);
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
        memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
    }
    CHECK(sendmsg(sock, &msg, MSG_NOSIGNAL) == (ssize_t)len);
}

/* A frame that names `named` descriptors and brings `nfds` copies of one end of a pair.
 * Returns the other end. */
static int send_frame(int sock, int type, size_t named, const tine__buf *body,
                      size_t nfds)
{
    unsigned char frame[512];
    int fds[TINE_MAX_FDS], pair[2];
    CHECK(body->len + TINE__FRAME_HEAD <= sizeof frame && !body->failed);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    for (size_t i = 0; i < nfds; i++)
        fds[i] = pair[1];
    tine__frame_head(frame, type, named, body->len);
    if (body->len)
        memcpy(frame + TINE__FRAME_HEAD, body->data, body->len);
    send_bytes(sock, frame, TINE__FRAME_HEAD + body->len, fds, nfds);
    close(pair[1]);
    return pair[0];
}

/* Whether all duplicates of the other end are closed, in the end. */
static void check_all_closed(tine_host *host, int fd)
{
    char byte;
    int64_t end = test_usec() + DEADLINE_USEC;
    ssize_t n;
    while ((n = recv(fd, &byte, 1, MSG_DONTWAIT)) < 0 && errno == EAGAIN &&
           test_usec() < end)
        CHECK(tine_host_poll(host, 1000) >= 0);
    CHECK(n == 0);
    close(fd);
}

static void expect_refused(tine_host *host, int type, size_t named,
                           const tine__buf *body, size_t nfds, const char *why)
{
    raw r;
    open_raw(host, &r);
    int other = send_frame(r.seen.fd, type, named, body, nfds);
    await(host, &r.seen.errors, 1);
    CHECK(r.seen.kind == TINE_KIND_PROTOCOL);
    if (!strstr(r.seen.message, why))
        (void)fprintf(stderr, "got: %s\n", r.seen.message);
    CHECK(strstr(r.seen.message, why));
    check_all_closed(host, other);
    close_raw(host, &r);
    CHECK(r.seen.exit.code == 1 && r.seen.errors == 1);
}

static void put_eval(tine__buf *b, const char *code)
{
    tine__buf_u32(b, TINE_TEXT);
    tine__buf_str(b, code, strlen(code));
    tine__buf_u32(b, 0);
}

static void put_fork(tine__buf *b, uint64_t id, uint32_t flags)
{
    tine__buf_u64(b, id);
    tine__buf_u32(b, flags);
    tine__buf_str(b, "", 0);
}

static void surplus_descriptors(tine_host *host)
{
    static const char why[] = "with more descriptors than it names";
    tine__buf none = {0}, eval = {0}, forked = {0};
    put_eval(&eval, "error('never to be run')");
    put_fork(&forked, 0x123456789, 0);
    expect_refused(host, TINE__FRAME_EVAL, 0, &eval, 1, why);
    expect_refused(host, TINE__FRAME_EVAL, 0, &eval, TINE_MAX_FDS, why);
    expect_refused(host, TINE__FRAME_ARGS, 0, &none, 2, why);
    expect_refused(host, TINE__FRAME_FDS, 1, &none, 2, why);
    expect_refused(host, TINE__FRAME_FDS, TINE_MAX_FDS - 1, &none, TINE_MAX_FDS, why);
    expect_refused(host, TINE__FRAME_FORK, 1, &forked, 3, why);
    tine__buf_free(&eval);
    tine__buf_free(&forked);
}

static void missing_descriptors(tine_host *host)
{
    static const char why[] = "without the descriptors that it names";
    tine__buf none = {0}, forked = {0};
    put_fork(&forked, 0x123456789, 0);
    expect_refused(host, TINE__FRAME_FDS, 2, &none, 1, why);
    expect_refused(host, TINE__FRAME_FDS, 255, &none, TINE_MAX_FDS, why);
    expect_refused(host, TINE__FRAME_FORK, 4, &forked, 1, why);
    tine__buf_free(&forked);
}

/* The descriptors of a frame may only come with its first byte, but come they did. */
static void late_descriptors(tine_host *host)
{
    unsigned char frame[100];
    tine__buf eval = {0};
    int pair[2];
    raw r;
    put_eval(&eval, "error('never to be run')");
    tine__frame_head(frame, TINE__FRAME_EVAL, 0, eval.len);
    memcpy(frame + TINE__FRAME_HEAD, eval.data, eval.len);
    open_raw(host, &r);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    send_bytes(r.seen.fd, frame, 20, NULL, 0);
    send_bytes(r.seen.fd, frame + 20, TINE__FRAME_HEAD + eval.len - 20, pair + 1, 1);
    close(pair[1]);
    await(host, &r.seen.errors, 1);
    CHECK(r.seen.kind == TINE_KIND_PROTOCOL);
    check_all_closed(host, pair[0]);
    close_raw(host, &r);
    tine__buf_free(&eval);
}

/* A greeting needs its report channel, and nothing else. */
static void greetings(tine_host *host)
{
    tine__buf hello = {0};
    tine__buf_u32(&hello, TINE__PROTOCOL);
    tine__buf_u64(&hello, 1);
    tine__buf_u32(&hello, 1);
    tine__buf_str(&hello, "1", 1);
    tine__buf_u32(&hello, 0);
    tine__buf_str(&hello, "", 0);
    expect_refused(host, TINE__FRAME_HELLO, 0, &hello, 0, "garbage in a greeting");
    expect_refused(host, TINE__FRAME_HELLO, 2, &hello, 2, "garbage in a greeting");
    tine__buf_u32(&hello, 0);
    expect_refused(host, TINE__FRAME_HELLO, 1, &hello, 1, "garbage in a greeting");
    tine__buf_free(&hello);
}

/* As many as fit are taken, in order. */
static void most_descriptors(tine_host *host)
{
    static const char code[] =
        "function count(s, ...) s:write(tostring(select('#', ...))) end";
    tine__buf none = {0}, eval = {0}, run = {0};
    char answer[16];
    raw r;
    open_raw(host, &r);
    put_eval(&eval, code);
    tine__buf_u32(&run, TINE_TEXT);
    tine__buf_str(&run, "count", 5);
    close(send_frame(r.seen.fd, TINE__FRAME_EVAL, 0, &eval, 0));
    int other =
        send_frame(r.seen.fd, TINE__FRAME_FDS, TINE_MAX_FDS, &none, TINE_MAX_FDS);
    close(send_frame(r.seen.fd, TINE__FRAME_RUN, 0, &run, 0));
    await(host, &r.seen.exits, 1);
    CHECK(r.seen.ok);
    CHECK(recv(r.seen.fd, answer, sizeof answer, 0) == 3 && !memcmp(answer, "253", 3));
    check_all_closed(host, other);
    close_raw(host, &r);
    tine__buf_free(&eval);
    tine__buf_free(&run);
}

/* A fork that our host did not ask for: it is nobody's, and ends with its socket. */
static void unknown_fork(tine_host *host)
{
    tine__buf forked = {0};
    raw r;
    open_raw(host, &r);
    put_fork(&forked, 0x123456789abcdef, 0);
    int other = send_frame(r.seen.fd, TINE__FRAME_FORK, 1, &forked, 1);
    put_eval(&forked, "");
    shutdown(other, SHUT_WR);
    check_all_closed(host, other);
    close_raw(host, &r);
    CHECK(r.seen.ok && r.seen.errors == 0);
    tine__buf_free(&forked);
}

/* ---------------------------------------------------------------- reports */

static const char write_report[] =
    "local list = io.popen('ls -l /proc/$PPID/fd 2>/dev/null; cat /proc/net/unix')\n"
    "local text = list:read('a')\n"
    "list:close()\n"
    "for n, inode in text:gmatch(' (%d+) %-> socket:%[(%d+)%]') do\n"
    "  if text:find(' 0005 %d%d +' .. inode .. '[ \\n]') then\n"
    "    local fd = require 'tine'.fd(math.tointeger(tonumber(n)))\n"
    "    assert(fd:write(...))\n"
    "    fd:detach()\n"
    "  end\n"
    "end\n";

static uint64_t id_of(const tine_proc *p)
{
    return tine__local_of(p->link)->id;
}

/* A new process sends that report. It is killed for it. */
static void expect_killed(tine_host *host, const tine__report *report)
{
    tine__buf b = {0};
    tine_proc *p;
    seen s;
    tine__report_encode(&b, report);
    tine_str data = {b.data, b.len};
    CHECK(tine_proc_new(host, NULL, &p) == 0);
    see(&s, p);
    if (!report->id) { /* about itself */
        for (int i = 0; i < 8; i++)
            b.data[8 + i] = (unsigned char)(id_of(p) >> (8 * i));
    }
    CHECK(tine_proc_eval(p, TINE_TEXT, write_report, sizeof write_report - 1, &data,
                         1) == 0);
    await(host, &s.exits, 1);
    CHECK(s.errors == 1 && s.kind == TINE_KIND_PROTOCOL);
    CHECK(strstr(s.message, "it sent garbage on the report channel"));
    CHECK(s.exit_kind == TINE_KIND_CRASH && s.exit.signal == SIGKILL);
    tine_proc_close(p);
    tine__buf_free(&b);
}

static tine__report forged(int type, uint64_t id)
{
    tine__report r = {.type = type, .id = id, .seq = 1000, .protocol = TINE__PROTOCOL};
    r.kind = TINE_KIND_EXCEPTION;
    r.message = r.traceback = r.version = r.lua = (tine_str){"forged", 6};
    r.pid = getpid();
    r.status = 0;
    r.figures.heap = TINE_HEAP_MALLOC;
    return r;
}

static void forge_all(tine_host *host, uint64_t id)
{
    for (int type = TINE__REPORT_HELLO; type <= TINE__REPORT_MEMORY; type++) {
        tine__report r = forged(type, id);
        expect_killed(host, &r);
    }
}

static void forged_reports(tine_host *host)
{
    static const char code[] = "function echo(s) s:write(s:read() .. '?') end";
    tine_proc *victim;
    seen s;
    CHECK(tine_proc_new(host, NULL, &victim) == 0);
    see(&s, victim);
    CHECK(tine_proc_eval(victim, TINE_TEXT, code, sizeof code - 1, NULL, 0) == 0);
    await(host, &s.readies, 1);
    pid_t pid = tine_proc_pid(victim);
    forge_all(host, id_of(victim));
    CHECK(tine_proc_pid(victim) == pid && s.exits == 0 && s.errors == 0);
    CHECK(strcmp(converse(host, victim, &s, "echo", "well"), "well?") == 0);
    await(host, &s.exits, 1);
    CHECK(s.ok && s.exit.pid == pid && s.errors == 0);
    tine_proc_close(victim);
}

/* Of its own template, and of one that was exec'ed: those are not its to speak of. */
static void forged_reports_of_others(tine_host *host)
{
    tine_proc *other;
    seen s;
    check_works(host, false);
    pid_t template_pid = tine_proc_pid(host->process->template_proc);
    forge_all(host, id_of(host->process->template_proc));
    CHECK(host->process->template_proc &&
          tine_proc_pid(host->process->template_proc) == template_pid);
    CHECK(tine_proc_new_exec(host, NULL, &other) == 0);
    see(&s, other);
    await(host, &s.readies, 1);
    forge_all(host, id_of(other));
    CHECK(s.exits == 0 && s.errors == 0);
    tine_proc_close(other);
    await(host, &s.exits, 1);
    CHECK(s.ok);
    check_works(host, false);
}

/* Of itself: it has been made, only its parent may say that it has ended, and nobody has asked
 * for its memory. */
static void false_reports(tine_host *host)
{
    static const int types[] = {TINE__REPORT_HELLO, TINE__REPORT_MADE,
                                TINE__REPORT_EXITED, TINE__REPORT_MEMORY};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        tine__report r = forged(types[i], 0);
        expect_killed(host, &r);
    }
}

int main(void)
{
    host_run("surplus descriptors", surplus_descriptors);
    host_run("missing descriptors", missing_descriptors);
    host_run("late descriptors", late_descriptors);
    host_run("greetings", greetings);
    host_run("the most descriptors", most_descriptors);
    host_run("a fork that nobody asked for", unknown_fork);
    host_run("forged reports of a worker", forged_reports);
    host_run("forged reports of templates", forged_reports_of_others);
    host_run("false reports", false_reports);
    return 0;
}
