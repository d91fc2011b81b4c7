-- How the async backend starts a call: in a coroutine of tine.go, where all that waits can wait.
-- Loaded when a worker begins to serve. `fail(done, failure)` answers a call whose function has
-- raised; `handler` is a message handler.
local task = require "tine.task"

return function(func, handler, fail)
  local function run(done, ...)
    local ok, failure = xpcall(func, handler, done, ...)
    if not ok then fail(done, failure) end
  end

  return function(done, ...)
    task.start(run, done, ...)
  end
end
