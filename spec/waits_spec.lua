-- Waits with an end: jobs that are asked and awaited, deadlines, coroutines that are cancelled.
local helper = require "spec.helper"
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)

describe("a job #proc", function()
  case("can be asked whether it runs, or is done", function()
    local pool = pools.new { max = 1, load = 2 }
    local path, open = pools.gate()
    local results = {}
    local first = pool("gate", path, "x", function(...) results[1] = { ... } end)
    local second = pool("echo", "y", function(...) results[2] = { ... } end)
    proc.wait_for(function() return first:running() end)
    assert.is_false(first:done())
    assert.is_false(second:running())
    assert.is_false(second:done())
    open()
    proc.wait_for(function() return #results == 2 end)
    assert.is_true(first:done() and second:done())
    assert.is_false(first:running() or second:running())
    pools.finish(pool)
  end)

  case("can be awaited, by many, beside its callback", function()
    local pool = pools.new { max = 1, load = 2 }
    local path, open = pools.gate()
    local order, got = {}, {}
    local job = pool("gate", path, "x", function(err, x) order[#order + 1] = err or x end)
    local failing = pool("fail", "no luck", function(err) order[#order + 1] = err.message end)
    for i = 1, 3 do
      tine.go(function() got[i] = job:await() end)
    end
    local ok, err = pcall(job.await, job, 0.02)
    assert.is_false(ok)
    assert.equal("timeout", err.kind)
    assert.is_false(job:done()) -- it goes on
    open()
    assert.equal("x", (job:await(10)))
    assert.equal("x", order[1])
    ok, err = pcall(failing.await, failing)
    if not ok and type(err) == "string" then -- it had ended by then
      assert.matches("the job has ended", err)
    else
      assert.is_false(ok)
      assert.matches("no luck", err.message)
    end
    proc.wait_for(function() return #got == 3 and #order == 2 end)
    assert.same({ "x", "x", "x" }, got)
    ok, err = pcall(function() local r = job:await() return r end)
    assert.is_false(ok)
    assert.matches("waits_spec.lua.*await: the job has ended, and its results went", err)
    pools.finish(pool)
  end)
end)

describe("tine.timeout #proc", function()
  case("ends what waits longer, whatever it is, and closes what it has open", function()
    local pool = pools.new { max = 1 }
    local a, b = tine.socketpair()
    local closed = 0
    local function with_close(fn)
      return function(...)
        local _ <close> = setmetatable({}, { __close = function() closed = closed + 1 end })
        return fn(...)
      end
    end
    local waits = {
      function() tine.loop.sleep(1000) end,
      function() return a:read_line() end,
      function() local r = pool:await("sleep", 0.3) return r end,
      function() tine.go(function() tine.loop.sleep(0.3) end):await() end,
    }
    for i, wait in ipairs(waits) do
      local ok, err = tine.timeout(0.02, with_close(wait))
      assert.is_nil(ok, i)
      assert.equal("timeout", err.kind)
      assert.equal(i, closed)
    end
    -- What comes after has its own answers.
    b:write("late\n")
    assert.equal("late", a:read_line())
    assert.equal("x", pool:await("echo", "x"))
    assert.same({ 1, nil, 3, n = 3 }, table.pack(tine.timeout(10, function() return 1, nil, 3 end)))
    assert.equal("mine", select(2, pcall(tine.timeout, 10, error, "mine", 0)))
    -- The inner one is the inner one's.
    local inner
    local outer = tine.timeout(10, function()
      inner = select(2, tine.timeout(0.01, tine.loop.sleep, 1000))
      return "goes on"
    end)
    assert.equal("timeout", inner.kind)
    assert.equal("goes on", outer)
    a:close()
    b:close()
    pools.finish(pool)
  end)

  it("is for tasks only", function()
    assert.has_error(function() tine.timeout(1, print) end,
      "timeout: only inside of tine.go or tine.main")
  end)
end)

describe("a coroutine of tine.go #proc", function()
  it("can be cancelled where it waits, quietly", function()
    helper.no_leaks(function()
      tine.main(function()
        local closed
        local quiet = tine.go(function()
          local _ <close> = setmetatable({}, { __close = function(_, err) closed = err.kind end })
          tine.loop.sleep(1000)
        end)
        quiet:cancel()
        assert.equal("cancelled", closed)
        local ok, err = pcall(quiet.await, quiet)
        assert.is_false(ok)
        assert.equal("cancelled", err.kind)
        quiet:cancel() -- it has ended: nothing
        -- One that catches it goes on, and is told when it is cancelled again.
        local stubborn = tine.go(function()
          local caught = select(2, pcall(tine.loop.sleep, 1000))
          tine.loop.sleep(0.01)
          return caught.kind
        end)
        stubborn:cancel()
        assert.equal("cancelled", stubborn:await())
        local done = tine.go(function() return 5 end)
        done:cancel()
        assert.equal(5, done:await())
      end)
    end)
  end)
end)
