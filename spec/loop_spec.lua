-- tine.loop: what it waits for and for how long, timers, descriptors, signals, errors in
-- callbacks, and the loop of a worker.
local helper = require "spec.helper"
local tine = require "tine"

local loop = tine.loop
local EPERM <const>, EINVAL <const> = 1, 22

-- What a call raises is about the line in this file where the function was made.
local function assert_blames(pattern, fn)
  local ok, err = pcall(fn)
  assert.is_false(ok)
  local line = debug.getinfo(fn, "S").linedefined
  assert.matches("loop_spec%.lua:" .. line .. ": ", err)
  assert.matches(pattern, err)
end

local function run_program(code, prefix, ...)
  local path = helper.write_file(code)
  return helper.run((prefix or "") .. helper.program(path, ...))
end

-- Whether the signal is among those of a line of /proc/self/status, such as SigCgt.
local function has_signal(set, signo)
  local f <close> = assert(io.open("/proc/self/status"))
  local mask = tonumber(f:read("a"):match(set .. ":%s*(%x+)"), 16)
  return mask >> (signo - 1) & 1 == 1
end

local function send_self(name)
  assert(os.execute(("kill -%s %d"):format(name, helper.pid())))
end

local opened = {}

local function pair()
  local a, b = assert(tine.socketpair())
  opened[#opened + 1] = a
  opened[#opened + 1] = b
  return a, b
end

after_each(function()
  for _, fd in ipairs(opened) do fd:close() end
  opened = {}
end)

-- A worker that reads from its socket until that ends; its host's end.
local function reader(options)
  local p, sock = tine.new(options), nil
  p:run(function(s)
    while s:read() do end
  end, function(s) sock = s end)
  helper.wait_until(10, function() return sock end)
  return p, sock
end

describe("loop.run #proc", function()
  it("ends when there is nothing to wait for", function()
    helper.no_leaks(function()
      assert.is_true(loop.run())
    end)
  end)

  it("does not wait for idle processes and templates", function()
    helper.no_leaks(function()
      local template = tine.new():eval("x = 1")
      local p = template:fork()
      assert.is_true(loop.run())
      assert.is_true(helper.alive(template:pid()))
      assert.is_true(helper.alive(p:pid()))
      p:close()
      template:close()
    end)
  end)

  it("waits for commands to be carried out", function()
    helper.no_leaks(function()
      local a, b = assert(tine.socketpair())
      local p = tine.new():send_fd(b):eval([[
        local began = os.clock()
        repeat until os.clock() - began > 0.03
        require("tine").run_args():write("done")
      ]])
      assert.is_true(loop.run())
      assert.are.equal("done", a:read())
      p:close()
    end)
  end)

  it("waits for a running worker, on_exit or not", function()
    helper.no_leaks(function()
      local function busy()
        local began = os.clock()
        repeat until os.clock() - began > 0.03
      end
      local told
      tine.new():on_exit(function() told = true end):run(busy, function() end)
      assert.is_true(loop.run())
      assert.is_true(told)

      local p = tine.new()
      p:run(busy, function() end)
      assert.is_true(loop.run())
      assert.is_false(helper.alive(p:pid()))
    end)
  end)

  it("does not wait for a worker that is detached", function()
    helper.no_leaks(function()
      local p, sock = reader { detach = true }
      assert.is_true(loop.run())
      assert.is_true(helper.alive(p:pid()))
      sock:close()
      helper.wait_until(5, function() return not helper.alive(p:pid()) end)
    end)
  end)

  it("collects dropped sockets, which workers wait for the end of", function()
    helper.no_leaks(function()
      local ended
      do
        local p = reader()
        p:on_exit(function() ended = true end)
      end
      collectgarbage("stop")
      finally(function() collectgarbage("restart") end)
      assert.is_true(loop.run())
      assert.is_true(ended)
    end)
  end)

  it("waits for timers", function()
    local fired
    loop.timer(0.02, function() fired = true end)
    assert.is_true(loop.run())
    assert.is_true(fired)
  end)

  it("waits for descriptors", function()
    helper.no_leaks(function()
      local f <close> = io.popen("echo x")
      local seen
      loop.io(f, "r", function(_, io)
        seen = f:read("l")
        io:close()
      end)
      assert.is_true(loop.run())
      assert.are.equal("x", seen)
    end)
  end)

  it("waits for signals", function()
    local got
    loop.signal("USR1", function(_, signal)
      got = true
      signal:close()
    end)
    send_self("USR1")
    assert.is_true(loop.run())
    assert.is_true(got)
  end)

  it("ends after the callback that stops it, and can go on later", function()
    local calls = 0
    local function call()
      calls = calls + 1
      loop.stop()
    end
    loop.timer(0, call)
    loop.timer(0, call)
    -- Both are due now.
    local _, deadline = nil, os.clock() + 0.002
    repeat until os.clock() > deadline
    assert.is_false(loop.run())
    assert.are.equal(1, calls)
    assert.is_false(loop.run())
    assert.are.equal(2, calls)
    assert.is_true(loop.run())
  end)

  it("is stopped although workers run and timers are due for ever", function()
    helper.no_leaks(function()
      local p, sock = reader()
      local every <close> = loop.timer(0, 0, function() end)
      loop.timer(0.02, function() loop.stop() end)
      assert.is_false(loop.run())
      assert.is_true(helper.alive(p:pid()))
      every:close()
      sock:close()
    end)
  end)

  it("is not stopped beforehand", function()
    local fired
    loop.stop()
    loop.timer(0, function() fired = true end)
    assert.is_true(loop.run())
    assert.is_true(fired)
  end)

  it("raises in a callback, and so does loop.poll", function()
    local errors = {}
    loop.timer(0, function()
      errors[1] = select(2, pcall(loop.run))
      assert_blames("the loop already runs", function() loop.run() end)
      assert_blames("the loop already runs", function() loop.poll() end)
      errors[2] = "both"
    end)
    assert.is_true(loop.run())
    assert.matches("already runs", errors[1])
    assert.are.equal("both", errors[2])
  end)
end)

describe("loop.poll #unit", function()
  -- How long a call takes, in wall time.
  local function seconds(fn, ...)
    local began = helper.now()
    fn(...)
    return helper.now() - began
  end

  it("does not wait by default", function()
    local timer <close> = loop.timer(1000, error)
    assert.is_true(seconds(loop.poll) < 2)
    assert.is_true(seconds(loop.poll, 0) < 2)
    timer:close()
  end)

  it("waits as long as asked, and no longer", function()
    local timer <close> = loop.timer(1000, error)
    for _ = 1, 2 do
      local longest, tries = 0, 0
      -- News of processes of earlier tests may end a wait.
      repeat
        longest = math.max(longest, seconds(loop.poll, 0.1))
        tries = tries + 1
      until longest >= 0.08 or tries == 20
      assert.is_true(longest >= 0.08 and longest < 2, longest)
      timer:close()
    end
  end)

  it("is back although something is always due", function()
    local timer <close> = loop.timer(0, 0, function() end)
    assert.is_true(seconds(loop.poll, 0.05) < 2)
    timer:close()
  end)

  it("is back when something has happened", function()
    local fired
    loop.timer(0.01, function() fired = true end)
    for _ = 1, 20 do
      assert.is_true(seconds(loop.poll, 1000) < 500)
      if fired then break end
    end
    assert.is_true(fired)
  end)

  it("is ended by Ctrl-C, which lua5.4 answers with a debug hook", function()
    if helper.sanitized then pending("the interpreter of sanitized runs just dies") end
    local text, code = run_program([[
local loop = require "tine".loop
local f <close> = assert(io.open("/proc/self/stat"))
local pid = f:read("n")
-- When it sleeps.
local script = [=[while ! grep -q "^State:.S" /proc/$1/status; do :; done; kill -INT $1]=]
local killer <close> = assert(io.popen("set -- " .. pid .. "; " .. script))
local ok, why = pcall(loop.poll, 1000)
print(ok, why:match("interrupted!"))
]])
    assert.are.same({ "false\tinterrupted!\n", 0 }, { text, code })
  end)

  it("says whether something is left to wait for", function()
    assert.is_false(loop.poll())
    local timer <close> = loop.timer(1000, error)
    assert.is_true(loop.poll())
    timer:close()
    assert.is_false(loop.poll())
  end)

  it("raises on what is no time, at the caller's line", function()
    for _, bad in ipairs { -1, 0 / 0, "soon", {} } do
      assert_blames("0 or more seconds", function() loop.poll(bad) end)
    end
  end)
end)

describe("loop.timer #unit", function()
  it("fires once, and gets itself", function()
    local calls, arguments = 0, nil
    local timer = loop.timer(0.001, function(...)
      calls = calls + 1
      arguments = table.pack(...)
    end)
    assert.is_true(loop.run())
    assert.is_true(loop.run())
    assert.are.equal(1, calls)
    assert.are.equal(1, arguments.n)
    assert.are.equal(timer, arguments[1])
  end)

  it("fires once if every is nil", function()
    local calls = 0
    loop.timer(0, nil, function() calls = calls + 1 end)
    assert.is_true(loop.run())
    assert.are.equal(1, calls)
  end)

  it("fires again and again until it is closed, also in its own callback", function()
    local calls = 0
    loop.timer(0, 0.001, function(timer)
      calls = calls + 1
      if calls == 3 then
        timer:close()
        timer:close()
      end
    end)
    assert.is_true(loop.run())
    assert.are.equal(3, calls)
  end)

  it("fires in the order of time", function()
    local order = {}
    for _, i in ipairs { 3, 1, 4, 2 } do
      loop.timer(i * 0.004, function() order[#order + 1] = i end)
    end
    loop.timer(0, function() order[#order + 1] = 0 end)
    assert.is_true(loop.run())
    assert.are.same({ 0, 1, 2, 3, 4 }, order)
  end)

  it("does not fire early", function()
    local began, at = helper.now(), nil
    loop.timer(0.05, function() at = helper.now() end)
    assert.is_true(loop.run())
    assert.is_true(at - began >= 0.04)
  end)

  it("does not fire once closed, from another timer too", function()
    local wrong
    local victim = loop.timer(0, function() wrong = true end)
    victim:close()
    -- Both are due in one turn; whichever is first closes the other.
    local both, fired = {}, 0
    for i = 1, 2 do
      both[i] = loop.timer(0, function()
        fired = fired + 1
        both[3 - i]:close()
      end)
    end
    assert.is_true(loop.run())
    assert.is_nil(wrong)
    assert.are.equal(1, fired)
  end)

  it("is closed at the end of its block", function()
    do
      local timer <close> = loop.timer(0, error)
      assert.is_userdata(timer)
    end
    assert.is_true(loop.run())
  end)

  it("may be started in a callback", function()
    local depth = 0
    local function deeper()
      depth = depth + 1
      if depth < 5 then loop.timer(0, deeper) end
    end
    loop.timer(0, deeper)
    assert.is_true(loop.run())
    assert.are.equal(5, depth)
  end)

  it("takes times that never come", function()
    for _, long in ipairs { math.huge, 1e300, math.maxinteger } do
      local timer <close> = loop.timer(long, error)
      local every <close> = loop.timer(long, long, error)
      assert.is_true(loop.poll())
      every:close()
      timer:close()
    end
    assert.is_true(loop.run())
  end)

  it("raises on bad arguments, at the caller's line", function()
    local function cb() end
    for _, bad in ipairs { -0.001, -math.huge, 0 / 0 } do
      assert_blames("0 or more seconds", function() loop.timer(bad, cb) end)
      assert_blames("0 or more seconds", function() loop.timer(1, bad, cb) end)
    end
    assert_blames("number expected", function() loop.timer("soon", cb) end)
    assert_blames("number expected", function() loop.timer(nil, cb) end)
    assert_blames("number expected", function() loop.timer(1, {}, cb) end)
    assert_blames("function expected", function() loop.timer(1) end)
    assert_blames("function expected", function() loop.timer(1, 2, 3) end)
    assert.is_true(loop.run())
  end)
end)

describe("loop.io #unit", function()
  it("tells of data to read, each time", function()
    local a, b = pair()
    local seen, modes = {}, {}
    loop.io(b, "r", function(mode, watcher)
      modes[#modes + 1] = mode
      seen[#seen + 1] = b:read()
      if #seen == 3 then watcher:close() else a:write(tostring(#seen)) end
    end)
    a:write("0")
    assert.is_true(loop.run())
    assert.are.same({ "0", "1", "2" }, seen)
    assert.are.same({ "r", "r", "r" }, modes)
  end)

  it("tells again of what was not read", function()
    local a, b = pair()
    local calls = 0
    a:write("x")
    loop.io(b, "r", function(_, watcher)
      calls = calls + 1
      if calls == 3 then watcher:close() end
    end)
    assert.is_true(loop.run())
    assert.are.equal(3, calls)
  end)

  it("tells of room to write", function()
    local a, b = pair()
    while a:write(("x"):rep(65536)) do end
    local mode
    loop.io(a, "w", function(what, watcher)
      mode = what
      watcher:close()
    end)
    loop.poll()
    assert.is_nil(mode)
    repeat until not b:read(1 << 20)
    assert.is_true(loop.run())
    assert.are.equal("w", mode)
  end)

  it("tells of both", function()
    local a, b = pair()
    local modes = {}
    loop.io(b, "rw", function(mode, watcher)
      modes[#modes + 1] = mode
      if #modes == 1 then a:write("x") else watcher:close() end
    end)
    assert.is_true(loop.run())
    assert.are.same({ "w", "rw" }, modes)
  end)

  it("tells of the end", function()
    local a, b = pair()
    a:close()
    local ended
    loop.io(b, "r", function(_, watcher)
      ended = select("#", b:read()) == 1
      watcher:close()
    end)
    assert.is_true(loop.run())
    assert.is_true(ended)
  end)

  it("serves two watchers of one descriptor", function()
    local a, b = pair()
    local called = {}
    a:write("x")
    for i = 1, 2 do
      loop.io(b, "r", function(_, watcher)
        called[i] = (called[i] or 0) + 1
        if called[i] == i then watcher:close() end
      end)
    end
    assert.is_true(loop.run())
    assert.are.same({ 1, 2 }, called)
  end)

  it("takes integers, files, and objects with fileno or getfd", function()
    local a, b = pair()
    local number = b:fileno()
    local called = 0
    local function cb(_, watcher)
      called = called + 1
      watcher:close()
    end
    a:write("x")
    loop.io(number, "r", cb)
    loop.io({ fileno = function() return number end }, "r", cb)
    loop.io({ getfd = function() return number end }, "r", cb)
    local f <close> = io.popen("echo x")
    loop.io(f, "r", cb)
    assert.is_true(loop.run())
    assert.are.equal(4, called)
  end)

  it("returns an err for what cannot be waited for", function()
    local f <close> = assert(io.open("/proc/self/stat"))
    local watcher, err = loop.io(f, "r", error)
    assert.is_nil(watcher)
    assert.are.equal("system", err.kind)
    assert.are.equal(EPERM, err.errno)
    assert.is_true(loop.run())
  end)

  it("raises on bad arguments, at the caller's line", function()
    local a, b = pair()
    local function cb() end
    b:close()
    for _, mode in ipairs { "", "x", "wr", "rwx", 1 } do
      assert_blames("loop.io: mode", function() loop.io(a, mode, cb) end)
    end
    assert_blames("loop.io: mode", function() loop.io(a, nil, cb) end)
    assert_blames("loop.io: a function expected, got nil", function() loop.io(a, "r") end)
    assert_blames("loop.io: .*closed", function() loop.io(b, "r", cb) end)
    assert_blames("loop.io: .*not open", function() loop.io(-1, "r", cb) end)
    assert_blames("loop.io: descriptor", function() loop.io("x", "r", cb) end)
    assert.is_true(loop.run())
  end)
end)

describe("loop.signal #unit", function()
  it("takes names, with SIG or without, and numbers", function()
    local got = {}
    for i, name in ipairs { "USR1", "SIGUSR1", 10 } do
      loop.signal(name, function(number, signal)
        got[i] = number
        signal:close()
      end)
    end
    send_self("USR1")
    assert.is_true(loop.run())
    assert.are.same({ 10, 10, 10 }, got)
  end)

  it("tells of each signal, in the loop", function()
    local calls = 0
    local signal <close> = loop.signal("USR2", function() calls = calls + 1 end)
    for i = 1, 3 do
      send_self("USR2")
      assert.are.equal(i - 1, calls)
      helper.wait_until(5, function() return calls == i end)
    end
    signal:close()
  end)

  it("restores what was before, when the last is closed", function()
    assert.is_false(has_signal("SigCgt", 10))
    local first <close> = loop.signal("USR1", error)
    local second <close> = loop.signal("USR1", error)
    assert.is_true(has_signal("SigCgt", 10))
    first:close()
    assert.is_true(has_signal("SigCgt", 10))
    second:close()
    assert.is_false(has_signal("SigCgt", 10))
    assert.is_false(has_signal("SigIgn", 10))
  end)

  it("leaves an ignored signal ignored, and the interpreter its own handler", function()
    local text = run_program([[
      local tine = require "tine"
      local function kill(name)
        local f = assert(io.open("/proc/self/stat"))
        -- os.execute ignores SIGINT meanwhile.
        io.popen("kill -" .. name .. " " .. f:read("n")):close()
        f:close()
      end
      local signal = tine.loop.signal("USR1", function(_, signal)
        print("got it")
        signal:close()
      end)
      kill("USR1")
      tine.loop.run()
      kill("USR1")
      print("ignored")
      -- lua5.4 answers SIGINT with an error; not every interpreter does.
      local f = assert(io.open("/proc/self/status"))
      local handled = tonumber(f:read("a"):match("SigCgt:%s*(%x+)"), 16) & 2 ~= 0
      f:close()
      tine.loop.signal("INT", error):close()
      local ok, err = not handled, "interrupted!"
      if handled then
        ok, err = pcall(function()
          kill("INT")
          for _ = 1, 1e6 do end
        end)
      end
      print(ok == not handled, err:match("interrupted!"))
    ]], "trap '' USR1; ")
    assert.are.equal("got it\nignored\ntrue\tinterrupted!\n", text)
  end)

  it("is refused where the signal cannot be caught, or is the program's", function()
    for _, name in ipairs { "CHLD", "KILL", "STOP" } do
      local signal, err = loop.signal(name, error)
      assert.is_nil(signal)
      assert.are.equal("system", err.kind)
      assert.are.equal(EINVAL, err.errno)
    end
    assert.is_true(loop.run())
  end)

  it("raises on what is no signal, at the caller's line", function()
    assert_blames("no signal is named 'NONE'", function() loop.signal("NONE", error) end)
    assert_blames("no such signal", function() loop.signal(-1, error) end)
    assert_blames("no such signal", function() loop.signal(1000, error) end)
    assert_blames("string expected", function() loop.signal(nil, error) end)
    assert_blames("function expected", function() loop.signal("USR1") end)
  end)

  it("does not touch the handling of SIGCHLD", function()
    helper.no_leaks(function()
      local before = has_signal("SigCgt", 17)
      local p <close> = tine.new():eval("x = 1")
      assert.is_true(loop.run())
      assert.are.equal(before, has_signal("SigCgt", 17))
      assert.is_false(has_signal("SigIgn", 17))
      assert.is_false(has_signal("SigBlk", 17))
      p:close()
    end)
  end)
end)

describe("an error in a callback #unit", function()
  local function raised_by(run)
    local ok, err = pcall(run)
    assert.is_false(ok)
    return err
  end

  it("ends loop.run with the very value", function()
    for _, value in ipairs { {}, 42, true, print, setmetatable({}, { __name = "odd" }) } do
      loop.timer(0, function() error(value) end)
      assert.is_true(rawequal(value, raised_by(loop.run)))
    end
    loop.timer(0, function() error(nil) end)
    assert.is_nil(raised_by(loop.run))
    assert.is_true(loop.run())
  end)

  it("has a traceback if it is a string", function()
    local function culprit() error("no good") end
    loop.timer(0, function()
      culprit()
      return nil
    end)
    local err = raised_by(loop.run)
    local line = debug.getinfo(culprit, "S").linedefined
    assert.matches("^%S*loop_spec%.lua:" .. line .. ": no good\nstack traceback:", err)
    assert.matches("culprit", err)
  end)

  it("ends loop.poll too", function()
    loop.timer(0, function() error({ "mine" }) end)
    local err = raised_by(function() helper.wait_until(5, function() end) end)
    assert.are.same({ "mine" }, err)
  end)

  it("ends the loop from watchers and signals", function()
    local a, b = pair()
    a:write("x")
    local watcher <close> = loop.io(b, "r", function() error({ "io" }) end)
    assert.are.same({ "io" }, raised_by(loop.run))
    watcher:close()
    local signal <close> = loop.signal("USR1", function() error({ "signal" }) end)
    send_self("USR1")
    assert.are.same({ "signal" }, raised_by(loop.run))
    signal:close()
    assert.is_true(loop.run())
  end)

  it("ends the loop from callbacks of processes #proc", function()
    helper.no_leaks(function()
      local p = tine.new():await_ready(function() error({ "ready" }) end)
      assert.are.same({ "ready" }, raised_by(loop.run))
      p:on_exit(function() error({ "exit" }) end)
      p:run(function() end, function() error({ "run" }) end)
      assert.are.same({ "run" }, raised_by(loop.run))
      assert.are.same({ "exit" }, raised_by(loop.run))
      assert.is_true(loop.run())
    end)
  end)

  it("does not keep others from being called", function()
    local fired = 0
    for _ = 1, 5 do
      loop.timer(0, function()
        fired = fired + 1
        error({ fired })
      end)
    end
    for i = 1, 5 do assert.are.same({ i }, raised_by(loop.run)) end
    assert.is_true(loop.run())
    assert.are.equal(5, fired)
  end)

  it("leaves a repeating timer alive", function()
    local calls = 0
    local timer <close> = loop.timer(0, 0.001, function(timer)
      calls = calls + 1
      if calls == 1 then error({}) end
      timer:close()
    end)
    raised_by(loop.run)
    assert.is_true(loop.run())
    assert.are.equal(2, calls)
    timer:close()
  end)
end)

describe("handles #unit", function()
  local function collect()
    collectgarbage()
    collectgarbage()
  end

  it("of timers live while they are active, and are collected then", function()
    local weak, fired = setmetatable({}, { __mode = "k" }), 0
    weak[loop.timer(0.005, function() fired = fired + 1 end)] = true
    weak[loop.timer(0, 0.001, function(timer)
      fired = fired + 1
      timer:close()
    end)] = true
    collect()
    assert.is_truthy(next(weak))
    assert.is_true(loop.run())
    assert.are.equal(2, fired)
    collect()
    assert.is_nil(next(weak))
  end)

  it("of timers that refer to themselves are collected once closed", function()
    local weak = setmetatable({}, { __mode = "k" })
    do
      local timer
      timer = loop.timer(1000, function() return timer end)
      weak[timer] = true
      timer:close()
    end
    collect()
    assert.is_nil(next(weak))
  end)

  it("of watchers keep their object, and both are collected then", function()
    local weak = setmetatable({}, { __mode = "k" })
    local seen
    local function start()
      local a, b = assert(tine.socketpair())
      weak[b] = true
      weak[loop.io(b, "r", function(_, watcher)
        seen = b:read()
        watcher:close()
      end)] = true
      a:write("x")
      return a
    end
    local a <close> = start()
    collect()
    assert.is_true(loop.run())
    assert.are.equal("x", seen)
    collect()
    assert.is_nil(next(weak))
    a:close()
  end)

  it("keep no descriptor", function()
    helper.no_leaks(function()
      local _, b = assert(tine.socketpair())
      for _ = 1, 100 do
        loop.io(b, "r", error):close()
        loop.timer(1, error):close()
        loop.signal("USR1", error):close()
      end
    end)
  end)
end)

describe("the loop of a worker #proc", function()
  -- Runs a function in a new worker, and returns the lines that it writes to its socket.
  local function lines_of(entry)
    local lines = {}
    helper.no_leaks(function()
      local err
      tine.new():on_error(function(e) err = e end):run(entry, function(sock)
        loop.io(sock, "r", function(_, watcher)
          local data, problem = sock:read()
          if data then
            lines[#lines + 1] = data
          elseif not problem then
            watcher:close()
            sock:close()
          end
        end)
      end)
      assert.is_true(loop.run())
      assert.is_nil(err, tostring(err) .. "\n" .. tostring(err and err.traceback))
    end)
    return table.concat(lines)
  end

  it("has timers, signals, and coroutines", function()
    assert.are.equal("tick tick usr1 task end", lines_of(function(sock)
      local worker = require "tine"
      local ticks = 0
      worker.loop.timer(0, 0.001, function(timer)
        ticks = ticks + 1
        sock:write("tick ")
        if ticks == 2 then timer:close() end
      end)
      assert(worker.loop.run())
      worker.loop.signal("USR1", function(_, signal)
        sock:write("usr1 ")
        signal:close()
      end)
      local f <close> = io.open("/proc/self/stat")
      os.execute("kill -USR1 " .. f:read("n"))
      assert(worker.loop.run())
      worker.main(function()
        worker.loop.sleep(0.001)
        sock:write("task ")
      end)
      sock:write("end")
    end))
  end)

  it("has templates of its own", function()
    assert.are.equal("true true hello from below 3", lines_of(function(sock)
      local worker = require "tine"
      local function parent_of(pid)
        local f <close> = io.open("/proc/" .. pid .. "/stat")
        return tonumber(f:read("a"):match("%) %a (%d+)"))
      end
      local own <close> = io.open("/proc/self/stat")
      local self = own:read("n")
      worker.main(function()
        local template = worker.new()
        local pid = template:await_ready()
        -- The default template is this process's child, the new process that one's.
        sock:write(tostring(parent_of(parent_of(pid)) == self) .. " ")
        sock:write(tostring(worker.is_worker()) .. " ")
        local p = template:fork():send_arg("hello")
        local other = p:run(function(s, text)
          s:write(text .. " from below")
          os.exit(3)
        end)
        sock:write(other:read() .. " ")
        local _, info = p:on_exit()
        sock:write(info.code)
        template:close()
      end)
    end))
  end)

  it("has nothing of its template's host", function()
    helper.no_leaks(function()
      -- The template itself is a host; what is forked from it starts anew.
      local template <close> = tine.new():eval([[
        worker = require "tine"
        worker.main(function() inner = worker.new():eval("x = 1"):await_ready() end)
        handle = worker.new()
        timer = worker.loop.timer(0, function() error("not mine") end)
      ]])
      local p, text = template:fork(), {}
      p:run(function(sock)
        local worker = require "tine"
        sock:write(tostring(worker.loop.run()) .. " ")
        local ok, err = pcall(handle.eval, handle, "x = 1") -- luacheck: ignore 113
        sock:write(tostring(ok) .. " " .. err .. " ")
        assert(worker.reset())
        worker.main(function()
          local sub = worker.new()
          local other = sub:run(function(s) s:write("alive") end)
          sock:write(other:read())
          other:close()
          sub:on_exit()
        end)
      end, function(sock)
        loop.io(sock, "r", function(_, watcher)
          local data, problem = sock:read()
          if data then
            text[#text + 1] = data
          elseif not problem then
            watcher:close()
            sock:close()
          end
        end)
      end)
      assert.is_true(loop.run())
      text = table.concat(text)
      assert.matches("^true false .*handle belongs to the process that this one was forked "
        .. "from alive$", text)
      template:close()
    end)
  end)

  it("gets another default template after tine.reset", function()
    assert.are.equal("same other gone", lines_of(function(sock)
      local worker = require "tine"
      local function parent_of(p)
        local f <close> = io.open("/proc/" .. p:await_ready() .. "/stat")
        return tonumber(f:read("a"):match("%) %a (%d+)"))
      end
      worker.main(function()
        local a, b = worker.new(), worker.new()
        local first = parent_of(a)
        sock:write(parent_of(b) == first and "same " or "changed ")
        assert(worker.reset())
        local c = worker.new()
        sock:write(parent_of(c) ~= first and "other " or "kept ")
        a:close()
        b:close()
        -- The old template has lost its last worker.
        for _ = 1, 1000 do
          local f = io.open("/proc/" .. first .. "/stat")
          local state = f and (f:read("a") or ""):match("%) (%a)")
          if f then f:close() end
          if not state or state == "Z" then
            sock:write("gone")
            break
          end
          worker.loop.sleep(0.005)
        end
        c:close()
      end)
    end))
  end)
end)
