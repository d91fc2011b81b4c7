/* The far end of the tests' second transport: makes real processes, as a host does, by the functions
 * of core/process/local/, and tells their news on the stream, which is its stdin. There are no
 * handles here: those are at the near end. */
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "far.h"
#include "process/local/local_priv.h"

typedef struct far_link {
    struct far_link *next;
    uint64_t id;
    tine__local *local;
    tine__task task; /* it wants to be flushed */
    bool giving, shutting;
    far_pump pump;
} far_link;

static tine_host *host;
static far_stream stream;
static far_link *links;

static far_link *find(uint64_t id)
{
    far_link *l = links;
    while (l && l->id != id)
        l = l->next;
    return l;
}

static far_link *of(const tine__link *link)
{
    far_link *l = links;
    while (l && &l->local->link != link)
        l = l->next;
    return l;
}

/* ------------------------------------------------------------------------ the stream */

static void send_all(void);

static void on_writable(void *arg, tine_io *io, int events)
{
    (void)arg, (void)io, (void)events;
    send_all();
}

static void send_all(void)
{
    bool all = far_flush(&stream);
    if (!all && !stream.write_io)
        tine__io_internal(host, &stream.write_io, stream.fd, TINE_WRITE, on_writable,
                          NULL);
    if (!all)
        return;
    tine_io_free(stream.write_io);
    stream.write_io = NULL;
}

/* ------------------------------------------------------------------------ the socket */

