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
