--- Coroutines that wait in the loop. A wait is a waker, handed to whoever will have the
-- answer, and then suspend(). The waker is of that wait only: of one that was given up, because
-- what was to be waited for could not be begun, it does nothing ever after.
-- @module tine.task
local core = require "tine.core"

local task = {}

-- coroutine -> its task. A coroutine that a task makes by itself is not in here.
local tasks <const> = setmetatable({}, { __mode = "k" })
-- The tasks that wait: maybe nothing else holds them.
local waiting <const> = {} -- luacheck: ignore 241
-- What a coroutine yields to wait, so that a stray yield is found.
local SUSPENDED <const> = {}

-- Likewise, with an error to be raised in the place of the wait.
local INTERRUPTED <const> = {}

-- In an async worker: the number of the call whose code runs.
task.job = nil
-- Call -> its tasks, as keys.
local of_job <const> = {}

local Task = { __name = "tine.task" }
Task.__index = Task

-- Calls functions in the next turn of the loop, in no caller's way.
local function later(functions)
  core.loop.timer(0, function()
    for _, fn in ipairs(functions) do
      fn()
    end
  end)
end

-- The task has ended: tells those who wait for it. Returns whether there are any.
local function finish(me)
  local waiters, mine = me.waiters, me.job and of_job[me.job]
  me.done, me.waiters = true, nil
  if mine then
    mine[me] = nil
    of_job[me.job] = next(mine) and mine
  end
  if waiters then
    later(waiters)
  end
  return waiters ~= nil
end

-- Returns true if somebody waits for the task and gets the error, or if it has ended because it was
-- cancelled; else nil and the error, a string with the traceback.
local function break_off(me, err)
  local trace = debug.traceback(me.co)
  local _, last = coroutine.close(me.co)
  me.failed, me.err = true, last == nil and err or last
  if finish(me) or me.cancelled and rawequal(me.err, me.cancelled) then
    return true
  end
  if type(me.err) == "string" then
    return nil, me.err .. "\n" .. trace
  end
  return nil, me.err
end

local function settle(me, ok, ...)
  if not ok then
    return break_off(me, (...))
  end
  if coroutine.status(me.co) ~= "suspended" then
    me.results = table.pack(...)
    finish(me)
    return true
  end
  if ... ~= SUSPENDED then
    return break_off(me, "a coroutine of tine.go yielded by itself")
  end
  waiting[me] = true
  return true
end

local function step(me, ...)
  waiting[me] = nil
  return settle(me, coroutine.resume(me.co, ...))
end

--- The task that runs.
-- @treturn ?task nil outside of one, and in a coroutine that a task made by itself
function task.current()
  return tasks[coroutine.running()]
end

--- Whether the running function may wait: it is in a task, and no C function that Lua cannot leave
-- and come back to lies between.
-- @treturn boolean
function task.can_wait()
  return task.current() ~= nil and coroutine.isyieldable()
end

--- What is wrong in a task where Lua cannot yield.
task.NO_WAIT = "cannot wait inside of a function that C calls (string.gsub, table.sort, "
  .. "require, a metamethod as __tostring): make the call outside of it, or with a callback"

--- Begins a wait of the running task: a function that ends it, once. To be called before anything
-- is begun that would have to be waited for, and not after another one. It may not be called before
-- the task waits. An error that the task raises then ends the loop.
-- @tparam string what names the caller in an error
-- @tparam integer level whom to blame, as for error
-- @treturn ?function nil outside of a task; it returns whether the task has waited for it
-- @raise where Lua cannot yield; what the task was interrupted with when it did not wait
function task.waker(what, level)
  local me = task.current()
  if not me then
    return nil
  end
  if not coroutine.isyieldable() then
    error(("%s: %s"):format(what, task.NO_WAIT), level + 1)
  end
  if me.pending then
    local err = table.remove(me.pending, 1)
    me.pending = me.pending[1] and me.pending
    error(err, 0)
  end
  local wake
  function wake(...)
    if me.awaits ~= wake or not waiting[me] then
      return false
    end
    me.awaits = nil
    local ok, err = step(me, ...)
    if not ok then
      core.loop.fail(err, me.co)
    end
    return true
  end
  me.awaits = wake
  return wake
end

local function resumed(first, ...)
  if first == INTERRUPTED then
    error((...), 0)
  end
  return first, ...
end

--- Waits for the waker that was made last to be called.
-- @tparam[opt] job call what is waited for: cancelled when the task is interrupted or given up
-- @return the waker's arguments
-- @raise what the task was interrupted with
function task.suspend(call)
  if call then
    tasks[coroutine.running()].call = call
  end
  return resumed(coroutine.yield(SUSPENDED))
