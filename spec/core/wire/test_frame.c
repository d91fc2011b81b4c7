/* The frame reader, fed in every way a socket may feed them. */
#include "wire/frame.h"

#include "fault.h"
#include "test.h"
#include "wire/protocol.h"

enum { MAX_WIRE = 1024, MAX_FRAMES = 8 };

/* A stream of frames: bytes, and for each frame where it begins and what rides with it. */
typedef struct wire {
    unsigned char bytes[MAX_WIRE];
    size_t len, n;
    struct {
        size_t at, body, nfds;
        int type;
    } frames[MAX_FRAMES];
} wire;

static void add_frame(wire *w, int type, size_t nfds, size_t body)
{
    w->frames[w->n].at = w->len;
    w->frames[w->n].body = body;
    w->frames[w->n].nfds = nfds;
    w->frames[w->n++].type = type;
    tine__frame_head(w->bytes + w->len, type, nfds, body);
    w->len += TINE__FRAME_HEAD;
    for (size_t i = 0; i < body; i++)
        w->bytes[w->len++] = (unsigned char)(i * 7 + w->n);
}

static wire example(void)
{
    wire w = {0};
    add_frame(&w, TINE__FRAME_HELLO, 1, 5);
    add_frame(&w, TINE__FRAME_FDS, 3, 0);
    add_frame(&w, TINE__FRAME_EVAL, 0, 33);
    add_frame(&w, TINE__FRAME_ARGS, 0, 0);
    add_frame(&w, TINE__FRAME_RUN, 0, 11);
    return w;
}

/* What the stream's frames carry; each is given to the reader exactly once. */
static size_t marked(int *fds, ino_t *marks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        fds[i] = test_marked_fd();
        marks[i] = test_mark(fds[i]);
    }
    return n;
}

/* Gives the reader at most `most` bytes of the n left. Returns what it took. */
static size_t feed(tine__reader *r, const unsigned char *from, size_t n, size_t most,
                   const int *fds, size_t nfds, int *result)
{
    size_t room;
    unsigned char *to = tine__reader_room(r, &room);
    CHECK(to && room > 0);
    size_t take = n < most ? n : most;
    take = take < room ? take : room;
    memcpy(to, from, take);
    *result = tine__reader_got(r, take, fds, nfds, false);
    return take;
}

static void check_frame(const wire *w, size_t i, tine__reader *r, const ino_t *marks)
{
    CHECK_INT(r->type, w->frames[i].type);
    CHECK_INT(r->body.len, w->frames[i].body);
    if (r->body.len)
        CHECK(memcmp(r->body.data, w->bytes + w->frames[i].at + TINE__FRAME_HEAD,
                     r->body.len) == 0);
    CHECK_INT(r->nfds, w->frames[i].nfds);
    for (size_t k = 0; k < r->nfds; k++)
        CHECK(test_mark(r->fds[k]) == marks[k]);
}

/* Feeds all of w; byte number k of it ends a piece where cut(k). The descriptors come with
 * the byte `late` of their frame, or its last. */
static void feed_all(const wire *w, bool (*cut)(size_t k, size_t arg), size_t arg,
                     size_t late)
{
    tine__reader r;
    size_t at = 0;
    tine__reader_init(&r);
    for (size_t i = 0; i < w->n; i++) {
        int fds[TINE_MAX_FDS], result = 0;
        ino_t marks[TINE_MAX_FDS];
        size_t nfds = marked(fds, marks, w->frames[i].nfds);
        size_t begin = w->frames[i].at;
        size_t end = begin + TINE__FRAME_HEAD + w->frames[i].body;
        size_t ride = begin + late < end ? begin + late : end - 1;
        CHECK(tine__reader_between(&r));
        while (!result) {
            size_t piece = 1, room;
            while (at + piece < w->len && !cut(at + piece, arg))
                piece++;
            tine__reader_room(&r, &room);
            CHECK(at + room <= end); /* never a byte of what follows */
            bool now = nfds && at <= ride && ride < at + (piece < room ? piece : room);
            at += feed(&r, w->bytes + at, w->len - at, piece, fds, now ? nfds : 0,
                       &result);
            nfds = now ? 0 : nfds;
        }
        CHECK_INT(result, 1);
        CHECK_INT(at, end);
        check_frame(w, i, &r, marks);
        tine__reader_next(&r);
    }
    CHECK_INT(at, w->len);
    tine__reader_free(&r);
}

static bool cut_each(size_t k, size_t arg)
{
    return k % arg == 0;
}

static bool cut_once(size_t k, size_t arg)
{
    return k == arg;
}

static bool cut_anywhere(size_t k, size_t arg)
{
    (void)k;
    return test_random() % arg == 0;
}

static void in_equal_pieces(void)
{
    wire w = example();
    for (size_t piece = 1; piece <= w.len; piece++)
        feed_all(&w, cut_each, piece, 0);
}

