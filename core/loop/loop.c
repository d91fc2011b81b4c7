/* The only place that meets libevent: the base, owned or borrowed, watchers and signals.
 * Knows nothing of processes, but that there are turns to take.
 *
 * The loop of a borrowed base is the program's, and returns when no event is left in it. A host
 * always watches something, if only for the end of an idle template. So there its watchers are
 * marked as libevent marks its own, which it does not count; in their place it counts hold_event,
 * which is pending while tine_host_active says so, and, for EVLOOP_ONCE, tick_event with each of
 * their callbacks. */
#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "loop_priv.h"

/* What an event_base opens: epoll, timerfd, a pair for signals, one for threads; a spare. */
enum { BASE_FDS = 6, POLL_USEC = 100 };

/* What watchers and signals share. */
typedef struct handle {
    tine_host *host;
    struct event *event;
    void *arg;
    bool holds; /* the loop */
} handle;

struct tine_io {
    handle h;
    LIST_ENTRY(tine_io) link;
    tine_io_cb cb;
};

struct tine_signal {
    handle h;
    LIST_ENTRY(tine_signal) link;
    tine_signal_cb cb;
};

void tine__loop_hold(tine_host *host, bool *holds, bool on)
{
    static const struct timeval day = {86400, 0};
    if (*holds == on)
        return;
    *holds = on;
    host->loop->nactive += on ? 1 : (size_t)-1;
    bool active = host->loop->nactive > 0;
    if (!host->loop->hold_event || host->loop->holds == active)
        return;
    if (active && event_add(host->loop->hold_event, &day) < 0)
        return;
    if (!active)
        event_del(host->loop->hold_event);
    host->loop->holds = active;
}

static void handle_close(handle *h)
{
    /* In a fork of the host's process, event_del would reach into the parent's epoll. */
    if (tine__stale(h->host))
        return;
    tine__loop_hold(h->host, &h->holds, false);
    if (h->event)
        event_free(h->event);
}

/* A callback of libevent's begins; false: one before it has forked, and this is the other
 * process: the rest of the round is its parent's. */
static bool enter(tine_host *host)
{
    if (tine__stale(host)) {
        if (host->loop->own_base)
            event_base_loopbreak(host->loop->base);
        return false;
    }
    host->loop->called++;
    host->happened++;
    host->loop->depth++;
    if (host->loop->tick_event)
        event_active(host->loop->tick_event, EV_TIMEOUT, 0);
    return true;
}

static void leave(tine_host *host)
{
    host->loop->depth--;
}

/* In the loop's next round, when others have had their turn: what was activated by a callback
 * libevent runs before it looks at anything else. */
static void wake_next(tine_host *host)
{
    static const struct timeval now;
    if (event_add(host->loop->later_event, &now) < 0)
        event_active(host->loop->later_event, EV_TIMEOUT, 0);
}

static void take_turn(tine_host *host)
{
    host->loop->in_turn = true;
    host->loop->turn(host);
    tine__host_run_tasks(host);
    host->loop->in_turn = false;
    if (host->loop->expected || !STAILQ_EMPTY(&host->loop->tasks))
        wake_next(host);
}

static void on_later(evutil_socket_t fd, short events, void *arg)
{
    tine_host *host = arg;
    (void)fd;
    (void)events;
    if (!enter(host))
        return;
    take_turn(host);
    leave(host);
}

static void on_alarm(evutil_socket_t fd, short events, void *arg)
{
    tine_host *host = arg;
    (void)fd;
    (void)events;
    if (!enter(host))
        return;
    tine__timers_due(host);
    leave(host);
}

int tine__loop_alarm_open(tine_host *host)
{
    host->loop->alarm = event_new(host->loop->base, -1, 0, on_alarm, host);
    if (host->loop->alarm && !host->loop->own_base)
        host->loop->alarm->ev_evcallback.evcb_flags |= EVLIST_INTERNAL;
    return host->loop->alarm ? 0 : -ENOMEM;
}

void tine__loop_alarm(tine_host *host, int64_t usec)
{
    const struct timeval when = {usec / 1000000, usec % 1000000};
    const struct timeval now = {0, 0};
    if (event_add(host->loop->alarm, usec > 0 ? &when : &now) < 0)
        event_active(host->loop->alarm, EV_TIMEOUT, 0);
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
        host->loop->base = event_base_new_with_config(config);
        event_config_free(config);
    }
    tine__fd_close_all(fds, (size_t)low);
    return err;
}

static void on_nothing(evutil_socket_t fd, short events, void *arg)
{
    (void)fd, (void)events, (void)arg;
}

