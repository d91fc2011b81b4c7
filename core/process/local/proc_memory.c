/* What the system says of a process's memory: /proc/PID/stat and /proc/PID/smaps. */
#include "proc_memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "local_priv.h"

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

/* A pid may be another's by now when the end of the process has not been reported yet. */
void tine__local_memory(tine__link *link, bool mappings, tine_memory *m)
{
    const tine__local *l = tine__local_of(link);
    tine_memory read = *m;
    tine__memory_read(&read, link->pid, mappings);
    if (!mappings || l->pidfd < 0 || tine__pidfd_signal(l, 0) == 0)
        *m = read;
}
