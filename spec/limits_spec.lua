-- What happens when the system is short of something: descriptors, processes, memory, room in
-- a socket. Whatever fails has an err that says so; the host goes on.
local tine = require "tine"
local helper = require "spec.helper"
local program = require "spec.host_program"

local loop, wait_until = tine.loop, helper.wait_until

local EMFILE, ENOMEM = 24, 12

local function watch(p)
  local seen = { errors = {}, exits = 0 }
  p:on_error(function(err) table.insert(seen.errors, err) end)
  p:on_exit(function(err, info)
    seen.exits = seen.exits + 1
    seen.exit, seen.info = err, info
  end)
  return seen
end

local function await_end(...)
  for i, seen in ipairs { ... } do
    wait_until(20, function()
      return seen.exits > 0, "process " .. i .. " has not ended"
    end)
  end
end

local function await_ready(p)
  local pid
  p:await_ready(function(id, err) pid = id or error(err) end)
  return wait_until(10, function() return pid end)
end

-- Tells p to run fn, and returns all that it writes to its socket.
local function answer(p, fn)
  local seen, sock, text, eof = watch(p), nil, {}, false
  p:run(fn, function(fd, err) sock = fd or error(err) end)
  wait_until(20, function()
    while sock and not eof do
      local data, err = sock:read()
      if err then break end
      eof = data == nil
      text[#text + 1] = data
    end
    return eof and seen.exits > 0
  end)
  sock:close()
  assert.are.same({}, seen.errors)
  assert.is_nil(seen.exit)
  return table.concat(text)
end

local function assert_works(p)
  p:send_arg("it ", "works")
  assert.are.equal("it works", answer(p, function(s, a, b) s:write(a .. b) end))
end

local function set_limit(pid, what, value)
  assert(os.execute(("prlimit --pid %d --%s=%s:"):format(pid, what, value)))
end

-- `it`, of which nothing may be left.
local function case(name, fn)
  it(name, function() helper.no_leaks(fn) end)
end

describe("without descriptors #proc", function()
  it("a host gets errors, and works when there are some again", function()
    program.check([[
local held = {}
local function fill()
  while true do
    local f = io.open("/dev/null")
    if not f then return end
    held[#held + 1] = f
  end
end
local function free(n)
  for _ = 1, n or #held do table.remove(held):close() end
end

-- Not even a host can be made.
fill()
local p, err = tine.new()
assert(not p and err.kind == "system" and err.errno == 24, err)
free()
works(tine.new())

local failed, fine = 0, 0
for spare = 0, 12 do
  for _, new in ipairs { tine.new, tine.new_exec } do
    for i = 1, 3 do
      fill()
      free(spare)
      p = assert(new(i == 1 and {} or i == 2 and { stdout = function() end } or
        { stdin = io.stdin, stdout = io.stdout, stderr = io.stderr }))
      local seen = watch(p)
      p:eval("x = 1"):send_arg("a")
      local child = p:fork()
      local of_child = watch(child)
      p:close()
      child:close()
      ended(seen, of_child)
      if seen.exit then
        failed = failed + 1
        expect(seen, "system", 24, "EMFILE")
        expect(of_child, "system", 24, "EMFILE")
      else
        fine = fine + 1
        if of_child.exit then expect(of_child, "system", 24, "EMFILE") end
      end
      free()
    end
  end
end
assert(failed > 10 and fine > 10, failed .. " failed")
works(tine.new())
works(tine.new_exec())
]], { setup = "ulimit -n 40" })
  end)

  it("a host has processes without a pidfd, and can kill them later", function()
    program.check([[
works(tine.new())
local stat = io.open("/proc/self/stat")
local own = stat:read("n")
stat:close()
local function limit(n)
  assert(os.execute("prlimit --pid " .. own .. " --nofile=" .. n .. ":"))
end
local ready = false
local p = tine.new():await_ready(function(pid, err) ready = pid or error(err) end)
local seen = watch(p)
local f = io.open("/dev/null")
local next_fd = require("tine.core").fileno(f)
f:close()
limit(next_fd - 5) -- below the end of a socket that is closed when it has been sent
wait("a process", function() return ready end)
local ok, err = p:kill("TERM")
assert(not ok and err.errno == 24, err)
local other = tine.new():eval("x = 1")
local of_other = watch(other)
assert(other:send_fd(0):eval("x = 2") == other) -- it is the handle's own error
local here, no = tine.here()
assert(not here and no.errno == 24)
limit(100)
ended(of_other)
assert(of_other.errors[1] or of_other.exit)
assert(p:kill("TERM"))
ended(seen)
assert(seen.info.signal == 15)
works(tine.new())
]], { setup = "ulimit -n 100" })
  end)

  it("the cause is told at the handle, and by what was to be made of it", function()
    program.check([[
works(tine.new())
local ready = tine.new()
local pid
ready:await_ready(function(id) pid = id end)
wait("a process", function() return pid end)
local held = {}
local function fill()
  repeat
    held[#held + 1] = io.open("/dev/null")
    local f = io.open("/dev/null")
    held[#held + 1] = f
  until not f
end
fill()

local function is_cause(err, text)
  assert(err and err.kind == "system" and err.errno == 24, err and err.message)
  assert(err.message:find(text), err.message)
end

for _, what in ipairs { "pool", "rpc" } do
  local p = tine.new()
  local seen = watch(p)
  local made, err = p[what](p, "print")
  if made then made:close() else is_cause(err, "EMFILE") end
  assert(made or err.kind == "system")
  ended(seen)
  is_cause(seen.exit, "command socket: .*EMFILE")
end

-- What is chained goes on, and the first cause comes where errors come, in its turn.
local seen, sock, err = watch(ready), nil, nil
assert(ready:eval("before = true"):send_fd(0):eval("error('after')"):send_arg("x") == ready)
ready:run("print", function(...) sock, err = ... end)
ended(seen)
for _, f in ipairs(held) do f:close() end
assert(#seen.errors == 1, #seen.errors)
is_cause(seen.errors[1], "cannot hand over a descriptor: .*EMFILE")
assert(seen.errors[1].pid == pid and seen.info.code == 1)
if sock then sock:close() else assert(err) end
works(tine.new())
]], { setup = "ulimit -n 40" })
  end)

  it("a worker whose own channel has no room in the host is told why", function()
    program.check([[
local held, ready, sock = {}, {}, {}
for i, new in ipairs { tine.new, tine.new_exec } do
  ready[i] = new()
  ready[i]:await_ready(function(_, err) ready[-i] = not err end)
end
wait("two processes", function() return ready[-1] and ready[-2] end)
for _, p in ipairs(ready) do
  local seen = watch(p)
  repeat
    local f = io.open("/dev/null")
    held[#held + 1] = f
  until not f
  p:run(function(s) s:read() end, function(s) sock[#sock + 1] = s end)
  ended(seen)
  local err = seen.errors[1]
  assert(#seen.errors == 1 and err.kind == "system" and err.errno == 24, err)
  assert(err.message:find("no descriptor free for the worker's report channel"), err.message)
  assert(err.pid == seen.info.pid)
end
for _, f in ipairs(held) do f:close() end
works(tine.new())
]], { setup = "ulimit -n 40" })
  end)

  case("a template cannot fork until it has some again", function()
    local source = tine.new()
    local seen = watch(source)
    set_limit(await_ready(source), "nofile", 20)
    source:eval(function()
      held = {} -- luacheck: ignore 111
      repeat
        local f = io.open("/dev/null")
        held[#held + 1] = f -- luacheck: ignore 112 113
      until not f
    end)
    local plain, redirected = source:fork(), source:fork { stdout = function() end }
    local of_plain, of_redirected = watch(plain), watch(redirected)
    await_end(of_plain, of_redirected)
    for _, of in ipairs { of_plain, of_redirected } do
      assert.are.equal("system", of.exit.kind)
      assert.are.equal(EMFILE, of.exit.errno)
      assert.matches("the template cannot take the new process's descriptors", of.exit.message)
    end
    source:eval("for _, f in ipairs(held) do f:close() end")
    assert_works(source:fork())
    source:close()
    await_end(seen)
    assert.is_nil(seen.exit)
    assert.are.same({}, seen.errors)
  end)

  case("the default template cannot fork until it has some again", function()
    assert_works(tine.new())
    local template
    for _, pid in ipairs(helper.children()) do
      if helper.title(pid) == "tine: template" then template = pid end
    end
    set_limit(template, "nofile", 4)
    local p = tine.new():eval("x = 1")
    local seen = watch(p)
    await_end(seen)
    assert.are.equal("system", seen.exit.kind)
    assert.are.equal(EMFILE, seen.exit.errno)
    set_limit(template, "nofile", 100)
    assert_works(tine.new())
    tine.reset()
  end)

  case("a process that is sent too many fails, and nothing else", function()
    local source = tine.new()
    local p = source:fork()
    local seen = watch(p)
    set_limit(await_ready(p), "nofile", 20)
    local near, far = assert(tine.socketpair())
    local list = {}
    for i = 1, 30 do list[i] = far end
    p:send_fd(table.unpack(list)):run("print", function(fd) if fd then fd:close() end end)
    far:close()
    await_end(seen)
    assert.are.equal(1, #seen.errors)
    assert.are.equal("system", seen.errors[1].kind)
    assert.are.equal(EMFILE, seen.errors[1].errno)
    assert.matches("no descriptor free for one that was sent", seen.errors[1].message)
    assert.are.equal(1, seen.info.code)
    wait_until(5, function()
      local data, err = near:read()
      return not data and not err, "somebody has a descriptor"
    end)
    near:close()
    assert_works(source:fork())
  end)

  case("a worker is told when it is sent one over its socket", function()
    local p = tine.new()
    set_limit(await_ready(p), "nofile", 20)
    local sock, text
    local seen = watch(p)
    p:run(function(s)
      local held = {}
      repeat
        local f = io.open("/dev/null")
        held[#held + 1] = f
      until not f
      local fd, err = s:recv_fd()
      for _, f in ipairs(held) do f:close() end
      s:write(tostring(fd) .. " " .. err.kind .. " " .. err.errno .. "\n")
    end, function(fd, err) sock = fd or error(err) end)
    wait_until(10, function() return sock end)
    sock:send_fd(0)
    wait_until(10, function()
      text = text or sock:read_line()
      return text
    end)
    assert.are.equal("nil system " .. EMFILE, text)
    sock:close()
    await_end(seen)
    assert.is_nil(seen.exit)
  end)

  it("too many in flight are sent when there is room again", function()
    local as_user, why = program.other_user()
    if not as_user then pending(why) end
    -- The kernel counts descriptors in flight against RLIMIT_NOFILE of who sends, unless that
    -- is root; here 100 are sent to a process that does not receive them yet.
    program.check([[
local near, far = assert(tine.socketpair())
local p, q = tine.new(), tine.new()
local ready
q:await_ready(function() ready = true end)
p:send_fd(far):eval(function()
  require("tine").run_args():read()
end)
far:close()
wait("a process", function() return ready end)
local pid = assert(io.open("/proc/self/stat")):read("n")
assert(os.execute("prlimit --pid " .. pid .. " --nofile=80:"))
for _ = 1, 20 do
  assert(p:send_fd(0, 0, 0, 0, 0))
  loop.poll(0)
end
works(q) -- others are not kept waiting
near:write("go")
local count = answer(p, function(s, ...) s:write(tostring(select("#", ...))) end)
assert(count == "100", count)
]], { setup = "ulimit -n 1000", prefix = as_user })
  end)
end)

describe("without processes #proc", function()
  it("a host and a template get errors, and work when there are some again", function()
    local as_user, why = program.other_user()
    if not as_user then pending(why) end
    program.check([[
-- A shell with a limit of its own, that sets those of others. Nobody else can fork.
local shell = io.popen("exec sh", "w")
local function limit(pid, value)
  shell:write("prlimit --pid ", pid, " --nproc=", value, ":\n")
  shell:flush()
  wait("prlimit", function()
    local f <close> = io.open("/proc/" .. pid .. "/limits")
    return f:read("a"):match("Max processes%s+(%w+)") == value
  end)
end
local f = io.open("/proc/self/stat")
local own = f:read("n")
f:close()

works(tine.new())
local source, template = tine.new_exec(), nil
source:await_ready(function(pid) template = pid end)
wait("a template", function() return template end)
local of_source = watch(source)
local before = io.open("/proc/self/limits"):read("a"):match("Max processes%s+(%w+)")

limit(own, "1")
local exec = watch(tine.new_exec():eval("x = 1"))
ended(exec)
expect(exec, "system", 11, "cannot make a process for .*tine%-template: .*EAGAIN")
works(tine.new())
works(source:fork())

limit(template, "1")
local forked, deeper = source:fork(), nil
deeper = watch(forked:fork())
forked = watch(forked)
ended(forked, deeper)
expect(forked, "system", 11, "the template cannot fork: .*EAGAIN")
expect(deeper, "system", 11, "EAGAIN")
assert(of_source.exits == 0 and #of_source.errors == 0)

limit(own, before)
limit(template, before)
works(tine.new_exec())
works(source:fork())
source:close()
ended(of_source)
assert(not of_source.exit, of_source.exit)
shell:close()
]], { prefix = as_user })
  end)
end)

describe("without memory #proc", function()
  if helper.sanitized then
    it("all goes on", function() pending("sanitizers need all of the address space") end)
    return
  end

  it("a host gets an error, and goes on", function()
    program.check([[
works(tine.new())
local p = tine.new()
local seen = watch(p)
local failed = 0
for _ = 1, 20 do
  local ok, err = pcall(function() p:send_arg(("x"):rep(16 << 20)) end)
  if not ok then
    failed = failed + 1
    assert(tostring(err):find("memory") or tostring(err):find("ENOMEM"), err)
  end
end
assert(failed > 0)
-- It takes what it can of what was queued, and says what it could not.
p:close()
ended(seen)
if seen.exit then expect({ errors = seen.errors }, "system", 12, "memory") end
collectgarbage()
works(tine.new())
works(tine.new_exec())
]], { setup = "ulimit -v 120000" })
  end)

  -- What a worker has left of a job that failed is no burden to the next, however often; the limit
  -- is that of all processes of the host, which have it from the shell.
  local function job_after_job(limit, megabytes, rounds, load)
    program.check(([[
local template = tine.new_exec():eval("MB = 1 << 20"):eval(%q)
local pool = template:pool(function(what, n)
  n = n and math.tointeger(tonumber(n))
  if what == "fine" then return tostring(#("x"):rep(n)) end
  if what == "used" then return tostring(collectgarbage("count")) end
  local t, s = {}, "x"
  for i = 1, 1 << 40 do
    if what == "strings" then t[i] = ("x"):rep(MB) .. i end
    if what == "small" then t[i] = ("x"):rep(3000) .. i end
    if what == "tables" then t[i] = { i } end
    if what == "nested" then t = { t } end
    if what == "doubled" then s = s .. s end
    if what == "caught" then
      assert(not pcall(function() for k = 1, 1 << 40 do t[k] = ("x"):rep(n + k) end end))
      return
    end
  end
end, { max = 1 })
tine.main(function()
  for round = 1, %d do
    for _, what in ipairs { "strings", "small", "tables", "nested", "doubled", "caught" } do
      local ok, err = pcall(pool.await, pool, what, 1 << 20)
      if what == "caught" then
        assert(ok, err)
      else
        assert(not ok and err.message:find("not enough memory"), err)
      end
      for _, size in ipairs { 1 << 10, %d << 20, %d << 20 } do
        local ok, n = pcall(pool.await, pool, "fine", size)
        assert(ok and tonumber(n) == size, what .. ", then " .. size .. ": " .. tostring(n))
      end
      assert(tonumber(pool:await("used")) < (%d << 10) + 20000)
    end
  end
  local stats = pool:stats()
  assert(stats.failed >= 5 and stats.crashed == 0 and stats.started == 1)
  pool:close()
end)
]]):format(load and "data = {} for i = 1, 60000 do data[i] = { i, 'item ' .. i } end" or "",
      rounds, megabytes // 2, megabytes, 2 * megabytes),
      { setup = "ulimit " .. limit })
  end

  for _, limit in ipairs { { "-v 50000", 4, 3 }, { "-v 100000", 15, 1 }, { "-d 40000", 4, 1 } } do
    for _, load in ipairs { false, true } do
      it(("a worker does the next job, with ulimit %s%s"):format(limit[1],
        load and ", above what is shared" or ""), function()
        if os.getenv("TINE_HEAP") == "malloc" then return end -- what that keeps is its own affair
        job_after_job(limit[1], limit[2], limit[3], load)
      end)
    end
  end

  case("an eval in a process fails, and nothing else", function()
    local source = tine.new()
    for _, code in ipairs {
      "local s = ('x'):rep(1 << 30)",
      "local t = {} for i = 1, 1 << 40 do t[i] = {} end",
      "all = {} for i = 1, 1 << 40 do all[i] = 'string ' .. i end",
      "all = nil while true do all = { all } end",
      "local s = 'x' while true do s = s .. s end",
    } do
      local p = source:fork()
      local seen = watch(p)
      set_limit(await_ready(p), "as", 32 << 20)
      local child = p:eval(code):fork()
      local of_child = watch(child)
      await_end(seen, of_child)
      assert.are.equal(1, #seen.errors, code)
      assert.are.equal("system", seen.errors[1].kind, code)
      assert.are.equal(ENOMEM, seen.errors[1].errno, code)
      assert.matches("not enough memory", seen.errors[1].message)
      assert.are.equal("system", of_child.exit.kind)
      assert.matches("not enough memory", of_child.exit.message)
      assert.are.equal(1, seen.info.code)
    end
    assert_works(source:fork())
  end)

  case("a process cannot take a large command, and says so", function()
    local source = tine.new()
    local p = source:fork()
    local seen = watch(p)
    set_limit(await_ready(p), "as", 32 << 20)
    p:send_arg(("x"):rep(64 << 20)):run("print", function(fd) if fd then fd:close() end end)
    await_end(seen)
    collectgarbage()
    assert.are.equal(1, #seen.errors)
    assert.are.equal("system", seen.errors[1].kind)
    assert.are.equal(ENOMEM, seen.errors[1].errno)
    assert.matches("memory", seen.errors[1].message)
    assert_works(source:fork())
  end)

  case("a worker cannot take a large call, and says so", function()
    local failed, answers
    tine.go(function()
      local p = tine.new()
      local pid = p:await_ready()
      local rpc = p:rpc(function(s)
        if s == "table" then
          local t = {}
          for i = 1, 1 << 40 do t[i] = { i } end
          return #t
        end
        return s
      end)
      rpc:await("x")
      set_limit(pid, "as", 32 << 20)
      local _, small = pcall(rpc.await, rpc, "table")
      answers = { small, rpc:await("y") }
      local _, err = pcall(rpc.await, rpc, ("x"):rep(64 << 20))
      rpc:close()
      failed = err
    end)
    wait_until(20, function() return failed end)
    assert.are.equal("system", answers[1].kind)
    assert.are.equal(ENOMEM, answers[1].errno)
    assert.are.equal("y", answers[2])
    assert.matches("out of memory for a call: .*ENOMEM", failed.message)
    assert.are.equal(ENOMEM, failed.errno)
    collectgarbage()
  end)

  case("an interpreter that cannot start is an error", function()
    -- The limit is the host's own for a moment: a program of its own, then.
    program.check([[
local f = io.open("/proc/self/stat")
local own = f:read("n")
f:close()
assert(os.execute("prlimit --pid " .. own .. " --as=" .. (48 << 20) .. ":"))
works(tine.new())
local spare = {} -- memory that this process has got already, for what it does itself
for i = 1, 2000 do spare[i] = ("x"):rep(1000) .. i end
local last = ("y"):rep(1000)
spare = nil
collectgarbage()
os.execute("prlimit --pid " .. own .. " --as=" .. (3 << 20) .. ":")
local seen = watch(tine.new_exec():eval("x = 1"))
ended(seen)
assert(seen.exit, "3 MB are enough")
local kind = seen.exit.kind
assert(kind == "system" or kind == "exit" or kind == "crash", kind)
works(tine.new())
assert(#last == 1000)
]])
  end)
end)

describe("much at once #proc", function()
  case("10 000 commands wait for a process that is busy, and nobody else does", function()
    local p = tine.new()
    local near, far = assert(tine.socketpair())
    p:send_fd(far):eval(function()
      n = 0 -- luacheck: ignore 111
      require("tine").run_args():read()
    end)
    far:close()
    local text = ("x"):rep(500)
    for i = 1, 10000 do
      if i % 3 == 0 then p:send_arg(text) else p:eval("n = n + ...", "1") end
      if i % 1000 == 0 then
        p:send_fd(0)
        loop.poll(0)
      end
    end
    assert_works(tine.new())
    near:write("go")
    local result = answer(p, function(s, ...)
      local strings, fds = 0, 0
      for _, v in ipairs { ... } do
        if type(v) == "string" then
          strings = strings + (#v == 500 and 1 or 1e9)
        else
          fds = fds + (v:fileno() and 1)
        end
      end
      s:write(("%d %d %d"):format(n, strings, fds)) -- luacheck: ignore 113
    end)
    assert.are.equal("6667 3333 10", result)
    near:close()
  end)

  case("100 forks wait for a process that is busy", function()
    local source = tine.new()
    local near, far = assert(tine.socketpair())
    source:send_fd(far):eval(function() require("tine").run_args():read() end)
    far:close()
    local all = {}
    for i = 1, 100 do
      local p = source:fork()
      all[i] = watch(p)
      p:close()
    end
    loop.poll(0.01)
    assert_works(tine.new())
    near:write("go")
    await_end(table.unpack(all))
    for _, seen in ipairs(all) do assert.is_nil(seen.exit) end
    near:close()
  end)

  case("100 MB are sent as one string", function()
    local pieces = {}
    for i = 1, 100 do pieces[i] = string.char(i):rep(1 << 20) end
    local p = tine.new():send_arg("", table.concat(pieces, "\0\255"), "end")
    local result = answer(p, function(s, empty, text, last)
      assert(empty == "" and last == "end" and select("#", empty, text, last) == 3)
      local at = 1
      for i = 1, 100 do
        assert(text:sub(at, at + (1 << 20) - 1) == string.char(i):rep(1 << 20), i)
        assert(i == 100 or text:sub(at + (1 << 20), at + (1 << 20) + 1) == "\0\255")
        at = at + (1 << 20) + 2
      end
      s:write(tostring(#text))
    end)
    assert.are.equal(tostring((100 << 20) + 99 * 2), result)
    collectgarbage()
  end)

  case("100 MB may be an argument of eval, and code of 10 MB is carried out", function()
    local text = ("0123456789"):rep(10 << 20)
    local code = "x = 0\n" .. ("x = x + 1\n"):rep(1000) .. "-- " .. ("z"):rep(10 << 20)
    local p = tine.new():eval("length, last = #..., (...):sub(-3)", text):eval(code)
    local result = answer(p, function(s)
      s:write(length .. " " .. last .. " " .. x) -- luacheck: ignore 113
    end)
    assert.are.equal("104857600 789 1000", result)
    collectgarbage()
  end)

  case("the error of a call says that it was cut", function()
    local pool = tine.new():pool(function(n) error(("x"):rep(tonumber(n)), 0) end, { max = 1 })
    local seen = {}
    for i, n in ipairs { 1 << 20, (1 << 20) + 1, 100 << 20 } do
      pool(n, function(err) seen[i] = err end)
    end
    wait_until(20, function() return seen[3] end)
    pool:close()
    assert.are.equal(("x"):rep(1 << 20), seen[1].message)
    for i = 2, 3 do
      assert.is_true(seen[i].message == ("x"):rep(1 << 20) .. "\n... (cut)")
    end
    assert.matches("stack traceback", seen[3].traceback)
    loop.run()
  end)

  case("100 MB over a worker's socket arrive", function()
    local p = tine.new()
    local seen, sock = watch(p), nil
    p:run(function(s)
      local n, sum = 0, 0
      for data in function() return s:read(1 << 20) end do
        n, sum = n + #data, sum + data:byte(1) - data:byte(-1)
      end
      assert(sum == sum)
      s:write(n .. "\n")
    end, function(fd, err) sock = fd or error(err) end)
    wait_until(10, function() return sock end)
    local done, count
    tine.go(function()
      local block = ("0123456789abcdef"):rep(1 << 16)
      for _ = 1, 100 do assert(sock:write(block)) end
      sock:shutdown("w")
      count = sock:read_line()
      done = true
    end)
    wait_until(20, function() return done end)
    assert.are.equal(tostring(100 << 20), count)
    sock:close()
    await_end(seen)
  end)
end)

describe("nothing at all #proc", function()
  case("is a string like any other", function()
    local p = tine.new():eval(""):eval("", ""):eval("assert(... == '' and select('#', ...) == 2)",
      "", ""):send_arg(""):send_arg():send_fd():require():send_arg("", "x", "")
    local result = answer(p, function(s, ...)
      s:write(select("#", ...) .. ":" .. table.concat({ ... }, ","))
    end)
    assert.are.equal("4:,,x,", result)
  end)

  case("is not the name of a function", function()
    local p = tine.new()
    local seen = watch(p)
    p:run("", function(fd) if fd then fd:close() end end)
    await_end(seen)
    assert.are.equal("exception", seen.errors[1].kind)
    assert.are.equal(1, seen.info.code)
  end)

  case("is a name of a process", function()
    assert_works(tine.new { name = "" })
    assert_works(tine.new_exec { name = "" })
  end)
end)
