/* refuse ERRNO CALL[,CALL]... COMMAND ARG...: a system, such as a container's, that refuses some
 * system calls. An entry of CALLs is a number; prctl's options are "157:OPTION". */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { MOST = 200, NUMBER = offsetof(struct seccomp_data, nr) };
enum { FIRST_ARGUMENT = offsetof(struct seccomp_data, args) };

static struct sock_filter filter[MOST];
static unsigned short length;

static void put(unsigned short code, unsigned k, unsigned char yes, unsigned char no)
{
    if (length < MOST)
        filter[length++] = (struct sock_filter){code, yes, no, k};
}

/* option: of prctl, or -1. The first argument's low half comes first on little-endian machines. */
static void refuse(unsigned number, long option, unsigned error)
{
    put(BPF_LD | BPF_W | BPF_ABS, NUMBER, 0, 0);
    if (option < 0) {
        put(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1);
    } else {
        put(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 3);
        put(BPF_LD | BPF_W | BPF_ABS, FIRST_ARGUMENT, 0, 0);
        put(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)option, 0, 1);
    }
    put(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error & SECCOMP_RET_DATA), 0, 0);
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    for (char *call = strtok(argv[2], ","); call; call = strtok(NULL, ",")) {
        char *end;
        unsigned long number = strtoul(call, &end, 10);
        refuse((unsigned)number, *end == ':' ? strtol(end + 1, NULL, 10) : -1,
               (unsigned)strtoul(argv[1], NULL, 10));
    }
    put(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
    struct sock_fprog program = {length, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
        perror("refuse");
        return 77;
    }
    execvp(argv[3], argv + 3);
    perror(argv[3]);
    return 127;
}
