-- Plain programs, and Lua's io library, get descriptors that block, from wherever they come; who
-- keeps his own keeps it as it was.
local helper = require "spec.helper"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local NONBLOCK <const> = 0x800
local EOPNOTSUPP <const> = 95
local LINES <const> = 100000
local TEXT <const> = ("x"):rep(200000)

local function nonblocking(fd, pid)
  local text = proc.text(("/proc/%s/fdinfo/%d"):format(pid or "self", fd))
  return tonumber(text:match("flags:%s*(%d+)"), 8) & NONBLOCK ~= 0
end

-- A worker that says what it has.
local function states(sock, ...)
  local list = {}
  for _, fd in ipairs { ... } do
    local f <close> = io.open("/proc/self/fdinfo/" .. fd)
    local flags = tonumber(f:read("a"):match("flags:%s*(%d+)"), 8)
    list[#list + 1] = flags & 0x800 == 0 and "blocks" or "does not"
  end
  sock:write(table.concat(list, ", "))
end

local function count_lines(fd)
  local n = 0
  while fd:read_line() do n = n + 1 end
  fd:close()
  return n
end

-- Pairs of descriptors to read from and to write to, as a program comes by them.
-- A tine.fd of what a Lua file has open.
local function fd_of(file)
  local a <close>, b = tine.socketpair()
  a:send_fd(file)
  file:close()
  local fd = b:recv_fd()
  b:close()
  return fd
end

local function fifo()
  local path = helper.tmpname()
  os.execute("mkfifo " .. path)
  local both = assert(io.open(path, "r+")) -- without it, either would wait for the other
  local r, w = fd_of(io.open(path, "r")), fd_of(io.open(path, "w"))
  both:close()
  return r, w
end

local sockets = {
  ["a socketpair"] = function() return tine.socketpair() end,
  ["a TCP connection"] = function()
    local server <close> = tine.listen("127.0.0.1:0")
    local client = tine.connect(server:address())
    return server:accept(), client
  end,
  ["a connection by path"] = function()
    local server <close> = tine.listen("unix:" .. helper.tmpname())
    local client = tine.connect(server:address())
    return server:accept(), client
  end,
  ["the socket of a process that runs"] = function()
    local a, b = tine.socketpair()
    local p = tine.new():send_fd(b)
    b:close()
    local theirs = p:run(function(sock, fd)
      while true do
        local text = sock:read()
        if not text then return end
        fd:write(text)
      end
    end)
    return a, theirs
  end,
}

describe("a plain program #proc", function()
  for _, how in ipairs { "new", "new_exec" } do
    for what, make in pairs(sockets) do
      case("writes all into " .. what .. ", in a process of " .. how, function()
        local r, w = make()
        local p = tine[how] { stdout = w }
        w:close()
        p:send_arg(tostring(LINES))
        p:run(function(_, n) for i = 1, n do print(i) end end, function() end)
        tine.loop.sleep(0.05) -- it has filled the socket by now, or will wait as well later
        assert.equal(LINES, count_lines(r))
        assert.is_nil((p:on_exit()))
      end)
    end

    case("waits for its input, in a process of " .. how, function()
      local mine, theirs = tine.socketpair()
      local p = tine[how] { stdin = theirs, stdout = theirs }
      theirs:close()
      p:run(function()
        io.write(io.read("l"), "\n")
        io.flush()
        require "tine".exec("cat")
      end, function() end)
      p:await_ready()
      tine.loop.sleep(0.02)
      mine:write("one\n")
      assert.equal("one", mine:read_line())
      tine.loop.sleep(0.02)
      mine:write("two\n")
      assert.equal("two", mine:read_line())
      mine:shutdown("w")
      assert.is_nil((p:on_exit()))
      mine:close()
    end)
  end

  case("gets what was nonblocking, and can be opened anew, as it should be", function()
    local r, w = fifo()
    r:set_blocking(false)
    w:set_blocking(false)
    local mine, theirs = tine.socketpair()
    local p = tine.new { stdin = r, stdout = w, stderr = theirs }
    theirs:close()
    mine:close()
    assert.equal("blocks, blocks, blocks", proc.result(p:send_arg("0", "1", "2"), states))
    assert.is_true(nonblocking(r:fileno()))
    assert.is_true(nonblocking(w:fileno()))
    r:close()
    w:close()
  end)

  case("writes all into a pipe that is nonblocking for its owner", function()
    local r, w = fifo()
    w:set_blocking(false)
    local p = tine.new { stdout = w }:send_arg(tostring(LINES))
    p:run(function(_, n) for i = 1, n do print(i) end end, function() end)
    w:close()
    assert.equal(LINES, count_lines(r))
    assert.is_nil((p:on_exit()))
  end)

  case("is not given a nonblocking socket, and what to do is said", function()
    local mine, theirs <close> = tine.socketpair()
    theirs:set_blocking(false)
    for _, how in ipairs { "new", "new_exec" } do
      local errors = {}
      local p = tine[how] { stdout = theirs }:on_error(function(err) errors[#errors + 1] = err end)
      local err = p:on_exit()
      assert.equal("system", err.kind)
      assert.equal(EOPNOTSUPP, err.errno)
      assert.matches("nonblocking.*make it blocking first", err.message)
      assert.equal(1, #errors)
    end
    assert.is_true(nonblocking(theirs:fileno()))
    theirs:set_blocking(true)
    local p = tine.new { stdout = theirs }
    p:run(function() io.write("x") end, function() end)
    assert.equal("x", mine:read())
    p:on_exit()
    mine:close()
  end)

  case("gets its host's own blocking, however that came by them", function()
    local fifos = { { fifo() }, { fifo() } }
    local host = proc.start_program([[
      tine.fd(0):set_blocking(false)
      tine.fd(1):set_blocking(false)
      local p = tine.new_exec { stdin = "inherit", stdout = "inherit" }
      tine.main(function()
        local sock = p:send_arg("0", "1"):run(]] .. "load(" .. ("%q"):format(
          "return function(sock, ...) " .. [[
            for _, fd in ipairs { ... } do
              local f <close> = io.open("/proc/self/fdinfo/" .. fd)
              sock:write(tonumber(f:read("a"):match("flags:%s*(%d+)"), 8) & 0x800)
            end
          end]]) .. [[)())
        io.stderr:write(sock:read_line() or "nothing")
        for fd = 0, 1 do
          local f <close> = io.open("/proc/self/fdinfo/" .. fd)
          io.stderr:write(tonumber(f:read("a"):match("flags:%s*(%d+)"), 8) & 0x800, " ")
        end
      end)]], ("<>/proc/%d/fd/%d >/proc/%d/fd/%d"):format(helper.pid(), fifos[1][1]:fileno(),
        helper.pid(), fifos[2][2]:fileno()))
    proc.wait_for(function() return not helper.alive(host.pid) end)
    assert.equal("002048 2048 ", host.output())
    for _, ends in ipairs(fifos) do
      ends[1]:close()
      ends[2]:close()
    end
  end)

  it("gets a terminal that is nonblocking for its owner as it should be", function()
    local program = proc.program([[
      tine.fd(1):set_blocking(false)
      local p = tine.new { stdout = 1 }
      tine.main(function()
        print(p:run(function(sock)
          local f <close> = io.open("/proc/self/fdinfo/1")
          sock:write(tonumber(f:read("a"):match("flags:%s*(%d+)"), 8) & 0x800)
        end):read_line())
        local f <close> = io.open("/proc/self/fdinfo/1")
        print(tonumber(f:read("a"):match("flags:%s*(%d+)"), 8) & 0x800)
      end)]])
    local text = helper.run("script -qec " .. helper.quote(program) .. " /dev/null")
    assert.equal("0\r\n2048\r\n", text)
  end)

  it("keeps a standard descriptor that was wrapped and forgotten", function()
    local text = helper.run(proc.program([[
      for fd = 0, 2 do tine.fd(fd):set_blocking(true) end
      for _ = 1, 2 do collectgarbage() end
      for fd = 0, 2 do io.write(tine.fd(fd):fileno(), " ") end
      tine.fd(0):close()
      print(pcall(tine.fd, 0))]]))
    assert.matches("^0 1 2 false.*not open", text)
  end)

  case("that a worker becomes finds blocking what the worker had otherwise", function()
    local r, w = fifo()
    local p = tine.new { stdout = w }
    w:close()
    p:run(function()
      local t = require "tine"
      t.fd(1):set_blocking(false)
      t.exec("grep", "flags", "/proc/self/fdinfo/1")
    end, function() end)
    local flags = tonumber(r:read_line():match("(%d+)"), 8)
    assert.equal(0, flags & NONBLOCK)
    p:on_exit()
    r:close()
  end)
end)

describe("a file of the io library #proc", function()
  for what, make in pairs(sockets) do
    case("waits in a worker that was sent " .. what, function()
      local r, w = make()
      local p = tine.new():send_fd(w)
      p:run(function(_, fd)
        local file = fd:to_file("w")
        file:write(("x"):rep(200000))
        file:close()
      end, function() end)
      w:close()
      local n = 0
      for part in function() return r:read() end do n = n + #part end
      assert.equal(#TEXT, n)
      assert.is_nil((p:on_exit()))
      r:close()
    end)
  end

  case("is made of a received descriptor", function()
    local a, b = tine.socketpair()
    local c, d = tine.socketpair()
    a:send_fd(c)
    c:close()
    local file = b:recv_fd():to_file("w")
    assert.is_false(nonblocking(d:fileno()))
    file:write("x")
    file:close()
    assert.equal("x", d:read())
    for _, fd in ipairs { a, b, d } do fd:close() end
  end)

  case("leaves a pipe nonblocking for who keeps it", function()
    local r, w = fifo()
    w:set_blocking(false)
    local copy = w:dup()
    local file = copy:to_file("w")
    assert.is_true(nonblocking(w:fileno()))
    file:write("line\n")
    file:close()
    assert.equal("line", r:read_line())
    r:close()
    w:close()
  end)

  case("is not made of a nonblocking socket, which goes on as it was", function()
    local a <close>, b = tine.socketpair()
    b:set_blocking(false)
    local file, err = b:to_file()
    assert.is_nil(file)
    assert.equal(EOPNOTSUPP, err.errno)
    assert.is_true(nonblocking(b:fileno()))
    b:write("x")
    assert.equal("x", a:read())
    b:close()
  end)
end)

describe("the descriptor of a tine.fd #proc", function()
  for what, make in pairs(sockets) do
    case("blocks when it is detached or asked for: " .. what, function()
      local r, w = make()
      assert.is_false(nonblocking(w:fileno()))
      local copy = w:dup()
      local n = copy:detach()
      assert.is_false(nonblocking(n))
      tine.fd(n):close()
      r:close()
      w:close()
    end)
  end

  case("nevertheless keeps nobody waiting in a host", function()
    local a, b = tine.socketpair()
    local told = 0
    tine.go(function()
      while told < 4000000 do told = told + #a:read() end
    end)
    assert.equal(4000000, b:write(("x"):rep(4000000)))
    proc.wait_for(function() return told == 4000000 end)
    a:close()
    b:close()
  end)
end)
