/* What a process says of its interpreter's memory: when it is asked, and, while it serves
 * calls, in the page that the host shares. */
#include <stdio.h>
#include <string.h>

#include "child.h"
#include "heap/heap.h"
#include "reply_ring.h"
#include "wire/protocol.h"

static int64_t lua_bytes(lua_State *L)
{
    return ((int64_t)lua_gc(L, LUA_GCCOUNT) << 10) + lua_gc(L, LUA_GCCOUNTB);
}

static void measure(lua_State *L, tine__figures *f)
{
    const tine__heap *h = tine__heap_of(L);
    memset(f, 0, sizeof *f);
    if (!h) {
        f->heap = TINE_HEAP_MALLOC;
        f->own = lua_bytes(L);
        return;
    }
    f->heap = h->stats.sealed ? TINE_HEAP_SEALED : TINE_HEAP_PLAIN;
    f->own = h->stats.own;
    f->shared = h->stats.shared;
    f->sealed = (int64_t)h->stats.sealed;
    f->seals = h->stats.seals;
    if (h->stats.failed)
        snprintf(f->failed, sizeof f->failed, "%s: %s", h->stats.failed,
                 tine_strerror(h->stats.error));
}

void tine__memory_tell(tine__child *c)
{
    tine__report r = {.type = TINE__REPORT_MEMORY, .id = c->id, .seq = c->seq};
    measure(c->L, &r.figures);
    tine__flush(c);
    tine__report_send(c, &r, -1);
    c->told = c->seq;
}

/* The kind of heap comes last: with it the rest is there. */
static void publish_all(tine__child *c)
{
    tine__meter *m = &c->meter;
    tine__figures f;
    measure(c->L, &f);
    if (m->heap)
        m->seals = m->heap->stats.seals + m->heap->stats.failures;
    memcpy(m->page->seal_failed, f.failed, sizeof m->page->seal_failed);
    atomic_store_explicit(&m->page->own, f.own, memory_order_relaxed);
    atomic_store_explicit(&m->page->shared, f.shared, memory_order_relaxed);
    atomic_store_explicit(&m->page->sealed, f.sealed, memory_order_relaxed);
    atomic_store_explicit(&m->page->seals, (uint32_t)f.seals, memory_order_relaxed);
    atomic_store_explicit(&m->page->heap, (uint32_t)f.heap, memory_order_release);
}

void tine__memory_serve(tine__child *c)
{
    const tine__heap *h = tine__heap_of(c->L);
    tine__page *page = tine__reply_page();
    c->meter = (tine__meter){.page = page, .heap = h};
    atomic_store_explicit(&page->template_own, h ? h->stats.own : lua_bytes(c->L),
                          memory_order_relaxed);
    publish_all(c);
}

void tine__memory_publish(tine__child *c)
{
    const tine__heap *h = c->meter.heap;
    if (h && h->starved)
        tine__gc_relieve(c->L);
    if (h && h->stats.seals + h->stats.failures != c->meter.seals)
        publish_all(c);
    else
        atomic_store_explicit(&c->meter.page->own, h ? h->stats.own : lua_bytes(c->L),
                              memory_order_relaxed);
}