end

--- For what takes a callback or, without one, waits:
--
--     local listen = task.listener("memory", cb)
--     return task.answer(cb, nil, listen, process.memory(self, listen))
--
-- @tparam string what names the method in an error
-- @tparam ?function cb
-- @tparam[opt=2] integer level whom to blame, as for error
-- @treturn function what is to be called in the end: cb, or what ends the wait and returns whether
-- anybody has waited
function task.listener(what, cb, level)
  if type(cb) == "function" then
    return cb
  end
  level = (level or 2) + 1
  if cb ~= nil then
    error(("%s: a function expected, got %s"):format(what, type(cb)), level)
  end
  local wake = task.waker(what, level)
  if not wake then
    error(what .. ": a callback is needed outside of tine.go", level)
  end
  return wake
end

--- To be called last: waits, if there is no callback. Given nil and err, for what has failed at
-- once, it has `listen(nil, err)` called in the next turn of the loop.
-- @tparam ?function cb
-- @param with_cb what is returned where there is a callback
-- @tparam ?function listen
-- @param _
-- @param err
-- @return that, or what the listener was called with
function task.answer(cb, with_cb, listen, _, err)
  if err then
    core.loop.timer(0, function() listen(nil, err) end)
  end
  if cb then
    return with_cb
  end
  return task.suspend()
end

-- The call of the last such wait: it has ended, or nobody will wait for it any more.
local function drop_call(me)
  local call = me.call
  me.call = nil
  if call then
    call:cancel()
  end
end

-- Raises the error in the place of the wait, if the task waits.
local function interrupt(me, err)
  if waiting[me] then
    me.awaits = nil
    drop_call(me)
    local ok, problem = step(me, INTERRUPTED, err)
    if not ok then
      core.loop.fail(problem, me.co)
    end
  end
end

--- Raises an error in the task where it waits; if it does not, in the place of its next wait.
function task.interrupt(me, err)
  if waiting[me] then
    interrupt(me, err)
  elseif not me.done then
    task.forget(me, err)
    me.pending = me.pending or {}
    table.insert(me.pending, err)
  end
end

--- Does not raise the error any more that waits for the task's next wait.
function task.forget(me, err)
  for i, other in ipairs(me.pending or {}) do
    if rawequal(other, err) then
      table.remove(me.pending, i)
      me.pending = me.pending[1] and me.pending
      return
    end
  end
end

--- Ends the task with an error of kind `"cancelled"` where it waits, or at its next wait; a call
-- that it waits for is cancelled with it. Those who await the task get that error, unless it
-- catches it and goes on. Does nothing when the task has ended.
-- @function task:cancel
function Task:cancel()
  self.cancelled = self.cancelled or core.error("cancelled", "the coroutine was cancelled")
  task.interrupt(self, self.cancelled)
end

--- Raises an error in all tasks of a call that wait.
-- @tparam integer job
-- @param err
function task.interrupt_all(job, err)
  local mine = {}
  for me in pairs(of_job[job] or {}) do
    mine[#mine + 1] = me
  end
  for _, me in ipairs(mine) do
    interrupt(me, err)
  end
end

--- Starts a task, up to its first wait.
-- @treturn[1] task
-- @treturn[2] nil
-- @return[2] the error that it raised
function task.start(fn, ...)
  local me = setmetatable({ co = coroutine.create(fn), done = false }, Task)
  tasks[me.co] = me
  me.job = task.job and task.job()
  if me.job then
    of_job[me.job] = of_job[me.job] or {}
    of_job[me.job][me] = true
  end
  local ok, err = step(me, ...)
  if not ok then
    return nil, err
  end
  return me
end

--- Gives a waiting task up.
-- @treturn string where it was
function task.abandon(me)
  local trace = debug.traceback(me.co)
  waiting[me] = nil
  drop_call(me)
  me.failed, me.err = true, "this coroutine was given up"
  coroutine.close(me.co)
  finish(me)
  return trace
end

--- Waits for the task to end.
-- @function task:await
-- @return what its function returned
-- @raise what its function raised
function Task:await(...)
  if select("#", ...) > 0 then
    error("await: a coroutine's takes no time: tine.timeout(seconds, fn) bounds a wait", 2)
  end
  if not self.done then
    if task.current() == self then
      error("await: a coroutine cannot wait for itself", 2)
    end
    local wake = task.waker("await", 2)
    if not wake then
      error("await: only inside of tine.go or tine.main", 2)
    end
    self.waiters = self.waiters or {}
    table.insert(self.waiters, wake)
    task.suspend()
  end
  if self.failed then
    error(self.err, 0)
  end
  return table.unpack(self.results, 1, self.results.n)
end

return task
