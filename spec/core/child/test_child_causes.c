/* What goes wrong in the system calls of a process that serves is told to its host, by its name. */
#include <lauxlib.h>
#include <lualib.h>
#include <sys/socket.h>

#include "fault.h"
#include "test.h"
#include "tine.h"

typedef struct seen {
    int errors, exits, sys_errno;
    tine_kind kind;
    char message[300];
} seen;

static void on_error(void *arg, tine_proc *p, const tine_error *err)
{
    seen *s = arg;
    (void)p;
    s->errors++;
    s->kind = err->kind;
    s->sys_errno = err->sys_errno;
    snprintf(s->message, sizeof s->message, "%.*s", (int)err->message_len,
             err->message);
}

static void on_exit_of(void *arg, tine_proc *p, const tine_error *err,
                       const tine_exit *info)
{
    seen *s = arg;
    (void)p;
    (void)err;
    (void)info;
    s->exits++;
}

static void run_until(tine_host *host, const int *what)
{
    for (int64_t end = test_usec() + TEST_SECONDS * INT64_C(1000000);
         !*what && test_usec() < end;)
        tine_host_poll(host, 100000);
    CHECK(*what);
}

/* A process that serves, made by a fork of this one, with `prepare` called in it. */
static tine_proc *new_server(tine_host *host, void (*prepare)(void), pid_t *pid)
{
    int pair[2];
    tine_proc *p = NULL;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    *pid = fork();
    CHECK(*pid >= 0);
    if (*pid == 0) {
        close(pair[0]);
        lua_State *L = luaL_newstate();
        luaL_openlibs(L);
        prepare();
        tine_serve(L, pair[1]);
    }
    close(pair[1]);
    CHECK_INT(tine_proc_from_fd(host, pair[0], &p), 0);
    return p;
}

static void watch(tine_proc *p, seen *s)
{
    memset(s, 0, sizeof *s);
    tine_proc_on_error(p, on_error, s);
    tine_proc_on_exit(p, on_exit_of, s);
}

static void eval(tine_proc *p, const char *code)
{
    CHECK_INT(tine_proc_eval(p, TINE_TEXT, code, strlen(code), NULL, 0), 0);
}

/* The greeting is taken in two calls, which bring its header and its body. */
static void lack_memory(void)
{
    fault_recvmsg = ENOMEM;
    fault_recvmsg_after = 3;
}

static void test_reading_commands(void)
{
    tine_host *host;
    pid_t pid;
    seen s;
    CHECK_INT(tine_host_new(&host, NULL), 0);
    tine_proc *p = new_server(host, lack_memory, &pid);
    watch(p, &s);
    eval(p, "x = 1");
    run_until(host, &s.errors);
    CHECK_INT(s.kind, TINE_KIND_SYSTEM);
    CHECK_INT(s.sys_errno, ENOMEM);
    CHECK(strstr(s.message, "cannot read the command socket"));
    const tine_error *why = tine_proc_why(p);
    CHECK(why && why->sys_errno == ENOMEM);
    run_until(host, &s.exits);
    CHECK(waitpid(pid, NULL, 0) == pid);
    tine_proc_close(p);
    tine_host_free(host);
}

static void lack_files(void)
{
    fault_open = ENFILE;
}

static void test_redirecting(void)
{
    static const tine_proc_options options = {.stdio = {{.how = TINE_STDIO_NULL}}};
    tine_host *host;
    tine_proc *worker;
    pid_t pid;
    seen s;
    CHECK_INT(tine_host_new(&host, NULL), 0);
    tine_proc *p = new_server(host, lack_files, &pid);
    CHECK_INT(tine_proc_fork(p, &options, &worker), 0);
    watch(worker, &s);
    run_until(host, &s.errors);
    CHECK_INT(s.kind, TINE_KIND_SYSTEM);
    CHECK_INT(s.sys_errno, ENFILE);
    CHECK(strstr(s.message, "cannot redirect standard input and output"));
    tine_proc_close(worker);
    tine_proc_close(p);
    tine_host_free(host);
    CHECK(waitpid(pid, NULL, 0) == pid);
}

static int too_many_in_flight(const struct msghdr *msg, size_t *most)
{
    (void)most;
    return msg->msg_controllen ? ETOOMANYREFS : 0;
}

static void send_no_descriptors(void)
{
    fault_sendmsg = too_many_in_flight;
}

/* It cannot send the host the end of a channel of its own: it reports on the one for all. */
static void test_own_channel(void)
{
    tine_host *host;
    pid_t pid;
    seen s;
    CHECK_INT(tine_host_new(&host, NULL), 0);
    tine_proc *p = new_server(host, send_no_descriptors, &pid);
    watch(p, &s);
    eval(p, "function run() error('its own') end");
    CHECK_INT(tine_proc_run(p, TINE_TEXT, "run", 3, NULL, NULL), 0);
    run_until(host, &s.errors);
    CHECK_INT(s.kind, TINE_KIND_EXCEPTION);
    CHECK(strstr(s.message, "its own"));
    run_until(host, &s.exits);
    CHECK(waitpid(pid, NULL, 0) == pid);
    tine_proc_close(p);
    tine_host_free(host);
}

/* In its turn among the commands: what was queued before is carried out. */
static void test_failing_on_purpose(void)
{
    tine_host *host;
    tine_proc *p;
    seen s;
    CHECK_INT(tine_host_new(&host, NULL), 0);
    CHECK_INT(tine_proc_new_exec(host, NULL, &p), 0);
    CHECK(!tine_proc_why(p));
    watch(p, &s);
    eval(p, "x = 1");
    CHECK_INT(tine_proc_fail(p, "do as asked", -EMFILE), 0);
    eval(p, "error('after')");
    run_until(host, &s.errors);
    CHECK_INT(s.errors, 1);
    CHECK_INT(s.kind, TINE_KIND_SYSTEM);
    CHECK_INT(s.sys_errno, EMFILE);
    CHECK(strstr(s.message, "cannot do as asked: ") && strstr(s.message, "EMFILE"));
    tine_proc_close(p);
    tine_host_free(host);
}

int main(void)
{
    RUN(test_reading_commands);
    RUN(test_redirecting);
    RUN(test_own_channel);
    RUN(test_failing_on_purpose);
    return 0;
}
