-- How the async backend starts a call: in a coroutine of tine.go, where all that waits can wait;
-- and how it ends a call's waits. Loaded when a worker begins to serve. `handler` is a message
-- handler; `enter(done)` and `leave(done)` say that the call's function runs in the coroutine that
-- runs, and that it has ended; `fail(done, failure)` answers a call whose function has raised;
-- `job()` is the number of the call whose code runs.
local task = require "tine.task"

return function(func, handler, enter, leave, fail, job)
  task.job = job

  local function run(done, ...)
    enter(done)
    local ok, failure = xpcall(func, handler, done, ...)
    leave(done)
    if not ok then fail(done, failure) end
  end

  return function(done, ...)
    task.start(run, done, ...)
  end, task.interrupt_all
end
