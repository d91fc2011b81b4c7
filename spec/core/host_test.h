/* What the C tests of hosts share: callbacks that write down what they are told, waiting with
 * a deadline, and a runner that gives each test a host of its own. */
#ifndef TINE_HOST_TEST_H
#define TINE_HOST_TEST_H

#include "test.h"
#include "tine.h"

/* What callbacks get has a NUL behind it that does not count. */
TEST_UNUSED static void check_text(const void *text, size_t len)
{
    CHECK(text);
    CHECK_INT(((const char *)text)[len], 0);
}

TEST_UNUSED static void check_error(const tine_error *err)
{
    check_text(err->message, err->message_len);
    if (err->traceback)
        check_text(err->traceback, err->traceback_len);
}

/* What became of a process. */
typedef struct seen {
    int exits, errors, readies, fds;
    tine_kind kind; /* of the first error */
    char message[400];
    tine_kind exit_kind;
    tine_exit exit;
    bool ok; /* the exit came without an error */
    int fd;  /* from run or to_fd */
} seen;

TEST_UNUSED static void seen_exit(void *arg, tine_proc *p, const tine_error *err,
                                  const tine_exit *info)
{
    seen *s = arg;
    (void)p;
    s->exits++;
    s->ok = !err;
    s->exit_kind = err ? err->kind : TINE_KIND_SYSTEM;
    s->exit = *info;
    if (err)
        check_error(err);
    if (err && !s->errors)
        (void)snprintf(s->message, sizeof s->message, "%.*s", (int)err->message_len,
                       err->message);
}

TEST_UNUSED static void seen_error(void *arg, tine_proc *p, const tine_error *err)
{
    seen *s = arg;
    (void)p;
    check_error(err);
    if (s->errors++)
        return;
    s->kind = err->kind;
    (void)snprintf(s->message, sizeof s->message, "%.*s", (int)err->message_len,
                   err->message);
}

TEST_UNUSED static void seen_ready(void *arg, tine_proc *p, const tine_error *err)
{
    seen *s = arg;
    (void)p;
    s->readies += err ? 0 : 1;
}

TEST_UNUSED static void seen_fd(void *arg, tine_proc *p, int fd, const tine_error *err)
{
    seen *s = arg;
    (void)p;
    (void)err;
    s->fds++;
    s->fd = fd;
}

TEST_UNUSED static void see(seen *s, tine_proc *p)
{
    memset(s, 0, sizeof *s);
    s->fd = -1;
    CHECK(tine_proc_on_exit(p, seen_exit, s) == 0);
    CHECK(tine_proc_on_error(p, seen_error, s) == 0);
    CHECK(tine_proc_on_ready(p, seen_ready, s) == 0);
}

enum { DEADLINE_USEC = 20000000 };

/* Runs the loop until *count is at least n. */
TEST_UNUSED static void await(tine_host *host, const int *count, int n)
{
    int64_t end = test_usec() + DEADLINE_USEC;
    while (*count < n && test_usec() < end)
        CHECK(tine_host_poll(host, 10000) >= 0);
    CHECK(*count >= n);
}

/* Runs name as the entry function, and returns what the process answers. */
TEST_UNUSED static const char *converse(tine_host *host, tine_proc *p, seen *s,
                                        const char *name, const char *question)
{
    static char answer[200];
    size_t len = 0;
    CHECK(tine_proc_run(p, TINE_TEXT, name, strlen(name), seen_fd, s) == 0);
    await(host, &s->fds, 1);
    CHECK(s->fd >= 0);
    if (*question)
        CHECK_INT(write(s->fd, question, strlen(question)), strlen(question));
    int64_t end = test_usec() + DEADLINE_USEC;
    for (ssize_t n = 1; n != 0 && test_usec() < end;) {
        n = read(s->fd, answer + len, sizeof answer - 1 - len);
        if (n < 0 && errno != EINTR)
            CHECK(errno == EAGAIN);
        if (n < 0)
            CHECK(tine_host_poll(host, 1000) >= 0);
        len += n > 0 ? (size_t)n : 0;
    }
    answer[len] = 0;
    close(s->fd);
    s->fd = -1;
    return answer;
}

/* A new process answers, and leaves with that code. */
TEST_UNUSED static void check_works(tine_host *host, bool exec)
{
    static const char code[] =
        "function echo(s) s:write(s:read() .. '!') os.exit(7) end";
    tine_proc *p;
    seen s;
    CHECK((exec ? tine_proc_new_exec : tine_proc_new)(host, NULL, &p) == 0);
    see(&s, p);
    CHECK(tine_proc_eval(p, TINE_TEXT, code, sizeof code - 1, NULL, 0) == 0);
    CHECK(strcmp(converse(host, p, &s, "echo", "hello"), "hello!") == 0);
    await(host, &s.exits, 1);
    CHECK(s.exit_kind == TINE_KIND_EXIT && s.exit.code == 7 && s.errors == 0);
    tine_proc_close(p);
}

static void (*host_body)(tine_host *host);

TEST_UNUSED static void host_test(void)
{
    tine_host *host;
    CHECK(tine_host_new(&host, NULL) == 0);
    host_body(host);
    tine_host_free(host);
}

/* A test with a host of its own, which leaves nothing. */
TEST_UNUSED static void host_run(const char *name, void (*body)(tine_host *host))
{
    host_body = body;
    test_run(name, host_test);
}

#endif
