-- Pools whose templates die or are no good, and workers that are replaced.
local helper = require "spec.helper"
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local new_pool, gate, results, finish, kill, running =
  pools.new, pools.gate, pools.results, pools.finish, pools.kill, pools.running

-- Whether there is a spare template.
local function spare()
  for _, pid in ipairs(helper.descendants()) do
    if helper.title(pid):find("spare") then return true end
  end
end

describe("the template of a pool #proc", function()
  case("may be killed with jobs queued: a spare takes over", function()
    local template = tine.new():eval(pools.prepare)
    local pool = new_pool({ max = 2, load = 2, start = 0 }, nil, template)
    local r, held, total = results(), results(), 600
    -- Both workers are in a job when the template is killed: these two go with it, and no other.
    local path = gate()
    for i = 1, 2 do pool("gate", path, held.cb(i)) end
    proc.wait_for(function()
      local workers = pool:stats().workers
      return #workers == 2 and workers[1].job and workers[2].job
    end)
    for i = 1, total do pool(i % 100 == 0 and "kill" or "echo", i % 100 == 0 and "KILL" or i,
      r.cb(i)) end
    proc.wait_for(spare)
    assert.are.equal(0, r.ended)
    kill(template:pid())
    r.wait(total)
    for i = 1, 2 do assert.are.equal("crash", held.kinds[i], held.errs[i]) end
    for i = 1, total do
      if i % 100 == 0 then
        assert.are.equal("crash", r.kinds[i], r.errs[i])
      else
        assert.are.equal("fine", r.kinds[i], r.errs[i])
      end
    end
    -- It goes on: with the spare's own spare, too.
    for _, worker in ipairs(pool:stats().workers) do
      if worker.pid then kill(worker.pid) end
    end
    assert.are.equal("x", pool:await("echo", "x"))
    assert.is_false(pool:stats().broken)
    finish(pool)
  end)

  case("killed before there is a spare fails the calls, each once", function()
    local template = tine.new():eval(pools.prepare)
    assert.is_truthy(template:await_ready())
    local pool = new_pool({ max = 2, start = 0 }, nil, template)
    local r = results()
    for i = 1, 20 do pool("echo", i, r.cb(i)) end
    template:kill("KILL")
    r.wait(20)
    for i = 1, 20 do
      if r.errs[i] then
        assert.are.equal("closed", r.kinds[i], r.errs[i])
        assert.matches("template", r.errs[i].message)
      end
    end
    finish(pool)
  end)

  case("killed while workers work costs at most what they run: they go with it", function()
    local template = tine.new():eval(pools.prepare)
    local pool = new_pool({ max = 2, idle = 2, start = 0 }, nil, template)
    local path, open = pools.gate()
    local r = results()
    for i = 1, 4 do pool("gate", path, i, r.cb(i)) end
    proc.wait_for(function() return pool:stats().busy == 2 and spare() end)
    kill(template:pid())
    proc.wait_for(function() return not helper.alive(template:pid() or 0) end)
    open()
    r.wait(4)
    local lost = 0
    for i = 1, 4 do
      if r.kinds[i] ~= "fine" then
        assert.are.equal("crash", r.kinds[i])
        lost = lost + 1
      end
    end
    assert.is_true(lost <= 2)
    finish(pool)
  end)

  -- A closed pool with jobs to do, whose template is killed. Returns what the jobs got.
  local function killed_when_closed(spared)
    local template = tine.new():eval(pools.prepare)
    local pid = template:await_ready()
    local pool = new_pool({ max = 1, load = 2 }, nil, template)
    local path, open = gate()
    local r = results()
    if spared then
      assert.are.equal("x", pool:await("echo", "x"))
      proc.wait_for(spare)
    end
    pool("gate", path, "x", r.cb(1))
    for i = 2, 6 do pool("echo", i, r.cb(i)) end
    if spared then proc.wait_for(function() return pool:stats().workers[1].job end) end
    local gone
    pool:close(function() gone = true end)
    kill(pid)
    proc.wait_for(function() return not helper.alive(pid) end)
    open()
    r.wait(6)
    proc.wait_for(function() return gone end)
    return r
  end

  case("killed while a closed pool drains is replaced by the spare, too", function()
    local r = killed_when_closed(true)
    assert.are.equal("crash", r.kinds[1])
    for i = 2, 6 do assert.are.equal(tostring(i), r.values[i][1], r.errs[i]) end
  end)

  case("killed while a closed pool drains is named as the cause where there is no spare", function()
    local r = killed_when_closed(false)
    for i = 1, 6 do
      assert.are.equal("closed", r.kinds[i], r.errs[i])
      assert.matches("the pool's template has ended: .*signal 9", r.errs[i].message)
    end
  end)

  case("that fails before the first worker fails the calls with the cause", function()
    local pool, faults = new_pool({ max = 2 }, nil, tine.new():eval("error('no such luck', 0)"))
    local r = results()
    for i = 1, 5 do pool("echo", i, r.cb(i)) end
    r.wait(5)
    for i = 1, 5 do
      assert.matches("no such luck", r.errs[i].message)
      assert.are.equal("exception", r.kinds[i])
    end
    assert.is_true(pool:stats().broken)
    assert.matches("no such luck", pool("echo", "x").message)
    assert.is_true(#faults <= 1)
    finish(pool)
  end)

  case("without the entry function is found out, not tried for ever", function()
    local pool, faults = new_pool({ max = 2, start = 0 }, "no.such.fn")
    local r = results()
    for i = 1, 20 do pool("echo", i, r.cb(i)) end
    r.wait(20)
    for i = 1, 20 do
      assert.matches("no%.such", r.errs[i].message)
      assert.are.equal("exception", r.kinds[i])
    end
    local stats = pool:stats()
    assert.is_true(stats.broken)
    assert.is_true(stats.started >= 5 and stats.started <= 7, tostring(stats.started))
    assert.are.equal(1, #faults) -- once for all
    local began = tine.loop.now()
    assert.matches("no%.such", pool("echo", "x").message) -- at once
    assert.is_true(tine.loop.now() - began < 0.9)
    finish(pool)
  end)

  case("whose init raises fails the calls with its message and traceback", function()
    local pool = new_pool { max = 1, init = function() error("init is out of order", 0) end }
    local err = pool("echo", "x")
    assert.are.equal("exception", err.kind)
    assert.matches("init is out of order", err.message)
    assert.matches("traceback", err.traceback)
    assert.matches("5 in a row", err.message)
    finish(pool)
  end)

  case("whose init hangs is given up after spawn_timeout", function()
    local pool, faults = new_pool {
      max = 1, spawn_timeout = 0.1, init = function() while true do end end,
    }
    local err = pool("echo", "x")
    assert.are.equal("timeout", err.kind)
    assert.matches("not ready within 0.1", err.message)
    assert.are.equal(1, #faults) -- once for all
    assert.are.equal(0, #pool:stats().workers)
    finish(pool)
  end)

  case("whose workers all die at once is given up, and mends when they do not", function()
    local path, open = gate()
    local pool = new_pool({ max = 1, init = function(name)
      local f = io.open(name)
      if not f then os.execute("kill -KILL $PPID") end
      f:close()
    end }, nil, tine.new():eval(pools.prepare):send_arg(path))
    local err = pool("echo", "x")
    assert.are.equal("closed", err.kind) -- it has not crashed: it never started
    assert.matches("cannot make workers: 5 in a row.*signal 9", err.message)
    assert.is_true(err.broken)
    assert.is_true(pool:stats().broken)
    open()
    proc.wait_for(function() return pool("echo", "x") == nil end)
    assert.is_false(pool:stats().broken)
    finish(pool)
  end)

  -- One that waits in the worker behind the job that kills it, and is cancelled there.
  case("whose workers all die of their jobs is not given up", function()
    local pool = new_pool({ max = 1, load = 2, start = 0 }, function(path)
      local f
      repeat f = io.open(path) until f
      os.exit(3)
    end)
    for round = 1, 5 do
      local path, open = gate()
      local r = results()
      pool(path, r.cb(1))
      local job = pool:call { args = { path }, cb = r.cb(2) }
      running(pool, 2)
      proc.wait_for(function() return pool:stats().workers[1].job end)
      job:cancel()
      r.wait(1)
      assert.are.equal("cancelled", r.kinds[2])
      open()
      r.wait(2)
      assert.are.equal("crash", r.kinds[1])
      proc.wait_for(function() return pool:stats().crashed == round end)
    end
    assert.is_false(pool:stats().broken)
    finish(pool)
  end)
end)

describe("recycling #proc", function()
  -- Makes jobs all the time until `enough`; none may fail.
  local function keep_busy(pool, name, enough, ...)
    local ended, under_way, n = 0, 0, 0
    local pids = {}
    local args = { name, ... }
    while not enough(pids, ended) do
      while under_way < 8 do
        under_way = under_way + 1
        pool:call { args = args, cb = function(err, a, b)
          assert(not err, err)
          local pid = b or a
          if not pids[pid] then n = n + 1 end
          pids[pid] = (pids[pid] or 0) + 1
          ended, under_way = ended + 1, under_way - 1
        end }
      end
      tine.loop.sleep(0)
    end
    proc.wait_for(function() return under_way == 0 end)
    return n, ended, pids
  end

  local function workers(pids)
    local count = 0
    for _ in pairs(pids) do count = count + 1 end
    return count
  end

  case("by max_jobs refuses no job", function()
    local pool, faults = new_pool { max = 2, load = 2, max_jobs = 40, start = 0 }
    -- Up to an eighth fewer, so that not all go at once; never more.
    local n, ended, pids = keep_busy(pool, "count", function(seen) return workers(seen) >= 12 end)
    assert.is_true(ended >= (n - 3) * 35)
    for _, jobs in pairs(pids) do assert.is_true(jobs <= 40, jobs) end
    local stats = pool:stats()
    assert.is_true(stats.recycled >= 8)
    assert.are.equal(0, stats.failed)
    assert.are.equal(0, stats.crashed)
    assert.are.same({}, faults)
    finish(pool)
  end)

  case("by max_jobs is exact, also when all is queued and the pool closed", function()
    for _, load in ipairs { 1, 2, 64 } do
      for _, max in ipairs { 1, 3 } do
        local pool = new_pool { max = max, load = load, max_jobs = 1, start = 0 }
        local r, pids = results(), {}
        for i = 1, 20 do
          local cb = r.cb(i)
          pool("count", function(err, a, b)
            pids[i] = b or a
            cb(err)
          end)
        end
        pool:close()
        r.wait(20)
        local seen = {}
        for i = 1, 20 do
          assert.is_nil(r.errs[i])
          assert.is_nil(seen[pids[i]], "two jobs in one process")
          seen[pids[i]] = true
        end
      end
    end
  end)

  case("by max_rss holds after close()", function()
    local pool = new_pool { max = 1, max_rss = 60 << 20 }
    local r, pids = results(), {}
    for i = 1, 24 do
      local cb = r.cb(i)
      pool("grow", 8 << 20, function(err, a, b)
        pids[b or a] = true
        cb(err)
      end)
    end
    pool:close()
    r.wait(24)
    assert.is_true(workers(pids) >= 3, workers(pids))
  end)

  case("by tine.retire keeps max, however early in a job it is called", function()
    local pool = new_pool({ max = 2, start = 0, load = 1 }, function()
      local worker = require "tine"
      worker.retire()
      worker.flush()
      os.execute("sleep 0.05")
    end)
    local r, most = results(), 0
    for i = 1, 20 do pool(i, r.cb(i)) end
    repeat
      local stats, n = pool:stats(), 0
      for _, worker in ipairs(stats.workers) do
        n = n + (worker.state == "stopping" and 0 or 1) -- that one has nothing left to do
      end
      most = math.max(most, n)
      tine.loop.sleep(0.002)
    until stats.done == 20
    assert.is_true(most <= 3, most)
    finish(pool)
  end)

  case("by max_jobs counts no job that was cancelled before it started", function()
    local pool = new_pool { max = 1, load = 2, max_jobs = 3 }
    local path, open = gate()
    local r = results()
    pool("gate", path, "x", r.cb(0))
    proc.wait_for(function()
      local worker = pool:stats().workers[1]
      return worker and worker.job
    end)
    for i = 1, 5 do
      local job = pool:call { args = { "echo" }, cb = r.cb(i) }
      running(pool, 2)
      job:cancel()
      r.wait(i)
      assert.are.equal("cancelled", r.kinds[i])
    end
    open()
    r.wait(6)
    assert.are.equal(1, pool:stats().workers[1].jobs)
    assert.are.equal(0, pool:stats().recycled)
    finish(pool)
  end)

  case("by max_age", function()
    local pool = new_pool { max = 2, max_age = 0.15, start = 0 }
    local n = keep_busy(pool, "count", function(pids) return workers(pids) >= 5 end)
    assert.is_true(n >= 5)
    assert.are.equal(0, pool:stats().failed)
    finish(pool)
  end)

  case("by max_rss", function()
    local pool = new_pool { max = 1, max_rss = 100 << 20 }
    local n = keep_busy(pool, "grow", function(pids) return workers(pids) >= 3 end, 1 << 20)
    assert.is_true(n >= 3)
    assert.are.equal(0, pool:stats().failed)
    finish(pool)
  end)

  case("by tine.retire in the worker, which finishes what it has", function()
    local pool, faults = new_pool { max = 1, load = 4 }
    local pid = pool:await("pid")
    local r = results()
    pool("retire", r.cb(1))
    for i = 2, 8 do pool("echo", i, r.cb(i)) end
    r.wait(8)
    for i = 1, 8 do assert.are.equal("fine", r.kinds[i], r.errs[i]) end
    assert.are_not.equal(pid, pool:await("pid"))
    proc.wait_for(function() return not helper.alive(tonumber(pid)) end)
    assert.are.equal(1, pool:stats().recycled)
    assert.are.same({}, faults)
    finish(pool)
  end)
end)

describe("pool:reload #proc", function()
  local function version(n)
    return tine.new():eval("local n = ... function work(what) if what == 'die' then os.exit(9) end "
      .. "return n end", n)
  end

  case("takes new workers from the new template, old ones finish what they have", function()
    local pool = new_pool({ max = 2, idle = 2, load = 2, start = 0 }, nil, version(1))
    local r = results()
    for i = 1, 50 do pool("x", r.cb(i)) end
    assert.is_true(pool:reload(version(2)))
    for i = 51, 100 do pool("x", r.cb(i)) end
    r.wait(100)
    for i = 1, 100 do assert.are.equal("fine", r.kinds[i], r.errs[i]) end
    proc.wait_for(function()
      for _, worker in ipairs(pool:stats().workers) do
        if worker.generation ~= 1 then return false end
      end
      return true
    end)
    for _ = 1, 10 do assert.are.equal("2", pool:await("x")) end
    assert.are.equal(0, pool:stats().crashed)
    assert.is_true(pool:reload(version(3)))
    proc.wait_for(function() return pool:await("x") == "3" end)
    finish(pool)
  end)

  case("keeps the old template when the new one fails, and says why", function()
    local pool = new_pool({ max = 2, load = 2 }, nil, version(1))
    pool:await("x")
    for _, template in ipairs {
      tine.new():eval("error('bad reload', 0)"), tine.new():eval("function other() end"),
      tine.new():eval("os.exit(7)"),
    } do
      local ok, err = pool:reload(template)
      assert.is_nil(ok)
      assert.is_truthy(err.kind)
      assert.is_truthy(#err.message > 0)
      assert.are.equal("1", pool:await("x"))
    end
    assert.are.equal(0, pool:stats().workers[1].generation)
    finish(pool)
  end)

  case("is one at a time, consumes the template, and is told when the pool closes", function()
    local pool = new_pool({ max = 1 }, nil, version(1))
    local slow = tine.new():eval("os.execute('sleep 0.3') function work() return 2 end")
    local first, second
    pool:reload(slow, function(ok, err) first = { ok, err } end)
    proc.assert_blames("consumed", function() slow:eval("x = 1") end)
    local other = version(3)
    pool:reload(other, function(ok, err) second = { ok, err } end)
    proc.wait_for(function() return second end)
    assert.is_nil(second[1])
    assert.are.equal("system", second[2].kind)
    assert.matches("under way", second[2].message)
    other:close()
    assert.is_nil(first)
    finish(pool)
    proc.wait_for(function() return first end)
    assert.is_nil(first[1])
    assert.are.equal("closed", first[2].kind)
  end)

  case("of a closed pool fails, and leaves the template to its owner", function()
    local pool = new_pool({ max = 1 }, nil, version(1))
    local other = version(2)
    pool:close()
    local ok, err = pool:reload(other)
    assert.is_nil(ok)
    assert.are.equal("closed", err.kind)
    local good <close> = new_pool({ max = 1 }, nil, other)
    assert.are.equal("2", good:await("x"))
  end)

  case("mends a pool that could make no workers", function()
    for _, broken in ipairs { "error('bad', 0)", "function other() end" } do
      local pool = new_pool({ max = 1 }, nil, tine.new():eval(broken))
      assert.is_truthy(pool("x"))
      assert.is_true(pool:stats().broken)
      assert.is_true(pool:reload(version(2)))
      assert.are.equal("2", pool:await("x"))
      assert.is_false(pool:stats().broken)
      finish(pool)
    end
  end)

  case("outlives the death of the old template", function()
    local old = version(1)
    local pool = new_pool({ max = 1 }, nil, old)
    pool:await("x")
    assert.is_true(pool:reload(version(2)))
    if old:pid() then old:kill("KILL") end
    assert.are.equal("crash", pool("die").kind)
    assert.are.equal("2", pool:await("x"))
    finish(pool)
  end)
end)
