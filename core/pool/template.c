/* The processes that a pool forks its workers from: the template, a spare that takes its place
 * if it dies, and a new one that is tried out first. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool.h"

enum { MOST_REPLAYS = 5 }; /* in a row, without a worker */

static void forget(tine__source *s)
{
    tine__replay_unref(s->replay);
    LIST_REMOVE(s, link);
    free(s);
}

static void die(tine_pool *pool, const tine_error *err)
{
    if (pool->is_dead)
        return;
    pool->is_dead = true;
    pool->dead = tine__cause_new(err);
    tine__pool_end_queued(pool, TINE__FATE_NO_WORKERS);
    tine__pool_wake(pool);
}

/* What it was told to do before it was ours has failed. */
static void on_failed(void *arg, tine_proc *p, const tine_error *err)
{
    tine__source *s = arg;
    tine_pool *pool = s->pool;
    bool again = s->replay && s->proven && tine_proc_ended(p); /* on_ended sees to it */
    if (s == pool->candidate)
        tine__pool_reload_failed(pool, err);
    else if (s == pool->current && !pool->spare && !again)
        die(pool, err);
}

/* A template like s, which has ended with all that stood in for it. */
static bool make_again(tine_pool *pool, const tine__source *s)
{
    tine_proc *p;
    if (!s->replay || !s->proven || pool->is_dead || pool->replayed >= MOST_REPLAYS)
        return false;
    if (tine__replay_make(pool->host, s->replay, &p) < 0)
        return false;
    if (tine__source_hold(pool, p, true, &pool->current) < 0) {
        pool->current = NULL;
        tine_proc_close(p);
        return false;
    }
    pool->current->replay = tine__replay_ref(s->replay);
    pool->current->proven = true;
    pool->replayed++;
    pool->n.replays++;
    tine__sched_succeeded(pool->sched); /* what failed was of the old one */
    return true;
}

static void lost_current(tine_pool *pool, const tine__source *s, const tine_error *why)
{
    char text[CAUSE_MAX];
    pool->current = pool->spare;
    pool->spare = NULL;
    if (pool->current) {
        tine__pool_make_spare(pool);
        return;
    }
    if (!(why && why->kind == TINE_KIND_EXCEPTION) && make_again(pool, s))
        return;
    tine_error err = why ? *why : tine__error_make(TINE_KIND_CLOSED, 0, "by itself");
    if (err.kind != TINE_KIND_EXCEPTION)
        err.kind = TINE_KIND_CLOSED;
    tine__error_say(&err, text, sizeof text, "the pool's template has ended: %.*s",
                    (int)err.message_len, err.message);
    die(pool, &err);
}

static void on_ended(void *arg, tine_proc *p, const tine_error *err,
                     const tine_exit *info, const tine_error *cause)
{
    tine__source *s = arg;
    tine_pool *pool = s->pool;
    const tine_error *why = cause ? cause : err;
    tine_error gone =
        tine__error_make(TINE_KIND_CLOSED, 0, "the new template has ended");
    (void)info;
    s->proc = NULL;
    if (s->ours)
        tine_proc_close(p);
    if (s == pool->candidate)
        tine__pool_reload_failed(pool, why ? why : &gone);
    if (s == pool->spare)
        pool->spare = NULL;
    if (s == pool->current && pool->closed && !pool->pending)
        pool->current = NULL; /* as it was told to */
    else if (s == pool->current)
        lost_current(pool, s, why);
    forget(s);
    tine__pool_wake(pool);
}

static const tine__observer observer = {.failed = on_failed, .ended = on_ended};

static void add_source(tine_pool *pool, tine__source *s, tine_proc *p)
{
    s->pool = pool;
    s->proc = p;
    s->generation = pool->generation;
    LIST_INSERT_HEAD(&pool->sources, s, link);
}

int tine__source_hold(tine_pool *pool, tine_proc *p, bool ours, tine__source **out)
{
    tine__source *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    int err = tine__proc_hold(p, &observer, s);
    if (err < 0) {
        free(s);
        return err;
    }
    s->ours = ours;
    s->replay = tine__proc_take_replay(p);
    add_source(pool, s, p);
    *out = s;
    return 0;
}

