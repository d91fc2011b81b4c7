-- How the async backend starts a call: in a coroutine of tine.go, where all that waits can wait.
-- Loaded when a worker begins to serve. `handler` is a message handler; `enter(done)` and
-- `leave(done)` say that the coroutine that runs is the call's, and that it is no more;
-- `fail(done, failure)` answers a call whose function has raised.
local task = require "tine.task"

return function(func, handler, enter, leave, fail)
  local function run(done, ...)
    enter(done)
    local ok, failure = xpcall(func, handler, done, ...)
    leave(done)
    if not ok then fail(done, failure) end
  end

  return function(done, ...)
    task.start(run, done, ...)
  end
end
