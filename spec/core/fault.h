/* Failures on demand. A test that includes this is linked so that the core's calls of malloc
 * and its kin, of mmap, mremap, open, sendmsg and recvmsg come here first
 * (cmake/TineTests.cmake). */
#ifndef TINE_SPEC_FAULT_H
#define TINE_SPEC_FAULT_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t size);
char *__real_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
void *__real_mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset);
void *__real_mremap(void *old, size_t len, size_t size, int flags, void *to);
int __real_open(const char *path, int flags, mode_t mode);
ssize_t __real_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __real_recvmsg(int fd, struct msghdr *msg, int flags);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t size);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);
void *__wrap_mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset);
void *__wrap_mremap(void *old, size_t len, size_t size, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags);

/* The call that fails, counted down; 0: none will. After it, `fault_more` further ones. */
static long fault_at, fault_more;
static long fault_calls;
static bool fault_hit;

static bool fault_now(void)
{
    fault_calls++;
    if (!fault_at || --fault_at)
        return false;
    fault_hit = true;
    if (fault_more) {
        fault_more--;
        fault_at = 1;
    }
    errno = ENOMEM;
    return true;
}

__attribute__((unused)) static void fault_set(long at, long more)
{
    fault_at = at;
    fault_more = more;
    fault_calls = 0;
    fault_hit = false;
}

void *__wrap_malloc(size_t size)
{
    return fault_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fault_now() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return fault_now() ? NULL : __real_realloc(old, size);
}

char *__wrap_strdup(const char *s)
{
    return fault_now() ? NULL : __real_strdup(s);
}

char *__wrap_strndup(const char *s, size_t n)
{
    return fault_now() ? NULL : __real_strndup(s, n);
}

void *__wrap_mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset)
{
    return fault_now() ? MAP_FAILED : __real_mmap(at, len, prot, flags, fd, offset);
}

void *__wrap_mremap(void *old, size_t len, size_t size, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    void *to = flags & MREMAP_FIXED ? va_arg(args, void *) : NULL;
    va_end(args);
    return fault_now() ? MAP_FAILED : __real_mremap(old, len, size, flags, to);
}

/* Errnos that open and recvmsg fail with, if not 0; the latter after so many more calls. */
static int fault_open, fault_recvmsg;
static long fault_recvmsg_after;

int __wrap_open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    if (!fault_open)
        return __real_open(path, flags, mode);
    errno = fault_open;
    return -1;
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
    if (!fault_recvmsg || fault_recvmsg_after-- > 0)
        return __real_recvmsg(fd, msg, flags);
    errno = fault_recvmsg;
    return -1;
}

/* If set, decides what a sendmsg does: an errno to fail with, or 0 with *most bytes. */
static int (*fault_sendmsg)(const struct msghdr *msg, size_t *most);

ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
    size_t most = (size_t)-1;
    int err = fault_sendmsg ? fault_sendmsg(msg, &most) : 0;
    if (err) {
        errno = err;
        return -1;
    }
    if (most == (size_t)-1)
        return __real_sendmsg(fd, msg, flags);
    struct msghdr cut = *msg;
    struct iovec iov[128];
    memcpy(iov, msg->msg_iov, msg->msg_iovlen * sizeof *iov);
    cut.msg_iov = iov;
    for (cut.msg_iovlen = 0; most && cut.msg_iovlen < msg->msg_iovlen;
         cut.msg_iovlen++) {
        struct iovec *v = &iov[cut.msg_iovlen];
        v->iov_len = v->iov_len < most ? v->iov_len : most;
        most -= v->iov_len;
    }
    return __real_sendmsg(fd, &cut, flags);
}

#endif