static int open_borrowed(tine_host *host)
{
    host->loop->tick_event = event_new(host->loop->base, -1, 0, on_nothing, NULL);
    host->loop->hold_event =
        event_new(host->loop->base, -1, EV_PERSIST, on_nothing, NULL);
    return host->loop->tick_event && host->loop->hold_event ? 0 : -ENOMEM;
}

int tine__loop_open(tine_host *host, struct event_base *base,
                    void (*turn)(tine_host *host))
{
    tine__loop *loop = host->loop = calloc(1, sizeof *loop);
    if (!loop)
        return -ENOMEM;
    loop->timer_fd = -1;
    loop->turn = turn;
    loop->base = base;
    STAILQ_INIT(&loop->tasks);
    TAILQ_INIT(&loop->flows);
    if (!base) {
        int err = open_base(host);
        if (err < 0)
            return err;
        loop->own_base = true;
    }
    if (!loop->base)
        return -ENOMEM;
    if (base && open_borrowed(host) < 0)
        return -ENOMEM;
    tine__spin_init(&loop->spin);
    loop->later_event = event_new(loop->base, -1, 0, on_later, host);
    return loop->later_event ? tine__timers_open(host) : -ENOMEM;
}

void tine__loop_close(tine_host *host)
{
    tine__loop *loop = host->loop;
    if (!loop)
        return;
    tine__flows_close(host);
    tine__timers_close(host);
    for (tine_io *io = LIST_FIRST(&loop->ios), *next; io; io = next) {
        next = LIST_NEXT(io, link);
        tine_io_free(io);
    }
    for (tine_signal *s = LIST_FIRST(&loop->signals), *next; s; s = next) {
        next = LIST_NEXT(s, link);
        tine_signal_free(s);
    }
    struct event *events[] = {loop->later_event, loop->hold_event, loop->tick_event,
                              loop->alarm};
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        if (events[i])
            event_free(events[i]);
    if (loop->own_base && loop->base)
        event_base_free(loop->base);
    free(loop);
    host->loop = NULL;
}

void tine__loop_look(tine_host *host, const tine__look *look)
{
    host->loop->look = look;
}

bool tine__loop_is_alone(const tine_host *host)
{
    return host->loop->spin.alone;
}

void tine__loop_wake(tine_host *host)
{
    if (!host->loop->in_turn)
        event_active(host->loop->later_event, EV_TIMEOUT, 0);
}

void tine__loop_expect(tine_host *host, bool turn)
{
    host->loop->expected = turn;
}

static void begin(tine_host *host)
{
    host->loop->running = true;
    host->stopped = false;
}

/* What a wait came to: something, maybe not of ours; or a timer that fired for what was over. */
enum { CAME, IN_VAIN };

/* Between the rounds of a loop: one round waits for at most one thing to happen. Without ONCE,
 * libevent goes round as long as anything is ready, and a flood always is. */
static int loop_once(tine_host *host, int flags)
{
    host->loop->called = host->loop->called_in_vain = 0;
    flags |= EVLOOP_ONCE;
    if (!host->loop->own_base) /* of what it does not count something may come, too */
        flags |= EVLOOP_NO_EXIT_ON_EMPTY;
    begin(host);
    int result = event_base_loop(host->loop->base, flags);
    host->loop->running = false;
    host->loop->polled_usec = tine__host_now(host);
    if (result < 0)
        return -EIO;
    return host->loop->called && host->loop->called == host->loop->called_in_vain
               ? IN_VAIN
               : CAME;
}

/* Reads answers that are there, for which libevent need not be asked. Returns whether any were. */
static bool hear(tine_host *host)
{
    begin(host);
    host->loop->in_turn = true; /* what is posted is done below */
    bool any = host->loop->look->take(host);
    host->loop->in_turn = false;
    if ((!STAILQ_EMPTY(&host->loop->tasks) || host->loop->expected) &&
        !tine__stale(host)) {
        if (!host->stopped)
            take_turn(host);
        else
            wake_next(host);
    }
    host->loop->running = false;
    return any;
}

/* Awake for a moment, where answers to calls are awaited; see spin.h. Returns whether any came. */
static bool loop_awake(tine_host *host)
{
    bool any;
    if (!host->loop->look || !host->loop->look->is_worth(host) ||
        !tine__spin_begin(&host->loop->spin))
        return false;
    do
        any = hear(host);
    while (!host->stopped && !any && tine__spin_on(&host->loop->spin));
    tine__spin_end(&host->loop->spin, any);
    return any;
}

