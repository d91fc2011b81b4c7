#include "flow.h"

#include "loop_priv.h"

/* Microseconds. LONG is what a job with ten thousand events does not take; then a turn is followed
 * by REST times its time without one. When nothing else has happened in QUIET, QUIET_TIMES in a row,
 * there are turns without a pause: the others have no need of the host. */
enum {
    LONG_USEC = 50000,
    MOST_USEC = LONG_USEC + 1,
    QUIET_USEC = 200,
    QUIET_TIMES = 25,
    REST = 9
};

static void on_turn(void *arg, tine_timer *timer);

static void wake_after(tine_host *host, int64_t usec)
{
    tine_timer_free(host->loop->flow_timer);
    host->loop->flow_timer = NULL;
    host->loop->flow_seen = host->happened;
    tine__timer_internal(host, &host->loop->flow_timer, usec, on_turn, host);
}

/* Without memory for a timer nobody is held back. */
static void hold(tine_host *host, tine__flow *f, tine_io *io)
{
    if (!host->loop->flow_timer)
        wake_after(host, QUIET_USEC);
    if (!host->loop->flow_timer)
        return;
    f->io = io;
    f->held = true;
    tine__io_watch(io, false);
    TAILQ_INSERT_TAIL(&host->loop->flows, f, others);
}

static void let_go(tine_host *host, tine__flow *f)
{
    f->held = false;
    TAILQ_REMOVE(&host->loop->flows, f, others);
}

/* Short of memory it is held for some more time. */
static void release(tine_host *host, tine__flow *f)
{
    if (tine__io_watch(f->io, true) == 0)
        let_go(host, f);
}

/* Others wait for answers, who do not send all the time themselves. */
static bool is_wanted(const tine_host *host)
{
    return host->nbusy > host->nbusy_long;
}

static void set_long(tine_host *host, tine__flow *f, bool is_long)
{
    if (f->owes && f->is_long != is_long)
        host->nbusy_long += is_long ? 1 : (size_t)-1;
    f->is_long = is_long;
}

void tine__flow_had(tine_host *host, tine__flow *f, tine_io *io, int64_t usec, bool dry)
{
    if (dry) {
        f->usec -= f->usec > 0 ? f->usec / 8 + 1 : 0;
        set_long(host, f, false);
        if (f->held)
            release(host, f);
        return;
    }
    f->usec = f->usec + usec < MOST_USEC ? f->usec + usec : MOST_USEC;
    set_long(host, f, f->usec > LONG_USEC);
    if (!f->held && f->is_long && is_wanted(host))
        hold(host, f, io);
}

void tine__flow_end(tine_host *host, tine__flow *f)
{
    if (f->held)
        let_go(host, f);
    set_long(host, f, false);
}

void tine__flow_owes(tine_host *host, tine__flow *f, bool owes)
{
    if (f->is_long && f->owes != owes)
        host->nbusy_long += owes ? 1 : (size_t)-1;
    f->owes = owes;
}

static void release_all(tine_host *host)
{
    for (tine__flow *f = TAILQ_FIRST(&host->loop->flows), *next; f; f = next) {
        next = TAILQ_NEXT(f, others);
        release(host, f);
    }
}

/* The first in the row; a callback may end any of them. */
static int64_t give_turn(tine_host *host)
{
    tine__flow *f = TAILQ_FIRST(&host->loop->flows);
    int64_t began = tine__host_now(host);
    TAILQ_REMOVE(&host->loop->flows, f, others);
    TAILQ_INSERT_TAIL(&host->loop->flows, f, others);
    f->turn(f->arg);
    return tine__host_now(host) - began;
}

static void on_turn(void *arg, tine_timer *timer)
{
    tine_host *host = arg;
    (void)timer;
    bool quiet = host->happened <= host->loop->flow_seen + 1; /* the timer's own */
    int64_t now = tine__host_now(host), wait = QUIET_USEC;
    host->loop->flow_quiet = quiet ? host->loop->flow_quiet + 1 : 0;
    if (!is_wanted(host))
        release_all(host);
    if (!TAILQ_EMPTY(&host->loop->flows) && (quiet || now >= host->loop->flow_next)) {
        host->loop->flow_next = now + (REST + 1) * give_turn(host);
        wait = host->loop->flow_quiet > QUIET_TIMES ? 0 : QUIET_USEC;
    }
    if (tine__stale(host))
        return;
    tine_timer_free(host->loop->flow_timer);
    host->loop->flow_timer = NULL;
    if (!TAILQ_EMPTY(&host->loop->flows))
        wake_after(host, wait);
}

void tine__flows_close(tine_host *host)
{
    tine_timer_free(host->loop->flow_timer);
    host->loop->flow_timer = NULL;
}
