/* The Lua files that are compiled in, so that there is no file to find. The build writes
 * the definition (cmake/embed.cmake). Knows nothing of what is in them. */
#ifndef TINE_CHILD_EMBED_H
#define TINE_CHILD_EMBED_H

#include <stddef.h>

struct tine_embedded {
    const char *name; /* as `require` takes it: "tine", "tine.go", "tine.template.x" */
    const char *data; /* source text, with a NUL after it that len does not count */
    size_t len;       /* bytes */
};

/* Ends with an entry whose name is NULL. tine-template has all files of lua/tine and
 * templates; the module tine.core, whose Lua files are installed beside it, has templates. */
extern const struct tine_embedded tine_embedded[];

#endif
