-- Runs another program without forking this one: a small template forks, the new worker has its
-- outputs on descriptors that the host chose, and execs. However big the host is, starting a
-- program costs the same, and the host keeps its memory to itself.
--
--   lua5.4 examples/run_program.lua [PROGRAM ARGUMENT...]
--   lua5.4 examples/run_program.lua --bench MB [SECONDS]
--
-- The second measures programs a second from a host of so many MB.
local tine = require "tine"

-- The entry function of the worker that becomes the program.
local function exec(_, ...)
  local _, err = require("tine").exec(...) -- it returns only if it fails
  error(err.message, 0)
end

-- Starts a program with its standard output and standard error going to descriptors. Returns
-- its handle: on_exit tells how it ended, kill sends it a signal.
local function start(template, stdout, stderr, ...)
  local program = template:fork { stdout = stdout, stderr = stderr }:send_arg(...)
  program:run(exec, function(sock)
    if sock then sock:close() end -- nothing to say to it
  end)
  return program
end

-- Everything to be read from a descriptor.
local function read_all(fd)
  local parts = {}
  local part = fd:read()
  while part do
    parts[#parts + 1] = part
    part = fd:read()
  end
  return table.concat(parts)
end

local function show(...)
  local template = tine.new { name = "launcher" }
  local log = assert(io.tmpfile()) -- an open file for one output, a socket for the other
  local ours, theirs = assert(tine.socketpair())
  local program = start(template, log, theirs, ...)
  theirs:close() -- the program has its own
  local failure
  program:on_error(function(err) failure = err.message end)

  local stderr = read_all(ours)
  local err, info = program:on_exit()
  template:close()
  ours:close()
  log:seek("set")
  local stdout = log:read("a")
  log:close()

  print(failure or err and err.message or ("process %d has ended well"):format(info.pid))
  io.write("its stdout, by way of a file: ", #stdout, " bytes\n", stdout)
  io.write("its stderr, by way of a socket: ", #stderr, " bytes\n", stderr)
  return failure and 127 or info.code or 128 + info.signal
end

----------------------------------------------------------------------------- measuring

local function now()
  local f <close> = assert(io.open("/proc/uptime"))
  return f:read("n")
end

-- How often a second `step` can be done one after another, tried for so many seconds.
local function rate(step, seconds)
  local began, n = now(), 0
  while now() - began < seconds do
    step()
    n = n + 1
  end
  return n / (now() - began)
end

local function bench(mb, seconds)
  local template = tine.new { name = "launcher" }
  local ballast = {}
  for i = 1, mb do ballast[i] = string.rep(string.char(i % 256), 2 ^ 20) end
  print(("/bin/true, started and waited for, from a host with %d MB of strings:"):format(#ballast))

  local function report(what, step)
    io.write(("  %-44s"):format(what)):flush()
    local result = rate(step, seconds)
    print(("%7.0f programs/s"):format(result))
    return result
  end
  local ours = report("fork of the template, exec", function()
    assert(not start(template, nil, nil, "/bin/true"):on_exit())
  end)
  template:close()
  local fork = report("fork of the host, exec (tine.here)", function()
    assert(not start(assert(tine.here()), nil, nil, "/bin/true"):on_exit())
  end)
  local popen = report("io.popen (a shell, in glibc without a fork)", function()
    assert(assert(io.popen("exec /bin/true")):close())
  end)
  print(("the template is %.1f times as fast as a fork, %.1f times as fast as io.popen")
    :format(ours / fork, ours / popen))
  return 0
end

local code = tine.main(function(...)
  if ... == "--bench" then
    local _, mb, seconds = ...
    mb, seconds = math.tointeger(mb), tonumber(seconds or 2)
    if not mb or mb < 0 or not seconds or seconds <= 0 then
      io.stderr:write("usage: run_program.lua --bench MB [SECONDS]\n")
      return 2
    end
    return bench(mb, seconds)
  elseif ... then
    return show(...)
  end
  return show("sh", "-c", "echo to stdout; echo to stderr >&2")
end, ...)
if code ~= 0 then os.exit(code) end