static void on_process(void *arg, tine_io *io, int events)
{
    far_link *l = arg;
    char data[FAR_CHUNK];
    (void)io;
    (void)events;
    ssize_t n = recv(l->pump.fd, data, sizeof data, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    far_say_data(&stream, n > 0 ? FAR_DATA : FAR_DATA_END, l->id, data,
                 n > 0 ? (size_t)n : 0);
    if (n <= 0) {
        tine_io_free(l->pump.read_io);
        l->pump.read_io = NULL;
    }
    send_all();
}

static void to_process(far_link *l);

static void on_process_writable(void *arg, tine_io *io, int events)
{
    (void)io;
    (void)events;
    to_process(arg);
}

static void to_process(far_link *l)
{
    far_pump *p = &l->pump;
    if (p->fd < 0)
        return;
    bool open = far_pump_write(p);
    bool more = open && p->out.len;
    if (more && !p->write_io)
        tine__io_internal(host, &p->write_io, p->fd, TINE_WRITE, on_process_writable,
                          l);
    if (more)
        return;
    tine_io_free(p->write_io);
    p->write_io = NULL;
}

/* What waits for all that was queued to be gone. */
static void go_on(far_link *l)
{
    tine__link *link = &l->local->link;
    if (link->over)
        return;
    tine__local_transport.flush(link);
    if (l->shutting && tine__local_transport.is_sent(link))
        tine__local_transport.shut_down(link);
    if (!l->giving || !link->made)
        return;
    int fd = tine__local_transport.give(link);
    if (fd < 0)
        return;
    l->giving = false;
    l->pump.fd = fd;
    tine__io_internal(host, &l->pump.read_io, fd, TINE_READ, on_process, l);
    to_process(l);
}

static void run_task(void *arg)
{
    go_on(arg);
    send_all();
}

/* -------------------------------------------------------------------------------- news */

static void made(tine__link *link)
{
    far_link *l = of(link);
    tine__buf b;
    far_begin(&b, FAR_MADE, l->id);
    tine__buf_u32(&b, (uint32_t)link->pid);
    far_queue(&stream, &b);
    tine__host_post(host, &l->task);
}

static void did(tine__link *link, uint64_t commands)
{
    far_link *l = of(link);
    tine__buf b;
    far_begin(&b, FAR_DID, l->id);
    tine__buf_u64(&b, commands);
    far_queue(&stream, &b);
    tine__host_post(host, &l->task);
}

static void failed(tine__link *link, const tine_error *err)
{
    far_say_error(&stream, FAR_FAILED, of(link)->id, err);
    tine__host_post(host, &of(link)->task);
}

/* Nobody is its parent's child any more, and it is nobody's parent. */
static void leave(tine__link *link)
{
    link->over = true;
    link->parent = NULL;
    for (far_link *l = links; l; l = l->next)
        if (l->local->link.parent == link)
            l->local->link.parent = NULL;
}

static void never(tine__link *link, const tine_error *err)
{
    if (link->over)
        return;
    leave(link);
    far_say_error(&stream, FAR_NEVER, of(link)->id, err);
    tine__host_post(host, &of(link)->task);
}

static void broken(tine__link *link, const char *what)
{
    tine__buf b;
    far_begin(&b, FAR_BROKEN, of(link)->id);
    tine__buf_str(&b, what, strlen(what));
    far_queue(&stream, &b);
    tine__host_post(host, &of(link)->task);
}

static void hung(tine__link *link, const tine_error *err)
{
    far_say_error(&stream, FAR_HUNG, of(link)->id, err);
    tine__host_post(host, &of(link)->task);
}

/* Its last words first. */
static void drain(far_link *l)
{
    tine__link *link = &l->local->link;
    if (l->giving) {
        int fd = tine__local_transport.give(link);
        l->pump.fd = fd < 0 ? -1 : fd;
    }
    char data[FAR_CHUNK];
    ssize_t n;
    while (l->pump.fd >= 0 &&
           (n = recv(l->pump.fd, data, sizeof data, MSG_DONTWAIT)) > 0)
        far_say_data(&stream, FAR_DATA, l->id, data, (size_t)n);
    if (l->giving || l->pump.fd >= 0)
        far_say(&stream, FAR_DATA_END, l->id);
    l->giving = false;
    far_pump_close(&l->pump);
}

static void ended(tine__link *link, const tine_exit *how)
{
    far_link *l = of(link);
    tine__buf b;
    if (link->over)
        return;
    drain(l);
    leave(link);
    far_begin(&b, FAR_ENDED, l->id);
    tine__buf_put(&b, how, sizeof *how);
    far_queue(&stream, &b);
    tine__host_post(host, &l->task);
}

static void memory(tine__link *link, uint64_t command, const tine__figures *f)
{
    tine__buf b;
    far_begin(&b, FAR_MEMORY, of(link)->id);
    tine__buf_u64(&b, command);
    tine__buf_put(&b, f, sizeof *f);
    far_queue(&stream, &b);
    tine__host_post(host, &of(link)->task);
}

static void turn(tine__link *link)
{
    tine__host_post(host, &of(link)->task);
}

static const tine__news news = {
    .made = made,
    .did = did,
    .failed = failed,
    .never = never,
    .broken = broken,
    .hung = hung,
    .ended = ended,
    .memory = memory,
    .turn = turn,
    .later = turn,
};

/* ---------------------------------------------------------------------------- commands */

static far_link *add(uint64_t id)
{
    far_link *l = calloc(1, sizeof *l);
    tine__link *link = calloc(1, tine__local_transport.size);
    if (!l || !link)
        abort();
    l->id = id;
    l->local = (tine__local *)link;
    l->task = (tine__task){.run = run_task, .arg = l};
    l->pump.fd = -1;
    link->transport = &tine__local_transport;
    link->news = &news;
    link->host = host;
    if (tine__local_transport.open(link) < 0)
        abort();
    l->next = links;
    links = l;
    return l;
}

static void drop(far_link *l)
{
    far_link **at = &links;
    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    leave(&l->local->link);
    tine__host_unpost(host, &l->task);
    tine__local_transport.free(&l->local->link);
    far_pump_close(&l->pump);
    free((char *)(size_t)l->local->link.name);
    free(l->local);
    free(l);
}

static void get_birth(far_link *l, tine__cursor *c, tine_proc_options *options)
{
    tine__link *link = &l->local->link;
    memset(options, 0, sizeof *options);
    link->detach = tine__get_u32(c) != 0;
    link->spare = tine__get_u32(c) != 0;
    options->detach = link->detach;
    tine_str name = tine__get_str(c);
    if (name.len)
        link->name = strndup(name.data, name.len);
    for (int n = 0; n < 3; n++)
        options->stdio[n].how = (tine_stdio_how)tine__get_u32(c);
}

static char *get_text(tine__cursor *c)
{
    tine_str s = tine__get_str(c);
    return s.len ? strndup(s.data, s.len) : NULL;
}

static void on_exec(far_message *m)
{
    tine_proc_options options;
    far_link *l = add(m->id);
    get_birth(l, &m->body, &options);
    char *path = get_text(&m->body), *lua = get_text(&m->body), *c = get_text(&m->body);
    tine_host_set_interpreter(host, path);
    tine_host_set_lua_path(host, lua, c);
    free(path);
    free(lua);
    free(c);
    tine__local_exec(&l->local->link, &options);
    tine__host_post(host, &l->task);
}

static void on_fork(far_message *m)
{
    tine_proc_options options;
    far_link *parent = find(tine__get_u64(&m->body)), *l = add(m->id);
    tine__link *link = &l->local->link;
    get_birth(l, &m->body, &options);
    if (parent->local->link.over)
        return; /* the near end is about to hear of it, and sees to this one */
    if (tine__local_transport.fork(&parent->local->link, link, &options) == 0)
        link->parent = &parent->local->link;
    tine__host_post(host, &parent->task);
}

static void on_command(far_link *l, far_message *m)
{
    tine__link *link = &l->local->link;
    const tine__transport *t = link->transport;
    uint32_t a, b;
    switch (m->kind) {
    case FAR_PUT:
        a = tine__get_u32(&m->body);
        t->put(link, (int)a,
               &(tine_str){m->body.at, (size_t)(m->body.end - m->body.at)}, 1, NULL, 0);
        break;
    case FAR_LISTEN:
        a = tine__get_u32(&m->body);
        b = tine__get_u32(&m->body);
        t->listen(link, a != 0, b != 0);
        break;
    case FAR_SHUT_DOWN:
        l->shutting = true;
        break;
    case FAR_GIVE:
        l->giving = true;
        if (link->over)
            drain(l);
        break;
    case FAR_SIGNAL:
        a = tine__get_u32(&m->body);
        b = tine__get_u32(&m->body);
        t->signal(link, (int)a, (enum tine__target)b);
        break;
    default:
        break;
    }
    tine__host_post(host, &l->task);
}

static bool on_message(void *arg, far_message *m)
{
    far_link *l = find(m->id);
    (void)arg;
    if (m->kind == FAR_EXEC) {
        on_exec(m);
    } else if (m->kind == FAR_FORK) {
        on_fork(m);
    } else if (!l) {
        return true;
    } else if (m->kind == FAR_DATA || m->kind == FAR_DATA_END) {
        tine__buf_put(&l->pump.out, m->body.at, (size_t)(m->body.end - m->body.at));
        l->pump.ended = l->pump.ended || m->kind == FAR_DATA_END;
        to_process(l);
    } else if (m->kind == FAR_ORPHAN) {
        l->local->link.parent = NULL;
        tine__local_transport.orphan(&l->local->link);
    } else if (m->kind == FAR_CLOSE) {
        leave(&l->local->link);
        tine__local_transport.close(&l->local->link);
    } else if (m->kind == FAR_FREE) {
        drop(l);
    } else {
        on_command(l, m);
    }
    return true;
}

static void on_readable(void *arg, tine_io *io, int events)
{
    (void)arg, (void)io, (void)events;
    bool open = far_read(&stream);
    far_take(&stream, on_message, NULL);
    if (!open)
        tine_host_stop(host);
    send_all();
}

int main(void)
{
    prctl(PR_SET_NAME, "tine far end");
    if (tine_host_new(&host, NULL) < 0 ||
        tine_io_new(host, &stream.read_io, 0, TINE_READ, on_readable, NULL) < 0)
        return 1;
    tine_host_run(host);
    /* Those that were left. */
    tine__local_end_all(host);
    while (links)
        drop(links);
    tine__buf_free(&stream.in);
    tine__buf_free(&stream.out);
    tine_host_free(host);
    return 0;
}
