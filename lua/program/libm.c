/* The functions of libm that Lua calls, loaded when first called. Only in tine-template.
 *
 * A fork and an exit pay for each mapping of a process, used or not. Those of libm.so are
 * five, which made a short worker a tenth dearer, and most workers calculate no sine. With
 * these in its place the linker leaves libm.so out. C modules find it all the same: many use
 * it without saying so, as lua5.4 has it. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

/* What Lua calls in place of dlopen, by the linker's --wrap. */
void *__wrap_dlopen(const char *path, int flags);
void *__real_dlopen(const char *path, int flags);

typedef double (*unary)(double);
typedef double (*binary)(double, double);

static void *libm(void)
{
    static void *handle;
    if (!handle)
        handle = __real_dlopen("libm.so.6", RTLD_NOW | RTLD_GLOBAL);
    return handle;
}

void *__wrap_dlopen(const char *path, int flags)
{
    libm();
    return __real_dlopen(path, flags);
}

static void *load(const char *name)
{
    void *f = libm() ? dlsym(libm(), name) : NULL;
    if (!f) {
        fprintf(stderr, "tine-template: %s\n", dlerror());
        abort();
    }
    return f;
}

#define UNARY(name)                                                                    \
    double name(double x);                                                             \
    double name(double x)                                                              \
    {                                                                                  \
        static unary f;                                                                \
        if (!f)                                                                        \
            f = (unary)load(#name);                                                    \
        return f(x);                                                                   \
    }

#define BINARY(name)                                                                   \
    double name(double x, double y);                                                   \
    double name(double x, double y)                                                    \
    {                                                                                  \
        static binary f;                                                               \
        if (!f)                                                                        \
            f = (binary)load(#name);                                                   \
        return f(x, y);                                                                \
    }

UNARY(acos)
UNARY(asin)
UNARY(ceil)
UNARY(cos)
UNARY(cosh)
UNARY(exp)
UNARY(floor)
UNARY(log)
UNARY(log10)
UNARY(log2)
UNARY(sin)
UNARY(sinh)
UNARY(sqrt)
UNARY(tan)
UNARY(tanh)
BINARY(atan2)
BINARY(fmod)
BINARY(pow)
