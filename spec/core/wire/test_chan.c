/* The sending half of a command socket against a real socket pair, with a reader that a
 * template could be. */
#include "wire/chan.h"

#include <poll.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "fault.h"
#include "test.h"
#include "wire/frame.h"
#include "wire/protocol.h"

static tine__chan chan;
static tine__reader reader;
static int far = -1;

/* What was queued and has not come out yet: frame number i has a body of size_of(i), made of
 * bytes that depend on i, and fds_of(i) descriptors. */
static size_t queued, arrived;
static size_t (*size_of)(size_t i), (*fds_of)(size_t i);
enum { MARKS = 65536 };
static ino_t marks[MARKS];
static size_t marks_in, marks_out;

static void small_buffer(int fd)
{
    int size = 1; /* the kernel takes its smallest */
    CHECK(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size) == 0);
}

static void open_pair(bool small)
{
    int pair[2];
    CHECK_INT(tine__fd_pair(SOCK_STREAM, pair), 0);
    if (small)
        small_buffer(pair[0]);
    tine__chan_init(&chan, pair[0]);
    far = pair[1];
    tine__reader_init(&reader);
    queued = arrived = marks_in = marks_out = 0;
}

static void close_pair(void)
{
    tine__chan_free(&chan);
    tine__reader_free(&reader);
    tine__fd_close(&far);
}

static void put(void)
{
    static unsigned char body[400000];
    int fds[TINE_MAX_FDS];
    size_t len = size_of(queued), nfds = fds_of(queued);
    for (size_t i = 0; i < len; i++)
        body[i] = (unsigned char)(queued * 31 + i);
    for (size_t i = 0; i < nfds; i++) {
        fds[i] = test_marked_fd();
        marks[marks_in++ % MARKS] = test_mark(fds[i]);
    }
    tine_str parts[] = {{body, len / 3}, {NULL, 0}, {body + len / 3, len - len / 3}};
    CHECK_INT(tine__chan_put(&chan, TINE__FRAME_EVAL, parts, 3, fds, nfds), 0);
    queued++;
}

static void check_frame(void)
{
    CHECK_INT(reader.body.len, size_of(arrived));
    CHECK_INT(reader.nfds, fds_of(arrived));
    for (size_t i = 0; i < reader.body.len; i++)
        CHECK_INT(reader.body.data[i], (unsigned char)(arrived * 31 + i));
    for (size_t i = 0; i < reader.nfds; i++)
        CHECK(test_mark(reader.fds[i]) == marks[marks_out++ % MARKS]);
    arrived++;
    tine__reader_next(&reader);
}

/* Reads at most `most` bytes and checks the frames in them. Returns what it got. */
static size_t drain(size_t most)
{
    size_t got = 0;
    while (got < most) {
        int fds[TINE_MAX_FDS];
        union {
            struct cmsghdr align;
            char space[CMSG_SPACE(sizeof fds)];
        } control;
        size_t room, nfds = 0;
        struct iovec iov = {.iov_base = tine__reader_room(&reader, &room)};
        struct msghdr msg = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
        iov.iov_len = room < most - got ? room : most - got;
        ssize_t n = recvmsg(far, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n <= 0)
            return got;
        CHECK(!(msg.msg_flags & MSG_CTRUNC));
        for (struct cmsghdr *m = CMSG_FIRSTHDR(&msg); m; m = CMSG_NXTHDR(&msg, m)) {
            nfds = (m->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(m), nfds * sizeof(int));
        }
        got += (size_t)n;
        int done = tine__reader_got(&reader, (size_t)n, fds, nfds, false);
        CHECK(done >= 0);
        if (done)
            check_frame();
    }
    return got;
}

static void finish(void)
{
    int err;
    while ((err = tine__chan_flush(&chan)) == -EAGAIN)
        CHECK(drain(SIZE_MAX) > 0);
    CHECK_INT(err, 0);
    CHECK(tine__chan_empty(&chan));
    drain(SIZE_MAX);
    CHECK_INT(arrived, queued);
    CHECK(tine__reader_between(&reader));
    CHECK_INT(marks_in, marks_out);
}

static size_t few_bytes(size_t i)
{
    return i % 7 * 5;
}

