/* The worker's end of the call stream. Answers lie in memory that the host shares until they are
 * sent, many at a time: see reply_ring.h, and call.h for why nothing gets lost. */
#include "reply_ring.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/spin.h"
#include "child.h"
#include "wire/protocol.h"

enum {
    REQUESTS = 65536, /* bytes read at a time */
    KEEP = 1 << 20,
    LARGE = TINE__RING / 2,
    PATIENCE_NS = 1000000,
    FULL_PATIENCE_NS = 10000000,
    MAX_PARTS = 10
};

static struct line {
    int fd;
    tine__page *page; /* NULL: closed */
    unsigned char *ring;
    volatile uint64_t sent;
    volatile sig_atomic_t flushing, armed, held;
    bool has_timer;
    timer_t timer;
    unsigned char *in;
    size_t start, end, cap;
    tine__inbox box;
    bool passes; /* descriptors may come */
    tine__spin spin;
    uint64_t sends; /* that have been seen */
} line = {.fd = -1};

int tine__reply_open(int fd, int memfd, uint64_t offset, bool passes)
{
    void *memory = mmap(NULL, TINE__REGION, PROT_READ | PROT_WRITE, MAP_SHARED, memfd,
                        (off_t)offset);
    int err = memory == MAP_FAILED ? -errno : 0;
    tine__fd_close(&memfd);
    line.fd = fd;
    if (err < 0)
        return err;
    /* A fork that the user's code makes must not answer in our place. */
    madvise(memory, TINE__REGION, MADV_DONTFORK);
    line.page = memory;
    line.passes = passes;
    tine__spin_init(&line.spin);
    line.ring = (unsigned char *)memory + TINE__PAGE_STATUS;
    return 0;
}

tine__page *tine__reply_page(void)
{
    return line.page;
}

int tine__reply_fd(void)
{
    return line.fd;
}

/* -------------------------------------------------------------------- answers */

static uint64_t tail(void)
{
    const tine__page *page = line.page;
    return page ? atomic_load_explicit(&page->tail, memory_order_relaxed) : 0;
}

/* With a CPU of its own the host takes the first answers while we make the next. */
static size_t bytes_waiting(void)
{
    return line.page ? (size_t)(tail() - line.sent) : 0;
}

bool tine__reply_is_time(void)
{
    enum { FEW = 1024 };
    return bytes_waiting() > (line.spin.alone ? LARGE : FEW);
}

/* One attempt to send what waits. Returns as send. */
static ssize_t send_ring(int flags)
{
    uint64_t sent = line.sent, waiting = tail() - sent;
    size_t at = (size_t)(sent % TINE__RING), first = TINE__RING - at;
    struct iovec iov[2] = {{line.ring + at, first < waiting ? first : (size_t)waiting},
                           {line.ring, 0}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 1};
    if (first < waiting) {
        iov[1].iov_len = (size_t)waiting - first;
        msg.msg_iovlen = 2;
    }
    return sendmsg(line.fd, &msg, flags | MSG_NOSIGNAL);
}

static bool is_gone(int err)
{
    return err == EPIPE || err == ECONNRESET || err == ENOTCONN || err == EBADF;
}

bool tine__reply_flush(bool wait)
{
    if (!line.page)
        return true;
    line.flushing = 1;
    while (line.sent != tail()) {
        ssize_t n = send_ring(wait ? 0 : MSG_DONTWAIT);
        if (n > 0)
            line.sent += (uint64_t)n;
        else if (n < 0 && is_gone(errno))
            tine__leave(1);
        else if (n < 0 && errno != EINTR && !wait)
            break;
        else if (n < 0 && (errno == ENOBUFS || errno == ENOMEM))
            usleep(1000);
    }
    line.flushing = 0;
    atomic_store_explicit(&line.page->flushed, line.sent, memory_order_release);
    return line.sent == tail();
}

