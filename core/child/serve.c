/* The command loop of a process. The same loop serves a template, and after a fork each of
 * its workers until that is told to run. It uses no event loop: what a process inherits is
 * the user's choice alone. */
#include <errno.h>
#include <lauxlib.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/pdeathsig.h"
#include "base/rights.h"
#include "child.h"
#include "heap/heap.h"
#include "wire/protocol.h"

static void protocol_failure(tine__child *c, const char *problem)
{
    char text[200];
    snprintf(text, sizeof text, "the command socket brought %s", problem);
    tine__fail(c, TINE_KIND_PROTOCOL, 0, text, strlen(text), "", 0);
    tine__fd_close(&c->cmd);
    tine__reader_free(&c->reader);
}

static void say_idle(tine__child *c)
{
    if (c->told == c->seq || c->report < 0)
        return;
    tine__report r = {.type = TINE__REPORT_IDLE, .id = c->id, .seq = c->seq};
    tine__flush(c);
    tine__report_send(c, &r, -1);
    c->told = c->seq;
}

/* Sleeps until there is something to read, a worker has ended, or the host has gone. */
static void wait_for_news(tine__child *c)
{
    tine__reap(c);
    if ((c->failed || c->cmd < 0) && !c->workers.n)
        tine__leave(c->failed);
    /* All that wait on the report channel are looked at when the host has read a report: only who
     * does not see the host go by its command socket does. */
    struct pollfd fds[2] = {{c->cmd, POLLIN, 0}, {c->cmd < 0 ? c->report : -1, 0, 0}};
    int ms = tine__children_wait_ms(&c->workers);
    struct timespec wait = {ms / 1000, ms % 1000 * 1000000L};
    if (ppoll(fds, 2, ms < 0 ? NULL : &wait, &c->waiting_mask) < 0)
        return;
    if (fds[1].revents && !c->detach)
        tine__leave(1);
    if (fds[1].revents)
        tine__fd_close(&c->report); /* or the next sleep would end at once */
}

/* User code may have closed 0, 1 or 2, which what arrives must not become. */
static size_t lift_all(int *fds, size_t nfds, bool *lost)
{
    size_t kept = 0;
    for (size_t i = 0; i < nfds; i++) {
        int fd = tine__fd_above_stdio(fds[i]);
        if (fd >= 0)
            fds[kept++] = fd;
        else
            *lost = true;
    }
    return kept;
}

/* One recvmsg. Returns bytes, 0 at the end, or a negative errno. */
static ssize_t receive(tine__child *c, unsigned char *to, size_t room, int *fds,
                       size_t *nfds, bool *lost)
{
    TINE__RIGHTS_ROOM(TINE_MAX_FDS) control;
    struct iovec iov = {to, room};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof control};
    ssize_t n = recvmsg(c->cmd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    *nfds = 0;
    if (n < 0)
        return -errno;
    /* Out of descriptors, the kernel delivers the bytes all the same. */
    *lost = (msg.msg_flags & MSG_CTRUNC) != 0;
    *nfds = lift_all(fds, tine__rights_get(&msg, fds, TINE_MAX_FDS), lost);
    return n;
}

/* The kernel lacks memory: it may have some in a moment. Returns whether to try again. */
static bool is_short(int err, int *tries)
{
    enum { PAUSE_MS = 5, TRIES = 200 };
    if ((err != ENOMEM && err != ENOBUFS) || ++*tries > TRIES)
        return false;
    poll(NULL, 0, PAUSE_MS);
    return true;
}

/* No more commands will come; err: 0 at the end of the stream. */
static void end_commands(tine__child *c, int err)
{
    if (err && err != ECONNRESET)
        tine__fail_system(c, "cannot read the command socket", err);
    else if (!tine__reader_between(&c->reader))
        protocol_failure(c, "a truncated command");
    tine__fd_close(&c->cmd);
}

