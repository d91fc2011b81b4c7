-- Deadlines of what waits on descriptors: fd:read(n, { timeout = seconds }) and its like, in hosts
-- and in workers.
local helper = require "spec.helper"
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)

-- Seconds: what is over soon, and what nothing here takes.
local SOON <const>, LONG <const> = 0.05, 60
local EAGAIN <const> = 11
local BIG <const> = ("x"):rep(1 << 24)

-- Calls fn, which is to end of its deadline; returns the err.
local function assert_late(fn, ...)
  local began = helper.now()
  local result, err = fn(...)
  assert.is_nil(result)
  assert.equal("timeout", err.kind)
  assert.matches(": timed out$", tostring(err))
  assert.is_true(helper.now() - began >= SOON * 0.9)
  return err
end

local function close_all(...)
  for _, fd in ipairs { ... } do fd:close() end
end

describe("a deadline in a coroutine #unit", function()
  case("ends each wait, and what has come stays", function()
    local a, b = tine.socketpair()
    local opts <const> = { timeout = SOON }
    assert_late(b.read, b, 10, opts)
    assert_late(b.read, b, nil, opts)
    assert_late(b.read, b, opts)
    assert_late(b.recv_fd, b, opts)
    a:write("half a li")
    assert_late(b.read_line, b, opts)
    a:write("ne\nrest")
    assert.equal("half a line", b:read_line(opts))
    assert_late(b.read_line, b, opts)
    assert.equal("re", b:read(2, opts))
    assert.equal("st", b:read(opts))
    local err = assert_late(a.write, a, BIG, opts)
    assert.is_true(err.written > 0 and err.written < #BIG)
    assert_late(a.send_fd, a, b, opts)
    assert.equal(0, assert_late(a.write, a, "y", opts).written)
    local got = 0
    while got < err.written do got = got + #b:read(1 << 20, opts) end
    assert.equal(err.written, got)
    assert.equal(1, a:write("y", opts))
    assert.is_true(a:send_fd(b, opts))
    assert.equal("y", b:read(1, opts))
    local copy = b:recv_fd(opts)
    copy:close()
    a:close()
    local text, none = b:read(opts)
    assert.is_nil(text)
    assert.is_nil(none)
    b:close()
  end)

  case("ends accept, and connect to one who has no room", function()
    local server = assert(tine.listen("127.0.0.1:0", { backlog = 0 }))
    assert_late(server.accept, server, { timeout = SOON })
    local held, err = {}
    repeat
      held[#held + 1], err = tine.connect(server:address(), { timeout = SOON })
    until err or #held > 9
    assert.equal("timeout", err.kind)
    assert.equal(("connect %s: timed out"):format(server:address()), err.message)
    assert.is_userdata(server:accept({ timeout = LONG }))
    close_all(server, table.unpack(held))
  end)

  case("of 0 takes what is there, and waits for nothing", function()
    local a, b = tine.socketpair()
    local text, err = b:read(10, { timeout = 0 })
    assert.is_nil(text)
    assert.equal("timeout", err.kind)
    a:write("there")
    assert.equal("there", b:read(10, { timeout = 0 }))
    local server = tine.listen("unix:" .. helper.tmpname())
    assert.equal("timeout", select(2, server:accept { timeout = 0 }).kind)
    local client = assert(tine.connect(server:address(), { timeout = 0 }))
    close_all(assert(server:accept { timeout = 0 }), client, server, a, b)
  end)

  case("without an end is none", function()
    local a, b = tine.socketpair()
    tine.go(function()
      tine.loop.sleep(SOON)
      a:write("x")
    end)
    assert.equal("x", b:read(1, { timeout = math.huge }))
    close_all(a, b)
  end)

  case("lets others go on meanwhile, and hears of what comes and of a close", function()
    local a, b = tine.socketpair()
    local order = {}
    local late = tine.go(function()
      local _, err = b:read(1, { timeout = SOON })
      order[#order + 1] = err.kind
    end)
    tine.go(function()
      local text = b:read(1, { timeout = LONG })
      order[#order + 1] = text
    end)
    late:await()
    a:write("x")
    proc.wait_for(function() return #order == 2 end)
    assert.same({ "timeout", "x" }, order)
    local closed = tine.go(function() return b:read(1, { timeout = LONG }) end)
    b:close()
    local text, err = closed:await()
    assert.is_nil(text)
    assert.equal("closed", err.kind)
    a:close()
  end)

  case("is another than that of tine.timeout around it: the earlier ends the wait", function()
    local a, b = tine.socketpair()
    local inner, outer
    outer = table.pack(tine.timeout(LONG, function()
      inner = select(2, b:read(1, { timeout = SOON }))
      return "went on"
    end))
    assert.equal("timeout", inner.kind)
    assert.equal("went on", outer[1])
    inner = nil
    outer = table.pack(tine.timeout(SOON, function()
      inner = table.pack(b:read(1, { timeout = LONG }))
    end))
    assert.is_nil(inner)
    assert.equal("timeout", outer[2].kind)
    close_all(a, b)
  end)

  case("leaves nothing behind, a thousand times", function()
    local a, b = tine.socketpair()
    local function many()
      for i = 1, 1000 do
        if i % 2 == 0 then
          b:read(1, { timeout = 1e-6 })
        else
          tine.timeout(0, b.read, b, 1, { timeout = LONG })
        end
      end
      collectgarbage()
      collectgarbage()
      return collectgarbage("count")
    end
    many()
    local before = many()
    assert.is_true(many() - before < 10)
    close_all(a, b)
  end)

  it("is nothing that the loop waits for afterwards", function()
    tine.main(function()
      local a, b = tine.socketpair()
      tine.go(function()
        tine.loop.sleep(0)
        a:write("x")
      end)
      assert.equal("x", b:read(1, { timeout = LONG }))
      close_all(a, b)
    end)
    assert.is_false(tine.loop.poll())
  end)

  it("survives a collection at every step", function()
    local mode = collectgarbage("generational")
    collectgarbage("incremental", 0, 10000, 0)
    tine.main(function()
      for _ = 1, 20 do
        local server = tine.listen("127.0.0.1:0")
        local client = assert(tine.connect(server:address(), { timeout = LONG }))
        local peer = assert(server:accept { timeout = LONG })
        assert.is_nil((peer:read_line { timeout = 1e-4 }))
        client:write("li", { timeout = LONG })
        assert.is_nil((peer:read_line { timeout = 1e-4 }))
        client:write("ne\n", { timeout = LONG })
        assert.equal("line", peer:read_line { timeout = LONG })
        close_all(server, client, peer)
      end
    end)
    collectgarbage("incremental", 200, 100, 13)
    collectgarbage(mode)
  end)
end)

describe("a deadline outside of a coroutine #unit", function()
  it("changes nothing: a host does not wait", function()
    local a, b = tine.socketpair()
    local began = helper.now()
    local text, err = b:read(1, { timeout = LONG })
    assert.is_nil(text)
    assert.equal(EAGAIN, err.errno)
    assert.is_true(helper.now() - began < LONG / 2)
    close_all(a, b)
  end)

  it("is kept by one who is told to block", function()
    local a, b = tine.socketpair()
    b:set_blocking(true)
    assert_late(b.read, b, 1, { timeout = SOON })
    a:set_blocking(true)
    assert.is_true(assert_late(a.write, a, BIG, { timeout = SOON }).written > 0)
    close_all(a, b)
  end)
end)

describe("a method without a deadline #unit", function()
  case("is an iterator's function, which is given what it returned last", function()
    local a, b = tine.socketpair()
    a:write("one\ntwo\n")
    a:shutdown("w")
    local lines = {}
    for line in b.read_line, b do lines[#lines + 1] = line end
    assert.same({ "one", "two" }, lines)
    local server = tine.listen("unix:" .. helper.tmpname())
    local clients = { tine.connect(server:address()), tine.connect(server:address()) }
    local n = 0
    for peer in server.accept, server do
      n = n + 1
      peer:close()
      if n == 2 then break end
    end
    close_all(a, b, server, table.unpack(clients))
    a, b = tine.socketpair()
    a:send_fd(a)
    a:send_fd(b)
    a:close()
    n = 0
    for fd in b.recv_fd, b do
      fd:close()
      n = n + 1
    end
    assert.equal(2, n)
    b:close()
  end)
end)

describe("a wrong deadline #unit", function()
  it("raises, and blames the caller", function()
    local a, b = tine.socketpair()
    for _, bad in ipairs { -1, 0 / 0, "1", true } do
      proc.assert_blames("bad argument #1 to 'read_line'.*'timeout' is no time of 0 or more",
        function() a:read_line { timeout = bad } end)
    end
    proc.assert_blames("#2 to 'read'.*unknown option 'tmeout'",
      function() a:read(1, { tmeout = 1 }) end)
    proc.assert_blames("#1 to 'read'.*unknown option 'number'", function() a:read { 1 } end)
    proc.assert_blames("#2 to 'read'.*table expected, got number", function() a:read(1, 1) end)
    proc.assert_blames("#1 to 'accept'.*table expected", function() a:accept(1) end)
    proc.assert_blames("#2 to 'write'.*unknown option",
      function() a:write("x", { written = 1 }) end)
    proc.assert_blames("#2 to 'write'.*table expected, got string",
      function() a:write("x", "y") end)
    proc.assert_blames("#2 to 'send_fd'.*unknown option", function() a:send_fd(b, { x = 1 }) end)
    proc.assert_blames("#1 to 'recv_fd'.*table expected", function() a:recv_fd("x") end)
    proc.assert_blames("#2 to 'connect'.*'timeout' is no time",
      function() tine.connect("unix:@x", { timeout = -1 }) end)
    close_all(a, b)
  end)
end)

-- What workers do. They get a socket on which nothing comes before they have said how it went.

-- Tries all that waits; says what was late, in its order.
local function try_all(sock, quiet, path)
  local t = package.loaded.tine
  local said = {}
  local opts = { timeout = 0.05 }
  local function try(what, fn, ...)
    local result, err = fn(...)
    said[#said + 1] = result and what .. " came" or err and err.kind or what .. " nothing"
    return err or {}
  end
  try("read", quiet.read, quiet, 10, opts)
  try("read_line", quiet.read_line, quiet, opts)
  try("recv_fd", quiet.recv_fd, quiet, opts)
  local err = try("write", quiet.write, quiet, ("x"):rep(1 << 22), opts)
  if not (err.written > 0 and err.written < 1 << 22) then said[#said + 1] = "all was written" end
  try("send_fd", quiet.send_fd, quiet, sock, opts)
  try("read at once", quiet.read, quiet, 10, { timeout = 0 })
  if t then
    local server = t.listen("unix:" .. path, { backlog = 0 })
    try("accept", server.accept, server, opts)
    local held
    held, err = t.connect("unix:" .. path, opts)
    said[#said + 1] = held and "connected" or tostring(err)
    repeat -- until there is no room
      local one
      one, err = t.connect("unix:" .. path, opts)
      held = { held, one }
    until not one
    said[#said + 1] = err.kind
  end
  sock:write(table.concat(said, " "))
end

describe("a deadline in a worker #proc", function()
  local ALL <const> = "timeout timeout timeout timeout timeout timeout"
  local MORE <const> = ALL .. " timeout connected timeout"

  local function run(p, func)
    local mine, theirs = tine.socketpair()
    local text = proc.result(p:send_fd(theirs):send_arg(helper.tmpname()), func)
    close_all(mine, theirs)
    return text
  end

  case("ends system calls that sleep", function()
    assert.equal(ALL, run(tine.new(), try_all))
  end)

  case("ends them where tine is loaded, too", function()
    assert.equal(MORE, run(tine.new():require("tine"), try_all))
  end)

  case("ends them in tine.main there", function()
    assert.equal(MORE, run(tine.new():require("tine"):eval(function(f) _G.entry = f end, try_all),
      function(...) require("tine").main(_G.entry, ...) end))
  end)

  case("goes on when signals come, and only so long", function()
    local p = tine.new()
    local mine, theirs = tine.socketpair()
    p:send_fd(theirs)
    local text = proc.result(p, function(sock, quiet)
      for i = 0, 9 do -- each ends with SIGCHLD
        _G[i] = io.popen("sleep 0.0" .. i)
      end
      local function now()
        local f <close> = io.open("/proc/uptime")
        return f:read("n")
      end
      local began = now()
      local _, err = quiet:read(1, { timeout = 0.2 })
      local took = now() - began
      sock:write(err.kind .. (took >= 0.18 and ", as long as it should" or ", too short: " .. took))
    end)
    assert.equal("timeout, as long as it should", text)
    close_all(mine, theirs)
  end)

  case("of an accept is kept, though others take the connection", function()
    local p = tine.new():eval(function(path)
      _G.listener = require "tine".listen("unix:" .. path) -- it blocks, here
    end, helper.tmpname())
    local mine = {}
    for i = 1, 4 do
      mine[i] = p:fork():run(function(sock)
        sock:write("ready\n")
        local got, err = _G.listener:accept { timeout = 0.3 }
        sock:write(got and "connection" or err.kind)
      end)
    end
    for i = 1, 4 do assert.equal("ready", mine[i]:read_line()) end
    local address = proc.result(p:fork(), function(sock) sock:write(_G.listener:address()) end)
    local client = tine.connect(address)
    local said = {}
    for i = 1, 4 do said[i] = proc.read_all(mine[i]) end
    table.sort(said)
    assert.same({ "connection", "timeout", "timeout", "timeout" }, said)
    client:close()
    p:close()
  end)

  case("of a read is kept, though others take what a pipe brings", function()
    -- Not a named one, which has no RWF_NOWAIT: head brings over what comes by that.
    local path = helper.tmpname()
    os.execute("mkfifo " .. path)
    local both = io.open(path, "r+")
    local pipe_end = io.popen("head -c1 " .. path .. "; exec sleep 1")
    local p = tine.new():send_fd(pipe_end)
    local mine = {}
    for i = 1, 4 do
      mine[i] = p:fork():run(function(sock, pipe)
        sock:write("ready\n")
        local got, err = pipe:read(1, { timeout = 0.3 })
        sock:write(got and "data" or err.kind)
      end)
    end
    for i = 1, 4 do assert.equal("ready", mine[i]:read_line()) end
    both:write("x")
    both:flush()
    local said = {}
    for i = 1, 4 do said[i] = proc.read_all(mine[i]) end
    table.sort(said)
    assert.same({ "data", "timeout", "timeout", "timeout" }, said)
    p:close()
    both:close()
    pipe_end:close()
  end)
end)

describe("a deadline in a worker that serves #proc", function()
  local function pool_of(async)
    local mine, theirs = tine.socketpair()
    local pool = tine.new():send_fd(theirs):eval(function()
      local quiet
      function _G.init(fd) quiet = fd end
      function _G.wait(seconds)
        local text, err = quiet:read(1, { timeout = seconds })
        return text or err.kind
      end
      function _G.wait_async(done, seconds) done(_G.wait(seconds)) end
    end):pool(async and "wait_async" or "wait", {
      max = 1, init = "init", async = async, serialiser = "lua", grace = 20,
    })
    theirs:close()
    return pool, mine
  end

  for _, async in ipairs { false, true } do
    local how = async and "async" or "sync"

    case("ends the wait and not the job: " .. how, function()
      local pool, mine = pool_of(async)
      assert.equal("timeout", pool:await(SOON))
      mine:write("x")
      assert.equal("x", pool:await(LONG))
      pools.finish(pool)
      mine:close()
    end)

    case("leaves the job's own deadline and its cancelling as they are: " .. how, function()
      local pool, mine = pool_of(async)
      local results = {}
      local function call(timeout)
        return pool:call { args = { LONG }, timeout = timeout, cb = function(err)
          results[#results + 1] = err and err.kind or "none"
        end }
      end
      call(SOON * 2)
      proc.wait_for(function() return results[1] end)
      local job = call()
      proc.wait_for(function() return job:running() end)
      tine.loop.sleep(SOON)
      job:cancel()
      proc.wait_for(function() return results[2] end)
      assert.same({ "timeout", "cancelled" }, results)
      mine:write("x")
      assert.equal("x", pool:await(LONG)) -- by the same worker: none was killed
      assert.equal(1, pool:stats().started)
      pools.finish(pool)
      mine:close()
    end)
  end
end)
