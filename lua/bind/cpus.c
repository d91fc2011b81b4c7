/* The processors that this process may use: what its affinity mask allows, and no more
 * than its control groups give it time for. */
#include "state.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_CPUS (1 << 16)

static int affinity(void)
{
    int ncpus, n = 0;

    for (ncpus = CPU_SETSIZE; ncpus <= MAX_CPUS && n == 0; ncpus *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)ncpus);
        size_t size = CPU_ALLOC_SIZE((size_t)ncpus);

        if (!set)
            break;
        /* The kernel refuses a mask that is smaller than its own. */
        if (sched_getaffinity(0, size, set) == 0)
            n = CPU_COUNT_S(size, set);
        CPU_FREE(set);
    }
    if (n == 0)
        n = (int)sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? n : 1;
}

static int min(int a, int b)
{
    return a < b ? a : b;
}

/* Processors for quota microseconds of each period. */
static int from_quota(double quota, double period)
{
    double n = quota / period;

    if (!(quota > 0 && period > 0) || n >= INT_MAX)
        return INT_MAX;
    return (int)n < n ? (int)n + 1 : (int)n;
}

/* The first line of a file. Returns 1, or 0 where there is none. */
static int read_line(const char *path, char *line, size_t size)
{
    FILE *f = fopen(path, "re");
    int ok;

    if (!f)
        return 0;
    ok = fgets(line, (int)size, f) != NULL;
    fclose(f);
    return ok;
}

/* The limit that one directory of version 1 or 2 sets; INT_MAX for none. */
static int directory_limit(const char *directory)
{
    char path[PATH_MAX + 32], line[64];
    double quota, period;

    snprintf(path, sizeof path, "%s/cpu.max", directory);
    if (read_line(path, line, sizeof line))
        return sscanf(line, "%lf %lf", &quota, &period) == 2 ? from_quota(quota, period)
                                                             : INT_MAX;
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", directory);
    if (!read_line(path, line, sizeof line) || sscanf(line, "%lf", &quota) != 1)
        return INT_MAX;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", directory);
    if (!read_line(path, line, sizeof line) || sscanf(line, "%lf", &period) != 1)
        return INT_MAX;
    return from_quota(quota, period);
}

/* The least limit from a group up to the root of its hierarchy. In a container the path
 * may be that of the machine, of which only the upper end exists here. */
static int group_limit(const char *root, const char *mount, const char *group)
{
    char directory[PATH_MAX];
    int limit = INT_MAX;
    size_t base;
    char *slash;

    base = (size_t)snprintf(directory, sizeof directory, "%s/sys/fs/cgroup%s", root,
                            mount);
    if (base >= sizeof directory)
        return limit;
    snprintf(directory + base, sizeof directory - base, "%s", group);
    for (;;) {
        limit = min(limit, directory_limit(directory));
        slash = strrchr(directory + base, '/');
        if (!slash)
            return limit;
        *slash = '\0';
    }
}

/* Whether "cpu" is among the controllers, a list like "cpu,cpuacct". */
static int has_cpu(const char *controllers)
{
    const char *p = controllers;

    while ((p = strstr(p, "cpu")) != NULL) {
        if ((p == controllers || p[-1] == ',') && (p[3] == '\0' || p[3] == ','))
            return 1;
        p += 3;
    }
    return 0;
}

/* What one line of /proc/self/cgroup, "ID:CONTROLLERS:PATH", allows. */
static int line_limit(const char *root, char *line)
{
    char mount[256], *controllers, *group;

    controllers = strchr(line, ':');
    group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group)
        return INT_MAX;
    *group++ = '\0';
    controllers++;
    group[strcspn(group, "\n")] = '\0';
    if (*controllers == '\0')
        return group_limit(root, "", group);
    if (!has_cpu(controllers))
        return INT_MAX;
    snprintf(mount, sizeof mount, "/%s", controllers);
    return min(group_limit(root, mount, group), group_limit(root, "/cpu", group));
}

int bind_cpus(const char *root)
{
    char path[PATH_MAX], line[PATH_MAX];
    int n = affinity();
    FILE *f;

    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    f = fopen(path, "re");
    if (!f)
        return n;
    while (fgets(line, sizeof line, f))
        n = min(n, line_limit(root, line));
    fclose(f);
    return n;
}
