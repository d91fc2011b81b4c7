-- What bad input gets: it costs the process that it is about, with an err that names the cause,
-- and nothing else. The same for frames with descriptors: spec/core/process/test_hostile.c.
local tine = require "tine"
local helper = require "spec.helper"

local loop, wait_until = tine.loop, helper.wait_until

-- As in core/wire/protocol.h and core/wire/frame.h.
local FRAME_MAGIC <const>, REPORT_MAGIC <const> = 0x7e17, 0x74696e65
local PROTOCOL
do
  local f <close> = assert(io.open(helper.root .. "/core/wire/protocol.h"))
  PROTOCOL = tonumber(f:read("a"):match("#define TINE__PROTOCOL (%d+)"))
end
local HELLO, FORK, EVAL, REQUIRE, FDS, ARGS, RUN = 1, 2, 3, 4, 5, 6, 7
local MEMORY, FAIL, CHANNEL = 9, 10, 11
local TEXT, PLAIN = 0, 1

local function frame(type, body, nfds, length)
  return string.pack("<BBI2I8", type, nfds or 0, FRAME_MAGIC, length or #body) .. body
end

-- Notes all that the callbacks of a process tell.
local function watch(p)
  local seen = { errors = {}, exits = 0 }
  p:on_error(function(err) table.insert(seen.errors, err) end)
  p:on_exit(function(err, info)
    seen.exits = seen.exits + 1
    seen.exit, seen.info = err, info
  end)
  return seen
end

local function ended(list)
  return function()
    for i, seen in ipairs(list) do
      if seen.exits == 0 then return false, "process " .. i .. " has not ended" end
    end
    return true
  end
end

-- A worker, and its command socket.
local function raw_worker(source)
  local p = source:fork()
  local seen, sock = watch(p), nil
  p:to_fd(function(fd) sock = fd end)
  wait_until(10, function() return sock, "no command socket" end)
  return seen, sock, p
end

local function write_all(sock, data)
  while #data > 0 do
    local n, err = sock:write(data)
    if n then
      data = data:sub(n + 1)
    elseif err.errno ~= 11 then
      return nil, err
    end
  end
  return true
end

local function assert_protocol(seen, text, what)
  assert.are.equal(1, #seen.errors, what)
  assert.are.equal("protocol", seen.errors[1].kind, what)
  assert.matches(text, seen.errors[1].message, nil, nil, what)
end

-- A process of this source does what it is told.
local function assert_works(source)
  local answer, sock
  local p = source:fork()
  local seen = watch(p)
  p:send_arg("still ", "here"):run(function(s, a, b) s:write(a .. b) end,
    function(fd, err) sock = fd or error(err) end)
  wait_until(10, function()
    answer = answer or sock and sock:read()
    return answer and seen.exits == 1
  end)
  sock:close()
  assert.are.equal("still here", answer)
  assert.is_nil(seen.exit)
  assert.are.same({}, seen.errors)
end

-- Runs fn(source) with a template of its own, which has to be alive and well after it.
local function with_template(fn)
  return function()
    helper.no_leaks(function()
      local source = tine.new()
      local seen = watch(source)
      fn(source)
      assert.are.equal(0, seen.exits)
      assert_works(source)
      source:close()
      wait_until(10, ended { seen })
      assert.is_nil(seen.exit)
      assert.are.same({}, seen.errors)
    end)
  end
end

-- Writes each of the streams to a worker of its own, and closes. Returns what became of them.
local function feed(source, streams)
  local all = {}
  for i, stream in ipairs(streams) do
    local seen, sock = raw_worker(source)
    write_all(sock, stream)
    sock:close()
    all[i] = seen
  end
  wait_until(10, ended(all))
  return all
end

-- What a host writes to a command socket for what fn queues: without the greeting.
local function recorded(fn)
  local near, far = assert(tine.socketpair())
  local p = assert(tine.from_fd(near))
  local seen = watch(p)
  fn(p)
  local text, n = "", 0
  while n < 20 do -- it is written in the next turns of the loop
    loop.poll(0)
    n = n + 1
    text = text .. (far:read() or "")
  end
  assert(far:recv_fd()):close() -- of the greeting
  far:close()
  wait_until(5, ended { seen })
  local length = string.unpack("<I8", text, 5)
  assert.are.equal(frame(HELLO, "", 1, length), text:sub(1, 12))
  return text:sub(13 + length)
end

describe("the report channel #proc", function()
  -- What a worker has of sockets that keep messages apart: shuts them down.
  local function shut_all(s)
    local worker, kinds, n = require "tine", {}, 0
    for line in io.lines("/proc/net/unix") do
      local kind, inode = line:match("^%x+: %x+ %x+ %x+ (%x+) %x+ +(%d+)")
      if kind then kinds[inode] = kind end
    end
    local list <close> = io.popen("ls -l /proc/$PPID/fd")
    for line in list:lines() do
      local number, inode = line:match(" (%d+) %-> socket:%[(%d+)%]")
      if kinds[inode] == "0005" then
        local fd = worker.fd(math.tointeger(tonumber(number)))
        assert(fd:shutdown("rw"))
        fd:detach()
        n = n + 1
      end
    end
    s:write(n .. " shut\n")
    s:read()
  end

  local function start(p, fn)
    local seen = watch(p)
    p:run(fn, function(fd, err) seen.sock = fd or error(err) end)
    return seen
  end

  it("is out of reach of a worker, which costs itself only", with_template(function(source)
    local pool = source:fork():pool(function(x) return x end, { max = 1 })
    local before, after
    local wait = start(source:fork(), function(s)
      s:read()
      error("told to the last")
    end)
    pool("works", function(_, x) before = x end)
    wait_until(10, function() return before and wait.sock end)
    local bad, text = start(source:fork(), shut_all), ""
    wait_until(10, function()
      text = text .. (bad.sock and bad.sock:read() or "")
      return text:find("\n")
    end)
    bad.sock:close()
    wait_until(10, ended { bad })
    assert.are.equal("1 shut\n", text) -- its own
    wait.sock:close()
    wait_until(10, ended { wait })
    assert.matches("told to the last", wait.errors[1].message)
    assert.matches("stack traceback", wait.errors[1].traceback)
    pool("goes on", function(_, x) after = x end)
    wait_until(10, function() return after end)
    assert.are.same({ "works", "goes on" }, { before, after })
    pool:close()
  end))

  it("is there again for a worker that becomes a template", function()
    helper.no_leaks(function()
      local done, pids = 0, {}
      local template = tine.new()
      local pool = template:pool(function() return require "tine".pid and 1 or 1 end, { max = 1 })
      pool("a", function() done = done + 1 end)
      wait_until(10, function() return done == 1 end)
      local promoted
      pool:promote(function(err) promoted = err or true end)
      wait_until(10, function() return promoted end)
      assert.is_true(promoted, tostring(promoted))
      for i = 1, 3 do
        pool("b", function(err) done, pids[i] = done + 1, err or true end)
      end
      wait_until(10, function() return done == 4 end)
      assert.are.same({ true, true, true }, pids)
      pool:close()
      loop.run()
    end)
  end)
end)

describe("a command socket #proc", function()
  it("that brings garbage costs that process", with_template(function(source)
    local streams = {
      ("\0"):rep(12), ("\255"):rep(5000), "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
      string.pack("<BBI2I8", EVAL, 0, FRAME_MAGIC ~ 0x8000, 0),
    }
    for _, unknown in ipairs { 0, 12, 13, 127, 128, 255 } do
      streams[#streams + 1] = frame(unknown, "")
    end
    for i, seen in ipairs(feed(source, streams)) do
      assert_protocol(seen, "garbage instead of a command", "stream " .. i)
      assert.are.equal("exit", seen.exit.kind)
      assert.are.equal(1, seen.info.code)
    end
  end))

  it("that brings garbage after good commands has those carried out", with_template(
    function(source)
      local good = frame(EVAL, string.pack("<I4s4I4", TEXT, "os.rename(...)", 2) ..
        string.pack("<s4s4", helper.write_file("x"), helper.tmpname()))
      local from, to = string.unpack("<s4s4", good, 1 + 12 + 4 + 4 + 14 + 4)
      local seen = feed(source, { good .. "garbage, garbage" })[1]
      assert_protocol(seen, "garbage instead of a command")
      assert.is_nil(io.open(from))
      assert(io.open(to)):close()
    end))

  it("that ends in the middle of a command costs that process, at every byte", with_template(
    function(source)
      local stream = recorded(function(p)
        p:eval("x = ...", "some", "arguments"):require("math"):send_arg("a", "", "ccc")
        p:run("no.such.function", function() end)
      end)
      local boundaries, at = {}, 0
      while at < #stream do
        boundaries[at] = true
        at = at + 12 + string.unpack("<I8", stream, at + 5)
      end
      assert.are.equal(#stream, at)
      local streams = {}
      for i = 0, #stream - 1 do streams[i + 1] = stream:sub(1, i) end
      for i, seen in ipairs(feed(source, streams)) do
        if boundaries[i - 1] then
          assert.are.same({}, seen.errors)
          assert.are.equal(0, seen.info.code)
        else
          assert_protocol(seen, "a truncated command", "after byte " .. i - 1)
          assert.are.equal(1, seen.info.code)
        end
      end
      local seen = feed(source, { stream })[1]
      assert.are.equal("exception", seen.errors[1].kind)
      assert.matches("no.such.function", seen.errors[1].message)
    end))

  it("may bring a command byte by byte", with_template(function(source)
    local stream = recorded(function(p)
      p:eval("function answer(s, ...) s:write(table.concat({...}, ',')) end"):send_arg("a", "", "c")
      p:run("answer", function() end)
    end)
    local seen, sock = raw_worker(source)
    for i = 1, #stream do write_all(sock, stream:sub(i, i)) end
    local answer
    wait_until(10, function()
      answer = answer or sock:read()
      return answer
    end)
    assert.are.equal("a,,c", answer)
    sock:close()
    wait_until(10, ended { seen })
    assert.is_nil(seen.exit)
  end))

  it("that claims too large a command costs that process", with_template(function(source)
    local streams = {}
    for _, length in ipairs { (1 << 40) + 1, math.maxinteger, -1 } do
      streams[#streams + 1] = frame(EVAL, "x", 0, length)
    end
    for _, small in ipairs { HELLO, FORK, FDS, MEMORY, FAIL, CHANNEL } do
      streams[#streams + 1] = frame(small, "x", 0, 65537)
    end
    for i, seen in ipairs(feed(source, streams)) do
      assert_protocol(seen, "an oversized command", "stream " .. i)
    end
  end))

  it("does not make a process take memory for what is only claimed", with_template(
    function(source)
      local seen, sock, p = raw_worker(source)
      write_all(sock, frame(EVAL, ("x"):rep(100000), 0, 1 << 40))
      local function peak()
        local f <close> = assert(io.open(("/proc/%d/status"):format(p:pid())))
        return tonumber(f:read("a"):match("VmPeak:%s*(%d+) kB"))
      end
      local before
      wait_until(10, function() -- it sleeps: it has read all there is
        local f <close> = assert(io.open(("/proc/%d/stat"):format(p:pid())))
        before = peak()
        return f:read("a"):match("%) S ") and not sock:read()
      end)
      if not helper.sanitized then assert.is_true(before < 64 * 1024, before .. " kB") end
      sock:close()
      wait_until(10, ended { seen })
      assert_protocol(seen, "a truncated command")
    end))

  it("that brings commands whose inside is garbage costs that process", with_template(
    function(source)
      local huge = string.pack("<I4", 0xffffffff)
      local streams = {
        frame(EVAL, ""), frame(EVAL, "abc"), frame(EVAL, string.pack("<I4", TEXT) .. huge .. "x"),
        frame(EVAL, string.pack("<I4s4", TEXT, "x = 1") .. huge),
        frame(EVAL, string.pack("<I4s4I4", TEXT, "x = 1", 1) .. huge .. "abc"),
        frame(EVAL, string.pack("<I4s4I4", TEXT, "x = 1", 0) .. "more"),
        frame(EVAL, string.pack("<I4s4I4", PLAIN, "", 0)),
        frame(EVAL, string.pack("<I4s4I4", PLAIN, "\255\254garbage", 0)),
        frame(REQUIRE, ""), frame(REQUIRE, huge), frame(REQUIRE, huge .. ("\0"):rep(1000)),
        frame(ARGS, ""), frame(ARGS, huge .. ("\0"):rep(1000)),
        frame(ARGS, string.pack("<I4s4", 1, "x") .. "more"),
        frame(RUN, ""), frame(RUN, string.pack("<I4", TEXT) .. huge .. "name"),
        frame(RUN, string.pack("<I4s4", TEXT, "print") .. "more"),
        frame(RUN, string.pack("<I4s4", PLAIN, "\0\1\2\3")),
        frame(FORK, ""), frame(FORK, string.pack("<I8I4s4", 1, 0xffffffff, "")),
        frame(FORK, string.pack("<I8I4", 1, 0) .. huge),
        frame(HELLO, ""), frame(HELLO, ("\0"):rep(65536)),
        frame(MEMORY, "x"), frame(MEMORY, ("\0"):rep(65536)),
        frame(CHANNEL, ""), frame(CHANNEL, "x"), frame(FAIL, ""),
        frame(FAIL, "\12\0\0\0"), frame(FAIL, string.pack("<I4s4", 1 << 31, "")),
        frame(FAIL, string.pack("<I4s4", 12, "x") .. "y"),
      }
      for i, seen in ipairs(feed(source, streams)) do
        assert.are.equal(1, #seen.errors, "stream " .. i)
        assert.are.equal("protocol", seen.errors[1].kind,
          ("stream %d: %s"):format(i, seen.errors[1]))
        assert.are.equal(1, seen.info.code, "stream " .. i)
      end
    end))

  it("that lacks descriptors that were named costs that process", with_template(
    function(source)
      local streams = {
        frame(FDS, "", 1), frame(FDS, "", 253),
        frame(FORK, string.pack("<I8I4s4", 12345, 0, ""), 1),
        frame(HELLO, string.pack("<I4I8I4s4I4s4", PROTOCOL, 12345, 1, "0.1", 0, ""), 1),
      }
      for i, seen in ipairs(feed(source, streams)) do
        assert_protocol(seen, "without the descriptors that it names", "stream " .. i)
      end
      -- Those that should, but name none: the fork fails, not its template.
      local all = feed(source, {
        frame(FORK, string.pack("<I8I4s4", 12345, 0, "")),
        frame(FORK, string.pack("<I8I4s4", 12345, 2, ""), 0),
      })
      for _, seen in ipairs(all) do assert.are.same({}, seen.errors) end
    end))

  it("that brings surplus descriptors costs that process, and they are closed", with_template(
    function(source)
      local seen, sock = raw_worker(source)
      local near, far = assert(tine.socketpair())
      assert(sock:send_fd(far, far, far)) -- with a byte that is no command either
      write_all(sock, ("x"):rep(100))
      far:close()
      wait_until(10, function()
        local data, err = near:read()
        return not data and not err, "somebody has the other end"
      end)
      near:close()
      sock:close()
      wait_until(10, ended { seen })
      assert_protocol(seen, "garbage instead of a command")
    end))

  it("is as good as closed when nothing of tine is behind it", function()
    helper.no_leaks(function()
      local near, far = assert(tine.socketpair())
      far:close()
      local p = assert(tine.from_fd(near))
      local seen, given = watch(p), nil
      p:eval("x = 1"):run("print", function(fd, err) given = { fd, err } end)
      wait_until(5, ended { seen })
      assert.are.equal("closed", seen.exit.kind)
      assert.is_nil(given[1])
      assert.are.equal("closed", given[2].kind)
    end)
  end)

  it("behind which something else talks is an error", function()
    helper.no_leaks(function()
      for i = 1, 2 do
        local near, far = assert(tine.socketpair())
        far:write("220 mail.example.org ESMTP\r\n")
        local p = assert(tine.from_fd(near))
        local seen, given = watch(p), nil
        if i == 1 then
          p:eval("x = 1")
        else
          p:run("print", function(fd, err) given = { fd, err } end)
        end
        wait_until(5, ended { seen })
        assert.are.equal("protocol", seen.exit.kind)
        assert.matches("something else than a process of tine", seen.exit.message)
        if given then
          assert.is_nil(given[1])
          assert.are.equal("protocol", given[2].kind)
        end
        far:close()
      end
    end)
  end)

  it("that was passed on brings news also when the handle is being collected",
    with_template(function(source)
      local seen, sock = raw_worker(source)
      write_all(sock, "garbage instead of a command")
      -- Later objects are finalized first: the handle is found to be garbage by now, and has
      -- not been finalized.
      local polled
      setmetatable({}, { __gc = function()
        polled = pcall(wait_until, 10, ended { seen })
      end })
      collectgarbage()
      collectgarbage()
      assert.is_not_nil(polled)
      sock:close()
      wait_until(10, ended { seen })
      assert_protocol(seen, "garbage instead of a command")
    end))

  it("must be a socket", function()
    helper.no_leaks(function()
      local f = assert(io.open("/dev/null"))
      local p, err = tine.from_fd(require("tine.core").fileno(f))
      assert.is_nil(p)
      assert.are.equal("system", err.kind)
      f:close()
    end)
  end)
end)

-- In a process: its command socket and its report channel, as numbers.
local function find_sockets()
  local list <close> = io.popen("ls -l /proc/$PPID/fd 2>/dev/null; cat /proc/net/unix")
  local text = list:read("a")
  local command, report
  for n, inode in text:gmatch(" (%d+) %-> socket:%[(%d+)%]") do
    local kind = text:match("\n[^\n]- (%d%d%d%d) %d%d +" .. inode .. "[ \n]")
    if kind == "0001" then command = math.tointeger(tonumber(n)) end
    if kind == "0005" then report = math.tointeger(tonumber(n)) end
  end
  return command, report
end

local function prepare(source)
  source:eval(function(find)
    local fds = require "tine".fd
    function write_raw(which, ...) -- luacheck: ignore 111
      local fd
      for _ = 1, 50 do -- the kernel's list may lack one that was there, when others come and go
        local command, report = find()
        fd = which == "command" and command or report
        if fd then break end
      end
      fd = fds(fd)
      for _, data in ipairs { ... } do fd:write(data) end
      fd:detach()
    end
  end, find_sockets)
end

describe("a process #proc", function()
  it("that writes to its command socket before it is told to run is killed", with_template(
    function(source)
      prepare(source)
      local early = source:fork():eval("write_raw('command', 'hello?')")
      local seen = watch(early)
      wait_until(10, ended { seen })
      assert_protocol(seen, "it sent data before it was told to run")
      assert.are.equal("crash", seen.exit.kind)
      assert.are.equal(9, seen.info.signal)
      assert.are.equal(early:pid(), seen.errors[1].pid)
    end))

  it("that writes garbage to the report channel is killed", with_template(function(source)
    prepare(source)
    local head = string.pack("<I4I4I8", REPORT_MAGIC, 3, 0)
    local reports = {
      "x", ("garbage"):rep(100), ("\0"):rep(16), ("\255"):rep(65536), ("big"):rep(40000),
      string.pack("<I4I4I8I8", REPORT_MAGIC + 1, 3, 0, 0), -- magic
      string.pack("<I4I4I8I8", REPORT_MAGIC, 0, 0, 0), -- types
      string.pack("<I4I4I8I8", REPORT_MAGIC, 6, 0, 0),
      string.pack("<I4I4I8I8", REPORT_MAGIC, 7, 0, 0),
      string.pack("<I4I4I8I8I4I4i8i8i8s4", REPORT_MAGIC, 6, 0, 1, 0, 0, 1, 1, 1, ""), -- heaps
      string.pack("<I4I4I8I8I4I4i8i8i8s4", REPORT_MAGIC, 6, 0, 1, 4, 0, 1, 1, 1, ""),
      string.pack("<I4I4I8I8I4I4i8i8i8s4", REPORT_MAGIC, 6, 0, 1, 1, 0, -1, 1, 1, ""), -- sizes
      string.pack("<I4I4I8I8I4I4i8i8i8s4", REPORT_MAGIC, 6, 0, 1, 1, 0, 1, 1, 1, ("x"):rep(120)),
      string.pack("<I4I4I8I8", REPORT_MAGIC, 0xffffffff, 0, 0),
      head .. ("\0"):rep(7), head .. ("\0"):rep(9), -- lengths
      string.pack("<I4I4I8I4I4s4s4", REPORT_MAGIC, 4, 0, 99, 0, "kind", ""),
      string.pack("<I4I4I8I4I4s4", REPORT_MAGIC, 4, 0, 0, 0xffffffff, "errno") .. ("\0"):rep(4),
      string.pack("<I4I4I8I4I4I4", REPORT_MAGIC, 4, 0, 0, 0, 0xffffffff) .. "text",
      string.pack("<I4I4I8I8I4I4", REPORT_MAGIC, 5, 0, 0, 1, 0) .. ("\0"):rep(143),
    }
    -- It would be good, if it were not for what does not fit.
    reports[#reports + 1] = string.pack("<I4I4I8I4I4s4s4", REPORT_MAGIC, 4, 1 << 40, 0, 0,
      ("x"):rep(65536 - 32), "") .. "more"
    for i = 1, 23 do
      reports[#reports + 1] = string.pack("<I4I4I8I8", REPORT_MAGIC, 3, 0, 0):sub(1, i)
    end
    local all = {}
    for i, report in ipairs(reports) do
      all[i] = watch(source:fork():eval("write_raw('report', ...)", report))
    end
    wait_until(20, ended(all))
    for i, seen in ipairs(all) do
      assert_protocol(seen, "it sent garbage on the report channel", "report " .. i)
      assert.are.equal(9, seen.info.signal)
    end
  end))

  it("that writes garbage while it runs a function, and fails, has an error for it", with_template(
    function(source)
      prepare(source)
      local function enter(s)
        for line in function() return s:read_line() end do
          if line == "go" then
            _ENV.write_raw("report", "garbage", "more", "and more")
            os.exit(3)
          end
          s:write(line .. "\n")
        end
      end
      local socks, all = {}, {}
      for i = 1, 3 do
        local p = source:fork()
        all[i] = watch(p)
        p:run(enter, function(fd, err) socks[i] = fd or error(err) end)
      end
      wait_until(10, function() return socks[1] and socks[2] and socks[3] end)
      socks[2]:write("go\n")
      wait_until(10, ended { all[2] })
      assert_protocol(all[2], "sent garbage on the report channel")
      assert.are.equal(3, all[2].info.code)
      for _, i in ipairs { 1, 3 } do
        local answer
        socks[i]:write("hello\n")
        wait_until(10, function()
          answer = answer or socks[i]:read_line()
          return answer
        end)
        assert.are.equal("hello", answer)
        assert.are.equal(0, all[i].exits)
      end
      for i = 1, 3 do socks[i]:close() end
      wait_until(10, ended(all))
      assert.is_nil(all[1].exit)
      assert.is_nil(all[3].exit)
    end))

  it("that reports of processes that nobody knows is not heard", with_template(function(source)
    prepare(source)
    local forged = {}
    for kind = 2, 3 do
      forged[#forged + 1] = string.pack("<I4I4I8I8", REPORT_MAGIC, kind, 0xabcdef << 32, 1)
    end
    forged[#forged + 1] = string.pack("<I4I4I8I4I4s4s4", REPORT_MAGIC, 4, 1 << 40, 0, 0, "x", "")
    local p = source:fork()
    local seen = watch(p)
    p:eval("write_raw('report', ...)", table.unpack(forged))
    p:close()
    wait_until(10, ended { seen })
    assert.is_nil(seen.exit)
    assert.are.same({}, seen.errors)
  end))
end)

describe("an interpreter #proc", function()
  local function script(text)
    local path = helper.write_file(text)
    os.execute("chmod +x " .. path)
    return path
  end

  -- Makes handles of all kinds with a bad interpreter. Returns what they were told.
  local function try(path)
    assert_works(tine.new()) -- makes the host and its sweeper, which are no leaks
    tine.reset()
    return helper.no_leaks(function()
      local all = {}
      tine.reset()
      tine.interpreter = path
      local ok, err = pcall(function()
        for i = 1, 3 do
          local p = tine.new()
          all[i] = watch(p)
          p:eval("error('never')"):send_arg("x")
          if i == 2 then
            p:run("print", function(fd, e)
              assert(not fd)
              all[i].given = e
            end)
          end
        end
        local exec = tine.new_exec()
        all[4] = watch(exec)
        all[5] = watch(exec:fork())
        all[6] = watch(exec:fork({ stdout = function() end }):fork())
        wait_until(15, ended(all))
      end)
      tine.interpreter = nil
      tine.reset()
      if not ok then error(err, 0) end
      assert_works(tine.new())
      assert_works(tine.new_exec())
      tine.reset()
      return all
    end, { cold = true })
  end

  local function assert_all(all, kind, text)
    for i, seen in ipairs(all) do
      assert.are.equal(kind, seen.exit and seen.exit.kind, "handle " .. i)
      assert.matches(text, seen.exit.message, nil, nil, "handle " .. i)
      assert.are.equal(1, seen.exits)
      assert.are.equal(1, #seen.errors)
      assert.are.equal(seen.exit.message, seen.errors[1].message)
    end
    assert.are.equal(kind, all[2].given.kind)
    assert.matches(text, all[2].given.message)
  end

  it("that is not there is an error on every handle", function()
    local path = helper.tmpname()
    local all = try(path)
    assert_all(all, "system", "cannot execute " .. path:gsub("%p", "%%%0") .. ": .*%(ENOENT%)")
    assert.are.equal(2, all[1].exit.errno)
  end)

  it("that is not executable is an error on every handle", function()
    assert_all(try(helper.write_file("#!/bin/sh\n")), "system", "cannot execute .*%(EACCES%)")
  end)

  it("that is a directory is an error on every handle", function()
    assert_all(try("/usr/bin"), "system", "cannot execute /usr/bin: .*%(EACCES%)")
  end)

  it("that is no program is an error on every handle", function()
    assert_all(try(script("just some text\n")), "system", "cannot execute .*%(ENOEXEC%)")
    assert_all(try(script("")), "system", "cannot execute .*%(ENOEXEC%)")
    assert_all(try(script("#!/no/such/interpreter\n")), "system", "cannot execute .*%(ENOENT%)")
  end)

  it("that exits in its start is an error on every handle", function()
    local all = try("/bin/true")
    assert_all(all, "exit", "exited with code 0 before it was ready")
    assert_all(try(script("#!/bin/sh\nexit 3\n")), "exit", "exited with code 3 before")
  end)

  it("that is killed in its start is an error on every handle", function()
    local all = try(script("#!/bin/sh\nkill -SEGV $$\n"))
    assert_all(all, "crash", "killed by signal 11 %(SIGSEGV%).* before it was ready")
    assert.are.equal(11, all[4].exit.signal)
  end)

  it("that closes its command socket and stays is ended", function()
    -- It cannot know that the host's end is there only for it.
    local all = try(script("#!/bin/sh\nexec 3>&-\nkill -TERM $$\n"))
    assert_all(all, "crash", "killed by signal 15")
  end)

  -- Answers the greeting: fields of a HELLO report after magic and type.
  local function answering(protocol, rest)
    return script(([[#!/usr/bin/env %s
package.path, package.cpath = %q, %q
local tine = require "tine"
local command = tine.fd(3)
command:set_blocking(true)
local text = ""
while #text < 24 do text = text .. command:read() end
local report = command:recv_fd()
report:write(string.pack("<I4I4I8I4", 0x74696e65, 1, string.unpack("<I8", text, 17), %d) .. %s)
while command:read() do end
]]):format(helper.lua, package.path, package.cpath, protocol, rest))
  end

  it("of another protocol is an error on every handle, which names both versions", function()
    local all = try(answering(PROTOCOL + 1, "string.pack('<I4s4s4', 0, '9.9.9', 'Lua 5.5')"))
    assert_all(all, "protocol", ("speaks protocol %d %%(tine 9%%.9%%.9%%), this program speaks %d")
      :format(PROTOCOL + 1, PROTOCOL))
    all = try(answering(99, "string.pack('<I4s4s4', 0, '0.0.1', 'Lua 5.4') .. 'and more'"))
    assert_all(all, "protocol", "speaks protocol 99 %(tine 0%.0%.1%)")
  end)

  it("that greets in garbage is ended", function()
    -- Nobody knows yet who sends it: it is not heard, and the interpreter ends by itself.
    local path = script(([[#!/usr/bin/env %s
package.path, package.cpath = %q, %q
local tine = require "tine"
local command = tine.fd(3)
command:set_blocking(true)
command:read()
command:recv_fd():write("garbage")
os.exit(4)
]]):format(helper.lua, package.path, package.cpath))
    assert_all(try(path), "exit", "exited with code 4 before it was ready")
  end)

  it("that never answers is an error on every handle after 10 seconds #slow", function()
    local all = try(script("#!/bin/sh\nexec sleep 1000\n"))
    assert_all(all, "timeout", "the interpreter did not answer")
  end)
end)
