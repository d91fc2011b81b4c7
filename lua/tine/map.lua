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

-- The standard streams that were closed have /dev/null in their place: else descriptors of ours
-- would get their numbers, and be read and written as if they were those.
local placeholders <const> = {}

-- Returns the numbers of those that were closed, as keys.
local function fill_streams()
  local closed = {}
  while true do
    local file = io.open("/dev/null", "r+b")
    local fd = file and core.fileno(file)
    if not fd or fd > 2 then
      if file then
        file:close()
      end
      return closed
    end
    closed[fd] = true
    placeholders[#placeholders + 1] = file
  end
end

---------------------------------------------------------------------------------- stopping

local function wake(run)
  local waker = run.waker
  run.waker = nil
  if waker then
    waker()
  end
end

-- No more lines are read.
local function stop_reading(run)
  run.stopped = true
  if run.input then
    run.input:close()
  end
  wake(run)
end

-- Nothing more is printed, and what is under way is killed. Wakes the one who ends it all: what
-- there is to say is said before.
local function abandon(run)
  run.over, run.incomplete = true, true
  stop_reading(run)
  if run.pool then
    run.pool:close(function() end, 0)
  end
end

---------------------------------------------------------------------------------- input

-- A file as a tine.fd, so that a wait for a slow one is the loop's.
local function open(run, name)
  if name == "-" then
    if run.closed[0] then
      return nil, "stdin is closed"
    end
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

local complain

-- What io.stdout has answered. When results cannot be written there is no sense in having more.
local function check_written(run, ok, problem)
  if not ok and not run.over then
    run.over = true
    complain(run, "cannot write the results: " .. tostring(problem))
    abandon(run)
  end
end

local function flush(run)
  if run.unflushed then
    run.unflushed = false
    check_written(run, io.stdout:flush())
  end
end

function complain(run, text)
  if run.bar then
    run.bar:clear()
  end
  flush(run)
  io.stderr:write("tine: map: ", text, "\n")
end

local function with_traceback(err)
  local text = tostring(err.message or err)
  return err.traceback and err.traceback ~= "" and text .. "\n" .. err.traceback or text
end

local function where(run, job)
  if #run.names > 1 then
    return ("%s: line %d: "):format(job.source, job.number)
  end
  return ("line %d: "):format(job.number)
end

local function write(run, job)
  run.held = run.held - 1
  if job.err then
    complain(run, where(run, job) .. with_traceback(job.err))
  elseif job.text and run.closed[1] then
    check_written(run, false, "stdout is closed")
  elseif job.text then
    if run.bar then
      run.bar:clear()
    end
    run.unflushed = true
    check_written(run, io.stdout:write(job.text, "\n"))
  end
  if job.order == run.last and not run.over then
    complain(run, "stopped at the first failed line (--halt-on-error)")
    abandon(run)
  end
end

-- Writes what is due; with --ordered that is what has no line before it that is still out.
local function settle(run, job)
  if not run.ordered then
    return write(run, job)
  end
  run.results[job.order] = job
  while run.results[run.next_order] and not run.over do
    local ready = run.results[run.next_order]
    run.results[run.next_order] = nil
    run.next_order = run.next_order + 1
    write(run, ready)
  end
end

local function draw(run)
  flush(run)
  if run.bar then
    run.bar:draw(run.done, run.failed, run.size and math.min(run.octets / run.size, 1))
  end
end

------------------------------------------------------------------------------------ jobs

-- What makes every line fail is told once.
local function broke(run, err)
  if not run.over then
    local told = run.fault and err.message:find("; the last: " .. run.fault, 1, true)
    complain(run, told and err.message:sub(1, told - 1) or with_traceback(err))
    abandon(run)
  end
end

-- Whether it is the pool's failure, and not the line's. Figures are dear: they are the last
-- thing to be asked for.
local function is_broken(run, err)
  return err.message:find("the pool cannot make workers", 1, true) and run.pool:stats().broken
end

-- With --halt-on-error: this is the last line that counts, unless one before it fails, too.
local function halt(run, job)
  run.last, run.failed = job.order, 1
  for order, call in pairs(run.calls) do
    if order > run.last then
      call:cancel()
    end
  end
  stop_reading(run)
end

local function ended(run, job, err, text)
  if run.calls then
    run.calls[job.order] = nil
  end
  if run.over then
    return
  elseif run.last and job.order > run.last then
    run.held = run.held - 1
    return wake(run)
  elseif err and is_broken(run, err) then
    return broke(run, err)
  end
  job.err, job.text = err, text
  run.done = run.done + 1
  run.octets = run.octets + job.octets
  if err then
    run.failed = run.failed + 1
    if run.options.halt_on_error then
      halt(run, job)
    end
  end
  settle(run, job)
  wake(run)
end

-- Gives the lines of an input to the pool, no more than the window at a time.
local function feed(run, fd, source)
  local number = 0
  while not run.stopped do
    local line, err = fd:read_line()
    if not line or run.stopped then
      if err and not run.stopped then
        complain(run, source .. ": " .. tostring(err))
        run.incomplete = true
      end
      return
    end
    number = number + 1
    run.order = run.order + 1
    run.held = run.held + 1
    local job = { number = number, source = source, order = run.order, octets = #line + 1 }
    local call = run.pool:call {
      args = { line, number },
      cb = function(failure, text) ended(run, job, failure, text) end,
    }
    if run.calls then
      run.calls[job.order] = call
    end
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
    local fd, source = open(run, name)
    if fd then
      run.input = fd
      feed(run, fd, source)
      fd:close()
    else
      complain(run, tostring(source))
      run.incomplete = true
    end
  end
end

-- Once: what is under way is finished. Twice: it is killed.
local function interrupted(run)
  if run.over or run.finished then
    return run.pool:close(function() end, 0)
  end
  run.interrupts = run.interrupts + 1
  run.incomplete = true
  if run.interrupts == 1 then
    complain(run, ("interrupted: finishing %d lines; again to kill them"):format(run.held))
    stop_reading(run)
  else
    complain(run, ("killed: %d lines are not finished"):format(run.held))
    abandon(run)
  end
end

------------------------------------------------------------------------------------- all

-- Returns nil and err where there can be no pool, which is told where that is known.
local function make_pool(run)
  local tine = require "tine"
  local options = run.options
  local template, problem = tine.new { name = "map template" }
  if not template then
    return nil, problem
  end
  template:on_error(function(err) broke(run, err) end)
  if #options.require > 0 then
    template:require(table.unpack(options.require))
  end
  template:require("tine.mapper")
  template:eval("require('tine.mapper').setup(...)", options.code and "code" or "name",
    options.code or options.func, options.json and "json" or "text",
    table.unpack(options.require))
  local pool, err = template:pool("tine.mapper.run", {
    max = options.workers or tine.cpus(),
    init = options.init,
    timeout = options.timeout,
    retries = options.retries,
    start = 0,
    on_error = function(fault)
      if not run.last and not run.over and fault.message ~= run.fault then
        run.fault = fault.message -- what befalls each new worker is told once
        complain(run, with_traceback(fault))
      end
    end,
  })
  if not pool then
    err = template:on_exit() or err -- the handle is closed for this reason
  end
  return pool, err
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

local function new_run(options)
  local names = #options.files > 0 and options.files or { "-" }
  local bar = options.progress and progress.new()
  local tine = require "tine"
  return {
    options = options, names = names, bar = bar, closed = fill_streams(),
    ordered = options.ordered, window = WINDOW * (options.workers or tine.cpus()),
    size = bar and total_size(names), octets = 0, done = 0, failed = 0, order = 0, held = 0,
    next_order = 1, results = {}, calls = options.halt_on_error and {} or nil,
    interrupts = 0,
  }
end

local function work(run)
  local began = core.loop.now()
  local pool, err = make_pool(run)
  if not pool then
    return broke(run, err)
  end
  run.pool = pool
  local ticker = loop.timer(TICK, TICK, function() draw(run) end)
  local signal = loop.signal("INT", function() interrupted(run) end)
  feed_all(run)
  while run.held > 0 and not run.over do
    run.waker = task.waker()
    task.suspend()
  end
  run.finished = true
  ticker:close()
  draw(run)
  if run.bar then
    run.bar:clear()
  end
  if run.options.stats then
    show_stats(run, core.loop.now() - began)
  end
  run.pool:close(nil, run.over and 0 or nil)
  signal:close()
end

--- Runs it.
-- @tparam table options `files`, `require` (lists), `code` or `func`, `init`, `workers`,
-- `ordered`, `timeout`, `retries`, `json`, `halt_on_error`, `stats`, `progress`
-- @treturn integer the exit code: 1 if a line failed, or was not done
function map.run(options)
  local run = new_run(options)
  io.stdout:setvbuf("full")
  go.main(work, run)
  return (run.failed > 0 or run.incomplete) and FAILED or 0
end

--- What is wrong with the code of `-e`, if anything is.
function map.check(code)
  local fn, problem = mapper.compile(code)
  return not fn and problem or nil
end

return map
