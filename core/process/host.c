/* The host: its turns, process ids, the default template's place. */
#include "process.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/fd.h"
#include "exec.h"
#include "sweeper.h"

static int set_string(char **slot, const char *value)
{
    char *copy = value ? strdup(value) : NULL;
    if (value && !copy)
        return -ENOMEM;
    free(*slot);
    *slot = copy;
    return 0;
}

static void take_turn(tine_host *host)
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
    tine__host_run_tasks(host);
    host->in_turn = false;
    if (host->later || host->tasks)
        tine__loop_wake_next(host);
}

int tine_host_new(tine_host **out, const tine_host_options *options)
{
    static const tine_host_options defaults;
    if (!options)
        options = &defaults;
    tine_host *host = calloc(1, sizeof *host);
    if (!host)
        return -ENOMEM;
    tine__owner_open(&host->owner);
    host->report_rx = host->report_tx = host->timer_fd = -1;
    host->sweeper_fd = host->sweeper_pidfd = -1;
    if (getrandom(&host->secret, sizeof host->secret, GRND_NONBLOCK) < 0)
        host->secret = (uint64_t)getpid() << 32 ^ (uint64_t)(size_t)host;
    host->on_error = options->on_error;
    host->arg = options->arg;
    int err = tine__loop_open(host, options->base, take_turn);
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
    tine__host_call_closers(host);
    for (size_t i = 0; i < host->nslots; i++)
        if (host->slots[i])
            tine__proc_free(host->slots[i]);
    tine__loop_close(host);
    tine__owner_close(&host->owner);
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
    host->found_interpreter = tine__exec_find();
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
