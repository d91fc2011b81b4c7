/* Errors as values; see error.h. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

static char *keep(char **to, const char *text, size_t len)
{
    if (!text)
        return NULL;
    char *kept = *to;
    memcpy(kept, text, len);
    kept[len] = 0;
    *to += len + 1;
    return kept;
}

tine__cause *tine__cause_new(const tine_error *err)
{
    size_t status_len = err->status ? strlen(err->status) : 0;
    size_t size =
        err->message_len + err->traceback_len + status_len + err->value_len + 4;
    tine__cause *cause = malloc(sizeof *cause + size);
    if (!cause)
        return NULL;
    char *to = cause->text;
    cause->error = *err;
    cause->error.message = keep(&to, err->message, err->message_len);
    cause->error.traceback = keep(&to, err->traceback, err->traceback_len);
    cause->error.status = keep(&to, err->status, status_len);
    cause->error.value = keep(&to, err->value, err->value_len);
    return cause;
}

const tine_error tine__error_no_memory = {.kind = TINE_KIND_SYSTEM,
                                          .message = "out of memory",
                                          .message_len = sizeof "out of memory" - 1,
                                          .code = -1,
                                          .sys_errno = ENOMEM};

tine_error tine__error_make(tine_kind kind, pid_t pid, const char *message)
{
    return (tine_error){.kind = kind,
                        .message = message,
                        .message_len = strlen(message),
                        .pid = pid,
                        .code = -1};
}

static void say(tine_error *err, char *buf, size_t size, const char *fmt, va_list args)
{
    int n = vsnprintf(buf, size, fmt, args);
    err->message = buf;
    err->message_len = n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
}

tine_error tine__error_print(tine_kind kind, pid_t pid, char *buf, size_t size,
                             const char *fmt, ...)
{
    tine_error err = {.kind = kind, .pid = pid, .code = -1};
    va_list args;
    va_start(args, fmt);
    say(&err, buf, size, fmt, args);
    va_end(args);
    return err;
}

void tine__error_say(tine_error *err, char *buf, size_t size, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    say(err, buf, size, fmt, args);
    va_end(args);
}

tine_error tine__error_system(int err, char *buf, size_t size, const char *fmt, ...)
{
    tine_error e = {.kind = TINE_KIND_SYSTEM, .code = -1};
    va_list args;
    va_start(args, fmt);
    say(&e, buf, size, fmt, args);
    va_end(args);
    size_t n = e.message_len;
    tine__error_say(&e, buf + n, size - n, ": %s (%s)", tine_strerror(err),
                    tine_errname(err));
    e.message = buf;
    e.message_len += n;
    e.sys_errno = -err < TINE_EEXCEPTION ? -err : 0;
    return e;
}

void tine__exit_text(const tine_exit *how, char *buf, size_t size)
{
    if (how->signal) {
        const char *name = sigabbrev_np(how->signal);
        snprintf(buf, size, "was killed by signal %d (%s%s)", how->signal,
                 name ? "SIG" : "", name ? name : "unnamed");
    } else {
        snprintf(buf, size, "exited with code %d", how->code);
    }
}

tine_error tine__error_cancelled(void)
{
    return tine__error_make(TINE_KIND_CANCELLED, 0, "the job was cancelled");
}