/* Returns when a whole frame is there, or the stream has ended (false). */
static bool next_frame(tine__child *c)
{
    tine__reader *r = &c->reader;
    int fds[TINE_MAX_FDS], tries = 0;
    while (c->cmd >= 0) {
        size_t room, nfds;
        bool lost = false;
        unsigned char *to = tine__reader_room(r, &room);
        if (!to) {
            static const char text[] = "out of memory for a command";
            tine__fail(c, TINE_KIND_SYSTEM, ENOMEM, text, sizeof text - 1, "", 0);
            tine__fd_close(&c->cmd);
            return false;
        }
        ssize_t n = receive(c, to, room, fds, &nfds, &lost);
        if (n == -EINTR || (n < 0 && is_short((int)-n, &tries)))
            continue;
        if (n == -EAGAIN) {
            if (tine__reader_between(r))
                say_idle(c);
            wait_for_news(c);
            continue;
        }
        if (n <= 0) {
            end_commands(c, (int)-n);
            return false;
        }
        tries = 0;
        int done = tine__reader_got(r, (size_t)n, fds, nfds, lost);
        if (done < 0)
            protocol_failure(c, r->problem);
        else if (done)
            return true;
    }
    return false;
}

static void on_hello(tine__child *c, tine__reader *frame)
{
    tine__cursor cur = {frame->body.data, frame->body.data + frame->body.len, false};
    uint32_t protocol = tine__get_u32(&cur);
    tine__report hello = {.type = TINE__REPORT_HELLO, .protocol = TINE__PROTOCOL};
    hello.id = tine__get_u64(&cur);
    tine__get_u32(&cur);
    tine__get_str(&cur);
    uint32_t flags = tine__get_u32(&cur);
    tine_str name = tine__get_str(&cur);
    if (frame->nfds != 1 || (protocol == TINE__PROTOCOL && !tine__get_done(&cur))) {
        protocol_failure(c, "garbage in a greeting");
        return;
    }
    c->id = hello.id;
    hello.version = (tine_str){tine_version(), strlen(tine_version())};
    hello.lua = (tine_str){LUA_RELEASE, strlen(LUA_RELEASE)};
    tine__fd_close(&c->report);
    c->report = frame->fds[0];
    frame->fds[0] = -1;
    if (protocol == TINE__PROTOCOL) {
        c->detach = (flags & TINE__FORK_DETACH) != 0;
        tine__redirect(flags & TINE__FORK_LINES(1), NULL, 0);
        c->named = name.len > 0;
        if (name.len)
            tine__title_set(c, name.data, name.len);
    }
    c->seq = c->told = 1;
    /* Also to a host of another version: it is the one that can say so. Where it did not make
     * us, it learns from the descriptor how we end, however soon that is. */
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    tine__report_send(c, &hello, pidfd);
    tine__fd_close(&pidfd);
    if (protocol != TINE__PROTOCOL)
        tine__leave(1);
}

static void name_after(tine__child *c, const tine__reader *frame)
{
    tine__cursor cur = {frame->body.data, frame->body.data + frame->body.len, false};
    uint32_t kind = tine__get_u32(&cur);
    tine_str func = tine__get_str(&cur);
    if (kind == TINE_TEXT && !cur.bad)
        tine__title_set(c, func.data, func.len);
}

static void close_all_but(int a, int b)
{
    const int keep[] = {a < b ? a : b, a < b ? b : a};
    tine__fd_close_from(3, keep, 2);
}

static void run(tine__child *c, tine__reader *frame)
{
    if (!c->named)
        name_after(c, frame);
    tine__channel_own(c);
    int code = tine__interp_run(c, frame);
    if (!c->workers.n)
        tine__leave(code);
    /* Workers that were forked before still do their jobs: stay until the last has gone.
     * Whoever talks to this process is to see its end now. */
    fflush(NULL);
    close_all_but(c->report, c->workers.ends);
    sigset_t chld;
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    sigprocmask(SIG_BLOCK, &chld, NULL);
    while (c->workers.n)
        wait_for_news(c);
    tine__leave(code);
}

