/* Errors that outlive the callback in which they arrived, and how ends of processes read. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

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

tine_error tine__error_system(int err, char *buf, size_t size, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(buf, size, fmt, args);
    va_end(args);
    if (n >= 0 && (size_t)n < size)
        n += snprintf(buf + n, size - (size_t)n, ": %s (%s)", tine_strerror(err),
                      tine_errname(err));
    size_t len = n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
    return (tine_error){
        .kind = TINE_KIND_SYSTEM,
        .message = buf,
        .message_len = len,
        .code = -1,
        .sys_errno = -err < TINE_EEXCEPTION ? -err : 0,
    };
}

void tine__status_text(int status, char *buf, size_t size)
{
    if (WIFSIGNALED(status)) {
        const char *name = sigabbrev_np(WTERMSIG(status));
        snprintf(buf, size, "was killed by signal %d (%s%s)%s", WTERMSIG(status),
                 name ? "SIG" : "", name ? name : "unnamed",
                 WCOREDUMP(status) ? ", core dumped" : "");
    } else {
        snprintf(buf, size, "exited with code %d", WEXITSTATUS(status));
    }
}

tine_error tine__error_cancelled(void)
{
    static const char text[] = "the job was cancelled";
    return (tine_error){.kind = TINE_KIND_CANCELLED,
                        .message = text,
                        .message_len = sizeof text - 1,
                        .code = -1};
}
