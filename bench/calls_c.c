/* The least that a kernel allows for calls to one worker: a child that sends back each frame
 * that it gets, over a socketpair. One at a time (ping-pong), or with -k many under way, both
 * sides moving as much as there is in each system call. Frames are those of a call of tine
 * with one string of 5 bytes: a header of 16, a length, the string. */
#include "bench.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FRAME = 16 + 4 + 5, WARM_UP = 1000, MOST_UNDER_WAY = 1024 };

static char buffer[FRAME * MOST_UNDER_WAY];

static size_t receive(int fd, size_t most)
{
    ssize_t n = recv(fd, buffer, most, 0);

    if (n < 0)
        bench_die("recv: %s", strerror(errno));
    return (size_t)n;
}

static void send_all(int fd, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = send(fd, buffer + done, len - done, MSG_NOSIGNAL);

        if (n < 0)
            bench_die("send: %s", strerror(errno));
        done += (size_t)n;
    }
}

static void echo(int fd)
{
    size_t n;

    while ((n = receive(fd, sizeof buffer)) > 0)
        send_all(fd, n);
    _exit(0);
}

/* Sends a new frame for each that comes back, until count of them have. */
static void converse(int fd, size_t under_way, size_t count)
{
    size_t odd = 0; /* bytes of a frame that has not come whole */

    send_all(fd, under_way * FRAME);
    for (size_t back = 0, sent = under_way; back < count;) {
        size_t n = receive(fd, sizeof buffer) + odd, frames = n / FRAME;

        if (n == odd)
            bench_die("the child has gone");
        odd = n % FRAME;
        back += frames;
        if (sent + frames > count)
            frames = count - sent;
        sent += frames;
        send_all(fd, frames * FRAME);
    }
}

static double measure(int fd, size_t under_way, size_t count)
{
    double begin = bench_now();

    converse(fd, under_way, count);
    return bench_now() - begin;
}

int main(int argc, char **argv)
{
    size_t under_way = 1;
    double seconds;
    int c, pair[2];

    while ((c = getopt(argc, argv, "k:")) != -1) {
        if (c != 'k')
            bench_die("usage: calls_c [-k UNDER_WAY]");
        under_way = bench_size(optarg, 1);
    }
    if (under_way > MOST_UNDER_WAY)
        bench_die("at most %d under way", MOST_UNDER_WAY);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        bench_die("socketpair: %s", strerror(errno));
    pid_t pid = fork();
    if (pid == 0) {
        close(pair[0]);
        echo(pair[1]);
    }
    close(pair[1]);
    while ((seconds = bench_next_round()) > 0) {
        size_t count = WARM_UP * under_way, total = 0;
        double took = measure(pair[0], under_way, count), sum = 0;

        /* In portions of about a tenth of the time, with no clock in between. */
        count = (size_t)((double)count * seconds / 10 / took) + under_way;
        while (sum < seconds) {
            sum += measure(pair[0], under_way, count);
            total += count;
        }
        bench_print_rate(total, sum);
    }
    close(pair[0]);
    return waitpid(pid, NULL, 0) != pid;
}
