-- tine.exec with options, and what a process can say of and do to itself: its id, its directory,
-- its environment.
local helper = require "spec.helper"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local ENOENT <const>, ENOTDIR <const>, EACCES <const>, EMFILE <const> = 2, 20, 13, 24
local EOPNOTSUPP <const>, E2BIG <const> = 95, 7

local function lines_of(fd)
  local list = {}
  for line in function() return fd:read_line() end do list[#list + 1] = line end
  fd:close()
  return list
end

-- Runs a worker that becomes a program, with descriptors sent; returns how it ended.
local function become(func, ...)
  local p = tine.new()
  for _, fd in ipairs { ... } do
    p:send_fd(fd)
    fd:close()
  end
  local told
  p:on_error(function(err) told = err end)
  p:run(func, function(sock) if sock then sock:close() end end)
  local err = p:on_exit()
  return err, told
end

describe("tine.exec with options #proc", function()
  case("redirects, and goes elsewhere with another environment", function()
    local input, theirs_in = tine.socketpair()
    local output, theirs_out = tine.socketpair()
    input:write("what was sent\n")
    input:shutdown("w")
    local err, told = become(function(_, stdin, stdout)
      require "tine".exec("sh", "-c", "cat; pwd; echo $A$B; echo ${HOME-none}; echo lost >&2", {
        stdin = stdin, stdout = stdout, stderr = "null", cwd = "/usr",
        env = { A = "one", B = 2, HOME = false },
      })
    end, theirs_in, theirs_out)
    assert.is_nil(told)
    assert.is_nil(err)
    assert.same({ "what was sent", "/usr", "one2", "none" }, lines_of(output))
    input:close()
  end)

  case("puts one output in the place of the other, and both into one", function()
    local a, theirs_a = tine.socketpair()
    local b, theirs_b = tine.socketpair()
    local p = tine.new { stdout = theirs_a, stderr = theirs_b }
    p:fork():run(function()
      require "tine".exec("sh", "-c", "echo out; echo err >&2", { stdout = 2, stderr = 1 })
    end, function() end)
    assert.equal("out", b:read_line())
    assert.equal("err", a:read_line())
    p:fork():run(function()
      require "tine".exec("sh", "-c", "echo out; echo err >&2", { stderr = io.stdout })
    end, function() end)
    assert.equal("out", a:read_line())
    assert.equal("err", a:read_line())
    p:close()
    for _, fd in ipairs { a, b, theirs_a, theirs_b } do fd:close() end
  end)

  case("takes what it is given, whatever is collected meanwhile", function()
    local output, theirs = tine.socketpair()
    local err, told = become(function(_, out)
      collectgarbage("setpause", 0)
      debug.sethook(function() collectgarbage() end, "", 10)
      require "tine".exec("sh", "-c", "pwd; echo $LONGNAME", {
        stdout = out:dup(), cwd = ("/%s"):format("usr"),
        env = { ["LONG" .. "NAME"] = ("x"):rep(99) },
      })
    end, theirs)
    assert.is_nil(told)
    assert.is_nil(err)
    assert.same({ "/usr", ("x"):rep(99) }, lines_of(output))
  end)

  case("gives a program what blocks, though it is nonblocking for others", function()
    local path = helper.tmpname()
    os.execute("mkfifo " .. path)
    local fifo = assert(io.open(path, "r+"))
    local output, theirs = tine.socketpair()
    become(function(_, out, pipe)
      pipe:set_blocking(false)
      require "tine".exec("grep", "flags", "/proc/self/fdinfo/0", { stdin = pipe, stdout = out })
    end, theirs, fifo)
    assert.equal(0, tonumber(lines_of(output)[1]:match("(%d+)"), 8) & 0x800)
  end)

  case("looks the program up by the PATH and the directory that it will have", function()
    local dir = helper.tmpname()
    os.execute(("mkdir %s; printf '#!/bin/sh\necho found\n' >%s/tine-own; chmod +x %s/tine-own")
      :format(dir, dir, dir))
    for _, how in ipairs { "PATH", "cwd" } do
      local output, theirs = tine.socketpair()
      local p = tine.new():send_fd(theirs):send_arg(dir, how)
      theirs:close()
      p:run(function(_, out, path, by)
        local t = require "tine"
        if by == "PATH" then
          t.exec("tine-own", { stdout = out, env = { PATH = path } })
        else
          t.exec("./tine-own", { stdout = out, cwd = path })
        end
      end, function() end)
      assert.is_nil((p:on_exit()))
      assert.same({ "found" }, lines_of(output), how)
    end
    os.execute("rm -r " .. dir)
  end)
end)

-- In a worker: tries what must fail, and compares what the process is before and after. Says what
-- was wrong.
local function try(sock, out, case_name, path)
  local t = require "tine"
  local has_socket, socket = pcall(require, "socket")
  _G.inherited = has_socket and socket.udp() -- by programs
  local function read(name)
    local f <close> = io.open(name)
    return f:read("a")
  end
  local function state()
    os.execute(("(ls -l /proc/$PPID/fd | sed 's/.*[0-9] \\([0-9]* -> .*\\)/\\1/';"
      .. "readlink /proc/$PPID/cwd; env; ls /proc/self/fd) >%s 2>&1"):format(path))
    return read("/proc/self/status"):match("SigBlk.*SigIgn:%s*%x*") .. read(path)
  end
  local cases = {
    program = function() return t.exec("tine-no-such-program", { stdout = out, cwd = "/usr",
      stdin = "null", stderr = out, env = { A = "1", PATH = "/usr/bin" } }) end,
    directory = function() return t.exec("true", { stdout = out, cwd = "/no/where" }) end,
    file = function() return t.exec("true", { stdin = out, cwd = "/etc/passwd" }) end,
    permission = function() return t.exec("/etc/passwd", { stdout = out }) end,
    size = function()
      return t.exec("true", { stdout = out, env = { BIG = ("x"):rep(1 << 18) } })
    end,
    nonblocking = function()
      out:set_blocking(false)
      return t.exec("true", { stdin = "null", stderr = out })
    end,
  }
  local before = state()
  local result, err = cases[case_name]()
  if case_name == "nonblocking" then out:set_blocking(true) end
  local after = state()
  sock:write(("%s %s %s\n%s"):format(result, err.errno, err.message,
    before == after and "as before" or before .. "AFTER\n" .. after))
end

describe("tine.exec that fails #proc", function()
  for name, expected in pairs {
    program = { ENOENT, "exec tine%-no%-such%-program: No such file" },
    directory = { ENOENT, "exec true: cwd: No such file" },
    file = { ENOTDIR, "exec true: cwd: Not a directory" },
    permission = { EACCES, "exec /etc/passwd: Permission denied" },
    size = { E2BIG, "exec true: Argument list too long" },
    nonblocking = { EOPNOTSUPP, "exec true: stderr: .*make it blocking first" },
  } do
    case("leaves the process as it was: " .. name, function()
      local mine, theirs = tine.socketpair()
      local p = tine.new():send_fd(theirs):send_arg(name, helper.tmpname())
      theirs:close()
      local text = proc.result(p, try)
      assert.matches("^nil " .. expected[1] .. " " .. expected[2], text)
      assert.matches("\nas before$", text)
      mine:close()
    end)
  end

  case("for want of descriptors names the option", function()
    local p = tine.new():eval("require 'tine'")
    local text = proc.result(p, function(sock)
      local t = require "tine"
      os.execute(("prlimit --pid %d --nofile=40:"):format(t.pid()))
      local held = {}
      for _ = 1, 50 do held[#held + 1] = io.open("/dev/null") end -- until there is no room
      local said = {}
      for _, options in ipairs { { stdout = sock }, { stdin = "null" }, { cwd = "/" } } do
        local _, err = t.exec("true", options)
        said[#said + 1] = err.errno .. " " .. err.message:match("^(.-: .-):")
      end
      sock:write(table.concat(said, ", "))
    end)
    local why <const> = EMFILE .. " exec true: "
    assert.equal(why .. "stdout, " .. why .. "stdin, " .. why .. "cwd", text)
  end)

  case("raises on misuse, and blames the caller", function()
    local p = tine.new():eval("require 'tine'")
    local text = proc.result(p, function(sock)
      local t = require "tine"
      local said = {}
      local function blames(pattern, fn)
        local ok, err = pcall(fn)
        if ok or not err:find("exec_spec.lua:%d+: exec: " .. pattern) then
          said[#said + 1] = pattern .. ": " .. tostring(err)
        end
      end
      blames("unknown option 'shell' %(there are: cwd, env, stderr, stdin, stdout%)",
        function() t.exec("true", { shell = true }) end)
      blames("stdout: \"inherit\", \"null\", or a descriptor expected",
        function() t.exec("true", { stdout = print }) end)
      blames("stdin: .*is closed", function()
        local a = t.socketpair()
        a:close()
        t.exec("true", { stdin = a })
      end)
      blames("cwd: a path expected, got number", function() t.exec("true", { cwd = 1 }) end)
      blames("env: a table of variables expected, got string",
        function() t.exec("true", { env = "A=1" }) end)
      blames("env: a name without '=' and zero bytes expected, got A=B",
        function() t.exec("true", { env = { ["A=B"] = "1" } }) end)
      blames("env: a name .* got 1", function() t.exec("true", { env = { "A=1" } }) end)
      blames("env: A: a string without zero bytes, or false, expected",
        function() t.exec("true", { env = { A = true } }) end)
      sock:write(table.concat(said, "\n"))
    end)
    assert.equal("", text)
  end)
end)

describe("a process's surroundings #proc", function()
  it("are those of a host, and what it makes has them from then on", function()
    local text = proc.run_program([[
      assert(tine.chdir("/usr"))
      assert(tine.env("TINE_SPEC_A", "one"))
      assert(tine.env("TINE_SPEC_B", 2))
      say(tine.env("TINE_SPEC_A"), os.getenv("TINE_SPEC_B"))
      assert(tine.env("TINE_SPEC_B", false))
      say(tine.env("TINE_SPEC_B"))
      say(io.popen("pwd; echo $TINE_SPEC_A"):read("l", "l"))
      say(tonumber(io.popen("echo $PPID"):read("l")) == tine.pid())
      tine.main(function()
        local sock = tine.new():run(function(sock)
          local f = io.popen("pwd; echo $TINE_SPEC_A")
          sock:write(f:read("a"))
        end)
        say(sock:read_line(), sock:read_line())
      end)]])
    assert.equal("one\t2\nnil\n/usr\tone\ntrue\n/usr\tone\n", text)
  end)

  case("are a child's own, and its forks have them", function()
    local p = tine.new():eval(function()
      local t = require "tine"
      assert(t.chdir("/usr"))
      assert(t.env("TINE_SPEC_A", "one"))
    end)
    local function tell(sock)
      local t = require "tine"
      local f <close> = io.popen("pwd")
      sock:write(table.concat({ f:read("l"), t.env("TINE_SPEC_A"), os.getenv("TINE_SPEC_A"),
        tostring(t.env("TINE_SPEC_B")), t.pid() }, " "))
    end
    local child = p:fork()
    local text = proc.result(child, tell)
    assert.equal(("/usr one one nil %d"):format(child:pid()), text)
    assert.is_nil(tine.env("TINE_SPEC_A"))
    assert.is_true(helper.alive(tine.pid()))
    text = proc.result(p:eval(function()
      local t = require "tine"
      t.env("TINE_SPEC_A", false)
      t.env("TINE_SPEC_A", 7)
      t.env("TINE_SPEC_B", "x")
      t.chdir("bin")
    end), tell)
    assert.matches("^/usr/bin 7 7 x ", text)
  end)

  it("tell what cannot be, and raise on misuse", function()
    local ok, err = tine.chdir("/no/such/directory")
    assert.is_nil(ok)
    assert.equal(ENOENT, err.errno)
    assert.matches("^chdir /no/such/directory: No such file", err.message)
    proc.assert_blames("chdir: a path expected, got nil", function() tine.chdir() end)
    proc.assert_blames("env: a name without '='.*got 'A=B'", function() tine.env("A=B") end)
    proc.assert_blames("env: a name without '='.*got nil", function() tine.env() end)
    proc.assert_blames("env: a string.*or false.*got nil", function() tine.env("A", nil) end)
    proc.assert_blames("env: a string.*got boolean", function() tine.env("A", true) end)
    proc.assert_blames("env: a string without zero", function() tine.env("A", "\0") end)
  end)
end)
