/* Errors as values: made, kept beyond the callback in which they arrived, and put into words.
 * Knows nothing of who is told. */
#ifndef TINE_BASE_ERROR_H
#define TINE_BASE_ERROR_H

#include <stddef.h>

#include "tine.h"

/* An error that outlives the callback in which it arrived. */
typedef struct tine__cause {
    tine_error error;
    char text[]; /* of its strings */
} tine__cause;

tine__cause *tine__cause_new(const tine_error *err);

extern const tine_error tine__error_no_memory;

/* The error of a cause; NULL: there was no memory to keep it. */
static inline const tine_error *tine__cause_error(const tine__cause *cause)
{
    return cause ? &cause->error : &tine__error_no_memory;
}

/* An error of process pid, or of none: 0. The message is borrowed for as long as the error is
 * used. */
tine_error tine__error_make(tine_kind kind, pid_t pid, const char *message);
/* The same with a message that is printed into buf, and cut where that is full. */
tine_error tine__error_print(tine_kind kind, pid_t pid, char *buf, size_t size,
                             const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* Gives err another message, printed likewise. Its old one may be among the arguments, if it is
 * not in buf. */
void tine__error_say(tine_error *err, char *buf, size_t size, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* An error of kind "system", whose message ends with what err (negative) means. */
tine_error tine__error_system(int err, char *buf, size_t size, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
tine_error tine__error_cancelled(void);
/* How a known end reads, e.g. "was killed by signal 11 (SIGSEGV)". */
void tine__exit_text(const tine_exit *how, char *buf, size_t size);

#endif
