local helper = require "spec.helper"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local result, wait_for = proc.result, proc.wait_for

local function collect()
  collectgarbage()
  collectgarbage()
end

-- An entry function that lives until its socket is closed.
local function linger(sock) sock:read() end

local function gone(pid) return not helper.alive(pid) end

-- Returns a function that tells whether the process has ended, and how.
local function watch(p)
  local told
  p:on_exit(function(err, info)
    assert.is_nil(told)
    told = { err = err, info = info }
  end)
  return function() return told end
end

describe("close #proc", function()
  for _, how in ipairs { "new", "new_exec" } do
    case("ends a process of " .. how .. " that was not told to run", function()
      local p = tine[how]()
      local pid = p:await_ready()
      local ended = watch(p)
      assert.is_nil(p:close())
      local told = wait_for(ended)
      assert.is_nil(told.err)
      assert.same({ 0, pid }, { told.info.code, told.info.pid })
    end)

    case("before a process of " .. how .. " is made ends it, too", function()
      local p = tine[how]()
      local ended = watch(p)
      p:close()
      p:close()
      assert.equal(0, wait_for(ended).info.code)
    end)
  end

  case("has queued work carried out first", function()
    local path = helper.tmpname()
    local p = tine.new():eval("x = ...", ("long"):rep(1e6))
      :eval("local f = io.open(..., 'w') f:write(#x) f:close()", path)
    local ended = watch(p)
    p:close()
    assert.equal(0, wait_for(ended).info.code)
    assert.equal("4000000", proc.text(path))
  end)

  case("does not end a process that runs", function()
    local p = tine.new()
    local sock = p:run(function(sock) sock:write(sock:read_line()) end)
    local ended = watch(p)
    p:close()
    sock:write("hello\n")
    assert.equal("hello", sock:read())
    assert.equal(0, wait_for(ended).info.code)
    sock:close()
  end)

  case("of a template waits for its last worker", function()
    local template = tine.new()
    local a, b = template:fork(), template:fork()
    local sock_a, sock_b = a:run(linger), b:run(linger)
    local pid = template:pid()
    local ended = watch(template)
    template:close()
    sock_a:close()
    a:on_exit()
    assert.is_true(helper.alive(pid))
    assert.is_nil(ended())
    sock_b:close()
    assert.equal(0, wait_for(ended).info.code)
    assert.is_true(gone(pid))
  end)

  case("of a chain of templates ends them from the last to the first", function()
    local order = {}
    local list = { tine.new() }
    for i = 2, 4 do list[i] = list[i - 1]:fork() end
    for i, p in ipairs(list) do
      p:on_exit(function() order[#order + 1] = i end)
      p:close()
    end
    wait_for(function() return #order == 4 end)
    assert.same({ 4, 3, 2, 1 }, order)
  end)

  case("happens at the end of a block with <close>", function()
    local ended
    do
      local p <close> = tine.new()
      ended = watch(p)
    end
    assert.equal(0, wait_for(ended).info.code)
  end)

  it("is nothing that a program must do", function()
    local text, code = proc.run_program([[
      KEPT = { tine.new(), tine.new_exec(), tine.new():eval("x = 1"), tine.new():fork() }
      print(tine.loop.run())
      for i, p in ipairs(KEPT) do print(i, math.type(p:pid())) end
    ]])
    assert.equal("true\n1\tinteger\n2\tinteger\n3\tinteger\n4\tinteger\n", text)
    assert.equal(0, code)
  end)
end)

describe("a handle that is dropped #proc", function()
  case("with work queued: the work is carried out, then the process exits", function()
    local path = helper.tmpname()
    local told
    do
      local function configure()
        tine.new():eval("for i = 1, 1e6 do end"):send_arg("x")
          :eval("local f = io.open(..., 'w') f:write('done') f:close()", path)
          :on_exit(function(err) told = { err } end)
      end
      configure()
    end
    wait_for(function()
      collectgarbage()
      return told
    end)
    assert.same({}, told)
    assert.equal("done", proc.text(path))
  end)

  case("after run: the function runs to its end", function()
    local sock, told
    local function start()
      tine.new():on_exit(function(err) told = { err } end):run(function(s)
        s:write(s:read_line() .. " again")
      end, function(s) sock = s end)
    end
    start()
    collect()
    wait_for(function() return sock end)
    collect()
    assert.is_nil(told)
    sock:write("there\n")
    assert.equal("there again", proc.read_all(sock))
    wait_for(function() return told end)
    assert.same({}, told)
  end)

  case("without work: the process exits", function()
    local pid
    local function make()
      local p = tine.new():eval("x = 1")
      pid = p:await_ready()
    end
    make()
    assert.is_true(helper.alive(pid))
    wait_for(function()
      collectgarbage()
      return gone(pid)
    end)
  end)

  case("that is a template: it stays until its last worker has gone, then goes", function()
    local worker, pid
    local function make()
      local template = tine.new():eval("x = 1")
      pid = template:await_ready()
      worker = template:fork()
    end
    make()
    local sock = worker:run(linger)
    collect()
    collect()
    local other = tine.new() -- a round trip with its template: time for a mistake to show
    other:await_ready()
    assert.is_true(helper.alive(pid))
    sock:close()
    assert.is_nil((worker:on_exit()))
    wait_for(function()
      collectgarbage()
      return gone(pid)
    end)
  end)

  case("in a reference cycle is collected, and on_exit is called", function()
    local told, weak = nil, setmetatable({}, { __mode = "v" })
    local function make()
      local p = tine.new()
      local self = { p = p }
      p:on_exit(function(err, info) told = { self.p, err, info } end)
      p:on_error(function() return self end)
      p:await_ready()
      weak[1] = self
      return p:pid()
    end
    local pid = make()
    assert.is_true(helper.alive(pid))
    wait_for(function()
      collectgarbage()
      return told
    end)
    assert.equal(pid, told[3].pid)
    assert.equal(0, told[3].code)
    told = nil
    wait_for(function()
      collectgarbage()
      return not weak[1]
    end)
  end)

  case("in a cycle with its own line callback is collected", function()
    local told
    local function make()
      local p
      p = tine.new { stdout = function() return p end }
      p:on_exit(function() told = p end)
      p:await_ready()
    end
    make()
    wait_for(function()
      collectgarbage()
      return told
    end)
  end)

  case("many at once leave nothing", function()
    local n = 0
    for i = 1, 30 do
      local p = tine.new():on_exit(function() n = n + 1 end)
      if i % 3 == 0 then p:eval("x = 1") end
      if i % 3 == 1 then p:run(function() end, function() end) end
    end
    wait_for(function()
      collectgarbage()
      return n == 30
    end)
  end)

  it("does not keep a program from ending", function()
    local text, code = proc.run_program([[
      for i = 1, 5 do
        tine.new():eval("io.write(...) io.stdout:flush()", i .. "\n")
      end
      tine.new():run(function() print("ran") end, function() end)
      tine.loop.run()
    ]])
    for _, word in ipairs { "1\n", "2\n", "3\n", "4\n", "5\n", "ran\n" } do
      assert.matches(word, text)
    end
    assert.equal(0, code)
  end)
end)

describe("finalizers of shared state #proc", function()
  local SHARED <const> = [[
    local path = ...
    held = setmetatable({}, { __gc = function()
      local f <close> = io.open(path, "a")
      f:write("finalized ")
    end })
    function returns() end
    function raises() error("x") end
    function exits() os.exit(0) end
    function closes() require("tine").exit(0, true) end
  ]]

  case("run in no process that leaves, unless it asks for them", function()
    local path = helper.tmpname()
    local template = tine.new():eval(SHARED, path)
    for _, name in ipairs { "returns", "raises", "exits" } do
      proc.finish(template:fork(), name)
      assert.equal("", proc.text(path), name)
    end
    proc.finish(template:fork(), "closes")
    assert.equal("finalized ", proc.text(path))
    template:close()
    template:on_exit()
    assert.equal("finalized ", proc.text(path))
  end)
end)

describe("a callback #proc", function()
  case("may close its own handle #near", function()
    local calls = 0
    local function closing(p)
      return function()
        calls = calls + 1
        p:close()
        collectgarbage()
      end
    end
    local a = tine.new()
    a:await_ready(closing(a))
    local b = tine.new()
    b:run(function() end, closing(b))
    local c = tine.new()
    c:on_error(closing(c)):eval("error('x')")
    local d = tine.new()
    d:on_exit(closing(d)):run(function() end, function() end)
    local e
    e = tine.new { stdout = function() closing(e)() end }:eval("print(1) print(2)")
    local f = tine.new()
    f:to_fd(closing(f))
    wait_for(function() return calls == 7 end)
  end)

  case("may make, use and end other processes", function()
    local answers = {}
    local p = tine.new()
    p:on_exit(function()
      local q = tine.new()
      q:run(function(sock) sock:write("from q") end, function(sock)
        tine.go(function() answers[1] = proc.read_all(sock) end)
        local r = tine.new():on_exit(function() answers[2] = "r" end)
        r:close()
      end)
    end)
    p:close()
    wait_for(function() return answers[1] and answers[2] end)
    assert.same({ "from q", "r" }, answers)
  end)

  for name, set in pairs {
    on_exit = "tine.new():on_exit(raise):close()",
    on_error = "tine.new():on_error(raise):eval('error(1)')",
    await_ready = "tine.new():await_ready(raise)",
    run = "tine.new():run(function() end, raise)",
    ["to_fd #near"] = "tine.new():to_fd(raise)",
    ["stdout #near"] = "tine.new({ stdout = raise }):eval('print(1)')",
  } do
    it("of " .. name .. " that raises ends loop.run with that error", function()
      local text, code = proc.run_program([[
        local value = setmetatable({}, { __tostring = function() return "the value" end })
        local function raise() error(value) end
        ]] .. set .. [[

        local ok, err = pcall(tine.loop.run)
        print(ok, err, err == value)
        print(tine.loop.run())
      ]])
      assert.equal("false\tthe value\ttrue\ntrue\n", text)
      assert.equal(0, code)
    end)
  end

  it("that raises has its traceback in the message, and the others are still called", function()
    local text, code = proc.run_program([[
      local p = tine.new()
      p:on_exit(function() error("first") end)
      p:on_exit(function() print("second") end)
      p:close()
      local ok, err = pcall(tine.loop.run)
      print(ok, (err:gsub("^.-:%d+: ", ""):gsub("\n.*", "")), err:match("stack traceback"))
    ]])
    assert.equal("second\nfalse\tfirst\tstack traceback\n", text)
    assert.equal(0, code)
  end)

  it("may stop the loop, which can run again", function()
    local text, code = proc.run_program([[
      for i = 1, 3 do
        tine.new():on_exit(function() print("exit") tine.loop.stop() end):close()
      end
      print(tine.loop.run())
      print(tine.loop.run())
      print(tine.loop.run())
      print(tine.loop.run())
    ]])
    assert.equal(("exit\nfalse\n"):rep(3) .. "true\n", text)
    assert.equal(0, code)
  end)
end)

describe("waiting for the end #proc", function()
  -- Each of these is on its way out: main must not call it a deadlock.
  for name, code in pairs {
    ["an idle process that was killed"] = "p:await_ready() p:kill()",
    ["a process that was killed before it was made"] = "p:kill()",
    ["a template whose eval failed"] = "p:on_error(function() end):eval('error(1)')",
    ["a closed template"] = "p:close()",
    ["a template with workers that was killed"] =
      "KEPT = p:fork() KEPT:await_ready() p:kill('KILL')",
  } do
    it("of " .. name .. " keeps the loop running", function()
      local text, status = proc.run_program([[
        tine.main(function()
          local p = tine.new()
          p:on_exit(function(_, info) TOLD = info.pid and "told" end)
          ]] .. code .. [[

          -- A wait in this coroutine keeps nothing running by itself.
          p:on_exit()
        end)
        print(TOLD)
      ]])
      assert.equal("told\n", text)
      assert.equal(0, status)
    end)
  end

  it("of an idle process that nobody ends is a deadlock, which is told", function()
    local text, code = proc.run_program(
      "tine.main(function() KEPT = tine.new() KEPT:on_exit() end)")
    assert.matches("deadlock", text)
    assert.equal(1, code)
  end)
end)

describe("a socket #proc", function()
  local function last_words(sock) sock:write("last words") end

  -- The host does not look until the worker has ended.
  local function run_without_looking(p, pid)
    local got
    p:run(last_words, function(sock, err) got = { sock, err } end)
    repeat
      local f <close> = io.open(("/proc/%d/stat"):format(pid))
    until not f
    wait_for(function() return got end)
    assert.is_nil(got[2])
    assert.equal("last words", proc.read_all(got[1]))
  end

  case("is handed over though its worker has ended already", function()
    for _ = 1, 5 do
      local p = tine.new()
      p:await_ready() -- goes on in the middle of the reading of reports ...
      run_without_looking(p, p:await_ready()) -- ... and of p's turn
    end
  end)

  case("is handed over though the process was passed on and has ended already #near", function()
    for _ = 1, 5 do
      local p = tine.new()
      local pid = p:await_ready()
      run_without_looking(tine.from_fd(p:to_fd()), pid)
    end
  end)
end)

describe("to_fd and from_fd #proc", function()
  case("pass a process on within a process #near", function()
    local p = tine.new():eval("x = 1"):send_arg("sent")
    local pid = p:await_ready()
    local fd = p:to_fd()
    p = nil -- luacheck: ignore 311
    collect()
    local q = tine.from_fd(fd)
    assert.is_nil(fd:fileno())
    assert.equal(pid, q:await_ready())
    q:eval("x = x + 1"):send_arg("later")
    local fork = q:fork()
    local function show(sock, ...) sock:write(table.concat({ x, ... }, " ")) end -- luacheck: ignore
    assert.equal("2 sent later", result(fork, show))
    assert.equal("2 sent later", result(q, show))
    q:on_exit()
    wait_for(function() return gone(pid) end)
  end)

  case("pass a process on by its number, and before it is made #near", function()
    local fd = tine.new():eval("function fn(sock) sock:write('x') end"):to_fd()
    local q = tine.from_fd(fd:detach())
    assert.equal("x", result(q, "fn"))
  end)

  case("pass a process on to another one #near", function()
    local fd = tine.new { name = "passed" }:eval("x = 'state'"):to_fd()
    local middle = tine.new():send_fd(fd)
    fd:close()
    local answer = result(middle, function(sock, passed)
      local t = require "tine"
      t.main(function()
        local p = t.from_fd(passed)
        local far = p:run(function(s) s:write(x .. " " .. s:read_line()) end) -- luacheck: ignore
        far:write("and a line\n")
        sock:write(far:read())
        far:close()
        p:on_exit()
      end)
    end)
    assert.equal("state and a line", answer)
  end)

  case("a process that was passed on ends when its last holder drops it #near", function()
    local p = tine.new()
    local pid = p:await_ready()
    local fd = p:to_fd()
    assert.is_true(helper.alive(pid))
    fd:close()
    wait_for(function() return gone(pid) end)
    local q = tine.new()
    pid = q:await_ready()
    local r = tine.from_fd(q:to_fd())
    r:await_ready()
    r:close()
    wait_for(function() return gone(pid) end)
  end)

  case("refuse what is no command socket", function()
    local f <close> = io.open("/dev/null")
    local p, err = tine.from_fd(require("tine.core").fileno(f))
    assert.is_nil(p)
    assert.equal("system", err.kind)
    proc.assert_blames("", function() tine.from_fd(99999) end)
    proc.assert_blames("", function() tine.from_fd("x") end)
    proc.assert_blames("", function() tine.from_fd(f) end)
  end)

  case("tell when the process behind the descriptor is gone #near", function()
    local p = tine.new()
    local fd = p:to_fd()
    p:kill("KILL")
    p:on_exit()
    local q = tine.from_fd(fd)
    local ok, err = q:await_ready()
    assert.is_nil(ok)
    assert.equal("closed", err.kind)
  end)
end)

describe("reset #proc", function()
  case("forgets the default template, which goes with its last worker", function()
    local a = tine.new()
    local sock = a:run(linger)
    local old = proc.parent(a:pid())
    tine.reset()
    local b = tine.new()
    local new = proc.parent((b:await_ready()))
    assert.not_equal(old, new)
    assert.is_true(helper.alive(old))
    sock:close()
    a:on_exit()
    wait_for(function() return gone(old) end)
    tine.reset()
    tine.reset()
    b:close()
    wait_for(function() return gone(new) end)
  end)

  case("lets a process that was forked from a host be one of its own", function()
    local template = tine.new():eval([[
      tine = require "tine"
      tine.main(function()
        held = tine.new()
        function pong(sock) sock:write("pong") end
        first = tine.new():eval("x = 1"):run(pong):read()
      end)
    ]])
    local answer = result(template:fork(), function(sock)
      local t = require "tine"
      local ok, err = pcall(function() held:eval("x = 1") end) -- luacheck: ignore 113
      t.reset()
      t.main(function()
        local p = t.new()
        local far = p:run(pong) -- luacheck: ignore 113
        sock:write(("%s %s %s %s"):format(first, ok, far:read(), err)) -- luacheck: ignore 113
      end)
    end)
    assert.matches("^pong false pong .*belongs to the process", answer)
    -- The template, a host itself, is well.
    assert.equal("pong", result(template, function(sock)
      require("tine").main(function()
        sock:write(held:run(pong):read()) -- luacheck: ignore 113
      end)
    end))
  end)
end)

describe("a template that is killed #proc", function()
  case("and is the default one: the next new makes another", function()
    local a = tine.new()
    local template = proc.parent((a:await_ready()))
    local ended = watch(a)
    os.execute("kill -KILL " .. template)
    local told = wait_for(ended)
    assert.equal("crash", told.err.kind)
    local b = tine.new()
    local new = proc.parent((b:await_ready()))
    assert.not_equal(template, new)
    assert.equal("fine", result(b, function(sock) sock:write("fine") end))
    b:close()
    tine.reset()
    wait_for(function() return gone(new) end)
  end)

  for _, signal in ipairs { "KILL", "TERM", "SEGV" } do
    case("by " .. signal .. " takes its workers along, and on_exit says so", function()
      local template = tine.new()
      local idle, runs = template:fork(), template:fork()
      local below = idle:fork()
      local sock = runs:run(linger)
      below:await_ready()
      local pids = { idle:pid(), runs:pid(), below:pid() }
      local watches = { watch(idle), watch(runs), watch(below) }
      local ended = watch(template)
      template:kill(signal)
      assert.equal("crash", wait_for(ended).err.kind)
      for i, each in ipairs(watches) do
        local told = wait_for(each)
        assert.not_nil(told.err)
        assert.equal(pids[i], told.info.pid)
        assert.equal(9, told.info.signal)
        assert.equal("crash", told.err.kind)
        assert.is_true(gone(pids[i]))
      end
      assert.is_nil(sock:read())
      sock:close()
    end)
  end

  case("with forks queued: each of them is told why", function()
    local template = tine.new():eval("while true do end")
    local forks, told = {}, 0
    for i = 1, 5 do
      forks[i] = template:fork():eval("x = 1"):on_exit(function(err, info)
        assert.matches("ended", err.message)
        assert.is_nil(info.pid)
        told = told + 1
      end)
    end
    local sock_err
    forks[5]:run("fn", function(_, err) sock_err = err end)
    template:await_ready()
    template:kill()
    wait_for(function() return told == 5 end)
    assert.matches("ended", sock_err.message)
  end)
end)

describe("a host that is killed #proc", function()
  local programs <const> = {
    ["an idle template"] = "local p = tine.new() p:await_ready()",
    ["an exec'ed process"] = "local p = tine.new_exec() p:await_ready()",
    ["a template in an endless loop"] =
      "local p = tine.new() p:await_ready() p:eval('while true do end')",
    ["a busy template with workers"] = [[
      local p = tine.new()
      local q = p:fork()
      local sock = q:run(function(sock) sock:read() end)
      p:eval('while true do end')]],
    ["nested templates"] = [[
      local list = { tine.new() }
      for i = 2, 6 do list[i] = list[i - 1]:fork() end
      list[6]:await_ready()]],
    ["nested templates, all busy"] = [[
      local list = { tine.new() }
      for i = 2, 6 do list[i] = list[i - 1]:fork() end
      list[6]:await_ready()
      for _, p in ipairs(list) do p:eval("while true do end") end]],
    ["workers that run"] = [[
      local list = {}
      for i = 1, 5 do
        local p = tine.new()
        list[i] = p:run(function(sock) sock:read() end)
        list[-i] = tine.new():run(function() while true do end end)
      end]],
    ["workers of a template that has run itself"] = [[
      local p = tine.new()
      local q = p:fork()
      q:await_ready()
      local sock = p:run(function() end)]],
    ["workers that ignore everything they can"] = [[
      local p = tine.new()
      local sock = p:run(function(sock)
        local t = require "tine"
        for _, name in ipairs { "TERM", "INT", "HUP", "PIPE" } do
          t.loop.signal(name, function() end)
        end
        sock:write("x")
        while true do end
      end)
      sock:read()]],
    ["processes of a worker that is a host itself"] = [[
      local p = tine.new()
      local sock = p:run(function(sock)
        local t = require "tine"
        t.main(function()
          local q = t.new()
          local r = q:fork()
          local far = r:run(function(s) s:write("x") while true do end end)
          sock:write(far:read())
          while true do end
        end)
      end)
      sock:read()]],
  }
  for name, code in pairs(programs) do
    case("leaves nothing of " .. name, function()
      local program = proc.start_program("tine.main(function() " .. code .. [[

        say("ready")
        while true do end
      end)]])
      program.wait_for("(ready)")
      local family = helper.descendants(program.pid)
      assert.is_true(#family >= 1)
      program.kill()
      for _, pid in ipairs(family) do wait_for(function() return gone(pid) end) end
    end)
  end

  for _, after in ipairs { 0, 1, 5, 20, 50 } do
    -- What it leaves is for the check that follows each test.
    case("leaves nothing while it makes processes: " .. after, function()
      local program = proc.start_program([[
        local list = {}
        say("0,")
        for i = 1, math.huge do
          local p = i % 2 == 0 and tine.new() or tine.new_exec()
          list[i % 40] = p:fork():eval("for i = 1, 1e4 do end"):fork()
          list[i % 40]:run(function() while true do end end, function() end)
          tine.loop.poll(0)
          say(i .. ",")
        end
      ]])
      program.wait_for("\n?(" .. after .. "),")
      program.kill()
      wait_for(function() return gone(program.pid) end)
    end)
  end

  for _, ending in ipairs { "os.exit(0)", "os.exit(0, true)", "error('x')", "return",
    "os.execute('kill -TERM $PPID')" }
  do
    it("or ends by " .. ending .. " leaves nothing", function()
      helper.no_leaks(function()
        local text = proc.run_program([[
          local list = { tine.new(), tine.new_exec(), tine.new():fork() }
          list[4] = list[1]:fork()
          list[4]:run(function() while true do end end, function() tine.loop.stop() end)
          tine.loop.run()
          say("ready")
          ]] .. ending)
        assert.matches("^ready\n", text)
      end)
    end)
  end
end)

describe("hundreds of workers #proc", function()
  local function zombies()
    local list = {}
    for _, pid in ipairs(helper.descendants()) do
      if proc.stat(pid, 3) == "Z" then list[#list + 1] = pid end
    end
    return list
  end

  case("leave no zombies in the host or in a template", function()
    local template = tine.new()
    local nested = template:fork()
    local left = 0
    local function one() left = left - 1 end
    for i = 1, 300 do
      local p = i % 10 == 0 and tine.new_exec() or i % 2 == 0 and nested:fork() or template:fork()
      left = left + 1
      p:on_exit(one):run(function() end, function() end)
      wait_for(function() return left < 10 end)
    end
    wait_for(function() return left == 0 end)
    wait_for(function() return #zombies() == 0 end)
    assert.equal(0, #helper.children(nested:pid()))
    assert.same({ nested:pid() }, helper.children(template:pid()))
  end)

  case("leave no zombies in a template that is busy or runs", function()
    local template = tine.new()
    local left = 0
    for _ = 1, 20 do
      left = left + 1
      template:fork():on_exit(function() left = left - 1 end)
        :run(function() end, function() end)
    end
    local sock = template:run(function(sock)
      sock:write("x")
      sock:read()
    end)
    sock:read(1)
    wait_for(function() return left == 0 end)
    wait_for(function() return #zombies() == 0 end)
    sock:close()
    template:on_exit()
  end)

  -- In a program of its own: other tests' garbage is none of its business.
  local IN_A_ROW <const> = [[
    local helper, proc = require "spec.helper", require "spec.proc"

    -- Pages, as the kernel counts them.
    local function resident(pid)
      return tonumber(proc.text(("/proc/%s/statm"):format(pid)):match("%d+ (%d+)"))
    end

    tine.main(function()
      local template = tine.new():eval("function fn(sock, x) sock:write(x) end")
      local function work(n)
        local running = 0
        for i = 1, n do
          running = running + 1
          local text = tostring(i)
          template:fork():send_arg(text):on_exit(function(err)
            running = running - 1
            assert(not err, tostring(err))
          end):run("fn", function(sock) sock:close() end)
          if running >= 8 then proc.wait_for(function() return running < 8 end) end
        end
        proc.wait_for(function() return running == 0 end)
        collectgarbage()
        collectgarbage()
      end
      local function measure()
        local pid = template:pid()
        return { helper.fd_count(), helper.fd_count(pid), collectgarbage("count"),
          resident("self"), resident(pid) }
      end
      work(300)
      local before = measure()
      work(2000)
      local after = measure()
      for i = 1, #before do print(after[i] - before[i]) end
    end)
  ]]

  it("2 000 in a row leave descriptors and memory where they were", function()
    helper.no_leaks(function()
      local text, code = proc.run_program(IN_A_ROW)
      local grown = {}
      for number in text:gmatch("[^\n]+") do grown[#grown + 1] = tonumber(number) end
      assert.equal(0, code, text)
      assert.equal(5, #grown, text)
      assert.same({ 0, 0 }, { grown[1], grown[2] }) -- descriptors: the host's, the template's
      assert.is_true(grown[3] < 50, "KiB of Lua: " .. grown[3])
      if not helper.sanitized then
        assert.is_true(grown[4] < 100, "pages: " .. grown[4])
        assert.is_true(grown[5] < 50, "pages of the template: " .. grown[5])
      end
    end)
  end)
end)
