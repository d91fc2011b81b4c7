/* The memory of processes: what /proc says, and the questions to a process. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "fault.h"
#include "host_test.h"
#include "process/local/proc_memory.h"
#include "process/memory.h"

enum { MB = 1 << 20, PAGE = 4096 };

static tine_memory of_self(void)
{
    tine_memory m;
    tine__memory_clear(&m);
    tine__memory_read(&m, getpid(), true);
    return m;
}

static void what_is_not_known(void)
{
    tine_memory m;
    tine__memory_clear(&m);
    tine__memory_read(&m, 0, true);
    CHECK(m.heap == TINE_HEAP_UNKNOWN && m.pid == 0 && !*m.failed);
    CHECK(m.own == -1 && m.shared == -1 && m.sealed == -1 && m.seals == -1);
    CHECK(m.rss == -1 && m.pss == -1 && m.private_rss == -1 && m.copied == -1);
    CHECK(m.minor_faults == -1 && m.major_faults == -1);
    tine__memory_read(&m, INT32_MAX, true); /* larger than any */
    CHECK(m.rss == -1 && m.pss == -1 && m.minor_faults == -1);
}

/* The name of a process may look like what comes after it. */
static void whatever_the_name(void)
{
    CHECK(prctl(PR_SET_NAME, "a) R 1 (b) ", 0, 0, 0) == 0);
    tine_memory before = of_self(), after;
    volatile char *memory =
        mmap(NULL, 8 * MB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    madvise((void *)(size_t)memory, 8 * MB, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < 8 * MB; i += PAGE)
        memory[i] = 1;
    after = of_self();
    CHECK(before.rss > 0 && before.pss > 0 && before.pss <= before.rss);
    CHECK(after.rss >= before.rss + 7 * MB);
    CHECK(after.private_rss >= before.private_rss + 7 * MB);
    CHECK(after.minor_faults >= before.minor_faults + 2048);
    CHECK(after.major_faults >= before.major_faults && before.major_faults >= 0);
    munmap((void *)(size_t)memory, 8 * MB);
}

/* What is only read is the file's, though nobody else reads it. */
static void sealed_memory(void)
{
    int fd = memfd_create("tine-heap", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, 8 * MB) == 0);
    for (off_t at = 0; at < 8 * MB; at += PAGE)
        CHECK(pwrite(fd, "x", 1, at) == 1);
    volatile char *memory =
        mmap(NULL, 8 * MB, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(memory != MAP_FAILED);
    tine_memory before = of_self();
    unsigned sum = 0;
    for (size_t i = 0; i < 8 * MB; i += PAGE)
        sum += (unsigned)memory[i];
    CHECK_INT(sum, 2048 * 'x');
    tine_memory read = of_self();
    CHECK(read.rss >= before.rss + 7 * MB);
    CHECK(read.private_rss < before.private_rss + MB);
    CHECK_INT(read.copied, before.copied);
    for (size_t i = 0; i < 100; i++)
        memory[i * 5 * PAGE] = 'y';
    tine_memory written = of_self();
    CHECK_INT(written.copied, before.copied + 100 * PAGE);
    CHECK(written.private_rss >= before.private_rss + 100 * PAGE);
    munmap((void *)(size_t)memory, 8 * MB);
    close(fd);
}

static void zombies(void)
{
    siginfo_t info;
    pid_t pid = fork();
    if (!pid)
        _exit(0);
    CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
    tine_memory m;
    tine__memory_clear(&m);
    tine__memory_read(&m, pid, true);
    CHECK(m.minor_faults >= 0 && m.rss == 0 && m.pss == -1 && m.copied == -1);
    CHECK(waitpid(pid, NULL, 0) == pid);
}

/* -------------------------------------------------------------------- questions */

typedef struct told {
    int n, errors;
    tine_memory m;
    tine_kind kind;
    int order;
} told;

static int order;

static void on_memory(void *arg, tine_proc *p, const tine_error *err,
                      const tine_memory *memory)
{
    told *t = arg;
    (void)p;
    CHECK(!err != !memory);
    t->n++;
    t->order = ++order;
    t->errors += err != NULL;
    if (err)
        t->kind = err->kind;
    else
        t->m = *memory;
}

static void in_order(tine_host *host)
{
    static const char loop[] = "while true do end", code[] = "x = ('x'):rep(1 << 22)";
    told t[4] = {{0}}, late = {0};
    tine_proc *p;
    seen s;
    CHECK(tine_proc_new(host, NULL, &p) == 0);
    see(&s, p);
    CHECK(tine_proc_memory(p, on_memory, &t[0]) == 0);
    CHECK(tine_proc_eval(p, TINE_TEXT, code, sizeof code - 1, NULL, 0) == 0);
    CHECK(tine_proc_memory(p, on_memory, &t[1]) == 0);
    CHECK(tine_proc_busy(p) && t[0].n == 0);
    await(host, &t[1].n, 1);
    CHECK(t[0].n == 1 && t[0].order < t[1].order && !t[0].errors && !t[1].errors);
    CHECK(t[0].m.heap != TINE_HEAP_UNKNOWN && t[0].m.pid == tine_proc_pid(p));
    CHECK(t[1].m.own + t[1].m.shared >= t[0].m.own + t[0].m.shared + 4 * MB);
    CHECK(t[1].m.rss > 0 && t[1].m.minor_faults >= t[0].m.minor_faults);
    CHECK(tine_host_run(host) == 0 && !tine_proc_busy(p)); /* it is idle again */
    CHECK(tine_proc_eval(p, TINE_TEXT, loop, sizeof loop - 1, NULL, 0) == 0);
    CHECK(tine_proc_memory(p, on_memory, &t[2]) == 0);
    /* This one needs no answer, but it is not its turn. */
    CHECK(tine_proc_run(p, TINE_TEXT, "print", 5, NULL, NULL) == 0);
    CHECK(tine_proc_memory(p, on_memory, &t[3]) == 0);
    for (int i = 0; i < 20; i++)
        CHECK(tine_host_poll(host, 1000) >= 0);
    CHECK(t[2].n == 0 && t[3].n == 0);
    CHECK(tine_proc_kill(p, SIGKILL) == 0);
    await(host, &s.exits, 1);
    CHECK(t[2].errors == 1 && t[3].errors == 1 && t[2].order < t[3].order);
    CHECK(t[2].kind == TINE_KIND_CRASH);
    CHECK_INT(tine_proc_memory(p, on_memory, &late), -TINE_ECLOSED);
    tine_proc_close(p);
    CHECK(tine_host_run(host) == 0);
    CHECK(late.n == 0 && t[2].n == 1 && t[3].n == 1);
}

/* A question that is open when all is torn down is not answered. */
static void torn_down(tine_host *host)
{
    static told t[3];
    tine_proc *p;
    memset(t, 0, sizeof t);
    CHECK(tine_proc_new(host, NULL, &p) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(tine_proc_memory(p, on_memory, &t[i]) == 0);
    tine_proc_close(p);
}

static void closed_with_a_question(tine_host *host)
{
    told t = {0};
    tine_proc *p;
    CHECK(tine_proc_new(host, NULL, &p) == 0);
    CHECK(tine_proc_memory(p, on_memory, &t) == 0);
    tine_proc_close(p);
    CHECK(tine_host_run(host) == 0);
    CHECK(t.n == 1 && !t.errors);
}

static void without_memory(tine_host *host)
{
    tine_proc *p;
    told t = {0};
    CHECK(tine_proc_new(host, NULL, &p) == 0);
    for (long n = 1;; n++) {
        fault_set(n, 0);
        int err = tine_proc_memory(p, on_memory, &t);
        bool hit = fault_hit;
        fault_set(0, 0);
        CHECK(err == 0 || (err == -ENOMEM && hit));
        if (!hit)
            break;
    }
    await(host, &t.n, 1);
    CHECK(!t.errors);
    tine_proc_close(p);
}

int main(void)
{
    RUN(what_is_not_known);
    RUN(whatever_the_name);
    RUN(sealed_memory);
    RUN(zombies);
    host_run("in order", in_order);
    host_run("torn down", torn_down);
    host_run("closed with a question", closed_with_a_question);
    host_run("without memory", without_memory);
    return 0;
}
