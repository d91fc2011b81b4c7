--- `tine map`: each line of the input is a job of a pool.
-- @module tine.map
local core = require "tine.core"
local go = require "tine.go"
local joblog = require "tine.joblog"
local loop = require "tine.loop"
local mapper = require "tine.mapper"
local printer = require "tine.printer"
local progress = require "tine.progress"
local records = require "tine.records"
local task = require "tine.task"

local map = {}

local FAILED <const> = 1
-- Lines read ahead, and results held back for the order, for each worker.
local WINDOW <const> = 64
-- Seconds between drawings of the bar, and after which written results are seen at the latest.
local TICK <const> = 0.1
-- Seconds that processes have to end when we end by a signal: one that has yet to load something
-- hears nothing before.
local PATIENCE <const> = 1

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

-- Waits until no more than `most` lines are held, or something else has happened.
local function wait_for_room(run, most)
  run.wanted = most
  run.waker = task.waker("map", 1)
  task.suspend()
end

local function made_room(run)
  if run.waker and run.held <= run.wanted then
    wake(run)
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

-- Bytes of all that is to be read, or nil where that cannot be known.
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

local function complain(run, text)
  run.printer:err("tine: map: " .. text)
end

-- When results cannot be written there is no sense in having more.
local function cannot_write(run, problem)
  run.unwritten = true
  if not run.over then
    run.over = true
    complain(run, "cannot write the results: " .. tostring(problem))
    abandon(run)
  end
end

-- The log is behind the results: what it says is done has been printed.
local function flush(run)
  run.printer:flush()
  if run.log and not run.unwritten then
    local ok, problem = run.log:flush()
    if not ok and not run.over then
      complain(run, ("cannot write %s: %s"):format(run.options.joblog, problem))
      abandon(run)
    end
  end
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

-- What the job has printed, whole, and then what it has returned, or its error.
local function print_job(run, job)
  local head = run.options.tag and job.line .. "\t" or ""
  for _, printed in ipairs(job.printed or {}) do
    if printed.stream == "stdout" then
      run.printer:out(head .. printed.line)
    else
      run.printer:err(head .. printed.line)
    end
  end
  if job.err then
    complain(run, where(run, job) .. with_traceback(job.err))
  elseif job.text then
    run.printer:out(head .. job.text)
  end
end

local function write(run, job)
  run.held = run.held - 1
  if not job.dropped then
    print_job(run, job)
    if run.log then
      run.log:add(job.seq, job.line, job.err and job.err.kind)
    end
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
    run.bar:draw(run.done, run.failed, run.size and math.min(run.bytes / run.size, 1))
  end
end

------------------------------------------------------------------------------------ jobs