static void at_every_split_point(void)
{
    wire w = example();
    for (size_t at = 1; at <= w.len; at++)
        feed_all(&w, cut_once, at, 0);
}

static void descriptors_with_any_byte(void)
{
    wire w = example();
    for (size_t late = 0; late < TINE__FRAME_HEAD + 33; late++) {
        feed_all(&w, cut_each, 1, late);
        feed_all(&w, cut_each, 5, late);
        feed_all(&w, cut_once, late + 1, late);
    }
}

static void random_streams(void)
{
    for (int i = 0; i < 500; i++) {
        wire w = {0};
        size_t n = 1 + test_random() % MAX_FRAMES;
        while (n--) {
            bool fds = test_random() % 3 == 0;
            add_frame(&w, fds ? TINE__FRAME_FDS : TINE__FRAME_EVAL,
                      fds ? test_random() % 5 : 0, test_random() % 100);
        }
        feed_all(&w, cut_anywhere, 1 + test_random() % 20, test_random() % 30);
    }
}

static void user_bytes_are_left_alone(void)
{
    wire w = {0};
    add_frame(&w, TINE__FRAME_RUN, 0, 40);
    size_t frame = w.len;
    memset(w.bytes + w.len, 'u', 100);
    w.len += 100;
    for (size_t piece = 1; piece <= w.len; piece++) {
        tine__reader r;
        size_t at = 0;
        int result = 0;
        tine__reader_init(&r);
        while (!result)
            at += feed(&r, w.bytes + at, w.len - at, piece, NULL, 0, &result);
        CHECK_INT(result, 1);
        CHECK_INT(at, frame);
        tine__reader_free(&r);
    }
}

/* A head that is no head is refused as soon as it is there, and what came along is closed. */
static void expect_refusal(const unsigned char *head, size_t nfds, const char *what)
{
    tine__reader r;
    int fds[TINE_MAX_FDS], result = 0;
    ino_t marks[TINE_MAX_FDS];
    tine__reader_init(&r);
    marked(fds, marks, nfds);
    CHECK_INT(feed(&r, head, TINE__FRAME_HEAD, TINE__FRAME_HEAD, fds, nfds, &result),
              TINE__FRAME_HEAD);
    CHECK_INT(result, -EPROTO);
    CHECK(r.problem && strstr(r.problem, what));
    tine__reader_free(&r);
}

static void garbage_heads(void)
{
    unsigned char head[TINE__FRAME_HEAD];
    for (int type = 0; type < 256; type++) {
        if (type > 0 && type < TINE__FRAME_TYPES)
            continue;
        tine__frame_head(head, type, 0, 0);
        expect_refusal(head, 2, "garbage");
    }
    for (int bit = 0; bit < 16; bit++) {
        tine__frame_head(head, TINE__FRAME_EVAL, 0, 10);
        head[2 + bit / 8] ^= (unsigned char)(1 << bit % 8);
        expect_refusal(head, 0, "garbage");
    }
    expect_refusal((const unsigned char *)"GET / HTTP/1", 1, "garbage");
    memset(head, 0, sizeof head);
    expect_refusal(head, 0, "garbage");
}

static void oversized(void)
{
    unsigned char head[TINE__FRAME_HEAD];
    static const int small[] = {TINE__FRAME_HELLO, TINE__FRAME_FORK, TINE__FRAME_FDS};
    for (size_t i = 0; i < 3; i++) {
        tine__frame_head(head, small[i], 0, 65537);
        expect_refusal(head, 0, "oversized");
    }
    for (int bit = 41; bit < 64; bit++) {
        tine__frame_head(head, TINE__FRAME_EVAL, 0, UINT64_C(1) << bit);
        expect_refusal(head, 1, "oversized");
    }
    tine__frame_head(head, TINE__FRAME_ARGS, 0, UINT64_MAX);
    expect_refusal(head, 0, "oversized");
}

/* A head may claim what it likes: memory is taken for what arrives. */
static void claims_cost_nothing(void)
{
    tine__reader r;
    unsigned char head[TINE__FRAME_HEAD];
    int result;
    size_t room, before = 0;
    tine__reader_init(&r);
    tine__frame_head(head, TINE__FRAME_EVAL, 0, UINT64_C(1) << 40);
    feed(&r, head, sizeof head, sizeof head, NULL, 0, &result);
    CHECK_INT(result, 0);
    for (int i = 0; i < 40; i++) {
        unsigned char *to = tine__reader_room(&r, &room);
        CHECK(to && room <= 65536 + r.body.len);
        CHECK(r.body.cap <= 4 * (r.body.len + 65536));
        size_t n = room < 100000 ? room : 100000;
        memset(to, i, n);
        CHECK_INT(tine__reader_got(&r, n, NULL, 0, false), 0);
        CHECK(r.body.len == before + n);
        before = r.body.len;
    }
    tine__reader_free(&r);
}

