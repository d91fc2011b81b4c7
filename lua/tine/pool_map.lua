--- Calls for each of a list, made ahead of who iterates over the results: `pool:map`.
-- @module tine.pool_map
local core = require "tine.core"
local loop = require "tine.loop"
local service = require "tine.service"
local task = require "tine.task"

local pool_map = {}

-- Sources: functions that give what the next job gets, as its number of arguments, and the only one
-- or else a list of them; nil when there is no more.

local function given(...)
  local n = select("#", ...)
  if n == 0 or (...) == nil then
    return nil
  elseif n == 1 then
    return 1, ...
  end
  return n, table.pack(...)
end

local function source_of(list, level)
  if type(list) == "function" then
    return function() return given(list()) end
  end
  local ok, expected, got = service.list(list)
  if not ok and got == nil then
    error("map: a list or an iterator expected, got " .. type(list), level)
  elseif not ok then
    error(("map: %s expected, got %s"):format(expected, tostring(got)), level)
  end
  local i, most = 0, service.count(list)
  return function()
    if i < most then
      i = i + 1
      return 1, list[i]
    end
  end
end

-- The same where each item is itself the list of a job's arguments.
local function unpacked(source)
  return function()
    local n, args = source()
    if not n then
      return nil
    elseif n > 1 then
      args = args[1]
    end
    if not service.list(args) then
      error("map: packed: a list of arguments expected in each place, got " .. type(args), 4)
    end
    n = service.count(args)
    if n == 1 then
      return 1, args[1]
    end
    return n, args
  end
end

local Map = {}
Map.__index = Map

-- Whether the pool's queue takes one more; one that is closed takes any, and fails it.
function Map:has_room()
  local queue = self.queue
  return not queue or queue.closed or core.rpc.has_room(self.pool) ~= false
end

-- A place for a job, from its call until its result is given: as many as the window allows. It has
-- the function that its calls are answered with.
function Map:new_place()
  local place = #self.answers + 1
  self.answers[place] = function(...) self:ended(place, ...) end
  return place
end

-- `due` is a ring of places: of the results due next, as far as that is known.
function Map:begin(n, args)
  local place = table.remove(self.free) or self:new_place()
  self.made = self.made + 1
  self.numbers[place], self.counts[place] = self.made, false
  if self.ordered then
    self.due[self.made % self.window] = place
  end
  if n == 1 and not self.options then
    self.jobs[place] = service.call(self.pool, args, self.answers[place])
  else
    self.jobs[place] = self.call_with(self.pool, self.options or {}, self.answers[place],
      n == 1 and { args } or args, n)
  end
end

-- Keeps the window full, but no call waits in it that the queue has no room for. What the source
-- gave last may have to be kept: it may have made calls itself.
function Map:fill()
  while not self.exhausted and self.made - self.given < self.window and self:has_room() do
    local n, args = self.kept_n, self.kept
    if n then
      self.kept_n, self.kept = nil, nil
    else
      n, args = self.source()
    end
    if not n then
      self.exhausted = true
      return
    end
    if not self:has_room() then
      self.kept_n, self.kept = n, args
      return
    end
    self:begin(n, args)
  end
end

-- `counts` has how many results there are, -1 for an err, false before; `results` the only one, the
-- err, or a list.
function Map:ended(place, err, ...)
  local n = select("#", ...)
  self.jobs[place] = false
  if self.closed then
    return
  elseif err then
    self.counts[place], self.results[place] = -1, err
  elseif n == 1 then
    self.counts[place], self.results[place] = 1, ...
  else
    self.counts[place], self.results[place] = n, { ... }
  end
  if not self.ordered then
    self.last = self.last + 1
    self.due[self.last % self.window] = place
  end
  if self.due[(self.given + 1) % self.window] == place then
    self:stir()
  end
end

-- Something that it may wait for has happened.
function Map:stir()
  local wake = self.wake
  self.wake = nil
  if wake then
    wake()
  end
end

function Map:wait()
  local queue = self.queue
  if queue and not self.exhausted then
    queue.waiting[self.drained] = true
  end
  if task.current() then
    self.wake = task.waker("map", 3)
    task.suspend()
  else
    local ok, err = loop.poll(1)
    if ok == nil then
      error(err, 0)
    end
  end
end

-- Gives the result at a place, which is free then.
function Map:give(place)
  local n, results = self.counts[place], self.results[place]
  self.given = self.given + 1
  self.due[self.given % self.window] = false
  self.results[place] = false
  self.free[#self.free + 1] = place
  if n == 1 then
    return self.numbers[place], true, results
  elseif n < 0 then
    return self.numbers[place], false, results
  end
  return self.numbers[place], true, table.unpack(results, 1, n)
end

function Map:next()
  local current = task.current()
  if not current and core.loop.running() then
    error("map: in a callback of the loop only inside of tine.go or tine.main", 2)
  elseif current and not task.can_wait() then
    error("map: " .. task.NO_WAIT, 2)
  end
  self:fill()
  while self.given < self.made or not self.exhausted do
    local place = self.due[(self.given + 1) % self.window]
    if place and self.counts[place] then
      return self:give(place)
    end
    self:wait()
    self:fill()
  end
end

function Map:close()
  self.closed = true
  if self.queue then
    self.queue.waiting[self.drained] = nil
  end
  for _, job in ipairs(self.jobs) do
    if job then
      job:cancel()
    end
  end
end

--- @see pool:map
-- @tparam pool pool
-- @tparam table|function list
-- @tparam table options checked
-- @tparam function call_with(pool, options, cb, args, n) calls with options
-- @tparam integer level whom to blame, as for error
function pool_map.new(pool, list, options, call_with, level)
  local source = source_of(list, level + 1)
  local plain = not (options.timeout or options.priority or options.retries)
  local map = setmetatable({
    pool = pool, queue = service.queues[pool], call_with = call_with,
    source = options.packed and unpacked(source) or source,
    ordered = options.ordered ~= false, window = options.window or 64,
    options = not plain and {
      timeout = options.timeout, priority = options.priority, retries = options.retries,
    } or nil,
    made = 0, given = 0, last = 0, due = {},
    answers = {}, free = {}, jobs = {}, numbers = {}, counts = {}, results = {},
  }, Map)
  map.drained = function() map:stir() end
  local guard = setmetatable({}, { __close = function() map:close() end })
  return function() return map:next() end, nil, nil, guard
end

return pool_map
