-- tine.go, tine.main, and what waits inside of them: methods without their callback, sleeping,
-- descriptors, other coroutines.
local helper = require "spec.helper"
local tine = require "tine"

local loop = tine.loop
local EAGAIN <const>, ECONNREFUSED <const>, EPIPE <const> = 11, 111, 32

-- What a call raises is about the line in this file where the function was made.
local function assert_blames(pattern, fn)
  local ok, err = pcall(fn)
  assert.is_false(ok)
  local line = debug.getinfo(fn, "S").linedefined
  assert.matches("go_spec%.lua:" .. line .. ": ", err)
  assert.matches(pattern, err)
end

local function path()
  return helper.tmpname()
end

local opened = {}

local function keep(...)
  for _, fd in ipairs { ... } do opened[#opened + 1] = fd end
  return ...
end

local function pair()
  return keep(assert(tine.socketpair()))
end

after_each(function()
  for _, fd in ipairs(opened) do fd:close() end
  opened = {}
end)

describe("tine.go #unit", function()
  it("runs at once up to the first wait, then in the loop", function()
    local order = {}
    local task = tine.go(function(...)
      order[1] = table.concat({ ... }, " ")
      loop.sleep(0)
      order[3] = "later"
    end, "a", "b")
    order[2] = "go returns"
    assert.is_table(task)
    assert.is_true(loop.run())
    assert.are.same({ "a b", "go returns", "later" }, order)
  end)

  it("keeps tasks that only wait from being collected", function()
    local a, b = pair()
    local weak, got = setmetatable({}, { __mode = "k" }), nil
    weak[tine.go(function() got = b:read() end)] = true
    for _ = 1, 3 do collectgarbage() end
    a:write("x")
    assert.is_true(loop.run())
    assert.are.equal("x", got)
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(weak))
  end)

  it("raises an error that comes before the first wait", function()
    local value = {}
    local ok, err = pcall(tine.go, error, value)
    assert.is_false(ok)
    assert.is_true(rawequal(value, err))
    ok, err = pcall(tine.go, function() error("no good") end)
    assert.is_false(ok)
    assert.matches("no good\nstack traceback:", err)
  end)

  it("ends the loop with an error that nobody awaits", function()
    local value = {}
    tine.go(function()
      loop.sleep(0)
      error(value)
    end)
    local ok, err = pcall(loop.run)
    assert.is_false(ok)
    assert.is_true(rawequal(value, err))

    local function culprit()
      loop.sleep(0)
      error("no good")
    end
    tine.go(culprit)
    ok, err = pcall(loop.run)
    assert.is_false(ok)
    local line = debug.getinfo(culprit, "S").linedefined + 2
    assert.matches("go_spec%.lua:" .. line .. ": no good\nstack traceback:.*go_spec%.lua:" .. line,
      err)
    assert.is_true(loop.run())
  end)

  it("raises on what is no function, at the caller's line", function()
    assert_blames("go: a function expected, got nil", function() tine.go() end)
    assert_blames("main: a function expected, got table", function() tine.main({}) end)
  end)
end)

