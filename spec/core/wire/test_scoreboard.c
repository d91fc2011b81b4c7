/* The scoreboard: regions that are zeroed, apart from each other and used again; a memfd goes
 * with the last that is given back; and what happens without descriptors or memory. */
#include "wire/scoreboard.h"

#include <sys/resource.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "fault.h"
#include "test.h"

enum { IN_ONE = 64, MANY = 200 };

static tine__region r[MANY];

static void open_board(tine__scoreboard **b)
{
    memset(r, 0, sizeof r);
    CHECK_INT(tine__scoreboard_open(b), 0);
}

static void take(tine__scoreboard *b, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        CHECK_INT(tine__scoreboard_take(b, &r[i]), 0);
}

static bool is_zero(const void *data, size_t len)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < len; i++)
        if (p[i])
            return false;
    return true;
}

static void zeroed_and_apart(void)
{
    tine__scoreboard *b;
    size_t fds = test_fds();
    open_board(&b);
    take(b, 0, MANY);
    CHECK_INT(test_fds() - fds, (MANY + IN_ONE - 1) / IN_ONE);
    for (size_t i = 0; i < MANY; i++) {
        CHECK(is_zero(r[i].page, sizeof *r[i].page));
        CHECK(((uintptr_t)r[i].page & 4095) == 0);
        memset((void *)r[i].page, (int)i + 1, TINE__REGION);
    }
    for (size_t i = 0; i < MANY; i++) {
        const unsigned char *p = (const unsigned char *)r[i].page;
        CHECK(p[0] == (unsigned char)(i + 1) &&
              memcmp(p, p + 1, TINE__REGION - 1) == 0);
    }
    tine__scoreboard_free(b);
    CHECK_INT(test_fds(), fds);
}

/* What a worker maps by descriptor and offset is what the host sees; nobody can cut it off. */
static void shared(void)
{
    tine__scoreboard *b;
    struct stat st;
    open_board(&b);
    take(b, 0, 3);
    for (int i = 0; i < 3; i++) {
        CHECK(r[i].fd > 2 && fcntl(r[i].fd, F_GETFD) == FD_CLOEXEC);
        unsigned char *mine = mmap(NULL, TINE__REGION, PROT_READ | PROT_WRITE,
                                   MAP_SHARED, r[i].fd, (off_t)r[i].offset);
        CHECK(mine != MAP_FAILED);
        mine[5] = 55;
        mine[TINE__REGION - 1] = 77;
        CHECK_INT(((unsigned char *)r[i].page)[5], 55);
        CHECK_INT(((unsigned char *)r[i].page)[TINE__REGION - 1], 77);
        munmap(mine, TINE__REGION);
    }
    CHECK_INT(fstat(r[0].fd, &st), 0);
    CHECK_INT(st.st_size, IN_ONE * TINE__REGION);
    CHECK_INT(ftruncate(r[0].fd, 0), -1);
    CHECK_INT(errno, EPERM);
    CHECK_INT(ftruncate(r[0].fd, st.st_size * 2), -1);
    tine__scoreboard_free(b);
}

static void used_again(void)
{
    tine__scoreboard *b;
    open_board(&b);
    size_t fds = test_fds();
    take(b, 0, 2);
    for (int round = 0; round < 1000; round++) {
        tine__page *was = r[1].page;
        memset((void *)r[1].page, 0xff, sizeof *r[1].page);
        tine__scoreboard_give_back(b, &r[1]);
        CHECK(r[1].page == NULL && r[1].fd == -1);
        tine__scoreboard_give_back(b, &r[1]); /* nothing */
        take(b, 1, 2);
        CHECK(r[1].page == was);
        CHECK(is_zero(r[1].page, sizeof *r[1].page));
    }
    CHECK_INT(test_fds() - fds, 1);
    tine__scoreboard_free(b);
}

