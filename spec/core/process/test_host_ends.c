/* libtine in a C program that has no Lua: how processes and hosts end, forks of the program, and
 * what is no use of it. */
#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include "host_jobs.h"

/* Waits until pid is no more, or a zombie of somebody else's. */
static void await_gone(pid_t pid)
{
    int64_t end = test_usec() + DEADLINE_USEC;
    char path[40], line[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    for (;;) {
        FILE *f = fopen(path, "re");
        if (!f)
            return;
        size_t n = fread(line, 1, sizeof line - 1, f);
        fclose(f);
        line[n] = 0;
        const char *state = strrchr(line, ')');
        if (!state || state[2] == 'Z' || state[2] == 'X')
            return;
        CHECK(test_usec() < end);
        poll(NULL, 0, 5);
    }
}

/* ------------------------------------------------------------------- ends */

static void killed(tine_host *host)
{
    tine_proc *p = new_proc(host);
    seen s;
    see(&s, p);
    CHECK_INT(tine_proc_kill(p, 0), -EINVAL);
    CHECK_INT(tine_proc_kill(p, 1000), -EINVAL);
    CHECK_INT(tine_proc_kill(p, SIGTERM), 0); /* as soon as it is made */
    run_out(host);
    CHECK(s.exits == 1 && !s.ok && s.exit_kind == TINE_KIND_CRASH);
    CHECK_INT(s.exit.signal, SIGTERM);
    CHECK_INT(s.exit.code, -1);
    CHECK_INT(tine_proc_kill(p, SIGTERM), -ESRCH);
    CHECK_INT(tine_proc_eval(p, TINE_TEXT, "", 0, NULL, 0), -TINE_ECLOSED);
    tine_proc_close(p);
}

/* A template that is killed takes its workers along, and their callbacks say so. */
static void template_that_dies(tine_host *host)
{
    tine_proc *base = new_proc(host), *idle = fork_proc(base), *busy = fork_proc(base);
    seen a, b, c, d;
    see(&a, base), see(&b, idle), see(&c, busy);
    tine_proc *grandchild = fork_proc(idle);
    see(&d, grandchild);
    load_job(busy);
    run(busy, "forever", seen_fd, &c);
    await(host, &c.fds, 1);
    await(host, &d.readies, 1);
    tine_proc *late = fork_proc(base);
    seen e;
    see(&e, late);
    CHECK_INT(tine_proc_kill(base, SIGKILL), 0);
    await(host, &a.exits, 1);
    await(host, &b.exits, 1);
    await(host, &c.exits, 1);
    await(host, &d.exits, 1);
    await(host, &e.exits, 1);
    CHECK(a.exit.signal == SIGKILL && !b.ok && !c.ok && !d.ok && !e.ok);
    run_out(host);
    close(c.fd);
    tine_proc *all[] = {base, idle, busy, grandchild, late};
    for (size_t i = 0; i < 5; i++)
        tine_proc_close(all[i]);
    run_out(host);
}

static int host_errors;

static void host_error(void *arg, tine_proc *p, const tine_error *err)
{
    (void)arg, (void)p;
    CHECK(err->message_len);
    host_errors++;
}

static void errors_without_a_handler(tine_host *unused)
{
    tine_host *host;
    tine_host_options options = {.on_error = host_error};
    (void)unused;
    CHECK_INT(tine_host_new(&host, &options), 0);
    tine_proc *p = new_proc(host);
    host_errors = 0;
    eval(p, "error 'nobody cares'");
    tine_proc_close(p);
    run_out(host);
    CHECK_INT(host_errors, 1);
    tine_host_free(host);
}

/* The default template's failure reaches each handle, and nobody else; nothing stays. */
static void no_interpreter(tine_host *unused)
{
    tine_host *host;
    static const char *const paths[] = {"/nonexistent/tine", "/etc/passwd",
                                        "/bin/true"};
    (void)unused;
    for (size_t k = 0; k < 3; k++) {
        tine_host_options options = {.on_error = host_error, .interpreter = paths[k]};
        CHECK_INT(tine_host_new(&host, &options), 0);
        host_errors = 0;
        static seen s[6];
        for (int round = 0; round < 3; round++) {
            for (int i = 0; i < 6; i++) {
                tine_proc *p;
                CHECK_INT((i == 5 ? tine_proc_new_exec : tine_proc_new)(host, NULL, &p),
                          0);
                see(&s[i], p);
                tine_proc_close(p);
            }
            run_out(host);
            for (int i = 0; i < 6; i++)
                CHECK(s[i].exits == 1 && s[i].errors == 1 && !s[i].readies);
            CHECK_INT(handles(host), 0);
        }
        CHECK_INT(host_errors, 0);
        tine_host_free(host);
    }
}

/* With SIGCHLD ignored, the kernel reaps; with a wait of the program's own, the program. */
static void somebody_else_reaps(tine_host *host)
{
    seen s;
    tine_proc *p;
    signal(SIGCHLD, SIG_IGN);
    for (int exec = 0; exec < 2; exec++) {
        CHECK_INT((exec ? tine_proc_new_exec : tine_proc_new)(host, NULL, &p), 0);
        see(&s, p);
        eval(p, "function seven() os.exit(7) end");
        run(p, "seven", NULL, NULL);
        run_out(host);
        CHECK_INT(s.exits, 1);
        CHECK(!s.ok && (s.exit.code == 7 || (exec && s.exit.code == -1)));
        tine_proc_close(p);
    }
    signal(SIGCHLD, SIG_DFL);
}

/* A fork of the program that lives on holds duplicates of all sockets. */
static void a_long_lived_fork(tine_host *host)
{
    tine_proc *p = new_proc(host);
    seen s;
    see(&s, p);
    await(host, &s.readies, 1);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(TEST_SECONDS);
        for (;;)
            pause();
    }
    tine_proc_close(p);
    tine_host_reset(host);
    run_out(host);
    CHECK(s.exits == 1 && s.ok);
    CHECK_INT(handles(host), 0);
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, NULL, 0) == pid);
}

