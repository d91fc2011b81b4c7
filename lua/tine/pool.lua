--- Pools of workers.
-- @module tine.pool
local core = require "tine.core"
local pool_map = require "tine.pool_map"
local process = require "tine.process"
local rpc = require "tine.rpc"
local service = require "tine.service"
local task = require "tine.task"

local methods = {}
local bounds_of = setmetatable({}, { __mode = "k" }) -- pool -> max and idle

local function check(self, what)
  service.check_self(what, self, rpc.kinds[self] == methods, "a pool")
end

local function call_with(self, options, cb, args, n)
  local job, err = core.rpc.call_with(self, options, cb, options.on_event, args, n)
  return job or service.fail_later(cb, err)
end

local function call_as(self, options, cb)
  local args = options.args or {}
  return call_with(self, options, cb, args, service.count(args))
end

--- Calls the function in a worker: `pool(..., cb)`, `pool:call(..., cb)`, or with options.
-- @function pool:call
-- @tparam table options the only argument: `args` (a list; `args.n` counts if it is there), `cb`,
-- `timeout` (seconds), `priority` (higher goes first), `key` (calls of one key go to one worker, in
-- order, as long as it lives), `retries` (as the pool's, in place of them), `on_event`
-- @treturn job with `cancel()` and `id()`; without a callback, inside of tine.go: what it would
-- have got
function methods:call(...)
  check(self, "call")
  local options = ...
  local n = select("#", ...)
  if n ~= 1 or type(options) ~= "table" then
    if (n == 0 or type((select(n, ...))) ~= "function") and not task.current() then
      error("call: a callback is needed outside of tine.go", 2)
    end
    return self(...)
  end
  service.check("call", options, service.call_options, 3)
  if options.cb then
    return call_as(self, options, options.cb)
  end
  local wake = service.waker("call", 2)
  if not wake then
    error("call: a callback is needed outside of tine.go", 2)
  end
  return task.suspend(call_as(self, options, wake))
end

-------------------------------------------------------------------------------------- map

--- Calls for each of a list, and iterates over the results: `for i, ok, result in pool:map(list)`.
-- Waits inside of tine.go in the loop, and outside of it runs the loop. Whoever leaves the
-- iteration early cancels the jobs made ahead. Where the pool's queue has a bound, it makes no more
-- calls than that has room for, and waits.
-- @function pool:map
-- @tparam table|function list of arguments, one for each job, whatever it is; or a function that
-- returns the arguments of the next job, and nil at the end
-- @tparam[opt] table options `ordered` (default: true), `window` (most jobs made ahead, default
-- 64), `packed` (each item is the list of a job's arguments, as table.pack makes them);
-- `timeout`, `priority`, `retries` as in `pool:call`
-- @return an iterator that gives the number of the job, true and its results, or false and err
function methods:map(list, options)
  check(self, "map")
  if options ~= nil and type(options) ~= "table" then
    error("map: a table of options expected, got " .. type(options), 2)
  end
  options = options or {}
  service.check("map", options, service.map_options, 3)
  return pool_map.new(self, list, options, call_with, 2)
end

------------------------------------------------------------------------------ all workers

--- Calls once in every worker there is now, one at least, ahead of what is queued.
-- @function pool:broadcast
-- @param ... arguments
-- @tparam[opt] function cb `cb(err, list)`: a table for each worker, with the results from 1 to
-- `n`, or with `err`
function methods:broadcast(...)
  check(self, "broadcast")
  local n = select("#", ...)
  local cb = n > 0 and select(n, ...) or nil
  if type(cb) == "function" then
    n = n - 1
  else
    cb = nil
  end
  local args = table.pack(...)
  local listen = task.listener("broadcast", cb)
  local ok, err = core.rpc.broadcast(self, listen, table.unpack(args, 1, n))
  if not ok then
    service.fail_later(listen, err)
  end
  return task.answer(cb)
end

--- New bounds.
-- @function pool:resize
-- @tparam table bounds `max`, `idle`
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] err
function methods:resize(bounds)
  check(self, "resize")
  if type(bounds) ~= "table" then
    error("resize: a table expected, got " .. type(bounds), 2)
  end
  service.check("resize", bounds, service.bounds, 3)
  local own = bounds_of[self]
  local max, idle = bounds.max or own.max, bounds.idle or own.idle
  if idle > max then
    error("resize: idle is more than max", 2)
  end
  own.max, own.idle = max, idle
  return core.rpc.resize(self, math.tointeger(max) or 0x7fffffff, math.tointeger(idle))
end

--- Workers come from another template once the first from there is ready; old ones finish what
-- they have, each when its replacement is ready. If the first new one fails, the pool stays as
-- it is.
-- @function pool:reload
-- @tparam process template is consumed
-- @tparam[opt] function cb `cb(true)` when all calls go to new workers, or `cb(nil, err)`
function methods:reload(template, cb)
  check(self, "reload")
  local listen = task.listener("reload", cb)
  return task.answer(cb, nil, listen, core.rpc.reload(template, self, listen))
end

--- Makes the most warmed worker, between two jobs and when its replacement is ready, the template
-- of the workers to come, which then share what it has loaded and cached since it was forked.
-- The others are replaced as after a reload; `init` is called in the new ones, too. If anything
-- fails, the pool stays as it is. Sync pools only, and none whose template was sent descriptors.
-- @function pool:promote
-- @tparam[opt] function cb `cb(true)` when all calls go to new workers, or `cb(nil, err)`
function methods:promote(cb)
  check(self, "promote")
  local listen = task.listener("promote", cb)
  return task.answer(cb, nil, listen, core.rpc.promote(self, listen))
end

--- Asks what a worker runs now. Of an async worker that runs nothing: where its open calls wait,
-- each by the number of its job.
-- @function pool:traceback
-- @tparam integer pid of the worker
-- @tparam[opt] function cb `cb(text)` or `cb(nil, err)`
function methods:traceback(pid, cb)
  check(self, "traceback")
  if math.type(pid) ~= "integer" then
    error("traceback: a process id expected, got " .. type(pid), 2)
  end
  local listen = task.listener("traceback", cb)
  return task.answer(cb, nil, listen, core.rpc.traceback(self, listen, pid))
end

--- Figures: `workers` (a list, of each `pid`, `state`, `jobs`, `load`, `job`, `job_seconds`, `age`,
-- `rss`, `generation`), counts of jobs and workers, `broken` (it cannot make workers), and `wait`
-- and `run` with `count`, `mean`, `stddev`, `min`, `p50`, `p90`, `p99`, `p999`, `max` in seconds.
--
-- `replayable`: should template and spare die together, another is made, which is told all that the
-- template was (eval, require, send_arg, send_fd), in the directory and environment that the host
-- has by then; not so where the handle came from `tine.here`,
-- `tine.early` or `tine.from_fd`, or was forked from such a one, where functions get its output, or
-- where it was told more than 16 MiB or sent more than 64 descriptors. `replays`: how often so far.
--
-- Each worker, and `template`, also have the fields of `process:memory`: what the worker's
-- interpreter said when its last call had ended (under `async`: in the last turn of its loop; nil
-- before it is ready), and what the template's was when the last worker was forked. `copied`,
-- `private` and `pss` are there only if asked for: they take a walk over the page tables of each,
-- about 0.3 ms, and 20 ms more for each GB that it has touched. All else takes about 15
-- microseconds for each.
-- @function pool:stats
-- @tparam[opt] table options `memory`: true for all of the memory's figures
-- @treturn[1] table
-- @treturn[2] nil
-- @treturn[2] err
function methods:stats(options)
  check(self, "stats")
  if options ~= nil and type(options) ~= "table" then
    error("stats: a table of options expected, got " .. type(options), 2)
  end
  service.check("stats", options or {}, service.stats_options, 3)
  return core.rpc.stats(self, options ~= nil and options.memory)
end

--- Finishes what is queued, then ends the workers. Without a callback, inside of tine.go: waits
-- for that.
-- @function pool:close
-- @tparam[opt] function cb called when all is done
-- @tparam[opt] number seconds after which what still runs is killed: those calls fail with kind
-- `"closed"` and `err.started` true, those that were still waiting with `err.started` false
function methods:close(cb, seconds)
  check(self, "close")
  if seconds ~= nil and not (type(seconds) == "number" and seconds >= 0) then
    error("close: a time of 0 or more seconds expected", 2)
  end
  return service.close(self, cb, seconds)
end

-------------------------------------------------------------------------------------- new

-- Has those that wait for room in the queue told when there is some, after the user, even if that
-- one raises. Returns what there is to know of the queue, or nil for one without a bound.
local function bound_queue(options)
  if not options.queue or options.queue == math.huge then
    return nil
  end
  local queue, on_drain = { waiting = {} }, options.on_drain
  options.on_drain = function()
    local _ <close> = setmetatable({}, { __close = function() service.drained(queue) end })
    if on_drain then
      on_drain()
    end
  end
  return queue
end

--- Makes a pool of workers forked from the process. Consumes the handle.
-- @function process:pool
-- @tparam string|function func as for `process:rpc`
-- @tparam[opt] table options all of `process:rpc`, and
--
-- - `max`: most workers (default: tine.cpus(), or `idle` if that is more)
-- - `idle`: fewest kept (0)
-- - `load`: calls handed to one worker at a time. By default found out, 2 to 64: as many as take
--   half a millisecond, as a call that waits behind a long one goes to a worker that has none; with
--   `async` 2
-- - `start`: seconds of all-busy before one more worker starts (0.1; 0: at once)
-- - `stop`: seconds between stopping idle workers (10)
-- - `queue`: most calls waiting (no limit); one more fails, `"rejected"`. 0: no call waits but for
--   its worker to start; it is rejected when `max` workers are busy, with one call each (`load` is
--   1 then, but with `async` what it says, and `start` 0). `on_drain()`: it has room again
-- - `retries`: how often a job whose worker died is tried again (0), behind those of its priority
--   that wait by then, but with a key in its place; or a table of
--   - `crash`: the same
--   - `timeout`: how often one that took too long (`err.kind` is `"timeout"`)
--   - `exception`: how often one that raised; or `function(err, tries)`, which is asked each time
--     whether to try again, and bounded by nothing else: `tries` is how often it was tried so far
--   - `delay`: seconds before a job is tried again for the first time, doubled at each (0). It is
--     queued meanwhile: counts there, can be cancelled, and with a key those of its key that were
--     not handed over wait for it
--
--   A job that fails for good gets the err of its last try, with how many they were, `err.tries`.
--   Under `async` the job whose code ran spends a try of `crash`; where that is not known, those
--   that were open are tried again each alone in a worker, and spend none if they end there
-- - `max_jobs`: a worker does that many at most, up to an eighth fewer so that not all go at once;
--   broadcasts come on top. `max_rss` (bytes), `max_age` (seconds): a worker past one is replaced
-- - `promote`: bytes of Lua's: when two workers, and half of all, have each that many of their
--   own, one of them becomes the template; see `pool:promote`
-- - `on_line(line, info)`: workers' output, with `info.pid`, `info.job`, `info.stream`. Under
--   `async`, `info.job` is the job whose function, coroutine or callback wrote the line, also
--   after a wait. A line ends where its job ends or waits
-- @treturn[1] pool
-- @treturn[2] nil
-- @treturn[2] err
function process.methods:pool(func, options)
  local checked = service.options("pool", func, options, service.pool_options,
    { max = core.cpus(), idle = 0, start = 0.1, stop = 10 }, 3)
  if checked.idle > checked.max and not (options and options.max) then
    checked.max = checked.idle
  elseif checked.idle > checked.max then
    error("pool: idle is more than max", 2)
  end
  local queue = bound_queue(checked)
  local pool, err = core.rpc.new(self, true, checked)
  if not pool then
    return nil, err
  end
  rpc.kinds[pool] = methods
  service.queues[pool] = queue
  bounds_of[pool] = { max = checked.max, idle = checked.idle }
  return pool
end

return methods
