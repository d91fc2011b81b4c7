/* What the C tests share: checks that NDEBUG does not take away, and a runner that sees that
 * a test leaves neither a descriptor nor a process behind. */
#ifndef TINE_SPEC_TEST_H
#define TINE_SPEC_TEST_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TEST_UNUSED __attribute__((unused))

enum { TEST_SECONDS = 100 };

static const char *test_name = "";

TEST_UNUSED __attribute__((noreturn)) static void test_die(const char *file, int line)
{
    fprintf(stderr, "%s:%d: %s failed\n", file, line, test_name);
    fflush(NULL);
    _exit(1);
}

TEST_UNUSED static void test_check(bool good, const char *file, int line,
                                   const char *text)
{
    if (good)
        return;
    fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", file, line, text, errno);
    test_die(file, line);
}

TEST_UNUSED static void test_check_int(long long a, long long b, const char *file,
                                       int line, const char *text)
{
    if (a == b)
        return;
    fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", file, line, text, a, b);
    test_die(file, line);
}

#define CHECK(condition) test_check(!!(condition), __FILE__, __LINE__, #condition)
#define CHECK_INT(a, b)                                                                \
    test_check_int((long long)(a), (long long)(b), __FILE__, __LINE__, #a)

TEST_UNUSED static size_t test_count(const char *path)
{
    size_t n = 0;
    DIR *dir = opendir(path);
    if (!dir)
        return 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* Open descriptors, plus a constant. */
TEST_UNUSED static size_t test_fds(void)
{
    return test_count("/proc/self/fd");
}

TEST_UNUSED static bool test_has_child(void)
{
    siginfo_t info;
    return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

TEST_UNUSED static int64_t test_usec(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* Numbers that are the same in each run. */
TEST_UNUSED static uint32_t test_random(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

/* A descriptor that test_same knows again. */
TEST_UNUSED static int test_marked_fd(void)
{
    int fd = memfd_create("tine-test", MFD_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

TEST_UNUSED static ino_t test_mark(int fd)
{
    struct stat st;
    CHECK(fstat(fd, &st) == 0);
    return st.st_ino;
}

TEST_UNUSED static void test_run(const char *name, void (*body)(void))
{
    test_name = name;
    alarm(TEST_SECONDS);
    size_t before = test_fds();
    int64_t began = test_usec();
    body();
    CHECK_INT(test_fds(), before);
    CHECK(!test_has_child());
    printf("%s: fine, %lld ms\n", name, (long long)(test_usec() - began) / 1000);
    fflush(stdout);
}

#define RUN(body) test_run(#body, body)

#endif
