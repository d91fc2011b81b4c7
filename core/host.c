/* The host: process ids, the report channel, the default template's place. */
#include "host.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "board.h"
#include "fd.h"
#include "protocol.h"
#include "spawn.h"

enum {
    MARK_SIZE = 4096,
    REPORTS_PER_WAKE = 256,
    MAX_REPORT_FDS = 8,
    TASKS_PER_TURN = 256
};

int64_t tine__now_usec(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* A page that is all zeros in every fork of this process, however it was made: asking it
 * costs no system call. NULL where the kernel cannot do that. */
static const unsigned char *make_mark(void)
{
    unsigned char *mark = mmap(NULL, MARK_SIZE, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mark == MAP_FAILED)
        return NULL;
    if (madvise(mark, MARK_SIZE, MADV_WIPEONFORK) < 0) {
        munmap(mark, MARK_SIZE);
        return NULL;
    }
    *mark = 1;
    return mark;
}

bool tine__stale(const tine_host *host)
{
    return host->mark ? !*host->mark : host->owner != getpid();
}

static void on_report(void *arg, tine_io *io, int events)
{
    (void)io;
    (void)events;
    tine__host_reports(arg, REPORTS_PER_WAKE);
}

static void close_report_channel(tine_host *host)
{
    tine_io_free(host->report_io);
    host->report_io = NULL;
    tine__fd_close(&host->report_rx);
    tine__fd_close(&host->report_tx);
}

static int open_report_channel(tine_host *host)
{
    int pair[2], on = 1;
    int err = tine__fd_pair(SOCK_SEQPACKET, pair);
    if (err < 0)
        return err;
    host->report_rx = pair[0];
    host->report_tx = pair[1];
    if (setsockopt(host->report_rx, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
        return -errno;
    if ((err = tine__fd_nonblock(host->report_rx, true)) < 0)
        return err;
    if (!host->report_buf)
        host->report_buf = malloc(TINE__REPORT_MAX);
    if (!host->report_buf)
        return -ENOMEM;
    return tine__io_internal(host, &host->report_io, host->report_rx, TINE_READ,
                             on_report, host);
}

/* Whoever holds the far side can shut it down for all. None of them can be heard any more:
 * they end, and what is made from now on has a channel of its own. */
static void renew_report_channel(tine_host *host)
{
    close_report_channel(host);
    int err = open_report_channel(host);
    if (err < 0) {
        char text[100];
        tine_error e = tine__error_system(err, text, sizeof text, "report channel");
        close_report_channel(host);
        tine__host_fault(host, &e);
    }
    for (size_t i = 0; i < host->nslots; i++)
        if (host->slots[i])
            host->slots[i]->unheard = !host->slots[i]->parent;
    for (size_t i = 0; i < host->nslots; i++) { /* callbacks may make others */
        tine_proc *p = host->slots[i];
        if (p && p->unheard && !p->ended)
            tine__proc_broken(p,
                              "one of the host's processes shut their report channel");
    }
}

static int set_string(char **slot, const char *value)
{
    char *copy = value ? strdup(value) : NULL;
    if (value && !copy)
        return -ENOMEM;
    free(*slot);
    *slot = copy;
    return 0;
}

int tine_host_new(tine_host **out, const tine_host_options *options)
{
    static const tine_host_options defaults;
    if (!options)
        options = &defaults;
    tine_host *host = calloc(1, sizeof *host);
    if (!host)
        return -ENOMEM;
    host->owner = getpid();
    host->mark = make_mark();
    host->report_rx = host->report_tx = host->timer_fd = -1;
    if (getrandom(&host->secret, sizeof host->secret, GRND_NONBLOCK) < 0)
        host->secret = (uint64_t)getpid() << 32 ^ (uint64_t)(size_t)host;
    host->on_error = options->on_error;
    host->arg = options->arg;
    int err = tine__loop_open(host, options->base);
    if (!err)
        err = open_report_channel(host);
    if (!err)
        err = set_string(&host->interpreter, options->interpreter);
    if (!err)
        err = tine_host_set_lua_path(host, options->lua_path, options->lua_cpath);
    if (err < 0) {
        tine_host_free(host);
        return err;
    }
    *out = host;
    return 0;
}

void tine__proc_end_direct(tine_proc *p)
{
    siginfo_t info;
    if (!p->direct || p->ended || p->pidfd < 0)
        return;
    tine__pidfd_signal(p, SIGKILL);
    while (waitid((idtype_t)P_PIDFD, (id_t)p->pidfd, &info, WEXITED) < 0 &&
           errno == EINTR)
        ;
}

/* Our own children are killed and reaped here; theirs go with them (see guard.h), but for
 * those of a detached one. */
static void end_proc(tine_proc *p)
{
    if (p->detach)
        return;
    tine__proc_end_direct(p);
    if (!p->direct && !p->adopted && p->pidfd >= 0)
        tine__pidfd_signal(p, SIGKILL);
}

static void free_strings(tine_host *host)
{
    free(host->interpreter);
    free(host->found_interpreter);
    free(host->lua_path);
    free(host->lua_cpath);
    free(host->report_buf);
    free(host->slots);
}

static void free_services(tine_host *host)
{
    while (host->pools)
        tine__pool_teardown(host->pools);
    while (host->rpcs)
        tine__rpc_teardown(host->rpcs);
    tine__board_free(host->board);
    free(host->scratch);
}

void tine_host_free(tine_host *host)
{
    if (!host)
        return;
    /* In a fork the base's descriptors are shared with the owner: only set it aside, where
     * leak checkers find it. */
    if (tine__stale(host)) {
        static tine_host *aside;
        host->aside = aside;
        aside = host;
        return;
    }
    for (size_t i = 0; i < host->nslots; i++)
        if (host->slots[i])
            end_proc(host->slots[i]);
    free_services(host);
    for (size_t i = 0; i < host->nslots; i++)
        if (host->slots[i])
            tine__proc_free(host->slots[i]);
    tine__loop_close(host);
    if (host->mark)
        munmap((void *)(size_t)host->mark, MARK_SIZE);
    tine__fd_close(&host->report_rx);
    tine__fd_close(&host->report_tx);
    free_strings(host);
    free(host);
}

int tine_host_set_interpreter(tine_host *host, const char *path)
{
    return set_string(&host->interpreter, path);
}

const char *tine_host_interpreter(tine_host *host)
{
    if (host->interpreter)
        return host->interpreter;
    free(host->found_interpreter);
    host->found_interpreter = tine__spawn_find();
    return host->found_interpreter;
}

int tine_host_set_lua_path(tine_host *host, const char *path, const char *cpath)
{
    int err = set_string(&host->lua_path, path);
    return err < 0 ? err : set_string(&host->lua_cpath, cpath);
}

int tine_host_reset(tine_host *host)
{
    if (tine__stale(host))
        return -TINE_ESTALE;
    tine_proc *p = host->template_proc;
    host->template_proc = NULL;
    host->early = false;
    tine_proc_close(p);
    return 0;
}

int tine_host_flush(tine_host *host)
{
    if (tine__stale(host))
        return -TINE_ESTALE;
    for (size_t i = 0; i < host->nslots; i++)
        if (host->slots[i])
            tine__proc_flush(host->slots[i]);
    return 0;
}

void tine__host_post(tine_host *host, tine__task *task)
{
    if (task->posted)
        return;
    task->posted = true;
    task->next = NULL;
    if (host->tasks_tail)
        host->tasks_tail->next = task;
    else
        host->tasks = task;
    host->tasks_tail = task;
    if (host->tasks == task)
        tine__loop_wake(host);
}

void tine__host_unpost(tine_host *host, tine__task *task)
{
    tine__task **link = &host->tasks, *before = NULL;
    if (!task->posted)
        return;
    while (*link != task) {
        before = *link;
        link = &before->next;
    }
    *link = task->next;
    if (host->tasks_tail == task)
        host->tasks_tail = before;
    task->posted = false;
}

/* Also what is posted meanwhile, so that a call made in a task goes out in this turn; but
 * not for ever. */
static void run_tasks(tine_host *host)
{
    for (int i = 0; i < TASKS_PER_TURN && host->tasks && !host->stopped; i++) {
        tine__task *task = host->tasks;
        host->tasks = task->next;
        if (!host->tasks)
            host->tasks_tail = NULL;
        task->posted = false;
        task->run(task->arg);
    }
}

void tine__host_turn(tine_host *host)
{
    /* What is added meanwhile has its turn in the next round of the loop. */
    tine_proc *p = host->later, *last = host->later_tail;
    host->in_turn = true;
    while (p) {
        bool end = p == last;
        host->later = p->next_later;
        if (!host->later)
            host->later_tail = NULL;
        p->next_later = NULL;
        p->in_later = false;
        tine__proc_turn(p);
        if (end || host->stopped)
            break;
        p = host->later;
    }
    run_tasks(host);
    host->in_turn = false;
    if (host->later || host->tasks)
        tine__loop_wake_next(host);
}

/* ------------------------------------------------------------------- ids */

static int grow_slots(tine_host *host)
{
    size_t n = host->nslots ? host->nslots * 2 : 16;
    tine_proc **slots = realloc(host->slots, n * sizeof *slots);
    if (!slots)
        return -ENOMEM;
    memset(slots + host->nslots, 0, (n - host->nslots) * sizeof *slots);
    host->slots = slots;
    host->free_hint = (uint32_t)host->nslots;
    host->nslots = n;
    return 0;
}

/* The finalizer of splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t scramble(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

int tine__host_add(tine_host *host, tine_proc *p)
{
    uint32_t i = host->free_hint;
    while (i < host->nslots && host->slots[i])
        i++;
    if (i == host->nslots) {
        int err = grow_slots(host);
        if (err < 0)
            return err;
        i = host->free_hint;
    }
    host->slots[i] = p;
    host->free_hint = i + 1;
    p->id = scramble(++host->nborn ^ host->secret) << 32 | i;
    return 0;
}

void tine__host_remove(tine_host *host, tine_proc *p)
{
    uint32_t i = (uint32_t)p->id;
    if (i >= host->nslots || host->slots[i] != p)
        return;
    host->slots[i] = NULL;
    if (i < host->free_hint)
        host->free_hint = i;
}

tine_proc *tine__host_find(tine_host *host, uint64_t id)
{
    uint32_t i = (uint32_t)id;
    if (i >= host->nslots || !host->slots[i] || host->slots[i]->id != id)
        return NULL;
    return host->slots[i];
}

tine_proc *tine__host_find_pid(tine_host *host, pid_t pid)
{
    for (size_t i = 0; i < host->nslots; i++) {
        tine_proc *p = host->slots[i];
        if (p && p->pid == pid && p->made && !p->ended)
            return p;
    }
    return NULL;
}

/* ------------------------------------------------------- the report channel */

typedef struct arrival {
    size_t len;
    pid_t sender;
    int fds[MAX_REPORT_FDS];
    size_t nfds;
    bool cut;
} arrival;

static void read_control(struct msghdr *msg, arrival *a)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET)
            continue;
        size_t size = c->cmsg_len - CMSG_LEN(0);
        if (c->cmsg_type == SCM_CREDENTIALS && size >= sizeof(struct ucred)) {
            struct ucred cred;
            memcpy(&cred, CMSG_DATA(c), sizeof cred);
            a->sender = cred.pid;
        } else if (c->cmsg_type == SCM_RIGHTS) {
            a->nfds = size / sizeof(int) < MAX_REPORT_FDS ? size / sizeof(int)
                                                          : MAX_REPORT_FDS;
            memcpy(a->fds, CMSG_DATA(c), a->nfds * sizeof(int));
        }
    }
}

