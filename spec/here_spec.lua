-- tine.early and tine.here: forks of the program itself. The program is a script of its own
-- each time, since a spec must not be forked.
local helper = require "spec.helper"

-- What each script begins with, on its first line.
local PRELUDE <const> = [[
local tine = require "tine"; local loop = tine.loop
local function pid_of_self() local f <close> = io.open("/proc/self/stat"); return f:read("n") end
local function slurp(path) local f <close> = assert(io.open(path, "rb")); return f:read("a") end
-- Tells a worker to run a function, and returns all that it writes to its socket.
local function ask(p, func)
  local sock = assert(p:run(func))
  local parts = {}
  for part in function() return sock:read() end do parts[#parts + 1] = part end
  sock:close()
  return table.concat(parts), p:on_exit()
end
local function fds_of(pid)
  local f <close> = io.popen("exec 3>&-; ls -l /proc/" .. pid .. "/fd 2>/dev/null")
  local list = {}
  for fd, what in f:read("a"):gmatch(" (%d+) %-> ([^\n]*)") do list[tonumber(fd)] = what end
  return list
end
]]

local function flat(text)
  return (text:gsub("%-%-[^\n]*", ""):gsub("\n", " "))
end

-- Processes that were started with the mark in their environment.
local function marked(mark)
  local list = {}
  local out = helper.tmpname()
  os.execute(("grep -l -a -s 'TINE_SPEC_MARK=%s' /proc/[0-9]*/environ >%s"):format(mark, out))
  for line in io.lines(out) do
    local pid = tonumber(line:match("%d+"))
    if helper.alive(pid) then list[#list + 1] = pid end
  end
  os.remove(out)
  return list
end

local function assert_gone(mark)
  helper.wait_until(5, function()
    local list = marked(mark)
    for i, pid in ipairs(list) do list[i] = pid .. " " .. helper.title(pid) end
    return #list == 0, "still there: " .. table.concat(list, ", ")
  end)
end

local marks = 0

-- The command for a script, and the mark of all its processes.
local function command_of(code, prefix, ...)
  marks = marks + 1
  local mark = ("%d-%d-%d-"):format(helper.pid(), os.time(), marks)
  local script = helper.write_file(flat(PRELUDE) .. "\n" .. code)
  return ("%s env TINE_SPEC_MARK=%s %s"):format(prefix or "", mark,
    helper.program(script, ...)), mark
end

-- Runs a script to its end, sees that nothing of it is left, and returns its output.
local function run(code, prefix, ...)
  local command, mark = command_of(code, prefix, ...)
  local text, status = helper.run(command)
  assert_gone(mark)
  assert.are_not.equal(124, status, "took too long: " .. text)
  return text, status
end

local function assert_prints(expected, code, ...)
  assert.are.equal(expected, (run(code, ...)))
end

describe("buffered output #proc", function()
  for _, how in ipairs { "tine.here()", "tine.early()" } do
    it("is written once with " .. how, function()
      local text = run([[
        io.stdout:setvbuf("full")
        io.write("host before\n")
        local template = ]] .. how .. [[

        local p = template == true and tine.new() or template:fork()
        tine.main(function()
          ask(p, function() io.write("worker\n") end)
        end)
        io.write("host after\n")
        if template ~= true then
          template:run(function() io.write("template\n") end, function() end)
          loop.run()
        end
        os.exit(0, true)
      ]])
      local lines = {}
      for line in text:gmatch("[^\n]*\n") do lines[#lines + 1] = line end
      assert.are.equal("host before\n", lines[1])
      table.sort(lines)
      assert.are.same({ "host after\n", "host before\n",
        how == "tine.here()" and "template\n" or "worker\n",
        how == "tine.here()" and "worker\n" or nil }, lines)
    end)
  end

  it("of an open file is written once, and the file is the host's alone", function()
    local file = helper.tmpname()
    assert_prints("true\nbefore;after;", [[
      local path = ...
      out = io.open(path, "w")
      out:setvbuf("full")
      out:write("before;")
      local p = tine.here()
      out:write("after;")
      tine.main(function()
        print((ask(p, function(sock)
          local ok, err = pcall(function() out:write("child;") end)
          sock:write(tostring(not ok and err ~= nil))
          out = nil
          collectgarbage()
          require("tine").exit(0, true)
        end)))
      end)
      out:close()
      io.write(slurp(path))
    ]], nil, file)
  end)

  it("of an io.popen does not wait for the program in the child", function()
    assert_prints("through the pipe\nmore\nchild 0\n", [[
      local cat = io.popen("cat", "w")
      cat:setvbuf("full")
      cat:write("through the pipe\n")
      local p = tine.here()
      cat:write("more\n")
      local code
      tine.main(function()
        local _, err, info = ask(p, function() require("tine").exit(0, true) end)
        code = info.code
      end)
      cat:close()
      print("child " .. code)
    ]])
  end)
end)

describe("files from before a fork #proc", function()
  it("of io.popen do not keep the child from starting programs", function()
    assert_prints("one\ntwo\nthree\n", [[
      pipe = io.popen("cat", "w")
      local p = tine.here()
      tine.main(function()
        local echo = function(sock, text)
          local f <close> = assert(io.popen("echo " .. text))
          sock:write((f:read("l")))
        end
        print((p:fork():send_arg("one"):run(echo):read()))
        print((p:fork():send_arg("two"):run(echo):read()))
        p:eval("more = io.popen('cat', 'w')")
        print((p:send_arg("three"):run(echo):read()))
      end)
      pipe:close()
    ]])
  end)

  it("raise a clear error in the child, however they are used", function()
    assert_prints("11\n", [[
      reading = io.open("/proc/self/stat")
      next_line = reading:lines()
      pipe = io.popen("cat", "w")
      local p = tine.here()
      tine.main(function()
        print((ask(p, function(sock)
          local n = 0
          local function refused(fn, ...)
            local ok, err = pcall(fn, ...)
            assert(not ok, "not refused")
            err = tostring(err)
            assert(err:find("closed when the process was forked", 1, true) or
              err:find("FILE*", 1, true) or err:find("Bad file descriptor", 1, true), err)
            n = n + 1
          end
          for _, file in ipairs { reading, pipe } do
            refused(function() return file:read("a") end)
            refused(function() return file:lines() end)
            refused(function() return file:write("x") end)
            refused(function() return file:close() end)
            refused(io.input, file)
          end
          refused(next_line)
          assert(io.type(reading) == nil)
          assert(tostring(reading):find("closed by a fork"))
          sock:write(n)
        end)))
      end)
      pipe:close()
    ]])
  end)

  it("never close a descriptor whose number was used again", function()
    assert_prints("5 of 5 alive\n", [[
      local olds = {}
      for i = 1, 8 do olds[i] = io.open("/proc/self/stat") end
      olds[9], olds[10] = tine.socketpair()
      olds[11] = tine.listen("127.0.0.1:0")
      held = olds
      local p = tine.here()
      tine.main(function()
        print((ask(p, function(sock)
          local worker = require "tine"
          local news = {}
          for i = 1, 20 do news[i] = assert(worker.socketpair()) end
          for i = 1, 5 do news[i] = { assert(worker.socketpair()) } end
          for i, file in ipairs(held) do
            pcall(function() file:close() end)
            held[i] = nil
          end
          held = nil
          collectgarbage()
          collectgarbage()
          local alive = 0
          for i = 1, 5 do
            local a, b = table.unpack(news[i])
            a:write("x")
            if b:read(1) == "x" then alive = alive + 1 end
          end
          sock:write(alive .. " of 5 alive")
        end)))
      end)
    ]])
  end)

  it("go on in the host where they were", function()
    local file = helper.write_file("one\ntwo\nthree\n")
    assert_prints("one\nclosed\ntwo\nthree\nnil\n", [[
      input = io.open((...))
      sock_a, sock_b = tine.socketpair()
      sock_a:write("two\nthree\n")
      print(input:read("l"))
      assert(sock_b:read_line() == "two") -- reads ahead
      local p = tine.here()
      tine.main(function()
        print((ask(p, function(sock)
          local data, err = sock_b:read_line()
          sock:write(data or err.kind)
          require("tine").exit(0, true)
        end)))
        assert(sock_b:read_line() == "three")
      end)
      for _ = 1, 3 do print(input:read("l")) end
    ]], nil, file)
  end)

  it("leave io.input and io.output at something usable", function()
    local file = helper.tmpname()
    assert_prints("child\n", [[
      io.output((...))
      io.input("/proc/self/stat")
      local p = tine.here()
      tine.main(function()
        ask(p, function()
          assert(io.input() == io.stdin and io.output() == io.stdout)
          assert(io.read() == nil)
          io.write("child\n")
        end)
      end)
    ]], nil, file)
    local f <close> = assert(io.open(file))
    assert.are.equal("", f:read("a"))
  end)

  it("do not move the host's stdin", function()
    local file = helper.write_file("one\ntwo\nthree\n")
    assert_prints("one\n0\ntwo\nthree\nnil\n", [[
      print(io.read())
      local p = tine.here { stdin = "inherit" }
      tine.main(function()
        local _, _, info = ask(p, function() require("tine").exit(0, true) end)
        print(info.code)
      end)
      for _ = 1, 3 do print(io.read()) end
    ]], "exec <" .. file .. ";")
  end)
end)

describe("the descriptors of a fork #proc", function()
  -- The host has a bit of everything open, and a loop that has run.
  local BUSY <const> = [[
    local junk = { io.open("/proc/self/stat"), io.popen("cat", "w"), tine.listen("127.0.0.1:0") }
    junk[4], junk[5] = tine.socketpair()
    loop.io(junk[4], "w", function(_, io) io:close() end)
    loop.signal("USR1", error):close()
    loop.timer(0.001, function() end)
    loop.run()
    -- A new process has one more for a moment: the pidfd that it sends to the host.
    local function settled(pid)
      while true do
        local list, new = fds_of(pid), false
        for _, what in pairs(list) do new = new or what:find("[pidfd]", 1, true) end
        if not new then return list end
      end
    end
    local function show(pid)
      local own, list = fds_of(pid_of_self()), {}
      for fd, what in pairs(settled(pid)) do
        what = what:gsub("%[%d+%]", "")
        list[#list + 1] = fd <= 2 and (fd .. " " .. (what == "/dev/null" and what or
          (own[fd]:gsub("%[%d+%]", "") == what and "host's" or what))) or "+ " .. what
      end
      table.sort(list)
      print(table.concat(list, ", "))
    end
  ]]

  -- Who has made a worker has a set, too, by which it hears of its end.
  local SET <const> = "+ anon_inode:[eventpoll], "

  it("are stdio and its own sockets", function()
    local own = "+ socket:, + socket:, 0 /dev/null, 1 host's, 2 host's\n"
    assert_prints(SET .. own .. own .. own, BUSY .. [[
      local p = tine.here()
      local q = p:fork()
      tine.main(function()
        p:await_ready()
        q:await_ready()
        show(p:pid())
        show(q:pid())
        assert(tine.early())
        local r = tine.new()
        r:await_ready()
        show(r:pid())
        r:close()
      end)
      p:close()
      q:close()
    ]], "exec 7</dev/zero; exec 9</dev/zero;")
  end)

  it("are the same after run, where the command socket is the worker's", function()
    local own = "+ socket:, + socket:, 0 /dev/null, 1 host's, 2 host's\n"
    assert_prints(own .. SET .. own, BUSY .. [[
      local p = tine.here()
      local q = p:fork()
      tine.main(function()
        for _, each in ipairs { q, p } do
          local sock = each:run(function(s)
            s:write("x")
            s:read()
          end)
          assert(sock:read() == "x")
          show(each:pid())
          sock:close()
          each:on_exit()
        end
      end)
    ]])
  end)

  it("are those of opts.keep too: a tine.fd, a file, an integer", function()
    local file = helper.tmpname()
    local expected = ("+ /dev/zero, + %s, %%s+ socket:, + socket:, + socket:, 0 /dev/null, "
      .. "1 host's, 2 host's\n"):format(file)
    assert_prints(expected:format(SET) .. expected:format(""), BUSY .. [[
      local p = tine.here { keep = { tine.socketpair(), io.open((...), "w"), 9 } }
      local q = p:fork()
      tine.main(function()
        p:await_ready()
        q:await_ready()
        show(p:pid())
        show(q:pid())
      end)
    ]], "exec 7</dev/zero; exec 9</dev/zero;", file)
  end)

  it("keep what opts.keep asks for, as it was", function()
    local file = helper.tmpname()
    assert_prints("from the worker 4 x\nfrom the child 4 x\nstart;the worker;the child;end;\n", [[
      local path = ...
      out = io.open(path, "w")
      out:write("start;")
      a, b = tine.socketpair()
      function work(sock, who)
        local worker = require "tine"
        out:write(who .. ";")
        local zero <close> = worker.fd(9)
        sock:write("from " .. who .. " " .. #zero:read(4) .. " ")
        assert(b:write("x"))
      end
      local p = tine.here { keep = { b, out, 9 } }
      local q = p:fork():send_arg("the worker")
      p:send_arg("the child")
      tine.main(function()
        for _, each in ipairs { q, p } do
          local text = ask(each, "work")
          print(text .. a:read())
        end
      end)
      out:write("end;")
      out:close()
      print(slurp(path))
    ]], "exec 9</dev/zero;", file)
  end)

  it("are refused in opts.keep where they are none, at the caller's line", function()
    local text = run([[
      local function try(list) print(select(2, pcall(function() tine.here { keep = list } end))) end
      local f = io.open("/proc/self/stat")
      f:close()
      try("x")
      try({ 0, 9999 })
      try({ f })
      try({ {} })
      print(select(2, pcall(tine.new, { keep = {} })))
    ]])
    local lines = {}
    for line in text:gmatch("[^\n]+") do lines[#lines + 1] = line:gsub("^.-:(%d+): ", "%1 ") end
    assert.are.same({
      "2 here: keep: a list of descriptors expected, got string",
      "2 here: keep[2]: the descriptor is not open",
      "2 here: keep[1]: the file is closed",
      "2 here: keep[1]: descriptor, file or object with fileno() expected, got table",
    }, table.move(lines, 1, 4, 1, {}))
    assert.matches("unknown option 'keep'", lines[5])
  end)
end)

describe("math.random #proc", function()
  -- Each process gives three numbers.
  local DRAW <const> = [[
    function draw(sock)
      sock:write(table.concat({ math.random(0), math.random(0), math.random(0) }, " "))
    end
    local function own() return table.concat({ math.random(0), math.random(0), math.random(0) },
      " ") end
    local seen, n = {}, 0
    local function note(text)
      for number in text:gmatch("%S+") do
        n = n + 1
        assert(not seen[number], "a number came twice")
        seen[number] = true
      end
    end
  ]]

  for _, before in ipairs { "math.random()", "math.randomseed(42)", "" } do
    local title = before == "" and "was not used before" or "began with " .. before
    it("differs in all processes of a program that " .. title, function()
      assert_prints("18\n", DRAW .. before .. [[

        local p = tine.here()
        local a, b = p:fork(), p:fork()
        assert(tine.early())
        local c, d = tine.new(), tine.new_exec()
        tine.main(function()
          for _, each in ipairs { a, b, p, c, d } do note((ask(each, "draw"))) end
        end)
        note(own())
        print(n)
      ]])
    end)
  end

  it("is left alone in the host", function()
    assert_prints("true\n", DRAW .. [[
      math.randomseed(42)
      local expected = own()
      math.randomseed(42)
      local p = tine.here()
      p:close()
      assert(tine.early())
      tine.main(function() ask(tine.new(), "draw") end)
      print(own() == expected)
    ]])
  end)

  it("differs where the child evaluates code before its first fork", function()
    assert_prints("6\n", DRAW .. [[
      math.random()
      local a, b = tine.socketpair()
      tine.here():send_fd(b):eval("draw(require('tine').run_args())"):close()
      b:close()
      tine.main(function() note(a:read()) end)
      note(own())
      print(n)
    ]])
  end)
end)

describe("the state of a fork #proc", function()
  it("is the program's: globals, modules, closures", function()
    assert_prints("global 1 module 2 closure 3 local 4\nthe same\n", [[
      package.loaded["my.module"] = { fn = function() return "module 2" end }
      package.preload["never.required"] = function() return { fn = function() return 1 end } end
      local count = 2
      function counter()
        count = count + 1
        return "closure " .. count
      end
      value = "global 1"
      local hidden = "local 4"
      function work(sock)
        sock:write(value .. " " .. require("my.module").fn() .. " " .. counter() .. " " .. hidden)
      end
      function package.loaded.string.entry(sock) sock:write("the same") end
      local p = tine.here()
      value, count, hidden = "changed", 100, "changed"
      package.loaded["my.module"] = nil
      tine.main(function()
        print((ask(p:fork(), "work")))
        print((ask(p, "string.entry")))
      end)
    ]])
  end)

  it("is the program's as it was at the fork, and each fork's own", function()
    assert_prints("1 nil\n2 nil\n3 late\n", [[
      n = 1
      local first = tine.here()
      n = 2
      local second = tine.here()
      n = 3
      late = "late"
      local third = tine.here()
      n = 4
      tine.main(function()
        for _, p in ipairs { first, second, third } do
          print((ask(p, function(sock)
            sock:write(n .. " " .. tostring(late))
            n = 10
          end)))
        end
      end)
    ]])
  end)

  it("is a worker's, with all that require \"tine\" has there", function()
    assert_prints("true a b\nfalse\n", [[
      local p = tine.here():send_arg("a", "b")
      tine.main(function()
        print((ask(p, function(sock, ...)
          sock:write(tostring(require("tine").is_worker()) .. " " .. table.concat({ ... }, " "))
        end)))
      end)
      print(tine.is_worker())
    ]])
  end)

  it("has none of the host's handles, timers and coroutines", function()
    assert_prints("true 0 closed\nfired 1\n", [[
      handle = tine.new_exec()
      fired = 0
      timer = loop.timer(0.001, function() fired = fired + 1 end)
      local p = tine.here()
      tine.main(function()
        print((ask(p, function(sock)
          local worker = require "tine"
          sock:write(tostring(worker.loop.run()) .. " " .. fired .. " ")
          timer:close()
          local ok, err = pcall(handle.eval, handle, "x = 1")
          assert(not ok and err:find("forked from"), err)
          local _, problem = handle:kill("KILL")
          sock:write(problem.kind)
          handle:close()
        end)))
        handle:await_ready()
        handle:close()
      end)
      print("fired " .. fired)
    ]])
  end)
end)

describe("tine.early #proc", function()
  it("makes new and new_exec exec nothing", function()
    assert_prints(("same program, as it was\n"):rep(4), [[
      shared = "as it was"
      assert(tine.early() == true)
      shared = "as it is"
      tine.interpreter = "/nonexistent"
      local function exe_of(pid)
        local f <close> = io.popen("readlink /proc/" .. pid .. "/exe")
        return f:read("l")
      end
      tine.main(function()
        for _, make in ipairs { tine.new, tine.new_exec } do
          local template = make():eval("value = shared")
          for _, p in ipairs { template:fork(), template } do
            local sock = p:run(function(sock)
              sock:write(value)
              sock:read()
            end)
            local text = sock:read()
            print((exe_of(p:pid()) == exe_of(pid_of_self()) and "same" or "other")
              .. " program, " .. text)
            sock:close()
          end
        end
      end)
    ]])
  end)

  it("is undone by tine.reset", function()
    assert_prints("nil\t/nonexistent\n", [[
      assert(tine.early())
      assert(tine.reset())
      tine.interpreter = "/nonexistent"
      tine.main(function()
        local ok, err = tine.new():await_ready()
        print(ok, err.message:match("/nonexistent"))
      end)
    ]])
  end)

  it("is not for the children: they exec again", function()
    -- A worker of the early template that makes processes of its own.
    assert_prints("nil /nonexistent\n", [[
      tine.interpreter = "/nonexistent"
      assert(tine.early())
      tine.main(function()
        print((ask(tine.new(), function(sock)
          local worker = require "tine"
          worker.main(function()
            local ok, err = worker.new():await_ready()
            sock:write(tostring(ok) .. " " .. err.message:match("/nonexistent"))
          end)
        end)))
      end)
    ]])
  end)
end)

describe("forks in forks #proc", function()
  it("work to any depth", function()
    assert_prints("0 1 2 3 4 5\n", [[
      trail = "0"
      local p = tine.here()
      for i = 1, 5 do
        local deeper = p:fork():eval("trail = trail .. ' ' .. ...", tostring(i))
        p:close()
        p = deeper
      end
      tine.main(function()
        print((ask(p, function(sock) sock:write(trail) end)))
      end)
    ]])
  end)

  it("work for a worker that forks itself with tine.here", function()
    assert_prints("inner 7, outer 7\n", [[
      value = 7
      local p = tine.here():fork()
      tine.main(function()
        print((ask(p, function(sock)
          local worker = require "tine"
          worker.main(function()
            local inner = assert(worker.here())
            local s = inner:run(function(s) s:write("inner " .. value) end)
            sock:write(s:read() .. ", outer " .. value)
            s:close()
            assert(inner:on_exit() == nil)
          end)
        end)))
      end)
    ]])
  end)

  it("work for a worker with templates of its own", function()
    assert_prints("fresh nil\n", [[
      value = 7
      tine.main(function()
        print((ask(tine.here(), function(sock)
          local worker = require "tine"
          worker.main(function()
            local p = worker.new()
            local s = p:run(function(s) s:write("fresh " .. tostring(value)) end)
            sock:write(s:read())
            s:close()
            p:on_exit()
          end)
        end)))
      end)
    ]])
  end)

  it("stay alive below a template whose handle was dropped", function()
    assert_prints("still there\ngone\n", [[
      local template = tine.here()
      local p = template:fork()
      local pid
      tine.main(function()
        pid = template:await_ready()
        local sock = p:run(function(sock) sock:write(sock:read()) end)
        template:close()
        template = nil
        collectgarbage()
        sock:write("still there")
        print(sock:read())
        sock:close()
        assert(p:on_exit() == nil)
      end)
      local f = io.open("/proc/" .. pid .. "/stat")
      print(f and (f:read("a") or ""):match("%) (%a)") or "gone")
    ]])
  end)
end)

describe("the end of the host #proc", function()
  -- A host with all kinds of processes, which prints their ids and then does what it is told.
  local FAMILY <const> = [[
    assert(tine.early())
    local template = tine.here()
    local list = { template, template:fork(), tine.new(), template:fork():fork() }
    local function sleep(sock)
      sock:write("x")
      sock:read()
      while true do require("tine").loop.poll(1000) end
    end
    tine.main(function()
      for _, make in ipairs {
        function() return template:fork() end, tine.new, tine.here,
      } do
        local p = make()
        local sock = p:run(sleep)
        assert(sock:read() == "x")
        list[#list + 1] = p
        list[#list + 1] = sock
      end
      for _, p in ipairs(list) do
        if p.pid then io.write(p:await_ready(), " ") end
      end
      io.write("\n")
      io.stdout:flush()
      loop.stop() -- the workers run for ever
    end)
  ]]

  local function pids_in(line)
    local pids = {}
    for pid in line:gmatch("%d+") do pids[#pids + 1] = tonumber(pid) end
    assert.are.equal(7, #pids)
    return pids
  end

  local endings = {
    ["by its last line"] = "",
    ["by os.exit"] = "os.exit(0)",
    ["by os.exit that closes the state"] = "os.exit(0, true)",
    ["by an error"] = "error(\"an error\")",
    ["in a callback"] = "loop.timer(0, function() os.exit(0, true) end) loop.run()",
  }
  for title, code in pairs(endings) do
    it(title .. " is that of all", function()
      -- run() sees that nobody is left.
      local text = run(FAMILY .. code)
      for _, pid in ipairs(pids_in(text:match("^[^\n]*"))) do
        helper.wait_until(5, function() return not helper.alive(pid) end)
      end
    end)
  end

  it("by SIGKILL is that of all", function()
    local command, mark = command_of(FAMILY .. [[
      io.write(pid_of_self(), " end\n")
      io.stdout:flush()
      io.read()
    ]])
    finally(function()
      for _, pid in ipairs(marked(mark)) do os.execute("kill -KILL " .. pid) end
    end)
    -- Its stdin is a pipe that nobody writes to.
    local fifo, output = helper.tmpname(), helper.write_file("")
    assert(os.execute("mkfifo " .. fifo))
    assert(os.execute(("%s <>%s >%s 2>&1 &"):format(command, fifo, output)))
    local text
    helper.wait_until(10, function()
      local f <close> = io.open(output)
      text = f:read("a")
      return text:find(" end\n"), text
    end)
    local pids = pids_in(text:match("^[^\n]*"))
    for _, pid in ipairs(pids) do assert.is_true(helper.alive(pid)) end
    assert(os.execute("kill -KILL " .. text:match("(%d+) end")))
    for _, pid in ipairs(pids) do
      helper.wait_until(5, function() return not helper.alive(pid) end)
    end
    assert_gone(mark)
  end)
end)

describe("tine.here #proc", function()
  it("can be called in a coroutine", function()
    assert_prints("a coroutine's local\n", [[
      local p
      coroutine.wrap(function()
        local value = "a coroutine's local"
        function entry(sock) sock:write(value) end
        p = tine.here()
        coroutine.yield()
      end)()
      tine.main(function() print((ask(p, "entry"))) end)
    ]])
  end)

  it("can be called in a task, and in a callback of the loop", function()
    assert_prints("in a task\nin a callback\n", [[
      function entry(sock, text)
        local worker = require "tine"
        worker.main(function() worker.loop.sleep(0) end)
        sock:write(text)
      end
      tine.main(function()
        print((ask(tine.here():send_arg("in a task"), "entry")))
      end)
      local p
      loop.timer(0, function() p = tine.here():send_arg("in a callback") end)
      loop.run()
      tine.main(function() print((ask(p, "entry"))) end)
    ]])
  end)

  it("does not disturb the host's loop and workers", function()
    assert_prints("before\nio timer signal\nafter\n0\n", [[
      tine.main(function()
        local worker = tine.new()
        local sock = worker:run(function(sock)
          for line in function() return sock:read_line() end do sock:write(line .. "\n") end
        end)
        sock:write("before\n")
        print(sock:read_line())
        local a, b = tine.socketpair()
        local events = {}
        loop.io(b, "r", function(_, watcher)
          events[1] = "io"
          watcher:close()
        end)
        loop.timer(0.02, function() events[2] = "timer" end)
        loop.signal("USR1", function(_, signal)
          events[3] = "signal"
          signal:close()
        end)
        -- In the child all objects of the loop are finalized, and it has a loop of its own.
        local p = tine.here():eval([=[
          local worker = require "tine"
          collectgarbage()
          collectgarbage()
          worker.loop.timer(0, function() end)
          worker.loop.run()
        ]=])
        local _, _, info = ask(p, function() require("tine").exit(0, true) end)
        a:write("x")
        os.execute("kill -USR1 " .. pid_of_self())
        while #events < 3 do loop.sleep(0.001) end
        print(table.concat(events, " "))
        sock:write("after\n")
        print(sock:read_line())
        sock:close()
        worker:on_exit()
        print(info.code)
      end)
    ]])
  end)

  it("takes the options of a process", function()
    assert_prints("tine: my name\nline: to stdout\n/dev/zero\n", [[
      local p = tine.here {
        name = "my name", stdin = io.open("/dev/zero"),
        stdout = function(line) print("line: " .. line) end,
      }
      tine.main(function()
        p:await_ready()
        local f = io.open("/proc/" .. p:pid() .. "/cmdline")
        local title = f:read("a"):gsub("%z+$", "")
        -- Shown once the greeting has been read, before it answers.
        print(title)
        local text = ask(p, function(sock)
          print("to stdout")
          local g <close> = io.popen("readlink /proc/self/fd/0")
          sock:write(g:read("l"))
        end)
        print(text)
      end)
    ]])
  end)

  it("reports the exit status, and what went wrong", function()
    assert_prints("exit 7\ncrash 11\nexception oops\nexception no function 'nowhere'\n", [[
      tine.main(function()
        local err, _
        local function show(value) print(err.kind .. " " .. value) end
        _, err = ask(tine.here(), function() os.exit(7) end)
        show(err.code)
        _, err = ask(tine.here(), function()
          local f <close> = io.open("/proc/self/stat")
          os.execute("kill -SEGV " .. f:read("n"))
        end)
        show(err.signal)
        ask(tine.here():on_error(function(e) err = e end), function() error("oops", 0) end)
        show(err.message)
        ask(tine.here():on_error(function(e) err = e end), "nowhere")
        show(err.message:match("no function 'nowhere'"))
      end)
    ]])
  end)

  it("is refused while other threads run, and so is tine.early", function()
    if not os.execute("cc --version >/dev/null 2>&1") then
      pending("no C compiler")
      return
    end
    local folder = helper.tmpname()
    os.execute("mkdir " .. folder)
    local f <close> = assert(io.open(folder .. "/thread.c", "w"))
    f:write([[
      #include <pthread.h>
      #include <unistd.h>
      static pthread_t thread;
      static int ends[2];
      static void *wait(void *arg) { char c; return read(ends[0], &c, 1) ? arg : 0; }
      int thread_start(void *L)
      { (void)L; return pipe(ends) || pthread_create(&thread, 0, wait, 0); }
      int thread_stop(void *L) { (void)L; close(ends[1]); return pthread_join(thread, 0); }
    ]])
    f:close()
    local output, status = helper.run(("cd %s && cc -shared -fPIC -pthread -o thread.so thread.c")
      :format(folder), 60)
    assert.are.equal(0, status, output)
    assert_prints("here 16 system\nearly 16 system\nalive\n", [[
      local path = ...
      assert(package.loadlib(path, "thread_start"))()
      for _, name in ipairs { "here", "early" } do
        local ok, err = tine[name]()
        assert(ok == nil)
        print(name .. " " .. err.errno .. " " .. err.kind)
      end
      package.loadlib(path, "thread_stop")()
      tine.main(function()
        print((ask(tine.here(), function(sock) sock:write("alive") end)))
      end)
    ]], nil, folder .. "/thread.so")
  end)
end)

describe("finalizers of shared state #proc", function()
  -- Appends a line to a file when it is collected, with the process's id.
  local FINALIZER <const> = [[
    local path = ...
    host = pid_of_self()
    object = setmetatable({}, { __gc = function()
      local f <close> = io.open(path, "a")
      f:write(pid_of_self() == host and "host" or "child", "\n")
    end })
  ]]

  local function finalized(code)
    local file = helper.write_file("")
    local text, status = run(FINALIZER .. code, nil, file)
    assert.are.equal("", text)
    assert.are.equal(0, status)
    local f <close> = assert(io.open(file))
    return f:read("a")
  end

  it("do not run when a child leaves, however that is", function()
    assert.are.equal("host\n", finalized [[
      local template = tine.here()
      tine.main(function()
        ask(template:fork(), function() end)
        ask(template:fork(), function() os.exit(0) end)
        ask(template:fork(), function() os.exit(true) end)
        ask(template:fork(), function() require("tine").exit() end)
        ask(template:fork():on_error(function() end), function() error("oops") end)
        ask(template, function() end)
        local p = tine.here():eval("x = 1")
        p:close()
      end)
      loop.run()
      os.exit(0, true)
    ]])
  end)

  it("run where tine.exit(code, true) or os.exit(code, true) asks for them", function()
    assert.are.equal("child\nchild\nhost\n", finalized [[
      tine.main(function()
        local _, err = ask(tine.here(), function() require("tine").exit(5, true) end)
        assert(err.code == 5)
        _, err = ask(tine.here(), function() os.exit(6, true) end)
        assert(err.code == 6)
      end)
      os.exit(0, true)
    ]])
  end)
end)
