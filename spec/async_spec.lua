-- Async workers whose jobs are stopped, asked about, and print, while others wait.
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local new_pool, results, finish = pools.new, pools.results, pools.finish

-- What a job here may do beside those of pools.prepare: each says so in an event first.
local function prepare()
  local worker = require "tine"
  local before = async -- luacheck: globals async

  local function spin()
    while true do end
  end

  local function say(name)
    worker.event(name)
    worker.flush()
  end

  function async(done, name, ...) -- luacheck: globals async
    if name == "spin loudly" then
      say(name)
      spin()
    elseif name == "sleep, then spin" then
      worker.loop.sleep(0.01)
      say(name)
      spin()
    else
      before(done, name, ...)
    end
  end
end

local function new_async(options)
  local seen = {}
  options.async, options.max, options.load = true, 1, options.load or 100
  options.on_event = function(name) seen[name] = true end
  local pool, faults = new_pool(options, "async", tine.new():eval(pools.prepare):eval(prepare))
  return pool, seen, faults
end

describe("stopping jobs of an async worker #proc", function()
  for _, name in ipairs { "spin loudly", "sleep, then spin" } do
    case("interrupts the one whose code runs, whatever else is stopped: " .. name, function()
      local pool, seen = new_async { grace = 20 }
      local pid = pool:await("pid")
      local r = results()
      pool("later", 0.5, "x", r.cb(1))
      local later = pool("later", 60, "y", r.cb(2))
      local spin = pool(name, r.cb(3))
      proc.wait_for(function() return seen[name] end)
      local began = tine.loop.now()
      spin:cancel()
      later:cancel()
      r.wait(3)
      assert.is_true(tine.loop.now() - began < 10)
      assert.are.same({ "fine", "cancelled", "cancelled" }, r.kinds)
      assert.matches("spin", r.errs[3].traceback)
      assert.are.equal(pid, pool:await("pid"))
      finish(pool)
    end)
  end

  case("interrupts one that goes on after it was stopped", function()
    local pool, seen = new_async { grace = 20 }
    local r, jobs = results(), {}
    local pid = pool:await("pid")
    -- The first keeps the loop, so that the others cannot be told; then they go on.
    for i = 1, 3 do jobs[i] = pool("sleep, then spin", r.cb(i)) end
    proc.wait_for(function() return seen["sleep, then spin"] end)
    for i = 3, 1, -1 do jobs[i]:cancel() end
    r.wait(3)
    assert.are.same({ "cancelled", "cancelled", "cancelled" }, r.kinds)
    assert.are.equal(pid, pool:await("pid"))
    finish(pool)
  end)
end)
