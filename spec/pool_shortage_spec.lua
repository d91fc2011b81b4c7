-- Pools that cannot have as many workers as they want, and jobs that their workers die of.
local helper = require "spec.helper"
local program = require "spec.host_program"
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)

-- What a program of its own does under a limit: 40 jobs by up to 32 workers. It prints how many
-- were done and failed, and what on_error was told.
local PROGRAM <const> = [[
  local tine = require "tine"
  tine.main(function()
    local faults = {}
    local pool = assert(tine.new():eval("function work(x) os.execute('sleep 0.1') return x end")
      :pool("work", { max = 32, start = 0, on_error = function(err)
        faults[#faults + 1] = err.kind .. " " .. err.errno
      end }))
    local done, failed = 0, 0
    for i = 1, 40 do
      pool(i, function(err) if err then failed = failed + 1 else done = done + 1 end end)
    end
    repeat tine.loop.sleep(0.01) until done + failed == 40
    local stats = pool:stats()
    print(done, failed, stats.broken, table.concat(faults, ", "))
    pool:close()
  end)
]]

local function under(limit, prefix)
  local command = helper.program(helper.write_file(PROGRAM))
  -- Programs that its jobs start may not find room either.
  return (helper.run(("%s sh -c %s 2>/dev/null"):format(prefix or "",
    helper.quote(limit .. "; exec " .. command)), 60))
end

describe("a pool that cannot grow #proc", function()
  it("does with what it has where descriptors are short, and says so once", function()
    for _, n in ipairs { 18, 20, 24 } do
      assert.equal("40\t0\tfalse\tsystem 24\n", under("ulimit -n " .. n), n)
    end
  end)

  it("does so where processes are short", function()
    local as_user, why = program.other_user()
    if as_user == "" then why = "needs root" end
    if why then return pending(why) end
    assert.equal("40\t0\tfalse\tsystem 11\n", under("true", as_user .. "prlimit --nproc=9"))
  end)
end)

describe("jobs that their workers die of #proc", function()
  case("cost themselves, and none that waits, however many in a row", function()
    for _, retries in ipairs { 0, 1 } do
      local pool, faults = pools.new { max = 4, start = 0, retries = retries, idle = 1 }
      local good, bad = 0, {}
      local function count(err)
        if err then bad[#bad + 1] = err else good = good + 1 end
      end
      for _ = 1, 50 do pool("echo", "x", count) end
      for _ = 1, 12 do pool("exit", 1, count) end
      for _ = 1, 500 do pool("echo", "x", count) end
      proc.wait_for(function() return good + #bad == 562 end)
      assert.equal(550, good)
      assert.equal(12, #bad)
      for _, err in ipairs(bad) do
        assert.equal("crash", err.kind)
        assert.matches("exited with code 1", err.message)
      end
      assert.same({}, faults)
      assert.is_false(pool:stats().broken)
      pools.finish(pool)
    end
  end)

  case("killed from outside on fresh workers leave the others alone", function()
    local pool = pools.new { max = 1, load = 2 }
    local failed, done = 0, 0
    for i = 1, 40 do
      pool("sleep", i <= 12 and 1000 or 0, function(err)
        if err then
          failed = failed + 1
          assert(err.signal == 9, err)
        else
          done = done + 1
        end
      end)
    end
    for round = 1, 12 do
      local pid
      proc.wait_for(function()
        local worker = pool:stats().workers[1]
        pid = worker and worker.job and worker.pid
        return pid and failed == round - 1
      end)
      os.execute("kill -KILL " .. pid)
      proc.wait_for(function() return failed == round end)
    end
    proc.wait_for(function() return done == 28 end)
    assert.equal(12, failed)
    pools.finish(pool)
  end)
end)

describe("workers that are killed from outside before their first job #proc", function()
  case("come again, and do what comes", function()
    local pool, faults = pools.new { max = 1, idle = 1 }
    local before
    local function fresh()
      before = proc.wait_for(function()
        local worker = pool:stats().workers[1]
        return worker and worker.state ~= "starting" and worker.pid ~= before and worker.pid
      end)
      return before
    end
    for _ = 1, 6 do pools.kill(fresh()) end
    -- This one has been handed calls, and has not begun.
    pools.kill(fresh(), "STOP")
    local r = pools.results()
    for i = 1, 10 do pool("echo", "x", r.cb(i)) end
    pools.running(pool, 2)
    pools.kill(before)
    r.wait(10)
    for i = 1, 10 do assert.equal("fine", r.kinds[i], r.errs[i]) end
    assert.is_false(pool:stats().broken)
    assert.is_true(#faults >= 6) -- each is told; the last may be on its way
    pools.finish(pool)
  end)
end)

describe("a broken pool #proc", function()
  case("tries again, and takes all calls when one worker has come up", function()
    local gate = helper.tmpname()
    local pool = pools.new({ max = 3, start = 0, init = function(path)
      assert(io.open(path), "not yet"):close()
    end }, nil, tine.new():eval(pools.prepare):send_arg(gate))
    local err = pool("echo", "x")
    assert.matches("cannot make workers: 5 in a row.*not yet", err.message)
    assert.is_true(pool:stats().broken)
    helper.run("touch " .. gate)
    local done, refused = 0, 0
    proc.wait_for(function()
      for _ = 1, 10 do
        pool("echo", "x", function(e) if e then refused = refused + 1 else done = done + 1 end end)
      end
      tine.loop.sleep(0.01)
      return done > 20
    end)
    assert.is_false(pool:stats().broken)
    pools.finish(pool)
  end)
end)
