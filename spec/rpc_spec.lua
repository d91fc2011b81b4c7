-- Calls to one worker: how they are made, come back, and end; and the life of the worker.
local helper = require "spec.helper"
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local gate, results = pools.gate, pools.results

local function silent() end

-- A test outside of a coroutine.
local function plain(name, fn)
  it(name, function() helper.no_leaks(fn) end)
end

-- An rpc of a worker as pools.prepare makes it; what on_error got is the second result.
local function new_rpc(options, entry, template)
  local faults = {}
  options = options or {}
  options.on_error = options.on_error or function(err) faults[#faults + 1] = err end
  template = template or tine.new():eval(pools.prepare)
  return assert(template:rpc(entry or (options.async and "async" or "work"), options)), faults
end

-- In a coroutine: closes it and waits until all is done.
local function finish(rpc)
  local gone = false
  rpc:close(function() gone = true end)
  proc.wait_for(function() return gone end)
end

describe("calls of an rpc #proc", function()
  case("have their results, in as many values and bytes as there are", function()
    local rpc, faults = new_rpc()
    assert.are.same({ "a", "", "b\0\n", n = 3 }, table.pack(rpc:await("echo", "a", "", "b\0\n")))
    assert.are.same({ n = 0 }, table.pack(rpc:await("echo")))
    assert.are.same({ nil, "1", n = 2 }, table.pack(rpc("echo", 1)))
    assert.are.same({ nil, "2.5", n = 2 }, table.pack(rpc:call("echo", 2.5)))
    assert.are.same({ nil, n = 1 }, table.pack(rpc("echo")))
    local many = {}
    for i = 1, 5000 do many[i] = tostring(i) end
    assert.are.same(many, { rpc:await("echo", table.unpack(many)) })
    finish(rpc)
    assert.are.same({}, faults)
  end)

  plain("leave timers and descriptors their turn, though answers come without end", function()
    local MOST <const> = 400
    local rpc = new_rpc()
    local calls, left = 0, { timer = true, io = true }
    local reader, writer = assert(tine.socketpair())
    local watchers = {}
    local function came(what)
      return function()
        left[what] = nil
        if watchers[what] then watchers[what]:close() end
      end
    end
    local function again(err)
      assert(not err)
      calls = calls + 1
      if calls == 100 then
        tine.loop.timer(0, came "timer")
        watchers.io = tine.loop.io(reader, "r", came "io")
        assert(writer:write "x")
      end
      if next(left) and calls < MOST then rpc("echo", again) end
    end
    rpc("echo", again)
    tine.loop.run()
    assert.is_true(calls < MOST)
    reader:close()
    writer:close()
    rpc:close()
    tine.loop.run()
  end)

  for _, async in ipairs { false, true } do
    local backend = async and "async" or "sync"

    case("start in the order made, and are answered in it: " .. backend, function()
      local rpc = new_rpc { async = async }
      local r, order = results(), {}
      for i = 1, 3000 do
        rpc("count", i, function(err, seen, _, value)
          r.cb(i)(err, seen, value)
          order[#order + 1] = i
        end)
      end
      r.wait(3000)
      for i = 1, 3000 do
        assert.are.equal(i, order[i])
        assert.are.equal(tostring(i), r.values[i][1])
        assert.are.equal(tostring(i), r.values[i][2])
      end
      finish(rpc)
    end)

    case("have their events before their answer, in order: " .. backend, function()
      local list = {}
      local rpc = new_rpc { async = async, on_event = function(text, i)
        list[#list + 1] = text .. i
      end }
      local r, expected = results(), {}
      for i = 1, 50 do
        rpc("events", i % 4, "e" .. i .. ".", function(err, n)
          list[#list + 1] = "r" .. i
          r.cb(i)(err, n)
        end)
        for k = 1, i % 4 do expected[#expected + 1] = "e" .. i .. "." .. k end
        expected[#expected + 1] = "r" .. i
      end
      r.wait(50)
      assert.are.same(expected, list)
      finish(rpc)
    end)

    case("have events while they run, without tine.flush: " .. backend, function()
      local early
      local rpc = new_rpc { async = async, on_event = function(text) early = text end }
      local r, path, open = results(), gate()
      rpc("early", path, r.cb(1))
      proc.wait_for(function() return early end)
      assert.are.equal(0, r.ended)
      open()
      r.wait(1)
      finish(rpc)
    end)

    case("whose Lua errors fail them only, with the worker's traceback: " .. backend, function()
      local rpc, faults = new_rpc({ async = async }, nil, tine.new():eval(pools.prepare):eval [[
        local strange = setmetatable({}, { __tostring = function() error("worse") end })
        local function inner(what)
          if what == "text" then error("boom") end
          if what == "nil" then error() end
          if what == "table" then error { 1 } end
          if what == "strange" then error(strange) end
          if what == "memory" then error("not enough memory", 0) end
          if what == "zero" then error("a\0b", 0) end
          if what == "stack" then local function f() return 1 + f() end f() end
          if what == "yield" then coroutine.yield(1) end
          if what == "long" then error(("x"):rep(3 << 20), 0) end
          return nothing.there
        end
        local before = work
        function work(name, ...)
          if name ~= "error" then return before(name, ...) end
          local result = inner(...)
          return result
        end
      ]])
      local pid = rpc:await("pid")
      local r, whats = results(), { "text", "nil", "table", "strange", "memory", "zero", "stack",
        "long", "index", not async and "yield" or nil }
      for i, what in ipairs(whats) do
        rpc("error", what, r.cb(2 * i - 1))
        rpc("echo", what, r.cb(2 * i))
      end
      r.wait(2 * #whats)
      for i, what in ipairs(whats) do
        local err = r.errs[2 * i - 1]
        assert.is_truthy(err, what)
        if what ~= "memory" then assert.are.equal("exception", err.kind, what) end
        assert.are.equal("string", type(err.message))
        assert.are.equal("string", type(tostring(err)))
        assert.are.equal(what, r.values[2 * i][1])
      end
      assert.matches("boom", r.errs[1].message)
      assert.matches("inner.*work", r.errs[1].traceback)
      assert.are.equal(math.tointeger(tonumber(pid)), r.errs[1].pid)
      assert.matches("boom.*traceback", tostring(r.errs[1]))
      assert.are.equal("a\0b", r.errs[11].message)
      assert.matches("overflow", r.errs[13].message)
      assert.matches("nothing", r.errs[17].message)
      assert.are.equal(pid, rpc:await("pid"))
      finish(rpc)
      assert.are.same({}, faults)
    end)

    case("take and give 0 bytes and 64 MB: " .. backend, function()
      local rpc = new_rpc { async = async }
      local size, done = 64 << 20, 0
      for i = 1, 4 do
        rpc("rep", "x", i % 2 * size, function(err, text)
          assert(not err, err)
          assert.are.equal(i % 2 * size, #text)
          done = done + 1
          assert.are.equal(i, done)
        end)
      end
      proc.wait_for(function() return done == 4 end)
      local text = ("y"):rep(size)
      assert.is_true(rpc:await("echo", text) == text)
      assert.are.equal("", (rpc:await("echo", "")))
      finish(rpc)
    end)

    case("that cannot be serialised fail alone: " .. backend, function()
      local rpc = new_rpc { async = async }
      local r = results()
      rpc("echo", 1, r.cb(1))
      rpc("echo", {}, r.cb(2))
      rpc("unsendable", r.cb(3))
      rpc("echo", 4, r.cb(4))
      assert.are.equal(0, r.ended) -- never before the call has returned
      r.wait(4)
      assert.are.same({ "fine", "encode", "encode", "fine" }, r.kinds)
      assert.matches("^args%[2%]: a table", r.errs[2].message)
      assert.matches("^results%[1%]: a table", r.errs[3].message)
      finish(rpc)
    end)
  end

  case("wait in a coroutine; many of them at once", function()
    local rpc = new_rpc()
    local done = 0
    for i = 1, 200 do
      tine.go(function()
        assert.are.equal(tostring(i), (rpc:await("echo", i)))
        local err, value = rpc("echo", -i)
        assert.is_nil(err)
        assert.are.equal(tostring(-i), value)
        done = done + 1
      end)
    end
    proc.wait_for(function() return done == 200 end)
    local ok, err = pcall(rpc.await, rpc, "fail", "why")
    assert.is_false(ok)
    assert.are.equal("exception", err.kind)
    assert.are.equal("why", err.message)
    assert.are.equal("exception", rpc("fail", "why").kind)
    finish(rpc)
  end)

  case("run a Lua function with its upvalues, or a name in a module", function()
    local n = 40
    local rpc = assert(tine.new():rpc(function(x) return x + n end))
    assert.are.equal("42.0", (rpc:await("2.0")))
    finish(rpc)
    rpc = assert(tine.new():rpc("string.upper"))
    assert.are.equal("ABC", (rpc:await("abc")))
    finish(rpc)
    rpc = assert(tine.new():require("spec.proc"):eval("a = { b = { c = string.reverse } }")
      :rpc("a.b.c", { serialiser = "lua" }))
    assert.are.equal("cba", (rpc:await("abc")))
    finish(rpc)
  end)

  case("of a name that is not there fail with what is loaded", function()
    local rpc, faults = new_rpc({}, "no.such.fn")
    local err = rpc("x")
    assert.matches("no function 'no.such.fn'", err.message)
    finish(rpc)
    assert.is_true(#faults <= 1)
  end)

  -- The answers of those that have ended, while the one after them runs.
  case("do not wait for their answers until a long one has ended", function()
    local rpc = new_rpc()
    local r, path, open = results(), gate()
    rpc:await("pid")
    for i = 1, 20 do rpc("echo", i, r.cb(i)) end
    rpc("gate", path, "x", r.cb(21))
    rpc("echo", 22, r.cb(22))
    r.wait(20)
    assert.is_nil(r.kinds[21])
    open()
    r.wait(22)
    -- Nor when that one never leaves Lua.
    rpc("echo", 23, r.cb(23))
    local job = rpc("spin", r.cb(24))
    r.wait(23)
    job:cancel()
    r.wait(24)
    assert.are.equal("cancelled", r.kinds[24])
    finish(rpc)
  end)

  case("have the job's number, counted from 1", function()
    local rpc = new_rpc()
    local r = results()
    for i = 1, 3 do
      local job = rpc("echo", i, r.cb(i))
      assert.are.equal(i, job:id())
      assert.matches("job", tostring(job))
    end
    r.wait(3)
    assert.matches("^tine.rpc %(process %d+%)$", tostring(rpc))
    assert.are.equal(rpc:await("pid") // 1 | 0, rpc:pid())
    finish(rpc)
  end)

  case("can be asked where they are", function()
    local rpc = new_rpc()
    rpc:await("pid")
    assert.matches("nothing runs", (rpc:traceback()))
    local r = results()
    local job = rpc("spin", r.cb(1))
    local text
    proc.wait_for(function()
      text = rpc:traceback()
      return text and text:find("deep")
    end)
    job:cancel()
    r.wait(1)
    finish(rpc)
    local err
    text, err = rpc:traceback()
    assert.is_nil(text)
    assert.are.equal("closed", err.kind)
  end)
end)

-- Runs the loop until fn returns true; counts the errors that callbacks raise.
local function poll_until(fn)
  local raised = 0
  local deadline = helper.now() + 10 * helper.patience
  while not fn(raised) do
    if helper.now() > deadline then error(raised .. " were raised", 2) end
    local ok, err = pcall(tine.loop.poll, 0.01)
    if not ok then
      assert.matches("raised by", tostring(err))
      raised = raised + 1
    end
  end
end

describe("callbacks of an rpc #proc", function()
  -- What is called for while the worker's end is being told has an end of its own.
  case("that are told of a traceback's failure may call", function()
    local rpc = new_rpc()
    local r, told = results(), nil
    rpc:await("echo")
    local pid = rpc:pid()
    rpc("spin", r.cb(1))
    while rpc:traceback():find("nothing runs") do end
    assert(os.execute("kill -STOP " .. pid))
    rpc:traceback(function(text, err)
      told = { text, err }
      rpc("echo", r.cb(2))
    end)
    assert(os.execute("kill -KILL " .. pid))
    r.wait(2)
    assert.is_nil(told[1])
    assert.are.same({ "crash", "closed" }, { r.errs[1].kind, r.errs[2].kind })
    finish(rpc)
  end)

  local function raise(name)
    return function() error("raised by " .. name, 0) end
  end

  plain("may raise, and nothing else is lost", function()
    local rpc = new_rpc { on_event = raise "on_event", on_destroy = raise "on_destroy" }
    local ended = 0
    for i = 1, 20 do
      rpc("events", i % 2, "x", function(err)
        assert(not err, err)
        ended = ended + 1
        if i % 5 == 0 then error("raised by " .. i, 0) end
      end)
    end
    poll_until(function(n) return ended == 20 and n == 14 end)
    local gone = false
    rpc:close(function()
      gone = true
      error("raised by close", 0)
    end)
    poll_until(function(n) return gone and n == 2 end)
  end)

  plain("may raise from on_error", function()
    local rpc = new_rpc { on_error = raise "on_error" }
    local ended = 0
    rpc("exit", 3, function() ended = ended + 1 end)
    rpc("echo", 3, function() ended = ended + 1 end)
    poll_until(function(n) return ended == 2 and n == 1 end)
    rpc:close()
  end)

  plain("may close the rpc: what is queued is still done, what is new is not", function()
    local rpc = new_rpc()
    local kinds, gone, order = {}, false, {}
    for i = 1, 30 do
      rpc("echo", i, function(err)
        kinds[i] = err and err.kind or "fine"
        order[#order + 1] = i
        if i == 3 then
          rpc:close(function() gone = true end)
          rpc:close()
          rpc("echo", "late", function(late) kinds.late = late.kind end)
        end
      end)
    end
    helper.wait_until(10, function() return gone and kinds.late end)
    for i = 1, 30 do assert.are.equal("fine", kinds[i]) end
    for i = 1, 30 do assert.are.equal(i, order[i]) end
    assert.are.equal("closed", kinds.late)
    rpc("echo", "later", function(err) kinds.later = err.kind end)
    local again = false
    rpc:close(function() again = true end)
    assert.is_nil(kinds.later)
    helper.wait_until(10, function() return kinds.later and again end)
    assert.are.equal("closed", kinds.later)
  end)

  plain("may make new calls, from an answer, an event, and a failure", function()
    local depth, rpc = 0, nil
    rpc = new_rpc { on_event = function() rpc("echo", "x", silent) end }
    local function again(err)
      depth = depth + 1
      if depth < 300 then
        rpc(depth % 3 == 0 and "fail" or depth % 3 == 1 and "echo" or "events", 1, again)
      elseif err then
        depth = depth + 0
      end
    end
    rpc("echo", 1, again)
    helper.wait_until(10, function() return depth == 300 end)
    rpc:close()
  end)

  plain("of calls that the end of the worker fails may make new ones, and close", function()
    local rpc = new_rpc()
    local kinds, gone = {}, false
    local function add(kind) kinds[kind] = (kinds[kind] or 0) + 1 end
    rpc("exit", 3, function(err) add(err.kind) end)
    for i = 1, 10 do
      rpc("echo", i, function(err)
        add(err.kind)
        rpc("echo", i, function(late) add("late " .. late.kind) end)
        rpc:close(function() gone = true end)
      end)
    end
    helper.wait_until(10, function() return gone and (kinds["late closed"] or 0) == 10 end)
    assert.are.same({ crash = 1, closed = 10, ["late closed"] = 10 }, kinds)
  end)

  plain("are called once each, on_destroy last of all", function()
    local list = {}
    local function add(text) return function() list[#list + 1] = text end end
    local rpc = new_rpc { on_event = add "event", on_destroy = add "destroy" }
    rpc("events", 2, "x", add "answer")
    rpc:close(add "close")
    helper.wait_until(10, function() return list[5] end)
    assert.are.same({ "event", "event", "answer", "destroy", "close" }, list)
    tine.loop.poll(0.05)
    assert.are.equal(5, #list)
  end)
end)

describe("an async rpc #proc", function()
  case("has many calls open at once, answered in another order", function()
    local rpc = new_rpc { async = true }
    local r, order = results(), {}
    for i = 1, 2000 do
      rpc(i <= 1000 and "never" or "later", i <= 1000 and "" or (2000 - i) * 0.0002, i,
        function(err, value)
          order[#order + 1] = tonumber(value)
          r.cb(i)(err)
        end)
    end
    r.wait(1000)
    assert.are.equal(1000, #order)
    assert.is_true(order[1] > order[1000])
    assert.are.equal("x", (rpc:await("echo", "x")))
    -- Those that are never answered end with the worker.
    pools.kill(rpc:pid())
    r.wait(2000)
    for i = 1, 1000 do assert.are.equal("crash", r.kinds[i]) end
    finish(rpc)
  end)

  -- The name of what a call does with its `done` is its first argument.
  local strange = [[
    local tine = require "tine"
    local kept = {}
    function answer(done, what, ...)
      if what == "twice" then
        done("first")
        local ok, err = pcall(done, "second")
        tine.event(tostring(ok), tostring(err))
      elseif what == "raise after" then
        done("first")
        error("after the answer")
      elseif what == "drop" then
        done = nil
        tine.loop.timer(0, function() collectgarbage() end)
      elseif what == "keep" then
        kept[#kept + 1] = done
      elseif what == "others" then
        for i = #kept, 1, -1 do kept[i]("kept", i) end
        kept = {}
        done("others")
      elseif what == "bad" then
        tine.event(tostring(done({})))
      elseif what == "sleep" then
        tine.loop.sleep(0.02)
        done("slept")
      elseif what == "sleep and raise" then
        tine.loop.sleep(0.02)
        error("in a coroutine")
      elseif what == "stop" then
        tine.loop.timer(0, function() tine.loop.stop() done("stopped") end)
      elseif what == "callback raises" then
        tine.loop.timer(0, function() error("in a timer") end)
        tine.loop.timer(0.02, function() done("after") end)
      else
        done(what, ...)
      end
    end
  ]]

  local function strange_rpc(options)
    options = options or {}
    options.async = true
    return new_rpc(options, "answer", tine.new({ stderr = "null" }):eval(strange))
  end

  case("refuses a second answer", function()
    local said
    local rpc, faults = strange_rpc {
      on_event = function(...) said = table.concat({ ... }, " ") end,
    }
    local r = results()
    rpc("twice", r.cb(1))
    r.wait(1)
    proc.wait_for(function() return said end)
    assert.are.equal("first", r.values[1][1])
    assert.matches("^false .*answered", said)
    assert.are.equal("first", (rpc:await("raise after")))
    assert.are.equal("x", (rpc:await("x")))
    finish(rpc)
    assert.are.equal(1, #faults)
    assert.matches("after the answer$", faults[1].message)
  end)

  case("fails a call whose done is dropped or answered with what cannot be sent", function()
    local rpc = strange_rpc()
    assert.are.equal("exception", rpc("drop").kind)
    local err = rpc("bad")
    assert.are.equal("encode", err.kind)
    assert.matches("results%[1%]", err.message)
    finish(rpc)
  end)

  case("answers one call from within another", function()
    local rpc = strange_rpc()
    local r = results()
    for i = 1, 5 do rpc("keep", r.cb(i)) end
    rpc("others", r.cb(6))
    r.wait(6)
    for i = 1, 5 do
      assert.are.same({ "kept", tostring(i), n = 2 }, r.values[i])
    end
    finish(rpc)
  end)

  case("may wait in its function, and raise after that", function()
    local rpc = strange_rpc()
    local r = results()
    for i = 1, 10 do rpc(i % 2 == 0 and "sleep" or "sleep and raise", r.cb(i)) end
    rpc("x", function(err)
      assert(not err, err)
      assert.are.equal(0, r.ended)
      r.cb(11)(err)
    end)
    r.wait(11)
    for i = 1, 10, 2 do
      assert.are.equal("exception", r.kinds[i])
      assert.matches("in a coroutine", r.errs[i].message)
      assert.is_truthy(r.errs[i].traceback)
      assert.are.equal("slept", r.values[i + 1][1])
    end
    finish(rpc)
  end)

  case("goes on after loop.stop in the worker", function()
    local rpc = strange_rpc()
    for _ = 1, 3 do assert.are.equal("stopped", (rpc:await("stop"))) end
    finish(rpc)
  end)

  case("whose timer raises ends, and says why", function()
    local rpc, faults = strange_rpc()
    local err = rpc("callback raises")
    assert.is_truthy(err)
    finish(rpc)
    local text = tostring(err) .. tostring(faults[1])
    assert.matches("in a timer", text)
  end)

  case("closes when what is open has been answered, done last", function()
    local list = {}
    local rpc = new_rpc({ async = true, done = "bye", on_event = function(text)
      list[#list + 1] = text
    end }, "async", tine.new():eval(pools.prepare):eval
      "function bye() require('tine').event('bye') end")
    local r = results()
    for i = 1, 5 do rpc("later", 0.02 * i, i, r.cb(i)) end
    finish(rpc)
    assert.are.equal(5, r.ended)
    for i = 1, 5 do assert.are.equal(tostring(i), r.values[i][1], r.errs[i]) end
    assert.are.same({ "bye" }, list)
  end)

  case("is waited for by close in a coroutine, which can be called again", function()
    local rpc = new_rpc { async = true }
    local r = results()
    for i = 1, 3 do rpc("later", 0.05 * i, "x", r.cb(i)) end
    local pid = rpc:pid() or (rpc:await("pid") and rpc:pid())
    rpc:close()
    assert.are.same({ "fine", "fine", "fine" }, r.kinds)
    assert.is_false(helper.alive(pid))
    rpc:close()
    assert.is_nil(rpc:pid())
  end)

  case("closes although a done that is kept is never called", function()
    local rpc = new_rpc { async = true }
    local r = results()
    for i = 1, 3 do rpc("never", r.cb(i)) end
    rpc("echo", 4, r.cb(4))
    rpc:close()
    r.wait(4)
    for i = 1, 3 do assert.are_not.equal("fine", r.kinds[i]) end
    assert.are.equal("fine", r.kinds[4])
  end)

  -- A worker that has something to wait for, so that it does not end by itself.
  case("ends calls at their deadline after close, too", function()
    local rpc, faults = new_rpc { async = true, timeout = 0.5, grace = 60 }
    local r = results()
    for i = 1, 3 do rpc("later", 1000, "x", r.cb(i)) end
    rpc("echo", 4, r.cb(4))
    finish(rpc)
    assert.are.same({ "timeout", "timeout", "timeout", "fine" }, r.kinds)
    assert.are.same({}, faults)
  end)

  case("cancels one call after close, and leaves the others alone", function()
    local rpc, faults = new_rpc { async = true, grace = 60 }
    local r = results()
    rpc:await("pid")
    rpc("later", 1, "x", r.cb(1))
    local job = rpc("later", 1000, "y", r.cb(2))
    tine.loop.sleep(0.01)
    local gone = false
    rpc:close(function() gone = true end)
    tine.loop.sleep(0.01)
    job:cancel()
    r.wait(2)
    assert.are.equal("cancelled", r.kinds[2])
    assert.are.equal("fine", r.kinds[1], tostring(r.errs[1]))
    proc.wait_for(function() return gone end)
    assert.are.same({}, faults)
  end)

  case("has a done that raises told to on_error", function()
    local rpc, faults = new_rpc({ async = true, done = "bye" }, "async",
      tine.new():eval(pools.prepare):eval "function bye() error('no bye') end")
    assert.are.equal("x", (rpc:await("echo", "x")))
    finish(rpc)
    assert.are.equal(1, #faults)
    assert.are.equal("exception", faults[1].kind)
    assert.matches("no bye", faults[1].message)
  end)
end)

describe("done of a sync worker #proc", function()
  local bye <const> = [[
    function bye()
      require "tine".event("bye", work("count"))
      if fails then error "no bye" end
    end]]

  local function new(options)
    local events = {}
    options.done = "bye"
    options.on_event = function(...) events[#events + 1] = { ... } end
    local rpc, faults = new_rpc(options, nil, tine.new():eval(pools.prepare):eval(bye)
      :eval("fails = ...", options.timeout == 7))
    return rpc, events, faults
  end

  case("is called after the last call, before the worker leaves", function()
    local rpc, events, faults = new {}
    local r = results()
    for i = 1, 100 do rpc("count", r.cb(i)) end
    finish(rpc)
    assert.are.equal(100, r.ended)
    assert.are.equal("100", r.values[100][1])
    assert.are.same({ { "bye", "101", r.values[1][2] } }, events)
    assert.are.same({}, faults)
  end)

  case("is called when there was no call", function()
    local rpc, events = new {}
    finish(rpc)
    assert.are.equal("bye", events[1] and events[1][1])
  end)

  case("has its errors told to on_error", function()
    local rpc, events, faults = new { timeout = 7 }
    assert.are.equal("x", (rpc:await("echo", "x")))
    finish(rpc)
    assert.are.equal(1, #events)
    assert.are.equal(1, #faults)
    assert.are.equal("exception", faults[1].kind)
    assert.matches("no bye", faults[1].message)
    assert.matches("traceback", faults[1].traceback)
  end)

  case("is not called in one that ends otherwise", function()
    for _, how in ipairs { "exit", "kill" } do
      local rpc, events = new {}
      assert.are.equal("crash", rpc(how, how == "exit" and 3 or "KILL").kind)
      finish(rpc)
      assert.are.same({}, events)
    end
  end)

  case("is called in each worker of a pool: retired, replaced, stopped, closed", function()
    local ended = {}
    local function template()
      return tine.new():eval(pools.prepare):eval(bye)
    end
    local pool, faults = pools.new({ max = 3, load = 1, start = 0, stop = 0.02, max_jobs = 3,
      done = "bye", on_event = function(_, _, pid) ended[pid] = (ended[pid] or 0) + 1 end },
      nil, template())
    local r, seen = results(), {}
    for i = 1, 20 do pool("pid", r.cb(i)) end
    r.wait(20)
    pool("retire", r.cb(21))
    r.wait(21)
    pool:reload(template())
    for i = 22, 30 do pool("pid", r.cb(i)) end
    pools.finish(pool)
    for i = 1, 30 do
      assert.are.equal("fine", r.kinds[i], r.errs[i])
      if i ~= 21 then seen[r.values[i][1]] = 1 end
    end
    for pid in pairs(seen) do assert.are.equal(1, ended[pid]) end
    for _, times in pairs(ended) do assert.are.equal(1, times) end
    assert.are.same({}, faults)
  end)
end)

describe("the options of an rpc #proc", function()
  plain("are checked at the caller's line", function()
    local wrong = {}
    local function check(pattern, fn)
      local ok, err = pcall(proc.assert_blames, pattern, fn)
      if not ok then wrong[#wrong + 1] = pattern .. ": " .. tostring(err) end
    end
    local p = tine.new()
    for _, given in ipairs {
      { "unknown option 'max'", { max = 1 } }, { "unknown option '1'", { 1 } },
      { "timeout", { timeout = 0 } }, { "timeout", { timeout = 0 / 0 } },
      { "timeout", { timeout = "1" } }, { "grace", { grace = -1 } },
      { "spawn_timeout", { spawn_timeout = 0 } }, { "init", { init = {} } },
      { "done", { done = 1 } }, { "on_event", { on_event = "x" } },
      { "on_error", { on_error = 1 } }, { "on_destroy", { on_destroy = {} } },
      { "serialiser", { serialiser = "yaml" } }, { "serialiser", { serialiser = "source" } },
      { "serialiser", { serialiser = { freeze = "x" } } }, { "serialiser", { serialiser = 1 } },
      { "table of options", "x" },
    } do
      check("rpc: .*" .. given[1], function() p:rpc("work", given[2]) end)
    end
    check("a name or a function", function() p:rpc() end)
    check("a name or a function", function() p:rpc({}) end)
    local upvalue = io.stdout
    check("upvalue", function() p:rpc(function() return upvalue end) end)
    local function init() return upvalue end
    check("init.*upvalue", function() p:rpc("f", { init = init }) end)
    local rpc = p:eval("function work(...) return ... end"):rpc("work")
    check("consumed", function() p:rpc("work") end)
    check("consumed", function() p:eval("x = 1") end)
    check("a callback is needed", function() rpc("x") end)
    check("a callback is needed", function() rpc() end)
    check("a callback is needed", function() rpc:call("x") end)
    check("a callback is needed", function() rpc:traceback() end)
    check("only inside of tine.go", function() rpc:await("x") end)
    check("close: a function", function() rpc:close(1) end)
    check("traceback: a function", function() rpc:traceback(1) end)
    check("an rpc or a pool expected", function() rpc.call(1, 2, silent) end)
    for _, name in ipairs { "await", "close", "pid", "traceback" } do
      check(name .. ": an rpc or a pool expected", function() rpc[name](nil, silent) end)
    end
    local result
    rpc("fine", function(_, text) result = text end)
    helper.wait_until(10, function() return result end)
    assert.are.equal("fine", result)
    rpc:close()
    if #wrong > 0 then error(table.concat(wrong, "\n")) end
  end)
end)

describe("what code in a worker gets from load #proc", function()
  it("is the message, whatever Lua passes by the handler of errors", function()
    -- 500 levels are more than the parser takes: an error that a message handler sees.
    local deep = ("local a; a = %s0%s"):format(("{"):rep(500), ("}"):rep(500))
    local function work(text)
      local f, why = load(text)
      return tostring(f), type(why), why
    end
    for _, async in ipairs { false, true } do
      local rpc = tine.new():rpc(async and function(done, text)
        local f, why = load(text)
        done(tostring(f), type(why), why)
      end or work, { async = async })
      local got
      rpc(deep, function(...) got = { ... } end)
      helper.wait_until(10, function() return got end)
      assert.are.same({ "nil", "string" }, { got[2], got[3] })
      assert.matches("overflow", got[4])
      rpc:close()
    end
    local lines = {}
    local p = tine.new { stdout = function(line) lines[#lines + 1] = line end }
    p:eval("print(type(select(2, load(...))))", deep)
    helper.wait_until(10, function() return lines[1] end)
    assert.are.same({ "string" }, lines)
    p:close()
  end)
end)

describe("a state that is closed by a callback with calls open #proc", function()
  it("leaves, and jobs are ended for finalizers", function()
    local out, code = require "spec.host_program".run [[
      local rpc = tine.new():eval("function work(x) return x end"):rpc("work")
      local first = rpc("1", function()
        local job = rpc("2", print)
        local kept = setmetatable({}, { __gc = function()
          job:cancel()
          print(job)
        end })
        assert(kept)
        os.exit(7, true)
      end)
      assert(first)
      loop.run()]]
    assert.are.equal(7, code, out)
    assert.matches("^tine.job %(2", out)
  end)
end)
