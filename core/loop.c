/* The only place that meets libevent: the base, owned or borrowed, timers, watchers and
 * signals. Knows nothing of processes, but that the host has turns to take. */
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fd.h"
#include "host.h"

/* What an event_base opens: epoll, timerfd, a pair for signals, one for threads; a spare. */
enum { BASE_FDS = 6 };

/* What timers, watchers and signals share. */
typedef struct handle {
    tine_host *host;
    struct event *event;
    void *arg;
    bool counted; /* in host->nactive */
} handle;

struct tine_timer {
    handle h;
    tine_timer *next, *prev;
    tine_timer_cb cb;
    int64_t every_usec;
};

struct tine_io {
    handle h;
    tine_io *next, *prev;
    tine_io_cb cb;
};

struct tine_signal {
    handle h;
    tine_signal *next, *prev;
    tine_signal_cb cb;
};

#define LINK(list, object)                                                             \
    do {                                                                               \
        (object)->next = *(list);                                                      \
        if (*(list))                                                                   \
            (*(list))->prev = (object);                                                \
        *(list) = (object);                                                            \
    } while (0)

#define UNLINK(list, object)                                                           \
    do {                                                                               \
        if ((object)->prev)                                                            \
            (object)->prev->next = (object)->next;                                     \
        else                                                                           \
            *(list) = (object)->next;                                                  \
        if ((object)->next)                                                            \
            (object)->next->prev = (object)->prev;                                     \
    } while (0)

static void count(handle *h, bool on)
{
    if (h->counted == on)
        return;
    h->counted = on;
    h->host->nactive += on ? 1 : (size_t)-1;
}

static void handle_close(handle *h)
{
    /* In a fork of the host's process, event_del would reach into the parent's epoll. */
    if (tine__stale(h->host))
        return;
    count(h, false);
    if (h->event)
        event_free(h->event);
}

static void on_later(evutil_socket_t fd, short events, void *arg)
{
    (void)fd;
    (void)events;
    tine__host_turn(arg);
}

/* Out of descriptors, libevent would end the program, and with 0, 1 or 2 closed it would
 * take these: so first see that there are as many as it needs, all above 2. */
static int open_base(tine_host *host)
{
    int fds[3 + BASE_FDS], n = 0, above = 0, err = 0;
    while (above < BASE_FDS && !err) {
        fds[n] = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (fds[n] < 0)
            err = -errno;
        else
            above += fds[n++] > 2;
    }
    int low = n - above;
    tine__fd_close_all(fds + low, (size_t)above);
    struct event_config *config = err ? NULL : event_config_new();
    if (config) {
        event_config_set_flag(config, EVENT_BASE_FLAG_PRECISE_TIMER);
        host->base = event_base_new_with_config(config);
        event_config_free(config);
    }
    tine__fd_close_all(fds, (size_t)low);
    return err;
}

static void on_poll_timeout(evutil_socket_t fd, short events, void *arg)
{
    (void)fd;
    (void)events;
    (void)arg;
}

int tine__loop_open(tine_host *host, struct event_base *base)
{
    host->base = base;
    if (!base) {
        int err = open_base(host);
        if (err < 0)
            return err;
        host->own_base = true;
    }
    if (!host->base)
        return -ENOMEM;
    host->later_event = event_new(host->base, -1, 0, on_later, host);
    host->poll_event = event_new(host->base, -1, 0, on_poll_timeout, NULL);
    return host->later_event && host->poll_event ? 0 : -ENOMEM;
}

void tine__loop_close(tine_host *host)
{
    for (tine_timer *t = host->timers, *next; t; t = next) {
        next = t->next;
        tine_timer_free(t);
    }
    for (tine_io *io = host->ios, *next; io; io = next) {
        next = io->next;
        tine_io_free(io);
    }
    for (tine_signal *s = host->signals, *next; s; s = next) {
        next = s->next;
        tine_signal_free(s);
    }
    if (host->later_event)
        event_free(host->later_event);
    if (host->poll_event)
        event_free(host->poll_event);
    if (host->own_base && host->base)
        event_base_free(host->base);
}

void tine__loop_wake(tine_host *host)
{
    event_active(host->later_event, EV_TIMEOUT, 0);
}

/* Between the rounds of a loop: one round waits for at most one thing to happen. */
static int loop_once(tine_host *host, int flags)
{
    host->running = true;
    host->stopped = false;
    int result = event_base_loop(host->base, flags);
    host->running = false;
    return result < 0 ? -EIO : 0;
}

int tine_host_run(tine_host *host)
{
    if (tine__stale(host))
        return -TINE_ESTALE;
    if (host->running)
        return -EBUSY;
    while (!host->stopped && tine_host_active(host) > 0) {
        int err = loop_once(host, EVLOOP_ONCE);
        if (err < 0)
            return err;
    }
    bool stopped = host->stopped;
    host->stopped = false;
    return stopped;
}

void tine_host_stop(tine_host *host)
{
    if (tine__stale(host) || !host->running)
        return;
    host->stopped = true;
    event_base_loopbreak(host->base);
}

