-- Deadlines of jobs, cancelling them, and asking where they are.
local helper = require "spec.helper"
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local new_pool, gate, results, finish, kill, only, running =
  pools.new, pools.gate, pools.results, pools.finish, pools.kill, pools.only, pools.running

describe("deadlines of jobs #proc", function()
  for _, name in ipairs { "spin", "coroutine" } do
    case("raise an error in the job, and the worker lives: " .. name, function()
      local pool, faults = new_pool { max = 1, load = 4, grace = 60 }
      local pid = pool:await("pid")
      local r, began = results(), tine.loop.now()
      pool:call { args = { name }, timeout = 0.15, cb = r.cb(1) }
      pool("echo", 2, r.cb(2))
      r.wait(2)
      assert.is_true(tine.loop.now() - began >= 0.14)
      assert.are.equal("timeout", r.kinds[1])
      assert.matches("traceback", r.errs[1].traceback)
      assert.matches("deep", r.errs[1].traceback)
      assert.are.equal("fine", r.kinds[2])
      assert.are.equal(pid, pool:await("pid"))
      assert.are.equal(1, pool:stats().timeouts)
      assert.are.same({}, faults)
      finish(pool)
    end)
  end

  case("are of one job when it says so, counted from its start", function()
    local pool = new_pool { max = 1, load = 4, timeout = 0.1, grace = 60 }
    local path, open = gate()
    local r = results()
    pool:call { args = { "gate", path, "x" }, timeout = 1000, cb = r.cb(1) }
    -- It waits longer than it may run.
    pool:call { args = { "echo", "y" }, timeout = 1, cb = r.cb(2) }
    running(pool, 2)
    tine.loop.sleep(1.2)
    assert.are.equal(0, r.ended)
    open()
    r.wait(2)
    assert.are.same({ "fine", "fine" }, r.kinds)
    assert.are.equal("timeout", pool("spin").kind)
    finish(pool)
  end)

  case("kill the worker and its children after grace, when it is in C or catches", function()
    for _, name in ipairs { "sleep", "stubborn", "child" } do
      local pool, faults = new_pool { max = 1, load = 4, grace = 0.2 }
      local pid = tonumber(pool:await("pid"))
      local path = helper.tmpname()
      local r, began = results(), tine.loop.now()
      pool:call { args = { name, name == "sleep" and 1000 or path }, timeout = 0.1, cb = r.cb(1) }
      for i = 2, 5 do pool("echo", i, r.cb(i)) end
      r.wait(5)
      assert.is_true(tine.loop.now() - began >= 0.29)
      assert.are.equal("timeout", r.kinds[1])
      assert.are.equal(pid, r.errs[1].pid)
      assert.are.equal(9, r.errs[1].signal)
      for i = 2, 5 do assert.are.equal("fine", r.kinds[i], r.errs[i]) end
      assert.is_false(helper.alive(pid))
      assert.are.same({}, faults)
      assert.are.equal(0, pool:stats().crashed)
      if name == "child" then
        local child = tonumber(proc.text(path))
        proc.wait_for(function() return not helper.alive(child) end)
      end
      finish(pool)
    end
  end)

  case("may be caught by a job that then ends: it has its results", function()
    local pool = new_pool { max = 1, timeout = 0.1, grace = 60 }
    local ok, kind, text = pool:await("catch")
    assert.are.equal("false", ok)
    assert.are.equal("timeout", kind)
    assert.matches("too long", text)
    finish(pool)
  end)

  case("are one for each job: other workers' jobs are untouched", function()
    local pool = new_pool { max = 3, idle = 3, load = 2, start = 0, grace = 0.1 }
    local path, open = gate()
    local r = results()
    proc.wait_for(function() return pool:stats().idle == 3 end)
    pool("gate", path, "x", r.cb(1))
    pool:call { args = { "stubborn" }, timeout = 0.1, cb = r.cb(2) }
    pool:call { args = { "spin" }, timeout = 0.1, cb = r.cb(3) }
    proc.wait_for(function() return r.ended == 2 end)
    assert.are.equal("timeout", r.kinds[2])
    assert.are.equal("timeout", r.kinds[3])
    open()
    r.wait(3)
    assert.are.equal("fine", r.kinds[1])
    finish(pool)
  end)
end)