static size_t any_size(size_t i)
{
    return i % 11 == 10 ? 300000 + i : i % 5 == 4 ? 5000 : i * 13 % 200;
}

static size_t no_fds(size_t i)
{
    (void)i;
    return 0;
}

static size_t some_fds(size_t i)
{
    return i % 3 == 1 ? 1 + i % 4 : 0;
}

static size_t many_fds(size_t i)
{
    return i % 2 ? TINE_MAX_FDS : 0;
}

static void frames_and_descriptors_in_order(void)
{
    size_of = any_size;
    fds_of = some_fds;
    open_pair(true);
    for (int i = 0; i < 100; i++) {
        put();
        int err = tine__chan_flush(&chan);
        CHECK(err == 0 || err == -EAGAIN);
        if (i % 3 == 0)
            drain(test_random() % 20000);
    }
    finish();
    close_pair();
}

static void the_most_descriptors(void)
{
    size_of = few_bytes;
    fds_of = many_fds;
    open_pair(false);
    for (int i = 0; i < 6; i++)
        put();
    finish();
    int none[TINE_MAX_FDS + 1] = {0};
    CHECK_INT(tine__chan_put(&chan, TINE__FRAME_FDS, NULL, 0, none, TINE_MAX_FDS + 1),
              -EMSGSIZE);
    close_pair();
}

/* ------------------------------------------------------------- short writes */

static size_t short_first, short_each;

static int shorten(const struct msghdr *msg, size_t *most)
{
    (void)msg;
    if (short_first) {
        *most = short_first;
        short_first = 0;
    } else if (short_each) {
        *most = short_each;
    }
    return 0;
}

static void short_write_at_every_position(void)
{
    size_of = few_bytes;
    fds_of = some_fds;
    fault_sendmsg = shorten;
    for (size_t at = 1; at < 240; at++) {
        open_pair(false);
        for (int i = 0; i < 8; i++)
            put();
        short_first = at;
        finish();
        close_pair();
    }
    fault_sendmsg = NULL;
}

static void short_writes_only(void)
{
    size_of = few_bytes;
    fds_of = some_fds;
    fault_sendmsg = shorten;
    for (short_each = 1; short_each < 40; short_each++) {
        open_pair(false);
        for (int i = 0; i < 20; i++) {
            put();
            if (i % 4 == 0)
                tine__chan_flush(&chan);
        }
        finish();
        close_pair();
    }
    short_each = 0;
    fault_sendmsg = NULL;
}

/* ------------------------------------------------------------------- errors */

static const int *errors;
static size_t nerrors;

static int fail_in_turn(const struct msghdr *msg, size_t *most)
{
    (void)msg;
    (void)most;
    if (!nerrors)
        return 0;
    nerrors--;
    return *errors++;
}

static void errors_that_pass(void)
{
    static const int list[] = {EINTR,  EINTR, EAGAIN,      ENOBUFS,
                               ENOMEM, EINTR, ETOOMANYREFS};
    static const int expected[] = {-EAGAIN, -ENOBUFS, -ENOBUFS, -ENOBUFS};
    size_of = few_bytes;
    fds_of = some_fds;
    open_pair(false);
    for (int i = 0; i < 10; i++)
        put();
    errors = list;
    nerrors = sizeof list / sizeof *list;
    fault_sendmsg = fail_in_turn;
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        CHECK_INT(tine__chan_flush(&chan), expected[i]);
        CHECK(!tine__chan_empty(&chan));
    }
    finish();
    fault_sendmsg = NULL;
    close_pair();
}

static void peer_that_closes(void)
{
    size_of = few_bytes;
    fds_of = some_fds;
    open_pair(true);
    for (int i = 0; i < 500; i++)
        put();
    CHECK_INT(tine__chan_flush(&chan), -EAGAIN);
    drain(50);
    tine__fd_close(&far);
    int err = tine__chan_flush(&chan);
    CHECK(err == -EPIPE || err == -ECONNRESET);
    CHECK(!tine__chan_empty(&chan));
    CHECK_INT(tine__chan_flush(&chan), -EPIPE);
    close_pair();
    /* Without a socket at all. */
    open_pair(false);
    put();
    tine__fd_close(&chan.fd);
    CHECK_INT(tine__chan_flush(&chan), -EPIPE);
    close_pair();
}

