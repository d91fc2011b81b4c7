--- What rpc and pool share: their options, and calls that wait or fail at once.
-- @module tine.service
local core = require "tine.core"
local loop = require "tine.loop"
local opts = require "tine.opts"
local task = require "tine.task"

local service = {}

-- What options are checked by: each returns whether a value will do, what would have done, and
-- what of it would not, if not all.

local function number(least)
  return function(value)
    return type(value) == "number" and value >= least, "a number of at least " .. least
  end
end

local function above(least)
  return function(value)
    return type(value) == "number" and value > least, "a number above " .. least
  end
end

local function is_whole(value)
  return type(value) == "number" and (value == math.huge or math.tointeger(value) ~= nil)
end

local function whole(least)
  return function(value)
    return is_whole(value) and value >= least, "a whole number of at least " .. least
  end
end

local function count(least)
  return function(value)
    return is_whole(value) and value >= least and value <= 1e6,
      ("a whole number from %d to 1000000"):format(least)
  end
end

local function priority(value)
  return is_whole(value) and value >= -0x80000000 and value <= 0x7fffffff,
    "a whole number of 32 bits"
end

local function key(value)
  return type(value) == "string" or type(value) == "number", "a string"
end

local function of_type(name)
  return function(value)
    return type(value) == name, "a " .. name
  end
end

local function func(value)
  return type(value) == "string" or type(value) == "function", "a name or a function"
end

local function any()
  return true
end

--- Whether it is a list of values, of which `n` is how many, if it is there.
-- @treturn boolean
-- @treturn string what was expected
-- @return what there is instead, where that is not the value
function service.list(value)
  if type(value) ~= "table" then
    return false, "a list"
  end
  local n = value.n
  local most <const> = 1e6 -- Lua's stacks take no more
  return n == nil or is_whole(n) and n >= 0 and n <= most,
    ("a whole number from 0 to %d as n"):format(most), n
end

local callback <const> = of_type("function")

-- How often a job is tried again; the fields of a table are checked by `retry_options`.
local function retries(value)
  return type(value) == "table" or is_whole(value) and value >= 0,
    "a whole number of at least 0, or a table"
end

local function retries_if(value)
  return type(value) == "function" or is_whole(value) and value >= 0,
    "a whole number of at least 0, or a function"
end

service.rpc_options = {
  async = any, init = func, done = func, on_event = callback, on_error = callback,
  on_destroy = callback, timeout = above(0), grace = above(0), spawn_timeout = above(0),
  serialiser = any,
}

service.pool_options = {
  max = whole(1), idle = count(0), load = whole(1), start = number(0), stop = number(0),
  queue = whole(0), retries = retries, max_jobs = whole(1), max_rss = above(0),
  promote = above(0),
  max_age = above(0), on_drain = callback, on_line = callback,
}
for name, check in pairs(service.rpc_options) do
  service.pool_options[name] = check
end

service.call_options = {
  args = service.list, cb = callback, timeout = above(0), priority = priority,
  retries = retries, key = key, on_event = callback,
}

service.map_options = {
  ordered = of_type("boolean"), packed = of_type("boolean"), window = whole(1),
  timeout = above(0), priority = priority, retries = retries,
}

local retry_options <const> = {
  crash = whole(0), timeout = whole(0), exception = retries_if, delay = number(0),
}

service.stats_options = { memory = of_type("boolean") }

service.bounds = { max = whole(1), idle = count(0) }

--- Checks options.
-- @tparam string what names the caller's method
-- @tparam table given
-- @tparam table known option -> check
-- @tparam integer level whom to blame, as for error
function service.check(what, given, known, level)
  for name, value in pairs(given) do
    local check = known[name]
    if not check then
      error(("%s: %s"):format(what, opts.unknown(name, known)), level)
    end
    local ok, expected, got = check(value)
    if not ok then
      got = got == nil and value or got
      error(("%s: %s: %s expected, got %s"):format(what, name, expected,
        type(got) == "number" and tostring(got) or type(got)), level)
    end
    if check == retries and type(value) == "table" then
      service.check(what .. ": retries", value, retry_options, level + 1)
    end
  end
end

-- The serialiser's number, and the source text of the user's own.
local function serialiser(what, value, level)
  if value == nil then
    return core.serialisers.string
  elseif type(value) == "string" and core.serialisers[value] and value ~= "source" then
    return core.serialisers[value]
  elseif type(value) == "table" and type(value.freeze) == "string"
    and type(value.thaw) == "string"
  then
    return core.serialisers.source, ("return (%s\n), (%s\n)"):format(value.freeze, value.thaw)
  end
  error(what .. ": serialiser: \"string\", \"json\", \"msgpack\", \"lua\" or {freeze = SOURCE, "
    .. "thaw = SOURCE} expected", level)
end

--- Checks the object of a method, for those who call it with a dot.
-- @tparam string what names the caller's method
-- @param self
-- @tparam boolean will whether it will do
-- @tparam string expected what would
function service.check_self(what, self, will, expected)
  if not will then
    error(("%s: %s expected, got %s; call it as object:%s(...)"):format(what, expected, type(self),
      what), 4)
  end
