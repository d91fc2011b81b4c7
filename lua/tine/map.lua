--- `tine map`: each line of the input is a job of a pool.
-- @module tine.map
local core = require "tine.core"
local go = require "tine.go"
local loop = require "tine.loop"
local mapper = require "tine.mapper"
local progress = require "tine.progress"
local task = require "tine.task"

local map = {}

local FAILED <const> = 1
-- Lines read ahead, and results held back for the order, for each worker.
local WINDOW <const> = 64
-- Seconds between drawings of the bar, and after which written results are seen at the latest.
local TICK <const> = 0.1

local function complain(run, text)
  if run.bar then
    run.bar:clear()
  end
  io.stdout:flush()
  io.stderr:write("tine: map: ", text, "\n")
end

---------------------------------------------------------------------------------- input

-- A file as a tine.fd, so that a wait for a slow one is the loop's.
local function open(name)
  if name == "-" then
    return require("tine").fd(0):dup(), "stdin"
  end
  local fd, problem = core.open_input(name)
  if not fd then
    return nil, problem
  end
  return core.adopt(fd), name
end

-- Octets of all that is to be read, or nil where that cannot be known.
local function total_size(names)
  local sum = 0
  for _, name in ipairs(names) do
    local size = core.unread(name == "-" and 0 or name)
    if not size then
      return nil
    end
    sum = sum + size
  end
  return sum > 0 and sum or nil
end

---------------------------------------------------------------------------------- output

local function where(run, job)
  if #run.names > 1 then
    return ("%s: line %d: "):format(job.source, job.number)
  end
  return ("line %d: "):format(job.number)
end

local function report(run, job, err)
  local text = where(run, job) .. tostring(err.message or err)
  if err.traceback and err.traceback ~= "" then
    text = text .. "\n" .. err.traceback
  end
  complain(run, text)
end

local function write(run, job)
  if job.err then
    report(run, job, job.err)
  elseif job.text then
    if run.bar then
      run.bar:clear()
    end
    io.stdout:write(job.text, "\n")
    run.unflushed = true
  end
end

-- Writes what is due; with --ordered that is what has no line before it that is still out.
local function settle(run, job)
  if not run.ordered then
    run.held = run.held - 1
    return write(run, job)
  end
  run.results[job.order] = job
  while run.results[run.next_order] do
    local ready = run.results[run.next_order]
    run.results[run.next_order] = nil
    run.next_order = run.next_order + 1
    run.held = run.held - 1
    write(run, ready)
  end
end

local function draw(run)
  if run.unflushed then
    io.stdout:flush()
    run.unflushed = false
  end
  if run.bar then
    run.bar:draw(run.done, run.failed, run.size and math.min(run.octets / run.size, 1))
  end
end

------------------------------------------------------------------------------------ jobs

local function wake(run)
  local waker = run.waker
  run.waker = nil
  if waker then
    waker()
  end
end

local function give_up(run)
  run.stopped = true
  for _, fd in ipairs(run.inputs) do
    fd:close()
  end
  wake(run)
end

-- What makes every line fail is told once.
local function broke(run, err)
  if not run.broken then
    run.broken = true
    complain(run, tostring(err.message) .. (err.traceback and "\n" .. err.traceback or ""))
    give_up(run)
  end
end

local function ended(run, job, err, text)
  run.done = run.done + 1
  run.octets = run.octets + job.octets
  job.err, job.text = err, text
  if err and not run.broken and run.pool:stats().broken then
    broke(run, err)
  end
  if run.broken or (run.halted and err and err.kind == "closed") then
    job.err = nil
  elseif err then
    run.failed = run.failed + 1
  end
  settle(run, job)
  if err and run.options.halt_on_error and not run.halted then
    run.halted = true
    complain(run, "stopped at the first failed line (--halt-on-error)")
    give_up(run)
    run.pool:close(nil, 0)
  end
  wake(run)
end

