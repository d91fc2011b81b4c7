-- Hosts as they are found: with descriptors closed or too many of them, with signals ignored,
-- or coming all the time. Hosts with threads are in spec/core/process/test_threads.c.
local helper = require "spec.helper"
local program = require "spec.host_program"

-- In a worker: what its descriptors 0 to 2 are.
local stdio <const> = [[
local function stdio(p)
  return answer(p, function(s)
    local command = "for n in 0 1 2; do readlink /proc/$PPID/fd/$n || echo closed; done"
    local list <close> = io.popen(command)
    s:write(list:read("a"))
  end)
end

local function expect_stdio(p, ...)
  local found, expected = stdio(p), table.concat({ ... }, "\n") .. "\n"
  if found ~= expected then error("found\n" .. found .. "instead of\n" .. expected, 2) end
end
]]

describe("a host with closed descriptors #proc", function()
  local source <const> = stdio .. [[
local log = ...
local own, closed = {}, {}
for n = 0, 2 do
  local f <close> = io.open("/proc/self/fdinfo/" .. n)
  closed[n] = not f
end
for n = 0, 2 do
  local list <close> = io.popen("readlink /proc/$PPID/fd/" .. n)
  own[n] = closed[n] and "/dev/null" or list:read("l")
end

local function check(new, parent_stdin)
  works(new())
  expect_stdio(new(), "/dev/null", own[1], own[2])
  expect_stdio(new { stdin = "inherit" }, parent_stdin, own[1], own[2])
  expect_stdio(new { stdin = "null", stdout = "null", stderr = "null" }, "/dev/null",
    "/dev/null", "/dev/null")
  -- In the host they may have numbers from 0 to 2.
  local first, second, third = io.open("/proc/self/stat"), io.open(log, "w"), io.open(log, "a")
  local stat = "/proc/" .. first:read("n") .. "/stat"
  expect_stdio(new { stdin = first, stdout = second, stderr = third }, stat, log, log)
  expect_stdio(new { stdin = first, stdout = third, stderr = "null" }, stat, log, "/dev/null")
  first:close()
  second:close()
  third:close()
  local lines = {}
  local function line(text) lines[#lines + 1] = text end
  local p = new { stdout = line, stderr = line }
  answer(p, function() io.stderr:write("to stderr\n") print("to stdout") end)
  table.sort(lines)
  assert(table.concat(lines, ",") == "to stderr,to stdout", table.concat(lines, ","))
end

check(tine.new, "/dev/null")
check(tine.new_exec, own[0])
local base = tine.new()
check(function(opts) return base:fork(opts) end, "/dev/null")
local near, far = assert(tine.socketpair())
local text = answer(tine.new():send_fd(far), function(s, fd)
  fd:write("over a socket")
  s:write("x")
end)
wait("data", function() return near:read() == "over a socket" end)
assert(text == "x")
near:close()
far:close()
local here = assert(tine.here())
check(function(opts) return here:fork(opts) end, "/dev/null")
here:close()
assert(tine.early())
check(tine.new, "/dev/null")
check(tine.new_exec, "/dev/null")
for n = 0, 2 do
  local f <close> = io.open("/proc/self/fdinfo/" .. n)
  assert(closed[n] == not f, n .. " has been taken")
end
]]

  for _, redirect in ipairs {
    "", "<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-",
  } do
    it("gives its processes what they ask for: " .. (redirect == "" and "none" or redirect),
      function()
        local path = helper.tmpname()
        -- What fails is said to a descriptor that is still open.
        program.check(([[
local ok, err = xpcall(function(...) %s end, debug.traceback, %q)
if not ok then
  io.open("/proc/self/fd/9", "w"):write(err, "\n"):close()
  os.exit(1)
end
]]):format(source, path), { setup = "exec 9>&1", redirect = redirect })
      end)
  end

  it("has templates that close theirs", function()
    program.check(stdio .. [[
for _, close in ipairs { "0", "1", "0, 1, 2" } do
  local source = tine.new():eval("for _, n in ipairs { " .. close ..
    " } do require('tine').fd(n):close() end")
  works(source:fork())
  expect_stdio(source:fork { stdin = "null", stdout = "null", stderr = "null" }, "/dev/null",
    "/dev/null", "/dev/null")
  local f <close> = io.open("/dev/zero")
  for n = 0, 2 do
    local opts, expected = { stdin = f }, "/dev/zero"
    if n == 1 then opts = { stdin = "null", stdout = f } end
    if n == 2 then opts, expected = { stdin = "null", stdout = f, stderr = f }, "/dev/zero" end
    local p = source:fork(opts):send_fd(f, f)
    local child = p:fork()
    for _, worker in ipairs { child, p } do
      local found = answer(worker:send_arg(tostring(n)), function(s, a, b, number)
        a:close()
        b:close()
        local list <close> = io.popen("readlink /proc/$PPID/fd/" .. number)
        s:write(list:read("a"))
      end)
      assert(found == expected .. "\n", close .. n .. found)
    end
  end
  local lines = {}
  local p = source:fork { stdout = function(line) lines[#lines + 1] = line end }
  answer(p, function() os.execute("echo from a program") end)
  assert(lines[1] == "from a program" and #lines == 1)
end
]])
  end)
end)

describe("a host with hundreds of inheritable descriptors #proc", function()
  it("hands on none of them", function()
    program.check([[
local function count(p)
  -- Not with io.popen, which has a descriptor more for a moment.
  return tonumber(answer(p, function(s)
    local path = os.tmpname()
    os.execute("ls /proc/$PPID/fd >" .. path)
    local n = 0
    for _ in io.lines(path) do n = n + 1 end
    os.remove(path)
    s:write(tostring(n))
  end))
end
local f <close> = io.popen("ls /proc/$PPID/fd")
local _, own = f:read("a"):gsub("\n", "")
assert(own > 300, own)
-- 0, 1, 2, its socket, and the report channel.
local n = count(tine.new())
assert(n == 5, n .. " in new")
assert(count(tine.new_exec()) == 5, "new_exec")
assert(count(tine.new():fork()) == 5, "fork")
local here = assert(tine.here())
assert(count(here:fork()) == 5, "here")
here:close()
assert(tine.early())
assert(count(tine.new()) == 5, "early")
]], { setup = "for n in {10..320}; do eval \"exec $n</dev/null\"; done" })
  end)
end)

describe("a host that ignores SIGCHLD #proc", function()
  it("is told how its processes end, and goes on ignoring it", function()
    program.check([[
local function ignored()
  local f <close> = io.open("/proc/self/status")
  return tonumber(f:read("a"):match("SigIgn:%s*(%x+)"), 16) & 1 << 16 ~= 0
end
assert(ignored())
local f = io.open("/proc/sys/kernel/osrelease")
local major, minor = f:read("a"):match("(%d+)%.(%d+)")
f:close()
-- Since then the kernel can be asked for the status of what nobody waited for.
local exact = tonumber(major) * 1000 + tonumber(minor) >= 6015

local function check_end(p, known)
  local seen = watch(p)
  p:run(function() os.exit(7) end, function(fd) if fd then fd:close() end end)
  ended(seen)
  if known then assert(seen.exit.kind == "exit" and seen.info.code == 7, seen.exit) end
end
local function check_kill(p, known)
  local seen = watch(p)
  p:await_ready(function() p:kill("KILL") end)
  ended(seen)
  if known then assert(seen.exit.kind == "crash" and seen.info.signal == 9, seen.exit) end
end

works(tine.new())
works(tine.new_exec())
check_end(tine.new(), true)
check_kill(tine.new(), true)
check_end(tine.new_exec(), exact)
check_kill(tine.new_exec(), exact)
local here = assert(tine.here())
check_end(here:fork(), true)
check_kill(here, exact)
assert(tine.early())
check_end(tine.new(), true)
works(tine.new_exec())
-- In the processes it is not ignored.
local status = answer(tine.new(), function(s)
  local _, how, code = os.execute("exit 5")
  s:write(how .. code)
end)
assert(status == "exit5", status)
assert(ignored())
]], { setup = "trap '' CHLD" })
  end)
end)

describe("signals that come all the time #proc", function()
  local bomber <const> = [[
-- Runs a shell command over and over, until the function that it returns is called. The kernel
-- begins a fork anew when a signal comes: there have to be pauses long enough for one.
local function bomb(command)
  local loop_text = ("echo $$; while kill -0 $PPID; do for i in 1 2 3 4 5 6 7 8 9 10; do %s; done; "
    .. "sleep 0.02; done 2>/dev/null"):format(command)
  local shell = io.popen(loop_text)
  local pid = shell:read("n")
  return function()
    os.execute("kill -KILL " .. pid)
    shell:close()
  end
end
]]

  it("do no harm to a host", function()
    program.check(bomber .. [[
local n = 0
local signal = assert(loop.signal("USR1", function() n = n + 1 end))
local stop = bomb("kill -USR1 $PPID")
wait("a signal", function() return n > 0 end)
local rounds = 0
repeat
  works(tine.new())
  rounds = rounds + 1
  if rounds % 10 == 0 then works(tine.new_exec()) end
until rounds > 30 and n > 100
local lines = 0
answer(tine.new { stdout = function() lines = lines + 1 end }, function()
  for i = 1, 1000 do print(i) end
end)
assert(lines == 1000, lines)
local size = answer(tine.new():send_arg(("x"):rep(5 << 20)), function(s, a) s:write(a) end)
assert(#size == 5 << 20)
local here = assert(tine.here())
works(here:fork())
here:close()
stop()
loop.poll(0)
signal:close()
]])
  end)

  it("do no harm to a template and a worker", function()
    program.check(bomber .. [[
local source, template, worker = tine.new_exec(), nil, nil
source:await_ready(function(pid) template = pid end)
local p, sock = source:fork(), nil
local of_source, of_worker = watch(source), watch(p)
p:await_ready(function(pid) worker = pid end)
p:run(function(s)
  for line in function() return s:read_line() end do
    local _, _, code = os.execute("exit 3") -- waits for a child
    local list = io.popen("echo " .. line)
    s:write(list:read("a"))
    assert(list:close() and code == 3)
  end
end, function(fd, err) sock = fd or error(err) end)
wait("processes", function() return template and worker and sock end)
-- 63 is what tells of the end of the thread that made the template.
local both = template .. " " .. worker
local stop = bomb(("kill -63 %d; kill -%s %s; kill -STOP %s; kill -CONT %s"):format(template,
  "CHLD", both, both, both))
for i = 1, 20 do
  works(source:eval("n = (n or 0) + 1"):fork())
  sock:write(i .. "\n")
  local line
  wait("a line", function()
    line = line or sock:read_line()
    return line
  end)
  assert(line == tostring(i))
end
local big = ("x"):rep(5 << 20)
assert(answer(source:send_arg(big):fork(), function(s, a) s:write(a) end) == big)
stop()
os.execute("kill -CONT " .. template .. " " .. worker)
sock:close()
ended(of_worker)
assert(not of_worker.exit and #of_worker.errors == 0)
assert(answer(source:fork(), function(s) s:write(tostring(n)) end) == "20")
source:close()
ended(of_source)
assert(not of_source.exit and #of_source.errors == 0)
]])
  end)
end)

describe("a host that makes many workers #proc", function()
  it("keeps nothing of 20 000 that have ended #slow", function()
    if helper.sanitized then pending("sanitizers keep freed memory") end
    local output, code = helper.run(helper.program(helper.root .. "/spec/soak.lua", "20000"), 50)
    assert.are.equal(0, code, output)
  end)
end)
