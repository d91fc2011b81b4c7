/* What a turn of the loop is made of: tasks that were posted, the time, and whose host it is. */
#include <assert.h>

#include "loop.h"

enum { TASKS_PER_TURN = 256 };

int64_t tine__host_now(tine_host *host)
{
    return host->now = tine__now_usec();
}

bool tine__stale(const tine_host *host)
{
    return !tine__owner_is_us(&host->owner);
}

void tine__host_post(tine_host *host, tine__task *task)
{
    if (task->posted)
        return;
    task->posted = true;
    task->next = NULL;
    if (host->tasks_tail)
        host->tasks_tail->next = task;
    else
        host->tasks = task;
    host->tasks_tail = task;
    if (host->tasks == task)
        tine__loop_wake(host);
}

void tine__host_unpost(tine_host *host, tine__task *task)
{
    tine__task **link = &host->tasks, *before = NULL;
    if (!task->posted)
        return;
    while (*link != task) {
        before = *link;
        link = &before->next;
    }
    *link = task->next;
    if (host->tasks_tail == task)
        host->tasks_tail = before;
    task->posted = false;
}

/* Also what is posted meanwhile, so that a call made in a task goes out in this turn; but
 * not for ever. */
void tine__host_run_tasks(tine_host *host)
{
    for (int i = 0; i < TASKS_PER_TURN && host->tasks && !host->stopped; i++) {
        tine__task *task = host->tasks;
        host->tasks = task->next;
        if (!host->tasks)
            host->tasks_tail = NULL;
        task->posted = false;
        task->run(task->arg);
    }
}

void tine__host_at_close(tine_host *host, void (*closer)(tine_host *host))
{
    int i = 0;
    while (i < TINE__CLOSERS && host->closers[i] && host->closers[i] != closer)
        i++;
    assert(i < TINE__CLOSERS);
    host->closers[i] = closer;
}

void tine__host_call_closers(tine_host *host)
{
    for (int i = TINE__CLOSERS - 1; i >= 0; i--)
        if (host->closers[i])
            host->closers[i](host);
}
