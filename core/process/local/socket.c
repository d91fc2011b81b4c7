/* The command socket of a process: commands out, and what should not come in. */
#include <errno.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "local_priv.h"
#include "wire/protocol.h"

enum { RETRY_USEC = 5000 };

int tine__local_open_socket(tine__local *l, int *far)
{
    int pair[2];
    int err = tine__fd_pair(SOCK_STREAM, pair);
    if (err < 0)
        return err;
    tine__chan_init(&l->chan, pair[0]);
    *far = pair[1];
    return 0;
}

/* --------------------------------------------------------------------- watchers */

/* Nobody reads the command socket. Of a process that is not ours, no other news will come. */
static void socket_ended(tine__local *l)
{
    l->link.shut = true;
    if (!l->adopted || l->link.made)
        return;
    tine_error err = tine__error_make(TINE_KIND_CLOSED, 0,
                                      "the process behind the descriptor is gone");
    l->link.news->never(&l->link, &err);
}

static void data_came(tine__local *l)
{
    const tine__news *news = l->link.news;
    if (!l->link.made) {
        /* The answer to our greeting came before. */
        l->link.refs++;
        tine__reports_read(l->link.host, TINE__REPORTS_ALL);
        l->link.refs--;
        news->later(&l->link);
    }
    if (l->link.made && l->commanded) {
        news->broken(&l->link, "it sent data before it was told to run");
    } else if (!l->link.made) {
        tine_error err = tine__error_make(
            TINE_KIND_PROTOCOL, 0,
            "something else than a process of tine is behind the descriptor");
        news->never(&l->link, &err);
    }
}

static void on_command_socket(void *arg, tine_io *io, int events)
{
    tine__local *l = arg;
    char byte;
    (void)io;
    (void)events;
    ssize_t n = recv(l->chan.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    tine_io_free(l->read_io);
    l->read_io = NULL;
    l->link.shut = true;
    if (n > 0)
        data_came(l);
    else
        socket_ended(l);
}

static void on_writable(void *arg, tine_io *io, int events)
{
    tine__local *l = arg;
    (void)io;
    (void)events;
    l->link.news->turn(&l->link);
}

static void on_retry(void *arg, tine_timer *timer)
{
    tine__local *l = arg;
    (void)timer;
    tine_timer_free(l->retry);
    l->retry = NULL;
    l->link.news->turn(&l->link);
}

static void watch(tine__local *l, tine_io **io, bool wanted, int events, tine_io_cb cb)
{
    if (wanted && !*io) {
        int err = tine__io_internal(l->link.host, io, l->chan.fd, events, cb, l);
        if (err < 0 && events == TINE_WRITE) /* short of memory: try again for as */
            l->link.news->later(&l->link);   /* long as it takes */
    } else if (!wanted && *io) {
        tine_io_free(*io);
        *io = NULL;
    }
}

static void unwatch(tine__local *l)
{
    watch(l, &l->read_io, false, 0, NULL);
    watch(l, &l->write_io, false, 0, NULL);
}

void tine__local_free_socket_watchers(tine__local *l)
{
    unwatch(l);
    tine_timer_free(l->retry);
    l->retry = NULL;
}

void tine__local_listen(tine__link *link, bool commanded, bool idle)
{
    tine__local *l = tine__local_of(link);
    bool open = l->chan.fd >= 0 && !link->over;
    bool ours = commanded || (l->adopted && !link->made);
    l->commanded = commanded;
    idle = idle || l->adopted || l->read_io;
    watch(l, &l->read_io, open && ours && !link->shut && idle, TINE_READ,
          on_command_socket);
}

/* --------------------------------------------------------------------- commands */

int tine__local_put(tine__link *link, int type, const tine_str *parts, size_t nparts,
                    const int *fds, size_t nfds)
{
    return tine__chan_put(&tine__local_of(link)->chan, type, parts, nparts, fds, nfds);
}

int tine__local_serve(tine__link *link, const tine_str *parts, size_t nparts,
                      int memory)
{
    int fd = tine__fd_dup(memory);
    int err =
        fd < 0 ? fd : tine__local_put(link, TINE__FRAME_SERVE, parts, nparts, &fd, 1);
    if (err < 0)
        tine__fd_close(&fd);
    return err;
}

bool tine__local_is_sent(const tine__link *link)
{
    return tine__chan_empty(&((const tine__local *)link)->chan);
}

/* How it ended, the reports or the pidfd will tell. */
static void broke(tine__local *l)
{
    unwatch(l);
    int fd = l->chan.fd;
    l->chan.fd = -1;
    tine__chan_free(&l->chan);
    l->chan.fd = fd;
    shutdown(fd, SHUT_WR); /* if somebody does read, that was all */
    socket_ended(l);
}

int tine__local_flush(tine__link *link)
{
    tine__local *l = tine__local_of(link);
    if (tine__chan_empty(&l->chan))
        return 0;
    int err = tine__chan_flush(&l->chan);
    watch(l, &l->write_io, err == -EAGAIN, TINE_WRITE, on_writable);
    if (err == -ENOBUFS) {
        if (!l->retry &&
            tine__timer_internal(link->host, &l->retry, RETRY_USEC, on_retry, l) < 0)
            link->news->later(link);
    } else if (err < 0 && err != -EAGAIN) {
        broke(l);
    }
    return err;
}

void tine__local_shut_down(tine__link *link)
{
    tine__local *l = tine__local_of(link);
    if (l->chan.fd < 0)
        return;
    unwatch(l);
    /* Also where a fork of the program holds a duplicate of the socket. */
    shutdown(l->chan.fd, SHUT_WR);
    tine__fd_close(&l->chan.fd);
}

/* At its end what was queued is lost: the end of the process will tell. */
int tine__local_give(tine__link *link)
{
    tine__local *l = tine__local_of(link);
    if (link->shut || !tine__chan_empty(&l->chan))
        return -EAGAIN;
    unwatch(l);
    int fd = l->chan.fd;
    l->chan.fd = -1;
    return fd;
}

/* It has let go of the report channel when it was told to serve, and who has none cannot tell of its
 * workers. */
int tine__local_take_back(tine__link *link, int fd)
{
    tine__local *l = tine__local_of(link);
    l->chan.fd = fd;
    int report = tine__fd_dup(tine__local_host_of(l)->report_tx);
    int err = report < 0
                  ? report
                  : tine__local_put(link, TINE__FRAME_CHANNEL, NULL, 0, &report, 1);
    if (report >= 0 && err < 0)
        tine__fd_close(&report);
    return err;
}
