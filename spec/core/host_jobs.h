/* What the tests of processes share: shorthands, and a file of entry functions. They look into
 * the host too: nothing may stay there. */
#ifndef TINE_HOST_JOBS_H
#define TINE_HOST_JOBS_H

#include "host_test.h"
#include "process/proc.h"

#define HOST(body) host_run(#body, body)

TEST_UNUSED static tine_str str(const char *text)
{
    return (tine_str){text, strlen(text)};
}

TEST_UNUSED static void eval(tine_proc *p, const char *code)
{
    CHECK_INT(tine_proc_eval(p, TINE_TEXT, code, strlen(code), NULL, 0), 0);
}

TEST_UNUSED static void run(tine_proc *p, const char *func, tine_fd_cb cb, void *arg)
{
    CHECK_INT(tine_proc_run(p, TINE_TEXT, func, strlen(func), cb, arg), 0);
}

TEST_UNUSED static tine_proc *new_proc(tine_host *host)
{
    tine_proc *p;
    CHECK_INT(tine_proc_new(host, NULL, &p), 0);
    return p;
}

TEST_UNUSED static tine_proc *fork_proc(tine_proc *parent)
{
    tine_proc *p;
    CHECK_INT(tine_proc_fork(parent, NULL, &p), 0);
    return p;
}

/* Runs the loop to its end; a hang is ended by the runner's alarm. */
TEST_UNUSED static void run_out(tine_host *host)
{
    CHECK_INT(tine_host_run(host), 0);
    CHECK_INT(tine_host_active(host), 0);
}

TEST_UNUSED static size_t handles(const tine_host *host)
{
    size_t n = 0;
    for (const tine_proc *p = host->process->all; p; p = p->next)
        n++;
    return n;
}

TEST_UNUSED static const char job[] =
    "local given = ...\n"
    "function job(s, ...)\n"
    "  local n = s:read()\n"
    "  for _, v in ipairs {...} do\n"
    "    n = n .. ' ' .. (type(v) == 'string' and v or v:read())\n"
    "  end\n"
    "  s:write(given .. ': ' .. n)\n"
    "end\n"
    "function sleep() require('io').read() end\n"
    "function forever(s) s:read() end\n"
    "function nothing() end\n"
    "function fail() error('as told') end\n";

TEST_UNUSED static void load_job(tine_proc *p)
{
    tine_str arg = str("loaded");
    CHECK_INT(tine_proc_eval(p, TINE_TEXT, job, sizeof job - 1, &arg, 1), 0);
}

#endif