int tine__reply_close(void)
{
    unsigned char head[TINE__CALL_HEAD];
    int fd = line.fd;
    tine__reply_flush(true);
    if (line.has_timer)
        timer_delete(line.timer);
    void *page = line.page;
    line.page = NULL; /* before the memory goes: the signal's handler looks */
    munmap(page, TINE__REGION);
    free(line.in);
    tine__inbox_free(&line.box);
    memset(&line, 0, sizeof line);
    line.fd = -1;
    /* With the last word the host has our part of the page for others. */
    tine__call_head_put(head, TINE__PROMOTED, 0, 0);
    for (size_t done = 0; done < sizeof head;) {
        ssize_t n = send(fd, head + done, sizeof head - done, MSG_NOSIGNAL);
        if (n < 0 && is_gone(errno))
            tine__leave(1);
        done += n > 0 ? (size_t)n : 0;
    }
    return fd;
}

static void set_timer(long ns)
{
    struct itimerspec when = {.it_value = {0, ns}};
    timer_settime(line.timer, 0, &when, NULL);
}

void tine__reply_arm(void)
{
    if (line.armed || !line.page || line.sent == tail())
        return;
    if (!line.has_timer) {
        struct sigevent event = {.sigev_notify = SIGEV_SIGNAL,
                                 .sigev_signo = TINE__SIGNAL};
        if (timer_create(CLOCK_MONOTONIC, &event, &line.timer) < 0) {
            tine__reply_flush(true); /* then at once */
            return;
        }
        line.has_timer = true;
    }
    line.armed = 1;
    set_timer(PATIENCE_NS);
}

void tine__reply_on_signal(void)
{
    int saved = errno;
    if (!line.page || !line.armed)
        return;
    line.armed = 0;
    if (line.flushing)
        return;
    if (line.held) {
        line.armed = 1;
        set_timer(PATIENCE_NS);
        return;
    }
    while (line.sent != tail()) {
        ssize_t n = send_ring(MSG_DONTWAIT);
        if (n > 0) {
            line.sent += (uint64_t)n;
        } else if (n < 0 && errno != EINTR) {
            if (!is_gone(errno)) {
                line.armed = 1;
                set_timer(FULL_PATIENCE_NS);
            }
            break;
        }
    }
    errno = saved;
}

void tine__reply_hold(bool held)
{
    line.held = held;
}

static void copy_in(uint64_t *at, const void *data, size_t len)
{
    size_t to = (size_t)(*at % TINE__RING), first = TINE__RING - to;
    if (first > len)
        first = len;
    memcpy(line.ring + to, data, first);
    if (len > first)
        memcpy(line.ring, (const unsigned char *)data + first, len - first);
    *at += len;
}

/* What was sent with the ring empty is behind us. */
static void sent_aside(size_t len)
{
    line.sent += len;
    atomic_store_explicit(&line.page->tail, line.sent, memory_order_release);
    atomic_store_explicit(&line.page->flushed, line.sent, memory_order_release);
}

/* Too large for the ring: sent at once, with nothing before it. */
static void send_large(const unsigned char *head, const tine_str *parts, size_t nparts,
                       size_t total)
{
    struct iovec iov[MAX_PARTS + 1] = {{(void *)(size_t)head, TINE__CALL_HEAD}};
    size_t n = 1, done = 0, i = 0;
    for (size_t k = 0; k < nparts; k++)
        iov[n++] = (struct iovec){(void *)(size_t)parts[k].data, parts[k].len};
    tine__reply_flush(true);
    line.flushing = 1;
    while (done < total) {
        struct msghdr msg = {.msg_iov = iov + i, .msg_iovlen = n - i};
        ssize_t sent = sendmsg(line.fd, &msg, MSG_NOSIGNAL);
        if (sent < 0 && is_gone(errno))
            tine__leave(1);
        if (sent < 0 && (errno == ENOBUFS || errno == ENOMEM))
            usleep(1000);
        size_t left = sent > 0 ? (size_t)sent : 0;
        done += left;
        while (i < n && left >= iov[i].iov_len)
            left -= iov[i++].iov_len;
        if (i < n) {
            iov[i].iov_base = (unsigned char *)iov[i].iov_base + left;
            iov[i].iov_len -= left;
        }
    }
    sent_aside(total);
    line.flushing = 0;
}

