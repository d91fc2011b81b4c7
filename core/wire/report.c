#include "report.h"

#include <errno.h>
#include <string.h>

#include "protocol.h"

static void put_text(tine__buf *b, tine_str text)
{
    static const char cut[] = TINE__CUT;
    size_t most = TINE__REPORT_TEXT_MAX;
    if (text.len <= most) {
        tine__buf_str(b, text.data, text.len);
        return;
    }
    tine__buf_u32(b, (uint32_t)(most + sizeof cut - 1));
    tine__buf_put(b, text.data, most);
    tine__buf_put(b, cut, sizeof cut - 1);
}

static void encode_figures(tine__buf *b, const tine__report *r)
{
    const tine__figures *f = &r->figures;
    tine__buf_u64(b, r->seq);
    tine__buf_u32(b, (uint32_t)f->heap);
    tine__buf_u32(b, (uint32_t)f->seals);
    tine__buf_u64(b, (uint64_t)f->own);
    tine__buf_u64(b, (uint64_t)f->shared);
    tine__buf_u64(b, (uint64_t)f->sealed);
    tine__buf_str(b, f->failed, strlen(f->failed));
}

void tine__report_encode(tine__buf *b, const tine__report *r)
{
    tine__buf_u32(b, TINE__REPORT_MAGIC);
    tine__buf_u32(b, (uint32_t)r->type);
    tine__buf_u64(b, r->id);
    switch (r->type) {
    case TINE__REPORT_HELLO:
        tine__buf_u32(b, r->protocol);
        tine__buf_u32(b, 0);
        put_text(b, r->version);
        put_text(b, r->lua);
        break;
    case TINE__REPORT_MADE:
    case TINE__REPORT_IDLE:
        tine__buf_u64(b, r->seq);
        break;
    case TINE__REPORT_FAILED:
        tine__buf_u32(b, (uint32_t)r->kind);
        tine__buf_u32(b, (uint32_t)r->sys_errno);
        put_text(b, r->message);
        put_text(b, r->traceback);
        break;
    case TINE__REPORT_EXITED:
        tine__buf_u64(b, r->seq);
        tine__buf_u32(b, (uint32_t)r->pid);
        tine__buf_u32(b, (uint32_t)r->status);
        tine__buf_put(b, &r->rusage, sizeof r->rusage);
        break;
    case TINE__REPORT_MEMORY:
        encode_figures(b, r);
        break;
    default:
        break;
    }
}

static void decode_exited(tine__report *r, tine__cursor *c)
{
    r->seq = tine__get_u64(c);
    r->pid = (pid_t)tine__get_u32(c);
    r->status = (int)tine__get_u32(c);
    if ((size_t)(c->end - c->at) != sizeof r->rusage) {
        c->bad = true;
        return;
    }
    memcpy(&r->rusage, c->at, sizeof r->rusage);
    c->at = c->end;
}

static int64_t get_size(tine__cursor *c)
{
    uint64_t size = tine__get_u64(c);
    c->bad = c->bad || size > INT64_MAX;
    return (int64_t)size;
}

static void decode_figures(tine__report *r, tine__cursor *c)
{
    tine__figures *f = &r->figures;
    r->seq = tine__get_u64(c);
    uint32_t heap = tine__get_u32(c);
    f->heap = (tine_heap_kind)heap;
    f->seals = tine__get_u32(c);
    f->own = get_size(c);
    f->shared = get_size(c);
    f->sealed = get_size(c);
    tine_str failed = tine__get_str(c);
    if (failed.len >= sizeof f->failed || heap < TINE_HEAP_MALLOC ||
        heap > TINE_HEAP_SEALED)
        c->bad = true;
    else
        memcpy(f->failed, failed.data, failed.len);
}

int tine__report_decode(tine__report *r, const void *data, size_t len)
{
    const unsigned char *at = data;
    tine__cursor c = {at, at + len, false};
    bool cut;
    memset(r, 0, sizeof *r);
    if (tine__get_u32(&c) != TINE__REPORT_MAGIC)
        return -EPROTO;
    r->type = (int)tine__get_u32(&c);
    r->id = tine__get_u64(&c);
    switch (r->type) {
    case TINE__REPORT_HELLO:
        r->protocol = tine__get_u32(&c);
        cut = c.bad;
        tine__get_u32(&c);
        r->version = tine__get_str(&c);
        r->lua = tine__get_str(&c);
        /* Another protocol may go on differently. */
        if (r->protocol != TINE__PROTOCOL && !cut) {
            c.at = c.end;
            c.bad = false;
        }
        break;
    case TINE__REPORT_MADE:
    case TINE__REPORT_IDLE:
        r->seq = tine__get_u64(&c);
        break;
    case TINE__REPORT_FAILED:
        r->kind = (tine_kind)tine__get_u32(&c);
        r->sys_errno = (int)tine__get_u32(&c);
        r->message = tine__get_str(&c);
        r->traceback = tine__get_str(&c);
        if ((unsigned)r->kind > TINE_KIND_SYSTEM || r->sys_errno < 0)
            c.bad = true;
        break;
    case TINE__REPORT_EXITED:
        decode_exited(r, &c);
        break;
    case TINE__REPORT_MEMORY:
        decode_figures(r, &c);
        break;
    case TINE__REPORT_CHANNEL:
        break;
    default:
        c.bad = true;
        break;
    }
    return tine__get_done(&c) ? 0 : -EPROTO;
}