static void descriptors_are_closed_when_sent(void)
{
    size_of = few_bytes;
    fds_of = some_fds;
    open_pair(false);
    size_t before = test_fds();
    for (int i = 0; i < 12; i++)
        put();
    CHECK(test_fds() > before);
    CHECK_INT(tine__chan_flush(&chan), 0);
    CHECK_INT(test_fds(), before);
    finish();
    CHECK_INT(test_fds(), before);
    close_pair();
}

static void free_closes_what_was_queued(void)
{
    size_of = few_bytes;
    fds_of = some_fds;
    open_pair(false);
    for (int i = 0; i < 50; i++)
        put();
    close_pair(); /* the runner counts */
    CHECK(tine__chan_empty(&chan) && chan.fd == -1);
}

static void put_without_memory(void)
{
    for (long n = 1;; n++) {
        int fd = test_marked_fd();
        open_pair(false);
        fault_set(n, 0);
        int err = tine__chan_put(&chan, TINE__FRAME_FDS, NULL, 0, &fd, 1);
        bool hit = fault_hit;
        fault_set(0, 0);
        CHECK_INT(err, hit ? -ENOMEM : 0);
        CHECK_INT(tine__chan_empty(&chan), hit);
        CHECK(fcntl(fd, F_GETFD) >= 0); /* not taken, or still queued */
        if (hit)
            close(fd);
        close_pair();
        if (!hit)
            break;
    }
    static const tine_str huge = {"", (size_t)1 << 41};
    tine__chan_init(&chan, -1);
    CHECK_INT(tine__chan_put(&chan, TINE__FRAME_EVAL, &huge, 1, NULL, 0), -EMSGSIZE);
}

/* ------------------------------------------------------------------ amounts */

static void thousands_of_frames(void)
{
    size_of = few_bytes;
    fds_of = no_fds;
    open_pair(true);
    for (int i = 0; i < 20000; i++)
        put();
    finish();
    close_pair();
}

/* A flush ends by itself, however fast the other side reads. */
static int always_one(const struct msghdr *msg, size_t *most)
{
    (void)msg;
    *most = 1;
    return 0;
}

static void a_flush_is_bounded(void)
{
    size_of = few_bytes;
    fds_of = no_fds;
    open_pair(false);
    for (int i = 0; i < 10; i++)
        put();
    fault_sendmsg = always_one;
    CHECK_INT(tine__chan_flush(&chan), -EAGAIN);
    fault_sendmsg = NULL;
    CHECK(drain(SIZE_MAX) > 0);
    finish();
    close_pair();
}

/* 100 MB in one frame: the memory is taken once, and the reader's grows as it arrives. */
static void a_large_frame(void)
{
    size_t len = 100u << 20, got = 0;
    unsigned char *body = malloc(len);
    memset(body, 'l', len);
    open_pair(false);
    tine_str part = {body, len};
    CHECK_INT(tine__chan_put(&chan, TINE__FRAME_ARGS, &part, 1, NULL, 0), 0);
    free(body);
    for (int done = 0; !done;) {
        size_t room;
        int err = tine__chan_flush(&chan);
        CHECK(err == 0 || err == -EAGAIN);
        for (ssize_t n; !done; got += (size_t)n) {
            unsigned char *to = tine__reader_room(&reader, &room);
            if ((n = recv(far, to, room, MSG_DONTWAIT)) < 0)
                break;
            done = tine__reader_got(&reader, (size_t)n, NULL, 0, false);
        }
    }
    CHECK_INT(got, len + TINE__FRAME_HEAD);
    CHECK(reader.body.len == len && reader.body.data[len - 1] == 'l');
    CHECK(tine__chan_empty(&chan));
    close_pair();
}

int main(void)
{
    RUN(frames_and_descriptors_in_order);
    RUN(the_most_descriptors);
    RUN(short_write_at_every_position);
    RUN(short_writes_only);
    RUN(errors_that_pass);
    RUN(peer_that_closes);
    RUN(descriptors_are_closed_when_sent);
    RUN(free_closes_what_was_queued);
    RUN(put_without_memory);
    RUN(thousands_of_frames);
    RUN(a_flush_is_bounded);
    RUN(a_large_frame);
    return 0;
}
