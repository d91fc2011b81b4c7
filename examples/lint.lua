-- Checks Lua files with luacheck on all CPUs. A template loads luacheck and the list of files
-- once; one worker per CPU is forked from it, shares both, and is told over its socket which
-- files to check, a small portion at a time. `make demo` runs it on all that the system has.
--
--   lua5.4 examples/lint.lua [--jobs N] [--no-compare] [FILE or FOLDER...]
local tine = require "tine"
local loop = tine.loop

local HELP <const> = [[
usage: lint.lua [OPTION...] [FILE or FOLDER...]
Checks Lua files with luacheck, one worker process per CPU. Without files and folders, all
that is in the system's Lua folders (/usr/share/lua, and those of package.path).

  --jobs N       workers; default: as many as there are CPUs for this process
  --no-compare   do not do it all once more with one worker, to compare
  --limit N      check only the N largest files; default: 2000
  --help         this text
]]
local PORTION <const> = 65536 -- most bytes of source handed to a worker at a time
local TOP <const> = 12 -- kinds of warning shown
local PATIENCE <const> = 2 -- workers that one file may cost before it is given up

------------------------------------------------------------------- in the template and workers

-- luacheck: globals check_files

-- Runs in the template: loads luacheck and makes the workers' entry function.
local function prepare(files, path)
  package.path = package.path .. path
  local luacheck = require "luacheck"
  local warnings = require("luacheck.stages").warnings

  local function meaning(code)
    local text = warnings[code] and warnings[code].message_format or "code " .. code
    if code == "011" then return "syntax error" end
    if type(text) == "function" then
      local ok, result = pcall(text, {})
      text = ok and result or "code " .. code
    end
    return (text:gsub("'?{.-}'?", "..."):gsub(" on line %.%.%.", ""):gsub(" %.%.%.$", ""))
  end

  -- How many of which code, or nil and a reason if the file could not be checked.
  local function check(name)
    local file <close>, problem = io.open(name, "rb")
    local source
    if file then source, problem = file:read("a") end
    if not source then return nil, problem end
    local ok, report = pcall(luacheck.check_strings, { source })
    if not ok then return nil, ("%s: luacheck fails: %s"):format(name, report) end
    local counts = {}
    for _, issue in ipairs(report[1]) do
      counts[issue.code] = (counts[issue.code] or 0) + 1
    end
    return counts
  end

  -- The host sends "FIRST LAST", numbers of files. For each file it gets a line "done NUMBER
  -- CODE=COUNT ..." or "fail NUMBER REASON", and before the first of a code "means CODE TEXT".
  function check_files(sock)
    local told = {}
    for portion in sock.read_line, sock do
      local first, last = portion:match("^(%d+) (%d+)$")
      for i = tonumber(first), tonumber(last) do
        local counts, problem = check(files[i])
        local list = {}
        for code, count in pairs(counts or {}) do
          if not told[code] then sock:write(("means %s %s\n"):format(code, meaning(code))) end
          told[code] = true
          list[#list + 1] = code .. "=" .. count
        end
        local text = counts and table.concat(list, " ") or problem:gsub("\n", " ")
        sock:write(("%s %d %s\n"):format(counts and "done" or "fail", i, text))
      end
    end
  end
end

------------------------------------------------------------------- what there is to check

local function quote(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

-- The folders where the system's Lua versions look for modules.
local function system_folders()
  local folders = { "/usr/share/lua", "/usr/local/share/lua" }
  for template in package.path:gmatch("[^;]+") do
    local folder = template:match("^(/[^?]*)/%?")
    if folder then folders[#folders + 1] = folder end
  end
  return folders
end

-- All Lua files in files and folders, each once however many links lead to it; large ones
-- first, so that the last portions are small and all workers end together.
local function find_files(paths)
  local words = {}
  for i, path in ipairs(paths) do words[i] = quote(path:gsub("^%-", "./-")) end
  local pipe <close> = assert(io.popen("find -L " .. table.concat(words, " ")
    .. " -type f -name '*.lua' -exec realpath -z {} + 2>/dev/null"
    .. " | sort -zu | xargs -0 -r stat --printf '%s %n\\0'"))
  local files = {}
  for size, name in pipe:read("a"):gmatch("(%d+) ([^\0]+)\0") do
    files[#files + 1] = { name = name, size = tonumber(size) }
  end
  table.sort(files, function(a, b)
    if a.size ~= b.size then return a.size > b.size end
    return a.name < b.name
  end)
  return files
end

------------------------------------------------------------------- what the user sees

local on_terminal <const> = os.execute("test -t 2") == true

local function now()
  local f <close> = assert(io.open("/proc/uptime"))
  return f:read("n")
end

local function note(...)
  io.stderr:write(on_terminal and "\r\27[K" or "", "lint: ", ...)
  io.stderr:write("\n")
end

local function plural(n, word)
  return ("%d %s%s"):format(n, word, n == 1 and "" or "s")
end

-- Draws it now and ten times a second; returns a function that takes it away.
local function progress_bar(run)
  if not on_terminal then return function() end end
  local width <const> = 30
  local function draw()
    local share, took = run.bytes_done / math.max(run.bytes, 1), now() - run.began
    local full = math.floor(share * width)
    local left = share > 0 and ("%4.1f s left"):format(took / share - took) or ""
    io.stderr:write(("\r%s [%s%s] %d/%d files  %d/s  %s\27[K"):format(run.title,
      ("#"):rep(full), ("."):rep(width - full), run.files_done, #run.files,
      took > 0 and run.files_done // took or 0, left))
  end
  draw()
  local timer = loop.timer(0.1, 0.1, draw)
  return function()
    timer:close()
    io.stderr:write("\r\27[K")
  end
end

-- The memory of a process, in KiB: what only it has, and what others have as well.
local function memory(pid)
  local f <close> = io.open(("/proc/%d/smaps_rollup"):format(pid))
  local kib = {}
  for name, value in (f and f:read("a") or ""):gmatch("([%w_]+): +(%d+) kB") do
    kib[name] = tonumber(value)
  end
  return kib.Rss and {
    private = kib.Private_Clean + kib.Private_Dirty,
    shared = kib.Shared_Clean + kib.Shared_Dirty,
  }
end

------------------------------------------------------------------- the work

local stopped_by -- the number of the signal that is to end it all
local current -- the run under way

-- The next portion, as the numbers of its first and last file: what a dead worker left, or else
-- what nobody has had yet.
local function next_portion(run)
  local first = table.remove(run.returned)
  if first then return first, first end
  first = run.next
  if first > #run.files then return nil end
  local last, size = first, run.files[first].size
  while last < #run.files and size + run.files[last + 1].size <= run.portion do
    last = last + 1
    size = size + run.files[last].size
  end
  run.next = last + 1
  return first, last
end

local function file_done(run, i, counts, problem)
  run.files_done = run.files_done + 1
  run.bytes_done = run.bytes_done + run.files[i].size
  if problem then table.insert(run.problems, problem) end
  for code, count in counts:gmatch("(%d+)=(%d+)") do
    run.counts[code] = (run.counts[code] or 0) + count
    run.warnings = run.warnings + count
  end
end

-- Hands a portion over and takes its results. Returns nil when all have come, else the first
-- file without one: the worker has died.
local function converse(run, sock, first, last)
  sock:write(("%d %d\n"):format(first, last))
  while first <= last do
    local line = sock:read_line()
    local kind, number, text = (line or ""):match("^(%l+) (%d+) ?(.*)")
    if kind == "means" then
      run.meanings[number] = text
    elseif tonumber(number) == first then
      file_done(run, first, kind == "done" and text or "", kind == "fail" and text)
      first = first + 1
    else
      return first
    end
  end
end

-- Waits for a worker's end; returns what it died of.
local function bury(run, worker)
  local err, info = worker:on_exit()
  run.cpu = run.cpu + info.rusage.utime + info.rusage.stime
  return run.errors[worker] or err
end

-- A worker has died at a file. That one and what is left of the portion go to others, alone.
local function give_back(run, worker, failed, last)
  local why = bury(run, worker)
  local name = run.files[failed].name
  note(why and why.message or "a worker left", ", at ", name, "; another one goes on")
  run.deaths[failed] = (run.deaths[failed] or 0) + 1
  for i = last, failed + 1, -1 do table.insert(run.returned, i) end
  if run.deaths[failed] < PATIENCE then
    table.insert(run.returned, failed)
  else
    file_done(run, failed, "", name .. ": one worker after another died of it")
  end
end

local function hire(run, template)
  local worker = template:fork { name = "lint worker" }
  worker:on_error(function(err) run.errors[worker] = err end)
  run.workers[worker] = false -- no socket yet
  local sock, err = worker:run("check_files")
  run.workers[worker] = sock
  run.newest = sock and memory(worker:pid()) or run.newest
  if not sock then run.failure = run.failure or err end
  return worker, sock
end

-- One worker, and those who come after it should it die, until nothing is left to hand out.
local function employ(run, template)
  local worker, sock
  while not stopped_by and not run.failure do
    local first, last = next_portion(run)
    if not first then return end
    if not sock then worker, sock = hire(run, template) end
    local failed = not sock and first or converse(run, sock, first, last)
    if failed and sock and not stopped_by then give_back(run, worker, failed, last) end
    if failed then
      run.workers[worker], sock = nil, nil
    end
  end
end

-- Checks all files with so many workers, which are there afterwards.
local function check_all(template, files, jobs, title)
  local run = {
    files = files, bytes = 0, title = title, began = now(), next = 1, files_done = 0,
    bytes_done = 0, returned = {}, deaths = {}, workers = {}, errors = {}, counts = {},
    meanings = {}, warnings = 0, problems = {}, cpu = 0,
  }
  for _, file in ipairs(files) do run.bytes = run.bytes + file.size end
  run.portion = math.min(PORTION, run.bytes // (jobs * 8))
  current = run
  local remove_bar = progress_bar(run)
  local tasks = {}
  for i = 1, jobs do tasks[i] = tine.go(employ, run, template) end
  for _, task in ipairs(tasks) do task:await() end
  remove_bar()
  run.took = now() - run.began
  return run
end

-- Ends the workers of a run.
local function dismiss(run)
  for worker, sock in pairs(run.workers) do
    if sock then sock:close() end
    bury(run, worker)
  end
end

------------------------------------------------------------------- the result

local function report_warnings(run)
  local codes = {}
  for code in pairs(run.counts) do codes[#codes + 1] = code end
  table.sort(codes, function(a, b)
    if run.counts[a] ~= run.counts[b] then return run.counts[a] > run.counts[b] end
    return a < b
  end)
  print(("%s in %s (%.1f MB) checked"):format(plural(run.warnings, "warning"),
    plural(run.files_done, "file"), run.bytes / 1e6))
  for i = 1, math.min(#codes, TOP) do
    print(("%7d  %s  %s"):format(run.counts[codes[i]], codes[i], run.meanings[codes[i]]))
  end
  if #codes > TOP then print(("         and %d more kinds"):format(#codes - TOP)) end
  for _, problem in ipairs(run.problems) do print("not checked: " .. problem) end
end

local function mb(m)
  return ("%.1f MB of its own, %.1f MB shared"):format(m.private / 1024, m.shared / 1024)
end

local function report_memory(template, run)
  local whole = memory(template:pid())
  if not whole then return end
  print(("memory: template %.1f MB with luacheck"):format((whole.private + whole.shared) / 1024))
  if run.newest then print("  a new worker: " .. mb(run.newest)) end
  for worker in pairs(run.workers) do
    local m = memory(worker:pid())
    if m then print(("  worker %d at the end: %s"):format(worker:pid(), mb(m))) end
  end
end

local function report_times(run, jobs, alone)
  local function time(r, n)
    local busy = r.cpu / math.max(r.took, 0.01) / n
    return ("%.2f s, %.0f files/s, %.2f s of CPU%s"):format(r.took,
      r.files_done / math.max(r.took, 0.01), r.cpu,
      r.took > 0.5 and busy < 0.8
      and (", other programs had %.0f %% of theirs"):format(100 - busy * 100) or "")
  end
  print(plural(jobs, "worker") .. ": " .. time(run, jobs))
  if alone then
    print(("one process doing the same: %s\n%d workers are %.2f times as fast"):format(
      time(alone, 1), jobs, alone.took / math.max(run.took, 0.01)))
  end
end

------------------------------------------------------------------- the command line

local function fail(code, ...)
  note(...)
  return code
end

local function parse(...)
  local options = { jobs = tine.cpus(), compare = true, limit = 2000, paths = {} }
  local words = { ... }
  local i = 1
  while i <= #words do
    local word = words[i]
    local name = word:match("^%-%-(.*)")
    if name == "help" then
      options.help = true
    elseif name == "compare" or name == "no-compare" then
      options.compare = name == "compare"
    elseif name == "jobs" or name == "limit" then
      i = i + 1
      options[name] = math.tointeger(tonumber(words[i]))
      if (options[name] or 0) < 1 then return nil, word .. ": a positive number expected" end
    elseif word:sub(1, 1) == "-" then
      return nil, word .. ": no such option, see --help"
    else
      local there, problem = io.open(word)
      if not there then return nil, problem end
      there:close()
      table.insert(options.paths, word)
    end
    i = i + 1
  end
  return options
end

local function check(options, template, files, jobs)
  local run = check_all(template, files, jobs, plural(jobs, "worker"))
  local alone
  if not stopped_by and not run.failure then
    report_warnings(run)
    report_memory(template, run)
  end
  dismiss(run)
  if options.compare and jobs > 1 and not stopped_by and not run.failure then
    note("the same once more with one worker, to compare (--no-compare leaves it out)")
    alone = check_all(template, files, 1, "1 worker")
    dismiss(alone)
  end
  local failure = run.failure or alone and alone.failure
  if failure and not stopped_by then return fail(1, failure.message) end
  if not stopped_by then report_times(run, jobs, alone) end
  return 0
end

local function lint(options)
  local files = find_files(#options.paths > 0 and options.paths or system_folders())
  local found = #files
  table.move({}, 1, found, options.limit + 1, files)
  local names = {}
  for i, file in ipairs(files) do names[i] = file.name end
  loop.sleep(0.01) -- lets the loop see a Ctrl-C that came meanwhile
  if stopped_by then return end
  if #files == 0 then return fail(1, "no Lua files found") end
  local jobs = math.min(options.jobs, #files)
  note(("%s%s, %s"):format(plural(#files, "file"), found > #files
    and (" of %d, the largest (--limit)"):format(found) or "", plural(jobs, "worker")))

  -- By new_exec, not new: no other template is made, and the end of this one can be awaited.
  local template = tine.new_exec { name = "lint" }
  template:on_error(function() end) -- the workers tell
  template:eval(prepare, names, ";/usr/share/lua/5.1/?.lua;/usr/share/lua/5.1/?/init.lua")
  local gone = tine.go(function() template:on_exit() end)
  local code = check(options, template, files, jobs)
  template:close()
  gone:await()
  return code
end

local function main(...)
  local options, problem = parse(...)
  if not options then return fail(2, problem) end
  if options.help then
    io.write(HELP)
    return 0
  end
  local function stop(number)
    stopped_by = number
    for worker in pairs(current and current.workers or {}) do worker:kill("KILL") end
  end
  local int, term = loop.signal("INT", stop), loop.signal("TERM", stop)
  local code = lint(options)
  int:close()
  term:close()
  if stopped_by then
    return fail(128 + stopped_by, ("interrupted: %d of %d files checked"):format(
      current and current.files_done or 0, current and #current.files or 0))
  end
  return code
end

os.exit(tine.main(main, ...))