describe("a task's await #unit", function()
  it("returns what the function returned", function()
    local results = tine.main(function()
      local before = tine.go(function() return 1, nil, 3, nil end)
      local after = tine.go(function(...)
        loop.sleep(0)
        return ...
      end, nil, 2, nil)
      local list = { table.pack(before:await()), table.pack(after:await()) }
      list[3] = table.pack(after:await())
      return list
    end)
    assert.are.same({ 1, nil, 3, nil, n = 4 }, results[1])
    assert.are.same({ nil, 2, nil, n = 3 }, results[2])
    assert.are.same({ nil, 2, nil, n = 3 }, results[3])
  end)

  it("raises what the function raised, each time", function()
    local value = {}
    tine.main(function()
      local task = tine.go(function()
        loop.sleep(0)
        error(value)
      end)
      for _ = 1, 2 do
        local ok, err = pcall(task.await, task)
        assert.is_false(ok)
        assert.is_true(rawequal(value, err))
      end
    end)
    assert.is_true(loop.run())
  end)

  it("wakes all that wait", function()
    local woken = {}
    tine.main(function()
      local task = tine.go(function()
        loop.sleep(0.005)
        return "done"
      end)
      for i = 1, 5 do
        tine.go(function() woken[i] = task:await() end)
      end
      task:await()
    end)
    assert.are.same({ "done", "done", "done", "done", "done" }, woken)
  end)

  it("works for a task that has ended, everywhere", function()
    local task = tine.go(function() return 42 end)
    assert.are.equal(42, task:await())
  end)

  it("raises outside of a task, with a time, and for oneself", function()
    local task = tine.go(loop.sleep, 0.001)
    assert_blames("await: only inside of tine.go or tine.main", function() task:await() end)
    assert_blames("takes no time", function() task:await(0.05) end)
    assert.is_true(loop.run())
    local myself
    myself = tine.go(function()
      loop.sleep(0)
      assert_blames("cannot wait for itself", function() myself:await() end)
    end)
    assert.is_true(loop.run())
  end)

  it("can be nested deeply", function()
    local function sum(n)
      if n == 0 then return 0 end
      loop.sleep(0)
      return n + tine.go(sum, n - 1):await()
    end
    assert.are.equal(5050, tine.main(sum, 100))
  end)
end)

describe("tine.main #unit", function()
  it("returns what the function returned, nils too", function()
    assert.are.same({ n = 4, "x", nil, 3, nil }, table.pack(tine.main(function(...)
      loop.sleep(0)
      return ...
    end, "x", nil, 3, nil)))
    assert.are.equal(0, select("#", tine.main(function() end)))
  end)

  it("runs the loop until that has ended too", function()
    local fired, other
    tine.main(function()
      loop.timer(0.005, function() fired = true end)
      tine.go(function()
        loop.sleep(0.01)
        other = true
      end)
    end)
    assert.is_true(fired)
    assert.is_true(other)
  end)

  it("raises what the function raised", function()
    local value = {}
    local ok, err = pcall(tine.main, function()
      loop.sleep(0)
      error(value)
    end)
    assert.is_false(ok)
    assert.is_true(rawequal(value, err))
    assert.is_false((pcall(tine.main, error, "at once")))
    assert.is_true(loop.run())
  end)

  it("raises the error of a callback, and of another task", function()
    for _, start in ipairs {
      function(raise) loop.timer(0, raise) end,
      function(raise)
        tine.go(function()
          loop.sleep(0)
          raise()
        end)
      end,
    } do
      local value = {}
      local closed
      local ok, err = pcall(tine.main, function()
        local _ <close> = setmetatable({}, { __close = function() closed = true end })
        start(function() error(value) end)
        loop.sleep(1000)
      end)
      assert.is_false(ok)
      assert.is_true(rawequal(value, err))
      -- The function was given up, and nothing waits for it any more.
      assert.is_true(closed)
      assert.is_false(loop.poll())
    end
  end)

  it("gives the function up when the loop is stopped", function()
    local closed, reached
    assert.are.equal(0, select("#", tine.main(function()
      local _ <close> = setmetatable({}, { __close = function() closed = true end })
      loop.timer(0.001, function() loop.stop() end)
      loop.sleep(0.02)
      reached = true
    end)))
    assert.is_true(closed)
    assert.is_true(loop.run())
    assert.is_nil(reached)
  end)

  it("leaves nothing to wait for when the function is given up", function()
    local a, b = pair()
    for _, wait in ipairs {
      function() loop.sleep(1000) end,
      function() b:read() end,
      function() b:write(("x"):rep(4 << 20)) end,
    } do
      tine.main(function()
        loop.timer(0.001, function() loop.stop() end)
        wait()
      end)
      assert.is_false(loop.poll())
    end
    a:close()
  end)

  it("finds out that nothing can happen any more", function()
    local ok, err = pcall(tine.main, function()
      local first, second
      first = tine.go(function()
        loop.sleep(0)
        second:await()
      end)
      second = tine.go(function()
        loop.sleep(0)
        first:await()
      end)
      first:await()
    end)
    assert.is_false(ok)
    assert.matches("deadlock: main waits for something that cannot happen", err)
    assert.matches("stack traceback:.*go_spec%.lua:%d+: in function", err)
  end)

  it("can be called in a task", function()
    assert.are.equal("inner", tine.main(function()
      return tine.main(function()
        loop.sleep(0)
        return "inner"
      end)
    end))
  end)

  it("can be called again and again", function()
    for i = 1, 20 do
      assert.are.equal(i, tine.main(function()
        loop.sleep(0)
        return i
      end))
    end
  end)
end)

