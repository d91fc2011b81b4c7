/* What a turn of the loop is made of: tasks that were posted, the time, and whose host it is. */
#include <assert.h>

#include "loop_priv.h"

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
    if (STAILQ_EMPTY(&host->loop->tasks))
        tine__loop_wake(host);
    task->posted = true;
    STAILQ_INSERT_TAIL(&host->loop->tasks, task, link);
}

void tine__host_unpost(tine_host *host, tine__task *task)
{
    if (!task->posted)
        return;
    STAILQ_REMOVE(&host->loop->tasks, task, tine__task, link);
    task->posted = false;
}

/* Also what is posted meanwhile, so that a call made in a task goes out in this turn; but
 * not for ever. */
void tine__host_run_tasks(tine_host *host)
{
    tine__task *task;
    for (int i = 0; i < TASKS_PER_TURN && !host->stopped; i++) {
        if (!(task = STAILQ_FIRST(&host->loop->tasks)))
            break;
        STAILQ_REMOVE_HEAD(&host->loop->tasks, link);
        task->posted = false;
        task->run(task->arg);
    }
}

void tine__host_at_close(tine_host *host, void (*closer)(tine_host *host))
{
    int i = 0;
    while (i < TINE__CLOSERS && host->loop->closers[i] &&
           host->loop->closers[i] != closer)
        i++;
    assert(i < TINE__CLOSERS);
    host->loop->closers[i] = closer;
}

void tine__host_call_closers(tine_host *host)
{
    for (int i = TINE__CLOSERS - 1; host->loop && i >= 0; i--)
        if (host->loop->closers[i])
            host->loop->closers[i](host);
}
