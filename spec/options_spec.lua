local helper = require "spec.helper"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local result, wait_for = proc.result, proc.wait_for

local function comm(pid) return (proc.text("/proc/" .. pid .. "/comm"):gsub("\n$", "")) end

-- Where the descriptors of a process lead to, by number. A new process has one more for a
-- moment: the pidfd that it sends to the host.
local function settled_fds(pid)
  return wait_for(function()
    local list = helper.fd_list(pid)
    for _, what in pairs(list) do
      if what:find("[pidfd]", 1, true) then return nil end
    end
    return list
  end)
end

local function descriptors_of(p)
  return settled_fds(assert(p:await_ready()))
end

local function count(list)
  local n = 0
  for _ in pairs(list) do n = n + 1 end
  return n
end

local function new_of(how) return how == "forked" and tine.new or tine.new_exec end

describe("name #proc", function()
  for _, how in ipairs { "forked", "exec'ed" } do
    case("is the title of a process that is " .. how, function()
      local p = new_of(how) { name = "the name" }
      local pid = p:await_ready()
      assert.equal("tine: the name", helper.title(pid))
      assert.equal("tine: the name", comm(pid))
    end)
  end

  case("may be longer than the kernel's 15 bytes, and of any bytes but zero", function()
    local name = "a rather long name with \200 bytes of all kinds"
    local p = tine.new { name = name }
    local pid = p:await_ready()
    assert.equal("tine: " .. name, helper.title(pid))
    assert.equal(("tine: " .. name):sub(1, 15), comm(pid))
    local long = tine.new { name = ("n"):rep(10000) }
    assert.equal("tine: nnnn", helper.title(assert(long:await_ready())):sub(1, 10))
    local empty = tine.new { name = "" }
    assert.matches("^tine", helper.title(assert(empty:await_ready())))
  end)

  case("of a fork is its own, and a shorter one leaves nothing of a longer", function()
    local a = tine.new { name = "a long name of a template" }
    local b = a:fork { name = "b" }
    local c = b:fork()
    assert.equal("tine: b", helper.title(assert(b:await_ready())))
    assert.equal("tine: a long name of a template", helper.title(a:pid()))
    assert.matches("^tine", helper.title(assert(c:await_ready())))
  end)

  case("is that of the entry function where none was given", function()
    local p = tine.new():eval("function my_entry(sock) sock:write('x') sock:read() end")
    local sock = p:run("my_entry")
    sock:read(1)
    assert.equal("tine: my_entry", helper.title(p:pid()))
    local q = tine.new { name = "kept" }:eval("function fn(sock) sock:write('x') sock:read() end")
    local sock_q = q:run("fn")
    sock_q:read(1)
    assert.equal("tine: kept", helper.title(q:pid()))
    sock:close()
    sock_q:close()
  end)

  case("leaves the environment as it is", function()
    local p = tine.new { name = ("n"):rep(150) }:send_arg("PATH")
    assert.equal(os.getenv("PATH"), result(p, function(sock, name)
      sock:write(os.getenv(name))
    end))
  end)

  it("is shown in messages on stderr", function()
    local text = proc.run_program("tine.new { name = 'xyz' }:eval('error(1)') tine.loop.run()")
    assert.matches("^tine: process %d+ %(xyz%): ", text)
  end)
end)

