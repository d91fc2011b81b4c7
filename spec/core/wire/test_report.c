/* The report channel's messages: round trips, and everything that is not one. */
#include "wire/report.h"

#include "fault.h"
#include "test.h"
#include "wire/protocol.h"

static tine_str str(const char *text)
{
    return (tine_str){text, strlen(text)};
}

static bool same(tine_str a, tine_str b)
{
    return a.len == b.len && (!a.len || memcmp(a.data, b.data, a.len) == 0);
}

static tine__report example(int type)
{
    tine__report r;
    memset(&r, 0, sizeof r);
    r.type = type;
    r.id = UINT64_C(0xfedcba9876543210);
    switch (type) {
    case TINE__REPORT_HELLO:
        r.protocol = TINE__PROTOCOL;
        r.version = str("0.1.0");
        r.lua = str("Lua 5.4.4");
        break;
    case TINE__REPORT_MADE:
    case TINE__REPORT_IDLE:
        r.seq = UINT64_C(0x8000000000000001);
        break;
    case TINE__REPORT_FAILED:
        r.kind = TINE_KIND_SYSTEM;
        r.sys_errno = ENOENT;
        r.message = (tine_str){"a message\0with a zero", 21};
        r.traceback = str("stack traceback:\n\t[C]: in ?");
        break;
    case TINE__REPORT_MEMORY:
        r.seq = 9;
        r.figures = (tine__figures){.heap = TINE_HEAP_SEALED,
                                    .own = 1,
                                    .shared = INT64_MAX,
                                    .sealed = 1LL << 40,
                                    .seals = UINT32_MAX,
                                    .failed = "mapping: no memory"};
        break;
    default:
        r.seq = 7;
        r.pid = 4194303;
        r.status = 0x8b;
        memset(&r.rusage, 0x5a, sizeof r.rusage);
        break;
    }
    return r;
}

static void compare(const tine__report *a, const tine__report *b)
{
    CHECK_INT(a->type, b->type);
    CHECK(a->id == b->id && a->seq == b->seq);
    CHECK_INT(a->pid, b->pid);
    CHECK_INT(a->protocol, b->protocol);
    CHECK_INT(a->kind, b->kind);
    CHECK_INT(a->sys_errno, b->sys_errno);
    CHECK_INT(a->status, b->status);
    CHECK(memcmp(&a->rusage, &b->rusage, sizeof a->rusage) == 0);
    CHECK(a->figures.heap == b->figures.heap && a->figures.own == b->figures.own);
    CHECK(a->figures.shared == b->figures.shared);
    CHECK(a->figures.sealed == b->figures.sealed);
    CHECK(a->figures.seals == b->figures.seals);
    CHECK(strcmp(a->figures.failed, b->figures.failed) == 0);
    CHECK(same(a->version, b->version) && same(a->lua, b->lua));
    CHECK(same(a->message, b->message) && same(a->traceback, b->traceback));
}

/* In memory of exactly that size, so that a read past its end is seen. */
static int decode_copy(tine__report *r, const void *data, size_t len)
{
    unsigned char *copy = malloc(len ? len : 1);
    memcpy(copy, data, len);
    int err = tine__report_decode(r, copy, len);
    if (!err) {
        const tine_str strs[] = {r->version, r->lua, r->message, r->traceback};
        volatile unsigned sum = 0;
        for (size_t i = 0; i < 4; i++)
            for (size_t k = 0; k < strs[i].len; k++)
                sum += ((const unsigned char *)strs[i].data)[k];
    }
    free(copy);
    return err;
}

static void round_trips(void)
{
    for (int type = TINE__REPORT_HELLO; type <= TINE__REPORT_MEMORY; type++) {
        tine__buf b = {0};
        tine__report in = example(type), out;
        tine__report_encode(&b, &in);
        CHECK(!b.failed);
        CHECK_INT(tine__report_decode(&out, b.data, b.len), 0);
        compare(&in, &out);
        tine__buf_free(&b);
    }
    tine__report in = example(TINE__REPORT_EXITED), out;
    tine__buf b = {0};
    in.status = -1; /* nobody knows */
    tine__report_encode(&b, &in);
    CHECK_INT(tine__report_decode(&out, b.data, b.len), 0);
    CHECK_INT(out.status, -1);
    tine__buf_free(&b);
}

static void truncated_or_too_long(void)
{
    for (int type = TINE__REPORT_HELLO; type <= TINE__REPORT_MEMORY; type++) {
        tine__buf b = {0};
        tine__report in = example(type), out;
        tine__report_encode(&b, &in);
        for (size_t len = 0; len < b.len; len++)
            CHECK_INT(decode_copy(&out, b.data, len), -EPROTO);
        tine__buf_put(&b, "x", 1);
        CHECK_INT(decode_copy(&out, b.data, b.len), -EPROTO);
        tine__buf_free(&b);
    }
}

static void flipped(void)
{
    for (int type = TINE__REPORT_HELLO; type <= TINE__REPORT_MEMORY; type++) {
        tine__buf b = {0};
        tine__report in = example(type), out;
        tine__report_encode(&b, &in);
        for (size_t i = 0; i < b.len; i++)
            for (int bit = 0; bit < 8; bit++) {
                b.data[i] ^= (unsigned char)(1 << bit);
                int err = decode_copy(&out, b.data, b.len);
                CHECK(err == 0 || err == -EPROTO);
                CHECK(i >= 4 || err); /* the magic */
                b.data[i] ^= (unsigned char)(1 << bit);
            }
        tine__buf_free(&b);
    }
}

