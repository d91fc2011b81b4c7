-- Jobs that are tried again: after what, when, how often, and what else that costs.
local helper = require "spec.helper"
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local new_pool, gate, results, finish, only =
  pools.new, pools.gate, pools.results, pools.finish, pools.only

-- Every try of a job tells of its beginning by an event.
local function prepare()
  local worker = require "tine"
  local before = work -- luacheck: globals work
  function work(name, ...) -- luacheck: globals work
    worker.event("try", name, ...)
    worker.flush()
    return before(name, ...)
  end
end

-- Besides: when tries began, by the loop's clock, and the names of their jobs.
local function new_watched(options)
  local times, names = {}, {}
  options.on_event = function(_, ...)
    times[#times + 1] = tine.loop.now()
    names[#names + 1] = select("#", ...) > 1 and select(2, ...) or (...)
  end
  local pool, faults = new_pool(options, "work", tine.new():eval(pools.prepare):eval(prepare))
  return pool, times, names, faults
end

-- Until so many jobs wait, of which some, by default all, have failed once.
local function waiting(pool, n, failed)
  proc.wait_for(function()
    local s = pool:stats()
    return s.queued == n and s.retried == (failed or n)
  end)
end

local function saying(order, i)
  return function(err)
    assert(not err, err)
    order[#order + 1] = i
  end
end

describe("retries after an error #proc", function()
  case("are made in the same worker, and come to an end with the last error", function()
    local pool = new_pool { max = 1, retries = { exception = 2 } }
    local pid = pool:await("pid")
    assert.are.equal("at last", pool:await("nth", helper.tmpname(), 3, "fail", "x"))
    local path = helper.tmpname()
    local err = pool("nth", path, 9, "fail", "as told")
    assert.are.equal("exception", err.kind)
    assert.are.equal("as told", err.message)
    assert.matches("^stack traceback:\n", err.traceback)
    assert.are.equal(3, err.tries)
    assert.are.equal("xxx", proc.text(path))
    assert.are.equal(pid, pool:await("pid"))
    local s = pool:stats()
    assert.are.same({ 4, 0, 1, 1 }, { s.retried, s.crashed, s.failed, s.started })
    assert.are.equal("crash", pool("nth", helper.tmpname(), 9, "exit", 1).kind)
    assert.are.equal(4, pool:stats().retried)
    finish(pool)
  end)

  case("are made as long as a function says so, which gets err and how often", function()
    local seen = {}
    local pool = new_pool({ max = 1, serialiser = "lua", retries = {
      exception = function(err, tries)
        seen[#seen + 1] = { err.kind, err.value and err.value.code, tries }
        return tries < 4
      end,
    } }, function() error { code = 7 } end)
    local err = pool(1)
    assert.are.same({ "exception", 7, 4 }, { err.kind, err.value.code, err.tries })
    assert.are.same({ { "exception", 7, 1 }, { "exception", 7, 2 }, { "exception", 7, 3 },
      { "exception", 7, 4 } }, seen)
    finish(pool)
  end)

  case("are asked of the function that a call brings", function()
    local pool = new_pool { max = 2, retries = { exception = function() return false end } }
    local r = results()
    for i = 1, 20 do
      pool:call { args = { "nth", helper.tmpname(), i, "fail", "x" }, cb = r.cb(i),
        retries = { exception = function(_, tries) return tries < 10 end } }
    end
    pool("fail", "x", r.cb(21))
    r.wait(21)
    for i = 1, 21 do assert.are.equal(i <= 10 and "fine" or "exception", r.kinds[i], i) end
    assert.are.equal(10, r.errs[20].tries)
    assert.is_nil(r.errs[21].tries)
    finish(pool)
  end)

  case("are not made of a job cancelled in that function, nor after a close there", function()
    local pool, job = new_pool { max = 1 }, nil
    local r, asked = results(), 0
    local function ask(how)
      return { exception = function()
        asked = asked + 1
        how()
        return true
      end }
    end
    job = pool:call { args = { "fail", "x" }, cb = r.cb(1), retries = ask(function()
      job:cancel()
    end) }
    r.wait(1)
    pool:call { args = { "fail", "y" }, cb = r.cb(2), retries = ask(function()
      pool:close(nil, 0)
    end) }
    r.wait(2)
    assert.are.same({ "exception", "exception" }, r.kinds)
    assert.is_true(asked < 100)
  end)

  it("end with the job's error where that function raises, whose error goes to the loop", function()
    local text, code = helper.run(proc.program([[
      local pool = tine.new():eval("function f() error('of the job', 0) end"):pool("f", { max = 1,
        retries = { exception = function() error("of the host", 0) end } })
      pool(1, function(err) print(err.kind, err.message) end)
      print(pcall(tine.loop.run))
      pool:close()
      tine.loop.run()
    ]]), 15)
    assert.are.equal(0, code, text)
    assert.matches("exception\tof the job\n", text)
    assert.matches("false\tof the host", text)
  end)

  case("are each kind's own, and none where the call says 0", function()
    local path = helper.tmpname()
    -- The first fails, the second is late, the third dies, the fourth is fine.
    local pool = new_pool({ max = 1, grace = 0.1, timeout = 0.2,
      retries = { crash = 1, timeout = 1, exception = 1 } }, function(name, last)
      local f <close> = io.open(name, "a+")
      f:write("x")
      f:flush()
      f:seek("set")
      local n = #f:read("a")
      if n == 1 or n == tonumber(last) then error("fails") end
      if n == 2 then os.execute("sleep 60") end
      if n == 3 then os.exit(1) end
      return n
    end)
    assert.are.equal(4, math.tointeger(tonumber((pool:await(path, 0)))))
    path = helper.tmpname()
    local err = pool(path, 4)
    assert.are.same({ "exception", 4 }, { err.kind, err.tries })
    for _, none in ipairs { 0, { delay = 1 } } do
      path = helper.tmpname()
      err = pool:call { args = { path, 0 }, retries = none }
      assert.are.equal("exception", err.kind)
      assert.are.equal("x", proc.text(path))
    end
    finish(pool)
  end)

  case("are made for the jobs of a map", function()
    local pool = new_pool { max = 2 }
    local list = {}
    for i = 1, 30 do list[i] = { "nth", helper.tmpname(), i % 3 + 1, "fail", "x" } end
    local n = 0
    for i, ok, result in pool:map(list, { packed = true, retries = { exception = 1 } }) do
      assert.are.equal(i % 3 < 2, ok)
      if ok then assert.are.equal("at last", result) else assert.are.equal(2, result.tries) end
      n = n + 1
    end
    assert.are.equal(30, n)
    finish(pool)
  end)
end)

describe("retries after a deadline #proc", function()
  case("are made whether the worker lived or was killed for it", function()
    local pool = new_pool { max = 1, grace = 0.1, timeout = 0.2, retries = { timeout = 1 } }
    for _, how in ipairs { "spin", "stubborn" } do
      assert.are.equal("at last", pool:await("nth", helper.tmpname(), 2, how))
    end
    local err = pool("nth", helper.tmpname(), 9, "spin")
    assert.are.equal("timeout", err.kind)
    assert.matches("too long %(tried 2 times%)$", err.message)
    assert.are.equal(2, err.tries)
    assert.are.equal(1, pool:stats().timeouts)
    assert.are.equal("exception", pool("nth", helper.tmpname(), 9, "fail", "x").kind)
    finish(pool)
  end)

  case("are not made of a job that is cancelled while it has its grace", function()
    local pool, faults = new_pool { max = 1, grace = 1, timeout = 0.1, retries = { timeout = 5 } }
    local r, path = results(), helper.tmpname()
    local job = pool("nth", path, 9, "stubborn", r.cb(1))
    proc.wait_for(function() return pool:stats().run.count == 0 and job:running() end)
    tine.loop.sleep(0.3)
    job:cancel()
    r.wait(1)
    assert.are.equal("timeout", r.kinds[1])
    assert.are.equal("x", proc.text(path))
    assert.are.same({}, faults)
    finish(pool)
  end)
end)

describe("a delay before retries #proc", function()
  case("is doubled at each, whatever the job has failed of", function()
    local pool, times = new_watched { max = 1, retries = { crash = 2, exception = 9, delay = 0.1 } }
    assert.are.equal("at last", pool:await("nth", helper.tmpname(), 4, "fail", "x"))
    for i = 1, 3 do
      assert.is_true(times[i + 1] - times[i] >= 0.1 * 2 ^ (i - 1) - 0.005, i)
    end
    times[1] = nil
    local n = #times
    assert.are.equal("at last", pool:await("nth", helper.tmpname(), 3, "exit", 3))
    assert.is_true(times[n + 3] - times[n + 1] >= 0.29)
    finish(pool)
  end)

  case("keeps no worker, and the job is queued meanwhile and may be cancelled", function()
    local pool = new_pool { max = 1, retries = { exception = 1, delay = 60 } }
    local r = results()
    local jobs = {}
    for i = 1, 3 do jobs[i] = pool("fail", "x", r.cb(i)) end
    waiting(pool, 3)
    assert.are.equal("x", pool:await("echo", "x"))
    assert.is_false(jobs[1]:running())
    local began = tine.loop.now()
    jobs[2]:cancel()
    r.wait(1)
    assert.are.equal("cancelled", r.kinds[2])
    assert.is_true(jobs[1]:withdraw())
    r.wait(2)
    assert.are.equal("cancelled", r.kinds[1])
    assert.is_true(tine.loop.now() - began < 10)
    assert.are.equal(1, pool:stats().queued)
    jobs[3]:cancel()
    r.wait(3)
    finish(pool)
  end)

  case("counts towards the bound of the queue", function()
    local drained = 0
    local pool = new_pool { max = 1, queue = 2, retries = { exception = 1, delay = 60 },
      on_drain = function() drained = drained + 1 end }
    local r, jobs = results(), {}
    for i = 1, 2 do jobs[i] = pool("fail", "x", r.cb(i)) end
    waiting(pool, 2)
    assert.are.equal("rejected", pool("echo", "x").kind)
    local before = drained
    jobs[1]:cancel()
    proc.wait_for(function() return drained > before end)
    assert.are.equal("x", pool:await("echo", "x"))
    jobs[2]:cancel()
    finish(pool)
  end)

  case("does not hold up a close for longer than it is: the job is done", function()
    local pool = new_pool { max = 1, retries = { exception = 1, delay = 0.2 } }
    local r = results()
    pool("nth", helper.tmpname(), 2, "fail", "x", r.cb(1))
    pool("nth", helper.tmpname(), 2, "exit", 1, r.cb(2))
    finish(pool)
    assert.are.same({ "fine", "crash" }, r.kinds)
    assert.are.equal("at last", r.values[1][1])
  end)

  case("ends with close and seconds, by the error that there was", function()
    local pool = new_pool { max = 2, start = 0, retries = { exception = 1, crash = 1, delay = 60 } }
    local r = results()
    pool("fail", "as told", r.cb(1))
    pool("exit", 7, r.cb(2))
    pool("stubborn", r.cb(3))
    proc.wait_for(function()
      local s = pool:stats()
      return s.queued == 2 and s.retried == 2 and s.running == 1
    end)
    pool("stubborn", r.cb(4))
    pools.running(pool, 2)
    local began = tine.loop.now()
    finish(pool, 0.1)
    assert.is_true(tine.loop.now() - began < 10)
    assert.are.same({ "exception", "crash", "closed", "closed" }, r.kinds)
    assert.are.equal("as told", r.errs[1].message)
    assert.matches("^stack traceback:\n", r.errs[1].traceback)
    assert.are.same({ 1, 1 }, { r.errs[1].tries, r.errs[2].tries })
    assert.matches("code 7.* %(tried 1 time; the pool was closed%)$", r.errs[2].message)
  end)

  case("ends with the pool's template, by the error that there was", function()
    local pool = new_pool({ max = 1, retries = { exception = 1, delay = 60 } }, "work",
      tine.new{ stdout = function() end }:eval(pools.prepare))
    local r = results()
    for i = 1, 3 do pool("fail", "job " .. i, r.cb(i)) end
    waiting(pool, 3)
    local list = {}
    for _, pid in ipairs(helper.descendants()) do
      if not helper.title(pid):find("--sweep", 1, true) then list[#list + 1] = pid end
    end
    local pids = table.concat(list, " ")
    os.execute(("kill -STOP %s; kill -KILL %s"):format(pids, pids))
    r.wait(3)
    for i = 1, 3 do
      assert.are.equal("exception", r.kinds[i])
      assert.are.equal("job " .. i, r.errs[i].message)
    end
    finish(pool)
  end)

  case("is each job's own, for thousands at once", function()
    local pool = new_pool({ max = 2, load = 16, serialiser = "lua",
      retries = { exception = 2, delay = 0.02 } }, function(i)
      local seen = package.loaded.seen or {}
      package.loaded.seen = seen
      seen[i] = (seen[i] or 0) + 1
      if i % 2 == 0 and seen[i] < 2 then error("again") end
      return i
    end)
    local r = results()
    local total = 4000
    for i = 1, total do pool:call { args = { i }, cb = r.cb(i), priority = i % 3 } end
    r.wait(total)
    for i = 1, total do assert.are.equal(i, r.values[i][1], r.errs[i]) end
    assert.is_true(pool:stats().retried >= total / 2)
    finish(pool)
  end)
end)

describe("the place of a job that is tried again #proc", function()
  case("is that of its priority", function()
    local pool = new_pool { max = 1, load = 1, retries = { exception = 1 } }
    local order, path, open = {}, gate()
    local r = results()
    pool("gate", path, r.cb(1))
    pool:call { args = { "nth", helper.tmpname(), 2, "fail", "x" }, priority = 5,
      cb = saying(order, "high") }
    for i = 1, 3 do pool("echo", i, saying(order, i)) end
    open()
    proc.wait_for(function() return #order == 4 end)
    assert.are.same({ "high", 1, 2, 3 }, order)
    finish(pool)
  end)

  case("is that in its key: the others wait for it, and it for the same worker", function()
    local pool = new_pool { max = 2, idle = 2, load = 1, retries = { exception = 1, delay = 0.2 } }
    local order, pids, free = {}, {}, 0
    pool:call { args = { "nth", helper.tmpname(), 2, "fail", "x" }, key = "k",
      cb = saying(order, 1) }
    for i = 2, 4 do
      pool:call { args = { "pid" }, key = "k", cb = function(err, pid)
        assert(not err, err)
        order[#order + 1] = i
        pids[pid] = true
      end }
    end
    pool:call { args = { "pid" }, key = "other", cb = function() free = #order end }
    pool("echo", "x", function() free = free + #order end)
    proc.wait_for(function() return #order == 4 end)
    assert.are.same({ 1, 2, 3, 4 }, order)
    assert.are.equal(0, free) -- those of no key, or of another, did not wait
    assert.is_nil(next(pids, next(pids)))
    finish(pool)
  end)

  case("in a key is kept when it is cancelled: the others go on", function()
    local pool = new_pool { max = 1, load = 1, retries = { exception = 1, delay = 60 } }
    local r = results()
    local job = pool:call { args = { "fail", "x" }, key = "k", cb = r.cb(1) }
    for i = 2, 3 do pool:call { args = { "echo", i }, key = "k", cb = r.cb(i) } end
    waiting(pool, 3, 1)
    job:cancel()
    r.wait(3)
    assert.are.same({ "cancelled", "fine", "fine" }, r.kinds)
    finish(pool)
  end)
end)

-- Jobs of async workers; the one called "poison" ends its worker in the way told.
local function prepare_async()
  local worker = require "tine"

  local ways = {
    coroutine = function()
      worker.loop.sleep(0.02)
      os.exit(9)
    end,
    timer = function()
      worker.loop.timer(0.02, function() os.exit(9) end)
      worker.loop.sleep(60)
    end,
    outside = function()
      worker.loop.sleep(0.02)
      local f <close> = io.open("/proc/self/stat")
      worker.event("kill me", f:read("n"))
      worker.loop.sleep(60)
    end,
    shell = function() -- known to nobody: another job's code may run
      os.execute("(sleep 0.02; kill -KILL $PPID) >/dev/null 2>&1 &")
      worker.loop.sleep(60)
    end,
    garbage = function()
      worker.loop.sleep(0.02)
      for line in io.popen("ls -l /proc/$PPID/fd"):lines() do
        local number = line:match(" (%d+) %-> socket:")
        if number then
          local fd = worker.fd(math.tointeger(tonumber(number)))
          fd:write(("garbage"):rep(100))
          fd:detach()
        end
      end
      worker.loop.sleep(60)
    end,
  }

  -- Each but those answers with the most that were open beside it, and itself.
  local open, n = {}, 0
  function serve(done, what, ...) -- luacheck: globals serve
    n = n + 1
    open[done] = 0
    for other, most in pairs(open) do open[other] = math.max(most, n) end
    if what == "poison" then return ways[...]() end
    worker.loop.sleep(tonumber((...)))
    local most = open[done]
    open[done], n = nil, n - 1
    done(what, most)
  end
end

local function new_async(options)
  options.async, options.load = true, options.load or 100
  options.on_event = function(_, pid) -- which may have ended already
    os.execute(("kill -KILL %d 2>/dev/null"):format(math.tointeger(tonumber(pid))))
  end
  return new_pool(options, "serve", tine.new():eval(prepare_async))
end

describe("a job that ends its async worker while nine others are open #proc", function()
  for _, how in ipairs { "coroutine", "timer", "outside", "shell", "garbage" } do
    case("spends its own retries only: " .. how, function()
      for _, retries in ipairs { 1, 3 } do
        local pool, faults = new_async { max = 1, retries = retries }
        local r = results()
        for i = 1, 10 do
          if i == 4 then pool("poison", how, r.cb(i)) else pool(i, 0.05, r.cb(i)) end
        end
        r.wait(10)
        for i = 1, 10 do
          local expected = i ~= 4 and "fine" or how == "garbage" and "protocol" or "crash"
          assert.are.equal(expected, r.kinds[i], r.errs[i])
        end
        assert.matches(("tried %d times"):format(retries + 1), r.errs[4].message)
        assert.are.equal(retries + 1, r.errs[4].tries)
        assert.are.equal(retries + 1, pool:stats().crashed)
        assert.are.same({}, faults)
        finish(pool)
      end
    end)
  end

  case("costs nine of ten nothing also where several do, and others still come", function()
    local pool = new_async { max = 2, start = 0, retries = 1 }
    local r, ways = results(), { "outside", "shell", "timer", "coroutine" }
    local total = 60
    for i = 1, total do
      if i % 10 == 5 then
        pool("poison", ways[i // 10 % 4 + 1], r.cb(i))
      else
        pool(i, 0.01 * (i % 7), r.cb(i))
      end
    end
    r.wait(total)
    for i = 1, total do
      assert.are.equal(i % 10 == 5 and "crash" or "fine", r.kinds[i], i .. tostring(r.errs[i]))
    end
    finish(pool)
  end)

  case("has those that may have done it run apart, until they have answered", function()
    local pool = new_async { max = 1, retries = 1 }
    local r = results()
    pool("poison", "outside", r.cb(1))
    for i = 2, 9 do pool(i, 0.05, r.cb(i)) end
    proc.wait_for(function() return pool:stats().retried == 9 end)
    for i = 10, 40 do pool(i, 0.02, r.cb(i)) end
    r.wait(40)
    assert.are.equal("crash", r.kinds[1])
    local together = 0
    for i = 2, 40 do
      assert.are.equal("fine", r.kinds[i], r.errs[i])
      local others = math.tointeger(tonumber(r.values[i][2])) - 1
      if i < 10 then assert.are.equal(0, others) end
      together = math.max(together, others)
    end
    assert.is_true(together > 10) -- the newcomers, who share a worker as ever
    finish(pool)
  end)

  case("is the one that its worker was killed for", function()
    local pool = new_pool({ async = true, max = 1, load = 20, grace = 0.1, retries = 1 }, "serve",
      tine.new():eval(function()
        local worker = require "tine"
        function serve(done, how, ...) -- luacheck: globals serve
          if how == "stubborn" then
            while true do pcall(worker.loop.sleep, 0.01) end
          end
          worker.loop.sleep(tonumber((...)))
          done(how)
        end
      end))
    local r = results()
    for i = 1, 3 do pool:call { args = { "stubborn" }, timeout = 0.1 * i, cb = r.cb(i) } end
    for i = 4, 8 do pool("echo", 0.4, r.cb(i)) end
    r.wait(8)
    for i = 1, 8 do assert.are.equal(i <= 3 and "timeout" or "fine", r.kinds[i], r.errs[i]) end
    finish(pool)
  end)

  case("costs the others their life where nothing is to be tried again", function()
    local pool = new_async { max = 1 }
    local r = results()
    for i = 1, 5 do
      if i == 3 then pool("poison", "outside", r.cb(i)) else pool(i, 60, r.cb(i)) end
    end
    r.wait(5)
    for i = 1, 5 do
      assert.are.equal("crash", r.kinds[i])
      assert.is_nil(r.errs[i].tries)
    end
    finish(pool)
  end)
end)

describe("a timer of a job that has been answered #proc", function()
  case("ends its worker at no cost of those that are open", function()
    local pool, faults = new_pool({ async = true, max = 1, load = 20, retries = 1 }, "serve",
      tine.new():eval(function()
        local worker = require "tine"
        function serve(done, how) -- luacheck: globals serve
          if how == "exit later" then
            worker.loop.timer(0.05, function() os.exit(9) end)
          else
            worker.loop.sleep(0.15)
          end
          done(how)
        end
      end))
    local r = results()
    for i = 1, 5 do pool(i == 3 and "exit later" or "echo", r.cb(i)) end
    r.wait(5)
    for i = 1, 5 do assert.are.equal("fine", r.kinds[i], r.errs[i]) end
    proc.wait_for(function() return #faults == 1 end)
    assert.are.equal(9, faults[1].code)
    assert.is_truthy(only(pool))
    finish(pool)
  end)
end)