int tine_host_poll(tine_host *host, int64_t max_usec)
{
    if (tine__stale(host))
        return -TINE_ESTALE;
    if (host->running)
        return -EBUSY;
    if (max_usec > 0) {
        struct timeval tv = {max_usec / 1000000, max_usec % 1000000};
        if (event_add(host->poll_event, &tv) < 0)
            return -ENOMEM;
    }
    int err = loop_once(host, max_usec > 0 ? EVLOOP_ONCE : EVLOOP_NONBLOCK);
    if (max_usec > 0)
        event_del(host->poll_event);
    host->stopped = false;
    return err < 0 ? err : tine_host_active(host);
}

int tine_host_active(const tine_host *host)
{
    if (tine__stale(host))
        return -TINE_ESTALE;
    return host->nactive > 0 || host->later;
}

static struct timeval timeval_of(int64_t usec)
{
    if (usec < 0)
        usec = 0;
    return (struct timeval){usec / 1000000, usec % 1000000};
}

static void on_timer(evutil_socket_t fd, short events, void *arg)
{
    tine_timer *t = arg;
    (void)fd;
    (void)events;
    if (t->every_usec >= 0) {
        struct timeval tv = timeval_of(t->every_usec);
        event_add(t->h.event, &tv);
    } else {
        count(&t->h, false);
    }
    t->cb(t->h.arg, t);
}

int tine__timer_internal(tine_host *host, tine_timer **out, int64_t after_usec,
                         tine_timer_cb cb, void *arg)
{
    tine_timer *t = calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    t->h.host = host;
    t->h.arg = arg;
    t->cb = cb;
    t->every_usec = -1;
    t->h.event = event_new(host->base, -1, 0, on_timer, t);
    struct timeval tv = timeval_of(after_usec);
    if (!t->h.event || event_add(t->h.event, &tv) < 0) {
        if (t->h.event)
            event_free(t->h.event);
        free(t);
        return -ENOMEM;
    }
    LINK(&host->timers, t);
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
    count(&(*out)->h, true);
    return 0;
}

void tine_timer_free(tine_timer *t)
{
    if (!t)
        return;
    UNLINK(&t->h.host->timers, t);
    handle_close(&t->h);
    free(t);
}

static void on_io(evutil_socket_t fd, short events, void *arg)
{
    tine_io *io = arg;
    (void)fd;
    io->cb(io->h.arg, io,
           (events & EV_READ ? TINE_READ : 0) | (events & EV_WRITE ? TINE_WRITE : 0));
}

int tine__io_internal(tine_host *host, tine_io **out, int fd, int events, tine_io_cb cb,
                      void *arg)
{
    tine_io *io = calloc(1, sizeof *io);
    if (!io)
        return -ENOMEM;
    io->h.host = host;
    io->h.arg = arg;
    io->cb = cb;
    short what = (short)((events & TINE_READ ? EV_READ : 0) |
                         (events & TINE_WRITE ? EV_WRITE : 0) | EV_PERSIST);
    errno = 0;
    io->h.event = event_new(host->base, fd, what, on_io, io);
    if (!io->h.event || event_add(io->h.event, NULL) < 0) {
        int err = io->h.event && errno ? -errno : -ENOMEM;
        if (io->h.event)
            event_free(io->h.event);
        free(io);
        return err;
    }
    LINK(&host->ios, io);
    *out = io;
    return 0;
}

/* Whether epoll takes the descriptor. libevent is not asked: it prints when it does not. */
static int check_fd(int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (S_ISSOCK(st.st_mode) || S_ISFIFO(st.st_mode))
        return 0;
    int probe = epoll_create1(EPOLL_CLOEXEC);
    if (probe < 0)
        return -errno;
    struct epoll_event event = {.events = EPOLLIN};
    int err = epoll_ctl(probe, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
    close(probe);
    return err;
}

int tine_io_new(tine_host *host, tine_io **out, int fd, int events, tine_io_cb cb,
                void *arg)
{
    if (tine__stale(host))
        return -TINE_ESTALE;
    if (!(events & (TINE_READ | TINE_WRITE)) || events & ~(TINE_READ | TINE_WRITE))
        return -EINVAL;
    int err = check_fd(fd);
    if (!err)
        err = tine__io_internal(host, out, fd, events, cb, arg);
    if (!err)
        count(&(*out)->h, true);
    return err;
}

void tine_io_free(tine_io *io)
{
    if (!io)
        return;
    UNLINK(&io->h.host->ios, io);
    handle_close(&io->h);
    free(io);
}

static void on_signal(evutil_socket_t signo, short events, void *arg)
{
    tine_signal *s = arg;
    (void)events;
    s->cb(s->h.arg, s, (int)signo);
}

int tine_signal_new(tine_host *host, tine_signal **out, int signo, tine_signal_cb cb,
                    void *arg)
{
    if (tine__stale(host))
        return -TINE_ESTALE;
    if (signo < 1 || signo > SIGRTMAX || signo == SIGKILL || signo == SIGSTOP ||
        signo == SIGCHLD)
        return -EINVAL;
    tine_signal *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->h.host = host;
    s->h.arg = arg;
    s->cb = cb;
    s->h.event = evsignal_new(host->base, signo, on_signal, s);
    if (!s->h.event || evsignal_add(s->h.event, NULL) < 0) {
        if (s->h.event)
            event_free(s->h.event);
        free(s);
        return -ENOMEM;
    }
    LINK(&host->signals, s);
    count(&s->h, true);
    *out = s;
    return 0;
}

void tine_signal_free(tine_signal *s)
{
    if (!s)
        return;
    UNLINK(&s->h.host->signals, s);
    handle_close(&s->h);
    free(s);
}
