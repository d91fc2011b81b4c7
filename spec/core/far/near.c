/* The near end of the tests' second transport: linked into a module of its own (cmake/TineTests.cmake)
 * in the place of tine__proc_exec, so that all processes of its hosts are at the far end of one
 * stream. What it cannot do is refused, as far transports do. */
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "far.h"
#include "process/local/local_priv.h"
#include "process/proc.h"

typedef struct near_link {
    tine__link link;
    struct near_link *next;
    struct near_host *of;
    uint64_t id;
    uint64_t queued; /* up to there the stream has its commands */
    uint32_t listening;
} near_link;

/* The other end of a socket that was handed over: lives as long as anybody may read from it. */
typedef struct near_pump {
    struct near_pump *next;
    struct near_host *of;
    uint64_t id;
    far_pump pump;
} near_pump;

typedef struct near_host {
    struct near_host *next;
    tine_host *host;
    far_stream stream;
    pid_t pid;
    near_link *links;
    near_pump *pumps;
    tine__task task; /* something that has been read is to be told */
    bool taking;
    uint64_t ids;
} near_host;

static near_host *hosts;

static near_link *near_of(tine__link *l)
{
    return (near_link *)l;
}

/* ------------------------------------------------------------------------ the stream */

static void send_all(near_host *h);

/* Those that wait for their commands to be gone. */
static void on_writable(void *arg, tine_io *io, int events)
{
    near_host *h = arg;
    (void)io;
    (void)events;
    send_all(h);
    for (near_link *l = h->links; l; l = l->next)
        l->link.news->later(&l->link);
}

static void send_all(near_host *h)
{
    far_stream *s = &h->stream;
    bool all = far_flush(s);
    if (!all && !s->write_io)
        tine__io_internal(h->host, &s->write_io, s->fd, TINE_WRITE, on_writable, h);
    if (!all)
        return;
    tine_io_free(s->write_io);
    s->write_io = NULL;
}

static near_link *find(const near_host *h, uint64_t id)
{
    near_link *l = h->links;
    while (l && l->id != id)
        l = l->next;
    return l;
}

static void drop(near_pump *p)
{
    near_pump **at = &p->of->pumps;
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    far_pump_close(&p->pump);
    free(p);
}

static near_pump *find_pump(const near_host *h, uint64_t id)
{
    near_pump *p = h->pumps;
    while (p && p->id != id)
        p = p->next;
    return p;
}

