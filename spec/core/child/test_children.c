/* The table of a template's workers: against a naive model, and with real children. */
#define tine__children_room test_workers_room
#define tine__children_add test_workers_add
#define tine__children_forget test_workers_forget
#define tine__reap test_reap
#define tine__reap_by_signal test_reap_by_signal
#define tine__children_init test_workers_init
#define tine__children_watch test_workers_watch
#define tine__children_join test_workers_join
#define tine__children_signaled test_workers_signaled
#define tine__children_wait_ms test_workers_wait_ms
#define tine__catch_sigchld test_catch_sigchld
#define tine__check_sigchld test_check_sigchld
#include "../../../core/child/children.c" /* NOLINT(bugprone-suspicious-include) */

#include <poll.h>
#include <sys/prctl.h>

#include "base/fd.h"
#include "fault.h"
#include "test.h"
#include "wire/passing.h"

enum { MODEL = 4096, PIDS = 1 << 22 };

static tine__children table;
static tine__worker model[MODEL];
static size_t nmodel;

static void check_table(void)
{
    size_t n = 0;
    CHECK_INT(table.n, nmodel);
    for (size_t i = 0; i < table.nslots; i++)
        n += table.slots[i].pid != 0;
    CHECK_INT(n, nmodel);
    CHECK(table.n * 2 <= table.nslots);
    for (size_t i = 0; i < nmodel; i++) {
        const tine__worker *w = find(&table, model[i].pid);
        CHECK(w && w->pid == model[i].pid && w->id == model[i].id);
    }
}

static void drop_table(void)
{
    if (table.slots != table.first)
        free(table.slots);
    tine__children_init(&table);
}

static bool in_model(pid_t pid)
{
    for (size_t i = 0; i < nmodel; i++)
        if (model[i].pid == pid)
            return true;
    return false;
}

static void insert_both(pid_t pid)
{
    if (in_model(pid) || nmodel == MODEL)
        return;
    model[nmodel++] =
        (tine__worker){.pid = pid, .id = (uint64_t)test_random() << 32 | test_random()};
    CHECK_INT(tine__children_add(&table, pid, model[nmodel - 1].id, false), 0);
}

static void remove_both(size_t i)
{
    tine__worker *w = find(&table, model[i].pid);
    CHECK(w && w->id == model[i].id);
    take_out(&table, w);
    CHECK(!find(&table, model[i].pid));
    model[i] = model[--nmodel];
}

static pid_t any_pid(void)
{
    return (pid_t)(1 + test_random() % PIDS);
}

/* As pids are given out. */
static pid_t next_pid(void)
{
    static pid_t last = PIDS - 500;
    last = last >= PIDS ? 300 : last + 1;
    return last;
}

/* All want the same few places. */
static pid_t crowded_pid(void)
{
    tine__children full = {.nslots = 1024};
    pid_t pid;
    do
        pid = any_pid();
    while (home(&full, pid) < 1016);
    return pid;
}

static void churn(pid_t (*pid)(void), size_t most, int steps)
{
    for (int i = 0; i < steps; i++) {
        bool grow = nmodel < most && test_random() % most >= nmodel / 2;
        if (grow || !nmodel)
            insert_both(pid());
        else
            remove_both(test_random() % nmodel);
        if (i % 64 == 0 || nmodel < 20)
            check_table();
        CHECK(!find(&table, PIDS + 1));
    }
    check_table();
    while (nmodel)
        remove_both(test_random() % nmodel);
    check_table();
    drop_table();
}

static void random_pids(void)
{
    churn(any_pid, 300, 20000);
    churn(any_pid, 5, 5000);
}

static void pids_in_order(void)
{
    churn(next_pid, 500, 20000);
}

static void pids_that_collide(void)
{
    churn(crowded_pid, 400, 4000);
}

static void without_memory(void)
{
    for (pid_t pid = 1; pid <= 200; pid++) {
        fault_set(1, 0);
        int err = tine__children_room(&table);
        bool hit = fault_hit;
        fault_set(0, 0);
        CHECK_INT(err, hit ? -ENOMEM : 0);
        check_table();
        if (!hit) {
            /* Then there is room: it needs no memory. */
            fault_set(1, 0);
            insert_both(pid);
            CHECK(!fault_hit);
            fault_set(0, 0);
        } else {
            insert_both(pid);
        }
    }
    check_table();
    drop_table();
    nmodel = 0;
}

/* ------------------------------------------------------------ real children */

static int report_rx;

static tine__child *open_child(void)
{
    int pair[2];
    CHECK_INT(tine__fd_pair(SOCK_SEQPACKET, pair), 0);
    tine__child *c = &tine__self;
    memset(c, 0, sizeof *c);
    c->cmd = -1;
    c->report = pair[0];
    c->seq = 9;
    tine__children_init(&c->workers);
    report_rx = pair[1];
    return c;
}