static void stale_in_a_fork(tine_host *host)
{
    tine_proc *p = new_proc(host), *q;
    seen s;
    see(&s, p);
    await(host, &s.readies, 1);
    pid_t pid = fork();
    if (pid == 0) {
        int bad = 0, fd;
        bad += tine_proc_eval(p, TINE_TEXT, "x", 1, NULL, 0) != -TINE_ESTALE;
        bad += tine_proc_new(host, NULL, &q) != -TINE_ESTALE;
        bad += tine_proc_fork(p, NULL, &q) != -TINE_ESTALE;
        bad += tine_proc_kill(p, SIGKILL) != -TINE_ESTALE;
        bad += tine_proc_on_exit(p, NULL, NULL) != -TINE_ESTALE;
        bad += tine_proc_run(p, TINE_TEXT, "x", 1, NULL, NULL) != -TINE_ESTALE;
        bad += tine_proc_here(host, NULL, &q, &fd) != -TINE_ESTALE;
        bad += tine_host_run(host) != -TINE_ESTALE;
        bad += tine_host_poll(host, 0) != -TINE_ESTALE;
        bad += tine_host_flush(host) != -TINE_ESTALE;
        bad += tine_host_reset(host) != -TINE_ESTALE;
        bad += tine_host_set_interpreter(host, "/x") != -TINE_ESTALE;
        bad += tine_host_set_lua_path(host, "/x", "/x") != -TINE_ESTALE;
        tine_proc_close(p);
        tine_host_free(host);
        _exit(bad);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_INT(status, 0);
    check_works(host, false);
    tine_proc_close(p);
}

/* ------------------------------------------------------------------- output */

static char lines[200];

static void on_line(void *arg, tine_proc *p, const char *line, size_t len)
{
    (void)p;
    size_t n = strlen(lines);
    snprintf(lines + n, sizeof lines - n, "%s[%.*s]", (const char *)arg, (int)len,
             line);
}

static void output_in_lines(tine_host *host)
{
    static char mark[] = ">";
    tine_proc_options options = {.arg = mark};
    options.stdio[1] = options.stdio[2] =
        (tine_stdio){.how = TINE_STDIO_LINES, .on_line = on_line};
    for (int exec = 0; exec < 2; exec++) {
        tine_proc *p;
        lines[0] = 0;
        CHECK_INT((exec ? tine_proc_new_exec : tine_proc_new)(host, &options, &p), 0);
        eval(p, "io.write('a\\n\\nb') io.write('c\\n')");
        run_out(host);
        eval(p, "io.write('the rest')");
        tine_proc_close(p);
        run_out(host);
        CHECK(strcmp(lines, ">[a]>[]>[bc]>[the rest]") == 0);
    }
    /* stdin cannot be read in lines: the handle says so. */
    tine_proc *p;
    seen s;
    tine_proc_options wrong = {
        .stdio[0] = {.how = TINE_STDIO_LINES, .on_line = on_line}};
    CHECK_INT(tine_proc_new(host, &wrong, &p), 0);
    see(&s, p);
    run_out(host);
    CHECK(s.exits == 1 && s.errors == 1 && !s.ok);
    tine_proc_close(p);
}

/* ------------------------------------------------------------------ misuse */

static void misuse(tine_host *host)
{
    tine_proc *p = new_proc(host), *q;
    int fd = -1, fds[TINE_MAX_FDS + 1];
    seen s;
    see(&s, p);
    for (int i = 0; i <= TINE_MAX_FDS; i++)
        fds[i] = 0;
    CHECK_INT(tine_proc_send_fd(p, &fd, 1), -EBADF);
    CHECK_INT(tine_proc_send_fd(p, fds, TINE_MAX_FDS + 1), -EINVAL);
    CHECK_INT(tine_proc_send_fd(p, NULL, 0), 0);
    CHECK_INT(tine_proc_eval(p, TINE_TEXT, "x", (size_t)1 << 33, NULL, 0), -EMSGSIZE);
    tine_str huge = {"x", (size_t)1 << 32};
    CHECK_INT(tine_proc_send_arg(p, &huge, 1), -EMSGSIZE);
    CHECK_INT(tine_proc_require(p, &huge, 1), -EMSGSIZE);
    CHECK_INT(tine_proc_run(p, TINE_TEXT, "x", (size_t)1 << 32, NULL, NULL), -EMSGSIZE);
    load_job(p);
    run(p, "nothing", seen_fd, &s);
    CHECK_INT(tine_proc_run(p, TINE_TEXT, "x", 1, NULL, NULL), -TINE_ECONSUMED);
    CHECK_INT(tine_proc_to_fd(p, seen_fd, &s), -TINE_ECONSUMED);
    CHECK_INT(tine_proc_fork(p, NULL, &q), -TINE_ECONSUMED);
    fd = test_marked_fd();
    CHECK_INT(tine_proc_send_fd(p, &fd, 1), -TINE_ECONSUMED);
    close(fd); /* not taken */
    run_out(host);
    CHECK(s.exits == 1 && s.ok);
    close(s.fd);
    CHECK_INT(tine_proc_send_arg(p, &huge, 0), -TINE_ECONSUMED);
    tine_proc_close(p);
    tine_proc_close(NULL);
    tine_host_free(NULL);
    tine_timer_free(NULL);
    tine_io_free(NULL);
    tine_signal_free(NULL);
}

/* ----------------------------------------------------------- free while busy */

static void free_with_processes(tine_host *unused)
{
    enum { N = 5 };
    (void)unused;
    for (int waits = 0; waits < 4; waits++) {
        tine_host *host;
        static seen s[2 * N];
        pid_t pids[2 * N];
        CHECK_INT(tine_host_new(&host, NULL), 0);
        tine_proc *base = new_proc(host), *p;
        load_job(base);
        for (int i = 0; i < N; i++) {
            p = fork_proc(base);
            see(&s[i], p);
            run(p, "forever", seen_fd, &s[i]);
            CHECK_INT(tine_proc_new_exec(host, NULL, &p), 0);
            see(&s[N + i], p);
            load_job(p);
            if (i % 2)
                run(p, "forever", NULL, NULL);
            int fd = test_marked_fd();
            if (i % 2 == 0)
                CHECK_INT(tine_proc_send_fd(p, &fd, 1), 0);
            else
                close(fd);
        }
        if (waits)
            tine_host_poll(host, (int64_t)1000 * waits * waits);
        for (int i = 0; waits == 3 && i < N; i++)
            await(host, &s[i].fds, 1);
        size_t n = 0;
        for (const tine_proc *one = host->process->all; one; one = one->next)
            if (n < (size_t)2 * N && tine_proc_pid(one))
                pids[n++] = tine_proc_pid(one);
        tine_host_free(host);
        for (int i = 0; i < N; i++)
            if (s[i].fds)
                close(s[i].fd);
        for (size_t i = 0; i < n; i++)
            await_gone(pids[i]);
        CHECK(!test_has_child());
    }
}

/* A worker of a detached template is not detached itself. */
static void free_with_a_detached_template(tine_host *unused)
{
    tine_host *host;
    tine_proc *base, *worker;
    tine_proc_options options = {.detach = 1};
    seen s, of_base;
    (void)unused;
    CHECK_INT(tine_host_new(&host, NULL), 0);
    CHECK_INT(tine_proc_new_exec(host, &options, &base), 0);
    see(&of_base, base);
    load_job(base);
    worker = fork_proc(base);
    see(&s, worker);
    run(worker, "forever", seen_fd, &s);
    await(host, &s.fds, 1);
    pid_t pid = tine_proc_pid(base), of_worker = tine_proc_pid(worker);
    tine_host_free(host);
    await_gone(of_worker);
    close(s.fd);
    CHECK(waitpid(pid, NULL, 0) == pid); /* it had nothing more to do */
}

/* -------------------------------------------------------- the program's fork */

static void fork_of_the_program(tine_host *host)
{
    tine_proc *p;
    int fd, kept = test_marked_fd(), other = test_marked_fd();
    tine_proc_options options = {.keep = &kept, .nkeep = 1};
    seen s;
    int result = tine_proc_here(host, &options, &p, &fd);
    if (result == 0) {
        /* 0, 1, 2, the command socket, the one to keep, and the folder that is read. */
        size_t want = 2 + 5 + 1;
        bool good = test_fds() == want && fcntl(kept, F_GETFD) >= 0 &&
                    fcntl(other, F_GETFD) < 0 &&
                    tine_host_poll(host, 0) == -TINE_ESTALE;
        _exit(good ? 5 : 6);
    }
    CHECK_INT(result, 1);
    see(&s, p);
    CHECK(tine_proc_pid(p) > 0);
    run_out(host);
    CHECK(s.exits == 1 && s.exit.code == 5 && !s.readies && s.errors == 1);
    tine_proc_close(p);
    run_out(host);
    CHECK_INT(handles(host), 0);
    close(kept);
    close(other);
}

static void early_template_that_dies(tine_host *host)
{
    int fd;
    int result = tine_host_early(host, &fd);
    if (result == 0)
        _exit(0);
    CHECK_INT(result, 1);
    tine_proc *p;
    seen s;
    CHECK_INT(tine_proc_new_exec(host, NULL, &p), 0); /* a fork of that one */
    see(&s, p);
    run_out(host);
    CHECK(s.exits == 1 && !s.readies && s.errors == 1);
    tine_proc_close(p);
    check_works(host, false); /* from then on by exec again */
}

static void *wait_for_byte(void *arg)
{
    char byte;
    ssize_t n = read(*(int *)arg, &byte, 1);
    return n < 0 ? arg : NULL;
}

static void not_with_threads(tine_host *host)
{
    int pair[2], fd;
    pthread_t thread;
    tine_proc *p;
    CHECK(pipe2(pair, O_CLOEXEC) == 0);
    CHECK_INT(pthread_create(&thread, NULL, wait_for_byte, &pair[0]), 0);
    CHECK_INT(tine_proc_here(host, NULL, &p, &fd), -EBUSY);
    CHECK_INT(handles(host), 0);
    check_works(host, false);
    close(pair[1]);
    CHECK_INT(pthread_join(thread, NULL), 0);
    close(pair[0]);
}

int main(void)
{
    HOST(killed);
    HOST(template_that_dies);
    HOST(errors_without_a_handler);
    HOST(no_interpreter);
    HOST(somebody_else_reaps);
    HOST(a_long_lived_fork);
    HOST(stale_in_a_fork);
    HOST(output_in_lines);
    HOST(misuse);
    HOST(free_with_processes);
    HOST(free_with_a_detached_template);
    HOST(fork_of_the_program);
    HOST(early_template_that_dies);
    HOST(not_with_threads);
    return 0;
}