/* It stays until its last worker has gone; we hear of its end. */
void tine__source_drop(tine__source *s)
{
    if (s->dropped)
        return;
    s->dropped = true;
    if (s->proc)
        tine__proc_unhold(s->proc);
}

static void ignore(void *arg, tine_proc *p, const tine_error *err)
{
    (void)arg, (void)p, (void)err;
}

/* A process that sleeps beside the template: should that die, no job is lost for it. */
void tine__pool_make_spare(tine_pool *pool)
{
    static const tine_proc_options options = {.name = "spare template"};
    tine_proc *p;
    if (pool->spare || !pool->current || !pool->current->proc || pool->closed)
        return;
    if (tine__proc_fork_held(pool->current->proc, &options, true, &p) < 0)
        return;                          /* with the next worker */
    tine_proc_on_error(p, ignore, NULL); /* without one the pool does as well */
    if (tine__source_hold(pool, p, true, &pool->spare) < 0) {
        pool->spare = NULL;
        tine_proc_close(p);
    } else {
        pool->spare->replay = tine__replay_ref(pool->current->replay);
        pool->spare->proven = pool->current->proven;
        pool->spare->generation = pool->current->generation;
        pool->spare->figures = pool->current->figures;
    }
}

/* ---------------------------------------------------------------------- reload */

/* Why its template cannot change now, or 0. */
static int refusal(const tine_pool *pool)
{
    if (tine__stale(pool->host))
        return -TINE_ESTALE;
    if (pool->closed)
        return -TINE_ECLOSED;
    if (pool->candidate || pool->rolling || pool->promoting)
        return -EBUSY;
    return 0;
}

int tine_pool_reload(tine_pool *pool, tine_proc *p, tine_fault_cb cb, void *arg)
{
    int refused = refusal(pool);
    if (refused < 0)
        return refused;
    if (tine__proc_host(p) != pool->host)
        return -EINVAL;
    int err = tine__source_hold(pool, p, false, &pool->candidate);
    if (err < 0)
        return err;
    pool->candidate->generation = pool->generation + 1;
    pool->reload_cb = cb;
    pool->reload_arg = arg;
    err = tine__pool_start_canary(pool);
    if (err < 0) {
        tine__source *s = pool->candidate;
        pool->candidate = NULL;
        pool->reload_cb = NULL;
        tine__source_drop(s);
    }
    tine__pool_count(pool);
    return err;
}

void tine__pool_reloaded(tine_pool *pool, const tine_error *err)
{
    tine_fault_cb cb = pool->reload_cb;
    pool->reload_cb = NULL;
    pool->rolling = false;
    tine__pool_count(pool);
    if (cb)
        cb(pool->reload_arg, err);
}

void tine__pool_reload_failed(tine_pool *pool, const tine_error *err)
{
    tine__source *s = pool->candidate;
    if (pool->promoting && !s) {
        pool->promoting = NULL;
        tine__pool_reloaded(pool, err);
    }
    if (!s)
        return;
    pool->candidate = NULL;
    if (pool->canary) {
        pool->canary->killed = true;
        tine__client_kill(pool->canary->client);
        pool->canary = NULL;
    }
    tine__source_drop(s);
    tine__pool_reloaded(pool, err);
}

void tine__pool_take_over(tine_pool *pool)
{
    tine__source *old = pool->current, *spare = pool->spare;
    int64_t now = tine__now_usec();
    pool->current = pool->candidate;
    pool->candidate = pool->spare = NULL;
    pool->canary = NULL;
    pool->generation++;
    pool->is_dead = false;
    tine__sched_succeeded(pool->sched); /* what failed was of the old one */
    free(pool->dead);
    pool->dead = NULL;
    for (tine__pool_worker *w = LIST_FIRST(&pool->workers); w; w = LIST_NEXT(w, link))
        if (w->generation != pool->generation && !w->canary)
            tine__sched_replace(pool->sched, &w->s, now);
    if (old)
        tine__source_drop(old);
    if (spare)
        tine__source_drop(spare);
    pool->rolling = true;
    tine__pool_wake(pool);
}