-- What makes every line fail is told once.
local function broke(run, err)
  if not run.over then
    local last = run.fault and "; the last: " .. run.fault
    local told = last and err.message:sub(-#last) == last
    complain(run, told and err.message:sub(1, -#last - 1) or with_traceback(err))
    abandon(run)
  end
end

-- With --halt-on-error: this is the last line that counts, unless one before it fails, too.
local function halt(run, job)
  run.last, run.failed = job.order, 1
  for order, other in pairs(run.jobs) do
    if order > run.last then
      other.call:cancel()
    end
  end
  stop_reading(run)
end

-- What a worker has printed. The pool numbers its jobs as we do.
local function printed(run, line, info)
  local job = info.job and run.jobs[info.job]
  if job then
    job.printed = job.printed or {}
    table.insert(job.printed, { line = line, stream = info.stream })
  elseif info.stream == "stdout" then
    run.printer:out(line)
  else
    run.printer:err(line)
  end
end

local function count_failure(run, job)
  run.failed = run.failed + 1
  if run.options.halt_on_error then
    halt(run, job)
  end
end

local function ended(run, job, err, text)
  run.jobs[job.order] = nil
  if run.over then
    return
  elseif run.last and job.order > run.last then
    run.held = run.held - 1
    return made_room(run)
  elseif err and err.broken then
    return broke(run, err) -- the pool, and not the line
  end
  job.err, job.text = err, text
  if not job.dropped then
    run.done = run.done + 1
    run.bytes = run.bytes + job.bytes
    if err then
      count_failure(run, job)
    end
  end
  settle(run, job)
  made_room(run)
end

local function start(run, line, number, source)
  run.order = run.order + 1
  run.held = run.held + 1
  local job = {
    line = line, number = number, source = source, seq = run.seq, order = run.order,
    bytes = #line + 1,
  }
  run.jobs[job.order] = job
  job.call = run.pool(line, number, function(failure, text) ended(run, job, failure, text) end)
end

-- Whether an earlier run has done the next line.
local function is_done(run, line)
  run.seq = run.seq + 1
  local done, problem = false, nil
  if run.log then
    done, problem = run.log:has(run.seq, line)
  end
  if problem then
    complain(run, problem)
    abandon(run)
  elseif done then
    run.bytes = run.bytes + #line + 1
  end
  return done
end

-- Gives the lines of an input to the pool, no more than the window at a time.
local function feed(run, fd, source)
  local number, next_line = 0, records.of(fd, run.options.null)
  while not run.stopped do
    local line, err = next_line()
    if not line or run.stopped then
      if err and not run.stopped then
        complain(run, source .. ": " .. tostring(err))
        run.incomplete = true
      end
      return
    end
    number = number + 1
    if is_done(run, line) == false then
      start(run, line, number, source)
    end
    -- Half a window at a time: waking up costs more than a line.
    while run.held >= run.window and not run.stopped do
      wait_for_room(run, run.window // 2)
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

-- How many lines have begun, or have ended and are not printed yet.
local function unfinished(run)
  local n = 0
  for _, jobs in ipairs { run.jobs, run.results } do
    for _, job in pairs(jobs) do
      n = n + (job.dropped and 0 or 1)
    end
  end
  return n
end

-- Lines that no worker has begun. Returns how many there are.
local function drop_waiting(run)
  local n = 0
  for _, job in pairs(run.jobs) do
    if job.call:withdraw() then
      job.dropped = true
      n = n + 1
    end
  end
  return n
end

local function close_log(run)
  local log = run.log
  run.log = nil
  if log then
    log:close()
  end
end

-- Ends by the signal, and with us ends what has not ended by itself.
local function leave(run)
  close_log(run)
  core.raise(run.signal)
end

-- After a signal nothing is left to be done.
local function kill_pool(run)
  run.last_moment = run.last_moment or loop.timer(PATIENCE, function() leave(run) end)
  run.pool:close(function() end, 0)
end

-- Once: what runs is finished, and the rest dropped. Twice: it is killed.
local function interrupted(run, signal)
  run.signal = run.signal or signal
  if run.over or run.finished then
    return kill_pool(run)
  end
  run.interrupts = run.interrupts + 1
  run.incomplete = true
  if run.interrupts == 1 then
    stop_reading(run)
    local dropped = drop_waiting(run)
    complain(run, ("interrupted: finishing %d lines, %d that wait are dropped; again to kill them")
      :format(unfinished(run), dropped))
  else
    complain(run, ("killed: %d lines are not finished"):format(unfinished(run)))
    abandon(run)
  end
end

-- Which of the signals that end a program are not ignored, as nohup has it.
local function ending_signals()
  local numbers <const> = { HUP = 1, INT = 2, TERM = 15 }
  local status <close> = io.open("/proc/self/status")
  local ignored = tonumber(status and status:read("a"):match("SigIgn:%s*(%x+)") or 0, 16)
  local names = {}
  for name, number in pairs(numbers) do
    if ignored >> (number - 1) & 1 == 0 then
      names[#names + 1] = name
    end
  end
  return names
end

local function watch_signals(run)
  local watchers = {}
  for _, name in ipairs(ending_signals()) do
    watchers[#watchers + 1] = loop.signal(name, function() interrupted(run, name) end)
  end
  return watchers
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
    retries = {
      crash = options.retries, timeout = options.retry_timeouts, exception = options.retry_errors,
      delay = options.retry_delay,
    },
    start = 0,
    on_line = function(line, info) printed(run, line, info) end,
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
  local run = {
    options = options, names = names, bar = bar, closed = fill_streams(),
    ordered = options.ordered, window = WINDOW * (options.workers or tine.cpus()),
    size = bar and total_size(names), bytes = 0, done = 0, failed = 0, order = 0, seq = 0,
    held = 0, next_order = 1, results = {}, jobs = {}, interrupts = 0,
  }
  run.printer = printer.new(bar, run.closed[1], function(problem) cannot_write(run, problem) end)
  return run
end

local function work(run)
  local began = core.loop.now()
  local pool, err = make_pool(run)
  if not pool then
    return broke(run, err)
  end
  run.pool = pool
  local ticker = loop.timer(TICK, TICK, function() draw(run) end)
  local watchers = watch_signals(run)
  feed_all(run)
  while run.held > 0 and not run.over do
    wait_for_room(run, 0)
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
  if run.signal then
    kill_pool(run)
  end
  run.pool:close(nil, run.over and 0 or nil)
  if run.last_moment then
    run.last_moment:close()
  end
  for _, watcher in ipairs(watchers) do
    watcher:close()
  end
end

-- Returns whether it can begin.
local function open_log(run)
  local options, problem = run.options, nil
  if options.joblog then
    run.log, problem = joblog.open(options.joblog, options.resume)
  end
  if problem then
    complain(run, problem)
  end
  return not problem
end

--- Runs it.
-- @tparam table options `files`, `require` (lists), `code` or `func`, `init`, `workers`,
-- `ordered`, `timeout`, `retries`, `retry_timeouts`, `retry_errors`, `retry_delay`, `json`,
-- `halt_on_error`, `stats`, `progress`, `null`, `tag`, `joblog`, `resume`
-- @treturn integer the exit code: 1 if a line failed, or was not done. Interrupted by a signal, the
-- program ends by that
function map.run(options)
  local run = new_run(options)
  if not open_log(run) then
    return FAILED
  end
  go.main(work, run)
  close_log(run)
  if run.signal then
    core.raise(run.signal) -- for a shell's loop around us to see it
  end
  return (run.failed > 0 or run.incomplete) and FAILED or 0
end

--- What is wrong with the code of `-e`, if anything is.
function map.check(code)
  local fn, problem = mapper.compile(code)
  return not fn and problem or nil
end

return map
