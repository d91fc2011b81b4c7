/* Errors as values: made, kept beyond the callback in which they arrived, and put into words. */
#ifndef TINE_BASE_ERROR_H
#define TINE_BASE_ERROR_H

#include <stddef.h>

#include "tine.h"

/* An error that outlives the callback in which it arrived. */
typedef struct tine__cause {
    tine_error error;
    char text[]; /* of its strings */
} tine__cause;

tine_error tine__error_cancelled(void);
tine__cause *tine__cause_new(const tine_error *err);
/* An error of kind "system"; the text is in the caller's buffer. */
tine_error tine__error_system(int err, char *buf, size_t size, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* How a wait status reads, e.g. "was killed by signal 11 (SIGSEGV)". */
void tine__status_text(int status, char *buf, size_t size);

#endif