static void large_bodies_are_not_kept(void)
{
    static unsigned char piece[65536];
    tine__reader r;
    unsigned char head[TINE__FRAME_HEAD];
    int result;
    size_t left = 1000000;
    tine__reader_init(&r);
    tine__frame_head(head, TINE__FRAME_EVAL, 0, left);
    feed(&r, head, sizeof head, sizeof head, NULL, 0, &result);
    while (!result)
        left -= feed(&r, piece, left, sizeof piece, NULL, 0, &result);
    CHECK_INT(result, 1);
    CHECK_INT(left, 0);
    CHECK_INT(r.body.len, 1000000);
    tine__reader_next(&r);
    CHECK(r.body.cap <= 65536 && !r.body.len && tine__reader_between(&r));
    tine__reader_free(&r);
}

static void wrong_number_of_descriptors(void)
{
    unsigned char head[TINE__FRAME_HEAD];
    tine__frame_head(head, TINE__FRAME_FDS, 2, 0);
    expect_refusal(head, 1, "without the descriptors");
    expect_refusal(head, 0, "without the descriptors");
    expect_refusal(head, 3, "more descriptors");
    tine__frame_head(head, TINE__FRAME_FDS, 255, 0);
    expect_refusal(head, TINE_MAX_FDS, "without the descriptors");
    tine__frame_head(head, TINE__FRAME_EVAL, 0, 0);
    expect_refusal(head, TINE_MAX_FDS, "more descriptors");
    /* They come piece by piece: 10 more than a frame can have are closed. */
    tine__reader r;
    int fds[TINE_MAX_FDS];
    ino_t marks[TINE_MAX_FDS];
    tine__reader_init(&r);
    for (int i = 0; i < 2; i++) {
        size_t n = i ? 20 : TINE_MAX_FDS - 10;
        marked(fds, marks, n);
        CHECK_INT(tine__reader_got(&r, 1, fds, n, false), 0);
    }
    CHECK_INT(r.nfds, TINE_MAX_FDS);
    tine__reader_free(&r);
}

static void lost_descriptors(void)
{
    for (size_t arrived = 0; arrived < 3; arrived++) {
        tine__reader r;
        int fds[3];
        ino_t marks[3];
        size_t room;
        tine__reader_init(&r);
        marked(fds, marks, arrived);
        tine__frame_head(tine__reader_room(&r, &room), TINE__FRAME_FDS, 3, 0);
        CHECK_INT(tine__reader_got(&r, room, fds, arrived, true), 1);
        CHECK(r.fds_lost);
        CHECK_INT(r.nfds, arrived);
        tine__reader_next(&r);
        CHECK(!r.fds_lost);
        /* The next frame is a frame again. */
        marked(fds, marks, 1);
        tine__frame_head(tine__reader_room(&r, &room), TINE__FRAME_FDS, 1, 0);
        CHECK_INT(tine__reader_got(&r, room, fds, 1, false), 1);
        tine__reader_free(&r);
    }
}

static void taken_descriptors_stay_open(void)
{
    tine__reader r;
    int fds[2];
    ino_t marks[2];
    size_t room;
    tine__reader_init(&r);
    marked(fds, marks, 2);
    tine__frame_head(tine__reader_room(&r, &room), TINE__FRAME_FDS, 2, 0);
    CHECK_INT(tine__reader_got(&r, room, fds, 2, false), 1);
    r.fds[0] = -1;
    tine__reader_next(&r);
    CHECK(fcntl(fds[0], F_GETFD) >= 0);
    CHECK(fcntl(fds[1], F_GETFD) < 0);
    close(fds[0]);
    tine__reader_free(&r);
}

static void reader_without_memory(void)
{
    tine__reader r;
    unsigned char head[TINE__FRAME_HEAD];
    size_t room;
    int result;
    tine__reader_init(&r);
    tine__frame_head(head, TINE__FRAME_EVAL, 0, TINE__SMALL_BODY + 1);
    feed(&r, head, sizeof head, sizeof head, NULL, 0, &result);
    fault_set(1, 0);
    CHECK(!tine__reader_room(&r, &room));
    fault_set(0, 0);
    tine__reader_free(&r);
}

int main(void)
{
    RUN(in_equal_pieces);
    RUN(at_every_split_point);
    RUN(descriptors_with_any_byte);
    RUN(random_streams);
    RUN(user_bytes_are_left_alone);
    RUN(garbage_heads);
    RUN(oversized);
    RUN(claims_cost_nothing);
    RUN(large_bodies_are_not_kept);
    RUN(wrong_number_of_descriptors);
    RUN(lost_descriptors);
    RUN(taken_descriptors_stay_open);
    RUN(reader_without_memory);
    return 0;
}