static void nonsense_of_memory(void)
{
    tine__report out, in = example(TINE__REPORT_MEMORY);
    tine__buf b = {0};
    tine__report_encode(&b, &in);
    size_t size = 16 + 8 + 2 * 4, text = size + 3 * 8;
    for (size_t at = size; at < text; at += 8) {
        b.data[at + 7] |= 0x80; /* a size below 0 */
        CHECK_INT(decode_copy(&out, b.data, b.len), -EPROTO);
        b.data[at + 7] &= 0x7f;
    }
    for (unsigned char heap = 0; heap < 6; heap++) {
        b.data[24] = heap;
        bool good = heap >= TINE_HEAP_MALLOC && heap <= TINE_HEAP_SEALED;
        CHECK_INT(decode_copy(&out, b.data, b.len), good ? 0 : -EPROTO);
    }
    b.len = text;
    char failed[TINE_MEMORY_TEXT];
    memset(failed, 'x', sizeof failed);
    tine__buf_str(&b, failed, sizeof failed);
    b.data[24] = TINE_HEAP_PLAIN;
    CHECK_INT(decode_copy(&out, b.data, b.len), -EPROTO);
    tine__buf_free(&b);
}

static void nonsense(void)
{
    tine__report out, in = example(TINE__REPORT_FAILED);
    tine__buf b = {0};
    in.kind = (tine_kind)(TINE_KIND_SYSTEM + 1);
    tine__report_encode(&b, &in);
    CHECK_INT(decode_copy(&out, b.data, b.len), -EPROTO);
    tine__buf_free(&b);
    in = example(TINE__REPORT_FAILED);
    in.sys_errno = -1;
    tine__report_encode(&b, &in);
    CHECK_INT(decode_copy(&out, b.data, b.len), -EPROTO);
    tine__buf_free(&b);
    in = example(99);
    tine__report_encode(&b, &in);
    CHECK_INT(decode_copy(&out, b.data, b.len), -EPROTO);
    tine__buf_free(&b);
    for (int i = 0; i < 20000; i++) {
        unsigned char junk[64];
        size_t len = test_random() % sizeof junk;
        for (size_t k = 0; k < len; k++)
            junk[k] = (unsigned char)test_random();
        if (len >= 8) {
            memcpy(junk, "\x65\x6e\x69\x74", 5); /* the magic, little-endian */
            memset(junk + 4, 0, 4);
            junk[4] = (unsigned char)(test_random() % 8);
        }
        decode_copy(&out, junk, len);
    }
}

static void another_protocol(void)
{
    tine__report in = example(TINE__REPORT_HELLO), out;
    tine__buf b = {0};
    in.protocol = TINE__PROTOCOL + 1;
    tine__report_encode(&b, &in);
    tine__buf_put(&b, "whatever comes there", 20);
    CHECK_INT(decode_copy(&out, b.data, b.len), 0);
    CHECK_INT(tine__report_decode(&out, b.data, b.len), 0);
    CHECK_INT(out.protocol, TINE__PROTOCOL + 1);
    CHECK(same(out.version, in.version));
    /* Nor need it say its version the way we do. */
    for (size_t len = 20; len < b.len; len++)
        CHECK_INT(decode_copy(&out, b.data, len), 0);
    CHECK_INT(decode_copy(&out, b.data, 19), -EPROTO);
    tine__buf_free(&b);
}

static void long_texts_are_cut(void)
{
    size_t len = 10000000;
    char *text = malloc(len);
    memset(text, 'y', len);
    tine__report in = example(TINE__REPORT_FAILED), out;
    in.message = in.traceback = (tine_str){text, len};
    tine__buf b = {0};
    tine__report_encode(&b, &in);
    CHECK(!b.failed && b.len <= TINE__REPORT_MAX);
    CHECK_INT(tine__report_decode(&out, b.data, b.len), 0);
    CHECK(out.message.len > TINE__REPORT_TEXT_MAX && out.message.len < b.len / 2);
    CHECK(memcmp(out.message.data, text, TINE__REPORT_TEXT_MAX) == 0);
    CHECK(memcmp((const char *)out.traceback.data + out.traceback.len - 5, "(cut)",
                 5) == 0);
    tine__buf_free(&b);
    /* The longest that is not. */
    in.message.len = in.traceback.len = TINE__REPORT_TEXT_MAX;
    tine__report_encode(&b, &in);
    CHECK(b.len <= TINE__REPORT_MAX);
    CHECK_INT(tine__report_decode(&out, b.data, b.len), 0);
    CHECK_INT(out.traceback.len, TINE__REPORT_TEXT_MAX);
    tine__buf_free(&b);
    free(text);
}

static void without_memory(void)
{
    for (int type = TINE__REPORT_HELLO; type <= TINE__REPORT_MEMORY; type++) {
        tine__report in = example(type), out;
        for (long n = 1;; n++) {
            tine__buf b = {0};
            fault_set(n, 0);
            tine__report_encode(&b, &in);
            bool hit = fault_hit;
            fault_set(0, 0);
            CHECK_INT(b.failed, hit);
            if (!hit)
                CHECK_INT(tine__report_decode(&out, b.data, b.len), 0);
            tine__buf_free(&b);
            if (!hit)
                break;
        }
    }
}

int main(void)
{
    RUN(round_trips);
    RUN(truncated_or_too_long);
    RUN(flipped);
    RUN(nonsense);
    RUN(nonsense_of_memory);
    RUN(another_protocol);
    RUN(long_texts_are_cut);
    RUN(without_memory);
    return 0;
}
