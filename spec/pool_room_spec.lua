-- Pools without a queue, more workers kept than there are CPUs, how times are spread, and what jobs
-- are told that a closed pool cuts off.
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local new_pool, results, finish, gate = pools.new, pools.results, pools.finish, pools.gate

describe("a pool without a queue #proc", function()
  case("rejects a call when all are busy, and takes one again when one is not", function()
    local drained = 0
    local pool = new_pool { max = 2, queue = 0, on_drain = function() drained = drained + 1 end }
    for round = 1, 3 do
      local path, open = gate()
      local r = results()
      for i = 1, 5 do pool("gate", path, i, r.cb(i)) end
      r.wait(3)
      for i = 3, 5 do
        assert.are.equal("rejected", r.kinds[i])
        assert.matches("busy", r.errs[i].message)
      end
      -- Each in a worker of its own, at once.
      proc.wait_for(function()
        local busy = 0
        for _, worker in ipairs(pool:stats().workers) do busy = busy + (worker.job and 1 or 0) end
        return busy == 2
      end)
      pool("echo", "no", r.cb(6))
      r.wait(4)
      assert.are.equal("rejected", r.kinds[6])
      open()
      r.wait(6)
      assert.are.equal("fine", r.kinds[1])
      assert.are.equal("fine", r.kinds[2])
      assert.are.equal("again", pool:await("echo", "again"))
      assert.are.equal(round * 4, pool:stats().rejected)
      proc.wait_for(function() return drained >= round end)
    end
    pool:resize { max = 3 }
    local r = results()
    for i = 1, 4 do pool("sleep", "0.1", r.cb(i)) end
    r.wait(4)
    assert.are.equal("fine", r.kinds[3])
    assert.are.equal("rejected", r.kinds[4])
    finish(pool)
  end)

  case("gives async workers as many calls as load says", function()
    local pool = new_pool({ max = 1, queue = 0, load = 3, async = true }, function(done)
      require("tine").loop.timer(0.2, function() done("x") end)
    end)
    local r = results()
    for i = 1, 5 do pool(r.cb(i)) end
    r.wait(5)
    for i = 1, 5 do assert.are.equal(i <= 3 and "fine" or "rejected", r.kinds[i]) end
    finish(pool)
  end)

  case("has map wait for a worker", function()
    local pool = new_pool { max = 2, queue = 0 }
    local n = 0
    for i, ok, cmd in pool:map(function()
      n = n + 1
      if n <= 100 then return "echo", n end
    end) do
      assert.is_true(ok, cmd)
      assert.are.equal(tostring(i), cmd)
    end
    assert.are.equal(0, pool:stats().rejected)
    finish(pool)
  end)

  case("keeps a job that is tried again", function()
    local path = require("spec.helper").tmpname()
    local pool = new_pool { max = 1, queue = 0, retries = 2 }
    assert.are.equal("at last", pool:await("nth", path, 3, "kill", "KILL"))
    finish(pool)
  end)
end)

describe("idle #proc", function()
  case("above the default of max raises that", function()
    local n = tine.cpus() + 2
    local pool = new_pool { idle = n }
    proc.wait_for(function() return pool:stats().idle == n end)
    assert.has_error(function() new_pool { idle = 3, max = 2 } end)
    finish(pool)
  end)
end)

describe("the spread of times #proc", function()
  case("is told beside the percentiles", function()
    local pool = new_pool { max = 1, load = 1 }
    pool:await("echo", "x")
    local s = pool:stats().run
    assert.are.equal(0, s.stddev)
    pool:await("sleep", "0.2")
    s = pool:stats().run
    -- Of two values it is half of what they are apart.
    assert.is_true(math.abs(s.stddev - (s.max - s.min) / 2) < 1e-6, s.stddev)
    assert.is_true(s.stddev > 0.09)
    finish(pool)
  end)
end)

describe("a pool that is closed with a time limit #proc", function()
  case("tells jobs that were cut off apart from those that never started", function()
    local pool = new_pool { max = 2, start = 0, load = 2 }
    local r = results()
    for i = 1, 9 do pool("sleep", "1000", r.cb(i)) end
    proc.wait_for(function()
      local busy = 0
      for _, worker in ipairs(pool:stats().workers) do busy = busy + (worker.job and 1 or 0) end
      return busy == 2
    end)
    finish(pool, 0.05)
    assert.are.equal(9, r.ended)
    local cut, waited = 0, 0
    for i = 1, 9 do
      assert.are.equal("closed", r.kinds[i])
      if r.errs[i].started then
        cut = cut + 1
        assert.is_truthy(r.errs[i].pid)
      else
        assert.is_false(r.errs[i].started)
        waited = waited + 1
      end
    end
    assert.are.same({ 2, 7 }, { cut, waited })
  end)
end)
