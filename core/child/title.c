/* The process title: what ps shows. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "child.h"
#include "wire/protocol.h"

enum { FIRST_FIELD = 48, FIELDS = 4 }; /* arg_start, arg_end, env_start, env_end */

/* Of the program, before any process of ours is there. */
static bool own_environ;

void tine__title_own_environ(void)
{
    own_environ = true;
}

/* Moves the environment's strings away, so that their place can be written over. */
static bool move_environ(void)
{
    size_t n = 0;
    while (environ[n])
        n++;
    char **moved = malloc((n + 1) * sizeof *moved);
    if (!moved)
        return false;
    for (size_t i = 0; i < n; i++) {
        moved[i] = strdup(environ[i]);
        if (moved[i])
            continue;
        while (i)
            free(moved[--i]);
        free(moved);
        return false;
    }
    moved[n] = NULL;
    environ = moved;
    return true;
}

/* /proc tells where the kernel looks for the title; argv is not ours in a library. */
static void find_place(tine__title *t)
{
    unsigned long at[FIELDS] = {0};
    char line[2048];
    FILE *f = fopen("/proc/self/stat", "re");
    size_t n = f ? fread(line, 1, sizeof line - 1, f) : 0;
    if (f)
        fclose(f);
    line[n] = 0;
    char *p = strrchr(line, ')');
    for (int field = 2; p && *p && field < FIRST_FIELD; p++)
        field += *p == ' ';
    if (!p || sscanf(p, "%lu %lu %lu %lu", &at[0], &at[1], &at[2], &at[3]) != FIELDS)
        return;
    t->place = (char *)at[0];
    t->room = at[1] - at[0];
    t->written = t->room;
    if (own_environ && at[2] == at[1] && at[3] > at[2] && move_environ())
        t->room = at[3] - at[0];
}

void tine__title_set(tine__child *c, const char *name, size_t len)
{
    static const char prefix[] = "tine: ";
    char title[sizeof prefix + TINE__NAME_MAX];
    tine__title *t = &c->title;
    if (len > TINE__NAME_MAX)
        len = TINE__NAME_MAX;
    size_t n = sizeof prefix - 1;
    memcpy(title, prefix, n);
    memcpy(title + n, name, len);
    title[n += len] = 0;
    prctl(PR_SET_NAME, title);
    if (!t->looked) {
        t->looked = true;
        find_place(t);
    }
    if (!t->place || t->room < 2)
        return;
    size_t use = n < t->room ? n : t->room - 1;
    memcpy(t->place, title, use);
    for (size_t i = use; i < t->written; i++)
        t->place[i] = 0;
    t->place[use] = 0;
    t->written = use + 1;
}
