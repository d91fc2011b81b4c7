/* The host: process ids, tasks, the default template's place. */
#include "host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "board.h"
#include "fd.h"
#include "spawn.h"
#include "sweeper.h"

enum { MARK_SIZE = 4096, TASKS_PER_TURN = 256 };

int64_t tine__now_usec(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t tine__host_now(tine_host *host)
{
    return host->now = tine__now_usec();
}

/* A page that is all zeros in every fork of this process, however it was made: asking it
 * costs no system call. NULL where the kernel cannot do that. */
static const unsigned char *make_mark(void)
{
    unsigned char *mark = mmap(NULL, MARK_SIZE, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mark == MAP_FAILED)
        return NULL;
    if (madvise(mark, MARK_SIZE, MADV_WIPEONFORK) < 0) {
        munmap(mark, MARK_SIZE);
        return NULL;
    }
    *mark = 1;
    return mark;
}

bool tine__stale(const tine_host *host)
{
    return host->mark ? !*host->mark : host->owner != getpid();
}

static int set_string(char **slot, const char *value)
{
    char *copy = value ? strdup(value) : NULL;
    if (value && !copy)
        return -ENOMEM;
    free(*slot);
    *slot = copy;
    return 0;
}

int tine_host_new(tine_host **out, const tine_host_options *options)
{
    static const tine_host_options defaults;
    if (!options)
        options = &defaults;
    tine_host *host = calloc(1, sizeof *host);
    if (!host)
        return -ENOMEM;
    host->owner = getpid();
    host->mark = make_mark();
    host->report_rx = host->report_tx = host->timer_fd = -1;
    host->sweeper_fd = host->sweeper_pidfd = -1;
    if (getrandom(&host->secret, sizeof host->secret, GRND_NONBLOCK) < 0)
        host->secret = (uint64_t)getpid() << 32 ^ (uint64_t)(size_t)host;
    host->on_error = options->on_error;
    host->arg = options->arg;
    int err = tine__loop_open(host, options->base);
    if (!err)
        err = tine__reports_open(host);
    if (!err)
        err = set_string(&host->interpreter, options->interpreter);
    if (!err)
        err = tine_host_set_lua_path(host, options->lua_path, options->lua_cpath);
    if (err < 0) {
        tine_host_free(host);
        return err;
    }
    *out = host;
    return 0;
}

static void free_strings(tine_host *host)
{
    free(host->setting);
    free(host->interpreter);
    free(host->found_interpreter);
    free(host->lua_path);
    free(host->lua_cpath);
    free(host->report_buf);
    free(host->slots);
}

static void free_services(tine_host *host)
{
    while (host->pools)
        tine__pool_teardown(host->pools);
    while (host->rpcs)
        tine__rpc_teardown(host->rpcs);
    tine__board_free(host->board);
    free(host->scratch);
}

void tine_host_free(tine_host *host)
{
    if (!host)
        return;
    /* In a fork the base's descriptors are shared with the owner: only set it aside, where
     * leak checkers find it. */
    if (tine__stale(host)) {
        static tine_host *aside;
        host->aside = aside;
        aside = host;
        return;
    }
    tine__host_end_procs(host);
    free_services(host);
    for (size_t i = 0; i < host->nslots; i++)
        if (host->slots[i])
            tine__proc_free(host->slots[i]);
    tine__loop_close(host);
    if (host->mark)
        munmap((void *)(size_t)host->mark, MARK_SIZE);
    tine__fd_close(&host->report_rx);
    tine__fd_close(&host->report_tx);
    tine__sweeper_end(host);
    free_strings(host);
    free(host);
}

int tine_host_set_interpreter(tine_host *host, const char *path)
{
    return set_string(&host->interpreter, path);
}

const char *tine_host_interpreter(tine_host *host)
{
    if (host->interpreter)
        return host->interpreter;
    free(host->found_interpreter);
    host->found_interpreter = tine__spawn_find();
    return host->found_interpreter;
}

int tine_host_set_lua_path(tine_host *host, const char *path, const char *cpath)
{
    int err = set_string(&host->lua_path, path);
    return err < 0 ? err : set_string(&host->lua_cpath, cpath);
}

int tine_host_reset(tine_host *host)
{
    if (tine__stale(host))
        return -TINE_ESTALE;
    tine_proc *p = host->template_proc;
    host->template_proc = NULL;
    host->early = false;
    tine_proc_close(p);
    return 0;
}

int tine_host_flush(tine_host *host)
{
    if (tine__stale(host))
        return -TINE_ESTALE;
    for (size_t i = 0; i < host->nslots; i++)
        if (host->slots[i])
            tine__proc_flush(host->slots[i]);
    return 0;
}

void tine__host_post(tine_host *host, tine__task *task)
{
    if (task->posted)
        return;
    task->posted = true;
    task->next = NULL;
    if (host->tasks_tail)
        host->tasks_tail->next = task;
    else
        host->tasks = task;
    host->tasks_tail = task;
    if (host->tasks == task)
        tine__loop_wake(host);
}

void tine__host_unpost(tine_host *host, tine__task *task)
{
    tine__task **link = &host->tasks, *before = NULL;
    if (!task->posted)
        return;
    while (*link != task) {
        before = *link;
        link = &before->next;
    }
    *link = task->next;
    if (host->tasks_tail == task)
        host->tasks_tail = before;
    task->posted = false;
}

/* Also what is posted meanwhile, so that a call made in a task goes out in this turn; but
 * not for ever. */
static void run_tasks(tine_host *host)
{
    for (int i = 0; i < TASKS_PER_TURN && host->tasks && !host->stopped; i++) {
        tine__task *task = host->tasks;
        host->tasks = task->next;
        if (!host->tasks)
            host->tasks_tail = NULL;
        task->posted = false;
        task->run(task->arg);
    }
}

void tine__host_turn(tine_host *host)
{
    /* What is added meanwhile has its turn in the next round of the loop. */
    tine_proc *p = host->later, *last = host->later_tail;
    host->in_turn = true;
    while (p) {
        bool end = p == last;
        host->later = p->next_later;
        if (!host->later)
            host->later_tail = NULL;
        p->next_later = NULL;
        p->in_later = false;
        tine__proc_turn(p);
        if (end || host->stopped)
            break;
        p = host->later;
    }
    run_tasks(host);
    host->in_turn = false;
    if (host->later || host->tasks)
        tine__loop_wake_next(host);
}

/* ------------------------------------------------------------------- ids */

static int grow_slots(tine_host *host)
{
    size_t n = host->nslots ? host->nslots * 2 : 16;
    tine_proc **slots = realloc(host->slots, n * sizeof *slots);
    if (!slots)
        return -ENOMEM;
    memset(slots + host->nslots, 0, (n - host->nslots) * sizeof *slots);
    host->slots = slots;
    host->free_hint = (uint32_t)host->nslots;
    host->nslots = n;
    return 0;
}

/* The finalizer of splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t scramble(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

int tine__host_add(tine_host *host, tine_proc *p)
{
    uint32_t i = host->free_hint;
    while (i < host->nslots && host->slots[i])
        i++;
    if (i == host->nslots) {
        int err = grow_slots(host);
        if (err < 0)
            return err;
        i = host->free_hint;
    }
    host->slots[i] = p;
    host->free_hint = i + 1;
    p->id = scramble(++host->nborn ^ host->secret) << 32 | i;
    return 0;
}

void tine__host_remove(tine_host *host, tine_proc *p)
{
    uint32_t i = (uint32_t)p->id;
    if (i >= host->nslots || host->slots[i] != p)
        return;
    host->slots[i] = NULL;
    if (i < host->free_hint)
        host->free_hint = i;
}

tine_proc *tine__host_find(tine_host *host, uint64_t id)
{
    uint32_t i = (uint32_t)id;
    if (i >= host->nslots || !host->slots[i] || host->slots[i]->id != id)
        return NULL;
    return host->slots[i];
}

tine_proc *tine__host_find_pid(tine_host *host, pid_t pid)
{
    for (size_t i = 0; i < host->nslots; i++) {
        tine_proc *p = host->slots[i];
        if (p && p->pid == pid && p->made && !p->ended)
            return p;
    }
    return NULL;
}
