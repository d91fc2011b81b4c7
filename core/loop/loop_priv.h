/* The loop's part of a host, as loop.c (libevent) <- timer.c, turn.c share it. Knows nothing that loop.h
 * does not. */
#ifndef TINE_LOOP_LOOP_PRIV_H
#define TINE_LOOP_LOOP_PRIV_H

#include "base/prioq.h"
#include "base/spin.h"
#include "loop.h"

struct event;

enum { TINE__CLOSERS = 4 };

typedef struct tine__loop {
    struct event_base *base;
    bool own_base, running, in_turn;
    bool holds;                    /* hold_event is pending */
    bool expected;                 /* see tine__loop_expect */
    void (*turn)(tine_host *host); /* given at open */
    const tine__look *look;        /* what to look at before sleeping, or NULL */
    void (*closers[TINE__CLOSERS])(tine_host *host);
    /* Of a borrowed base: pending while there is something to wait for; see loop.c. */
    struct event *hold_event, *tick_event;
    struct event *later_event; /* active when a turn is wanted */
    size_t nactive;            /* timers, watchers and busy processes */
    unsigned depth;            /* callbacks of libevent's that are under way */

    int timer_fd; /* or -1: where the system refuses one, there is the alarm */
    tine_io *timer_io;
    struct event *alarm;
    int64_t armed_at; /* what the timerfd is set to; 0: nothing */
    unsigned called,
        called_in_vain;  /* callbacks in this round; of a timer, for nothing */
    int64_t polled_usec; /* when libevent has looked at everything last */
    tine__spin spin;
    tine__prioq timer_queue;
    uint64_t timer_order;
    LIST_HEAD(, tine_timer) timers; /* all that live, for tine_host_free */
    LIST_HEAD(, tine_io) ios;
    LIST_HEAD(, tine_signal) signals;
    STAILQ_HEAD(, tine__task) tasks; /* posted */
    TAILQ_HEAD(, tine__flow) flows;  /* see flow.h: those held back */
    tine_timer *flow_timer;          /* while there are any */
    int64_t flow_next;   /* when one may have a turn whatever else happens */
    unsigned flow_quiet; /* wakings in a row without anything else */
    uint64_t flow_seen;  /* what had happened after the last turn */
} tine__loop;

#endif
