/* The messages of the report channel, made and taken apart; no I/O. See protocol.h. */
#ifndef TINE_WIRE_REPORT_H
#define TINE_WIRE_REPORT_H

#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "figures.h"
#include "frame.h"
#include "tine.h"

typedef struct tine__report {
    int type;
    uint64_t id;
    uint64_t seq;          /* MADE, IDLE, EXITED, MEMORY */
    pid_t pid;             /* EXITED */
    uint32_t protocol;     /* HELLO */
    tine_str version, lua; /* HELLO */
    tine_kind kind;        /* FAILED */
    int sys_errno;
    tine_str message, traceback;
    int status; /* EXITED: as of wait() */
    struct rusage rusage;
    tine__figures figures; /* MEMORY */
} tine__report;

/* Appends the message to b; long texts are cut. b->failed tells that memory ran out. */
void tine__report_encode(tine__buf *b, const tine__report *r);
/* Strings in r point into data. Returns 0, or -EPROTO for garbage. */
int tine__report_decode(tine__report *r, const void *data, size_t len);

#endif
