#include "buf.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 128 };

void tine__buf_free(tine__buf *b)
{
    free(b->data);
    memset(b, 0, sizeof *b);
}

unsigned char *tine__buf_room(tine__buf *b, size_t n)
{
    if (n > SIZE_MAX / 4 || b->len > SIZE_MAX / 4)
        return NULL;
    if (!b->data || b->cap - b->len < n) {
        size_t cap = b->cap ? b->cap + b->cap / 2 : FIRST_CAPACITY;
        if (cap < b->len + n)
            cap = b->len + n;
        unsigned char *data = realloc(b->data, cap);
        if (!data)
            return NULL;
        b->data = data;
        b->cap = cap;
    }
    return b->data + b->len;
}

void tine__buf_put(tine__buf *b, const void *data, size_t len)
{
    unsigned char *to = b->failed ? NULL : tine__buf_room(b, len);
    if (!to) {
        b->failed = true;
        return;
    }
    if (len)
        memcpy(to, data, len);
    b->len += len;
}

void tine__buf_u32(tine__buf *b, uint32_t v)
{
    unsigned char raw[4];
    for (int i = 0; i < 4; i++)
        raw[i] = (unsigned char)(v >> (8 * i));
    tine__buf_put(b, raw, sizeof raw);
}

void tine__buf_u64(tine__buf *b, uint64_t v)
{
    tine__buf_u32(b, (uint32_t)v);
    tine__buf_u32(b, (uint32_t)(v >> 32));
}

void tine__buf_str(tine__buf *b, const void *data, size_t len)
{
    tine__buf_u32(b, (uint32_t)len);
    tine__buf_put(b, data, len);
}

static const unsigned char *take(tine__cursor *c, size_t n)
{
    if (c->bad || (size_t)(c->end - c->at) < n) {
        c->bad = true;
        return NULL;
    }
    const unsigned char *at = c->at;
    c->at += n;
    return at;
}

uint32_t tine__get_u32(tine__cursor *c)
{
    const unsigned char *p = take(c, 4);
    if (!p)
        return 0;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

uint64_t tine__get_u64(tine__cursor *c)
{
    uint64_t low = tine__get_u32(c);
    return low | (uint64_t)tine__get_u32(c) << 32;
}

tine_str tine__get_str(tine__cursor *c)
{
    size_t len = tine__get_u32(c);
    const unsigned char *p = take(c, len);
    if (!p)
        return (tine_str){"", 0};
    return (tine_str){p, len};
}

void tine__end_str(tine_str s)
{
    ((unsigned char *)(size_t)s.data)[s.len] = 0;
}

bool tine__get_done(const tine__cursor *c)
{
    return !c->bad && c->at == c->end;
}