end

--- How many values a checked list has.
function service.count(args)
  return math.tointeger(args.n or #args)
end

--- Checks options, and fills defaults in.
-- @tparam string what names the caller's method
-- @tparam string|function fn
-- @tparam ?table given
-- @tparam table known
-- @tparam table defaults
-- @tparam integer level whom to blame, as for error
-- @treturn table a new one
function service.options(what, fn, given, known, defaults, level)
  if not func(fn) then
    error(("%s: a name or a function expected, got %s"):format(what, type(fn)), level)
  end
  if given ~= nil and type(given) ~= "table" then
    error(("%s: a table of options expected, got %s"):format(what, type(given)), level)
  end
  local options = {}
  for name, value in pairs(defaults) do
    options[name] = value
  end
  service.check(what, given or {}, known, level + 1)
  for name, value in pairs(given or {}) do
    options[name] = value
  end
  options.func = fn
  options.serialiser, options.source = serialiser(what, options.serialiser, level + 1)
  return options
end

--- Makes the call fail through its callback, in the next turn of the loop.
-- @treturn job one that has ended
function service.fail_later(cb, err)
  loop.timer(0, function() cb(err) end)
  return core.rpc.ended_job()
end

--- A callback for a call that ends a wait of the running task.
-- @tparam string what names the caller in an error
-- @tparam integer level whom to blame, as for error
-- @treturn ?function nil outside of one
function service.waker(what, level)
  local wake = task.waker(what, level + 1)
  return wake and core.rpc.guard(wake, (coroutine.running()))
end

--- Calls, and waits for the answer, inside of a task.
-- @tparam string what names the caller in an error
-- @tparam integer level whom to blame, as for error
-- @return err, or nil and the results
function service.call_and_wait(what, level, self, ...)
  local n = select("#", ...)
  local args = table.pack(...)
  args[n + 1] = service.waker(what, level + 1)
  return task.suspend(service.call(self, table.unpack(args, 1, n + 1)))
end

-- What the function in C leaves to us: calls that failed at once, and those without a callback.
local function slow_call(err, self, ...)
  local n = select("#", ...)
  local cb = n > 0 and select(n, ...) or nil
  if err then
    return service.fail_later(cb, err)
  elseif not core.rpc.is(self) then
    error("call: an rpc or a pool expected, got " .. type(self), 3)
  end
  if not task.current() then
    error("call: a callback is needed outside of tine.go", 3)
  end
  return service.call_and_wait("call", 2, self, ...)
end

--- Calls: `call(service, ..., cb)`. Without a callback, inside of tine.go: waits, and returns
-- what it would have got.
-- @treturn job
service.call = core.rpc.caller(slow_call)

--- Waits for the results of a call.
-- @return them
-- @raise err
function service.results(err, ...)
  if err then
    error(err, 0)
  end
  return ...
end

--- Waits for the end of a job, inside of tine.go; its callback is called before.
-- @function job:await
-- @tparam[opt] number seconds to wait at most; then the job goes on
-- @return its results
-- @raise its err; or one of kind `"timeout"`
function core.rpc.job_methods:await(seconds)
  if seconds ~= nil and not (type(seconds) == "number" and seconds >= 0) then
    error("await: a time of 0 or more seconds expected", 2)
  end
  local wake = service.waker("await", 2)
  if not wake then
    error("await: only inside of tine.go or tine.main", 2)
  end
  local open = core.rpc.tap(self, function(cb)
    return function(...)
      local args = table.pack(...)
      local _ <close> = setmetatable({}, { __close = function()
        wake(table.unpack(args, 1, args.n))
      end })
      cb(...)
    end
  end)
  if not open then
    error("await: the job has ended, and its results went to its callback", 2)
  end
  local _ <close> = seconds and loop.timer(seconds, function()
    wake(core.error("timeout", ("the job has not ended within %g s"):format(seconds)))
  end)
  return service.results(task.suspend())
end

--- Queues with a bound: pool -> `most`, the bound; `closed`; `waiting`, a set of functions to be
-- called when there is room, or none will ever be.
service.queues = setmetatable({}, { __mode = "k" })

--- Calls those that wait for room in a queue, once.
function service.drained(queue)
  local waiting = queue.waiting
  queue.waiting = {}
  for wake in pairs(waiting) do
    wake()
  end
end

--- It is about to be closed: calls do not wait for room in its queue any more, they fail.
function service.closing(self)
  local queue = service.queues[self]
  if queue and not queue.closed then
    queue.closed = true
    loop.timer(0, function() service.drained(queue) end)
  end
end

--- Ends an rpc or a pool; see their `close`, whose last thing this is.
function service.close(self, cb, seconds)
  local listen = (cb ~= nil or task.current()) and task.listener("close", cb) or nil
  service.closing(self)
  if not core.rpc.close(self, listen, seconds) then
    loop.timer(0, function() listen() end)
  end
  if listen then
    return task.answer(cb)
  end
end

return service
