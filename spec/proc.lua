--- What the specs of processes share.
local helper = require "spec.helper"
local tine = require "tine"

local proc = {}

--- Runs fn in a coroutine of tine.go, and the loop, until it has ended.
-- @tparam number seconds it may take, times helper.patience
-- @tparam function fn
-- @return what fn returned
-- @raise what fn or a callback raised; where fn waits, when it takes too long
function proc.within(seconds, fn)
  local thread, result
  tine.go(function()
    thread = coroutine.running()
    result = table.pack(pcall(fn))
  end)
  helper.wait_until(seconds, function()
    return result, thread and debug.traceback(thread)
  end)
  if not result[1] then error(result[2], 0) end
  return table.unpack(result, 2, result.n)
end

--- `it` for tests that run in a coroutine of tine.go, have 15 seconds (times helper.patience), and
-- leave nothing.
function proc.case(it)
  return function(name, fn)
    it(name, function()
      helper.no_leaks(function() proc.within(15, fn) end)
    end)
  end
end

--- In a test made by `case`: waits until fn returns a true value, which it returns. There is no
-- deadline but that of the test.
function proc.wait_for(fn)
  while true do
    local result = fn()
    if result then return result end
    tine.loop.sleep(0.002)
  end
end

--- All that comes over a socket until the other side has closed it. Closes it.
function proc.read_all(sock)
  local parts = {}
  while true do
    local part, err = sock:read()
    if err then error(err, 2) end
    if not part then break end
    parts[#parts + 1] = part
  end
  sock:close()
  return table.concat(parts)
end

--- Tells a process to run func, and returns all that it writes to its socket.
function proc.result(p, func)
  local sock, err = p:run(func)
  if not sock then error(err, 2) end
  return proc.read_all(sock)
end

local function errors_of(p)
  local list = {}
  p:on_error(function(err) list[#list + 1] = err end)
  return list
end

--- Runs func in p to the end of the process.
-- @treturn ?table err as on_exit gets it
-- @treturn table info likewise
-- @treturn {table,...} what on_error got
function proc.finish(p, func)
  local errors = errors_of(p)
  if func then p:run(func, function() end) end
  local err, info = p:on_exit()
  return err, info, errors
end

--- A number out of /proc/PID/stat; state and parent are fields 3 and 4.
function proc.stat(pid, field)
  local f <close> = io.open(string.format("/proc/%d/stat", pid))
  local text = f and f:read("a")
  if not text then return nil end
  local n = 2
  for word in text:match("^.*%) (.*)"):gmatch("%S+") do
    n = n + 1
    if n == field then return tonumber(word) or word end
  end
end

--- The process that made another.
function proc.parent(pid) return proc.stat(pid, 4) end

--- The text of a file, "" where there is none.
function proc.text(path)
  local f <close> = io.open(path, "rb")
  return f and f:read("a") or ""
end

--- Checks that fn, a function on one line that makes the call to be tested, raises a string
-- that blames this line and goes on with what matches a pattern.
function proc.assert_blames(pattern, fn)
  local ok, err = pcall(fn)
  if ok then error("nothing was raised", 2) end
  local info = debug.getinfo(fn, "S")
  local where = info.short_src .. ":" .. info.linedefined .. ": "
  if type(err) ~= "string" or err:sub(1, #where) ~= where then
    error("expected an error at " .. where .. " got " .. tostring(err), 2)
  end
  if not err:sub(#where + 1):find(pattern) then
    error(string.format("expected '%s', got: %s", pattern, err), 2)
  end
end

-- The first line of a program: it finds what this process finds.
local PRELUDE <const> = "package.path, package.cpath = %q, %q; "
  .. "local tine = require 'tine'; "
  .. "local function say(...) print(...) io.stdout:flush() end "

local function write_program(text)
  return helper.write_file(PRELUDE:format(package.path, package.cpath) .. text)
end

--- A command that runs a program, which has `tine` and `say`; for helper.run.
function proc.program(text, ...)
  return helper.program(write_program(text), ...)
end

--- Runs a program to its end; see helper.run.
function proc.run_program(text, ...)
  return helper.run(proc.program(text, ...))
end

--- Starts a program in the background.
-- @tparam string text as for proc.run_program
-- @tparam[opt=""] string redirections more of them, for the shell
-- @treturn table `pid`; `output()`: what it has printed, errors too; `wait_for(pattern)`: until
-- it has printed that, returns the captures; `kill([signal])`
function proc.start_program(text, redirections)
  local script, out, pidfile = write_program(text), helper.tmpname(), helper.tmpname()
  os.execute(string.format("%s >%s 2>&1 </dev/null %s & echo $! >%s", helper.program(script),
    out, redirections or "", pidfile))
  local program = { pid = tonumber(proc.text(pidfile)) }
  function program.output() return proc.text(out) end
  function program.wait_for(pattern)
    local captures
    proc.wait_for(function()
      captures = table.pack(program.output():match(pattern))
      return captures[1]
    end)
    return table.unpack(captures, 1, captures.n)
  end
  function program.kill(signal)
    os.execute(string.format("kill -%s %d", signal or "KILL", program.pid))
  end
  return program
end

--- A duration for `sleep` that nobody else has, so that `sleepers` finds it.
function proc.marker()
  local f <close> = assert(io.open("/dev/urandom", "rb"))
  return string.format("%d.%d", 1000 + string.unpack("I2", f:read(2)),
    string.unpack("I4", f:read(4)))
end

--- How many processes sleep for that duration.
function proc.sleepers(mark)
  local f <close> = assert(io.popen("pgrep -cxf 'sleep " .. mark:gsub("%.", "\\.") .. "'"))
  return f:read("n")
end

return proc
