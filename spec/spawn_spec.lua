-- The time that a worker may take until it is ready: what counts and what does not.
local helper = require "spec.helper"
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local new_pool, finish = pools.new, pools.finish

local PATIENCE <const> = 0.2

-- A template that loads something for longer than a worker may take.
local function slow_template()
  local path, open = pools.gate()
  tine.loop.timer(3 * PATIENCE, open)
  return tine.new():eval(pools.prepare):eval("while not io.open(...) do end", path)
end

-- The host does not run its loop for as long.
local function be_busy()
  assert(os.execute(("sleep %g"):format(3 * PATIENCE)))
end

describe("spawn_timeout #proc", function()
  case("does not run while a pool's template loads", function()
    local pool, faults = new_pool({ max = 2, start = 0, spawn_timeout = PATIENCE }, nil,
      slow_template())
    for i = 1, 4 do assert.are.equal(tostring(i), pool:await("echo", i)) end
    assert.are.equal(0, pool:stats().crashed)
    assert.are.same({}, faults)
    finish(pool)
  end)

  case("does not run while the process of an rpc loads", function()
    local rpc = slow_template():rpc("work", { spawn_timeout = PATIENCE })
    assert.are.equal("x", rpc:await("echo", "x"))
    rpc:close()
  end)

  case("does not run while the template of a reload loads", function()
    local pool = new_pool { max = 1, spawn_timeout = PATIENCE }
    local pid = pool:await("pid")
    assert.is_true(pool:reload(slow_template()))
    assert.are_not.equal(pid, pool:await("pid"))
    finish(pool)
  end)

  -- From where on the host is away from its loop: before it has heard that a worker is there,
  -- and after.
  for name, known in pairs {
    ["all the time"] = function() return true end,
    ["after it was made"] = function(worker) return worker.pid end,
  } do
    case("asks a worker again whose host was busy " .. name, function()
      local pool, faults = new_pool { max = 1, spawn_timeout = PATIENCE,
        init = function() for i = 1, 1e6 do math.abs(i) end end }
      local r = pools.results()
      for i = 1, 10 do pool("echo", i, r.cb(i)) end
      proc.wait_for(function()
        local worker = pool:stats().workers[1]
        return worker and known(worker)
      end)
      be_busy()
      r.wait(10)
      for i = 1, 10 do assert.are.equal("fine", r.kinds[i], r.errs[i]) end
      assert.are.equal(1, pool:stats().started)
      assert.are.same({}, faults)
      finish(pool)
    end)
  end

  case("does not hide from a busy host how a worker has ended", function()
    local rpc = tine.new_exec():rpc("print", { spawn_timeout = PATIENCE,
      init = function() os.exit(7) end, on_error = function() end })
    proc.wait_for(function() return rpc:pid() end)
    be_busy()
    local err = rpc()
    assert.matches("code 7", err.message)
    rpc:close()
  end)

  case("runs while init does, also after a slow template", function()
    local path, open = pools.gate()
    tine.loop.timer(3 * PATIENCE, open)
    local rpc = tine.new():eval("while not io.open(...) do end", path):rpc("print", {
      spawn_timeout = PATIENCE, init = function() while true do end end,
      on_error = function() end,
    })
    local began = tine.loop.now()
    local err = rpc("x")
    assert.matches("not ready within 0.2 s", err.message)
    assert.is_true(tine.loop.now() - began > 4 * PATIENCE - 0.05)
    rpc:close()
  end)

  case("runs for a worker that does not come to init", function()
    local p = tine.new()
    local pid = p:await_ready()
    pools.kill(pid, "STOP")
    proc.wait_for(function() return proc.stat(pid, 3) == "T" end)
    local rpc = p:rpc("print", { spawn_timeout = PATIENCE, on_error = function() end })
    local err = rpc("x")
    assert.matches("not ready within 0.2 s", err.message)
    proc.wait_for(function() return not helper.alive(pid) end)
    rpc:close()
  end)
end)