static void tell_memory(tine__child *c, const tine__reader *frame)
{
    static const char garbage[] = "garbage in a question for the memory";
    if (frame->body.len || frame->nfds)
        tine__fail(c, TINE_KIND_PROTOCOL, 0, garbage, sizeof garbage - 1, "", 0);
    else
        tine__memory_tell(c);
}

static void fail_as_told(tine__child *c, const tine__reader *frame)
{
    static const char garbage[] = "garbage in a failure";
    tine__cursor cur = {frame->body.data, frame->body.data + frame->body.len, false};
    int err = (int)tine__get_u32(&cur);
    tine_str text = tine__get_str(&cur);
    if (!tine__get_done(&cur) || err < 0)
        tine__fail(c, TINE_KIND_PROTOCOL, 0, garbage, sizeof garbage - 1, "", 0);
    else
        tine__fail(c, TINE_KIND_SYSTEM, err, text.data, text.len, "", 0);
}

static void on_channel(tine__child *c, tine__reader *frame)
{
    static const char garbage[] = "garbage in a report channel";
    if (frame->body.len || frame->nfds != 1) {
        tine__fail(c, TINE_KIND_PROTOCOL, 0, garbage, sizeof garbage - 1, "", 0);
        return;
    }
    tine__fd_close(&c->report);
    c->report = frame->fds[0];
    frame->fds[0] = -1;
}

static void carry_out(tine__child *c, tine__reader *frame)
{
    c->seq++;
    switch (frame->type) {
    case TINE__FRAME_HELLO:
        on_hello(c, frame);
        break;
    case TINE__FRAME_FORK:
        tine__fork(c, frame);
        break;
    case TINE__FRAME_SERVE:
        if (!c->failed)
            tine__serve_calls(c, frame);
        break;
    case TINE__FRAME_RUN:
        if (!c->failed)
            run(c, frame);
        break;
    case TINE__FRAME_MEMORY:
        tell_memory(c, frame);
        break;
    case TINE__FRAME_FAIL:
        fail_as_told(c, frame);
        break;
    case TINE__FRAME_CHANNEL:
        on_channel(c, frame);
        break;
    default:
        if (!c->failed)
            tine__interp_command(c, frame);
        break;
    }
    tine__reader_next(frame);
}

static void open_child(tine__child *c, lua_State *L, int fd)
{
    memset(c, 0, sizeof *c);
    c->L = L;
    c->cmd = fd;
    c->report = -1;
    tine__children_init(&c->workers);
    tine__reader_init(&c->reader);
    tine__interp_open(c);
    tine__interp_reseed(c); /* a fork of the program has that one's random numbers */
    tine__catch_sigchld(c);
    c->leads = tine__pdeathsig_leads();
    c->apart = c->leads && getsid(0) == getpid();
    tine__pdeathsig_call(tine__end_unless_held);
}

__attribute__((noreturn)) static void serve(tine__child *c)
{
    for (;;) {
        if (next_frame(c)) {
            carry_out(c, &c->reader);
            continue;
        }
        if (c->workers.n)
            say_idle(c); /* it may be long until the last has gone */
        wait_for_news(c);
    }
}

void tine_serve(struct lua_State *L, int fd)
{
    open_child(&tine__self, L, fd);
    serve(&tine__self);
}

static int adopt(lua_State *L)
{
    tine__heap_adopt(L);
    return 0;
}

void tine__serve_in_heap(lua_State *L, int fd)
{
    open_child(&tine__self, L, fd);
    /* Last: what is here is small, much of it is written to, and each worker needs it: what the
     * heap seals it would have to fault in. */
    lua_pushcfunction(L, adopt);
    if (lua_pcall(L, 0, 0, 0) != LUA_OK) {
        fprintf(stderr, "tine: cannot start: %s\n", lua_tostring(L, -1));
        tine__leave(1);
    }
    serve(&tine__self);
}
