--- tine.go and tine.main, and how a `tine.fd` waits inside of them.
-- @module tine.go
local core = require "tine.core"
local loop = require "tine.loop"
local task = require "tine.task"

local go = {}

-- tine.fd -> the waits for it, each a waker with its watcher. Interrupted ones are collected.
local weak <const> = { __mode = "k" }
local parked <const> = setmetatable({}, weak)

local function wait(fd, mode, seconds)
  if task.current() and not coroutine.isyieldable() then
    local err = core.error("system", task.NO_WAIT)
    err.errno = core.errno.EAGAIN
    return nil, err
  end
  local wake = task.waker()
  if not wake then
    return false
  end
  local waits = parked[fd]
  if not waits then
    waits = setmetatable({}, weak)
    parked[fd] = waits
  end
  local function over()
    waits[wake] = nil
    wake(true)
  end
  -- Both are closed when the task is interrupted or given up, too.
  local io <close>, err = core.loop.io(fd:fileno(), fd, mode, over)
  if not io then
    return nil, err
  end
  waits[wake] = io
  if not seconds then
    return task.suspend()
  end
  local timer <close>, problem = core.loop.timer(seconds, over)
  if not timer then
    return nil, problem
  end
  return task.suspend()
end

-- Somebody else may be closing it: the tasks that wait for it go on in the next turn.
local function closing(fd)
  local waits = parked[fd]
  parked[fd] = nil
  for wake, io in pairs(waits or {}) do
    io:close()
    pcall(loop.timer, 0, function()
      wake(nil, core.error("closed", "the descriptor was closed"))
    end)
  end
end

core.hook_fd(wait, closing)

--- Starts a coroutine in which all that takes a callback can wait instead.
-- An error that nobody catches is raised here if it comes before the first wait; later it is
-- raised in those who await the task, or else ends the loop.
-- @tparam function fn
-- @param ... its arguments
-- @treturn task with the methods `await()`, which waits for its end, returns what fn returned, and
-- raises what fn raised, and `cancel()`, which raises an error of kind `"cancelled"` where it
-- waits, or at its next wait
function go.go(fn, ...)
  if type(fn) ~= "function" then
    error("go: a function expected, got " .. type(fn), 2)
  end
  local me, err = task.start(fn, ...)
  if not me then
    error(err, 0)
  end
  return me
end

-- What timeout returns: pcall's results.
local function in_time(me, late, ok, ...)
  task.forget(me, late)
  if ok then
    return ...
  elseif rawequal(late, (...)) then
    return nil, late
  end
  error((...), 0)
end

--- Calls a function that may wait no longer than so many seconds: then an error of kind `"timeout"`
-- is raised where it waits, and the call that it waits for is cancelled. What does not wait is not
-- interrupted before its next wait. Inside of tine.go.
-- @tparam number seconds
-- @tparam function fn
-- @param ... its arguments
-- @return[1] what fn returned
-- @treturn[2] nil
-- @treturn[2] err of kind `"timeout"`
-- @raise what fn raised
function go.timeout(seconds, fn, ...)
  if type(seconds) ~= "number" or seconds ~= seconds or seconds < 0 then
    error("timeout: a time of 0 or more seconds expected", 2)
  elseif type(fn) ~= "function" then
    error("timeout: a function expected, got " .. type(fn), 2)
  end
  local me = task.current()
  if not me then
    error("timeout: only inside of tine.go or tine.main", 2)
  elseif not coroutine.isyieldable() then
    error("timeout: " .. task.NO_WAIT, 2)
  elseif seconds == math.huge then
    return fn(...)
  end
  local late = core.error("timeout", ("it took longer than %g s"):format(seconds))
  local timer, err = loop.timer(seconds, function() task.interrupt(me, late) end)
  if not timer then
    return nil, err
  end
  local _ <close> = timer
  return in_time(me, late, pcall(fn, ...))
end

--- Runs a function as a coroutine, and the loop, until both have ended. When the loop is
-- stopped, the function is given up.
-- @tparam function fn
-- @param ... its arguments
-- @return what fn returned
-- @raise what fn raised, or a callback, or another coroutine; or that fn waits in vain
function go.main(fn, ...)
  if type(fn) ~= "function" then
    error("main: a function expected, got " .. type(fn), 2)
  end
  if task.current() and not task.can_wait() then
    error("main: " .. task.NO_WAIT, 2)
  end
  local me = go.go(fn, ...)
  if not task.current() then
    local ok, left, err = pcall(loop.run)
    local trace = not me.done and task.abandon(me)
    if not ok or left == nil then
      error(ok and err or left, 0)
    end
    if trace and left then
      error("deadlock: main waits for something that cannot happen\n" .. trace, 0)
    end
    if trace then
      return
    end
  end
  return me:await()
end

return go