static void on_user(void *arg, tine_io *io, int events)
{
    near_pump *p = arg;
    near_host *h = p->of;
    char data[FAR_CHUNK];
    (void)io;
    (void)events;
    ssize_t n = recv(p->pump.fd, data, sizeof data, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    far_say_data(&h->stream, n > 0 ? FAR_DATA : FAR_DATA_END, p->id, data,
                 n > 0 ? (size_t)n : 0);
    if (n <= 0) {
        tine_io_free(p->pump.read_io);
        p->pump.read_io = NULL;
        if (p->pump.ended && !p->pump.out.len)
            drop(p);
    }
    send_all(h);
}

static void to_user(near_pump *p);

static void on_user_writable(void *arg, tine_io *io, int events)
{
    (void)io;
    (void)events;
    to_user(arg);
}

/* Where nobody reads it, nor does anybody there. */
static void to_user(near_pump *p)
{
    far_pump *f = &p->pump;
    if (!far_pump_write(f)) {
        far_say(&p->of->stream, FAR_DATA_END, p->id);
        drop(p);
        return;
    }
    if (f->out.len && !f->write_io)
        tine__io_internal(p->of->host, &f->write_io, f->fd, TINE_WRITE,
                          on_user_writable, p);
    if (f->out.len)
        return;
    tine_io_free(f->write_io);
    f->write_io = NULL;
    if (f->ended)
        drop(p);
}

static void on_data(near_pump *p, const far_message *m)
{
    if (m->kind == FAR_DATA)
        tine__buf_put(&p->pump.out, m->body.at, (size_t)(m->body.end - m->body.at));
    else
        p->pump.ended = true;
    to_user(p);
}

/* ------------------------------------------------------------------------------ news */

static void on_ended(near_link *l, far_message *m)
{
    tine_exit how;
    memcpy(&how, m->body.at, sizeof how);
    l->link.news->ended(&l->link, &how);
}

static void on_memory(near_link *l, far_message *m)
{
    tine__figures f;
    uint64_t command = tine__get_u64(&m->body);
    memcpy(&f, m->body.at, sizeof f);
    l->link.news->memory(&l->link, command, &f);
}

static void on_made(near_link *l, far_message *m)
{
    l->link.pid = (pid_t)tine__get_u32(&m->body);
    l->link.made = true;
    l->link.news->made(&l->link);
}

static void on_error(near_link *l, far_message *m)
{
    const tine__news *news = l->link.news;
    tine_error err = far_get_error(&m->body);
    (m->kind == FAR_FAILED  ? news->failed
     : m->kind == FAR_NEVER ? news->never
                            : news->hung)(&l->link, &err);
}

static void on_news(near_link *l, far_message *m)
{
    tine_str text;
    switch (m->kind) {
    case FAR_MADE:
        on_made(l, m);
        break;
    case FAR_DID:
        l->link.news->did(&l->link, tine__get_u64(&m->body));
        break;
    case FAR_FAILED:
    case FAR_NEVER:
    case FAR_HUNG:
        on_error(l, m);
        break;
    case FAR_BROKEN:
        text = tine__get_str(&m->body);
        tine__end_str(text);
        l->link.news->broken(&l->link, text.data);
        break;
    case FAR_ENDED:
        on_ended(l, m);
        break;
    case FAR_MEMORY:
        on_memory(l, m);
        break;
    case FAR_SHUT:
        l->link.shut = true;
        break;
    default:
        break;
    }
}

/* What comes after a callback has stopped the loop is told when that runs again. */
static bool on_message(void *arg, far_message *m)
{
    near_host *h = arg;
    bool data = m->kind == FAR_DATA || m->kind == FAR_DATA_END;
    near_pump *p = data ? find_pump(arg, m->id) : NULL;
    near_link *l = data ? NULL : find(arg, m->id);
    if (p)
        on_data(p, m);
    else if (l)
        on_news(l, m);
    if (h->host->stopped)
        tine__host_post(h->host, &h->task);
    return !h->host->stopped;
}

/* A callback may end in here again. */
static void take(void *arg)
{
    near_host *h = arg;
    if (h->taking)
        return;
    h->taking = true;
    far_take(&h->stream, on_message, h);
    h->taking = false;
    send_all(h);
}

static void on_readable(void *arg, tine_io *io, int events)
{
    near_host *h = arg;
    (void)io;
    (void)events;
    if (!far_read(&h->stream)) {
        fprintf(stderr, "the far end has ended\n");
        abort();
    }
    take(h);
}

/* ------------------------------------------------------------------------- a host's part */

static int start(near_host *h)
{
    const char *path = getenv("TINE_SPEC_FAR_END");
    char *argv[] = {(char *)(size_t)path, NULL};
    posix_spawn_file_actions_t actions;
    int pair[2];
    if (!path)
        return -ENOENT;
    int err = tine__fd_pair(SOCK_STREAM, pair);
    if (err < 0)
        return err;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pair[1], 0);
    err = posix_spawn(&h->pid, path, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(pair[1]);
    if (err)
        return -err;
    h->stream.fd = pair[0];
    return tine__io_internal(h->host, &h->stream.read_io, pair[0], TINE_READ,
                             on_readable, h);
}

/* Its links are freed after it is closed. */
static void free_unused(near_host *h)
{
    if (h->stream.fd >= 0 || h->links)
        return;
    tine__buf_free(&h->stream.out);
    free(h);
}

static void close_host(tine_host *host)
{
    near_host **link = &hosts;
    while (*link && (*link)->host != host)
        link = &(*link)->next;
    near_host *h = *link;
    if (!h)
        return;
    *link = h->next;
    tine__host_unpost(host, &h->task);
    while (h->pumps)
        drop(h->pumps); /* leaves the list. NOLINT(clang-analyzer-unix.Malloc) */
    tine_io_free(h->stream.read_io);
    tine_io_free(h->stream.write_io);
    h->stream.read_io = h->stream.write_io = NULL;
    close(h->stream.fd); /* it ends all that it has, and leaves */
    h->stream.fd = -1;
    while (waitpid(h->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    tine__buf_free(&h->stream.in);
    free_unused(h);
}

static near_host *host_of(tine_host *host)
{
    near_host *h = hosts;
    while (h && h->host != host)
        h = h->next;
    if (h)
        return h;
    h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->host = host;
    h->task = (tine__task){.run = take, .arg = h};
    if (start(h) < 0) {
        free(h);
        return NULL;
    }
    tine__host_at_close(host, close_host);
    h->next = hosts;
    hosts = h;
    return h;
}

/* ------------------------------------------------------------------------- the transport */

static int near_open(tine__link *link)
{
    near_link *l = near_of(link);
    near_host *h = host_of(link->host);
    if (!h)
        return -ENOENT;
    l->of = h;
    l->id = ++h->ids;
    l->next = h->links;
    h->links = l;
    return 0;
}

static int put_birth(tine__link *l, tine__buf *b, const tine_proc_options *options)
{
    const char *name = l->name ? l->name : "";
    tine__buf_u32(b, l->detach);
    tine__buf_u32(b, l->spare);
    tine__buf_str(b, name, strlen(name));
    for (int n = 0; n < 3; n++) {
        tine_stdio_how how = options ? options->stdio[n].how : TINE_STDIO_DEFAULT;
        tine__buf_u32(b, (uint32_t)how);
        if (how == TINE_STDIO_FD || how == TINE_STDIO_LINES)
            return -TINE_EFAR;
    }
    return 0;
}

static int refuse_birth(tine__link *l, tine__buf *b, int err)
{
    char text[200];
    tine_error error =
        tine__error_system(err, text, sizeof text, "cannot redirect its output");
    tine__buf_free(b);
    l->news->never(l, &error);
    return err;
}

static void put_text(tine__buf *b, const char *text)
{
    tine__buf_str(b, text ? text : "", text ? strlen(text) : 0);
}

static int near_exec(tine__link *link, const tine_proc_options *options)
{
    near_link *l = near_of(link);
    tine__buf b;
    far_begin(&b, FAR_EXEC, l->id);
    int err = put_birth(link, &b, options);
    if (err < 0) {
        refuse_birth(link, &b, err);
        return 0;
    }
    put_text(&b, tine__local_interpreter(link->host));
    put_text(&b, link->host->local->lua_path);
    put_text(&b, link->host->local->lua_cpath);
    far_queue(&l->of->stream, &b);
    return 0;
}

static int near_fork(tine__link *parent, tine__link *link,
                     const tine_proc_options *options)
{
    near_link *l = near_of(link);
    tine__buf b;
    far_begin(&b, FAR_FORK, l->id);
    tine__buf_u64(&b, near_of(parent)->id);
    int err = put_birth(link, &b, options);
    if (err < 0)
        return refuse_birth(link, &b, err);
    far_queue(&l->of->stream, &b);
    near_of(parent)->queued = far_end_of(&l->of->stream);
    return 0;
}

static int near_put(tine__link *link, int type, const tine_str *parts, size_t nparts,
                    const int *fds, size_t nfds)
{
    near_link *l = near_of(link);
    tine__buf b;
    (void)fds;
    if (nfds)
        return -TINE_EFAR;
    far_begin(&b, FAR_PUT, l->id);
    tine__buf_u32(&b, (uint32_t)type);
    for (size_t i = 0; i < nparts; i++)
        tine__buf_put(&b, parts[i].data, parts[i].len);
    far_queue(&l->of->stream, &b);
    l->queued = far_end_of(&l->of->stream);
    return 0;
}

static int near_serve(tine__link *l, const tine_str *parts, size_t nparts, int memory)
{
    (void)l, (void)parts, (void)nparts, (void)memory;
    return -TINE_EFAR;
}

static bool near_is_sent(const tine__link *link)
{
    const near_link *l = (const near_link *)link;
    return l->queued <= l->of->stream.all_sent;
}

static int near_flush(tine__link *link)
{
    near_link *l = near_of(link);
    send_all(l->of);
    return near_is_sent(link) ? 0 : -EAGAIN;
}

static void near_listen(tine__link *link, bool commanded, bool idle)
{
    near_link *l = near_of(link);
    uint32_t now = 1u | (uint32_t)commanded << 1 | (uint32_t)idle << 2;
    if (l->listening == now || link->over)
        return;
    tine__buf b;
    l->listening = now;
    far_begin(&b, FAR_LISTEN, l->id);
    tine__buf_u32(&b, commanded);
    tine__buf_u32(&b, idle);
    far_queue(&l->of->stream, &b);
}

static void say(tine__link *link, enum far_kind kind)
{
    near_link *l = near_of(link);
    if (l->of->stream.fd < 0)
        return;
    far_say(&l->of->stream, kind, l->id);
    send_all(l->of);
}

static void near_shut_down(tine__link *l)
{
    say(l, FAR_SHUT_DOWN);
}

static int near_give(tine__link *link)
{
    near_link *l = near_of(link);
    int pair[2];
    if (link->shut || !near_is_sent(link) || tine__fd_pair(SOCK_STREAM, pair) < 0)
        return -EAGAIN;
    near_pump *p = calloc(1, sizeof *p);
    if (!p)
        abort();
    *p = (near_pump){.of = l->of, .id = l->id, .next = l->of->pumps};
    l->of->pumps = p;
    p->pump.fd = pair[1];
    tine__io_internal(link->host, &p->pump.read_io, pair[1], TINE_READ, on_user, p);
    say(link, FAR_GIVE);
    return pair[0];
}

static int near_take_back(tine__link *l, int fd)
{
    (void)l;
    close(fd);
    return -TINE_EFAR;
}

static int near_signal(tine__link *link, int signo, enum tine__target target)
{
    near_link *l = near_of(link);
    tine__buf b;
    if (!link->made)
        return -EAGAIN;
    if (link->over)
        return -ESRCH;
    far_begin(&b, FAR_SIGNAL, l->id);
    tine__buf_u32(&b, (uint32_t)signo);
    tine__buf_u32(&b, (uint32_t)target);
    far_queue(&l->of->stream, &b);
    send_all(l->of);
    return 0;
}

static enum tine__heard near_hear(tine__link *l)
{
    (void)l;
    return TINE__HEARD_ALL;
}

static void near_output(tine__link *l, bool last)
{
    (void)l, (void)last;
}

static void near_memory(tine__link *l, bool mappings, tine_memory *m)
{
    (void)l, (void)mappings, (void)m;
}

static void near_orphan(tine__link *l)
{
    say(l, FAR_ORPHAN);
}

static void near_close(tine__link *l)
{
    say(l, FAR_CLOSE);
}

static void near_free(tine__link *link)
{
    near_link *l = near_of(link), **at = &l->of->links;
    say(link, FAR_FREE);
    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    free_unused(l->of);
}

static const tine__transport transport = {
    .size = sizeof(near_link),
    .far = true,
    .open = near_open,
    .fork = near_fork,
    .put = near_put,
    .serve = near_serve,
    .is_sent = near_is_sent,
    .flush = near_flush,
    .listen = near_listen,
    .shut_down = near_shut_down,
    .give = near_give,
    .take_back = near_take_back,
    .signal = near_signal,
    .hear = near_hear,
    .output = near_output,
    .memory = near_memory,
    .orphan = near_orphan,
    .close = near_close,
    .free = near_free,
};

int __wrap_tine__proc_exec(tine_host *host, const tine_proc_options *options,
                           tine_proc **out);

int __wrap_tine__proc_exec(tine_host *host, const tine_proc_options *options,
                           tine_proc **out)
{
    return tine__proc_make(host, &transport, near_exec, options, out);
}