describe("cancelling #proc", function()
  case("takes back a job that a worker has not started", function()
    local pool = new_pool { max = 1, load = 4 }
    local path, open = gate()
    local r, jobs = results(), {}
    for i = 1, 8 do jobs[i] = pool(i == 1 and "gate" or "count", path, "x", r.cb(i)) end
    running(pool, 4)
    for _, i in ipairs { 2, 4, 7 } do jobs[i]:cancel() end
    r.wait(3) -- although the first still runs
    open()
    r.wait(8)
    assert.are.same({ "fine", "cancelled", "fine", "cancelled", "fine", "fine", "cancelled",
      "fine" }, r.kinds)
    assert.are.equal("4", r.values[8][1]) -- those that were cancelled never ran
    finish(pool)
  end)

  case("raises an error in the one that runs, and the worker lives", function()
    local pool = new_pool { max = 1, load = 4, grace = 60 }
    local pid = tonumber(pool:await("pid"))
    local r = results()
    local job = pool("spin", r.cb(1))
    pool("echo", 2, r.cb(2))
    proc.wait_for(function() return pool:stats().workers[1].job == job:id() end)
    job:cancel()
    job:cancel()
    r.wait(2)
    assert.are.same({ "cancelled", "fine" }, r.kinds)
    assert.are.equal(pid, only(pool))
    finish(pool)
  end)

  case("kills the worker after grace when it is in C", function()
    local pool = new_pool { max = 1, load = 4, grace = 0.1 }
    local pid = tonumber(pool:await("pid"))
    local path = helper.tmpname()
    local r = results()
    local job = pool("child", path, r.cb(1))
    pool("echo", 2, r.cb(2))
    proc.wait_for(function() return proc.text(path) ~= "" end)
    job:cancel()
    r.wait(2)
    assert.are.same({ "cancelled", "fine" }, r.kinds)
    assert.is_false(helper.alive(pid))
    local child = tonumber(proc.text(path))
    proc.wait_for(function() return not helper.alive(child) end)
    finish(pool)
  end)

  case("at any time leaves exactly one end", function()
    local pool = new_pool { max = 2, load = 4, start = 0, grace = 60 }
    local r, jobs, order = results(), {}, {}
    for i = 1, 400 do jobs[i] = pool("echo", i, r.cb(i)) end
    for i = 1, 400 do order[i] = i end
    for i = 400, 2, -1 do
      local k = math.random(i)
      order[i], order[k] = order[k], order[i]
    end
    for i = 1, 400, 4 do
      for k = i, i + 1 do jobs[order[k]]:cancel() end
      tine.loop.sleep(0)
    end
    r.wait(400)
    for i = 1, 400 do
      assert.is_true(r.kinds[i] == "cancelled" or r.values[i][1] == tostring(i), r.errs[i])
    end
    finish(pool)
  end)
end)

describe("pool:traceback #proc", function()
  case("shows what a worker runs", function()
    local pool = new_pool { max = 1, grace = 60 }
    local pid = tonumber(pool:await("pid"))
    assert.matches("nothing runs", pool:traceback(pid))
    local r = results()
    local job = pool("spin", r.cb(1))
    proc.wait_for(function() return pool:stats().workers[1].job end)
    local text
    pool:traceback(pid, function(t) text = t end)
    proc.wait_for(function() return text end)
    assert.matches("deep", text)
    assert.matches("deep", pool:traceback(pid))
    assert.are.equal(0, r.ended)
    job:cancel()
    r.wait(1)
    -- In a coroutine of the job's.
    job = pool("coroutine", r.cb(2))
    proc.wait_for(function() return pool:stats().workers[1].job end)
    assert.matches("deep.*resumed from:.*traceback", pool:traceback(pid))
    job:cancel()
    r.wait(2)
    finish(pool)
  end)

  case("says why not: no such worker, in C, died, closed", function()
    local pool = new_pool { max = 1, grace = 0.1 }
    local pid = tonumber(pool:await("pid"))
    local text, err = pool:traceback(1)
    assert.is_nil(text)
    assert.are.equal("system", err.kind)
    local r = results()
    pool("kill", "STOP", r.cb(1))
    proc.wait_for(function() return proc.stat(pid, 3) == "T" end)
    text, err = pool:traceback(pid)
    assert.is_nil(text)
    assert.are.equal("timeout", err.kind)
    pool:traceback(pid, function(t, e) text, err = t, e end)
    err = nil
    kill(pid)
    proc.wait_for(function() return err end)
    assert.are.equal("closed", err.kind)
    r.wait(1)
    finish(pool)
    text, err = pool:traceback(pid)
    assert.is_nil(text)
    assert.are.equal("closed", err.kind)
  end)
end)
