-- Pools whose workers are killed or misbehave: what a job gets then, and that it is this job only.
local helper = require "spec.helper"
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local new_pool, gate, results, finish, kill, only, running, rss =
  pools.new, pools.gate, pools.results, pools.finish, pools.kill, pools.only,
  pools.running, pools.rss

describe("a worker of a pool that is killed #proc", function()
  case("before it reads a job costs nothing", function()
    local pool, faults = new_pool { max = 1, load = 4 }
    local r = results()
    local pid = pool:await("pid")
    kill(pid, "STOP")
    proc.wait_for(function() return proc.stat(math.tointeger(tonumber(pid)), 3) == "T" end)
    for i = 1, 6 do pool("echo", i, r.cb(i)) end
    running(pool, 4)
    tine.loop.sleep(0)
    kill(pid)
    r.wait(6)
    for i = 1, 6 do assert.are.equal(tostring(i), r.values[i][1], r.errs[i]) end
    local stats = pool:stats()
    assert.are.equal(1, stats.crashed)
    assert.are.equal(0, stats.failed)
    assert.are.equal(1, #faults)
    assert.are.equal("crash", faults[1].kind)
    finish(pool)
  end)

  case("while a job runs fails that job with \"crash\", and no other", function()
    local pool, faults = new_pool { max = 2, load = 4 }
    local r = results()
    for i = 1, 40 do
      local dies = i % 8 == 5
      pool(dies and "kill" or "echo", dies and "KILL" or i, r.cb(i))
    end
    r.wait(40)
    for i = 1, 40 do
      if i % 8 == 5 then
        assert.are.equal("crash", r.kinds[i])
        assert.are.equal(9, r.errs[i].signal)
        assert.is_truthy(r.errs[i].pid)
        assert.is_truthy(r.errs[i].status)
        assert.matches("signal 9.*while the job ran", r.errs[i].message)
      else
        assert.are.equal(tostring(i), r.values[i][1], r.errs[i])
      end
    end
    assert.are.equal(5, pool:stats().crashed)
    assert.are.same({}, faults) -- the jobs were told
    finish(pool)
  end)

  case("after it has answered loses no answer", function()
    -- The shell that kills is there already, so that it is quicker than the worker's flush.
    local pool = new_pool({ max = 1, load = 16, init = function()
      local shell = io.popen("while read -r pid; do kill -KILL $pid; done", "w")
      local f <close> = io.open("/proc/self/stat")
      local pid = f:read("n")
      function work(n, dies) -- luacheck: globals work
        if dies == "yes" then
          shell:write(pid, "\n")
          shell:flush()
          while true do end
        end
        return n
      end
    end })
    local r = results()
    for i = 1, 300 do pool(i, i % 15 == 0 and "yes" or "no", r.cb(i)) end
    r.wait(300)
    for i = 1, 300 do
      if i % 15 == 0 then
        assert.are.equal("crash", r.kinds[i])
      else
        assert.are.equal(tostring(i), r.values[i][1], r.errs[i])
      end
    end
    finish(pool)
  end)

  case("gives the jobs it had not started to others, in order", function()
    local pool = new_pool { max = 1, load = 6 }
    local path = gate()
    local r, order = results(), {}
    pool("gate", path, "x", r.cb(1))
    for i = 2, 12 do
      pool("echo", i, function(err)
        assert(not err, err)
        order[#order + 1] = i
      end)
    end
    running(pool, 6)
    proc.wait_for(function() return pool:stats().workers[1].job end)
    kill(only(pool))
    proc.wait_for(function() return #order == 11 end)
    assert.are.equal("crash", r.kinds[1])
    for i = 2, 12 do assert.are.equal(i, order[i - 1]) end
    finish(pool)
  end)

  case("while it is idle is told to on_error, and replaced", function()
    local pool, faults = new_pool { max = 1, idle = 1 }
    local pid = pool:await("pid")
    kill(pid)
    proc.wait_for(function() return #faults == 1 end)
    assert.are.equal("crash", faults[1].kind)
    assert.are_not.equal(pid, pool:await("pid"))
    finish(pool)
  end)

  case("in the middle of an answer of 64 MB has its job failed, or the whole answer", function()
    local pool = new_pool({ max = 1, load = 2 }, function(n) return ("x"):rep(n) end)
    local r = results()
    local size = 64 << 20
    pool(1, r.cb(1))
    r.wait(1)
    local pid = only(pool)
    pool(size, r.cb(2))
    pool(5, r.cb(3))
    proc.wait_for(function() return rss(pid) > size end)
    kill(pid)
    r.wait(3)
    assert.is_true(r.kinds[2] == "crash" or #r.values[2][1] == size)
    assert.are.equal("xxxxx", r.values[3][1])
    finish(pool)
  end)

  case("with all others at once: each loses the job it ran", function()
    local pool = new_pool { max = 4, load = 1, start = 0 }
    local path, open = gate()
    local r = results()
    for i = 1, 8 do pool("gate", path, i, r.cb(i)) end
    proc.wait_for(function()
      local n = 0
      for _, worker in ipairs(pool:stats().workers) do n = n + (worker.job and 1 or 0) end
      return n == 4
    end)
    for _, worker in ipairs(pool:stats().workers) do kill(worker.pid) end
    r.wait(4)
    open()
    r.wait(8)
    for i = 1, 8 do assert.are.equal(i <= 4 and "crash" or "fine", r.kinds[i]) end
    finish(pool)
  end)
end)

describe("a worker of a pool that misbehaves #proc", function()
  for code, pattern in pairs { [0] = "code 0", [3] = "code 3" } do
    case("by exit with code " .. code .. " in a job costs that job", function()
      local pool = new_pool { max = 1, load = 4 }
      local r = results()
      pool("echo", 1, r.cb(1))
      pool("exit", code, r.cb(2))
      pool("echo", 3, r.cb(3))
      r.wait(3)
      assert.are.same({ "fine", "crash", "fine" }, r.kinds)
      assert.are.equal(code, r.errs[2].code)
      assert.matches(pattern, r.errs[2].message)
      finish(pool)
    end)
  end

  for what, kinds in pairs {
    close = { fine = true, protocol = true, crash = true },
    shut = { fine = true, protocol = true, crash = true },
    write = { protocol = true },
  } do
    case(what .. " on its socket costs at most the job that ran", function()
      local pool = new_pool { max = 1, load = 4, grace = 0.2 }
      local r = results()
      local pid = tonumber(pool:await("pid"))
      pool("echo", 1, r.cb(1))
      pool("sockets", what, ("garbage"):rep(100), r.cb(2))
      for i = 3, 6 do pool("echo", i, r.cb(i)) end
      r.wait(6)
      assert.is_true(kinds[r.kinds[2]], tostring(r.errs[2]))
      for i = 1, 6 do
        if i ~= 2 then assert.are.equal(tostring(i), r.values[i][1], r.errs[i]) end
      end
      proc.wait_for(function() return not helper.alive(pid) end)
      finish(pool)
    end)
  end

  -- The socket that templates share: a worker does not have it any more.
  for _, what in ipairs { "close", "shut", "write" } do
    it(what .. " on all its sockets does not hang the host", function()
      local text, code = helper.run(proc.program(([[
        tine.main(function()
          local pool = tine.new():eval(%q):pool("work", { max = 1, on_error = print, grace = 0.2 })
          for i = 1, 3 do print(pool("sockets", %q, "garbage", "all")) end
          print(pool("echo", "goes on"))
          local gone
          pool:close(function() gone = true end)
          for _ = 1, 100 do if not gone then tine.loop.sleep(0.05) end end
          say(gone and "closed" or "not closed")
          pool = tine.new():eval(%q):pool("work", { max = 1 })
          print(pool("echo", "a new one works"))
          pool:close()
        end)
      ]]):format(pools.source, what, pools.source)), 15)
      assert.are.equal(0, code, text)
      assert.matches("nil\tgoes on\n.*closed", text)
      assert.matches("nil\ta new one works\n", text)
      assert.is_nil(text:find("not closed"))
    end)
  end

  -- A frame of the call stream: RESULT (17) of the call, with its times.
  local function frame(serial, kind)
    return string.pack("<I4BBI2I8I8I8", 16, kind or 17, 0, 0x7463, serial, 0, 0)
  end

  for name, data in pairs {
    ["answers a call that is not there"] = frame(1000000),
    ["answers a call again that has been answered"] = frame(1),
    ["answers a call before it has begun"] = frame(4),
    ["says something unknown"] = frame(2, 99),
    ["says twice that it is ready"] = string.pack("<I4BBI2I8", 0, 16, 0, 0x7463, 0),
    ["sends half of a frame of 4 GB"] = string.pack("<I4BBI2I8", 0xffffffff, 17, 0, 0x7463, 2),
  } do
    case(name .. " costs at most the job that ran", function()
      local pool = new_pool { max = 1, load = 6, grace = 0.2 }
      local r = results()
      local pid = tonumber(pool:await("pid"))
      local job = pool:call { args = { "sockets", "write", data }, timeout = 2, cb = r.cb(1) }
      assert.is_truthy(job)
      for i = 2, 6 do pool:call { args = { "echo", i }, timeout = 2, cb = r.cb(i) } end
      r.wait(6)
      for i = 2, 6 do assert.are.equal(tostring(i), r.values[i] and r.values[i][1], r.errs[i]) end
      proc.wait_for(function() return not helper.alive(pid) end)
      finish(pool)
    end)
  end

  case("never reads and never answers is killed at the deadline", function()
    local pool = new_pool { max = 1, load = 4, grace = 0.1 }
    local r = results()
    local large = ("x"):rep(8 << 20)
    pool:call { args = { "kill", "STOP" }, timeout = 0.2, cb = r.cb(1) }
    for i = 2, 5 do
      pool("echo", large, function(err, text) r.cb(i)(err, text == large) end)
    end
    r.wait(5)
    assert.are.equal("timeout", r.kinds[1])
    for i = 2, 5 do assert.is_true(r.values[i][1], r.errs[i]) end
    finish(pool)
  end)

  case("never answers is killed by close with seconds", function()
    local pool = new_pool { max = 2, start = 0, load = 2 }
    local r = results()
    pool("kill", "STOP", r.cb(1))
    pool("stubborn", r.cb(2))
    for i = 3, 9 do pool("echo", i, r.cb(i)) end
    local pids = {}
    proc.wait_for(function() return pool:stats().busy == 2 end)
    for i, worker in ipairs(pool:stats().workers) do pids[i] = worker.pid end
    local began = tine.loop.now()
    finish(pool, 0.3)
    assert.is_true(tine.loop.now() - began >= 0.29)
    assert.are.equal(9, r.ended)
    for i = 1, 2 do assert.are.equal("closed", r.kinds[i]) end
    for _, pid in ipairs(pids) do assert.is_false(helper.alive(pid)) end
  end)
end)

describe("the children of a pool's workers #proc", function()
  case("that stay behind do not hold up the end", function()
    local pool = new_pool { max = 1, on_line = function() end }
    assert.are.equal("said", pool:await("say", "x"))
    local path = helper.tmpname()
    local err = pool("leave", path)
    assert.is_nil(err)
    finish(pool)
    local child = tonumber(proc.text(path))
    proc.wait_for(function() return not helper.alive(child) end)
  end)

  case("hold none of its sockets: its death is seen at once", function()
    local pool = new_pool { max = 1 }
    local path = helper.tmpname()
    pool:await("leave", path)
    local child = tonumber(proc.text(path))
    assert.are.equal("crash", pool("kill", "KILL").kind)
    proc.wait_for(function() return not helper.alive(child) end)
    finish(pool)
  end)
end)

describe("keys of a worker that dies #proc", function()
  case("go to one other, still in order", function()
    local pool = new_pool { max = 3, idle = 3, load = 2, start = 0 }
    proc.wait_for(function() return pool:stats().idle == 3 end)
    local path, open = gate()
    local r, order, pids = results(), {}, {}
    pool:call { args = { "gate", path, "x" }, key = "k", cb = r.cb(1) }
    for i = 2, 30 do
      pool:call { args = { "count", i }, key = "k", cb = function(err, _, pid, n)
        assert(not err, err)
        order[#order + 1] = tonumber(n)
        pids[pid] = true
      end }
    end
    local victim = proc.wait_for(function()
      for _, worker in ipairs(pool:stats().workers) do
        if worker.job then return worker.pid end
      end
    end)
    kill(victim)
    proc.wait_for(function() return #order == 29 end)
    assert.are.equal("crash", r.kinds[1])
    for i = 2, 30 do assert.are.equal(i, order[i - 1]) end
    assert.is_truthy(next(pids))
    assert.is_nil(next(pids, next(pids)))
    open()
    finish(pool)
  end)
end)

describe("retries #proc", function()
  case("are as many as a call says, however many that is", function()
    for _, retries in ipairs { math.huge, 1 << 31, 1 << 32, 1 << 62, 4.0 } do
      local pool = new_pool { max = 1 }
      local err, result = pool:call {
        args = { "nth", helper.tmpname(), 3, "kill", "KILL" }, retries = retries,
      }
      assert.is_nil(err)
      assert.are.equal("at last", result)
      finish(pool)
    end
  end)

  case("give a job whose worker died another chance", function()
    local pool = new_pool { max = 1, retries = 2 }
    assert.are.equal("at last", pool:await("nth", helper.tmpname(), 3, "kill", "KILL"))
    assert.are.equal(2, pool:stats().retried)
    assert.are.equal(2, pool:stats().crashed)
    assert.are.equal(0, pool:stats().failed)
    finish(pool)
  end)

  case("come to an end: the last cause is told, with the count", function()
    local pool = new_pool { max = 1, retries = 2 }
    local path = helper.tmpname()
    local err = pool("nth", path, 3, "kill", "SEGV")
    assert.is_nil(err)
    err = pool("nth", helper.tmpname(), 9, "kill", "SEGV")
    assert.are.equal("crash", err.kind)
    assert.are.equal(11, err.signal)
    assert.matches("tried 3 times", err.message)
    assert.are.equal(4, pool:stats().retried)
    finish(pool)
  end)

  case("are as many as the call says", function()
    local pool = new_pool { max = 1, retries = 5 }
    local path = helper.tmpname()
    local err = pool:call { args = { "nth", path, 9, "kill", "KILL" }, retries = 0 }
    assert.are.equal("crash", err.kind)
    assert.are.equal("x", proc.text(path))
    path = helper.tmpname()
    err = pool:call { args = { "nth", path, 9, "exit", 1 }, retries = 1 }
    assert.are.equal("crash", err.kind)
    assert.are.equal("xx", proc.text(path))
    assert.matches("tried 2 times", err.message)
    finish(pool)
  end)

  case("are for dead workers only: not after an error, a deadline or a cancel", function()
    local pool = new_pool { max = 1, retries = 3, grace = 0.1 }
    local path = helper.tmpname()
    assert.are.equal("exception", pool("nth", path, 9, "fail", "x").kind)
    assert.are.equal("timeout",
      pool:call { args = { "nth", path, 9, "sleep", 1000 }, timeout = 0.1 }.kind)
    assert.are.equal("xx", proc.text(path))
    assert.are.equal(0, pool:stats().retried)
    finish(pool)
  end)

  -- The calls that a job that kills its worker is among.
  local function all_fine(r, first, last)
    for i = first, last do assert.are.equal(tostring(i), r.values[i][1], r.errs[i]) end
  end

  case("of a job that kills each worker cost the others nothing", function()
    local pool = new_pool { max = 4 }
    local r = results()
    assert.are.equal("x", pool:await("echo", "x"))
    pool:call { args = { "kill", "KILL" }, retries = 6, cb = r.cb(0) }
    for i = 1, 100 do pool("echo", i, r.cb(i)) end
    r.wait(101)
    all_fine(r, 1, 100)
    assert.are.equal("crash", r.kinds[0])
    assert.matches("tried 7 times", r.errs[0].message)
    assert.is_false(pool:stats().broken)
    finish(pool)
  end)

  case("of several such jobs, the first of all, cost the others nothing", function()
    local pool = new_pool { max = 2, retries = 1 }
    local r = results()
    for i = 1, 3 do pool("exit", 3, r.cb(i)) end
    for i = 4, 40 do pool("echo", i, r.cb(i)) end
    r.wait(40)
    all_fine(r, 4, 40)
    for i = 1, 3 do assert.matches("tried 2 times", r.errs[i].message) end
    finish(pool)
  end)

  case("of one job do not make a pool give up, however many they are", function()
    local pool = new_pool { max = 1, retries = 12 }
    local err = pool("kill", "SEGV")
    assert.are.equal("crash", err.kind)
    assert.matches("tried 13 times", err.message)
    assert.is_false(pool:stats().broken)
    assert.are.equal("x", pool:await("echo", "x"))
    finish(pool)
  end)

  case("are behind what waits, and keep the order of a key", function()
    local pool = new_pool { max = 1, load = 1, retries = 1 }
    local path, order = helper.tmpname(), {}
    local function say(i)
      return function(err)
        assert(not err, err)
        order[#order + 1] = i
      end
    end
    pool("nth", path, 2, "kill", "KILL", say(1))
    for i = 2, 4 do pool("echo", i, say(i)) end
    proc.wait_for(function() return #order == 4 end)
    assert.are.same({ 2, 3, 4, 1 }, order)
    path, order = helper.tmpname(), {}
    pool:call { args = { "nth", path, 2, "kill", "KILL" }, key = "k", cb = say(1) }
    for i = 2, 4 do pool:call { args = { "echo", i }, key = "k", cb = say(i) } end
    proc.wait_for(function() return #order == 4 end)
    assert.are.same({ 1, 2, 3, 4 }, order)
    finish(pool)
  end)

  case("are each job's own, also when every worker dies at its first job", function()
    local pool = new_pool({ max = 1, load = 2, retries = 3 }, function() os.exit(3) end)
    local r = results()
    for i = 1, 10 do pool(i, r.cb(i)) end
    r.wait(10)
    local stats = pool:stats()
    assert.is_false(stats.broken)
    assert.are.equal(40, stats.started)
    for i = 1, 10 do
      assert.are.equal("crash", r.kinds[i])
      assert.matches("code 3.* %(tried 4 times%)", r.errs[i].message)
    end
    finish(pool)
  end)
end)