/* Returns 1 with a message, 0 when there is none, -1 when the channel is shut. */
static int receive(tine_host *host, arrival *a)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(struct ucred)) +
                   CMSG_SPACE(MAX_REPORT_FDS * sizeof(int))];
    } control;
    struct iovec iov = {host->report_buf, TINE__REPORT_MAX};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control};
    ssize_t n;
    memset(a, 0, sizeof *a);
    do {
        msg.msg_controllen = sizeof control;
        n = recvmsg(host->report_rx, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return 0;
    a->len = (size_t)n;
    a->cut = (msg.msg_flags & MSG_TRUNC) != 0;
    read_control(&msg, a);
    return n == 0 && !a->sender ? -1 : 1; /* an empty message has a sender */
}

/* The descriptor of the sender that came with the report, or -1. */
static int take_pidfd(arrival *a)
{
    if (a->nfds != 1)
        return -1;
    a->nfds = 0;
    return tine__fd_above_stdio(a->fds[0]);
}

static void on_hello(tine_proc *p, arrival *a, const tine__report *r)
{
    if (r->protocol == TINE__PROTOCOL) {
        if (p->made)
            return;
        p->done = 1; /* our greeting */
        tine__proc_made(p, a->sender, p->adopted ? take_pidfd(a) : -1);
        return;
    }
    char text[200];
    snprintf(text, sizeof text,
             "the interpreter speaks protocol %u (tine %.*s), this program speaks %d "
             "(tine %s)",
             r->protocol, (int)r->version.len, (const char *)r->version.data,
             TINE__PROTOCOL, tine_version());
    tine__proc_broken(p, text);
}

static void on_failed(tine_proc *p, arrival *a, const tine__report *r)
{
    tine_error err = {
        .kind = r->kind,
        .message = r->message.data,
        .message_len = r->message.len,
        .traceback = r->traceback.len ? r->traceback.data : NULL,
        .traceback_len = r->traceback.len,
        .pid = a->sender,
        .code = -1,
        .sys_errno = r->sys_errno,
    };
    if (p->parent && a->sender == p->parent->pid && !p->made)
        tine__proc_never(p, &err);
    else
        tine__proc_failed(p, &err);
}

/* Whether the sender may say this of p. */
static bool is_entitled(const tine_proc *p, const arrival *a, const tine__report *r)
{
    bool from_parent = p->parent && p->parent->made && a->sender == p->parent->pid;
    bool from_self = p->made && a->sender == p->pid;
    switch (r->type) {
    case TINE__REPORT_HELLO:
        return !p->parent && !p->made;
    case TINE__REPORT_MADE:
        return p->parent && !p->made;
    case TINE__REPORT_EXITED:
        return from_parent && (!p->made || r->pid == p->pid);
    case TINE__REPORT_FAILED:
        return from_self || (from_parent && !p->made) ||
               (p->direct && !p->made && a->sender == p->pid);
    default:
        return from_self;
    }
}

static void dispatch(tine_host *host, arrival *a)
{
    tine__report r;
    bool bad = a->cut || tine__report_decode(&r, host->report_buf, a->len) < 0;
    tine_proc *p = bad ? NULL : tine__host_find(host, r.id);
    if (!bad && (!p || p->ended || p->dying))
        return; /* news of somebody whom nobody asks for any more */
    if (bad || !is_entitled(p, a, &r)) {
        p = tine__host_find_pid(host, a->sender);
        if (p)
            tine__proc_broken(p, "it sent garbage on the report channel");
        return;
    }
    /* Both also tell how far the parent has come; callbacks may free p meanwhile. */
    bool of_parent = r.type == TINE__REPORT_MADE || r.type == TINE__REPORT_EXITED;
    uint64_t parent = of_parent ? p->parent->id : 0;
    switch (r.type) {
    case TINE__REPORT_HELLO:
        on_hello(p, a, &r);
        break;
    case TINE__REPORT_MADE:
        tine__proc_made(p, a->sender, take_pidfd(a));
        break;
    case TINE__REPORT_IDLE:
        tine__proc_did(p, r.seq);
        break;
    case TINE__REPORT_FAILED:
        on_failed(p, a, &r);
        break;
    case TINE__REPORT_EXITED:
        p->pid = r.pid;
        if (r.status < 0) /* somebody else's wait in the parent was faster */
            r.status = tine__pidfd_status(p);
        tine__proc_ended(p, r.status, &r.rusage);
        break;
    case TINE__REPORT_MEMORY:
        tine__proc_told_memory(p, &r);
        break;
    default:
        break;
    }
    if (of_parent && (p = tine__host_find(host, parent)))
        tine__proc_did(p, r.seq);
}

bool tine__host_reports(tine_host *host, int most)
{
    arrival a;
    int more = 1;
    /* A callback may end in here again; the buffer is in use then. */
    if (host->draining)
        return false;
    host->draining = true;
    while (most-- > 0 && !host->stopped && (more = receive(host, &a)) > 0) {
        dispatch(host, &a);
        tine__fd_close_all(a.fds, a.nfds);
    }
    host->draining = false;
    if (more < 0)
        renew_report_channel(host);
    return more <= 0;
}