static void close_child(tine__child *c)
{
    if (c->workers.slots != c->workers.first)
        free(c->workers.slots);
    tine__fd_close(&c->workers.ends);
    tine__children_init(&c->workers);
    tine__fd_close(&c->report);
    tine__fd_close(&report_rx);
}

static pid_t child_with_code(int code)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        _exit(code);
    siginfo_t info;
    CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
    return pid;
}

static bool next_report(tine__report *r)
{
    static unsigned char data[1024];
    ssize_t n = recv(report_rx, data, sizeof data, MSG_DONTWAIT);
    if (n < 0)
        return false;
    CHECK_INT(tine__report_decode(r, data, (size_t)n), 0);
    CHECK_INT(r->type, TINE__REPORT_EXITED);
    CHECK_INT(r->seq, 9);
    return true;
}

static void reap(tine__child *c, pid_t signaled)
{
    tine__children_signaled(&c->workers, signaled);
    tine__reap(c);
}

static void ends_are_reported(void)
{
    tine__child *c = open_child();
    tine__report r;
    pid_t foreign = child_with_code(99), pids[20];
    for (int i = 0; i < 20; i++) {
        pids[i] = child_with_code(i);
        CHECK_INT(tine__children_add(&c->workers, pids[i], (uint64_t)(1000 + i), false),
                  0);
    }
    unsigned seen = 0;
    reap(c, foreign);
    while (next_report(&r)) {
        CHECK(r.id >= 1000 && r.id < 1020);
        int i = (int)r.id - 1000;
        CHECK_INT(r.pid, pids[i]);
        CHECK_INT(r.status, i << 8);
        seen |= 1u << i;
    }
    CHECK_INT(seen, (1u << 20) - 1);
    CHECK_INT(c->workers.n, 0);
    reap(c, foreign);                              /* nothing to do */
    CHECK_INT(waitpid(foreign, NULL, 0), foreign); /* it was left alone */
    close_child(c);
}

/* Somebody's waitpid(-1), or an ignored SIGCHLD, took the status. */
static void stolen_status(void)
{
    tine__child *c = open_child();
    tine__report r;
    for (int others = 0; others < 2; others++) {
        pid_t pid = child_with_code(5);
        pid_t other = others ? child_with_code(6) : 0;
        CHECK_INT(tine__children_add(&c->workers, pid, 77, false), 0);
        CHECK_INT(waitpid(pid, NULL, 0), pid);
        reap(c, 0);
        CHECK(next_report(&r));
        CHECK(r.id == 77 && r.pid == pid && r.status == -1);
        CHECK_INT(c->workers.n, 0);
        if (other)
            waitpid(other, NULL, 0);
    }
    close_child(c);
}

static void reaped_by_signal(void)
{
    tine__child *c = open_child();
    tine__report r;
    sigset_t chld, before;
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    sigprocmask(SIG_BLOCK, &chld, &before);
    for (int i = 0; i < 5; i++)
        CHECK_INT(
            tine__children_add(&c->workers, child_with_code(3), (uint64_t)i, false), 0);
    tine__reap_by_signal(); /* those have ended already */
    for (int i = 0; i < 5; i++)
        CHECK(next_report(&r) && r.status == 3 << 8);
    CHECK(!next_report(&r));
    for (int i = 0; i < 5; i++)
        CHECK_INT(
            tine__children_add(&c->workers, child_with_code(4), (uint64_t)i, false), 0);
    sigprocmask(SIG_SETMASK, &before, NULL); /* now the signal comes */
    for (int i = 0; i < 5; i++)
        CHECK(next_report(&r) && r.status == 4 << 8);
    CHECK_INT(c->workers.n, 0);
    signal(SIGCHLD, SIG_DFL);
    close_child(c);
}

/* --------------------------------------------------------- known without a look at all */

enum { LIVE = FEW + 8 };
static pid_t live[LIVE];
static int pidfds[LIVE]; /* as the host has them */

static void become_idle(tine__child *c, int to)
{
    char byte = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    for (int i = 0; i < LIVE && pidfds[i]; i++)
        tine__fd_close(&pidfds[i]); /* a template has none of them */
    tine__children_join(&c->workers, getpid(), pidfd);
    if (tine__passing_send(to, &byte, 1, 0, &pidfd, 1) == 1)
        tine__fd_close(&pidfd);
    for (;;)
        pause();
}

