-- Pools: options, calls, and callbacks.
local helper = require "spec.helper"
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local new_pool, gate =
  pools.new, pools.gate

local function silent() end

-- Tests outside of a coroutine.
local function plain(name, fn)
  it(name, function() helper.no_leaks(fn) end)
end

-- Like proc.assert_blames, but tells all that is wrong at the end.
local function blames()
  local wrong = {}
  local function check(pattern, fn)
    local ok, err = pcall(proc.assert_blames, pattern, fn)
    if not ok then wrong[#wrong + 1] = pattern .. ": " .. tostring(err) end
  end
  return check, function()
    if #wrong > 0 then error(table.concat(wrong, "\n"), 2) end
  end
end

describe("the options of a pool #proc", function()
  plain("are checked at the caller's line", function()
    local check, report = blames()
    local p = tine.new()
    for _, given in ipairs {
      { "max", { max = 0 } }, { "max", { max = "4" } }, { "max", { max = 1.5 } },
      { "max", { max = 0 / 0 } }, { "idle", { idle = -1 } },
      { "idle is more than max", { max = 4, idle = 5 } }, { "load", { load = 0 } },
      { "start", { start = -1 } }, { "start", { start = 0 / 0 } }, { "stop", { stop = -0.5 } },
      { "queue", { queue = -1 } }, { "queue", { queue = "1" } }, { "retries", { retries = -1 } },
      { "retries", { retries = 0.5 } }, { "max_jobs", { max_jobs = 0 } },
      { "retries: crash", { retries = { crash = -1 } } },
      { "retries: timeout", { retries = { timeout = {} } } },
      { "retries: exception: .* function", { retries = { exception = "x" } } },
      { "retries: delay", { retries = { delay = -1 } } },
      { "retries: unknown option 'crashes'", { retries = { crashes = 1 } } },
      { "max_rss", { max_rss = 0 } }, { "max_age", { max_age = 0 } },
      { "timeout", { timeout = 0 } }, { "timeout", { timeout = 0 / 0 } },
      { "grace", { grace = 0 } }, { "spawn_timeout", { spawn_timeout = -1 } },
      { "on_drain", { on_drain = 1 } }, { "on_line", { on_line = "x" } },
      { "on_event", { on_event = {} } }, { "on_error", { on_error = 1 } },
      { "on_destroy", { on_destroy = true } }, { "init", { init = 1 } },
      { "done", { done = {} } }, { "serialiser", { serialiser = "xml" } },
      { "serialiser", { serialiser = {} } }, { "unknown option 'nonsense'", { nonsense = 1 } },
      { "'serializer' %(there are: .*, retries, serialiser, ", { serializer = "json" } },
      { "table of options", 5 },
    } do
      check("pool: .*" .. given[1], function() p:pool("work", given[2]) end)
    end
    check("a name or a function", function() p:pool() end)
    check("a name or a function", function() p:pool(5, {}) end)
    local upvalue = io.stdout
    check("upvalue", function() p:pool(function() return upvalue end) end)
    local function init() return upvalue end
    check("init.*upvalue", function() p:pool("f", { init = init }) end)
    -- What was refused has not used the process up.
    local pool = p:eval("function work() return 'fine' end"):pool("work", { max = 1 })
    check("consumed by pool", function() p:pool("work") end)
    local result
    pool(function(_, text) result = text end)
    helper.wait_until(10, function() return result end)
    assert.are.equal("fine", result)
    pool:close()
    report()
  end)

  plain("of a call, too", function()
    local check, report = blames()
    local pool = new_pool { max = 1 }
    for _, given in ipairs {
      { "unknown option 'nonsense'", { nonsense = 1 } }, { "args", { args = 1 } },
      { "cb", { cb = 1 } }, { "timeout", { timeout = 0 } }, { "timeout", { timeout = "1" } },
      { "timeout", { timeout = 0 / 0 } }, { "priority", { priority = 1.5 } },
      { "priority", { priority = {} } }, { "retries", { retries = -1 } },
      { "retries", { retries = "2" } }, { "retries: delay", { retries = { delay = 0 / 0 } } },
      { "key", { key = {} } }, { "on_event", { on_event = 1 } },
    } do
      check("call: " .. given[1], function() pool:call(given[2]) end)
    end
    for _, given in ipairs { { "x", "string" }, { 1e8, "1" }, { -1, "%-1" }, { 0.5, "0.5" } } do
      check("call: args: a whole number from .* as n expected, got " .. given[2],
        function() pool:call { args = { n = given[1] } } end)
    end
    check("a callback is needed", function() pool:call { args = { "echo" } } end)
    check("a callback is needed", function() pool:call("echo", "x") end)
    check("a callback is needed", function() pool("echo", "x") end)
    check("only inside of tine.go", function() pool:await("echo") end)
    pool:close()
    report()
  end)

  plain("of the other methods, too", function()
    local check, report = blames()
    local pool = new_pool { max = 2 }
    local used = tine.new()
    used:close()
    check("map: a list", function() pool:map(1) end)
    check("map: a table of options", function() pool:map({}, 1) end)
    check("map: unknown option 'x'", function() pool:map({}, { x = 1 }) end)
    check("map: window", function() pool:map({}, { window = 0 }) end)
    check("map: window", function() pool:map({}, { window = 0 / 0 }) end)
    check("map: ordered", function() pool:map({}, { ordered = 1 }) end)
    check("map: timeout", function() pool:map({}, { timeout = -1 }) end)
    check("map: retries", function() pool:map({}, { retries = -1 }) end)
    check("map: retries: crash", function() pool:map({}, { retries = { crash = 0.5 } }) end)
    check("map: priority", function() pool:map({}, { priority = 1.5 }) end)
    check("resize: a table", function() pool:resize() end)
    check("resize: max", function() pool:resize { max = 0 } end)
    check("resize: max", function() pool:resize { max = "3" } end)
    check("resize: idle", function() pool:resize { idle = -1 } end)
    check("idle is more than max", function() pool:resize { idle = 3 } end)
    check("unknown option 'x'", function() pool:resize { x = 3 } end)
    check("reload: .*process", function() pool:reload(1, silent) end)
    check("reload: .*closed", function() pool:reload(used, silent) end)
    check("a callback is needed", function() pool:reload(tine.new()) end)
    check("reload: a function", function() pool:reload(tine.new(), 1) end)
    check("a callback is needed", function() pool:broadcast("echo") end)
    check("traceback: a process id", function() pool:traceback("x", silent) end)
    check("a callback is needed", function() pool:traceback(1) end)
    check("close: a function", function() pool:close(1) end)
    for _, name in ipairs { "call", "map", "broadcast", "resize", "reload", "promote", "traceback",
      "stats", "close" } do
      check(name .. ": a pool expected, got nil", function() pool[name]() end)
      check(name .. ": a pool expected, got number", function() pool[name](1, { max = 2 }) end)
    end
    check("await: an rpc or a pool expected", function() pool.await() end)
    check("pid: an rpc or a pool expected", function() pool.pid() end)
    local inside
    tine.loop.timer(0, function()
      inside = table.pack(pcall(proc.assert_blames, "map: .*inside of tine.go",
        function() for _ in pool:map { 1 } do error("made a call") end end))
    end)
    helper.wait_until(10, function() return inside end)
    assert.is_true(inside[1], inside[2])
    check("close: a time", function() pool:close(nil, -1) end)
    check("close: a time", function() pool:close(nil, "1") end)
    check("close: a time", function() pool:close(nil, 0 / 0) end)
    pool:close()
    report()
  end)

  case("may be without a bound", function()
    local marker = helper.tmpname()
    local pool <close> = tine.new():pool(function(path)
      local f = io.open(path, "r+") or assert(io.open(path, "w+"))
      local n = (f:read("n") or 0) + 1
      f:seek("set")
      f:write(n)
      f:close()
      if n <= 3 then os.execute("kill -KILL $PPID") end
      return n
    end, {
      max = math.huge, load = math.huge, queue = math.huge, retries = math.huge, start = 0,
      max_jobs = math.huge, max_rss = math.huge, max_age = math.huge, timeout = math.huge,
      on_error = silent,
    })
    assert.is_truthy(pool)
    assert.are.equal("4", pool:await(marker))
  end)
end)

describe("calls of a pool #proc", function()
  plain("have their results, each in its own callback, exactly once", function()
    local pool = new_pool { max = 3, start = 0 }
    local times, ended = {}, 0
    for i = 1, 500 do
      local job = pool("echo", i, i * i, function(err, a, b)
        assert(not err, err)
        assert.are.equal(tostring(i), a)
        assert.are.equal(tostring(i * i), b)
        times[i] = (times[i] or 0) + 1
        ended = ended + 1
      end)
      assert.are.equal(i, job:id())
    end
    helper.wait_until(10, function() return ended == 500 end)
    for i = 1, 500 do assert.are.equal(1, times[i]) end
    assert.are.equal("tine.pool", tostring(pool))
    pool:close()
  end)

  case("wait in a coroutine, and await raises", function()
    local pool <close> = new_pool { max = 2 }
    assert.are.same({ nil, "a", "b", n = 3 }, table.pack(pool("echo", "a", "b")))
    assert.are.same({ nil, "a", n = 2 }, table.pack(pool:call("echo", "a")))
    assert.are.same({ nil, "x", n = 2 }, table.pack(pool:call { args = { "echo", "x" } }))
    assert.are.same({ nil, n = 1 }, table.pack(pool:call { args = { "echo", "x", n = 1 } }))
    assert.are.same({ "a", "", "b\0\n", n = 3 }, table.pack(pool:await("echo", "a", "", "b\0\n")))
    assert.are.same({ n = 0 }, table.pack(pool:await("echo")))
    local err, rest = pool("fail", "oh")
    assert.are.equal("exception", err.kind)
    assert.are.equal("oh", err.message)
    assert.is_nil(rest)
    local ok, raised = pcall(pool.await, pool, "fail", "oh")
    assert.is_false(ok)
    assert.are.equal("exception", raised.kind)
    assert.matches("traceback", raised.traceback)
    assert.is_truthy(raised.pid)
  end)

  case("fail alone when they raise or cannot be sent, and the worker lives on", function()
    local pool <close> = new_pool { max = 1, load = 8 }
    local pid = pool:await("pid")
    local errors = {}
    for i, args in ipairs { { "echo", {} }, { "unsendable" }, { "fail", "f" }, { "nothing" } } do
      pool:call { args = args, cb = function(err) errors[i] = err end }
    end
    assert.are.equal(pid, pool:await("pid"))
    proc.wait_for(function() return errors[1] and errors[4] end)
    assert.are.equal("encode", errors[1].kind)
    assert.matches("args%[2%]", errors[1].message)
    assert.are.equal("encode", errors[2].kind)
    assert.matches("results%[1%]", errors[2].message)
    assert.are.equal("exception", errors[3].kind)
    assert.matches("traceback", errors[4].traceback)
    assert.are.equal("exception", errors[4].kind)
    local stats = pool:stats()
    assert.are.equal(0, stats.crashed)
    assert.are.equal(3, stats.failed) -- the first was no call yet
  end)

  case("of two coroutines at once do not mix", function()
    local pool <close> = new_pool { max = 2, start = 0 }
    local path, open = gate()
    local order, waits = {}, 0
    local function user(name)
      waits = waits + 1
      local result = pool:await("gate", path, name)
      assert.are.equal(name, result)
      for i = 1, 50 do
        local text = name .. i
        assert.are.equal(text, pool:await("echo", text))
      end
      order[#order + 1] = name
    end
    local one, two = tine.go(user, "one"), tine.go(user, "two")
    assert.are.equal(2, waits)
    open()
    one:await()
    two:await()
    table.sort(order)
    assert.are.same({ "one", "two" }, order)
  end)

  case("start at the least loaded worker, and never more than load go to one", function()
    local pool <close> = new_pool { max = 3, start = 0, load = 2 }
    local path, open = gate()
    local ended, by = 0, {}
    for i = 1, 7 do
      pool("gate", path, i, function(err, _, pid)
        assert(not err, err)
        by[pid] = (by[pid] or 0) + 1
        ended = ended + 1
      end)
    end
    local stats
    proc.wait_for(function()
      stats = pool:stats()
      return #stats.workers == 3 and stats.running == 6
    end)
    for _, worker in ipairs(stats.workers) do assert.are.equal(2, worker.load) end
    assert.are.equal(1, stats.queued)
    open()
    proc.wait_for(function() return ended == 7 end)
    for _, n in pairs(by) do assert.is_true(n >= 1 and n <= 5) end
  end)

  case("do not wait behind a long one while a worker is idle", function()
    local pool <close> = new_pool { max = 2, idle = 2, load = 4, start = 0 }
    local path, open = gate()
    proc.wait_for(function() return pool:stats().idle == 2 end)
    local slow, fast = 0, 0
    for _ = 1, 2 do
      pool("gate", path, "x", function() slow = slow + 1 end)
    end
    local one_free, open_one = gate()
    -- Both workers are busy, one of them soon is not: all that lies behind the other goes there.
    for _ = 1, 6 do
      pool("echo", "x", function() fast = fast + 1 end)
    end
    assert.are.equal(0, fast)
    open()
    proc.wait_for(function() return slow == 2 and fast == 6 end)
    local held = false
    pool("gate", one_free, "x", function() held = true end)
    for _ = 1, 6 do
      pool("echo", "x", function() fast = fast + 1 end)
    end
    proc.wait_for(function() return fast == 12 end)
    assert.is_false(held)
    open_one()
  end)

  case("go by priority, equal ones in order", function()
    local pool <close> = new_pool { max = 1, load = 1 }
    local path, open = gate()
    local order = {}
    pool("gate", path, "x", silent)
    proc.wait_for(function() return pool:stats().running == 1 end)
    for i, priority in ipairs { 0, -1, 5, 0, 5, 2 ^ 31 - 1 | 0, -2 ^ 31 | 0 } do
      pool:call { args = { "echo", i }, priority = priority, cb = function(err, n)
        assert(not err, err)
        order[#order + 1] = tonumber(n)
      end }
    end
    open()
    proc.wait_for(function() return #order == 7 end)
    assert.are.same({ 6, 3, 5, 1, 4, 2, 7 }, order)
  end)

  case("take a priority of any size, or refuse it", function()
    local pool <close> = new_pool { max = 1, load = 1 }
    local path, open = gate()
    local order = {}
    pool("gate", path, "x", silent)
    proc.wait_for(function() return pool:stats().running == 1 end)
    local function call(i, priority)
      return pcall(pool.call, pool, { args = { "echo", i }, priority = priority, cb = function(_, n)
        order[#order + 1] = tonumber(n)
      end })
    end
    call(1, 1)
    local taken = call(2, 2 ^ 40 | 0)
    open()
    proc.wait_for(function() return #order == (taken and 2 or 1) end)
    assert.are.same(taken and { 2, 1 } or { 1 }, order)
  end)

  case("of one key go to one worker, in order, and of many keys to all", function()
    local pool <close> = new_pool { max = 3, idle = 3, load = 2, start = 0 }
    proc.wait_for(function() return pool:stats().idle == 3 end)
    local by_key, by_pid, last, ended = {}, {}, {}, 0
    for i = 1, 300 do
      local key = "key" .. i % 10
      pool:call { args = { "count" }, key = i % 2 == 0 and key or key, cb = function(err, _, pid)
        assert(not err, err)
        by_key[key] = by_key[key] or pid
        assert.are.equal(by_key[key], pid)
        assert.is_true(i > (last[key] or 0))
        last[key] = i
        by_pid[pid] = true
        ended = ended + 1
      end }
    end
    proc.wait_for(function() return ended == 300 end)
    local n = 0
    for _ in pairs(by_pid) do n = n + 1 end
    assert.are.equal(3, n)
    -- A key that comes again finds its worker; a number is a key as well.
    assert.are.equal(by_key.key1, select(3, pool:call { args = { "count" }, key = "key1" }))
    local _, _, first = pool:call { args = { "count" }, key = 7 }
    assert.are.equal(first, select(3, pool:call { args = { "count" }, key = "7" }))
  end)

  for _, serialiser in ipairs { "json", "msgpack", "lua" } do
    case("take values with the serialiser " .. serialiser, function()
      local pool <close> = new_pool { max = 2, serialiser = serialiser }
      local a, b = pool:await("echo", { list = { 1, 2.5, "x" } }, true)
      assert.are.same({ list = { 1, 2.5, "x" } }, a)
      assert.is_true(b)
      local err = pool("echo", { silent })
      assert.are.equal("encode", err.kind)
    end)
  end

  case("have results of 64 MB, and of nothing", function()
    local pool <close> = new_pool { max = 2, load = 4 }
    local ended, size = 0, 64 << 20
    for i = 1, 3 do
      pool("rep", "x", size, function(err, text)
        assert(not err, err)
        assert.are.equal(size, #text)
        ended = ended + 1
        if i == 3 then assert.are.equal("x", text:sub(-1)) end
      end)
      pool("rep", "x", 0, function(err, text)
        assert(not err, err)
        assert.are.equal("", text)
        ended = ended + 1
      end)
    end
    proc.wait_for(function() return ended == 6 end)
    local text = ("y"):rep(size)
    local back = pool:await("echo", text)
    assert.is_true(back == text)
  end)
end)

-- Runs the loop until fn returns true; each error that a callback raises is counted.
local function poll_until(fn)
  local raised, all = 0, {}
  local deadline = helper.now() + 10 * helper.patience
  while not fn(raised) do
    if helper.now() > deadline then
      error(("%d were raised: %s"):format(raised, table.concat(all, "\n")), 2)
    end
    local ok, err = pcall(tine.loop.poll, 0.01)
    if not ok then
      assert.matches("raised by", tostring(err))
      raised = raised + 1
      all[raised] = tostring(err):match("raised by[^\n]*")
    end
  end
end

describe("callbacks of a pool #proc", function()
  plain("may raise: the loop raises it, and nothing else is lost", function()
    local pool = new_pool { max = 1, load = 4 }
    local ended = 0
    for i = 1, 20 do
      pool("echo", i, function()
        ended = ended + 1
        if i % 5 == 0 then error("raised by " .. i, 0) end
      end)
    end
    poll_until(function(raised) return ended == 20 and raised == 4 end)
    local fine
    pool("echo", "x", function(_, x) fine = x end)
    helper.wait_until(10, function() return fine end)
    pool:close()
  end)

  plain("may raise out of on_event, on_line, on_drain and close", function()
    local function raise(name)
      return function(...) error("raised by " .. name .. " " .. tostring((...)), 0) end
    end
    local pool = new_pool {
      max = 1, queue = 2, on_event = raise "on_event", on_line = raise "on_line",
      on_drain = raise "on_drain",
    }
    local ended, gone = 0, false
    for _ = 1, 3 do
      pool("events", 2, "x", function() ended = ended + 1 end)
    end
    -- 4 events, 1 drain: one of the three calls is rejected.
    poll_until(function(raised) return ended == 3 and raised == 5 end)
    pool("say", "hello", function() ended = ended + 1 end)
    poll_until(function(raised) return ended == 4 and raised == 2 end)
    pool:close(function()
      gone = true
      raise "close" ()
    end)
    poll_until(function(raised) return gone and raised == 1 end)
  end)

  plain("may make new calls, also from a failed one", function()
    local pool = new_pool { max = 2, queue = 4 }
    local depth, rejected = 0, 0
    local function again(err, n)
      assert(not err, err)
      depth = tonumber(n)
      if depth < 300 then pool("echo", depth + 1, again) end
    end
    pool("echo", 1, again)
    for _ = 1, 10 do
      pool("fail", "x", function(err)
        if err.kind == "rejected" then rejected = rejected + 1 end
        pool("echo", "x", silent)
      end)
    end
    helper.wait_until(10, function() return depth == 300 end)
    assert.are.equal(7, rejected)
    pool:close()
  end)

  plain("may close the pool: the others have their results still", function()
    local pool = new_pool { max = 2, load = 2 }
    local ended, gone = 0, false
    for i = 1, 30 do
      pool("echo", i, function(err, n)
        assert(not err, err)
        assert.are.equal(tostring(i), n)
        ended = ended + 1
        if i == 3 then pool:close(function() gone = true end) end
        if i == 4 then
          pool("echo", "late", function(late)
            assert.are.equal("closed", late.kind)
            ended = ended + 1
          end)
        end
      end)
    end
    helper.wait_until(10, function() return gone end)
    helper.wait_until(10, function() return ended == 31 end)
  end)

  plain("may close the pool and kill it at once", function()
    local pool = new_pool { max = 2, load = 2, start = 0 }
    local kinds, gone = {}, false
    for i = 1, 10 do
      pool(i == 1 and "echo" or "spin", function(err)
        if i == 1 then pool:close(function() gone = true end, 0) end
        local kind = err and err.kind or "fine"
        kinds[kind] = (kinds[kind] or 0) + 1
      end)
    end
    helper.wait_until(10, function() return gone end)
    assert.are.same({ fine = 1, closed = 9 }, kinds)
  end)

  plain("may cancel any job, themselves too", function()
    local pool = new_pool { max = 1, load = 4 }
    local jobs, kinds, ended = {}, {}, 0
    for i = 1, 12 do
      jobs[i] = pool("echo", i, function(err)
        kinds[i] = err and err.kind or "fine"
        ended = ended + 1
        for k = i, 12, 2 do jobs[k]:cancel() end
        jobs[i]:cancel()
      end)
    end
    helper.wait_until(10, function() return ended == 12 end)
    assert.are.equal("fine", kinds[1])
    for i = 1, 12 do assert.is_true(kinds[i] == "fine" or kinds[i] == "cancelled") end
    assert.are.equal("cancelled", kinds[12])
    pool:close()
  end)
end)
