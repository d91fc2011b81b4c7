/* The memory of a process: asked of it where it listens, read from the page that it shares
 * where it serves calls; and what its transport knows besides. */
#include "memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proc.h"
#include "wire/protocol.h"

/* A question. They are answered in the order in which they were asked. */
typedef struct tine__question {
    struct tine__question *next;
    uint64_t seq; /* of the command that asks, or 0: it is not asked */
    tine_memory_cb cb;
    tine_ready_cb loaded; /* or this one: only the time of the answer matters */
    void *arg;
} tine__question;

void tine__memory_clear(tine_memory *m)
{
    *m = (tine_memory){.own = -1,
                       .shared = -1,
                       .sealed = -1,
                       .seals = -1,
                       .copied = -1,
                       .private_rss = -1,
                       .pss = -1,
                       .rss = -1,
                       .minor_faults = -1,
                       .major_faults = -1};
}

void tine__memory_take(tine_memory *m, const tine__figures *f)
{
    if (f->heap == TINE_HEAP_UNKNOWN)
        return;
    m->heap = f->heap;
    m->own = f->own;
    m->shared = f->shared;
    m->sealed = f->sealed;
    m->seals = f->seals;
    memcpy(m->failed, f->failed, sizeof m->failed);
}

/* -------------------------------------------------------------------- questions */

/* The first one. One that has failed answers, too, but has not carried out what came after. */
static void tell(tine_proc *p, const tine_error *err, const tine_memory *m)
{
    tine__question *q = p->questions;
    p->questions = q->next;
    p->link->refs++;
    if (q->loaded)
        q->loaded(q->arg, p, p->failed ? tine__cause_error(p->cause) : err);
    else
        q->cb(q->arg, p, err, m);
    p->link->refs--;
    free(q);
    tine__proc_later(p);
}

void tine__proc_memory(const tine_proc *p, bool mappings, tine_memory *m)
{
    m->pid = p->link->pid;
    p->link->transport->memory(p->link, mappings, m);
}

static void answer(tine_proc *p, const tine__figures *f)
{
    tine_memory m;
    if (p->questions->loaded) {
        tell(p, NULL, NULL);
        return;
    }
    tine__memory_clear(&m);
    tine__memory_take(&m, f);
    tine__proc_memory(p, true, &m);
    tell(p, NULL, &m);
}

static int ask(tine_proc *p, tine_memory_cb cb, tine_ready_cb loaded, void *arg)
{
    if (tine__stale(p->host))
        return -TINE_ESTALE;
    if (p->state != TINE__LIVES || p->closed)
        return -TINE_ECLOSED;
    tine__question *q = calloc(1, sizeof *q), **link = &p->questions;
    if (!q)
        return -ENOMEM;
    q->cb = cb;
    q->loaded = loaded;
    q->arg = arg;
    if (tine__proc_is_commanded(p)) {
        /* That it is held by a pool is no obstacle. */
        int err =
            tine__proc_put(p, TINE__BY_HOLDER, TINE__FRAME_MEMORY, NULL, 0, NULL, 0);
        if (err < 0) {
            free(q);
            return err;
        }
        q->seq = p->sent;
    }
    while (*link)
        link = &(*link)->next;
    *link = q;
    p->was_busy = true;
    tine__proc_update(p);
    tine__proc_later(p);
    return 0;
}

int tine_proc_memory(tine_proc *p, tine_memory_cb cb, void *arg)
{
    return ask(p, cb, NULL, arg);
}

int tine_proc_await_loaded(tine_proc *p, tine_ready_cb cb, void *arg)
{
    if (p->owner != TINE__OWNER_USER)
        return -TINE_ECONSUMED;
    return ask(p, NULL, cb, arg);
}

void tine__proc_told_memory(tine_proc *p, uint64_t command, const tine__figures *f)
{
    if (!p->questions || p->questions->seq != command) {
        tine__proc_broken(p, "it sent garbage on the report channel");
        return;
    }
    answer(p, f);
    tine__proc_did(p, command);
}

static bool can_answer(const tine_proc *p)
{
    return p->questions && !p->questions->seq && p->link->made &&
           p->state == TINE__LIVES;
}

void tine__proc_answer_memory(tine_proc *p)
{
    const tine__question *last = p->questions;
    while (last && last->next)
        last = last->next;
    for (bool more = last != NULL; more && can_answer(p);) {
        tine__figures f = {.heap = TINE_HEAP_UNKNOWN};
        const tine__observer *o = p->notify.observer;
        if (o && o->figures)
            o->figures(p->notify.observer_arg, &f);
        more = p->questions != last; /* what callbacks ask has its turn later */
        answer(p, &f);
    }
}

void tine__proc_refuse_memory(tine_proc *p, const tine_error *err)
{
    while (p->questions)
        tell(p, err, NULL);
}

void tine__proc_free_questions(tine_proc *p)
{
    while (p->questions) {
        tine__question *q = p->questions;
        p->questions = q->next;
        free(q);
    }
}
