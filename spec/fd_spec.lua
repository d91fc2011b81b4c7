-- tine.fd, tine.socketpair, tine.listen, tine.connect: what one process can see of them.
local tine = require "tine"

local EAGAIN, EBUSY, EMFILE, ENOTSOCK, EPIPE = 11, 16, 24, 88, 32
local EADDRINUSE, ENAMETOOLONG, ECONNREFUSED, ENOTCONN = 98, 36, 111, 107

-- The flags of an open descriptor, or nil. Opening fdinfo does not touch the file itself.
local function fd_flags(n)
  local file = io.open("/proc/self/fdinfo/" .. n)
  if not file then return nil end
  local flags = tonumber(file:read("a"):match("flags:%s*(%d+)"), 8)
  file:close()
  return flags
end

local function count_fds()
  local n = 0
  for i = 0, 1023 do
    if fd_flags(i) then n = n + 1 end
  end
  return n
end

describe("tine.fd #unit", function()
  local baseline, opened, paths, hooked

  local function keep(...)
    for _, object in ipairs {...} do opened[#opened + 1] = object end
    return ...
  end

  local function pair()
    return keep(assert(tine.socketpair()))
  end

  -- Both ends of a pipe, in one blocking descriptor: no process is left on it.
  local function pipe()
    local a, b = pair()
    local command = io.popen(":", "w")
    assert(a:send_fd(command))
    local w = keep(assert(b:recv_fd()))
    command:close()
    a:close()
    b:close()
    local r = keep(io.open("/proc/self/fd/" .. w:fileno(), "r"))
    a, b = pair()
    assert(a:send_fd(r))
    r:close()
    r = keep(assert(b:recv_fd()))
    a:close()
    b:close()
    return r, w
  end

  local function path()
    local name = os.tmpname()
    os.remove(name)
    paths[#paths + 1] = name
    return name
  end

  -- Sets a function of the loop for the time of a test.
  local function hook(name, fn)
    local registry = debug.getregistry()
    hooked[#hooked + 1] = { name, registry[name] }
    registry[name] = fn
  end

  local function assert_err(kind, errno, ok, err, ...)
    assert.is_nil(ok)
    assert.is_table(err)
    assert.are.equal(kind, err.kind)
    assert.are.equal(errno, err.errno)
    assert.is_string(err.message)
    assert.are.equal(err.message, tostring(err))
    assert.are.equal(0, select("#", ...))
    return err
  end

  local function assert_misuse(pattern, fn)
    local ok, message = pcall(fn)
    assert.is_false(ok)
    assert.is_string(message)
    assert.matches("fd_spec%.lua:%d+: ", message)
    assert.matches(pattern, message)
  end

  before_each(function()
    collectgarbage()
    collectgarbage()
    baseline, opened, paths, hooked = count_fds(), {}, {}, {}
  end)

  after_each(function()
    for i = #hooked, 1, -1 do
      debug.getregistry()[hooked[i][1]] = hooked[i][2]
    end
    for _, object in ipairs(opened) do
      if io.type(object) ~= "closed file" then object:close() end
    end
    for _, name in ipairs(paths) do os.remove(name) end
    opened = nil
    collectgarbage()
    collectgarbage()
    assert.are.equal(baseline, count_fds())
  end)

  describe("as an object", function()
    it("tells its descriptor and its state", function()
      local a = pair()
      assert.are.equal("integer", math.type(a:fileno()))
      assert.are.equal(("tine.fd (%d)"):format(a:fileno()), tostring(a))
      a:close()
      assert.are.equal("tine.fd (closed)", tostring(a))
      assert.are.equal("tine.fd", getmetatable(a).__name)
    end)

    it("closes as often as one likes", function()
      local a, b = pair()
      local n = a:fileno()
      assert.is_true(a:close())
      assert.is_nil(fd_flags(n))
      assert.is_true(a:close())
      assert.is_nil((b:read()))
      do
        local scoped <close> = b
        assert.is_number(scoped:fileno())
      end
      assert_err("closed", nil, b:fileno())
    end)

    it("answers 'closed' once it is", function()
      local a, b = pair()
      a:close()
      assert_err("closed", nil, a:read())
      assert_err("closed", nil, a:read_line())
      assert_err("closed", nil, a:write("x"))
      assert_err("closed", nil, a:send_fd(b))
      assert_err("closed", nil, a:recv_fd())
      assert_err("closed", nil, a:accept())
      assert_err("closed", nil, a:shutdown("rw"))
      assert_err("closed", nil, a:fileno())
      assert_err("closed", nil, a:dup())
      assert_err("closed", nil, a:detach())
      assert_err("closed", nil, a:to_file())
      assert_err("closed", nil, a:set_blocking(true))
      assert_err("closed", nil, a:address())
      assert_err("closed", nil, a:peer())
    end)

    it("raises on misuse, at the caller's line", function()
      local a, b = pair()
      assert_misuse("number expected", function() a:read("x") end)
      assert_misuse("must be positive", function() a:read(0) end)
      assert_misuse("string expected", function() a:write({}) end)
      assert_misuse("string expected", function() a:write() end)
      assert_misuse("boolean expected", function() a:set_blocking(1) end)
      assert_misuse("invalid option", function() a:shutdown("both") end)
      assert_misuse("invalid mode", function() a:to_file("x") end)
      assert_misuse("tine%.fd expected", function() a.read({}) end)
      b:close()
      assert_misuse("descriptor is closed", function() a:send_fd(b) end)
    end)

    it("is close-on-exec, out of the way of stdio, nonblocking where it listens", function()
      local a, b = pair()
      local server = keep(assert(tine.listen("127.0.0.1:0")))
      for _, object in ipairs { a, b, server, keep(a:dup()) } do
        local flags = fd_flags(object:fileno())
        assert.are.equal(0x80000, flags & 0x80000)
        assert.are.equal(object == server and 0x800 or 0, flags & 0x800)
        assert.is_true(object:fileno() > 2)
      end
    end)

    it("is closed by the collector, with what it had queued", function()
      local a, b = tine.socketpair()
      assert(a:send_fd(io.stdout, io.stdout))
      assert(a:send_fd(io.stdout))
      assert.are.equal("\0", b:read())
      assert.are.equal(baseline + 4, count_fds())
      a, b = nil, nil -- luacheck: no unused
      collectgarbage()
      collectgarbage()
      assert.are.equal(baseline, count_fds())
    end)

    it("has a copy that outlives it", function()
      local a, b = pair()
      local copy = keep(assert(a:dup()))
      assert.are_not.equal(a:fileno(), copy:fileno())
      a:close()
      copy:write("still here")
      assert.are.equal("still here", b:read())
    end)

    it("gives its descriptor away, unless that would lose something", function()
      local a, b = pair()
      a:write("line\nmore")
      a:send_fd(io.stdout)
      assert.are.equal("line", b:read_line())
      local err = assert_err("system", EBUSY, b:detach())
      assert.matches("5 bytes", err.message)
      assert.matches("1 descriptors", err.message)
      assert_err("system", EBUSY, b:to_file())
      keep(b:recv_fd())
      assert.are.equal("more", b:read())

      local n = b:detach()
      assert.are.equal("tine.fd (closed)", tostring(b))
      assert.is_number(fd_flags(n))
      a:write("x")
      local c, d = pair()
      assert(c:send_fd(n))
      assert.are.equal("x", keep(d:recv_fd()):read())
      baseline = baseline + 1 -- Plain Lua cannot close an integer.
    end)

    it("turns into a file of the io library", function()
      local a, b = pair()
      local n = a:fileno()
      local file = keep(assert(a:to_file()))
      assert.are.equal("file", io.type(file))
      assert.are.equal("tine.fd (closed)", tostring(a))
      assert.are.equal(0, fd_flags(n) & 0x800)
      file:write("through stdio\n")
      file:flush()
      assert.are.equal("through stdio", b:read_line())
      b:write("and back\n")
      assert.are.equal("and back", file:read("l"))
      assert.is_true(file:close())
      assert.is_nil((b:read()))
    end)

    it("sets O_NONBLOCK with its policy", function()
      local a, b = pair()
      assert.is_true(a:set_blocking(true))
      assert.are.equal(0, fd_flags(a:fileno()) & 0x800)
      b:write("x")
      assert.are.equal("x", a:read())
      b:close()
      assert.is_nil((a:read()))
      assert.is_true(a:set_blocking(false))
      assert.are.equal(0x800, fd_flags(a:fileno()) & 0x800)
    end)
  end)

  describe("reading and writing", function()
    it("never waits outside a coroutine of the loop", function()
      local a, b = pair()
      assert_err("system", EAGAIN, a:read())
      assert_err("system", EAGAIN, a:read(10))
      assert_err("system", EAGAIN, a:read_line())
      assert_err("system", EAGAIN, a:recv_fd())
      local server = keep(tine.listen("127.0.0.1:0"))
      assert_err("system", EAGAIN, server:accept())
      local written, n = 0
      repeat
        n = a:write(("x"):rep(100000))
        written = written + (n or 0)
      until not n
      assert_err("system", EAGAIN, a:write("x"))
      assert_err("system", EAGAIN, a:send_fd(b))
      local got = 0
      while got < written do got = got + #assert(b:read()) end
      assert.are.equal(written, got)
    end)

    it("reads what is there, at most as much as asked for", function()
      local a, b = pair()
      assert.are.equal(11, a:write("hello world"))
      assert.are.equal("hello", b:read(5))
      assert.are.equal(" world", b:read())
      a:write(("x"):rep(100000))
      assert.are.equal(65536, #b:read())
      assert.are.equal(100000 - 65536, #b:read(1 << 40))
    end)

    it("writes numbers, any bytes, and nothing", function()
      local a, b = pair()
      assert.are.equal(2, a:write(42))
      assert.are.equal(0, a:write(""))
      assert.are.equal(3, a:write("\0\255\n"))
      assert.are.equal("42\0\255\n", b:read())
    end)

    it("gives nil and no err at the end", function()
      local a, b = pair()
      a:write("last")
      a:close()
      assert.are.equal("last", b:read())
      for _ = 1, 2 do
        assert.are.same({n = 1}, table.pack(b:read()))
        assert.are.same({n = 1}, table.pack(b:read_line()))
        assert.are.same({n = 1}, table.pack(b:recv_fd()))
      end
    end)

    it("shuts down one way", function()
      local a, b = pair()
      assert.is_true(a:shutdown("w"))
      assert.is_nil((b:read()))
      b:write("answer")
      assert.are.equal("answer", a:read())
      assert.is_true(b:shutdown("rw"))
      assert.is_nil((a:read()))
      local r = pipe()
      assert_err("system", ENOTSOCK, r:shutdown("r"))
    end)

    it("returns an err when nobody reads any more, and no signal", function()
      local a, b = pair()
      b:close()
      assert_err("system", EPIPE, a:write("x"))
      local r, w = pipe()
      r:close()
      assert_err("system", EPIPE, w:write("x"))
      assert_err("system", EPIPE, w:write("x"))
    end)

    it("never blocks on a pipe that does", function()
      local r, w = pipe()
      assert.are.equal(0, fd_flags(r:fileno()) & 0x800)
      assert_err("system", EAGAIN, r:read())
      assert_err("system", EAGAIN, r:read_line())
      local written = assert(w:write(("x"):rep(1 << 20)))
      assert.is_true(written >= 4096 and written < 1 << 20)
      assert_err("system", EAGAIN, w:write("x"))
      local got = 0
      while got < written do got = got + #assert(r:read()) end
      assert.are.equal(written, got)
      w:close()
      assert.is_nil((r:read()))
    end)

    it("takes regular files", function()
      local name = path()
      keep(io.open(name, "w")):write("one\ntwo"):close()
      local a, b = pair()
      a:send_fd(keep(io.open(name)))
      local file = keep(assert(b:recv_fd()))
      assert.are.equal("one", file:read_line())
      assert.are.equal("two", file:read_line())
      assert.is_nil((file:read_line()))
    end)
  end)

  describe("read_line", function()
    local text = "one\n\ntwo\r\n\0\nlast"
    local lines = {"one", "", "two\r", "\0", "last"}

    local function all_lines(object, into)
      repeat
        local line, err = object:read_line()
        into[#into + 1] = line
      until not line or err
      return into
    end

    it("finds the lines wherever the stream was cut", function()
      for cut = 0, #text do
        local a, b = tine.socketpair()
        local got = {}
        a:write(text:sub(1, cut))
        all_lines(b, got)
        a:write(text:sub(cut + 1))
        a:close()
        assert.are.same(lines, all_lines(b, got))
        b:close()
      end
    end)

    it("finds the lines in single bytes", function()
      local a, b = pair()
      local got = {}
      for byte in text:gmatch(".") do
        a:write(byte)
        all_lines(b, got)
      end
      a:close()
      assert.are.same(lines, all_lines(b, got))
    end)

    it("shares its buffer with read", function()
      local a, b = pair()
      a:write("line\nrest\nand more\n")
      assert.are.equal("line", b:read_line())
      assert.are.equal("re", b:read(2))
      assert.are.equal("st", b:read_line())
      assert.are.equal("and more\n", b:read())
      assert_err("system", EAGAIN, b:read())
    end)

    it("reads lines of a megabyte", function()
      local a, b = pair()
      local line = ("0123456789abcdef"):rep(1 << 16)
      local data = line .. "\n" .. line .. "\nend\n"
      local at, got = 1, {}
      while #got < 3 do
        if at <= #data then at = at + (a:write(data:sub(at, at + 99999)) or 0) end
        got[#got + 1] = b:read_line()
      end
      assert.is_true(got[1] == line and got[2] == line)
      assert.are.equal("end", got[3])
    end)
  end)

  describe("passing descriptors", function()
    it("takes integers, files, its like, and objects with fileno or getfd", function()
      local a, b = pair()
      local file = keep(io.tmpfile())
      local n = a:fileno()
      local indexed = setmetatable({}, {__index = {getfd = function() return n end}})
      assert.is_true(a:send_fd(n, n + 0.0, file, b, {fileno = function() return n end}, indexed))
      local got = keep(b:recv_fd())
      assert.is_userdata(got)
      assert.are.equal(6 + 2, #opened - 1)
      for _, object in ipairs(opened) do
        if io.type(object) == nil then
          assert.is_true(object:fileno() > 2)
          assert.are.equal(0x80000, fd_flags(object:fileno()) & 0x80000)
        end
      end
    end)

    it("raises on what is none, at the caller's line", function()
      local a, b = pair()
      local closed = io.tmpfile()
      closed:close()
      assert_misuse("value expected", function() a:send_fd() end)
      assert_misuse("bad argument #1.*expected, got string", function() a:send_fd("1") end)
      assert_misuse("bad argument #2.*expected, got nil", function() a:send_fd(b, nil) end)
      assert_misuse("got boolean", function() a:send_fd(true) end)
      assert_misuse("got table", function() a:send_fd({}) end)
      assert_misuse("got thread", function() a:send_fd(coroutine.create(print)) end)
      assert_misuse("not open", function() a:send_fd(-1) end)
      assert_misuse("not open", function() a:send_fd(1 << 20) end)
      assert_misuse("not open", function() a:send_fd(1 << 40) end)
      assert_misuse("integer representation", function() a:send_fd(1.5) end)
      assert_misuse("file is closed", function() a:send_fd(closed) end)
      assert_misuse("its fileno%(%) gives no", function() a:send_fd({fileno = tostring}) end)
      assert_misuse("more than 253", function()
        local many = {}
        for i = 1, 254 do many[i] = a end
        a:send_fd(table.unpack(many))
      end)
      assert_err("system", EAGAIN, b:read())
    end)

    it("keeps order and message boundaries", function()
      local a, b = pair()
      local files = {}
      for i = 1, 6 do
        files[i] = keep(io.tmpfile())
        files[i]:write(i)
        files[i]:flush()
      end
      assert(a:send_fd(files[1]))
      assert(a:send_fd(files[2], files[3]))
      assert(a:send_fd(files[4], files[5], files[6]))
      local number = 0
      for size = 1, 3 do
        local got = table.pack(keep(b:recv_fd()))
        assert.are.equal(size, got.n)
        for _, object in ipairs(got) do
          number = number + 1
          local file = keep(object:to_file("r+"))
          file:seek("set")
          assert.are.equal(number, file:read("n"))
        end
      end
      assert_err("system", EAGAIN, b:recv_fd())
    end)

    it("carries as many as the kernel takes", function()
      local a, b = pair()
      local many = {}
      for i = 1, 253 do many[i] = a end
      assert(a:send_fd(table.unpack(many)))
      assert.are.equal(253, select("#", keep(b:recv_fd())))
    end)

    it("loses no descriptor glued to data", function()
      local a, b = pair()
      a:write("before\n")
      a:send_fd(io.stdout)
      a:write("between\n")
      a:send_fd(io.stdout, io.stdout)
      a:write("after\n")
      assert.are.equal("before", b:read_line())
      assert.are.equal(1, select("#", keep(b:recv_fd())))
      assert.are.equal("between", b:read_line())
      assert.are.equal(2, select("#", keep(b:recv_fd())))
      assert.are.equal("after", b:read_line())
      assert_err("system", EAGAIN, b:read())
    end)

    it("shows a plain read the NUL, and keeps the descriptor for recv_fd", function()
      local a, b = pair()
      a:write("x")
      a:send_fd(io.stdout)
      a:write("y")
      assert.are.equal("x\0", b:read())
      assert.are.equal("y", b:read())
      keep(assert(b:recv_fd()))
      a:send_fd(io.stdout)
      a:write("line\nz\n")
      assert.are.equal("\0line", b:read_line())
      keep(assert(b:recv_fd()))
      assert.are.equal("z", b:read_line())
    end)

    it("takes descriptors from behind data read ahead, and leaves the data", function()
      local a, b = pair()
      a:write("line\ndata")
      a:send_fd(io.stdout)
      a:write("more")
      assert.are.equal("line", b:read_line())
      keep(assert(b:recv_fd()))
      assert.are.equal("data", b:read())
      assert.are.equal("more", b:read())
    end)

    it("does not take data for descriptors, nor lose it", function()
      local a, b = pair()
      a:write("data")
      assert_err("protocol", nil, b:recv_fd())
      assert.are.equal("d", b:read())
      assert.are.equal("ata", b:read())
      a:close()
      assert.is_nil((b:recv_fd()))
      local r, w = pipe()
      assert_err("system", ENOTSOCK, r:recv_fd())
      assert_err("system", ENOTSOCK, w:send_fd(r))
    end)

    it("says so when the process has too many open to receive", function()
      local limit
      for line in io.lines("/proc/self/limits") do
        limit = tonumber(line:match("^Max open files%s+(%d+)")) or limit
      end
      if not limit or limit > 30000 then return pending("the limit is too high to reach") end
      local a, b = pair()
      assert(a:send_fd(a, a, a))
      assert(a:send_fd(a))
      a:write("and data\n")
      local files = {}
      repeat
        local file = io.open("/dev/null")
        files[#files + 1] = file
      until not file
      files[#files]:close()
      local results = {table.pack(b:recv_fd()), table.pack(b:recv_fd()), table.pack(b:recv_fd())}
      for _, file in ipairs(files) do
        if io.type(file) == "file" then file:close() end
      end
      if results[1].n == 3 then
        keep(table.unpack(results[1]))
        keep(results[2][1])
        return pending("something lifts the limit, as valgrind does")
      end
      assert_err("system", EMFILE, table.unpack(results[1]))
      assert.are.equal(1, results[2].n)
      keep(results[2][1])
      assert_err("system", EMFILE, table.unpack(results[3]))
      assert.are.equal("and data", b:read_line())
    end)
  end)

  describe("sockets", function()
    local function talk(server, address)
      assert(server:set_blocking(true))
      local client = keep(assert(tine.connect(address)))
      local conn = keep(assert(server:accept()))
      for _, from_to in ipairs {{client, conn}, {conn, client}} do
        from_to[2]:set_blocking(true)
        assert.are.equal(5, from_to[1]:write("hello"))
        assert.are.equal("hello", from_to[2]:read())
      end
      return client, conn
    end

    it("speak TCP at a port of the system's choice", function()
      local server = keep(assert(tine.listen("127.0.0.1:0")))
      local address = server:address()
      assert.matches("^127%.0%.0%.1:[1-9]%d*$", address)
      local client, conn = talk(server, address)
      assert.are.equal(address, client:peer())
      assert.are.equal(client:address(), conn:peer())
      assert.are.equal(address, conn:address())
      assert_err("system", ENOTCONN, server:peer())
      conn:close()
      assert.is_nil((client:read()))
    end)

    it("look names up", function()
      local server = keep(assert(tine.listen("localhost:0")))
      talk(server, "localhost:" .. server:address():match("%d+$"))
    end)

    it("speak IPv6 in brackets", function()
      local server, err = tine.listen("[::1]:0")
      if not server then return pending(tostring(err)) end
      keep(server)
      local address = server:address()
      assert.matches("^%[::1%]:[1-9]%d*$", address)
      assert.are.equal(address, talk(server, address):peer())
    end)

    it("have paths", function()
      local address = "unix:" .. path()
      local server = keep(assert(tine.listen(address)))
      assert.are.equal(address, server:address())
      local client, conn = talk(server, address)
      assert.are.equal(address, client:peer())
      assert.are.equal("unix:", client:address())
      assert.are.equal("unix:", conn:peer())
      assert.are.equal("unix:", (pair()):address())
    end)

    it("have abstract names", function()
      local address = "unix:@" .. path()
      local server = keep(assert(tine.listen(address)))
      assert.are.equal(address, server:address())
      talk(server, address)
      assert_err("system", EADDRINUSE, tine.listen(address))
    end)

    it("replace a stale file, and nothing else", function()
      local name = path()
      local address = "unix:" .. name
      local first = assert(tine.listen(address))
      assert_err("system", EADDRINUSE, tine.listen(address))
      first:close()
      assert_err("system", ECONNREFUSED, tine.connect(address))
      talk(keep(assert(tine.listen(address))), address)

      local plain = path()
      io.open(plain, "w"):close()
      assert_err("system", EADDRINUSE, tine.listen("unix:" .. plain))
      assert(io.open(plain)):close()
    end)

    it("take options, and no others", function()
      local server = keep(assert(tine.listen("127.0.0.1:0", {reuseport = true, backlog = 1})))
      keep(assert(tine.listen(server:address(), {reuseport = true})))
      local mode = path()
      keep(assert(tine.listen("unix:" .. mode, {mode = tonumber("600", 8)})))
      local stat = io.popen("stat -c %a " .. mode)
      assert.are.equal("600", stat:read("l"))
      stat:close()
      local function misuse(options, pattern)
        assert_misuse(pattern, function() tine.listen("127.0.0.1:0", options) end)
      end
      misuse({backlok = 1}, "unknown option 'backlok'")
      misuse({1}, "unknown option")
      misuse({backlog = "1"}, "backlog")
      misuse({mode = -1}, "mode")
      misuse({reuseport = 1}, "reuseport")
      misuse(1, "table expected")
    end)

    it("refuse malformed addresses at the caller's line", function()
      for _, address in ipairs {
        "", "host", ":80", "host:", "host:http", "host:99999", "host:123456", "::1:80",
        "[::1]", "[::1]80", "[]:80", "[host]:80", "[1.2.3.4]:80", "unix:", "unix:@",
        "unix:/a\0b", "127.0.0.1\0:80", "127.0.0.1:80 ", "127.0.0.1:-1", 80,
      } do
        for _, call in ipairs { tine.listen, tine.connect } do
          assert_misuse("host:port.*%[::1%]:port.*unix:/path", function() call(address) end)
        end
      end
      assert_misuse("string expected", function() tine.connect() end)
    end)

    it("tell why an address does not work", function()
      local long = "unix:/" .. ("x"):rep(107)
      for _, call in ipairs { tine.listen, tine.connect } do
        local err = assert_err("system", ENAMETOOLONG, call(long))
        assert.matches("108 bytes.*107", err.message)
        assert.matches(long, err.message, 1, true)
      end
      local server = keep(assert(tine.listen("127.0.0.1:0")))
      local err = assert_err("system", EADDRINUSE, tine.listen(server:address()))
      assert.matches("listen " .. server:address() .. ": ", err.message, 1, true)
      assert.matches("EADDRINUSE", err.message)
      assert_err("system", nil, tine.connect("no-such-host.invalid:80"))
    end)

    it("tell of a refused connection at once or when used", function()
      local server = tine.listen("127.0.0.1:0")
      local address = server:address()
      server:close()
      local client, err = tine.connect(address)
      if client then
        keep(client):set_blocking(true)
        client, err = client:read()
      end
      assert_err("system", ECONNREFUSED, client, err)
    end)
  end)

  describe("with a wait function", function()
    -- As the loop's: waits by yielding, where that is possible.
    local function waiter(object, event)
      if not coroutine.isyieldable() then return false end
      return coroutine.yield(object, event)
    end

    local function start(fn, ...)
      local co = coroutine.wrap(function(...) return "done", fn(...) end)
      return co, co(...)
    end

    it("waits in a coroutine, and only there", function()
      hook("tine.fd.wait", waiter)
      local a, b = pair()
      assert_err("system", EAGAIN, b:read())
      local co, object, event = start(b.read, b)
      assert.are.equal(b, object)
      assert.are.equal("r", event)
      a:write("x")
      assert.are.same({"done", "x"}, {co(true)})
      co = start(b.read_line, b)
      a:write("li")
      assert.are.equal(b, co(true))
      a:write("ne\n")
      assert.are.same({"done", "line"}, {co(true)})
      co = start(b.recv_fd, b)
      a:send_fd(a)
      local _, received = co(true)
      keep(assert(received))
    end)

    it("writes all", function()
      hook("tine.fd.wait", waiter)
      local a, b = pair()
      local data = ("0123456789"):rep(200000)
      local co, _, event = start(a.write, a, data)
      local got = {}
      while event == "w" do
        got[#got + 1] = assert(b:read())
        _, event = co(true)
      end
      assert.are.equal(#data, event)
      repeat
        local more = b:read()
        got[#got + 1] = more
      until not more
      assert.is_true(table.concat(got) == data)
    end)

    it("accepts and connects", function()
      hook("tine.fd.wait", waiter)
      local server = keep(tine.listen("127.0.0.1:0"))
      local accept = start(server.accept, server)
      local connect, first, client = start(tine.connect, server:address())
      while first ~= "done" do
        assert.are.equal("w", client)
        first, client = connect(true)
      end
      keep(assert(client))
      local conn
      repeat first, conn = accept(true) until first == "done"
      keep(assert(conn))
      assert.are.equal(client:address(), conn:peer())
    end)

    it("needs no coroutine if the function waits by itself", function()
      local a, b = pair()
      local calls = 0
      hook("tine.fd.wait", function()
        calls = calls + 1
        if calls % 10 == 0 then a:write("x") end
        return true
      end)
      for i = 1, 1000 do
        assert.are.equal("x", b:read())
        assert.are.equal(10 * i, calls)
      end
    end)

    it("fails with the err of the function", function()
      hook("tine.fd.wait", waiter)
      local a, b = pair()
      local err = {kind = "cancelled"}
      local co = start(b.read, b)
      assert.are.same({"done", nil, err}, {co(nil, err)})
      co = start(a.write, a, ("x"):rep(1 << 20))
      local _, n, same = co(true, err)
      assert.is_nil(n)
      assert.are.equal(err, same)
      assert.are.equal(#b:read(1 << 20), err.written)
    end)

    it("says how much was written before an error", function()
      hook("tine.fd.wait", waiter)
      local a, b = pair()
      local co = start(a.write, a, ("x"):rep(1 << 20))
      local got = #b:read(1 << 20)
      b:close()
      local _, n, err = co(true)
      assert_err("system", EPIPE, n, err)
      assert.are.equal(got, err.written)
    end)

    it("gives the part written where it cannot wait", function()
      hook("tine.fd.wait", waiter)
      local a, b = pair()
      local n = a:write(("x"):rep(1 << 20))
      assert.are.equal(#b:read(1 << 20), n)
    end)

    it("notices that somebody else closed the object", function()
      hook("tine.fd.wait", waiter)
      local told = {}
      hook("tine.fd.closing", function(object, n)
        told[#told + 1] = {object, n, tostring(object), fd_flags(n) ~= nil}
        error("which must not matter")
      end)
      for _, method in ipairs { "read", "read_line", "recv_fd" } do
        local a, b = pair()
        local n = b:fileno()
        local co = start(b[method], b)
        b:close()
        a:close()
        assert.are.same({b, n, "tine.fd (closed)", true}, table.remove(told))
        assert.are.equal(0, #told)
        local _, ok, err = co(true)
        assert_err("closed", nil, ok, err)
      end
    end)
  end)

  describe("err", function()
    it("prints its message and traceback", function()
      local a = pair()
      local _, err = a:read()
      assert.matches("^read: .* %(EAGAIN%)$", tostring(err))
      assert.are.equal("tine.error", getmetatable(err).__name)
      err.traceback = "stack traceback:\n\tsomewhere"
      assert.are.equal(err.message .. "\n" .. err.traceback, tostring(err))
    end)
  end)
end)