static void send_fds(const unsigned char *frame, size_t len, const int *fds, size_t n)
{
    size_t done = 0;
    tine__reply_flush(true);
    line.flushing = 1;
    while (done < len) {
        ssize_t sent =
            done ? send(line.fd, frame + done, len - done, MSG_NOSIGNAL)
                 : tine__passing_send(line.fd, frame, len, MSG_NOSIGNAL, fds, n);
        if (sent < 0 && is_gone(errno))
            tine__leave(1);
        if (sent < 0 && errno != EINTR)
            usleep(1000); /* memory; or ETOOMANYREFS: too many are in flight */
        done += sent > 0 ? (size_t)sent : 0;
    }
    sent_aside(len);
    line.flushing = 0;
}

static void put32(unsigned char *to, size_t v)
{
    for (int i = 0; i < 4; i++)
        to[i] = (unsigned char)(v >> 8 * i);
}

static uint32_t get32(const unsigned char *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 |
           (uint32_t)at[3] << 24;
}

void tine__reply_put_fds(uint64_t serial, const int *fds, size_t n)
{
    unsigned char frame[TINE__CALL_HEAD + TINE__CALL_FDS];
    for (size_t first = 0; first < n && line.page;) {
        size_t some = n - first < TINE__FDS_AT_ONCE ? n - first : TINE__FDS_AT_ONCE;
        tine__call_head_put(frame, TINE__FDS, serial, TINE__CALL_FDS);
        put32(frame + TINE__CALL_HEAD, some);
        put32(frame + TINE__CALL_HEAD + 4, first);
        send_fds(frame, sizeof frame, fds + first, some);
        first += some;
    }
}

void tine__reply_put(int type, uint64_t serial, const tine_str *parts, size_t nparts)
{
    unsigned char head[TINE__CALL_HEAD];
    size_t len = 0;
    if (!line.page)
        return;
    for (size_t i = 0; i < nparts; i++)
        len += parts[i].len;
    tine__call_head_put(head, type, serial, (uint32_t)len);
    if (len > LARGE) {
        send_large(head, parts, nparts, len + sizeof head);
        return;
    }
    if (bytes_waiting() + len + sizeof head > TINE__RING)
        tine__reply_flush(true);
    uint64_t at = tail();
    copy_in(&at, head, sizeof head);
    for (size_t i = 0; i < nparts; i++)
        if (parts[i].len)
            copy_in(&at, parts[i].data, parts[i].len);
    atomic_store_explicit(&line.page->tail, at, memory_order_release);
}

void tine__reply_error(int type, uint64_t serial, const uint64_t times[2],
                       tine_kind kind, tine_str message, tine_str traceback,
                       tine_str value)
{
    enum { TEXT_MAX = 1 << 20 };
    unsigned char lengths[3][4];
    uint32_t number = (uint32_t)kind;
    tine_str *texts[3] = {&message, &traceback, &value};
    tine_str cut[3] = {{"", 0}, {"", 0}, {"", 0}};
    for (int i = 0; i < 3; i++) {
        if (i < 2 && texts[i]->len > TEXT_MAX) {
            texts[i]->len = TEXT_MAX;
            cut[i] = (tine_str){TINE__CUT, sizeof TINE__CUT - 1};
        }
        for (int k = 0; k < 4; k++)
            lengths[i][k] = (unsigned char)((texts[i]->len + cut[i].len) >> 8 * k);
    }
    tine_str parts[MAX_PARTS] = {{times, times ? TINE__CALL_TIMES : 0},
                                 {&number, 4},
                                 {lengths[0], 4},
                                 message,
                                 cut[0],
                                 {lengths[1], 4},
                                 traceback,
                                 cut[1],
                                 {lengths[2], 4},
                                 value};
    tine__reply_put(type, serial, parts, value.data ? 10 : 8);
}

/* ------------------------------------------------------------------- requests */

#define NO_MEMORY "Cannot allocate memory (ENOMEM)"

