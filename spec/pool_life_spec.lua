-- Pools whose workers and templates die, hang, misbehave or are replaced: what a job gets then,
-- and that it is this job only. Deadlines, cancelling, retries, figures, the end.
local helper = require "spec.helper"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)

-- What workers do: work(name, ...) carries one of these out.
local function prepare()
  local worker = require "tine"
  local jobs, garbage, seen = {}, {}, 0

  function jobs.echo(...) return ... end
  function jobs.fail(text) error(text, 0) end
  function jobs.exit(code) os.exit(tonumber(code)) end
  function jobs.kill(signal) os.execute("kill -" .. signal .. " $PPID") end
  function jobs.retire() worker.retire() end

  function jobs.pid()
    local f <close> = assert(io.open("/proc/self/stat"))
    return f:read("n")
  end

  -- Until the file is there. Returns its second argument and the worker's id.
  function jobs.gate(path, ...)
    while true do
      local f = io.open(path)
      if f then
        f:close()
        return ..., jobs.pid()
      end
      os.execute("sleep 0.005")
    end
  end

  function jobs.count(...)
    seen = seen + 1
    return seen, jobs.pid(), ...
  end

  function jobs.grow(size)
    garbage[#garbage + 1] = ("x"):rep(tonumber(size))
    return jobs.pid()
  end

  -- Fails as it is told until it has been tried so often.
  function jobs.nth(path, n, how, ...)
    local f <close> = assert(io.open(path, "a+"))
    f:write("x")
    f:flush()
    f:seek("set")
    if #f:read("a") < tonumber(n) then return jobs[how](...) end
    return "at last"
  end

  -- Three ways to take too long, or to be asked where it is.
  local function deep()
    while true do end
  end

  function jobs.spin() deep() end
  function jobs.sleep(seconds) os.execute("sleep " .. seconds) end

  function jobs.stubborn()
    while true do pcall(deep) end
  end

  function jobs.coroutine()
    return coroutine.wrap(function() deep() end)()
  end

  function jobs.catch()
    local ok, err = pcall(deep)
    return tostring(ok), err.kind, tostring(err)
  end

  -- Leaves a child behind, whose id goes into a file.
  function jobs.child(path)
    os.execute("sleep 60 & echo $! >" .. path)
    os.execute("sleep 60")
  end

  function jobs.say(text, more)
    print(text)
    io.stderr:write(text, " too\n")
    if more then io.write(more) end
    return "said"
  end

  function jobs.events(n, text)
    for i = 1, tonumber(n) do worker.event(i, text) end
    return n
  end

  -- Does something with each of the worker's sockets.
  function jobs.sockets(what, data)
    local numbers = {}
    local list <close> = io.popen("ls -l /proc/$PPID/fd")
    for line in list:lines() do
      local n = line:match(" (%d+) %-> socket:")
      if n then numbers[#numbers + 1] = math.tointeger(tonumber(n)) end
    end
    for _, n in ipairs(numbers) do
      local fd = worker.fd(n)
      if what == "write" then
        fd:write(data)
        fd:detach()
      elseif what == "shut" then
        fd:shutdown("rw")
        fd:detach()
      else
        fd:close()
      end
    end
    return #numbers
  end

  function work(name, ...) -- luacheck: globals work
    return jobs[name](...)
  end

  local pending = {}

  -- An async backend: some calls are answered later or never, one blocks.
  function async(done, name, ...) -- luacheck: globals async
    if name == "later" then
      local args = table.pack(...)
      worker.loop.timer(tonumber(args[1]), function() done(args[2]) end)
    elseif name == "never" then
      pending[#pending + 1] = done
    elseif name == "drop" then
      done = nil
      collectgarbage()
      collectgarbage()
    else
      done(work(name, ...)) -- luacheck: globals work
    end
  end
end

local function silent() end

-- A pool, and the list of what its on_error got.
local function new_pool(options, entry, template)
  local faults = {}
  options.on_error = options.on_error or function(err) faults[#faults + 1] = err end
  template = template or tine.new():eval(prepare)
  return assert(template:pool(entry or "work", options)), faults
end

local function gate()
  local path = helper.tmpname()
  return path, function() assert(io.open(path, "w")):close() end
end

-- Collects what calls get: `cb(i)` makes a callback; kinds[i] is "fine" or err.kind.
local function results()
  local r = { ended = 0, kinds = {}, errs = {}, values = {} }
  function r.cb(i)
    return function(err, ...)
      assert(not r.kinds[i], "called twice")
      r.kinds[i] = err and err.kind or "fine"
      r.errs[i], r.values[i] = err, table.pack(...)
      r.ended = r.ended + 1
    end
  end
  function r.wait(n) proc.wait_for(function() return r.ended == n end) end
  return r
end

local function finish(pool, seconds)
  local gone = false
  pool:close(function() gone = true end, seconds)
  proc.wait_for(function() return gone end)
end

local function kill(pid, signal) assert(os.execute(("kill -%s %d"):format(signal or "KILL", pid))) end

-- The only worker's id, once it is there.
local function only(pool)
  return proc.wait_for(function()
    local worker = pool:stats().workers[1]
    return worker and worker.state ~= "starting" and worker.pid
  end)
end

local function running(pool, n)
  proc.wait_for(function() return pool:stats().running >= n end)
end

local function rss(pid)
  local f <close> = assert(io.open(("/proc/%d/statm"):format(pid)))
  return select(2, f:read("n", "n")) * 4096
end

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
    proc.wait_for(function() return pool:stats().busy == 4 end)
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
    local pool = new_pool { max = 1, load = 4, timeout = 0.2, grace = 0.1 }
    local r = results()
    local large = ("x"):rep(8 << 20)
    pool("kill", "STOP", r.cb(1))
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

describe("deadlines of jobs #proc", function()
  for _, name in ipairs { "spin", "coroutine" } do
    case("raise an error in the job, and the worker lives: " .. name, function()
      local pool, faults = new_pool { max = 1, load = 4, timeout = 0.15, grace = 5 }
      local pid = pool:await("pid")
      local r, began = results(), tine.loop.now()
      pool(name, r.cb(1))
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
    local pool = new_pool { max = 1, load = 4, timeout = 0.1, grace = 5 }
    local path, open = gate()
    local r = results()
    pool:call { args = { "gate", path, "x" }, timeout = 60, cb = r.cb(1) }
    -- It waits longer than it may run.
    pool:call { args = { "echo", "y" }, timeout = 0.1, cb = r.cb(2) }
    running(pool, 2)
    local began = tine.loop.now()
    proc.wait_for(function() return tine.loop.now() - began > 0.3 end)
    assert.are.equal(0, r.ended)
    open()
    r.wait(2)
    assert.are.same({ "fine", "fine" }, r.kinds)
    assert.are.equal("timeout", pool("spin").kind)
    finish(pool)
  end)

  case("kill the worker and its children after grace, when it is in C or catches", function()
    for _, name in ipairs { "sleep", "stubborn", "child" } do
      local pool, faults = new_pool { max = 1, load = 4, timeout = 0.1, grace = 0.2 }
      local pid = tonumber(pool:await("pid"))
      local path = helper.tmpname()
      local r, began = results(), tine.loop.now()
      pool(name, name == "sleep" and 60 or path, r.cb(1))
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
    local pool = new_pool { max = 1, timeout = 0.1, grace = 5 }
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
    local pool = new_pool { max = 1, load = 4, grace = 5 }
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
    local pool = new_pool { max = 2, load = 4, start = 0, grace = 5 }
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
    local pool = new_pool { max = 1, grace = 5 }
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
    assert.matches("deep.*resumed from.*coroutine", pool:traceback(pid))
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

describe("retries #proc", function()
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
      pool:call { args = { "nth", path, 9, "sleep", 60 }, timeout = 0.1 }.kind)
    assert.are.equal("xx", proc.text(path))
    assert.are.equal(0, pool:stats().retried)
    finish(pool)
  end)
end)

describe("the template of a pool #proc", function()
  case("may be killed with jobs queued: a spare takes over", function()
    local template = tine.new():eval(prepare)
    local pool = new_pool({ max = 2, load = 2, start = 0 }, nil, template)
    local r, total = results(), 600
    pool:await("pid")
    for i = 1, total do pool(i % 100 == 0 and "kill" or "echo", i % 100 == 0 and "KILL" or i,
      r.cb(i)) end
    local children
    proc.wait_for(function()
      children = 0
      for _, pid in ipairs(helper.descendants()) do
        if helper.title(pid):find("spare") then children = children + 1 end
      end
      return children > 0
    end)
    kill(template:pid())
    r.wait(total)
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
    assert.is_true(#faults >= 5)
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
    assert.is_true(#faults >= 5)
    assert.are.equal(0, #pool:stats().workers)
    finish(pool)
  end)

  case("whose workers all die at once is given up, and mends when they do not", function()
    local path, open = gate()
    local pool = new_pool({ max = 1, init = function()
      local name = (require "tine").run_args()
      local f = io.open(name)
      if not f then os.execute("kill -KILL $PPID") end
      f:close()
    end }, nil, tine.new():eval(prepare):send_arg(path))
    local err = pool("echo", "x")
    assert.are.equal("crash", err.kind)
    assert.is_true(pool:stats().broken)
    open()
    proc.wait_for(function() return pool("echo", "x") == nil end)
    assert.is_false(pool:stats().broken)
    finish(pool)
  end)
end)

describe("recycling #proc", function()
  -- Makes jobs all the time until `enough`; none may fail.
  local function keep_busy(pool, name, enough, ...)
    local ended, under_way, n = 0, 0, 0
    local pids, max = {}, 0
    local args = table.pack(...)
    while not enough(pids, ended) do
      while under_way < 8 do
        under_way = under_way + 1
        pool(name, table.unpack(args, 1, args.n), function(err, a, b)
          assert(not err, err)
          local pid = b or a
          if not pids[pid] then n = n + 1 end
          pids[pid] = (pids[pid] or 0) + 1
          max = math.max(max, pids[pid])
          ended, under_way = ended + 1, under_way - 1
        end)
      end
      tine.loop.sleep(0)
    end
    proc.wait_for(function() return under_way == 0 end)
    return n, max, ended
  end

  case("by max_jobs refuses no job, and no worker does more", function()
    local pool, faults = new_pool { max = 2, load = 2, max_jobs = 40, start = 0 }
    local n, max = keep_busy(pool, "count", function(_, ended) return ended >= 600 end)
    assert.is_true(n >= 10, n)
    -- It goes on until the replacement is ready, but not for long.
    assert.is_true(max < 400, max)
    local stats = pool:stats()
    assert.is_true(stats.recycled >= 8)
    assert.are.equal(0, stats.failed)
    assert.are.equal(0, stats.crashed)
    assert.are.same({}, faults)
    finish(pool)
  end)

  case("by max_age", function()
    local pool = new_pool { max = 2, max_age = 0.15, start = 0 }
    local n = keep_busy(pool, "count", function(pids)
      local count = 0
      for _ in pairs(pids) do count = count + 1 end
      return count >= 5
    end)
    assert.is_true(n >= 5)
    assert.are.equal(0, pool:stats().failed)
    finish(pool)
  end)

  case("by max_rss", function()
    local pool = new_pool { max = 1, max_rss = 100 << 20 }
    local n = keep_busy(pool, "grow", function(pids)
      local count = 0
      for _ in pairs(pids) do count = count + 1 end
      return count >= 3
    end, 1 << 20)
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
    assert.are.equal(16, second[2].errno) -- EBUSY
    other:close()
    assert.is_nil(first)
    finish(pool)
    proc.wait_for(function() return first end)
    assert.is_nil(first[1])
    assert.are.equal("closed", first[2].kind)
  end)

  case("of a closed pool fails, and leaves the template to its owner", function()
    local pool = new_pool({ max = 1 }, nil, version(1))
    local path, open = gate()
    local other = version(2)
    pool:close()
    local ok, err = pool:reload(other)
    assert.is_nil(ok)
    assert.are.equal("closed", err.kind)
    local good <close> = new_pool({ max = 1 }, nil, other)
    assert.are.equal("2", good:await("x"))
    open()
    os.remove(path)
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
