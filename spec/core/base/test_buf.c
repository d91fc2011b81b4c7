/* Buffers that grow, or say that they cannot, and cursors that never read past the end. */
#include "base/buf.h"

#include "fault.h"
#include "test.h"

static void cursors(void)
{
    tine__buf b = {0};
    tine__buf_u32(&b, 0xdeadbeef);
    tine__buf_u64(&b, UINT64_C(0x0123456789abcdef));
    tine__buf_str(&b, "text\0more", 9);
    tine__buf_str(&b, NULL, 0);
    CHECK(!b.failed);
    for (size_t len = 0; len <= b.len; len++) {
        unsigned char *copy = malloc(len ? len : 1);
        memcpy(copy, b.data, len);
        tine__cursor c = {copy, copy + len, false};
        uint32_t u32 = tine__get_u32(&c);
        uint64_t u64 = tine__get_u64(&c);
        tine_str text = tine__get_str(&c), empty = tine__get_str(&c);
        CHECK(u32 == (len < 4 ? 0 : 0xdeadbeef));
        CHECK(len < 12 || u64 == UINT64_C(0x0123456789abcdef));
        CHECK(len < 25 ? !text.len
                       : text.len == 9 && !memcmp(text.data, "text\0more", 9));
        CHECK(text.data && empty.data && !empty.len);
        CHECK_INT(tine__get_done(&c), len == b.len);
        CHECK_INT(c.bad, len < b.len);
        free(copy);
    }
    /* One that has failed gives nothing any more, though there is something. */
    tine__cursor c = {b.data, b.data + 6, false};
    CHECK(tine__get_u64(&c) <= UINT32_MAX && c.bad);
    CHECK_INT(tine__get_u32(&c), 0);
    tine__buf_free(&b);
    static const unsigned char huge[] = {0xff, 0xff, 0xff, 0xff, 'x'};
    tine__cursor h = {huge, huge + sizeof huge, false};
    CHECK(!tine__get_str(&h).len && h.bad);
}

static void buffers_grow_until_memory_ends(void)
{
    for (long n = 1;; n++) {
        tine__buf b = {0};
        bool was = false;
        fault_set(n, 0);
        for (uint32_t i = 0; i < 20000; i++) {
            size_t before = b.len;
            tine__buf_u32(&b, i);
            CHECK_INT(b.len, b.failed ? before : before + 4);
            CHECK(!was || b.failed); /* failed once is failed for good */
            was = b.failed;
        }
        bool hit = fault_hit;
        fault_set(0, 0);
        CHECK_INT(b.failed, hit);
        for (uint32_t i = 0; !hit && i < 20000; i++)
            CHECK(b.data[(size_t)4 * i] == (i & 0xff) &&
                  b.data[(size_t)4 * i + 1] == i >> 8);
        tine__buf_free(&b);
        CHECK(!b.failed && !b.cap);
        if (!hit)
            break;
    }
}

/* What room is asked of can be asked again, and has lost nothing. */
static void room_that_is_not_there(void)
{
    tine__buf b = {0};
    tine__buf_str(&b, "text", 4);
    fault_set(1, 0);
    CHECK(!tine__buf_room(&b, b.cap));
    CHECK(!tine__buf_room(&b, SIZE_MAX / 2));
    fault_set(0, 0);
    CHECK(!b.failed);
    CHECK_INT(b.len, 8);
    CHECK(tine__buf_room(&b, b.cap) == b.data + 8);
    CHECK(memcmp(b.data + 4, "text", 4) == 0);
    tine__buf_free(&b);
    CHECK(tine__buf_room(&b, 0) != NULL); /* of nothing, too, there is a place */
    tine__buf_free(&b);
}

int main(void)
{
    RUN(cursors);
    RUN(buffers_grow_until_memory_ends);
    RUN(room_that_is_not_there);
    return 0;
}
