/* What a worker that serves calls says of its memory, in the page that it writes: so it may be
 * garbage, and is only ever shown. */
#include <string.h>

#include "client_priv.h"

static int64_t get(const _Atomic int64_t *from)
{
    int64_t value = atomic_load_explicit(from, memory_order_relaxed);
    return value < 0 ? 0 : value;
}

void tine__client_figures(void *arg, tine__figures *f)
{
    const tine__client *c = arg;
    const tine__page *page = c->region.page;
    uint32_t heap = atomic_load_explicit(&page->heap, memory_order_acquire);
    f->heap = heap <= TINE_HEAP_SEALED ? (tine_heap_kind)heap : TINE_HEAP_UNKNOWN;
    f->own = get(&page->own);
    f->shared = get(&page->shared);
    f->sealed = get(&page->sealed);
    f->seals = atomic_load_explicit(&page->seals, memory_order_relaxed);
    memcpy(f->failed, page->seal_failed, sizeof f->failed);
    f->failed[sizeof f->failed - 1] = 0;
}

void tine__client_template_figures(tine__client *c, tine__figures *f)
{
    tine__client_figures(c, f);
    f->own = get(&c->region.page->template_own);
}

void tine__client_memory(const tine__client *c, bool mappings, tine_memory *m)
{
    m->pid = tine__client_pid(c);
    if (c->proc)
        tine__proc_memory(c->proc, mappings, m);
}
