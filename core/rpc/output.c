/* What workers write to stdout and stderr, line by line, with the job that wrote it: the worker
 * writes a mark to both before and after each job; async: before and after each piece of one. */
#include <string.h>

#include "client_priv.h"

static const char mark[] = "\0tine:";
enum { MARK = sizeof mark - 1 };

/* Where a mark begins, or len. One follows what a job has left without a newline, and always ends
 * its line. */
static size_t find_mark(const char *line, size_t len, uint64_t *serial)
{
    size_t digits = len;
    while (digits > 0 && line[digits - 1] >= '0' && line[digits - 1] <= '9')
        digits--;
    if (digits == len || digits < MARK || memcmp(line + digits - MARK, mark, MARK) != 0)
        return len;
    *serial = 0;
    for (size_t i = digits; i < len; i++)
        *serial = *serial * 10 + (uint64_t)(line[i] - '0');
    return digits - MARK;
}

/* The job may have ended: its answer may overtake what it has written. */
static uint64_t job_of(const tine__client *c, uint64_t serial)
{
    const tine_job *open =
        c->config->async && serial ? tine__client_find(c, serial) : NULL;
    if (open)
        return open->id;
    bool known =
        c->ids && serial && serial <= c->handed && c->handed - serial < TINE__WINDOW;
    return known ? c->ids[serial % TINE__WINDOW] : 0;
}

static void out_line(void *arg, int stream, const char *line, size_t len)
{
    tine__client *c = arg;
    uint64_t serial;
    if (!c)
        return;
    size_t at = find_mark(line, len, &serial);
    if (at)
        c->ops->output(c->owner, c, c->marks[stream], stream, line, at);
    if (at < len)
        c->marks[stream] = job_of(c, serial);
    else if (!len)
        c->ops->output(c->owner, c, c->marks[stream], stream, line, 0);
}

static void on_stdout(void *arg, tine_proc *p, const char *line, size_t len)
{
    (void)p;
    out_line(arg, 1, line, len);
}

static void on_stderr(void *arg, tine_proc *p, const char *line, size_t len)
{
    (void)p;
    out_line(arg, 2, line, len);
}

void tine__client_stdio(tine_proc_options *options, const tine__rpc_config *s)
{
    if (!s->on_output)
        return;
    options->stdio[1] = (tine_stdio){TINE_STDIO_LINES, -1, on_stdout};
    options->stdio[2] = (tine_stdio){TINE_STDIO_LINES, -1, on_stderr};
}
