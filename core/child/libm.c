/* The functions of libm that Lua calls, loaded when first called. Only in tine-template.
 *
 * A fork and an exit pay for each mapping of a process, used or not. Those of libm.so are
 * five, which made a short worker a tenth dearer, and most workers calculate no sine. With
 * these in its place the linker leaves libm.so out. C modules that need it bring it along. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

typedef double (*unary)(double);
typedef double (*binary)(double, double);

static void *load(const char *name)
{
    static void *libm;
    if (!libm)
        libm = dlopen("libm.so.6", RTLD_NOW | RTLD_LOCAL);
    void *f = libm ? dlsym(libm, name) : NULL;
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