describe("loop.sleep #unit", function()
  it("waits at least that long", function()
    local began = helper.now()
    tine.main(loop.sleep, 0.05)
    assert.is_true(helper.now() - began >= 0.04)
  end)

  it("lets others go on, in the order of their time", function()
    local order = {}
    tine.main(function()
      for _, i in ipairs { 3, 1, 2 } do
        tine.go(function()
          loop.sleep(i * 0.005)
          order[#order + 1] = i
        end)
      end
    end)
    assert.are.same({ 1, 2, 3 }, order)
  end)

  it("raises outside of a task and on what is no time, at the caller's line", function()
    assert_blames("loop.sleep: only inside of tine.go", function() loop.sleep(0) end)
    for _, bad in ipairs { -1, 0 / 0, "x" } do
      assert_blames("0 or more seconds", function() loop.sleep(bad) end)
    end
  end)
end)

describe("loop.run in a task #unit", function()
  it("waits until all else has ended", function()
    local fired
    tine.main(function()
      loop.timer(0.01, function() fired = true end)
      assert.is_true(loop.run())
      assert.is_true(fired)
    end)
  end)
end)

describe("a coroutine that a task makes #unit", function()
  it("yields to the task as always", function()
    local got = tine.main(function()
      local list = {}
      for value in coroutine.wrap(function()
        for i = 1, 3 do coroutine.yield(i) end
      end) do
        loop.sleep(0)
        list[#list + 1] = value
      end
      return list
    end)
    assert.are.same({ 1, 2, 3 }, got)
  end)

  it("cannot wait, and says so", function()
    local _, b = pair()
    tine.main(function()
      coroutine.wrap(function()
        assert_blames("only inside of tine.go", function() loop.sleep(0) end)
        local data, err = b:read()
        assert.is_nil(data)
        assert.are.equal(EAGAIN, err.errno)
      end)()
      loop.sleep(0)
    end)
  end)

  it("can start tasks", function()
    assert.are.equal(7, tine.main(function()
      local task
      coroutine.wrap(function()
        task = tine.go(function()
          loop.sleep(0)
          return 7
        end)
      end)()
      return task:await()
    end))
  end)

  it("is not to be confused with a task that yields by itself", function()
    local ok, err = pcall(tine.go, function() coroutine.yield("x") end)
    assert.is_false(ok)
    assert.matches("yielded by itself", err)
    tine.go(function()
      loop.sleep(0)
      coroutine.yield()
    end)
    ok, err = pcall(loop.run)
    assert.is_false(ok)
    assert.matches("yielded by itself", err)
  end)

  it("goes through pcall, metamethods and iterators as it waits", function()
    local got = tine.main(function()
      local slow = setmetatable({}, {
        __index = function(_, key)
          loop.sleep(0)
          return key .. "!"
        end,
      })
      local ok, value = pcall(function()
        loop.sleep(0)
        return slow.x
      end)
      local _, err = pcall(function()
        loop.sleep(0)
        error("caught", 0)
      end)
      return { ok, value, err }
    end)
    assert.are.same({ true, "x!", "caught" }, got)
  end)
end)

describe("descriptors in tasks #unit", function()
  it("interleave over many socketpairs", function()
    local pairs_of, sums = 60, {}
    tine.main(function()
      for i = 1, pairs_of do
        local a, b = pair()
        tine.go(function()
          for n = 1, 20 do
            a:write(n + i .. "\n")
            assert(a:read_line() == "ok " .. n + i)
          end
          a:close()
        end)
        tine.go(function()
          sums[i] = 0
          for line in function() return b:read_line() end do
            sums[i] = sums[i] + tonumber(line)
            b:write("ok " .. line .. "\n")
          end
        end)
      end
    end)
    for i = 1, pairs_of do assert.are.equal(210 + 20 * i, sums[i]) end
  end)

  it("take turns: none is starved", function()
    local turns = {}
    tine.main(function()
      for i = 1, 2 do
        local a, b = pair()
        tine.go(function()
          while #turns < 100 do
            if not a:write(("x"):rep(65536)) then break end
          end
          a:close()
        end)
        tine.go(function()
          while b:read() do turns[#turns + 1] = i end
        end)
      end
    end)
    local by = { 0, 0 }
    for n = 1, 100 do by[turns[n]] = by[turns[n]] + 1 end
    assert.is_true(by[1] >= 20 and by[2] >= 20, by[1] .. " to " .. by[2])
  end)

  it("carry more than a socket holds, both ways at once", function()
    local size <const> = 8 << 20
    local block = ("0123456789abcdef"):rep(size // 16)
    local function send(fd)
      assert.are.equal(size, (assert(fd:write(block))))
      fd:shutdown("w")
    end
    local function receive(fd)
      local parts = {}
      for part in function() return fd:read(1 << 20) end do parts[#parts + 1] = part end
      return table.concat(parts)
    end
    tine.main(function()
      local a, b = pair()
      local there, back = tine.go(receive, b), tine.go(receive, a)
      tine.go(send, a)
      tine.go(send, b)
      assert.is_true(there:await() == block)
      assert.is_true(back:await() == block)
    end)
  end)

  it("wait for room to write", function()
    local a, b = pair()
    local order = {}
    tine.main(function()
      local writer = tine.go(function()
        a:write(("x"):rep(4 << 20))
        order[#order + 1] = "written"
      end)
      loop.sleep(0.01)
      order[#order + 1] = "slept"
      local n = 0
      repeat n = n + #b:read(1 << 20) until n == 4 << 20
      writer:await()
    end)
    assert.are.same({ "slept", "written" }, order)
  end)

  it("wait for connections and data, over unix sockets and TCP", function()
    for _, address in ipairs { "unix:" .. path(), "127.0.0.1:0" } do
      local texts = {}
      tine.main(function()
        local listener = keep(assert(tine.listen(address)))
        tine.go(function()
          for i = 1, 10 do
            local client = keep(assert(listener:accept()))
            tine.go(function()
              client:write(i .. ": " .. client:read_line() .. "\n")
              client:close()
            end)
          end
          listener:close()
        end)
        for i = 1, 10 do
          tine.go(function()
            local sock = keep(assert(tine.connect(listener:address())))
            sock:write("hello " .. i .. "\n")
            texts[i] = sock:read_line()
            assert(select("#", sock:read()) == 1)
          end)
        end
      end)
      assert.are.equal(10, #texts)
      for i = 1, 10 do assert.matches("^%d+: hello " .. i .. "$", texts[i]) end
    end
  end)

  it("tell of a refused connection where it is awaited", function()
    tine.main(function()
      local listener = keep(assert(tine.listen("127.0.0.1:0")))
      local address = listener:address()
      listener:close()
      local sock, err = tine.connect(address)
      assert.is_nil(sock)
      assert.are.equal("system", err.kind)
      assert.are.equal(ECONNREFUSED, err.errno)
    end)
  end)

  it("pass descriptors", function()
    local a, b = pair()
    local c, d = pair()
    tine.main(function()
      local receiver = tine.go(function()
        return keep(assert(b:recv_fd()))
      end)
      loop.sleep(0)
      assert(a:send_fd(c))
      local copy = receiver:await()
      copy:write("through the copy")
      assert.are.equal("through the copy", d:read())
    end)
  end)

  it("can be read by one task and written by another", function()
    local a, b = pair()
    local got
    tine.main(function()
      local read = tine.go(function() return a:read() end)
      local written = tine.go(function() return a:write(("x"):rep(2 << 20)) end)
      loop.sleep(0.005)
      local n = 0
      repeat n = n + #b:read(1 << 20) until n == 2 << 20
      assert.are.equal(2 << 20, written:await())
      assert.is_false(read.done)
      b:write("answer")
      got = read:await()
    end)
    assert.are.equal("answer", got)
  end)

  it("wake all that wait when another task closes them, with an err", function()
    local a, b = pair()
    tine.main(function()
      local tasks = {
        tine.go(function() return b:read() end),
        tine.go(function() return b:read_line() end),
        tine.go(function() return b:recv_fd() end),
        tine.go(function() return b:write(("x"):rep(4 << 20)) end),
      }
      loop.sleep(0.001)
      b:close()
      -- The number is used again at once: they must not wait for this one.
      local c, d = pair()
      for _, task in ipairs(tasks) do
        local ok, err = task:await()
        assert.is_nil(ok)
        assert.are.equal("closed", err.kind)
        assert.matches("closed", err.message)
      end
      c:write("x")
      assert.are.equal("x", d:read())
      local listener = keep(assert(tine.listen("unix:" .. path())))
      local accepting = tine.go(function() return listener:accept() end)
      loop.sleep(0.001)
      listener:close()
      local ok, err = accepting:await()
      assert.is_nil(ok)
      assert.are.equal("closed", err.kind)
    end)
    a:close()
  end)

  it("wake all that wait when they are detached", function()
    local _, b = pair()
    tine.main(function()
      local reading = tine.go(function() return b:read() end)
      loop.sleep(0.001)
      local fd = keep(tine.fd(assert(b:detach())))
      local ok, err = reading:await()
      assert.is_nil(ok)
      assert.are.equal("closed", err.kind)
      fd:close()
    end)
  end)

  it("tell of the other end's end", function()
    local a, b = pair()
    tine.main(function()
      local reading = tine.go(function() return table.pack(b:read()) end)
      local writing = tine.go(function() return b:write(("x"):rep(4 << 20)) end)
      loop.sleep(0.001)
      a:close()
      local read = reading:await()
      -- What it had not read any more may have become a reset.
      assert.is_nil(read[1])
      local ok, err = writing:await()
      assert.is_nil(ok)
      assert.are.equal(EPIPE, err.errno)
      assert.is_true(err.written > 0)
    end)
  end)

  it("do not wait outside of a task", function()
    local _, b = pair()
    local data, err = b:read()
    assert.is_nil(data)
    assert.are.equal(EAGAIN, err.errno)
    local seen
    loop.timer(0, function() seen = table.pack(b:read()) end)
    assert.is_true(loop.run())
    assert.is_nil(seen[1])
    assert.are.equal(EAGAIN, seen[2].errno)
  end)

  it("leave no descriptor behind", function()
    helper.no_leaks(function()
      tine.main(function()
        for _ = 1, 20 do
          local a, b = assert(tine.socketpair())
          tine.go(function() b:read() end)
          tine.go(function() a:write("x") end)
        end
      end)
    end)
  end)
end)

describe("methods without a callback #proc", function()
  it("raise outside of a task, at the caller's line", function()
    helper.no_leaks(function()
      local p = tine.new()
      for method, arguments in pairs {
        run = { "f" }, to_fd = {}, on_exit = {}, on_error = {}, await_ready = {},
      } do
        local function call() p[method](p, table.unpack(arguments)) end
        assert_blames(method .. ": a callback is needed outside of tine.go", call)
        arguments[#arguments + 1] = "x"
        assert_blames(method .. ": a function expected, got string", call)
      end
      assert.is_true(loop.run())
      p:close()
    end)
  end)

  it("wait for the process", function()
    helper.no_leaks(function()
      tine.main(function()
        local p = tine.new()
        local pid = p:await_ready()
        assert.are.equal(p:pid(), pid)
        assert.is_true(helper.alive(pid))
        assert.are.equal(pid, (p:await_ready()))
        p:close()
      end)
    end)
  end)

  it("wait for the socket, then for the end", function()
    helper.no_leaks(function()
      tine.main(function()
        local p = tine.new():send_arg("a", "b")
        local sock, err = p:run(function(sock, ...)
          sock:write(table.concat({ ... }, "+"))
          os.exit(sock:read() == "go" and 7 or 1)
        end)
        assert.is_nil(err)
        assert.are.equal("a+b", sock:read())
        sock:write("go")
        local problem, info = p:on_exit()
        assert.are.equal("exit", problem.kind)
        assert.are.equal(7, info.code)
        problem, info = p:on_exit()
        assert.are.equal(7, problem.code)
        assert.are.equal(7, info.code)
        sock:close()
      end)
    end)
  end)

  it("wait for the next error, or the end without one", function()
    helper.no_leaks(function()
      tine.main(function()
        local p = tine.new():eval("error(\"no good\", 0)")
        local err = p:on_error()
        assert.are.equal("exception", err.kind)
        assert.are.equal("no good", err.message)
        p:close()
        p = tine.new()
        local sock = p:run(function() end)
        assert.are.same({ n = 1, nil }, table.pack(p:on_error()))
        sock:close()
      end)
    end)
  end)

  it("wait for the command socket", function()
    helper.no_leaks(function()
      tine.main(function()
        local p = tine.new():eval("x = \"kept\"")
        local fd = p:to_fd()
        assert.is_userdata(fd)
        p = tine.from_fd(fd)
        local sock = p:run(function(sock)
          sock:write(x) -- luacheck: ignore 113
        end)
        assert.are.equal("kept", sock:read())
        sock:close()
        assert.is_nil((p:on_exit()))
      end)
    end)
  end)

  it("return nil and an err for a process that cannot be made", function()
    helper.no_leaks(function()
      tine.main(function()
        local function broken()
          tine.interpreter = "/nonexistent"
          local p = tine.new_exec()
          tine.interpreter = nil
          return p
        end
        for _, method in ipairs { "run", "to_fd", "await_ready" } do
          local p = broken()
          local value, err = p[method](p, method == "run" and "f" or nil)
          assert.is_nil(value)
          assert.are.equal("system", err.kind)
          assert.matches("/nonexistent", err.message)
          -- The same for one that is known to be lost.
          if method == "await_ready" then
            value, err = p:run("f")
            assert.is_nil(value)
            assert.matches("/nonexistent", err.message)
          end
        end
        local p = broken()
        local err, info = p:on_exit()
        assert.matches("/nonexistent", err.message)
        assert.is_nil(info.pid)
        assert.are.equal(err.message, broken():on_error().message)
      end)
    end)
  end)

  it("return nil and an err when the process dies first", function()
    helper.no_leaks(function()
      tine.main(function()
        local p = tine.new():eval("os.exit(3)")
        local sock, err = p:run("f")
        -- Handed over before it died, or lost.
        if sock then
          assert.is_nil((sock:read()))
          sock:close()
        else
          assert.is_table(err)
        end
        assert.are.equal(3, p:on_exit().code)
      end)
    end)
  end)

  it("serve many tasks at once", function()
    helper.no_leaks(function()
      local sum = 0
      tine.main(function()
        local template = tine.new():eval("function answer(sock, n) sock:write(n * n) end")
        for i = 1, 12 do
          tine.go(function()
            local p = template:fork():send_arg(tostring(i))
            local sock = p:run("answer")
            local answer = sock:read()
            sum = sum + answer
            sock:close()
            assert.is_nil((p:on_exit()))
          end)
        end
        template:close()
      end)
      assert.are.equal(650, sum)
    end)
  end)

  it("find out that a wait for an idle process is one for ever", function()
    helper.no_leaks(function()
      local p = tine.new()
      local ok, err = pcall(tine.main, function() p:on_exit() end)
      assert.is_false(ok)
      assert.matches("deadlock", err)
      p:close()
    end)
  end)
end)