static void one_more(tine__child *c, int i)
{
    int pair[2];
    char byte;
    tine__inbox box = {0};
    CHECK_INT(tine__fd_pair(SOCK_STREAM, pair), 0);
    live[i] = fork();
    CHECK(live[i] >= 0);
    if (live[i] == 0)
        become_idle(c, pair[1]);
    CHECK_INT(tine__passing_recv(pair[0], &byte, 1, 0, &box), 1);
    CHECK(box.first && box.first->n == 1);
    pidfds[i] = dup(box.first->fd[0]);
    tine__inbox_free(&box);
    tine__fd_close_all(pair, 2);
    CHECK_INT(tine__children_add(&c->workers, live[i], (uint64_t)i, false), 0);
}

static void end(int i)
{
    siginfo_t info;
    CHECK_INT(kill(live[i], SIGKILL), 0);
    CHECK_INT(waitid(P_PID, (id_t)live[i], &info, WEXITED | WNOWAIT), 0);
}

static void check_reported(int i)
{
    tine__report r;
    CHECK(next_report(&r) && r.id == (uint64_t)i && r.pid == live[i]);
    CHECK_INT(r.status, SIGKILL);
    CHECK_INT(kill(live[i], 0), -1);
}

static void check_silence(void)
{
    tine__report r;
    CHECK(!next_report(&r));
}

static tine__child *open_crowd(void)
{
    tine__child *c = open_child();
    tine__children_watch(&c->workers);
    CHECK(c->workers.ends >= 0);
    memset(pidfds, 0, sizeof pidfds);
    for (int i = 0; i < LIVE; i++)
        one_more(c, i);
    return c;
}

static void close_crowd(tine__child *c)
{
    tine__report r;
    for (int i = 0; i < LIVE; i++) {
        if (kill(live[i], 0) == 0)
            end(i);
        tine__fd_close(&pidfds[i]);
    }
    c->workers.look_usec = 1;
    tine__reap(c);
    while (next_report(&r))
        ;
    CHECK_INT(c->workers.n, 0);
    CHECK_INT(c->workers.nblind, 0);
    CHECK_INT(tine__children_wait_ms(&c->workers), -1);
    close_child(c);
}

static void told_by_pidfds(void)
{
    tine__child *c = open_crowd();
    struct pollfd ends = {c->workers.ends, POLLIN, 0};
    CHECK_INT(poll(&ends, 1, 0), 0);
    end(2);
    CHECK_INT(poll(&ends, 1, 0), 1);
    reap(c, 0); /* the signal tells of nobody */
    check_reported(2);
    for (int i = 3; i < 6; i++)
        end(i);
    reap(c, live[2]);
    for (int i = 3; i < 6; i++)
        check_reported(i);
    check_silence();
    CHECK_INT(poll(&ends, 1, 0), 0);
    close_crowd(c);
}

/* The host has lost their descriptors. */
static void told_by_signals(void)
{
    tine__child *c = open_crowd();
    for (int i = 0; i < 3; i++) {
        tine__fd_close(&pidfds[i]);
        end(i);
    }
    tine__reap(c);
    check_silence();
    reap(c, live[1]);
    check_reported(1);
    check_silence(); /* of the others a signal was merged with this one */
    int ms = tine__children_wait_ms(&c->workers);
    CHECK(ms > 0 && ms <= LATE_USEC / 1000 + 1);
    c->workers.look_usec -= LATE_USEC;
    CHECK_INT(tine__children_wait_ms(&c->workers), 0);
    tine__reap(c);
    check_reported(0);
    check_reported(2);
    CHECK_INT(tine__children_wait_ms(&c->workers), -1);
    close_crowd(c);
}

/* A worker from before there was a set, and all of them when somebody has closed it. */
static void seen_where_nobody_tells(void)
{
    tine__child *c = open_crowd();
    int ends = c->workers.ends;
    c->workers.ends = -1;
    CHECK_INT(tine__children_add(&c->workers, 1 << 30, 99, false), 0);
    CHECK_INT(c->workers.nblind, 1);
    c->workers.ends = ends;
    tine__fd_close(&pidfds[0]);
    end(0);
    reap(c, 0);
    check_reported(0);
    take_out(&c->workers, find(&c->workers, 1 << 30));
    CHECK_INT(c->workers.nblind, 0);
    close(ends);
    tine__fd_close(&pidfds[1]);
    end(1);
    reap(c, 0);
    check_reported(1);
    CHECK_INT(c->workers.ends, -1);
    CHECK_INT(c->workers.nblind, c->workers.n);
    close_crowd(c);
}

int main(void)
{
    RUN(random_pids);
    RUN(pids_in_order);
    RUN(pids_that_collide);
    RUN(without_memory);
    RUN(ends_are_reported);
    RUN(stolen_status);
    RUN(reaped_by_signal);
    RUN(told_by_pidfds);
    RUN(told_by_signals);
    RUN(seen_where_nobody_tells);
    tine__children_forget(&table);
    return 0;
}
