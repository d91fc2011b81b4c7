/* Forking a worker off this process, and what the new one has to put right, in order. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/pdeathsig.h"
#include "child.h"
#include "heap/heap.h"
#include "wire/protocol.h"

static int redirect_to_null(int n)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (fd == n) /* it was closed */
        return fcntl(fd, F_SETFD, 0) < 0 ? -errno : 0;
    int err = dup2(fd, n) < 0 ? -errno : 0;
    close(fd);
    return err;
}

int tine__redirect(uint32_t flags, int *fds, size_t nfds)
{
    size_t next = 0;
    int err = 0;
    for (int n = 0; n < 3 && !err; n++) {
        uint32_t how = flags >> 2 * n & 3;
        if (how == TINE__STDIO_FD && next < nfds)
            err = dup2(fds[next++], n) < 0 ? -errno : 0;
        else if (how == TINE__STDIO_NULL)
            err = redirect_to_null(n);
    }
    /* A callback in the host wants lines as they are written. */
    if (flags & TINE__FORK_LINES(1))
        setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    return err;
}

/* The new process's first word. It carries its parent's count. */
static void announce(tine__child *c, uint64_t parent_seq, int pidfd)
{
    tine__report r = {.type = TINE__REPORT_MADE, .id = c->id, .seq = parent_seq};
    tine__report_send(c, &r, pidfd);
}

/* All that a process must do to be its own after a fork. */
static void become_worker(tine__child *c, tine__reader *frame, pid_t parent,
                          uint64_t id, uint32_t flags, tine_str name)
{
    c->detach = (flags & TINE__FORK_DETACH) != 0;
    /* A group of its own, to be killed with all that it starts; where its template has a
     * terminal, a session of its own: in the background of that, it would be stopped. */
    if (c->detach || !c->apart || flags & TINE__FORK_SPARE)
        setsid();
    else
        setpgid(0, 0);
    c->leads = !c->detach;
    c->apart = true;
    if (!c->detach && !(flags & TINE__FORK_SPARE))
        tine__pdeathsig_template(parent);
    tine__fd_close(&c->cmd);
    c->cmd = frame->fds[0];
    frame->fds[0] = -1;
    int redirected = tine__redirect(flags, frame->fds + 1, frame->nfds - 1);
    pid_t self = getpid();
    int pidfd = (int)syscall(SYS_pidfd_open, self, 0);
    tine__children_join(&c->workers, self, pidfd);
    tine__children_forget(&c->workers); /* those are its parent's */
    c->held = c->ending = 0;
    uint64_t parent_seq = c->seq;
    c->id = id;
    c->seq = c->told = 0;
    tine__interp_reseed(c);
    c->named = name.len > 0;
    if (name.len)
        tine__title_set(c, name.data, name.len);
    announce(c, parent_seq, pidfd);
    tine__fd_close(&pidfd);
    if (redirected < 0)
        tine__fail_system(c, "cannot redirect standard input and output", -redirected);
}

static void refuse(tine__child *c, uint64_t id, int err, const char *text)
{
    char message[400];
    snprintf(message, sizeof message, "%s: %s (%s)", text, tine_strerror(-err),
             tine_errname(-err));
    tine_str m = {message, strlen(message)}, none = {"", 0};
    tine__report_send_failed(c, id, TINE_KIND_SYSTEM, err, m, none);
}

/* A fork of a process that has failed fails for the same reason. */
static void refuse_failed(tine__child *c, uint64_t id)
{
    char message[500];
    snprintf(message, sizeof message, "the process to fork from failed: %s", c->why);
    tine_str m = {message, strlen(message)}, none = {"", 0};
    tine__report_send_failed(c, id, c->why_kind, 0, m, none);
}

void tine__fork(tine__child *c, tine__reader *frame)
{
    tine__cursor cur = {frame->body.data, frame->body.data + frame->body.len, false};
    uint64_t id = tine__get_u64(&cur);
    uint32_t flags = tine__get_u32(&cur);
    tine_str name = tine__get_str(&cur);
    size_t redirected = 0;
    for (int n = 0; n < 3; n++)
        redirected += (flags >> 2 * n & 3) == TINE__STDIO_FD;
    if (!tine__get_done(&cur) || flags & ~TINE__FORK_FLAGS) {
        static const char text[] = "garbage in a fork command";
        tine__fail(c, TINE_KIND_PROTOCOL, 0, text, sizeof text - 1, "", 0);
        return;
    }
    if (c->failed) {
        refuse_failed(c, id);
        return;
    }
    if (frame->fds_lost || frame->nfds != redirected + 1) {
        refuse(c, id, EMFILE, "the template cannot take the new process's descriptors");
        return;
    }
    /* Nobody would tell the end of a worker that is not in the table. */
    if (tine__children_room(&c->workers) < 0) {
        refuse(c, id, ENOMEM, "the template cannot fork");
        return;
    }
    tine__children_watch(&c->workers);
    tine__heap_seal(c->L);
    /* What is buffered now would be written by both. */
    tine__flush(c);
    pid_t parent = getpid();
    int64_t began = (int64_t)tine__clock_ns();
    tine__hold();
    pid_t pid = fork();
    if (pid == 0) {
        become_worker(c, frame, parent, id, flags, name);
        return;
    }
    int err = errno;
    if (pid > 0 &&
        tine__children_add(&c->workers, pid, id, (flags & TINE__FORK_DETACH) != 0) == 0)
        c->told = c->seq;
    tine__release();
    if (pid > 0)
        tine__heap_forked(c->L, began);
    else
        refuse(c, id, err, "the template cannot fork");
}
