local helper = require "spec.helper"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local fileno = require("tine.core").fileno
local result, finish = proc.result, proc.finish
local assert_blames, wait_for = proc.assert_blames, proc.wait_for

-- An entry function that tells what it was called with: strings quoted, and of descriptors the
-- content of the file.
local TELL <const> = [[
  function tell(sock, ...)
    local words = {}
    for _, value in ipairs { ... } do
      if type(value) == "userdata" then
        local f <close> = value:dup():to_file("r")
        f:seek("set")
        words[#words + 1] = f:read("a")
      else
        words[#words + 1] = string.format("%q", value)
      end
    end
    sock:write(table.concat(words, " "))
  end
]]

-- An open file with that content.
local function file_with(text)
  return assert(io.open(helper.write_file(text), "r"))
end

-- A folder with modules, by name. Returns a pattern for package.path.
local function modules(texts)
  local dir = helper.tmpname()
  for name, text in pairs(texts) do
    local path = dir .. "/" .. name:gsub("%.", "/") .. ".lua"
    os.execute("mkdir -p " .. path:match("^(.*)/"))
    local f <close> = assert(io.open(path, "w"))
    f:write(text)
  end
  return dir .. "/?.lua"
end

local function with_path(p, path)
  return p:eval("package.path = ... .. ';' .. package.path", path)
end

local function pid_of(p) return (assert(p:await_ready())) end

local function word(s) return string.format("%q", s) end

describe("a new process #proc", function()
  case("is another one, and knows that it is tine's", function()
    assert.is_false(tine.is_worker())
    local p = tine.new()
    local pid, is_worker = result(p, function(sock)
      local f <close> = io.open("/proc/self/stat")
      sock:write(f:read("n") .. " " .. tostring(require("tine").is_worker()))
    end):match("(%d+) (%a+)")
    assert.equal(p:pid(), tonumber(pid))
    assert.not_equal(helper.pid(), p:pid())
    assert.equal("true", is_worker)
  end)

  case("is empty", function()
    EMPTY_SPEC_GLOBAL = true -- luacheck: ignore 111 113
    local names = result(tine.new(), function(sock)
      for name in pairs(_G) do sock:write(name .. "\n") end
      for name in pairs(package.loaded) do sock:write(name .. "\n") end
    end)
    EMPTY_SPEC_GLOBAL = nil -- luacheck: ignore 111
    for name in names:gmatch("[^\n]+") do
      assert.is_true(_G[name] ~= nil and not name:find("^tine"), name)
    end
  end)

  case("of new is forked from the default template, which is kept #near", function()
    local a, b = tine.new(), tine.new()
    local template = proc.parent(pid_of(a))
    assert.equal(template, proc.parent(pid_of(b)))
    assert.not_equal(helper.pid(), template)
    assert.equal(helper.pid(), proc.parent(template))
    a:close()
    b:close()
    local c = tine.new()
    assert.equal(template, proc.parent(pid_of(c)))
  end)

  case("of new_exec is not forked from a template #near", function()
    local a, b = tine.new_exec(), tine.new_exec()
    assert.equal(helper.pid(), proc.parent(pid_of(a)))
    assert.equal(helper.pid(), proc.parent(pid_of(b)))
    assert.equal("2", result(a:send_arg("1", "2"), function(sock, _, two) sock:write(two) end))
  end)

  case("has a random sequence of its own", function()
    local template = tine.new():eval("math.random()")
    local seen = {}
    for i = 1, 6 do
      local p = i <= 3 and template:fork() or tine.new()
      local number = result(p, function(sock) sock:write(math.random(0)) end)
      assert.is_nil(seen[number])
      seen[number] = true
    end
  end)
end)

describe("fork #proc", function()
  case("inherits what was sent, in order, three levels deep #near", function()
    local f1 <close> = file_with("F1")
    local f2 <close> = file_with("F2")
    local f3 <close> = file_with("F3")
    local a = tine.new():eval(TELL):send_arg("a1"):send_fd(f1):send_arg("a2")
    local b = a:fork():send_fd(f2):send_arg("b")
    local c = b:fork():send_arg("c", "")
    local d = c:fork():send_fd(f3):send_arg("d")
    assert.equal('"a1" F1 "a2" F2 "b" "c" "" F3 "d"', result(d, "tell"))
    assert.equal('"a1" F1 "a2" F2 "b" "c" ""', result(c, "tell"))
    assert.equal('"a1" F1 "a2" F2 "b"', result(b, "tell"))
    assert.equal('"a1" F1 "a2"', result(a, "tell"))
  end)

  case("makes children of the process that was forked", function()
    local a = tine.new()
    local b = a:fork()
    local c = b:fork()
    assert.equal(pid_of(b), proc.parent(pid_of(c)))
    assert.equal(pid_of(a), proc.parent(pid_of(b)))
  end)

  case("takes the state at its place in the queue", function()
    local a = tine.new():eval("x = 1"):send_arg("before")
    local b = a:fork()
    a:eval("x = x + 1"):send_arg("after")
    local c = a:fork()
    b:eval("x = x * 10")
    local function show(sock, ...) sock:write(table.concat({ x, ... }, " ")) end -- luacheck: ignore
    assert.equal("10 before", result(b, show))
    assert.equal("2 before after", result(a, show))
    assert.equal("2 before after", result(c, show))
  end)

  case("does not keep a process's socket open when its function returned", function()
    local a = tine.new()
    local b = a:fork()
    assert.equal("done", result(a, function(sock) sock:write("done") end))
    local told = false
    a:on_exit(function() told = true end)
    assert.equal("still there", result(b, function(sock) sock:write("still there") end))
    wait_for(function() return told end)
  end)

  case("gives workers that know nothing of each other", function()
    local template = tine.new():eval("n = 0; function count(sock) n = n + 1 sock:write(n) end")
    for _ = 1, 5 do
      assert.equal("1", result(template:fork(), "count"))
    end
  end)

  case("works while the template is busy, before it is made", function()
    local template = tine.new():eval("for i = 1, 1e6 do x = i end")
    local socks, count = {}, 0
    for i = 1, 10 do
      template:fork():send_arg(tostring(i)):run(function(sock, arg) sock:write(arg) end,
        function(sock)
          socks[i], count = sock, count + 1
        end)
    end
    template:close()
    wait_for(function() return count == 10 end)
    for i = 1, 10 do assert.equal(tostring(i), proc.read_all(socks[i])) end
  end)
end)

describe("eval #proc", function()
  case("gets strings of any bytes as its arguments", function()
    local binary = ""
    for i = 0, 255 do binary = binary .. string.char(i) end
    local p = tine.new():eval("args = table.pack(...)", "", binary, "x", ("y"):rep(100000))
    assert.equal("4 0 true x 100000", result(p:send_arg(binary), function(sock, expected)
      local a = args -- luacheck: ignore 113
      sock:write(("%d %d %s %s %d"):format(a.n, #a[1], a[2] == expected, a[3], #a[4]))
    end))
  end)

  case("gets plain data as its arguments", function()
    local shared = { 1, 2 }
    local p = tine.new():eval("args = table.pack(...)", nil, true, 1, 1.0,
      { a = { "b" }, shared, shared }, "s", nil)
    assert.equal("7 nil true integer float b true s nil", result(p, function(sock)
      local a = args -- luacheck: ignore 113
      sock:write(table.concat({ a.n, tostring(a[1]), tostring(a[2]), math.type(a[3]),
        math.type(a[4]), a[5].a[1], tostring(a[5][1] == a[5][2]), a[6], tostring(a[7]) }, " "))
    end))
  end)

  case("runs in order, with globals that stay and locals that do not", function()
    local p = tine.new():eval("s = ''")
    for i = 1, 200 do p:eval("s = s .. ... .. ','; local gone = 1", tostring(i)) end
    local numbers = {}
    for i = 1, 200 do numbers[i] = i end
    assert.equal(table.concat(numbers, ",") .. ",false", result(p, function(sock)
      sock:write(s .. tostring(gone ~= nil)) -- luacheck: ignore 113
    end))
  end)

  case("takes empty and very long source text", function()
    local long = "x = 0 " .. ("x = x + 1 "):rep(100000)
    local p = tine.new():eval(""):eval(long):eval("y = ...", "")
    assert.equal("100000 0", result(p, function(sock)
      sock:write(x .. " " .. #y) -- luacheck: ignore 113
    end))
  end)
end)

describe("require #proc", function()
  case("loads modules in order, each once", function()
    local path = modules {
      ["first"] = "order = (order or '') .. 'first '; return {}",
      ["deep.second"] = "order = order .. ... .. ' '; return {}",
      ["third"] = "order = order .. 'third'; return { fn = function() end }",
    }
    local p = with_path(tine.new(), path):require("first", "deep.second"):require()
      :require("first", "third")
    assert.equal("first deep.second third", result(p, function(sock)
      sock:write(order) -- luacheck: ignore 113
    end))
  end)
end)

describe("send_fd #proc", function()
  case("takes integers, files, tine.fd, and objects with fileno or getfd #near", function()
    local p = tine.new():eval(TELL)
    local integer, file = file_with("integer"), file_with("file")
    local with_fileno, with_getfd = file_with("fileno"), file_with("getfd")
    local fd_file <close> = file_with("fd")
    local borrowed = tine.fd(fileno(fd_file))
    local fd = borrowed:dup()
    borrowed:detach()
    p:send_fd(fileno(integer), file, fd, { fileno = function() return fileno(with_fileno) end })
    p:send_fd { getfd = function(self) return self.number end, number = fileno(with_getfd) }
    for _, f in ipairs { integer, file, fd, with_fileno, with_getfd } do f:close() end
    assert.equal("integer file fd fileno getfd", result(p, "tell"))
  end)

  case("duplicates: the caller may close its own and use the number again #near", function()
    local p = tine.new():eval(TELL)
    for i = 1, 20 do
      local f <close> = file_with("file" .. i)
      p:send_fd(f)
    end
    local expected = {}
    for i = 1, 20 do expected[i] = "file" .. i end
    assert.equal(table.concat(expected, " "), result(p, "tell"))
  end)

  case("sends more in a call than the kernel takes in a message #near", function()
    local f <close> = file_with("x")
    local list = {}
    for i = 1, 300 do list[i] = f end
    local p = tine.new():send_fd(table.unpack(list)):send_fd()
    assert.equal("300", result(p, function(sock, ...) sock:write(select("#", ...)) end))
  end)

  case("gives descriptors that are of use: a conversation over one #near", function()
    local mine, theirs = assert(tine.socketpair())
    local p = tine.new():send_fd(theirs)
    theirs:close()
    local sock = p:run(function(_, fd)
      local line = fd:read_line()
      fd:write(line:upper() .. "\n")
    end)
    mine:write("hello\n")
    assert.equal("HELLO", mine:read_line())
    assert.is_nil(mine:read())
    mine:close()
    sock:close()
  end)
end)

describe("send_arg #proc", function()
  case("sends empty, binary and long strings, many at once", function()
    local binary, list = "\0\1\255\n\27Lua", {}
    for i = 1, 500 do list[i] = ("x"):rep(i) end
    local p = tine.new():eval(TELL):send_arg():send_arg("", binary, ""):send_arg("last")
    assert.equal(table.concat({ word "", word(binary), word "", word "last" }, " "),
      result(p, "tell"))
    local q = tine.new():send_arg(table.unpack(list)):send_arg(("y"):rep(5e6))
    assert.equal("501 125250 5000000", result(q, function(sock, ...)
      local args, sum = { ... }, 0
      for i = 1, 500 do sum = sum + #args[i] end
      sock:write(("%d %d %d"):format(#args, sum, #args[501]))
    end))
  end)
end)

describe("run #proc", function()
  local CODE <const> = [[
    function fn(sock) sock:write("global") end
    a = { b = { fn = function(sock) sock:write("nested global") end } }
    package.loaded["my.module"] = { fn = function(sock) sock:write("module") end,
      inner = { fn = function(sock) sock:write("inner") end } }
    my = { module = { fn = function(sock) sock:write("shadowed global") end } }
    package.loaded.single = function(sock) sock:write("function module") end
  ]]

  case("finds functions by name: in globals and in modules", function()
    local template = tine.new():eval(CODE)
    for name, expected in pairs {
      ["fn"] = "global", ["a.b.fn"] = "nested global", ["my.module.fn"] = "module",
      ["my.module.inner.fn"] = "inner", ["single"] = "function module",
    } do
      assert.equal(expected, result(template:fork(), name))
    end
  end)

  case("calls a function of a module that was loaded from a file", function()
    local path = modules { ["my.worker"] = [[
      local worker = {}
      function worker.run(sock, name) sock:write("hello " .. name) end
      return worker
    ]] }
    local p = with_path(tine.new(), path):require("my.worker"):send_arg("you")
    assert.equal("hello you", result(p, "my.worker.run"))
  end)

  case("gives both sides an end: close-on-exec and blocking", function()
    local function flags_of(fd, pid)
      return tonumber(proc.text(("/proc/%s/fdinfo/%d"):format(pid, fd)):match("flags:%s*(%d+)"), 8)
    end
    local CLOEXEC <const>, NONBLOCK <const> = 0x80000, 0x800
    local p = tine.new()
    local sock = p:run(function(sock)
      sock:write(sock:fileno() .. "\n")
      sock:write(sock:read_line() .. " and back\n")
      sock:read()
    end)
    local theirs = flags_of(tonumber(sock:read_line()), p:pid())
    local mine = flags_of(sock:fileno(), "self")
    assert.equal(CLOEXEC, theirs & (CLOEXEC | NONBLOCK))
    assert.equal(CLOEXEC, mine & (CLOEXEC | NONBLOCK))
    sock:write("there\n")
    assert.equal("there and back", sock:read_line())
    sock:close()
  end)

  case("calls back with the socket, outside of a coroutine", function()
    local sock, p
    coroutine.wrap(function() -- not one of tine.go
      p = tine.new()
      assert.is_nil(p:run(function(s) s:write("x") end, function(s, err)
        assert.is_nil(err)
        sock = s
      end))
      assert.is_nil(sock)
      assert_blames("a callback is needed", function() tine.new():run("fn") end)
    end)()
    wait_for(function() return sock end)
    assert.equal("x", proc.read_all(sock))
  end)

  case("ends the process when the function returns, sockets open or not", function()
    local p = tine.new()
    local sock = p:run(function() return 1, 2, 3 end)
    local err, info = p:on_exit()
    assert.is_nil(err)
    assert.equal(0, info.code)
    assert.is_nil(sock:read())
    sock:close()
  end)

  case("gives an err in place of the socket where there is no process", function()
    local template = tine.new():on_error(function() end):eval("error('broken')")
    local p = template:fork()
    local sock, err = p:run("fn")
    assert.is_nil(sock)
    assert.equal("exception", err.kind)
    assert.matches("broken", err.message)
  end)
end)

describe("run_args #proc", function()
  case("gives what was sent so far, and clears it #near", function()
    local f <close> = file_with("F")
    local p = tine.new():eval(TELL):send_arg("one"):send_fd(f):send_arg("two")
    p:eval("early = table.pack(require('tine').run_args())")
    p:eval("none = select('#', require('tine').run_args())")
    p:send_arg("three")
    p:eval("function entry(...) tell(...) end")
    assert.equal('"one" "two" 3 0 "three"', result(p, function(sock, ...)
      local e = early -- luacheck: ignore 113
      sock:write(("%q %q %d %d %q"):format(e[1], e[3], e.n, none, ...)) -- luacheck: ignore 113
    end))
  end)

  case("clears it for forks that come later, not for those before", function()
    local a = tine.new():send_arg("one")
    local b = a:fork()
    a:eval("require('tine').run_args()")
    local c = a:fork()
    local function count(sock, ...) sock:write(select("#", ...)) end
    assert.equal("1", result(b, count))
    assert.equal("0", result(c, count))
  end)

  it("raises in a host", function()
    assert_blames("not a child", function() tine.run_args() end)
  end)
end)

describe("pid and await_ready #proc", function()
  case("tell the process id when it is known", function()
    local p = tine.new()
    assert.is_nil(p:pid())
    local pid = p:await_ready()
    assert.equal(pid, p:pid())
    assert.is_true(helper.alive(pid))
    assert.equal(pid, p:await_ready())
    assert.equal(tostring(pid), result(p, function(sock)
      local f <close> = io.open("/proc/self/stat")
      sock:write(f:read("n"))
    end))
    p:on_exit()
    assert.equal(pid, p:pid())
  end)

  case("take a callback", function()
    local told
    local p = tine.new()
    assert.equal(p, p:await_ready(function(pid, err) told = { pid, err } end))
    wait_for(function() return told end)
    assert.same({ p:pid() }, told)
  end)

  case("give an err where there is no process", function()
    local template = tine.new():on_error(function() end):eval("error('broken')")
    local p = template:fork()
    local pid, err = p:await_ready()
    assert.is_nil(pid)
    assert.matches("broken", err.message)
    assert.is_nil(p:pid())
  end)
end)

describe("kill #proc", function()
  local function sleeper()
    local p = tine.new()
    local sock = p:run(function(sock) sock:read() end)
    return p, sock
  end

  case("takes names, with and without SIG, numbers, and TERM by itself", function()
    for _, given in ipairs { { nil, 15 }, { "KILL", 9 }, { "SIGINT", 2 }, { 10, 10 } } do
      local p, sock = sleeper()
      assert.is_true(p:kill(given[1]))
      local err, info = p:on_exit()
      assert.equal("crash", err.kind)
      assert.equal(given[2], err.signal)
      assert.equal(given[2], info.signal)
      assert.is_nil(info.code)
      sock:close()
    end
  end)

  case("before the process is made takes effect as soon as it is", function()
    local p = tine.new()
    assert.is_nil(p:pid())
    assert.is_true(p:kill())
    local err, info = p:on_exit()
    assert.equal(15, err.signal)
    assert.equal(p:pid(), info.pid)
  end)

  case("reaches an idle process, a template, and one that runs code without end", function()
    local idle, template, busy = tine.new(), tine.new(), tine.new():eval("while true do end")
    local worker = template:fork()
    worker:await_ready()
    for _, p in ipairs { idle, template, busy } do
      p:await_ready()
      assert.is_true(p:kill())
      assert.equal(15, p:on_exit().signal)
    end
    assert.equal("crash", worker:on_exit().kind)
  end)

  case("of a process that has ended returns an err", function()
    local p = tine.new()
    p:run(function() end, function() end)
    p:on_exit()
    local ok, err = p:kill()
    assert.is_nil(ok)
    assert.equal("system", err.kind)
    assert.equal(3, err.errno) -- ESRCH
    p:close()
    ok, err = p:kill("KILL")
    assert.is_nil(ok)
    assert.equal("closed", err.kind)
  end)

  case("refuses what is no signal", function()
    local p = tine.new()
    assert_blames("no signal", function() p:kill("NONE") end)
    assert_blames("no such signal", function() p:kill(1000) end)
    assert_blames("", function() p:kill({}) end)
  end)
end)

describe("on_exit #proc", function()
  local ENDS <const> = {
    ["returning"] = { code = "function fn() return 7 end", exit = 0 },
    ["raising"] = { code = "function fn() error('x') end", exit = 1, kind = "exit" },
    ["os.exit(7)"] = { code = "function fn() os.exit(7) end", exit = 7, kind = "exit" },
    ["os.exit(true)"] = { code = "function fn() os.exit(true) end", exit = 0 },
    ["os.exit(false)"] = { code = "function fn() os.exit(false) end", exit = 1, kind = "exit" },
    ["os.exit()"] = { code = "function fn() os.exit() end", exit = 0 },
    ["tine.exit(3)"] = { code = "function fn() require('tine').exit(3) end", exit = 3,
      kind = "exit" },
    ["tine.exit(4, true)"] = { code = "function fn() require('tine').exit(4, true) end", exit = 4,
      kind = "exit" },
    ["os.exit(5) in a coroutine"] = { exit = 5, kind = "exit",
      code = "function fn() coroutine.wrap(function() os.exit(5) end)() end" },
    ["os.exit(6) in eval"] = { code = "os.exit(6)", exit = 6, kind = "exit" },
    ["SIGSEGV"] = { code = "function fn() os.execute('kill -SEGV $PPID') end", signal = 11,
      kind = "crash", name = "SIGSEGV" },
    ["SIGTERM"] = { code = "function fn() os.execute('kill -TERM $PPID') end", signal = 15,
      kind = "crash", name = "SIGTERM" },
    ["SIGABRT in eval"] = { code = "os.execute('kill -ABRT $PPID')", signal = 6, kind = "crash",
      name = "SIGABRT" },
  }
  for name, expected in pairs(ENDS) do
    for _, how in ipairs { "forked", "exec'ed" } do
      case("tells of a " .. how .. " process that ends by " .. name, function()
        local p = how == "forked" and tine.new() or tine.new_exec()
        local err, info = finish(p:eval(expected.code), "fn")
        assert.equal(expected.exit, info.code)
        assert.equal(expected.signal, info.signal)
        assert.equal(p:pid(), info.pid)
        assert.equal("number", type(info.rusage.maxrss))
        assert.equal(expected.kind, err and err.kind)
        if err then
          assert.equal(info.pid, err.pid)
          assert.equal(info.code, err.code)
          assert.equal(info.signal, err.signal)
          assert.matches(expected.name or "code " .. expected.exit, err.status)
          assert.matches(expected.name or "code " .. expected.exit, tostring(err))
        end
      end)
    end
  end

  case("tells what the process itself has used, not its template", function()
    local function spend(sock, ms)
      local until_then = os.clock() + ms / 1000
      while os.clock() < until_then do end
      local text = ("x"):rep(30e6)
      sock:write(#text)
    end
    local template = tine.new():eval("local t = os.clock() + 0.1 while os.clock() < t do end")
    local a, b = template:fork(), template:fork()
    a:send_arg("60"):run(spend, function() end)
    b:send_arg("0"):run(function() end, function() end)
    local _, info_a = a:on_exit()
    local _, info_b = b:on_exit()
    local function cpu(info) return info.rusage.utime + info.rusage.stime end
    assert.is_true(cpu(info_a) >= 0.05 and cpu(info_a) < 5, cpu(info_a))
    assert.is_true(cpu(info_b) < 0.05, cpu(info_b))
    assert.is_true(info_a.rusage.maxrss > 30e6 and info_a.rusage.maxrss < 1e9)
    assert.is_true(math.type(info_a.rusage.minflt) == "integer")
  end)

  case("calls each callback exactly once, in order", function()
    local calls = {}
    local p = tine.new()
    for i = 1, 3 do
      p:on_exit(function(err, info)
        assert.is_nil(err)
        calls[#calls + 1] = i .. ":" .. info.code
      end)
    end
    p:run(function() end, function() end)
    wait_for(function() return #calls >= 3 end)
    p:close()
    p = nil -- luacheck: ignore 311
    collectgarbage()
    for _ = 1, 5 do tine.loop.sleep(0) end
    assert.same({ "1:0", "2:0", "3:0" }, calls)
  end)

  case("called after the end is told, too, and only the new one is", function()
    local calls = {}
    local p = tine.new():on_exit(function() calls[#calls + 1] = "first" end)
    p:run(function() os.exit(2) end, function() end)
    p:on_exit()
    p:on_exit(function(err, info)
      calls[#calls + 1] = "late"
      assert.equal(2, info.code)
      assert.equal("exit", err.kind)
    end)
    assert.equal(2, p:on_exit().code)
    assert.same({ "first", "late" }, calls)
  end)

  case("is told once all that the process wrote has been read #near", function()
    local lines = 0
    local p = tine.new { stdout = function() lines = lines + 1 end }
    p:run(function() for i = 1, 3000 do print(i) end end, function() end)
    p:on_exit()
    assert.equal(3000, lines)
  end)

  case("is told of a process that was never made", function()
    local template = tine.new():on_error(function() end):eval("error('broken')")
    local err, info = finish(template:fork())
    assert.matches("broken", err.message)
    assert.is_nil(info.code)
    assert.is_nil(info.pid)
  end)
end)

describe("on_error #proc", function()
  local function failure(p, func)
    local err, info, errors = finish(p, func)
    assert.equal(1, #errors)
    assert.equal("exit", err.kind)
    assert.equal(1, info.code)
    assert.equal(info.pid, errors[1].pid)
    assert.equal("exception", errors[1].kind)
    return errors[1]
  end

  case("tells of a syntax error", function()
    local err = failure(tine.new():eval("local x = 1\nlocal y = = 2"))
    assert.matches(":2: unexpected symbol near '='", err.message)
    assert.matches("local x = 1", err.message, 1, true)
  end)

  case("tells of an error in eval, with the worker's traceback", function()
    local err = failure(tine.new():eval("local function inner(x)\n  error('went ' .. x)\nend\n"
      .. "function outer(x) inner(x) end\nouter(...)", "wrong"))
    assert.matches(":2: went wrong$", err.message)
    assert.matches("in.-function 'outer'", err.traceback)
    assert.matches("in.- 'inner'", err.traceback)
    assert.matches("went wrong\n.*stack traceback:", tostring(err))
  end)

  case("tells of error values that are no strings", function()
    assert.equal("custom", failure(tine.new():eval(
      "error(setmetatable({}, { __tostring = function() return 'custom' end }))")).message)
    -- Without an address, which is nobody's affair.
    assert.equal("(error object is a table value)", failure(tine.new():eval("error({})")).message)
    assert.equal("nil", failure(tine.new():eval("error()")).message)
    assert.matches("in tostring$", failure(tine.new():eval(
      "error(setmetatable({}, { __tostring = function() error('in tostring') end }))")).message)
    assert.equal("a\0b", failure(tine.new():eval("error('a\\0b', 0)")).message)
  end)

  case("tells of a stack overflow, and of very long messages", function()
    assert.matches("stack overflow",
      failure(tine.new():eval("local function f() return 1 + f() end f()")).message)
    local err = failure(tine.new():eval("error(('x'):rep(1e6), 0)"))
    assert.matches("^xxxx", err.message)
    assert.is_true(#err.message > 1000)
  end)

  case("tells of a missing module, and of an error in one", function()
    assert.matches("module 'no.such' not found", failure(tine.new():require("no.such")).message)
    local path = modules { bad = "local x = nil\nx.y = 1" }
    local err = failure(with_path(tine.new(), path):require("bad"))
    assert.matches("bad.lua:2: attempt to index a nil value", err.message)
    assert.matches("bad.lua:2: in main chunk", err.traceback)
  end)

  case("tells of a missing entry function what there is instead", function()
    local template = tine.new():eval([[
      function worker_run() end
      package.loaded["my.worker"] = { start = function() end, value = 1 }
      number = 3
    ]])
    for name, patterns in pairs {
      ["worker_rum"] = { "no function 'worker_rum'", "near names: 'worker_run'", "my%.worker" },
      ["my.worker.strat"] = { "module 'my.worker' is loaded, but has no 'strat'",
        "'my.worker.start'" },
      ["my.werker.start"] = { "module 'my.werker' is not loaded", "'my.worker.start'" },
      ["my.worker.value"] = { "'my.worker.value' is a number" },
      ["number"] = { "the global 'number' is a number" },
      [""] = { "no function ''" },
      ["a..b"] = { "no function 'a..b'" },
    } do
      local err = failure(template:fork(), name)
      for _, pattern in ipairs(patterns) do assert.matches(pattern, err.message) end
    end
  end)

  case("tells of an error in an entry function, with its traceback", function()
    local err = failure(tine.new():eval("function fn() local x = nil + 1 end"), "fn")
    assert.matches("attempt to perform arithmetic on a nil value", err.message)
    assert.matches("in function 'fn'", err.traceback)
  end)

  case("calls all callbacks, and those set later", function()
    local calls = {}
    local function callback(n) return function(err) calls[n] = err.message end end
    local p = tine.new():on_error(callback(1)):on_error(callback(2)):eval("error('x', 0)")
    p:on_exit()
    assert.same({ "x", "x" }, calls)
  end)

  case("waits in a coroutine", function()
    local p = tine.new():eval("error('x', 0)")
    assert.equal("x", p:on_error().message)
    p = tine.new()
    p:run(function() end, function() end)
    assert.is_nil(p:on_error())
  end)

  case("comes once: the process carries out nothing more", function()
    local path = helper.tmpname()
    local p = tine.new():eval("error('first', 0)"):eval("error('second', 0)")
      :eval("io.open(..., 'w'):close()", path):require("no.such")
    local err = failure(p, "no_such_function")
    assert.equal("first", err.message)
    assert.is_nil(io.open(path))
  end)

  case("comes before on_exit", function()
    local order = {}
    local p = tine.new():on_exit(function() order[#order + 1] = "exit" end)
      :on_error(function() order[#order + 1] = "error" end)
      :eval("error('x')")
    p:on_exit()
    assert.same({ "error", "exit" }, order)
  end)

  case("of a failed template reaches its forks, with the cause", function()
    local template = tine.new():on_error(function() end)
    local before = template:fork()
    template:eval("error('broken', 0)")
    local after = template:fork()
    local grandchild = after:fork()
    for _, p in ipairs { after, grandchild } do
      local err, _, errors = finish(p)
      assert.matches("broken", err.message)
      assert.matches("fork", err.message)
      assert.equal("exception", err.kind)
      assert.equal(1, #errors)
    end
    -- Those that were made before are well, and the template waits for them.
    assert.equal("fine", result(before, function(sock) sock:write("fine") end))
    assert.equal(1, template:on_exit().code)
    local late = template:fork()
    local err = finish(late)
    assert.matches("broken", err.message)
  end)

  it("writes to stderr where there is no handler", function()
    local text, code = proc.run_program([[
      tine.new():eval("error('in eval')")
      tine.new { name = "titled" }:require("no.such.module")
      tine.new():eval("function fn() error('in entry') end"):run("fn", function() end)
      tine.new():on_error(function(err) print("handled: " .. err.message) end)
        :eval("error('not on stderr', 0)")
      tine.loop.run()
    ]])
    assert.equal(0, code)
    assert.matches("tine: process %d+: .-in eval\nstack traceback:\n", text)
    assert.matches("tine: process %d+ %(titled%): module 'no.such.module' not found", text)
    assert.matches("in entry\nstack traceback:\n.-in function 'fn'", text)
    assert.matches("\nhandled: not on stderr\n", "\n" .. text)
    assert.not_matches("tine: [^\n]*not on stderr", text)
  end)
end)

describe("misuse #proc", function()
  case("of a handle that was consumed raises at the caller's line", function()
    local p = tine.new()
    local sock = p:run(function(sock) sock:read() end)
    local f <close> = file_with("x")
    assert_blames("consumed by run", function() p:eval("x = 1") end)
    assert_blames("consumed by run", function() p:eval(function() end) end)
    assert_blames("consumed by run", function() p:require("x") end)
    assert_blames("consumed by run", function() p:send_arg("x") end)
    assert_blames("consumed by run", function() p:send_fd(f) end)
    assert_blames("consumed by run", function() p:fork() end)
    assert_blames("consumed by run", function() p:run("fn") end)
    assert_blames("consumed by run", function() p:run("fn", function() end) end)
    assert_blames("consumed by run", function() p:to_fd() end)
    assert_blames("consumed by run", function() p:to_fd(function() end) end)
    -- What may still be called.
    assert.equal("number", type(p:pid()))
    assert.equal(p, p:on_error(function() end))
    assert.equal(p, p:on_exit(function() end))
    assert.is_true(p:kill())
    assert.equal(15, p:on_exit().signal)
    p:close()
    sock:close()
  end)

  case("of a handle consumed by to_fd raises #near", function()
    local p = tine.new()
    local fd = p:to_fd()
    assert_blames("consumed by to_fd", function() p:eval("x = 1") end)
    assert_blames("consumed by to_fd", function() p:run("fn") end)
    fd:close()
    p:on_exit()
  end)

  case("of a closed handle raises", function()
    local p = tine.new()
    p:close()
    assert_blames("closed", function() p:eval("x = 1") end)
    assert_blames("closed", function() p:send_arg() end)
    assert_blames("closed", function() p:fork() end)
    assert_blames("closed", function() p:run("fn") end)
    p:close()
  end)

  case("of eval: bytecode, and what is no code", function()
    local p = tine.new()
    assert_blames("bytecode", function() p:eval(string.dump(function() end)) end)
    assert_blames("bytecode", function() p:eval("\27Lua") end)
    assert_blames("bytecode", function() p:eval(string.dump(function() end), 1, {}) end)
    assert_blames("source text", function() p:eval() end)
    assert_blames("source text", function() p:eval(1) end)
    assert_blames("source text", function() p:eval({}) end)
    assert_blames("C function", function() p:eval(print) end)
    assert_blames("userdata", function() p:eval("x = ...", p) end)
    assert_blames("coroutine", function() p:eval("x = ...", coroutine.create(print)) end)
    assert.equal("fine", result(p, function(sock) sock:write("fine") end))
  end)

  case("of send_fd: closed and invalid descriptors; nothing of the call is sent #near", function()
    local p = tine.new():eval(TELL)
    local good <close> = file_with("good")
    local closed = file_with("closed")
    closed:close()
    local closed_fd, other = tine.socketpair()
    closed_fd:close()
    other:close()
    assert_blames("#1 .*closed", function() p:send_fd(closed) end)
    assert_blames("#2 .*closed", function() p:send_fd(good, closed) end)
    assert_blames("closed", function() p:send_fd(closed_fd) end)
    assert_blames("not open", function() p:send_fd(99999) end)
    assert_blames("#1 ", function() p:send_fd(-1) end)
    assert_blames("#1 ", function() p:send_fd(1 << 40) end)
    assert_blames("#1 ", function() p:send_fd(1.5) end)
    assert_blames("#1 ", function() p:send_fd("1") end)
    assert_blames("#1 ", function() p:send_fd(nil) end)
    assert_blames("#1 ", function() p:send_fd({}) end)
    assert_blames("", function() p:send_fd({ fileno = function() return "x" end }) end)
    assert_blames("", function() p:send_fd({ fileno = function() return 99999 end }) end)
    assert.equal("good", result(p:send_fd(good), "tell"))
  end)

  case("of send_arg and require: what is no string; nothing of the call is sent", function()
    local p = tine.new():eval(TELL)
    assert_blames("string expected, got number", function() p:send_arg(1) end)
    assert_blames("#2 .*string expected, got nil", function() p:send_arg("x", nil) end)
    assert_blames("string expected, got table", function() p:send_arg({}) end)
    assert_blames("string expected, got number", function() p:require(1) end)
    assert_blames("#2 .*string expected, got function", function() p:require("x", print) end)
    assert.equal('"y"', result(p:send_arg("y"), "tell"))
  end)

  case("of options, callbacks and names", function()
    local p = tine.new()
    assert_blames("unknown option 'nmae' %(there are: detach, name, stderr, stdin, stdout%)",
      function() tine.new({ nmae = "x" }) end)
    assert_blames("unknown option 'keep'", function() tine.new_exec({ keep = {} }) end)
    assert_blames("unknown option '1'", function() p:fork({ "x" }) end)
    assert_blames("table of options", function() tine.new("x") end)
    assert_blames("name: a string", function() tine.new({ name = 1 }) end)
    assert_blames("name: .*zero", function() p:fork({ name = "a\0b" }) end)
    assert_blames("stdin: ", function() p:fork({ stdin = print }) end)
    assert_blames("stdin: ", function() tine.new({ stdin = "none" }) end)
    assert_blames("stdout: .*not open", function() tine.new({ stdout = 99999 }) end)
    assert_blames("stderr: ", function() tine.new_exec({ stderr = true }) end)
    assert_blames("function expected, got number", function() p:on_exit(1) end)
    assert_blames("function expected, got table", function() p:on_error({}) end)
    assert_blames("function expected, got string", function() p:run("fn", "x") end)
    assert_blames("name or a function", function() p:run(1, function() end) end)
    assert_blames("name or a function", function() p:run() end)
    assert_blames("C function", function() p:run(print, function() end) end)
    assert_blames("handle expected", function() p.eval({}, "x") end)
    assert_blames("handle expected", function() p.fork() end)
    assert.equal("fine", result(p, function(sock) sock:write("fine") end))
  end)
end)

describe("chaining #proc", function()
  case("works with all methods that say so #near", function()
    local f <close> = file_with("x")
    local p = tine.new()
    local nothing = function() end
    assert.equal(p, p:eval("x = 1"))
    assert.equal(p, p:eval(nothing))
    assert.equal(p, p:require("string"))
    assert.equal(p, p:send_fd(f))
    assert.equal(p, p:send_arg("x"))
    assert.equal(p, p:on_exit(nothing))
    assert.equal(p, p:on_error(nothing))
    assert.equal(p, p:await_ready(nothing))
    for _, name in ipairs { "require", "send_fd", "send_arg" } do assert.equal(p, p[name](p)) end
    assert.equal("x 1", result(p, function(sock, fd, arg)
      sock:write(arg .. " " .. x .. (fd and "" or "?")) -- luacheck: ignore 113
    end))
  end)

  case("methods only queue: commands to a process that has ended do no harm", function()
    local f <close> = file_with("x")
    local p = tine.new()
    p:await_ready()
    p:kill()
    p:on_exit()
    assert.equal(p, p:eval("x = 1"):eval(function() end):require("x"):send_arg("x"):send_fd(f))
    local err = finish(p:fork())
    assert.matches("ended", err.message)
    local sock, why = p:run("fn")
    assert.is_nil(sock)
    assert.equal("crash", why.kind)
  end)
end)