bool tine__pool_has_old(const tine_pool *pool)
{
    for (const tine__pool_worker *w = LIST_FIRST(&pool->workers); w;
         w = LIST_NEXT(w, link))
        if (w->generation != pool->generation && !w->canary &&
            (w->s.state == TINE__SCHED_STARTING || w->s.state == TINE__SCHED_READY))
            return true;
    return false;
}

/* ------------------------------------------------------------------- promotion */

/* The most warmed: of those that take jobs the one that has done the most. */
static tine__pool_worker *warmest(const tine_pool *pool)
{
    tine__pool_worker *best = NULL;
    for (tine__pool_worker *w = LIST_FIRST(&pool->workers); w; w = LIST_NEXT(w, link))
        if (w->s.state == TINE__SCHED_READY && !w->canary && w->jobs &&
            w->generation == pool->generation && (!best || w->jobs > best->jobs))
            best = w;
    return best;
}

int tine_pool_promote(tine_pool *pool, tine_fault_cb cb, void *arg)
{
    int refused = refusal(pool);
    if (refused < 0)
        return refused;
    if (pool->config.async ||
        (pool->current && tine__proc_was_sent_fds(pool->current->proc)))
        return -EOPNOTSUPP;
    tine__pool_worker *w = warmest(pool);
    if (!w)
        return -ENOENT;
    pool->promoting = w;
    pool->reload_cb = cb;
    pool->reload_arg = arg;
    tine__sched_replace(pool->sched, &w->s, tine__now_usec());
    tine__pool_count(pool);
    tine__pool_wake(pool);
    return 0;
}

static void on_considered(void *arg, const tine_error *err)
{
    tine_pool *pool = arg;
    if (err && !pool->closed)
        tine__pool_fault(pool, err);
}

void tine__pool_consider_promotion(tine_pool *pool, int64_t now)
{
    enum { EVERY_USEC = 1000000, PATIENCE_USEC = 30000000 };
    size_t all = 0, warm = 0;
    if (!pool->options.promote_own || now < pool->promote_usec)
        return;
    pool->promote_usec = now + EVERY_USEC;
    for (tine__pool_worker *w = LIST_FIRST(&pool->workers); w; w = LIST_NEXT(w, link)) {
        tine__figures f;
        if (w->s.state != TINE__SCHED_READY || w->generation != pool->generation)
            continue;
        tine__client_figures(w->client, &f);
        all++;
        warm += f.own > 0 && (uint64_t)f.own >= pool->options.promote_own;
    }
    if (warm < 2 || warm * 2 < all)
        return;
    if (tine_pool_promote(pool, on_considered, pool) == 0)
        pool->promote_usec = now + PATIENCE_USEC;
}

/* What the workers to come would load again is there. From here on it is a reload. */
void tine__pool_promoted(tine_pool *pool, tine__pool_worker *w)
{
    tine__source *s = calloc(1, sizeof *s);
    tine__client *c = w->client;
    if (pool->promoting != w || pool->closed || !s) {
        free(s);
        w->killed = true;
        tine__client_kill(c);
        return;
    }
    pool->promoting = NULL;
    w->client = NULL;
    tine__sched_gone(pool->sched, &w->s, TINE__SCHED_END_FINE, tine__now_usec());
    tine__pool_free_worker(w);
    add_source(pool, s, tine__client_release(c, &observer, s));
    s->generation = pool->generation + 1;
    /* What it was made of is as good, if slower to warm up. */
    s->replay = tine__replay_ref(pool->current ? pool->current->replay : NULL);
    pool->candidate = s;
    int err = tine__pool_start_canary(pool);
    if (err < 0) {
        char text[200];
        tine_error e = tine__error_system(err, text, sizeof text, "fork a worker");
        tine__pool_reload_failed(pool, &e);
    }
    tine__pool_wake(pool);
}

void tine__pool_free_sources(tine_pool *pool)
{
    for (tine__source *s = LIST_FIRST(&pool->sources), *next; s; s = next) {
        next = LIST_NEXT(s, link);
        if (s->proc)
            tine__proc_ignore(s->proc);
        forget(s);
    }
}
