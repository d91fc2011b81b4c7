/* Timers: a queue, and one timerfd that the loop watches. libevent's own are precise to a
 * millisecond, or cost a system call in each turn of the loop. The timerfd is set only when
 * something earlier comes up; what it then fires for may be over already, and nothing happens. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "loop_priv.h"

struct tine_timer {
    tine_host *host;
    LIST_ENTRY(tine_timer) link; /* of the host's */
    tine_timer_cb cb;
    void *arg;
    int64_t at, every_usec;
    uint64_t order; /* of equal times the first comes first */
    size_t place;   /* in the queue */
    bool holds;     /* the loop */
};

static bool goes_before(const void *a, const void *b)
{
    const tine_timer *x = a, *y = b;
    return x->at != y->at ? x->at < y->at : x->order < y->order;
}

static int queue(tine_host *host, tine_timer *t)
{
    t->order = ++host->loop->timer_order;
    return tine__prioq_add(&host->loop->timer_queue, t);
}

static tine_timer *first_of(const tine_host *host)
{
    return tine__prioq_first(&host->loop->timer_queue);
}

/* -------------------------------------------------------------------- timerfd */

void tine__timers_wake_at(tine_host *host, int64_t usec)
{
    if (host->loop->armed_at && host->loop->armed_at <= usec)
        return;
    struct itimerspec when = {{0, 0}, {usec / 1000000, usec % 1000000 * 1000}};
    if (usec <= 0)
        when.it_value.tv_nsec = 1;
    if (host->loop->timer_fd < 0)
        tine__loop_alarm(host, usec - tine__now_usec());
    else
        timerfd_settime(host->loop->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
    host->loop->armed_at = usec > 0 ? usec : 1;
}

static void fire(tine_host *host, tine_timer *t, int64_t now)
{
    tine__prioq_remove(&host->loop->timer_queue, t);
    if (t->every_usec >= 0) {
        t->at = now + t->every_usec;
        queue(host, t); /* there is room: it has just left */
    } else {
        tine__loop_hold(host, &t->holds, false);
    }
    t->cb(t->arg, t);
}

void tine__timers_due(tine_host *host)
{
    int64_t now = tine__now_usec();
    host->loop->armed_at = 0;
    tine_timer *t = first_of(host);
    if (!t || t->at > now)
        host->loop->called_in_vain++;
    /* What is added meanwhile waits for the next turn. */
    for (size_t n = host->loop->timer_queue.n;
         n > 0 && (t = first_of(host)) && t->at <= now && !host->stopped; n--)
        fire(host, t, now);
    if ((t = first_of(host)))
        tine__timers_wake_at(host, t->at);
}

static void on_timerfd(void *arg, tine_io *io, int events)
{
    tine_host *host = arg;
    uint64_t times;
    (void)io;
    (void)events;
    if (read(host->loop->timer_fd, &times, sizeof times) >= 0)
        tine__timers_due(host);
}

int tine__timers_open(tine_host *host)
{
    tine__prioq_init(&host->loop->timer_queue, goes_before,
                     offsetof(tine_timer, place));
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (fd < 0 && (errno == ENOSYS || errno == EPERM || errno == EACCES))
        return tine__loop_alarm_open(host);
    host->loop->timer_fd = fd < 0 ? -errno : tine__fd_above_stdio(fd);
    if (host->loop->timer_fd < 0)
        return host->loop->timer_fd;
    return tine__io_internal(host, &host->loop->timer_io, host->loop->timer_fd,
                             TINE_READ, on_timerfd, host);
}

void tine__timers_close(tine_host *host)
{
    for (tine_timer *t = LIST_FIRST(&host->loop->timers), *next; t; t = next) {
        next = LIST_NEXT(t, link);
        tine_timer_free(t);
    }
    tine_io_free(host->loop->timer_io);
    tine__fd_close(&host->loop->timer_fd);
    tine__prioq_free(&host->loop->timer_queue);
}

/* ---------------------------------------------------------------------- public */

static int64_t later(int64_t after_usec)
{
    int64_t now = tine__now_usec();
    if (after_usec < 0)
        after_usec = 0;
    return after_usec > INT64_MAX / 2 - now ? INT64_MAX / 2 : now + after_usec;
}

int tine__timer_internal(tine_host *host, tine_timer **out, int64_t after_usec,
                         tine_timer_cb cb, void *arg)
{
    tine_timer *t = calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    t->host = host;
    t->cb = cb;
    t->arg = arg;
    t->at = later(after_usec);
    t->every_usec = -1;
    if (queue(host, t) < 0) {
        free(t);
        return -ENOMEM;
    }
    LIST_INSERT_HEAD(&host->loop->timers, t, link);
    tine__timers_wake_at(host, t->at);
    *out = t;
    return 0;
}

int tine_timer_new(tine_host *host, tine_timer **out, int64_t after_usec,
                   int64_t every_usec, tine_timer_cb cb, void *arg)
{
    if (tine__stale(host))
        return -TINE_ESTALE;
    int err = tine__timer_internal(host, out, after_usec, cb, arg);
    if (err < 0)
        return err;
    (*out)->every_usec = every_usec;
    tine__loop_hold(host, &(*out)->holds, true);
    return 0;
}

void tine_timer_free(tine_timer *t)
{
    if (!t)
        return;
    tine_host *host = t->host;
    LIST_REMOVE(t, link);
    tine__prioq_remove(&host->loop->timer_queue, t);
    tine__loop_hold(host, &t->holds, false);
    free(t);
}
