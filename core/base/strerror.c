/* Names and texts of error numbers and kinds. */
#include "tine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define OWN_ERRORS(X)                                                                  \
    X(TINE_EEXCEPTION, "Lua code raised an error")                                     \
    X(TINE_EEXIT, "the process left with a code other than 0")                         \
    X(TINE_ECRASH, "the process was ended by a signal")                                \
    X(TINE_ECLOSED, "the process or its handle is closed")                             \
    X(TINE_EPROTOCOL, "the other side does not speak our protocol")                    \
    X(TINE_ECONSUMED, "the process was consumed by run, to_fd, rpc or pool")           \
    X(TINE_ESTALE, "the handle belongs to the process that this one was forked from")  \
    X(TINE_EFAR, "the process is elsewhere, where no descriptor or memory can be "     \
                 "sent")

const char *tine_version(void)
{
#define DIGITS(n) #n
#define DOTTED(a, b, c) DIGITS(a) "." DIGITS(b) "." DIGITS(c)
    return DOTTED(TINE_VERSION_MAJOR, TINE_VERSION_MINOR, TINE_VERSION_PATCH);
}

const char *tine_kind_name(tine_kind kind)
{
    static const char *const names[] = {
        "exception", "exit",   "crash",  "timeout",  "cancelled", "rejected",
        "closed",    "encode", "decode", "protocol", "system",
    };
    if ((unsigned)kind >= sizeof names / sizeof *names)
        return "unknown";
    return names[kind];
}

const char *tine_errname(int err)
{
    switch (-err) {
#define NAME(name, text)                                                               \
    case name:                                                                         \
        return #name;
        OWN_ERRORS(NAME)
#undef NAME
    default: {
        const char *name = strerrorname_np(-err);
        return name ? name : "unknown";
    }
    }
}

const char *tine_strerror(int err)
{
    static _Thread_local char text[128];
    switch (-err) {
#define TEXT(name, what)                                                               \
    case name:                                                                         \
        return what;
        OWN_ERRORS(TEXT)
#undef TEXT
    default: {
        const char *known = strerrordesc_np(-err);
        if (known)
            return known;
        snprintf(text, sizeof text, "error %d", err);
        return text;
    }
    }
}