describe("standard input and output #proc", function()
  for _, how in ipairs { "forked", "exec'ed" } do
    case("can be /dev/null, " .. how, function()
      local p = new_of(how) { stdin = "null", stdout = "null", stderr = "null" }
      local list = descriptors_of(p)
      for fd = 0, 2 do assert.equal("/dev/null", list[fd]) end
      assert.equal("nil x", result(p, function(sock)
        local line = io.read()
        print("into the void")
        io.stderr:write("into the void")
        sock:write(tostring(line) .. " x")
      end))
    end)

    case("can be descriptors, " .. how, function()
      local path = helper.write_file("first line\nsecond line\n")
      local out, err = helper.tmpname(), helper.tmpname()
      local stdin, stdout = io.open(path), io.open(out, "w")
      local stderr = io.open(err, "w")
      local p = new_of(how) { stdin = stdin, stdout = stdout, stderr = stderr }
      stdin:close()
      stdout:close()
      stderr:close()
      assert.is_nil(proc.finish(p, function()
        print("read: " .. io.read())
        io.stderr:write("on stderr")
        os.execute("cat; echo from a program; echo error of a program >&2")
      end))
      assert.equal("read: first line\n", proc.text(out):match("^[^\n]*\n"))
      assert.matches("from a program\n$", proc.text(out))
      assert.equal("on stderrerror of a program\n", proc.text(err))
    end)

    case("can be one descriptor for both outputs, " .. how, function()
      local path = helper.tmpname()
      local f <close> = io.open(path, "w")
      local p = new_of(how) { stdout = f, stderr = f }
      assert.is_nil(proc.finish(p, function()
        io.stdout:setvbuf("no")
        io.write("a")
        io.stderr:write("b")
        io.write("c")
      end))
      assert.equal("abc", proc.text(path))
    end)

    case("can be functions that get each line and the handle, " .. how, function()
      local out, err, handles = {}, {}, {}
      local p = new_of(how) {
        stdout = function(line, handle)
          out[#out + 1] = line
          handles[handle] = true
        end,
        stderr = function(line, handle)
          err[#err + 1] = line
          handles[handle] = true
        end,
      }
      assert.is_nil(proc.finish(p, function()
        print("one", "1")
        io.write("\n")
        print("with \0 and \r")
        io.write("par")
        io.write("tial")
        io.stderr:write("e1\ne2\nlast")
        os.execute("echo of a program")
      end))
      -- The worker's buffer and what a program writes have no common order.
      table.sort(out)
      assert.same({ "", "of a program", "one\t1", "partial", "with \0 and \r" }, out)
      assert.same({ "e1", "e2", "last" }, err)
      assert.same({ [p] = true }, handles)
    end)
  end

  case("the default: stdin is null when exec'ed, a fork has its template's", function()
    local path = helper.tmpname()
    local f <close> = io.open(path, "w")
    local own = helper.fd_list()
    local p = tine.new_exec()
    local list = descriptors_of(p)
    assert.equal("/dev/null", list[0])
    assert.equal(own[1], list[1])
    assert.equal(own[2], list[2])
    local template = tine.new { stdout = f }
    local fork = template:fork { stderr = "null" }
    local inherits = template:fork { stdout = "inherit" }
    list = descriptors_of(fork)
    assert.equal("/dev/null", list[0])
    assert.equal(path, list[1])
    assert.equal("/dev/null", list[2])
    assert.equal(path, descriptors_of(inherits)[1])
  end)

  it("inherit the host's when they are told to", function()
    local input = helper.write_file("from the host's stdin\n")
    local script = [[
      local p = tine.new_exec { stdin = "inherit", stdout = "inherit", stderr = "inherit" }
      p:run(function() print("got: " .. io.read()) io.stderr:write("and stderr\n") end,
        function() end)
      tine.loop.run()
    ]]
    local program = proc.program(script)
    local text, code = helper.run(program .. " <" .. input)
    assert.equal(0, code)
    assert.matches("got: from the host's stdin\n", text, 1, true)
    assert.matches("and stderr\n", text, 1, true)
  end)

  case("lines arrive while the process runs", function()
    local lines = {}
    local p = tine.new { stdout = function(line) lines[#lines + 1] = line end }
    local sock = p:run(function(sock)
      print("at once")
      sock:read_line()
      print("after")
    end)
    wait_for(function() return lines[1] end)
    assert.same({ "at once" }, lines)
    sock:write("go on\n")
    p:on_exit()
    assert.same({ "at once", "after" }, lines)
    sock:close()
  end)

  case("lines of eval arrive, too", function()
    local lines = {}
    local p = tine.new { stdout = function(line) lines[#lines + 1] = line end }
    p:eval("print('in eval')"):eval("io.write('no newline')")
    wait_for(function() return lines[1] end)
    p:close()
    p = nil -- luacheck: ignore 311
    wait_for(function() return lines[2] end)
    assert.same({ "in eval", "no newline" }, lines)
  end)

  case("long lines come whole up to a megabyte, longer ones lose nothing", function()
    local pieces = {}
    local p = tine.new { stdout = function(line) pieces[#pieces + 1] = line end }
    proc.finish(p, function()
      print(("x"):rep(1000000))
      print(("y"):rep(3000001))
    end)
    assert.equal(1000000, #pieces[1])
    local rest = table.concat(pieces, "", 2)
    assert.equal(("y"):rep(3000001), rest)
  end)

  case("many lines are all delivered before on_exit, also of a process that is killed", function()
    local killed <const> = "io.stdout:flush() os.execute('kill -9 $PPID')"
    for _, ending in ipairs { "return", "os.exit(3)", killed } do
      local lines, last, after = 0, nil, false
      local p = tine.new { stdout = function(line)
        lines, last = lines + 1, line
        assert.is_false(after)
      end }
      p:on_exit(function() after = true end)
      proc.finish(p:eval("function fn() for i = 1, 20000 do print('line ' .. i) end "
        .. ending .. " end"), "fn")
      assert.equal(20000, lines)
      assert.equal("line 20000", last)
    end
  end)

  case("lines of a process that ended before the host looks are delivered before on_exit",
    function()
      for _ = 1, 5 do
        local lines, told = {}, nil
        local p = tine.new { stdout = function(line) lines[#lines + 1] = line end }
        local pid = p:await_ready()
        p:on_exit(function() told = #lines end)
        p:run(function() for i = 1, 3000 do print(i) end io.write("end") end, function() end)
        repeat
          local f <close> = io.open(("/proc/%d/stat"):format(pid))
        until not f
        wait_for(function() return told end)
        assert.equal(3001, told)
        assert.equal("end", lines[3001])
      end
    end)

  case("a process that writes faster than lines are read loses none", function()
    local bytes = 0
    local p = tine.new { stderr = function(line) bytes = bytes + #line + 1 end }
    proc.finish(p, function()
      local chunk = ("z"):rep(99) .. "\n"
      for _ = 1, 200 do io.stderr:write(chunk:rep(500)) end
    end)
    assert.equal(200 * 500 * 100, bytes)
  end)

  case("what was buffered before a fork is written once", function()
    local path = helper.tmpname()
    local f <close> = io.open(path, "w")
    local template = tine.new { stdout = f }:eval("io.write('buffered ')")
    for i = 1, 3 do
      template:fork():eval("io.write(...)", "fork" .. i .. " "):close()
    end
    template:eval("io.write('again ')")
    template:close()
    template:on_exit()
    local text = proc.text(path)
    for _, word in ipairs { "buffered", "fork1", "fork2", "fork3", "again" } do
      assert.equal(1, select(2, text:gsub(word, "")), text)
    end
  end)

  case("what an error leaves in the buffer is written", function()
    local lines = {}
    local p = tine.new { stdout = function(line) lines[#lines + 1] = line end }
    proc.finish(p:eval("io.stdout:setvbuf('full') io.write('before the error') error('x')"))
    assert.same({ "before the error" }, lines)
  end)

  case("a line callback that raises ends the loop with that error", function()
    local text, code = proc.run_program([[
      local n = 0
      local p = tine.new { stdout = function(line) n = n + 1 error("on " .. line, 0) end }
      p:run(function() print("one") print("two") end, function() end)
      for _ = 1, 2 do print(select(2, pcall(tine.loop.run)):match("[^\n]*")) end
      print(tine.loop.run())
    ]])
    assert.equal("on one\non two\ntrue\n", text)
    assert.equal(0, code)
  end)
end)

describe("module paths #proc", function()
  case("are carried over", function()
    local path, cpath = package.path, package.cpath
    package.path = "/there/is/no/?.lua;" .. path
    package.cpath = "/there/is/no/?.so;" .. cpath
    local p = tine.new_exec()
    local expected = package.path .. "\n" .. package.cpath
    package.path, package.cpath = path, cpath
    assert.equal(expected, result(p, function(sock)
      sock:write(package.path .. "\n" .. package.cpath)
    end))
  end)

  it("are those of the host when the default template is made", function()
    local dir = helper.tmpname()
    os.execute("mkdir " .. dir)
    local f = io.open(dir .. "/carried.lua", "w")
    f:write("return { fn = function(sock) sock:write('found') end }")
    f:close()
    local text = proc.run_program([[
      package.path = package.path .. ";" .. arg[1] .. "/?.lua"
      tine.main(function() print(tine.new():require("carried"):run("carried.fn"):read()) end)
    ]], dir)
    assert.equal("found\n", text)
  end)
end)

describe("the default template #proc", function()
  -- In a program of its own: the template that is there at the end is kept.
  it("is made anew when module paths have changed, and only then", function()
    assert.equal("true\tfalse\tfalse\t/there/is/no/?.lua;\n", proc.run_program([[
      local path = package.path
      local function parent_of_new()
        local p = tine.new()
        local f <close> = io.open("/proc/" .. p:await_ready() .. "/stat")
        local parent = f:read("a"):match("^.*%) %a (%d+)")
        p:close()
        return parent
      end
      tine.main(function()
        local first, again = parent_of_new(), parent_of_new()
        package.path = "/there/is/no/?.lua;" .. path
        local second = parent_of_new()
        local got = tine.new():run(function(sock) sock:write(package.path) end):read()
        package.path = path
        print(first == again, first == second, second == parent_of_new(), (got:match("^[^;]*;")))
      end)]]))
  end)

  it("that is replaced stays until what was forked from it has gone", function()
    assert.equal("old\ngone\n", proc.run_program([[
      tine.main(function()
        local old = tine.new():eval("value = 'old'")
        local f <close> = io.open("/proc/" .. old:await_ready() .. "/stat")
        local pid = f:read("a"):match("^.*%) %a (%d+)")
        package.path = "/there/is/no/?.lua;" .. package.path
        tine.new():await_ready()
        print((old:fork():run(function(sock) sock:write(value) end):read()))
        old:close()
        while io.open("/proc/" .. pid .. "/stat") do tine.loop.sleep(0.01) end
        print("gone")
      end)]]))
  end)
end)

describe("what a process inherits #proc", function()
  -- What a template has that has forked: the set of its children's pidfds.
  local SET <const> = { ["anon_inode:[eventpoll]"] = true }

  -- Everything that a process may have: its standard input and output, its command socket or
  -- what that has become, and the report channel.
  local function check(list, extra)
    for fd, what in pairs(list) do
      local fine = fd <= 2 or what:find("^socket:") or (extra and extra[what])
      assert.is_true(fine and true, string.format("descriptor %d -> %s", fd, what))
    end
  end

  -- A shell gives the host many descriptors without close-on-exec.
  local function redirections()
    local list = {}
    for fd = 3, 9 do list[#list + 1] = string.format("%d</etc/passwd", fd) end
    return table.concat(list, " ")
  end

  local PROGRAM <const> = [[
    -- 60 more, inheritable: of dup in shells only single digits are portable.
    local held = {}
    for i = 1, 60 do held[i] = io.open("/etc/passwd") end
    tine.main(function()
      local template = tine.new()
      local fork, execed = template:fork(), tine.new_exec()
      local nested = fork:fork()
      for _, p in ipairs { template, fork, execed, nested } do
        p:await_ready()
        say("pid " .. p:pid())
      end
      say("ready")
      io.read()
    end)
  ]]

  case("is nothing that the host left inheritable", function()
    local fifo = helper.tmpname()
    os.execute("mkfifo " .. fifo)
    local program = proc.start_program(PROGRAM, redirections() .. " <>" .. fifo)
    program.wait_for("ready")
    local inherited = 0
    for _, what in pairs(helper.fd_list(program.pid)) do
      if what == "/etc/passwd" then inherited = inherited + 1 end
    end
    assert.equal(67, inherited)
    local forks <const>, seen = { true, true, false, false }, 0
    for pid in program.output():gmatch("pid (%d+)") do
      local list = settled_fds(tonumber(pid))
      seen = seen + 1
      check(list, forks[seen] and SET)
      -- 0, 1, 2, command socket, report channel
      assert.equal(forks[seen] and 6 or 5, count(list))
    end
    assert.equal(4, seen)
    local family = helper.descendants(program.pid)
    assert.equal(6, #family) -- the default template and the sweeper, too
    for _, pid in ipairs(family) do
      local sweeper = helper.title(pid):find("--sweep", 1, true) -- it has pidfds
      if not sweeper then check(settled_fds(pid), SET) end
    end
    program.kill()
    wait_for(function()
      for _, pid in ipairs(family) do
        if helper.alive(pid) then return false end
      end
      return true
    end)
  end)

  case("is what its template holds, where it is forked", function()
    local path = helper.write_file("x")
    local f = io.open(path)
    local template = tine.new():eval("held = io.open(...)", path):send_fd(f)
    f:close()
    local fork = template:fork()
    template:eval("later = io.open(...)", path)
    local fork_list, n = descriptors_of(fork), 0
    check(fork_list, { [path] = true })
    for _, what in pairs(fork_list) do n = n + (what == path and 1 or 0) end
    assert.equal(2, n)
  end)

  case("is not the command sockets of its template and siblings", function()
    local template = tine.new()
    local forks = {}
    for i = 1, 20 do forks[i] = template:fork() end
    for _, fork in ipairs(forks) do assert.equal(5, count(descriptors_of(fork))) end
  end)

  case("is no more than it needs in the program that a worker starts", function()
    local out = helper.tmpname()
    local p = tine.new():eval("os.execute('ls -l /proc/self/fd >' .. ...)", out)
    p:close()
    p:on_exit()
    local n = 0
    for fd, what in proc.text(out):gmatch(" (%d+) %-> ([^\n]*)") do
      n = n + 1
      assert.is_true(tonumber(fd) <= 2 or what:find("^/proc/") ~= nil, fd .. " -> " .. what)
    end
    assert.equal(4, n)
  end)

  it("is the host's working directory and environment", function()
    local text = proc.run_program([[
      tine.main(function()
        local p = tine.new()
        local sock = p:run(function(sock)
          local f <close> = io.popen("pwd; echo $TINE_SPEC_VARIABLE")
          sock:write(f:read("a"))
        end)
        print((sock:read()))
      end)
    ]])
    local cwd = assert(io.popen("pwd"))
    assert.equal(cwd:read("a") .. "\n\n", text)
    cwd:close()
  end)

  case("has no signal blocked or ignored", function()
    local text = result(tine.new(), function(sock)
      local f <close> = io.open("/proc/self/status")
      sock:write(f:read("a"))
    end)
    assert.equal(("0"):rep(16), text:match("SigBlk:%s*(%x+)"))
    assert.equal(("0"):rep(16), text:match("SigIgn:%s*(%x+)"))
  end)
end)

describe("detach #proc", function()
  case("is the only thing that survives a killed host", function()
    local program = proc.start_program([[
      tine.main(function()
        local function entry(sock, path)
          sock:read() -- until the host is gone
          local f <close> = io.open("/proc/self/stat")
          local pid = f:read("n")
          local out <close> = io.open(path, "w")
          out:write("survived ", pid)
          out:close()
          local t = require "tine"
          t.main(function()
            repeat
              t.loop.sleep(0.01)
              local f <close> = io.open(path)
            until not f
          end)
        end
        local list = {}
        local template = tine.new()
        for name, p in pairs {
          detached = tine.new { detach = true }, exec = tine.new_exec { detach = true },
          plain = tine.new(), plain_exec = tine.new_exec(), plain_fork = template:fork(),
        } do
          list[#list + 1] = p
          local path = arg[0] .. "." .. name
          p:send_arg(path)
          local sock = p:run(entry)
          list[#list + 1] = sock
          say(name .. " " .. p:pid() .. " " .. path)
        end
        say("ready")
        list[1]:on_exit()
      end)
    ]])
    program.wait_for("ready")
    local pids, paths = {}, {}
    for name, pid, path in program.output():gmatch("([%w_]+) (%d+) (%S+)\n") do
      pids[name], paths[name] = tonumber(pid), path
    end
    local family = helper.descendants(program.pid)
    assert.is_true(#family >= 7)
    program.kill()
    wait_for(function()
      for _, pid in ipairs(family) do
        if helper.alive(pid) and pid ~= pids.detached and pid ~= pids.exec then return false end
      end
      return true
    end)
    for _, name in ipairs { "detached", "exec" } do
      wait_for(function() return proc.text(paths[name]) == "survived " .. pids[name] end)
      assert.is_true(helper.alive(pids[name]))
      assert.equal(pids[name], proc.stat(pids[name], 6)) -- a session of its own
      os.remove(paths[name])
      wait_for(function() return not helper.alive(pids[name]) end)
    end
    -- The others may have seen the end of their sockets before their own.
    for _, path in pairs(paths) do os.remove(path) end
  end)

  it("does not keep the loop running", function()
    local text, code = proc.run_program([[
      local pid
      tine.main(function()
        local p = tine.new { detach = true }
        p:run(function(sock) sock:read() end)
        pid = p:pid()
        KEPT = p
      end)
      print("ended", pid)
      os.exit(0)
    ]])
    assert.equal(0, code)
    local pid = tonumber(text:match("ended%s+(%d+)"))
    helper.wait_until(10, function() return not helper.alive(pid) end)
  end)
end)
