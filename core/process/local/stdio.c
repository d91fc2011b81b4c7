/* Lines of a process's stdout and stderr, read from a pipe in the host. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/fd.h"
#include "local_priv.h"
#include "loop/flow.h"

/* A pipe from a process's stdout or stderr. */
typedef struct tine__capture {
    tine__local *of;
    int fd;
    tine_io *io;
    tine__buf line;
    size_t scanned;
    size_t ask; /* bytes to read at a time, 0: the most */
    bool reading;
    bool dry; /* there was no more */
    tine_line_cb cb;
    tine__flow flow;
} tine__capture;

/* A line longer than this comes in pieces, so that a process cannot fill the host. */
enum { READ_SIZE = 16384, MAX_LINE = 1 << 20, READS_PER_WAKE = 16 };
/* So many callbacks, then others have their turn; FEW where calls are waited for. */
enum { LINES_PER_WAKE = 64, FEW_LINES = 16, ALL_LINES = INT32_MAX };

/* There is room for one byte more: the newline's, or what read_lines has left. */
static void deliver(tine__capture *c, unsigned char *line, size_t len)
{
    line[len] = 0;
    if (c->cb)
        c->cb(c->of->link.line_arg, c->of->link.proc, (const char *)line, len);
}

/* Returns how many lines there were. A callback may close the process, but the capture lives until
 * the caller is done. */
static size_t split(tine__capture *c, bool at_end)
{
    size_t start = 0, n = 0;
    unsigned char *data = c->line.data;
    while (start < c->line.len) {
        size_t from = start > c->scanned ? start : c->scanned;
        unsigned char *nl = memchr(data + from, '\n', c->line.len - from);
        if (!nl)
            break;
        deliver(c, data + start, (size_t)(nl - data) - start);
        n++;
        start = (size_t)(nl - data) + 1;
        c->scanned = start;
    }
    size_t rest = c->line.len - start;
    if (rest && (at_end || rest >= MAX_LINE)) {
        deliver(c, data + start, rest);
        rest = 0;
    } else if (rest && start) {
        memmove(data, data + start, rest);
    }
    c->line.len = c->scanned = rest;
    return n;
}

/* n bytes were so many lines: of short ones less is read at a time, since what has been read must
 * be delivered. What comes next may be longer. */
static void set_pace(tine__capture *c, size_t n, size_t lines, size_t most)
{
    size_t ask = lines ? n * most / lines : READ_SIZE;
    if (c->ask && ask > c->ask * 2)
        ask = c->ask * 2;
    c->ask = ask < FEW_LINES ? FEW_LINES : ask < READ_SIZE ? ask : READ_SIZE;
}

/* Returns whether more may come. */
static bool read_pipe(tine__capture *c, int reads, size_t most)
{
    for (size_t lines = 0, had; reads-- > 0 && lines < most; lines += had) {
        size_t size = most < ALL_LINES && c->ask ? c->ask : READ_SIZE;
        had = 0;
        c->dry = false;
        unsigned char *room = tine__buf_room(&c->line, READ_SIZE + 1);
        if (!room) {
            c->line.len = c->scanned = 0;
            continue;
        }
        ssize_t n = read(c->fd, room, size);
        if (n > 0) {
            c->line.len += (size_t)n;
            had = split(c, false);
            set_pace(c, (size_t)n, had, most);
        } else if (n == 0) {
            return false;
        } else if (errno != EINTR) {
            c->dry = true;
            return errno == EAGAIN;
        }
    }
    return true;
}

static bool read_lines(tine__capture *c, int reads, size_t most)
{
    if (c->reading) /* in a callback of one of its lines */
        return true;
    c->reading = true;
    bool more = read_pipe(c, reads, most);
    c->reading = false;
    return more;
}

static void unwatch(tine__capture *c)
{
    tine__flow_end(c->of->link.host, &c->flow);
    tine_io_free(c->io);
    c->io = NULL;
}

static void on_readable(void *arg, tine_io *io, int events)
{
    tine__capture *c = arg;
    tine__link *l = &c->of->link;
    tine_host *host = l->host;
    bool few = host->nbusy && !c->flow.held;
    (void)io;
    (void)events;
    l->refs++;
    int64_t began = tine__host_now(host);
    if (!read_lines(c, READS_PER_WAKE, few ? FEW_LINES : LINES_PER_WAKE)) {
        unwatch(c);
        split(c, true);
    }
    if (c->io && !tine__stale(host))
        tine__flow_had(host, &c->flow, c->io, tine__host_now(host) - began, c->dry);
    l->refs--;
    l->news->later(l);
}

static void turn(void *arg)
{
    tine__capture *c = arg;
    on_readable(c, c->io, TINE_READ);
}

int tine__capture_open(tine__local *l, int n, const tine_stdio *how, int *write_end)
{
    int pair[2];
    tine__capture *c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    int err = tine__fd_pipe(pair);
    if (err < 0) {
        free(c);
        return err;
    }
    c->of = l;
    c->cb = how->on_line;
    c->fd = pair[0];
    c->flow = (tine__flow){.turn = turn, .arg = c};
    err = tine__io_internal(l->link.host, &c->io, c->fd, TINE_READ, on_readable, c);
    if (err < 0) {
        tine__fd_close_all(pair, 2);
        free(c);
        return err;
    }
    l->captures[n] = c;
    *write_end = pair[1];
    return 0;
}

static void read_so_far(tine__local *l)
{
    for (int n = 1; n < 3; n++) {
        tine__capture *c = l->captures[n];
        int left = 0;
        if (c && c->io && ioctl(c->fd, FIONREAD, &left) == 0 && left > 0)
            read_lines(c, 1 + (left - 1) / READ_SIZE, ALL_LINES);
    }
}

static void close_all(tine__local *l, bool deliver_rest)
{
    for (int n = 0; n < 3; n++) {
        tine__capture *c = l->captures[n];
        if (!c)
            continue;
        l->captures[n] = NULL;
        if (c->io && deliver_rest) {
            read_lines(c, 64 * READS_PER_WAKE, ALL_LINES);
            split(c, true);
        }
        unwatch(c);
        tine__fd_close(&c->fd);
        tine__buf_free(&c->line);
        free(c);
    }
}

void tine__local_output(tine__link *link, bool last)
{
    link->refs++;
    if (last)
        close_all(tine__local_of(link), true);
    else
        read_so_far(tine__local_of(link));
    link->refs--;
}

void tine__captures_close(tine__local *l)
{
    close_all(l, false);
}
