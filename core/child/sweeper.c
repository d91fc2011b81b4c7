/* The sweeper: waits for the end of its host, then ends what is left of the sessions that it was
 * told of. */
#include "sweeper.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/pdeathsig.h"
#include "base/rights.h"

/* Milliseconds. A leader that has ended is remembered for a moment, since its host may be about to
 * end, too; templates see to their own when the host has gone, and get some time for that. */
enum { MEMORY = 1000, GRACE = 300, PERSEVERANCE = 5000, PAUSE = 2 };
enum { EVENTS = 64, SESSION_FIELD = 6 };

typedef struct session {
    struct session *next;
    pid_t leader; /* 0: no session, its pidfd alone is to be killed */
    int pidfd;
    int64_t ended; /* when; 0: it lives */
} session;

static session *sessions;
static int epoll_fd;

static int64_t now(void)
{
    return tine__now_usec() / 1000 + 1;
}

static void forget(session **link)
{
    session *s = *link;
    *link = s->next;
    close(s->pidfd);
    free(s);
}

static void add(pid_t leader, int pidfd)
{
    session *s = calloc(1, sizeof *s);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
    if (!s || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, pidfd, &event) < 0) {
        close(pidfd);
        free(s);
        return;
    }
    s->next = sessions;
    s->leader = leader;
    s->pidfd = pidfd;
    sessions = s;
}

/* Returns false when the host's end is closed. */
static bool receive(int fd)
{
    TINE__RIGHTS_ROOM(1) control;
    int32_t leader = 0;
    int pidfd;
    struct iovec iov = {&leader, sizeof leader};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control};
    for (;;) {
        msg.msg_controllen = sizeof control;
        ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (n <= 0)
            return n < 0 && (errno == EAGAIN || errno == EINTR);
        if (tine__rights_get(&msg, &pidfd, 1))
            add(leader, pidfd);
    }
}

static void note_end(session *s)
{
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, s->pidfd, NULL);
    s->ended = now();
}

static void forget_old(void)
{
    int64_t before = now() - MEMORY;
    for (session **link = &sessions; *link;) {
        if ((*link)->ended && (*link)->ended < before)
            forget(link);
        else
            link = &(*link)->next;
    }
}

static bool any(bool ended)
{
    for (const session *s = sessions; s; s = s->next)
        if ((s->ended != 0) == ended)
            return true;
    return false;
}

/* ----------------------------------------------------------------- the end of the host */

static void on_signal(int signo)
{
    (void)signo; /* it only ends the sleep */
}

/* Only the parent-death signal gets through, and only where the mask says so. */
static void listen_to_death(sigset_t *waiting)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t all;
    sigaction(TINE__PDEATH_SIGNAL, &action, NULL);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    *waiting = all;
    sigdelset(waiting, TINE__PDEATH_SIGNAL);
    prctl(PR_SET_PDEATHSIG, TINE__PDEATH_SIGNAL);
}

/* One sleep. Returns false when the host is gone: a process that was forked from it may hold its
 * end of the socket. */
static bool wait_once(int fd, pid_t host, const sigset_t *waiting)
{
    struct epoll_event events[EVENTS];
    int n = epoll_pwait(epoll_fd, events, EVENTS, any(true) ? MEMORY : -1, waiting);
    bool there = getppid() == host;
    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr)
            note_end(events[i].data.ptr);
        else
            there = receive(fd) && there;
    }
    if (there)
        forget_old();
    else
        receive(fd);
    return there;
}

static void await_leaders(int fd)
{
    struct epoll_event events[EVENTS];
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    int64_t until = now() + GRACE;
    while (any(false) && now() < until) {
        int n = epoll_wait(epoll_fd, events, EVENTS, (int)(until - now()));
        for (int i = 0; i < n; i++)
            note_end(events[i].data.ptr);
    }
}

/* --------------------------------------------------------------------------- sweeping */

/* The leader's number is that of another process by now, which has nothing to do with us. */
static bool reused(const session *s)
{
    return s->leader && syscall(SYS_pidfd_send_signal, s->pidfd, 0, NULL, 0) < 0 &&
           errno == ESRCH && (kill(s->leader, 0) == 0 || errno == EPERM);
}

static void kill_leaders(void)
{
    for (session **link = &sessions; *link;) {
        if (reused(*link)) {
            forget(link);
            continue;
        }
        syscall(SYS_pidfd_send_signal, (*link)->pidfd, SIGKILL, NULL, 0);
        link = &(*link)->next;
    }
}

/* The session of a process that lives, or 0. */
static pid_t session_of(const char *pid)
{
    char path[300], line[512];
    int field = 3;
    snprintf(path, sizeof path, "/proc/%s/stat", pid);
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(line, 1, sizeof line - 1, f) : 0;
    if (f)
        fclose(f);
    line[n] = 0;
    const char *at = strrchr(line, ')');
    if (!at || strncmp(at, ") Z", 3) == 0 || strncmp(at, ") X", 3) == 0)
        return 0;
    for (at += 2; *at && field < SESSION_FIELD; at++)
        field += *at == ' ';
    return (pid_t)strtol(at, NULL, 10);
}

static bool is_ours(pid_t session_id)
{
    for (const session *s = sessions; s; s = s->next)
        if (s->leader == session_id)
            return true;
    return false;
}

/* Returns whether somebody was there to be killed. */
static bool sweep(void)
{
    bool found = false;
    DIR *dir = opendir("/proc");
    const struct dirent *entry;
    kill_leaders();
    while (dir && (entry = readdir(dir))) {
        pid_t id = *entry->d_name >= '1' && *entry->d_name <= '9'
                       ? session_of(entry->d_name)
                       : 0;
        if (id && is_ours(id)) {
            kill((pid_t)strtol(entry->d_name, NULL, 10), SIGKILL);
            found = true;
        }
    }
    if (dir)
        closedir(dir);
    return found;
}

int tine__sweep(int fd, pid_t host)
{
    struct epoll_event event = {.events = EPOLLIN};
    sigset_t waiting;
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ||
        chdir("/") < 0)
        return 1;
    listen_to_death(&waiting);
    while (wait_once(fd, host, &waiting))
        ;
    await_leaders(fd);
    int64_t until = now() + PERSEVERANCE;
    while (sessions && sweep() && now() < until)
        poll(NULL, 0, PAUSE);
    return 0;
}
