#include "setting.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "local_priv.h"

struct tine__setting {
    dev_t
        dev; /* of the directory, which a process that lives there keeps from being another */
    ino_t ino;
    size_t len;
    char texts[];
};

enum { PATHS = 3 };

static void paths_of(const tine_host *host, const char *paths[PATHS])
{
    const tine__local_host *h = host->local;
    paths[0] = h->interpreter ? h->interpreter : "";
    paths[1] = h->lua_path ? h->lua_path : "";
    paths[2] = h->lua_cpath ? h->lua_cpath : "";
}

static char *put(char *to, const char *text)
{
    return stpcpy(to, text) + 1;
}

tine__setting *tine__setting_take(const tine_host *host)
{
    const char *paths[PATHS];
    size_t len = 0;
    struct stat dir = {0};
    paths_of(host, paths);
    for (int i = 0; i < PATHS; i++)
        len += strlen(paths[i]) + 1;
    for (char **e = environ; e && *e; e++)
        len += strlen(*e) + 1;
    tine__setting *s = malloc(sizeof *s + len);
    if (!s)
        return NULL;
    (void)stat(".", &dir);
    s->dev = dir.st_dev;
    s->ino = dir.st_ino;
    s->len = len;
    char *to = s->texts;
    for (int i = 0; i < PATHS; i++)
        to = put(to, paths[i]);
    for (char **e = environ; e && *e; e++)
        to = put(to, *e);
    return s;
}

static bool same(const char **at, const char *end, const char *text)
{
    size_t n = strlen(text) + 1;
    if ((size_t)(end - *at) < n || memcmp(*at, text, n) != 0)
        return false;
    *at += n;
    return true;
}

bool tine__setting_holds(const tine__setting *s, const tine_host *host)
{
    const char *paths[PATHS];
    const char *at = s->texts, *end = s->texts + s->len;
    struct stat dir = {0};
    paths_of(host, paths);
    for (int i = 0; i < PATHS; i++)
        if (!same(&at, end, paths[i]))
            return false;
    for (char **e = environ; e && *e; e++)
        if (!same(&at, end, *e))
            return false;
    (void)stat(".", &dir);
    return at == end && dir.st_dev == s->dev && dir.st_ino == s->ino;
}
