--- The loop of the host.
-- @module tine.loop
local core = require "tine.core"
local opts = require "tine.opts"
local task = require "tine.task"

local loop = {
  timer = core.loop.timer,
  signal = core.loop.signal,
  --- Seconds on a clock that only goes forward.
  -- @function loop.now
  -- @treturn number
  now = core.loop.now,
}

-- A wait is cut into pieces of at most this many seconds, so that a debug hook gets its turn:
-- lua5.4 answers Ctrl-C with one.
local SLICE <const> = 0.25
-- Seconds without an event after which the loop counts as quiet.
local QUIET <const> = 0.01

local stopped = false
local idlers = {} -- wakers of tasks that wait in loop.run

local function wake_idlers()
  local wakers = idlers
  idlers = {}
  for _, wake in ipairs(wakers) do
    loop.timer(0, wake)
  end
  return #wakers > 0
end

-- loop.run in a task that a loop already runs: waits until that has nothing else to do.
local function run_inside()
  local wake = task.waker("loop.run", 3)
  if not wake then
    error("loop.run: the loop already runs", 3)
  end
  table.insert(idlers, wake)
  return task.suspend()
end

--- Runs the loop until nothing is left to wait for, or until it is stopped.
-- @treturn[1] boolean true, or false if it was stopped
-- @treturn[2] nil
-- @treturn[2] err
-- @raise the error of a callback
function loop.run()
  if core.loop.running() then
    run_inside()
    return true
  end
  stopped = false
  local collected = false
  while not stopped do
    if not core.loop.active() and not wake_idlers() then
      -- An rpc or a pool that was dropped closes when it is collected, and tells on_destroy.
      if collected or core.rpc.awaited() == 0 then
        return true
      end
      collectgarbage()
      collected = true
    end
    -- Many a worker lives until the host's end of its socket is closed. So before the loop
    -- waits for ever for processes alone, sockets that were dropped are collected.
    local settled = collected or core.loop.watching()
    local left, called, waited = core.loop.poll(settled and SLICE or QUIET, true)
    if left == nil then
      return nil, called
    end
    if called then
      collected = false
    elseif waited and not settled then
      collectgarbage()
      collected = true
    end
  end
  return false
end

--- Makes loop.run return after the callback under way.
function loop.stop()
  stopped = true
  core.loop.stop()
end

--- Handles what is ready, for a program that has a loop of its own.
-- @tparam[opt=0] number seconds to wait at most
-- @treturn[1] boolean whether something is left to wait for
-- @treturn[2] nil
-- @treturn[2] err
-- @raise the error of a callback
function loop.poll(seconds)
  seconds = seconds or 0
  if type(seconds) ~= "number" or seconds ~= seconds or seconds < 0 then
    error("loop.poll: a time of 0 or more seconds expected", 2)
  end
  if core.loop.running() then
    error("loop.poll: the loop already runs", 2)
  end
  local over = loop.now() + seconds
  local left, called, waited
  repeat
    left, called, waited = core.loop.poll(math.min(seconds, SLICE))
    seconds = over - loop.now()
  until called or not waited or seconds <= 0
  if left == nil then
    return nil, called
  end
  return left
end

--- Calls a function each time a descriptor is ready.
-- @param fd an integer, a Lua file, a `tine.fd`, or an object with `fileno()` or `getfd()`; it
-- must stay open until the watcher is closed
-- @tparam string mode `"r"`, `"w"` or `"rw"`
-- @tparam function cb `cb(mode, io)`, with what it is ready for
-- @treturn[1] io an object with a method `close()`
-- @treturn[2] nil
-- @treturn[2] err
function loop.io(fd, mode, cb)
  local number = opts.fileno(fd, "loop.io")
  if mode ~= "r" and mode ~= "w" and mode ~= "rw" then
    error("loop.io: mode: \"r\", \"w\" or \"rw\" expected", 2)
  end
  if type(cb) ~= "function" then
    error("loop.io: a function expected, got " .. type(cb), 2)
  end
  return core.loop.io(number, fd, mode, cb)
end

--- Waits, in a coroutine of tine.go.
-- @tparam number seconds
function loop.sleep(seconds)
  if type(seconds) ~= "number" or seconds ~= seconds or seconds < 0 then
    error("loop.sleep: a time of 0 or more seconds expected", 2)
  end
  local wake = task.waker("loop.sleep", 2)
  if not wake then
    error("loop.sleep: only inside of tine.go or tine.main", 2)
  end
  local timer, err = loop.timer(seconds, function() wake() end)
  if not timer then
    return nil, err
  end
  local _ <close> = timer -- when the task is given up, too
  task.suspend()
end

return loop
