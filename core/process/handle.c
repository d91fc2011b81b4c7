/* A process's handle: its memory, who was forked from whom, and its turns, in which it is brought in
 * line with what has become known. What becomes of it is in state.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "proc.h"
#include "wire/protocol.h"

/* ----------------------------------------------------------------- memory */

static void list(tine_proc *p)
{
    tine__process_host *h = p->host->process;
    p->next = h->all;
    if (p->next)
        p->next->prev = p;
    h->all = p;
}

static void unlist(tine_proc *p)
{
    tine__process_host *h = p->host->process;
    if (p->prev)
        p->prev->next = p->next;
    else
        h->all = p->next;
    if (p->next)
        p->next->prev = p->prev;
}

static void open_link(tine_proc *p, const tine__transport *transport,
                      const tine_proc_options *options)
{
    tine__link *l = p->link;
    l->transport = transport;
    l->news = &tine__proc_news;
    l->host = p->host;
    l->proc = p;
    l->name = p->name;
    l->detach = options && options->detach;
    l->line_arg = options ? options->arg : NULL;
}

int tine__proc_alloc(tine_host *host, const tine__transport *transport,
                     const tine_proc_options *options, tine_proc **out)
{
    enum { ALIGNMENT = 16 };
    size_t size = (sizeof(tine_proc) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    tine_proc *p = calloc(1, size + transport->size);
    if (!p)
        return -ENOMEM;
    p->host = host;
    p->info.code = -1;
    p->link = (void *)((unsigned char *)p + size);
    if (options && options->name) {
        p->name = strndup(options->name, TINE__NAME_MAX);
        if (!p->name) {
            free(p);
            return -ENOMEM;
        }
    }
    open_link(p, transport, options);
    int err = transport->open(p->link);
    if (err < 0) {
        free(p->name);
        free(p);
        return err;
    }
    list(p);
    *out = p;
    return 0;
}

void tine__proc_adopt(tine_proc *parent, tine_proc *child)
{
    child->parent = parent;
    child->link->parent = parent->link;
    child->sent_fds = parent->sent_fds;
    child->next_sibling = parent->children;
    if (parent->children)
        parent->children->prev_sibling = child;
    parent->children = child;
}

void tine__proc_leave_parent(tine_proc *p)
{
    if (!p->parent)
        return;
    if (p->prev_sibling)
        p->prev_sibling->next_sibling = p->next_sibling;
    else
        p->parent->children = p->next_sibling;
    if (p->next_sibling)
        p->next_sibling->prev_sibling = p->prev_sibling;
    p->parent = p->next_sibling = p->prev_sibling = NULL;
    p->link->parent = NULL;
}

static void leave_later(tine_proc *p)
{
    tine__process_host *h = p->host->process;
    tine_proc **link = &h->later, *before = NULL;
    if (!p->in_later)
        return;
    while (*link != p) {
        before = *link;
        link = &before->next_later;
    }
    *link = p->next_later;
    if (h->later_tail == p)
        h->later_tail = before;
    tine__loop_expect(p->host, h->later != NULL);
}

void tine__proc_drop_replay(tine_proc *p)
{
    tine__replay_unref(p->replay);
    p->replay = NULL;
}

void tine__proc_free(tine_proc *p)
{
    tine__loop_hold(p->host, &p->holds, false);
    tine__proc_drop_replay(p);
    leave_later(p);
    while (p->children)
        tine__proc_leave_parent(p->children);
    tine__proc_leave_parent(p);
    tine__proc_free_questions(p);
    p->link->transport->free(p->link);
    unlist(p);
    free(p->cause);
    free(p->name);
    free(p);
}

/* --------------------------------------------------------------- the turn */

void tine__proc_later(tine_proc *p)
{
    tine__process_host *h = p->host->process;
    if (p->in_later)
        return;
    p->in_later = true;
    if (h->later_tail)
        h->later_tail->next_later = p;
    else
        h->later = p;
    h->later_tail = p;
    if (h->later == p) {
        tine__loop_expect(p->host, true);
        tine__loop_wake(p->host);
    }
}

static bool is_sent(const tine_proc *p)
{
    return p->link->transport->is_sent(p->link);
}

int tine_proc_busy(const tine_proc *p)
{
    bool made = p->link->made, running = tine__proc_is_running(p);
    if (p->state == TINE__ENDED)
        return 0;
    if (p->state == TINE__DYING || p->notify.fd_cb || p->questions || !is_sent(p))
        return 1;
    if (p->owner == TINE__OWNER_CALLS || (p->given && !running))
        return 0; /* to_fd: somebody else's now */
    if (!made || p->sent > p->done)
        return !running || !p->link->detach || !made;
    if (running)
        return !p->link->detach;
    return 0;
}

/* It is on its way out, and its end is worth waiting for: it was killed, or it was closed or
 * has failed and has no workers. */
static bool is_leaving(const tine_proc *p)
{
    if (p->state == TINE__ENDED || p->killed)
        return p->state != TINE__ENDED;
    if (p->owner == TINE__OWNER_POOL || p->children || p->link->detach || p->given)
        return false;
    return p->closed || p->failed || p->owner == TINE__OWNER_NOBODY;
}

void tine__proc_update(tine_proc *p)
{
    const tine__transport *t = p->link->transport;
    bool over =
        p->owner == TINE__OWNER_NOBODY || (p->closed && p->owner == TINE__OWNER_USER);
    if (p->state != TINE__ENDED && over && is_sent(p))
        t->shut_down(p->link);
    t->listen(p->link, tine__proc_is_commanded(p), p->link->made && p->sent <= p->done);
    tine__loop_hold(p->host, &p->holds, tine_proc_busy(p) || is_leaving(p));
}

int tine__proc_flush(tine_proc *p)
{
    return p->link->transport->flush(p->link);
}

/* Hands the socket over as soon as all is sent to a process that is there. */
void tine__proc_give(tine_proc *p)
{
    if (p->owner < TINE__OWNER_FUNC || p->given || !p->link->made)
        return;
    int fd = p->link->transport->give(p->link);
    if (fd < 0)
        return;
    p->given = true;
    tine_fd_cb cb = p->notify.fd_cb;
    p->notify.fd_cb = NULL;
    if (!cb) {
        tine__fd_close(&fd);
        return;
    }
    if (p->owner != TINE__OWNER_CALLS)
        tine__fd_nonblock(fd, true);
    cb(p->notify.fd_arg, p, fd, NULL);
}

void tine__proc_turn(tine_proc *p)
{
    tine__link *l = p->link;
    if (l->refs) { /* a callback of p is below us on the stack */
        tine__proc_later(p);
        return;
    }
    l->refs++;
    bool was_busy = p->was_busy;
    if (p->state == TINE__LIVES)
        tine__proc_flush(p);
    if (p->state == TINE__DYING)
        tine__proc_finish(p);
    else if (p->state == TINE__LIVES)
        tine__proc_give(p);
    tine__proc_tell_late(p);
    tine__proc_update(p);
    p->was_busy = tine_proc_busy(p);
    if (was_busy && !p->was_busy && p->notify.idle_cb && p->state != TINE__ENDED)
        p->notify.idle_cb(p->notify.idle_arg, p);
    l->refs--;
    if (p->closed && p->state == TINE__ENDED && !p->in_later)
        tine__proc_free(p);
}

/* ------------------------------------------------- for the layers above: process.h */

void tine__proc_hold_still(tine_proc *p)
{
    p->link->refs++;
}

void tine__proc_let_go(tine_proc *p)
{
    p->link->refs--;
}

enum tine__heard tine__proc_hear(tine_proc *p)
{
    return p->link->transport->hear(p->link);
}

void tine__proc_read_output(tine_proc *p)
{
    p->link->transport->output(p->link, false);
}

int tine__proc_signal_group(tine_proc *p, int signo)
{
    return p->link->transport->signal(p->link, signo, TINE__TO_GROUP);
}

void tine__proc_nudge(tine_proc *p, int signo)
{
    p->link->transport->signal(p->link, signo, TINE__TO_ONE_AT_ONCE);
}

void tine__proc_set_line_arg(tine_proc *p, void *arg)
{
    p->link->line_arg = arg;
}

bool tine__proc_is_observed(const tine_proc *p, const void *arg)
{
    return p->state != TINE__DYING && p->notify.observer_arg == arg;
}

tine__replay *tine__proc_take_replay(tine_proc *p)
{
    tine__replay *r = p->replay;
    p->replay = NULL;
    return r;
}

tine_host *tine__proc_host(const tine_proc *p)
{
    return p->host;
}

uint64_t tine__proc_commands(const tine_proc *p)
{
    return p->sent;
}

bool tine__proc_has_done(const tine_proc *p, uint64_t commands)
{
    return p->link->made && p->done >= commands;
}

bool tine__proc_was_sent_fds(const tine_proc *p)
{
    return p->sent_fds;
}
