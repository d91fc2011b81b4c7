--- What rpc and pool share: their options, and calls that wait or fail at once.
-- @module tine.service
local core = require "tine.core"
local loop = require "tine.loop"
local task = require "tine.task"

local service = {}

local serialisers <const> = { string = 0, msgpack = 1, lua = 2, json = 3, source = 4 }

local function fail(level, format, ...)
  error(format:format(...), level)
end

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

local function whole(least)
  return function(value)
    local ok = value == math.huge or (math.tointeger(value) and value >= least)
    return type(value) == "number" and ok, "a whole number of at least " .. least
  end
end

local function func(value)
  return type(value) == "string" or type(value) == "function", "a name or a function"
end

local function callback(value)
  return type(value) == "function", "a function"
end

local function any()
  return true
end

service.rpc_options = {
  async = any, init = func, done = func, on_event = callback, on_error = callback,
  on_destroy = callback, timeout = above(0), grace = above(0), spawn_timeout = above(0),
  serialiser = any,
}

service.pool_options = {
  max = whole(1), idle = whole(0), load = whole(1), start = number(0), stop = number(0),
  queue = whole(1), retries = whole(0), max_jobs = whole(1), max_rss = above(0),
  max_age = above(0), on_drain = callback, on_line = callback,
}

-- The serialiser's number, and the source text of the user's own.
local function serialiser(value, what, level)
  if value == nil then
    return serialisers.string
  elseif type(value) == "string" and serialisers[value] and value ~= "source" then
    return serialisers[value]
  elseif type(value) == "table" and type(value.freeze) == "string"
    and type(value.thaw) == "string"
  then
    return serialisers.source, ("return (%s\n), (%s\n)"):format(value.freeze, value.thaw)
  end
  fail(level, "%s: serialiser: \"string\", \"json\", \"msgpack\", \"lua\" or {freeze = SOURCE, "
    .. "thaw = SOURCE} expected", what)
end

--- Checks options, and fills defaults in.
-- @tparam string what names the caller's method
-- @tparam string|function fn
-- @tparam ?table given
-- @tparam {table,...} known
-- @tparam table defaults
-- @tparam integer level of the caller to blame, counted from here
-- @treturn table a new one
function service.options(what, fn, given, known, defaults, level)
  local options = {}
  for name, value in pairs(defaults) do
    options[name] = value
  end
  if not func(fn) then
    fail(level, "%s: a name or a function expected, got %s", what, type(fn))
  end
  if given ~= nil and type(given) ~= "table" then
    fail(level, "%s: a table of options expected, got %s", what, type(given))
  end
  for name, value in pairs(given or {}) do
    local check
    for _, list in ipairs(known) do
      check = check or list[name]
    end
    if not check then
      fail(level, "%s: unknown option '%s'", what, tostring(name))
    end
    local ok, expected = check(value)
    if not ok then
      fail(level, "%s: %s: %s expected, got %s", what, name, expected,
        type(value) == "number" and tostring(value) or type(value))
    end
    options[name] = value
  end
  options.func = fn
  options.serialiser, options.source = serialiser(options.serialiser, what, level + 1)
  return options
end

--- Makes the call fail through its callback, in the next turn of the loop.
-- @treturn job one that has ended
function service.fail_later(cb, err)
  loop.timer(0, function() cb(err) end)
  return core.service.ended_job()
end

--- Calls, and waits for the answer, inside of a task.
-- @return err, or nil and the results
function service.call_and_wait(self, ...)
  local n = select("#", ...)
  local args = table.pack(...)
  args[n + 1] = task.waker()
  service.call(self, table.unpack(args, 1, n + 1))
  return task.suspend()
end

-- What the function in C leaves to us: calls that failed at once, and those without a callback.
local function slow_call(err, self, ...)
  local n = select("#", ...)
  local cb = n > 0 and select(n, ...) or nil
  if err then
    return service.fail_later(cb, err)
  elseif not core.service.is(self) then
    error("call: an rpc or a pool expected, got " .. type(self), 2)
  end
  if not task.current() then
    error("call: a callback is needed outside of tine.go", 2)
  end
  return service.call_and_wait(self, ...)
end

--- Calls: `call(service, ..., cb)`. Without a callback, inside of tine.go: waits, and returns
-- what it would have got.
-- @treturn job
service.call = core.service.caller(slow_call)

--- Waits for the results of a call.
-- @return them
-- @raise err
function service.results(err, ...)
  if err then
    error(err, 0)
  end
  return ...
end

--- The function to be called at the end: cb, or without one a waker.
function service.listener(cb, what)
  if cb ~= nil and type(cb) ~= "function" then
    error(("%s: a function expected, got %s"):format(what, type(cb)), 3)
  end
  if cb then
    return cb
  end
  local wake = task.waker()
  if not wake then
    error(what .. ": a callback is needed outside of tine.go", 3)
  end
  return wake
end

return service