-- Gives the lines of an input to the pool, no more than the window at a time.
local function feed(run, fd, source)
  local number = 0
  while not run.stopped do
    local line, err = fd:read_line()
    if not line then
      if err and not run.stopped then
        complain(run, source .. ": " .. tostring(err))
        run.unreadable = true
      end
      return
    end
    number = number + 1
    run.order = run.order + 1
    run.held = run.held + 1
    local job = { number = number, source = source, order = run.order, octets = #line + 1 }
    run.pool:call {
      args = { line, number },
      cb = function(failure, text) ended(run, job, failure, text) end,
    }
    while run.held >= run.window and not run.stopped do
      run.waker = task.waker()
      task.suspend()
    end
  end
end

local function feed_all(run)
  for _, name in ipairs(run.names) do
    if run.stopped then
      return
    end
    local fd, source = open(name)
    if fd then
      table.insert(run.inputs, fd)
      feed(run, fd, source)
      fd:close()
    else
      complain(run, source)
      run.unreadable = true
    end
  end
end

-- Once: what is under way is finished. Twice: it is killed.
local function interrupted(run)
  run.interrupts = run.interrupts + 1
  if run.interrupts == 1 then
    complain(run, ("interrupted: finishing %d lines; again to kill them"):format(run.held))
    run.draining = true
    give_up(run)
  else
    run.halted = true
    run.pool:close(nil, 0)
  end
end

------------------------------------------------------------------------------------- all

local function make_pool(run)
  local tine = require "tine"
  local options = run.options
  local template = assert(tine.new { name = "map template" })
  template:on_error(function(err) broke(run, err) end)
  if #options.require > 0 then
    template:require(table.unpack(options.require))
  end
  template:require("tine.mapper")
  template:eval("require('tine.mapper').setup(...)", options.code and "code" or "name",
    options.code or options.func, options.json and "json" or "text",
    table.unpack(options.require))
  return assert(template:pool("tine.mapper.run", {
    max = options.workers or tine.cpus(),
    init = options.init,
    timeout = options.timeout,
    retries = options.retries,
    start = 0,
    on_error = function(err)
      local text = tostring(err)
      if not run.halted and not run.broken and text ~= run.fault then
        run.fault = text -- what befalls each new worker is told once
        complain(run, text)
      end
    end,
  }))
end

-- What is known of a process's memory, for the end of a line.
local function memory_of(process)
  local parts = {}
  for _, name in ipairs { "private", "pss", "own", "shared", "sealed", "copied" } do
    if process[name] then
      parts[#parts + 1] = (", %.1f %s"):format(process[name] / 1e6, name)
    end
  end
  if process.faults then
    parts[#parts + 1] = ("; %d faults"):format(process.faults.minor + process.faults.major)
  end
  return ("%.1f MB resident"):format((process.rss or 0) / 1e6) .. table.concat(parts)
end

local function show_stats(run, seconds)
  local stats = run.pool:stats { memory = true }
  local function times(name, h)
    if h.count > 0 then
      io.stderr:write(("  %-9s mean %.6f  p50 %.6f  p90 %.6f  p99 %.6f  max %.6f s\n"):format(name,
        h.mean, h.p50, h.p90, h.p99, h.max))
    end
  end
  io.stderr:write(("tine: map: %d lines in %.3f s, %.1f/s; %d failed, %d retried, "
    .. "%d timed out; workers: %d started, %d crashed\n"):format(run.done, seconds,
    run.done / math.max(seconds, 1e-6), run.failed, stats.retried, stats.timeouts, stats.started,
    stats.crashed))
  times("waited", stats.wait)
  times("ran", stats.run)
  if stats.template then
    io.stderr:write(("  template %d: %s\n"):format(stats.template.pid or 0,
      memory_of(stats.template)))
  end
  for _, worker in ipairs(stats.workers) do
    io.stderr:write(("  worker %d: %d jobs, %s\n"):format(worker.pid or 0, worker.jobs,
      memory_of(worker)))
  end
end

local function finish(run)
  local closed = false
  while run.held > 0 and not run.broken and not closed do
    run.waker = task.waker()
    task.suspend()
  end
  draw(run)
end

local function new_run(options)
  local names = #options.files > 0 and options.files or { "-" }
  local bar = options.progress and progress.new()
  local tine = require "tine"
  return {
    options = options, names = names, inputs = {}, bar = bar,
    ordered = options.ordered, window = WINDOW * (options.workers or tine.cpus()),
    size = bar and total_size(names), octets = 0, done = 0, failed = 0, order = 0, held = 0,
    next_order = 1, results = {}, interrupts = 0,
  }
end

local function work(run)
  local began = core.loop.now()
  run.pool = make_pool(run)
  local ticker = loop.timer(TICK, TICK, function() draw(run) end)
  local signal = loop.signal("INT", function() interrupted(run) end)
  feed_all(run)
  finish(run)
  ticker:close()
  signal:close()
  if run.bar then
    run.bar:clear()
  end
  io.stdout:flush()
  if run.options.stats and not run.broken then
    show_stats(run, core.loop.now() - began)
  end
  run.pool:close(nil, run.broken and 0 or nil)
end

--- Runs it.
-- @tparam table options `files`, `require` (lists), `code` or `func`, `init`, `workers`,
-- `ordered`, `timeout`, `retries`, `json`, `halt_on_error`, `stats`, `progress`
-- @treturn integer the exit code: 1 if a line failed, or was not done
function map.run(options)
  local run = new_run(options)
  io.stdout:setvbuf("full")
  go.main(work, run)
  local left = run.broken or run.unreadable or run.halted or run.draining
  return (run.failed > 0 or left) and FAILED or 0
end

--- What is wrong with the code of `-e`, if anything is.
function map.check(code)
  local fn, problem = mapper.compile(code)
  return not fn and problem or nil
end

return map