/* Waits for one thing to happen, and does what is to be done about it. */
static int loop_wait(tine_host *host)
{
    bool heard =
        STAILQ_EMPTY(&host->loop->tasks) && !host->loop->expected && loop_awake(host);
    if (host->stopped || tine__stale(host))
        return CAME;
    if (!heard)
        return loop_once(host, EVLOOP_ONCE);
    /* Timers, and what else is watched, have their turn meanwhile. */
    bool due = host->now - host->loop->polled_usec >= POLL_USEC;
    int came = due ? loop_once(host, EVLOOP_NONBLOCK) : CAME;
    return came < 0 ? came : CAME;
}

int tine_host_run(tine_host *host)
{
    if (tine__stale(host))
        return -TINE_ESTALE;
    if (host->loop->running || host->loop->depth)
        return -EBUSY;
    while (!host->stopped && tine_host_active(host) > 0) {
        int err = loop_wait(host);
        if (err < 0)
            return err;
    }
    if (tine__stale(host)) /* a callback has forked, and this is the other process */
        return -TINE_ESTALE;
    bool stopped = host->stopped;
    host->stopped = false;
    return stopped;
}

void tine_host_stop(tine_host *host)
{
    if (tine__stale(host) || !host->loop->running)
        return;
    host->stopped = true;
    event_base_loopbreak(host->loop->base);
}

/* One thing, or the end of the time. */
static int poll_until(tine_host *host, int64_t until)
{
    int came;
    do {
        tine__timers_wake_at(host, until);
        came = loop_wait(host);
    } while (came == IN_VAIN && !host->stopped && tine__now_usec() < until);
    return came;
}

int tine_host_poll(tine_host *host, int64_t max_usec)
{
    if (tine__stale(host))
        return -TINE_ESTALE;
    if (host->loop->running || host->loop->depth)
        return -EBUSY;
    int64_t now = max_usec > 0 ? tine__now_usec() : 0;
    if (max_usec > INT64_MAX / 2 - now)
        max_usec = INT64_MAX / 2 - now;
    int came = max_usec > 0 ? poll_until(host, now + max_usec)
                            : loop_once(host, EVLOOP_NONBLOCK);
    host->stopped = false;
    return came < 0 ? came : tine_host_active(host);
}

int tine_host_active(const tine_host *host)
{
    if (tine__stale(host))
        return -TINE_ESTALE;
    return host->loop->nactive > 0 || host->loop->expected;
}

static void on_io(evutil_socket_t fd, short events, void *arg)
{
    tine_io *io = arg;
    tine_host *host = io->h.host;
    (void)fd;
    if (!enter(host))
        return;
    io->cb(io->h.arg, io,
           (events & EV_READ ? TINE_READ : 0) | (events & EV_WRITE ? TINE_WRITE : 0));
    leave(host);
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
    io->h.event = event_new(host->loop->base, fd, what, on_io, io);
    if (io->h.event && !host->loop->own_base)
        io->h.event->ev_evcallback.evcb_flags |= EVLIST_INTERNAL;
    if (!io->h.event || event_add(io->h.event, NULL) < 0) {
        int err = io->h.event && errno ? -errno : -ENOMEM;
        if (io->h.event)
            event_free(io->h.event);
        free(io);
        return err;
    }
    LIST_INSERT_HEAD(&host->loop->ios, io, link);
    *out = io;
    return 0;
}

int tine__io_watch(tine_io *io, bool on)
{
    if (!on)
        event_del(io->h.event);
    return on && event_add(io->h.event, NULL) < 0 ? -ENOMEM : 0;
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
        tine__loop_hold(host, &(*out)->h.holds, true);
    return err;
}

void tine_io_free(tine_io *io)
{
    if (!io)
        return;
    LIST_REMOVE(io, link);
    handle_close(&io->h);
    free(io);
}

static void on_signal(evutil_socket_t signo, short events, void *arg)
{
    tine_signal *s = arg;
    tine_host *host = s->h.host;
    (void)events;
    if (!enter(host))
        return;
    s->cb(s->h.arg, s, (int)signo);
    leave(host);
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
    s->h.event = evsignal_new(host->loop->base, signo, on_signal, s);
    if (!s->h.event || evsignal_add(s->h.event, NULL) < 0) {
        if (s->h.event)
            event_free(s->h.event);
        free(s);
        return -ENOMEM;
    }
    LIST_INSERT_HEAD(&host->loop->signals, s, link);
    tine__loop_hold(host, &s->h.holds, true);
    *out = s;
    return 0;
}

void tine_signal_free(tine_signal *s)
{
    if (!s)
        return;
    LIST_REMOVE(s, link);
    handle_close(&s->h);
    free(s);
}
