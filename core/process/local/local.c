/* The transport for local processes: its table, and a host's part of it. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/fd.h"
#include "local_priv.h"
#include "sweeper.h"

static int open_link(tine__link *link)
{
    tine__local *l = tine__local_of(link);
    l->pidfd = l->own_channel = -1;
    l->commanded = true;
    tine__chan_init(&l->chan, -1);
    return tine__local_add(l);
}

/* A host that was busy has yet to hear what its worker has said in time. */
static enum tine__heard hear(tine__link *link)
{
    if (tine__pidfd_has_ended(tine__local_of(link)))
        return TINE__HEARD_END;
    bool all = tine__reports_read(link->host, TINE__REPORTS_ALL);
    return all ? TINE__HEARD_ALL : TINE__HEARD_SOME;
}

static void give_up(tine__local *l)
{
    tine__local_free_socket_watchers(l);
    tine_io_free(l->pidfd_io);
    tine_timer_free(l->timer);
    l->pidfd_io = NULL;
    l->timer = NULL;
    tine__chan_free(&l->chan);
}

/* What it has started goes with it. Who reaped it has seen to that before, if anybody did. */
static void close_link(tine__link *link)
{
    tine__local *l = tine__local_of(link);
    give_up(l);
    if (link->made && !l->direct && !link->detach && !l->adopted && !l->tidied)
        tine__pidfd_signal_group(l, SIGKILL);
    tine__fd_close(&l->pidfd);
}

static void free_link(tine__link *link)
{
    tine__local *l = tine__local_of(link);
    give_up(l);
    tine__captures_close(l);
    tine__fd_close(&l->pidfd);
    tine__fd_close(&l->own_channel);
    tine__local_remove(l);
}

int tine__local_open(tine_host *host, const tine__news *news)
{
    tine__local_host *h = calloc(1, sizeof *h);
    if (!h)
        return -ENOMEM;
    host->local = h;
    h->news = news;
    h->report_rx = h->report_tx = h->sweeper_fd = h->sweeper_pidfd = -1;
    if (getrandom(&h->secret, sizeof h->secret, GRND_NONBLOCK) < 0)
        h->secret = (uint64_t)getpid() << 32 ^ (uint64_t)(size_t)h;
    return tine__reports_open(host);
}

/* The loop has been closed, and its watchers with it. */
void tine__local_close(tine_host *host)
{
    tine__local_host *h = host->local;
    if (!h)
        return;
    tine__fd_close(&h->report_rx);
    tine__fd_close(&h->report_tx);
    tine__sweeper_end(h);
    free(h->interpreter);
    free(h->found_interpreter);
    free(h->lua_path);
    free(h->lua_cpath);
    free(h->report_buf);
    free(h->slots);
    free(h);
    host->local = NULL;
}

const tine__transport tine__local_transport = {
    .size = sizeof(tine__local),
    .open = open_link,
    .fork = tine__local_fork,
    .put = tine__local_put,
    .serve = tine__local_serve,
    .is_sent = tine__local_is_sent,
    .flush = tine__local_flush,
    .listen = tine__local_listen,
    .shut_down = tine__local_shut_down,
    .give = tine__local_give,
    .take_back = tine__local_take_back,
    .signal = tine__local_signal,
    .hear = hear,
    .output = tine__local_output,
    .memory = tine__local_memory,
    .orphan = tine__local_orphan,
    .close = close_link,
    .free = free_link,
};
