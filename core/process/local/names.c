/* What a host knows its local processes and their interpreter by: ids, numbers, paths. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "exec.h"
#include "local_priv.h"

static int set_string(char **slot, const char *value)
{
    char *copy = value ? strdup(value) : NULL;
    if (value && !copy)
        return -ENOMEM;
    free(*slot);
    *slot = copy;
    return 0;
}

int tine__local_set_interpreter(tine_host *host, const char *path)
{
    return set_string(&host->local->interpreter, path);
}

const char *tine__local_interpreter(tine_host *host)
{
    tine__local_host *h = host->local;
    if (h->interpreter)
        return h->interpreter;
    free(h->found_interpreter);
    h->found_interpreter = tine__exec_find();
    return h->found_interpreter;
}

int tine__local_set_lua_path(tine_host *host, const char *path, const char *cpath)
{
    int err = set_string(&host->local->lua_path, path);
    return err < 0 ? err : set_string(&host->local->lua_cpath, cpath);
}

/* --------------------------------------------------------------------------- ids */

static int grow_slots(tine__local_host *h)
{
    size_t n = h->nslots ? h->nslots * 2 : 16;
    tine__local **slots = realloc(h->slots, n * sizeof *slots);
    if (!slots)
        return -ENOMEM;
    memset(slots + h->nslots, 0, (n - h->nslots) * sizeof *slots);
    h->slots = slots;
    h->free_hint = (uint32_t)h->nslots;
    h->nslots = n;
    return 0;
}

/* The finalizer of splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t scramble(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

int tine__local_add(tine__local *l)
{
    tine__local_host *h = tine__local_host_of(l);
    uint32_t i = h->free_hint;
    while (i < h->nslots && h->slots[i])
        i++;
    if (i == h->nslots) {
        int err = grow_slots(h);
        if (err < 0)
            return err;
        i = h->free_hint;
    }
    h->slots[i] = l;
    h->free_hint = i + 1;
    l->id = scramble(++h->nborn ^ h->secret) << 32 | i;
    return 0;
}

void tine__local_remove(tine__local *l)
{
    tine__local_host *h = tine__local_host_of(l);
    uint32_t i = (uint32_t)l->id;
    if (i >= h->nslots || h->slots[i] != l)
        return;
    h->slots[i] = NULL;
    if (i < h->free_hint)
        h->free_hint = i;
}

tine__local *tine__local_find(const tine__local_host *h, uint64_t id)
{
    uint32_t i = (uint32_t)id;
    if (i >= h->nslots || !h->slots[i] || h->slots[i]->id != id)
        return NULL;
    return h->slots[i];
}

tine__local *tine__local_find_pid(const tine__local_host *h, pid_t pid)
{
    for (size_t i = 0; i < h->nslots; i++) {
        tine__local *l = h->slots[i];
        if (l && l->link.pid == pid && l->link.made && !l->link.over)
            return l;
    }
    return NULL;
}
