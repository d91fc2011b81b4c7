/* How a worker is read: frames out of its socket, and after its death out of the ring. A buffer
 * always has room for one byte more than it holds, for a NUL behind what a frame says. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "client_priv.h"

enum { SCRATCH = 65536, READS_PER_WAKE = 16, DIRECT = 1 << 20, KEEP_BUFFER = 1 << 20 };
/* Of frames that are no answers, of which there may be no end: so many, then others have their
 * turn; FEW where others have calls that they wait for. */
enum { FRAMES_PER_WAKE = 64, FEW_FRAMES = 16, HELD_FRAMES = 64 };
enum { HEARD = 64 }; /* when more owe answers they are left to the loop */

/* Whether descriptors came that no frame speaks of, nor the one whose beginning is there. */
static bool is_loaded(const tine__client *c)
{
    tine__call_head head;
    const tine__batch *b = c->box.first;
    if (!b || (!b->next && c->in.len && c->in.len < TINE__CALL_HEAD))
        return false;
    return b->next || !c->in.len || !tine__call_head_get(&head, c->in.data) ||
           head.type != TINE__FDS;
}

static bool is_broken(const tine__client *c)
{
    return c->cause && c->cause->error.kind == TINE_KIND_PROTOCOL;
}

/* Carries out all whole frames; returns how many bytes they are. */
static size_t take_frames(tine__client *c, unsigned char *data, size_t len)
{
    size_t at = 0;
    while (len - at >= TINE__CALL_HEAD && !is_broken(c)) {
        tine__client_frame f;
        if (!tine__call_head_get(&f.head, data + at)) {
            tine__client_broken(c, "it sent garbage on its socket");
            break;
        }
        if (len - at - TINE__CALL_HEAD < f.head.len)
            break;
        f.body = data + at + TINE__CALL_HEAD;
        at += TINE__CALL_HEAD + f.head.len;
        unsigned char behind = data[at];
        data[at] = 0;
        c->nframes += f.head.type != TINE__RESULT && f.head.type != TINE__ERROR;
        tine__client_take_frame(c, &f);
        data[at] = behind;
    }
    return at;
}

static bool keep(tine__client *c, const unsigned char *data, size_t len)
{
    if (tine__buf_room(&c->in, len + 1)) {
        tine__buf_put(&c->in, data, len);
        return true;
    }
    tine__buf_free(&c->in);
    tine__client_broken(c, "there is no memory for what it sent");
    return false;
}

/* n bytes came; there is room for one more behind them. */
static void feed(tine__client *c, unsigned char *data, size_t n)
{
    c->received += n;
    if (is_broken(c))
        return;
    if (!c->in.len) {
        size_t used = take_frames(c, data, n);
        if (used < n && !is_broken(c))
            keep(c, data + used, n - used);
        return;
    }
    if (!keep(c, data, n))
        return;
    size_t used = take_frames(c, c->in.data, c->in.len);
    if (used)
        memmove(c->in.data, c->in.data + used, c->in.len - used);
    c->in.len -= used;
    if (!c->in.len && c->in.cap > KEEP_BUFFER)
        tine__buf_free(&c->in);
}

/* Bytes that a large frame lacks, to be received where they belong; else 0. */
static size_t missing(const tine__client *c)
{
    tine__call_head head;
    if (c->in.len < TINE__CALL_HEAD || !tine__call_head_get(&head, c->in.data))
        return 0;
    size_t need = TINE__CALL_HEAD + (size_t)head.len - c->in.len;
    return need > SCRATCH ? need : 0;
}

/* Returns as recv. *asked: how much there was room for. */
static ssize_t read_some(tine__client *c, size_t *asked)
{
    tine_host *host = c->config->host;
    size_t direct = missing(c);
    unsigned char *to = host->rpc->scratch;
    *asked = c->ask ? c->ask : SCRATCH;
    if (direct) {
        *asked = direct < DIRECT ? direct : DIRECT;
        to = tine__buf_room(&c->in, *asked + 1);
        if (!to) {
            tine__buf_free(&c->in);
            tine__client_broken(c, "there is no memory for what it sent");
            errno = ENOMEM;
            return -1;
        }
    }
    /* No string stands for a descriptor. */
    tine__inbox *box = c->config->serialiser == TINE_STRINGS ? NULL : &c->box;
    ssize_t n;
    do
        n = tine__passing_recv(c->fd, to, *asked, MSG_DONTWAIT, box);
    while (n < 0 && errno == EINTR);
    if (n > 0) {
        tine__host_now(host);
        host->happened++;
        /* What a job has written comes before its end. */
        if (c->config->on_output && c->proc)
            tine__proc_read_output(c->proc);
    }
    if (n > 0 && direct) {
        c->in.len += (size_t)n;
        c->received += (size_t)n;
        if (!missing(c) && (size_t)n == direct) {
            take_frames(c, c->in.data, c->in.len);
            tine__buf_free(&c->in);
        }
    } else if (n > 0) {
        feed(c, to, (size_t)n);
    }
    if (c->box.first && !is_broken(c) && is_loaded(c))
        tine__client_broken(c, "it sent descriptors that it does not speak of");
    return n;
}

void tine__client_unwatch(tine__client *c)
{
    tine__flow_end(c->config->host, &c->flow);
    tine_io_free(c->read_io);
    c->read_io = NULL;
}

static void at_eof(tine__client *c)
{
    tine__client_unwatch(c);
    if (!c->eof_usec) {
        c->eof_usec = tine__now_usec();
        tine__client_wake_at(c, c->eof_usec);
    }
}

/* n bytes were nframes frames: of small ones less is read at a time, since what has been read must
 * be carried out. What comes next may be of another size. */
