/* The memory of a process: asked of it where it listens, read from the page that it shares
 * where it serves calls, and from /proc. */
#include "memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "process.h"
#include "wire/protocol.h"

/* A question. They are answered in the order in which they were asked. */
typedef struct tine__question {
    struct tine__question *next;
    uint64_t seq; /* of the command that asks, or 0: it is not asked */
    tine_memory_cb cb;
    tine_ready_cb loaded; /* or this one: only the time of the answer matters */
    void *arg;
} tine__question;

/* ----------------------------------------------------------------------- /proc */

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

static FILE *open_proc(pid_t pid, const char *name)
{
    char path[60];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    return fopen(path, "re");
}

/* The name in it may hold anything, so what counts begins after the last parenthesis. */
static void read_stat(tine_memory *m, pid_t pid)
{
    char line[1024];
    long long minor, major, rss;
    FILE *f = open_proc(pid, "stat");
    if (!f)
        return;
    size_t n = fread(line, 1, sizeof line - 1, f);
    fclose(f);
    line[n] = 0;
    const char *end = strrchr(line, ')');
    if (!end || sscanf(end + 1,
                       " %*c %*d %*d %*d %*d %*d %*u %lld %*u %lld %*u %*u %*u %*d %*d "
                       "%*d %*d %*d %*d %*u %*u %lld",
                       &minor, &major, &rss) != 3)
        return;
    m->minor_faults = minor;
    m->major_faults = major;
    m->rss = rss * (int64_t)sysconf(_SC_PAGESIZE);
}

/* Of one mapping, in bytes. */
typedef struct mapping {
    bool sealed;
    int64_t rss, pss, private_rss, anonymous;
} mapping;

static void add_mapping(tine_memory *m, const mapping *one)
{
    m->rss += one->rss;
    m->pss += one->pss;
    /* A page of the file counts as private where only this process has looked at it. */
    m->private_rss += one->sealed && one->anonymous < one->private_rss
                          ? one->anonymous
                          : one->private_rss;
    m->copied += one->sealed ? one->anonymous : 0;
}

static void read_field(mapping *one, const char *line)
{
    const struct {
        const char *name;
        int64_t *sum;
    } fields[] = {{"Rss:", &one->rss},
                  {"Pss:", &one->pss},
                  {"Private_Clean:", &one->private_rss},
                  {"Private_Dirty:", &one->private_rss},
                  {"Anonymous:", &one->anonymous}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        size_t len = strlen(fields[i].name);
        if (strncmp(line, fields[i].name, len) == 0)
            *fields[i].sum += (int64_t)strtoull(line + len, NULL, 10) << 10;
    }
}

/* Not smaps_rollup: the walk over the page tables, which is what takes long, is the same, and
 * only here sealed memory is told apart. */
static void read_mappings(tine_memory *m, pid_t pid)
{
    char *line = NULL;
    size_t size = 0;
    mapping one = {0};
    FILE *f = open_proc(pid, "smaps");
    if (!f)
        return;
    bool any = false;
    tine_memory sum = {0};
    while (getline(&line, &size, f) > 0) {
        if (*line >= 'A' && *line <= 'Z') {
            read_field(&one, line);
            continue;
        }
        add_mapping(&sum, &one);
        one = (mapping){.sealed = strstr(line, "/memfd:tine-heap") != NULL};
        any = true;
    }
    add_mapping(&sum, &one);
    fclose(f);
    free(line);
    if (!any) /* a zombie */
        return;
    m->rss = sum.rss;
    m->pss = sum.pss;
    m->private_rss = sum.private_rss;
    m->copied = sum.copied;
}

void tine__memory_read(tine_memory *m, pid_t pid, bool mappings)
{
    m->pid = pid;
    if (pid <= 0)
        return;
    read_stat(m, pid);
    if (mappings)
        read_mappings(m, pid);
}

/* -------------------------------------------------------------------- questions */

/* The first one. */
static void tell(tine_proc *p, const tine_error *err, const tine_memory *m)
{
    tine__question *q = p->questions;
    p->questions = q->next;
    p->refs++;
    if (q->loaded)
        /* One that has failed answers, too, but has not carried out what came after. */
        q->loaded(q->arg, p, p->failed ? tine__cause_error(p->cause) : err);
    else
        q->cb(q->arg, p, err, m);
    p->refs--;
    free(q);
    tine__proc_later(p);
}

/* A pid may be another's by now when the end of the process has not been reported yet. */
static void answer(tine_proc *p, const tine__figures *f)
{
    tine_memory m, read;
    if (p->questions->loaded) {
        tell(p, NULL, NULL);
        return;
    }
    tine__memory_clear(&m);
    tine__memory_take(&m, f);
    m.pid = p->pid;
    read = m;
    tine__memory_read(&read, p->pid, true);
    bool sure = p->pidfd < 0 || tine__pidfd_signal(p, 0) == 0;
    tell(p, NULL, sure ? &read : &m);
}

static int ask(tine_proc *p, tine_memory_cb cb, tine_ready_cb loaded, void *arg)
{
    if (tine__stale(p->host))
        return -TINE_ESTALE;
    if (p->ended || p->dying || p->closed)
        return -TINE_ECLOSED;
    tine__question *q = calloc(1, sizeof *q), **link = &p->questions;
    if (!q)
        return -ENOMEM;
    q->cb = cb;
    q->loaded = loaded;
    q->arg = arg;
    if (!p->consumed || p->held) {
        p->forking = true; /* that it is held by a pool is no obstacle */
        int err = tine__proc_put(p, TINE__FRAME_MEMORY, NULL, 0, NULL, 0);
        p->forking = false;
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
    if (p->consumed)
        return -TINE_ECONSUMED;
    return ask(p, NULL, cb, arg);
}

void tine__proc_told_memory(tine_proc *p, const tine__report *r)
{
    if (!p->questions || p->questions->seq != r->seq) {
        tine__proc_broken(p, "it sent garbage on the report channel");
        return;
    }
    answer(p, &r->figures);
    tine__proc_did(p, r->seq);
}

static bool can_answer(const tine_proc *p)
{
    return p->questions && !p->questions->seq && p->made && !p->ended && !p->dying;
}

void tine__proc_answer_memory(tine_proc *p)
{
    const tine__question *last = p->questions;
    while (last && last->next)
        last = last->next;
    for (bool more = last != NULL; more && can_answer(p);) {
        tine__figures f = {.heap = TINE_HEAP_UNKNOWN};
        const tine__observer *o = p->observer;
        if (o && o->figures)
            o->figures(p->observer_arg, &f);
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