__attribute__((noreturn)) static void fatal(tine_kind kind, const char *text)
{
    tine__reply_error(TINE__FATAL, 0, NULL, kind, (tine_str){text, strlen(text)},
                      (tine_str){"", 0}, (tine_str){NULL, 0});
    tine__reply_flush(true);
    tine__leave(1);
}

/* Sees that the frame that begins at start has room. */
static void make_room(size_t need)
{
    size_t held = line.end - line.start;
    if (line.start && held)
        memmove(line.in, line.in + line.start, held);
    line.start = 0;
    line.end = held;
    size_t cap = need > REQUESTS ? need : REQUESTS;
    if (line.cap >= need && (line.cap <= KEEP || need > REQUESTS))
        return;
    unsigned char *in = realloc(line.in, cap);
    if (!in)
        fatal(TINE_KIND_SYSTEM, "out of memory for a call: " NO_MEMORY);
    line.in = in;
    line.cap = cap;
}

/* Returns 1 when bytes came, 0 when there are none, -1 at the end. */
static int receive(bool wait)
{
    for (;;) {
        ssize_t n =
            tine__passing_recv(line.fd, line.in + line.end, line.cap - line.end,
                               wait ? 0 : MSG_DONTWAIT, line.passes ? &line.box : NULL);
        if (n > 0) {
            line.end += (size_t)n;
            return 1;
        }
        bool is_short = n < 0 && (errno == ENOBUFS || errno == ENOMEM);
        if (is_short)
            usleep(1000);
        if (n < 0 && (errno == EAGAIN || is_short) && !wait)
            return 0;
        if (is_short)
            continue;
        if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
            return -1;
    }
}

static void garbage(void)
{
    fatal(TINE_KIND_PROTOCOL, "the host sent garbage on the call stream");
}

tine__inbox *tine__request_fds(void)
{
    return &line.box;
}

/* Takes the frames that only bring descriptors for the next one. */
static void take_fds(void)
{
    tine__call_head head;
    while (line.end - line.start >= TINE__CALL_HEAD + TINE__CALL_FDS &&
           tine__call_head_get(&head, line.in + line.start) && head.type == TINE__FDS) {
        const unsigned char *body = line.in + line.start + TINE__CALL_HEAD;
        if (head.len != TINE__CALL_FDS ||
            !tine__inbox_claim(&line.box, get32(body), get32(body + 4), head.serial))
            garbage();
        line.start += TINE__CALL_HEAD + TINE__CALL_FDS;
    }
}

bool tine__request_ready(void)
{
    tine__call_head head;
    if (line.box.first)
        take_fds();
    size_t held = line.end - line.start;
    return held >= TINE__CALL_HEAD &&
           (!tine__call_head_get(&head, line.in + line.start) ||
            held - TINE__CALL_HEAD >= head.len);
}

/* Whether the host has written since this was asked last. */
static bool has_news(void)
{
    uint64_t sends = atomic_load_explicit(&line.page->sends, memory_order_acquire);
    bool news = sends != line.sends;
    line.sends = sends;
    return news;
}

/* As receive(true), awake for a moment. */
static int await(void)
{
    int result = 0;
    if (!tine__spin_begin(&line.spin))
        return receive(true);
    tine__spin_aside(atomic_load_explicit(&line.page->cpu, memory_order_relaxed));
    do
        if (has_news())
            result = receive(false);
    while (!result && tine__spin_on(&line.spin));
    tine__spin_end(&line.spin, result != 0);
    return result ? result : receive(true);
}

int tine__request(tine__call_head *head, const unsigned char **body, bool wait)
{
    for (;;) {
        if (line.box.first)
            take_fds();
        size_t held = line.end - line.start, need = TINE__CALL_HEAD;
        if (held >= TINE__CALL_HEAD) {
            if (!tine__call_head_get(head, line.in + line.start))
                garbage();
            need += head->len;
            if (held >= need) {
                *body = line.in + line.start + TINE__CALL_HEAD;
                line.start += need;
                return 1;
            }
        }
        make_room(need);
        int result = wait ? await() : receive(false);
        if (result <= 0)
            return result;
    }
}