static void set_pace(tine__client *c, size_t n, size_t nframes, size_t budget)
{
    size_t most = c->ask ? c->ask * 2 : SCRATCH;
    size_t ask = nframes ? n * budget / nframes : SCRATCH;
    if (ask > most)
        ask = most;
    c->ask = ask < SCRATCH ? ask : SCRATCH;
    if (c->ask < budget * TINE__CALL_HEAD)
        c->ask = budget * TINE__CALL_HEAD;
}

static size_t budget_of(const tine__client *c)
{
    size_t mine = c->first ? 1 : 0;
    return c->config->host->nbusy > mine ? FEW_FRAMES : FRAMES_PER_WAKE;
}

typedef struct reading {
    bool came; /* anything */
    bool dry;  /* there was no more */
} reading;

static reading read_turn(tine__client *c, size_t budget)
{
    reading r = {false, false};
    size_t asked;
    c->nframes = 0;
    for (int i = 0; i < READS_PER_WAKE && c->nframes < budget && !c->killed && !r.dry;
         i++) {
        size_t before = c->nframes;
        ssize_t n = read_some(c, &asked);
        if (n > 0) {
            r.came = true;
            set_pace(c, (size_t)n, c->nframes - before, budget);
        }
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != ENOMEM))
            at_eof(c);
        r.dry = n < (ssize_t)asked;
    }
    return r;
}

/* Takes what the worker has sent, not all if that is much. Returns whether anything has come. */
static bool read_worker(tine__client *c)
{
    tine_proc *p = c->proc;
    tine_host *host = c->config->host;
    if (c->reading)
        return false;
    c->reading = true;
    tine__proc_hold_still(p); /* its end, which a callback may bring to light, waits */
    bool again = c->flow.usec > 0; /* there was more than a turn could take */
    int64_t began = again ? tine__host_now(host) : 0;
    reading r = read_turn(c, c->flow.held ? HELD_FRAMES : budget_of(c));
    int64_t took = again ? tine__host_now(host) - began + 1 : 1;
    tine__proc_let_go(p);
    c->reading = false;
    if (c->read_io && !tine__stale(host))
        tine__flow_had(host, &c->flow, c->read_io, took,
                       r.dry || (!c->nframes && !c->flow.held));
    if (c->out.len > c->sent)
        tine__client_flush(c);
    if (c->promoted && !c->killed && !c->eof_usec)
        c->ops->promoted(c->owner, c);
    return r.came;
}

void tine__client_readable(void *arg, tine_io *io, int events)
{
    (void)io;
    (void)events;
    read_worker(arg);
}

void tine__client_turn(void *arg)
{
    read_worker(arg);
}

static bool is_worth_hearing(const tine_host *host)
{
    return host->nbusy > host->nbusy_long && host->nbusy <= HEARD;
}

/* Reads what workers say that they have sent, of HEARD at most. */
static bool hear(tine_host *host)
{
    tine__client *heard[HEARD];
    size_t n = 0;
    tine__client *c;
    LIST_FOREACH(c, &host->rpc->busy, busy)
    if (n < HEARD && c->read_io && !c->flow.held &&
        atomic_load_explicit(&c->region.page->flushed, memory_order_acquire) !=
            c->received)
        heard[n++] = c;
    /* A callback may bring to light that another's process has ended: it is kept till then. */
    tine_proc *procs[HEARD];
    for (size_t i = 0; i < n; i++) {
        procs[i] = heard[i]->proc;
        tine__proc_hold_still(procs[i]);
    }
    bool any = false;
    for (size_t i = 0; i < n && !host->stopped && !tine__stale(host); i++)
        if (heard[i]->read_io)
            any = read_worker(heard[i]) || any;
    for (size_t i = 0; i < n; i++)
        tine__proc_let_go(procs[i]);
    return any;
}

int tine__clients_open(tine_host *host)
{
    static const tine__look look = {is_worth_hearing, hear};
    tine__rpc_host *h = calloc(1, sizeof *h);
    unsigned char *scratch = malloc(SCRATCH + 1);
    if (!h || !scratch) {
        free(h);
        free(scratch);
        return -ENOMEM;
    }
    h->scratch = scratch;
    host->rpc = h;
    tine__loop_look(host, &look);
    return 0;
}

void tine__clients_close(tine_host *host)
{
    tine__scoreboard_free(host->rpc->scoreboard);
    free(host->rpc->scratch);
    free(host->rpc);
    host->rpc = NULL;
}

/* What is there now: a process that it has left behind may write for ever. */
static void drain_socket(tine__client *c)
{
    size_t asked;
    int left = 0;
    if (c->fd < 0 || ioctl(c->fd, FIONREAD, &left) < 0)
        return;
    while (left > 0 && !is_broken(c)) {
        ssize_t n = read_some(c, &asked);
        if (n <= 0)
            break;
        left -= (int)n;
    }
}

static void drain_ring(tine__client *c)
{
    unsigned char *scratch = c->config->host->rpc->scratch;
    const unsigned char *ring =
        (const unsigned char *)c->region.page + TINE__PAGE_STATUS;
    uint64_t tail = atomic_load(&c->region.page->tail);
    if (tail <= c->received || tail - c->received > TINE__RING)
        return;
    while (c->received < tail && !is_broken(c)) {
        size_t at = c->received % TINE__RING;
        size_t n = TINE__RING - at;
        if (n > tail - c->received)
            n = (size_t)(tail - c->received);
        memcpy(scratch, ring + at, n);
        feed(c, scratch, n);
    }
}

void tine__client_drain(tine__client *c)
{
    c->reading = true;
    drain_socket(c);
    if (!is_broken(c))
        drain_ring(c);
    c->reading = false;
    tine__client_unwatch(c);
    tine_io_free(c->write_io);
    c->write_io = NULL;
    tine__fd_close(&c->fd);
}