/* Holes are filled before another memfd is made, and each goes with its last region. */
static void memfds_close(void)
{
    tine__scoreboard *b;
    open_board(&b);
    size_t fds = test_fds();
    take(b, 0, 3 * IN_ONE);
    CHECK_INT(test_fds() - fds, 3);
    tine__page *hole = r[IN_ONE + 7].page;
    tine__scoreboard_give_back(b, &r[IN_ONE + 7]);
    take(b, IN_ONE + 7, IN_ONE + 8);
    CHECK(r[IN_ONE + 7].page == hole);
    for (size_t i = IN_ONE; i < 2 * IN_ONE; i++) { /* the one in the middle */
        CHECK_INT(test_fds() - fds, 3);
        tine__scoreboard_give_back(b, &r[i]);
    }
    CHECK_INT(test_fds() - fds, 2);
    for (size_t i = 0; i < IN_ONE; i++)
        tine__scoreboard_give_back(b, &r[i]);
    CHECK_INT(test_fds() - fds, 1);
    for (size_t i = 3 * IN_ONE; i-- > 2 * IN_ONE;)
        tine__scoreboard_give_back(b, &r[i]);
    CHECK_INT(test_fds() - fds, 0);
    take(b, 0, 1);
    CHECK_INT(test_fds() - fds, 1);
    tine__scoreboard_give_back(b, &r[0]);
    CHECK_INT(test_fds() - fds, 0);
    tine__scoreboard_free(b);
}

/* Against a list of who has what. */
static void at_random(void)
{
    tine__scoreboard *b;
    open_board(&b);
    size_t fds = test_fds(), held = 0;
    for (int round = 0; round < 20000; round++) {
        size_t i = test_random() % MANY;
        if (r[i].chunk) {
            CHECK_INT(r[i].page->started, i + 1); /* nobody else wrote there */
            tine__scoreboard_give_back(b, &r[i]);
            held--;
        } else if (round % 4000 < 2500 || test_random() % 4 == 0) {
            take(b, i, i + 1);
            CHECK_INT(r[i].page->started, 0);
            r[i].page->started = i + 1;
            held++;
        }
        size_t open = test_fds() - fds;
        CHECK(open * IN_ONE >= held && open <= MANY / IN_ONE + 1);
        CHECK(held || !open);
    }
    for (size_t i = 0; i < MANY; i++)
        tine__scoreboard_give_back(b, &r[i]);
    CHECK_INT(test_fds(), fds);
    tine__scoreboard_free(b);
}

static void no_descriptors(void)
{
    tine__scoreboard *b;
    struct rlimit before, limit;
    open_board(&b);
    take(b, 0, 1);
    int lowest = dup(0);
    CHECK(lowest >= 0);
    close(lowest);
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &before), 0);
    limit = before;
    limit.rlim_cur = (rlim_t)lowest;
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &limit), 0);
    take(b, 1, IN_ONE); /* there is room */
    tine__region more = {.fd = -1};
    for (int i = 0; i < 3; i++)
        CHECK_INT(tine__scoreboard_take(b, &more), -EMFILE);
    CHECK(more.page == NULL && more.chunk == NULL);
    tine__scoreboard_give_back(b, &r[9]);
    CHECK_INT(tine__scoreboard_take(b, &r[9]), 0);
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &before), 0);
    take(b, IN_ONE, IN_ONE + 1);
    tine__scoreboard_free(b);
}

/* A descriptor that would be 0, 1 or 2 is moved, and if it cannot be, not kept. */
static void with_stdin_closed(void)
{
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (!pid) {
        tine__scoreboard *b;
        close(0);
        size_t fds = test_fds();
        open_board(&b);
        take(b, 0, 1);
        CHECK(r[0].fd > 2);
        CHECK_INT(fcntl(r[0].fd, F_GETFD), FD_CLOEXEC);
        CHECK_INT(test_fds() - fds, 1);
        CHECK_INT(fcntl(0, F_GETFD), -1);
        tine__scoreboard_free(b);
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_INT(status, 0);
}

static void without_memory(void)
{
    tine__scoreboard *b;
    fault_set(1, 0);
    CHECK_INT(tine__scoreboard_open(&b), -ENOMEM);
    fault_set(0, 0);
    open_board(&b);
    fault_set(1, 0);
    CHECK_INT(tine__scoreboard_take(b, &r[0]), -ENOMEM);
    CHECK(fault_hit && !r[0].chunk);
    fault_set(0, 0);
    take(b, 0, 1);
    tine__scoreboard_free(b);
    tine__scoreboard_free(NULL);
}

int main(void)
{
    RUN(zeroed_and_apart);
    RUN(shared);
    RUN(used_again);
    RUN(memfds_close);
    RUN(at_random);
    RUN(no_descriptors);
    RUN(with_stdin_closed);
    RUN(without_memory);
    return 0;
}
