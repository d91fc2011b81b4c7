-- Pools as programs use them: events, lines of output, figures, the async backend, memory, how
-- they end, and what is left of them.
local helper = require "spec.helper"
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local new_pool, gate, results, finish, rss =
  pools.new, pools.gate, pools.results, pools.finish, pools.rss

-- Tests outside of a coroutine.
local function plain(name, fn)
  it(name, function() helper.no_leaks(fn) end)
end

describe("events of a pool #proc", function()
  case("come in order, before the result of their job", function()
    local seen, ended = {}, false
    local pool = new_pool { max = 1, on_event = function(text, i)
      assert.is_false(ended)
      assert.are.equal("x", text)
      seen[#seen + 1] = tonumber(i)
    end }
    pool("events", 1000, "x", function() ended = true end)
    proc.wait_for(function() return ended end)
    assert.are.equal(1000, #seen)
    for i = 1, 1000 do assert.are.equal(i, seen[i]) end
    finish(pool)
  end)

  case("go to the job's own handler where it has one", function()
    local own, others = {}, {}
    local pool = new_pool { max = 2, start = 0, on_event = function(text)
      others[#others + 1] = text
    end }
    local r = results()
    for i = 1, 10 do
      local on_event = i % 2 == 0 and function(text)
        assert.are.equal("job" .. i, text)
        own[i] = (own[i] or 0) + 1
      end or nil
      pool:call { args = { "events", 3, "job" .. i }, cb = r.cb(i), on_event = on_event }
    end
    r.wait(10)
    assert.are.equal(15, #others)
    for i = 2, 10, 2 do assert.are.equal(3, own[i]) end
    finish(pool)
  end)

  case("come while their job runs", function()
    local path, open = gate()
    local r = results()
    local pool = new_pool { max = 1, on_event = function(text)
      assert.are.equal("early", text)
      assert.are.equal(0, r.ended)
      open()
    end }
    pool("early", path, r.cb(1))
    r.wait(1)
    finish(pool)
  end)

  case("do not come twice from a job that is tried again", function()
    local marker = helper.tmpname()
    local seen = {}
    local pool = new_pool({ max = 1, retries = 1, on_event = function(text)
      seen[#seen + 1] = text
    end }, function(path)
      local worker = require "tine"
      local f = io.open(path)
      if f then
        f:close()
        worker.event("second")
        return "done"
      end
      worker.event("first")
      worker.flush()
      io.open(path, "w"):close()
      os.execute("kill -KILL $PPID")
    end)
    assert.are.equal("done", pool:await(marker))
    assert.are.same({ "first", "second" }, seen)
    finish(pool)
  end)
end)

describe("lines of a pool's workers #proc", function()
  case("come with worker, stream and job", function()
    local lines, r, ids = {}, results(), {}
    local pool = new_pool { max = 2, start = 0, on_line = function(line, info)
      lines[#lines + 1] = { line = line, pid = info.pid, job = info.job, stream = info.stream }
    end }
    for i = 1, 6 do ids[pool("say_much", "line " .. i .. "\nand more " .. i, r.cb(i)):id()] = i end
    r.wait(6)
    finish(pool) -- all has come by then
    assert.are.equal(30, #lines)
    local count = {}
    for _, l in ipairs(lines) do
      assert.is_truthy(l.pid)
      local i = ids[l.job]
      assert.is_truthy(i, l.line)
      if l.stream == "stderr" and not l.line:find("^and more") then
        assert.are.equal("err line " .. i, l.line)
      elseif l.line ~= "from a child" then
        assert.is_truthy(l.line == "line " .. i or l.line == "and more " .. i, l.line)
      end
      count[i] = (count[i] or 0) + 1
    end
    for i = 1, 6 do assert.are.equal(5, count[i]) end
  end)

  case("have no job when init wrote them, and are kept when the worker dies", function()
    local lines, r = {}, results()
    local pool = new_pool({ max = 1, init = function() print "in init" end,
      on_line = function(line, info) lines[line] = info end,
    }, function()
      io.stdout:setvbuf("no")
      io.write("last words")
      os.execute("kill -KILL $PPID")
    end)
    local job = pool(r.cb(1))
    r.wait(1)
    assert.are.equal("crash", r.kinds[1])
    proc.wait_for(function() return lines["last words"] and lines["in init"] end)
    assert.is_nil(lines["in init"].job)
    assert.are.equal(job:id(), lines["last words"].job)
    assert.are.equal(r.errs[1].pid, lines["last words"].pid)
    finish(pool)
  end)
end)

describe("an unfinished line of a pool's worker #proc", function()
  case("ends with its job, and does not hide whose the next is", function()
    local lines = {}
    local pool = new_pool({ max = 1, on_line = function(line, info)
      lines[#lines + 1] = { line, info.job, info.stream }
    end }, function(text) io.write(text) end)
    local r = results()
    for i, text in ipairs { "one", "two\n", "three\nand", "four\n" } do pool(text, r.cb(i)) end
    r.wait(4)
    finish(pool)
    assert.are.same({
      { "one", 1, "stdout" }, { "two", 2, "stdout" }, { "three", 3, "stdout" },
      { "and", 3, "stdout" }, { "four", 4, "stdout" },
    }, lines)
  end)
end)

describe("pool:stats #proc", function()
  case("tells of each worker and of all calls", function()
    local pool = new_pool { max = 2, idle = 2, load = 2, start = 0, queue = 4, grace = 5 }
    proc.wait_for(function() return pool:stats().idle == 2 end)
    local path, open = gate()
    local r, jobs = results(), {}
    for i = 1, 10 do jobs[i] = pool("gate", path, i, r.cb(i)) end
    proc.wait_for(function() return pool:stats().running == 4 end)
    r.wait(2) -- four are handed over, four wait
    local stats = pool:stats()
    assert.are.equal(2, stats.busy)
    assert.are.equal(4, stats.queued)
    assert.are.equal(10, stats.calls)
    assert.are.equal(2, stats.rejected)
    assert.are.equal(2, stats.failed)
    assert.are.equal(2, stats.started)
    assert.is_false(stats.broken)
    local mine = { [jobs[1]:id()] = true, [jobs[2]:id()] = true }
    proc.wait_for(function()
      stats = pool:stats()
      return stats.workers[1].job and stats.workers[2].job
    end)
    for _, worker in ipairs(stats.workers) do
      assert.is_true(helper.alive(worker.pid))
      assert.are.equal("busy", worker.state)
      assert.are.equal(2, worker.load)
      assert.are.equal(0, worker.jobs)
      assert.is_true(mine[worker.job])
      mine[worker.job] = nil
      assert.is_true(worker.job_seconds >= 0 and worker.job_seconds < 15)
      assert.is_true(worker.age >= worker.job_seconds)
      assert.is_true(worker.rss > 100000)
      assert.are.equal(0, worker.generation)
    end
    open()
    r.wait(10)
    pool("spin", r.cb(11))
    jobs[12] = pool("spin", r.cb(12))
    jobs[12]:cancel()
    r.wait(11)
    stats = pool:stats()
    assert.are.equal(1, stats.cancelled)
    finish(pool, 0)
    local gone, err = pool:stats()
    assert.is_nil(gone)
    assert.are.equal("closed", err.kind)
  end)

  case("has figures of waiting and running", function()
    local pool = new_pool { max = 1, load = 1 }
    local r = results()
    for i = 1, 10 do pool("sleep", i > 8 and 0.2 or 0.02, r.cb(i)) end
    r.wait(10)
    local stats = pool:stats()
    for _, name in ipairs { "wait", "run" } do
      local h = stats[name]
      assert.are.equal(10, h.count)
      assert.is_true(h.min <= h.p50 and h.p50 <= h.p90 and h.p90 <= h.p99 and h.p99 <= h.p999
        and h.p999 <= h.max * 17 / 16)
      assert.is_true(h.mean >= h.min and h.mean <= h.max)
    end
    assert.is_true(stats.run.min >= 0.019, stats.run.min)
    assert.is_true(stats.run.max >= 0.199 and stats.run.max < 10)
    assert.is_true(stats.run.p50 < 0.19)
    assert.is_true(stats.run.p90 >= 0.18)
    assert.is_true(stats.wait.max >= 0.3)
    finish(pool)
  end)
end)

describe("an async pool #proc", function()
  case("has many calls under way in one worker", function()
    local pool = new_pool({ max = 1, load = 100, async = true }, "async")
    local r, order = results(), {}
    for i = 1, 50 do
      pool("later", (50 - i) * 0.002, i, function(err, value)
        order[#order + 1] = tonumber(value)
        r.cb(i)(err)
      end)
    end
    r.wait(50)
    assert.are.equal(50, order[1])
    assert.are.equal(1, #pool:stats().workers)
    finish(pool)
  end)

  case("ends those that are never answered at their deadline, and those cancelled", function()
    local pool = new_pool({ max = 1, load = 100, async = true, grace = 60 }, "async")
    local pid = pool:await("pid")
    local r = results()
    pool:call { args = { "never" }, timeout = 0.1, cb = r.cb(1) }
    local job = pool("never", r.cb(2))
    pool("later", 0.3, "x", r.cb(3))
    pool:call { args = { "spin" }, timeout = 0.2, cb = r.cb(4) }
    tine.loop.sleep(0)
    job:cancel()
    r.wait(4)
    assert.are.same({ "timeout", "cancelled", "fine", "timeout" }, r.kinds)
    assert.are.equal(pid, pool:await("pid"))
    finish(pool)
  end)

  case("counts a deadline from the job's start, not from when it was handed over", function()
    local pool = new_pool({ max = 1, load = 4, async = true, grace = 0.1 }, "async")
    pool:await("pid")
    local r = results()
    pool("sleep", 1.2, r.cb(1))
    pool:call { args = { "echo", "x" }, timeout = 1, cb = r.cb(2) }
    r.wait(2)
    assert.are.equal("fine", r.kinds[1], r.errs[1])
    assert.are.equal("fine", r.kinds[2], r.errs[2])
    finish(pool)
  end)

  -- More of them than the worker's page has room for starts.
  case("ends each at its own deadline, however many are under way", function()
    for _, n in ipairs { 5, 600 } do
      local pool = new_pool({ max = 1, load = 1000, async = true, timeout = 1, grace = 60 },
        "async")
      pool:await("pid")
      local r = results()
      local first, last
      for i = 1, n do
        pool("later", 1000, "x", function(err)
          first = first or tine.loop.now()
          last = tine.loop.now()
          r.cb(i)(err)
        end)
      end
      r.wait(n)
      for i = 1, n do assert.are.equal("timeout", r.kinds[i]) end
      assert.is_true(last - first < 4, last - first)
      finish(pool)
    end
  end)

  case("counts a job's time anew when it is tried again", function()
    local pool = new_pool({ max = 1, async = true, timeout = 5, retries = 1 }, "async")
    local pid = tonumber(pool:await("pid"))
    local r = results()
    pool("later", 1, "x", r.cb(1))
    proc.wait_for(function() return pool:stats().workers[1].job end)
    local began = tine.loop.now()
    proc.wait_for(function() return tine.loop.now() - began > 0.5 end)
    pools.kill(pid)
    local worker
    proc.wait_for(function()
      worker = pool:stats().workers[1]
      return worker and worker.job and worker.pid ~= pid
    end)
    assert.is_true(worker.job_seconds < tine.loop.now() - began - 0.4, worker.job_seconds)
    r.wait(1)
    assert.are.equal("fine", r.kinds[1], r.errs[1])
    finish(pool)
  end)

  case("loses all that had started with a crash, and nothing else", function()
    local pool = new_pool({ max = 1, load = 4, async = true }, "async")
    local r = results()
    for i = 1, 3 do pool("never", r.cb(i)) end
    pool("kill", "KILL", r.cb(4))
    for i = 5, 9 do pool("echo", i, r.cb(i)) end
    r.wait(9)
    for i = 1, 4 do assert.are.equal("crash", r.kinds[i]) end
    for i = 5, 9 do assert.are.equal(tostring(i), r.values[i][1], r.errs[i]) end
    finish(pool)
  end)

  case("sends events between calls, and calls done at the end", function()
    local path = helper.tmpname()
    local seen = {}
    local pool = new_pool({ max = 1, async = true, on_event = function(...)
      seen[#seen + 1] = table.concat({ ... }, " ")
    end, done = "bye" }, "async", tine.new():eval(pools.prepare):eval(
      "local path = ... function bye() io.open(path, 'w'):close() end", path))
    for i = 1, 3 do assert.are.equal(tostring(i), pool:await("event", i)) end
    proc.wait_for(function() return #seen == 3 end)
    assert.are.same({ "between 1", "between 2", "between 3" }, seen)
    assert.is_nil(io.open(path))
    finish(pool)
    assert(io.open(path)):close()
  end)

  case("answers what is under way before it closes", function()
    local pool = new_pool({ max = 2, load = 2, async = true, start = 0 }, "async")
    local r = results()
    for i = 1, 12 do pool("later", 0.02, i, r.cb(i)) end
    finish(pool)
    assert.are.equal(12, r.ended)
    for i = 1, 12 do assert.are.equal(tostring(i), r.values[i][1], r.errs[i]) end
  end)
end)

describe("the memory of a pool #proc", function()
  local LIMIT <const> = 24 << 20

  -- In a program of its own: what other tests have left in this one's heap is no measure.
  it("stays bounded when a worker floods a slow host with a million events #slow", function()
    local MANY <const> = helper.sanitized and 100000 or 1000000
    local text, code = helper.run(proc.program(([[
      local function rss(pid)
        local f <close> = io.open(("/proc/%%s/statm"):format(pid))
        return select(2, f:read("n", "n")) * 4096
      end
      local seen, pid, ended, most, most_host = 0, nil, false, 0, 0
      local pool = tine.new():eval(%q):pool("work", { max = 1, on_event = function()
        seen = seen + 1
      end })
      pool("pid", function(_, p) pid = math.tointeger(tonumber(p)) end)
      while not pid do tine.loop.poll(0.1) end
      collectgarbage()
      local before, before_host = rss(pid), rss("self")
      pool("events", %d, ("x"):rep(200), function(err)
        assert(not err, err)
        ended = true
      end)
      local n = 0
      while not ended do
        n = n + 1
        if n %% 50 == 0 then os.execute("sleep 0.01") end -- slow
        most = math.max(most, rss(pid) - before)
        most_host = math.max(most_host, rss("self") - before_host)
        tine.loop.poll(0.01)
      end
      say(seen, most, most_host)
    ]]):format(pools.source, MANY)), 20)
    assert.are.equal(0, code, text)
    local seen, most, most_host = text:match("^(%d+)\t(%d+)\t(%d+)\n$")
    assert.are.equal(MANY, tonumber(seen), text)
    if not helper.sanitized then
      assert.is_true(tonumber(most) < LIMIT, ("the worker grew by %d"):format(most))
      assert.is_true(tonumber(most_host) < LIMIT, ("the host grew by %d"):format(most_host))
    end
  end)

  it("stays bounded over many small results #slow", function()
    local text, code = helper.run(proc.program(([[
      local function rss(pid)
        local f <close> = io.open(("/proc/%%s/statm"):format(pid))
        return select(2, f:read("n", "n")) * 4096
      end
      local pool = tine.new():eval(%q):pool("work", { max = 2, start = 0, load = 32 })
      local pids, n = {}, 0
      local function source()
        n = n + 1
        if n > 300000 then return nil end
        return "echo", n
      end
      local before, most, most_host, last = nil, 0, 0, 0
      for i, ok in pool:map(source, { window = 256 }) do
        assert(ok)
        last = i
        if i == 20000 then
          collectgarbage()
          before = rss("self")
          for _, worker in ipairs(pool:stats().workers) do pids[worker.pid] = rss(worker.pid) end
        elseif i > 20000 and i %% 10000 == 0 then
          most_host = math.max(most_host, rss("self") - before)
          for pid, size in pairs(pids) do most = math.max(most, rss(pid) - size) end
        end
      end
      say(last, most, most_host)
    ]]):format(pools.source)), 20)
    assert.are.equal(0, code, text)
    local last, most, most_host = text:match("^(%d+)\t(%d+)\t(%d+)\n$")
    assert.are.equal("300000", last, text)
    if not helper.sanitized then
      assert.is_true(tonumber(most) < LIMIT, ("a worker grew by %d"):format(most))
      assert.is_true(tonumber(most_host) < LIMIT, ("the host grew by %d"):format(most_host))
    end
  end)

  plain("of large results is given back", function()
    local pool = new_pool { max = 1 }
    local ended, host = 0, helper.pid()
    local before
    for i = 1, 6 do
      pool("rep", "x", 32 << 20, function(err, text)
        assert(not err and #text == 32 << 20)
        ended = i
      end)
      helper.wait_until(10, function() return ended == i end)
      collectgarbage()
      if i == 3 then before = rss(host) end
    end
    if not helper.sanitized then assert.is_true(rss(host) - before < 40 << 20) end
    pool:close()
  end)
end)

describe("the end of a pool #proc", function()
  case("comes when all that is queued is done", function()
    local destroyed, gone = 0, {}
    local pool = new_pool { max = 2, on_destroy = function() destroyed = destroyed + 1 end }
    local r = results()
    for i = 1, 50 do pool("echo", i, r.cb(i)) end
    pool:close(function() gone[#gone + 1] = r.ended end)
    tine.go(function()
      pool:close() -- waits
      gone[#gone + 1] = r.ended
    end)
    pool:close(function() gone[#gone + 1] = r.ended end)
    pool("echo", "late", r.cb(51))
    pool:call { args = { "echo", "late" }, cb = r.cb(52) }
    proc.wait_for(function() return #gone == 3 end)
    assert.are.same({ 52, 52, 52 }, gone)
    assert.are.equal(1, destroyed)
    for i = 1, 50 do assert.are.equal(tostring(i), r.values[i][1]) end
    assert.are.equal("closed", r.kinds[51])
    assert.are.equal("closed", r.kinds[52])
    -- Again, when it has gone.
    local again = false
    pool:close(function() again = true end, 0)
    assert.is_false(again)
    proc.wait_for(function() return again end)
    assert.are.equal("closed", pool("echo", "x").kind)
    assert.has_error(function() pool:await("echo", "x") end)
  end)

  case("of one that was never used is at once", function()
    local pool = new_pool { max = 2 }
    finish(pool)
    pool = new_pool { max = 2, idle = 2 }
    finish(pool, 5)
  end)

  case("waits for a job, and kills it after seconds, the shorter of two", function()
    local pool = new_pool { max = 2, start = 0, load = 2 }
    local r, gone = results(), 0
    for i = 1, 8 do pool("spin", r.cb(i)) end
    proc.wait_for(function() return pool:stats().busy == 2 end)
    local began = tine.loop.now()
    pool:close(function() gone = gone + 1 end, 60)
    pool:close(function() gone = gone + 1 end, 0.2)
    pool:close(function() gone = gone + 1 end, 30)
    proc.wait_for(function() return gone == 3 end)
    assert.is_true(tine.loop.now() - began >= 0.19)
    assert.are.equal(8, r.ended)
    for i = 1, 8 do assert.are.equal("closed", r.kinds[i]) end
  end)

  case("kills nothing that has ended in time", function()
    local pool = new_pool { max = 2, start = 0 }
    local r = results()
    for i = 1, 20 do pool("echo", i, r.cb(i)) end
    finish(pool, 10)
    for i = 1, 20 do assert.are.equal("fine", r.kinds[i]) end
  end)

  plain("comes by itself when it is collected, with calls queued", function()
    local r, destroyed = results(), 0
    do
      local pool = new_pool { max = 2, on_destroy = function() destroyed = destroyed + 1 end }
      for i = 1, 100 do pool("echo", i, r.cb(i)) end
    end
    collectgarbage()
    collectgarbage()
    helper.wait_until(10, function() return r.ended == 100 end)
    for i = 1, 100 do assert.are.equal(tostring(i), r.values[i][1], r.errs[i]) end
    helper.wait_until(10, function()
      collectgarbage()
      return destroyed == 1
    end)
  end)

  plain("comes when one is collected that was never called", function()
    new_pool { max = 2, idle = 2 }
    new_pool { max = 2 }
    collectgarbage()
  end)

  case("leaves the handle of its template usable for what it may", function()
    local template = tine.new():eval(pools.prepare)
    local pool = new_pool({ max = 1 }, nil, template)
    proc.assert_blames("consumed", function() template:eval("x = 1") end)
    proc.assert_blames("consumed", function() template:fork() end)
    assert.are.equal("x", pool:await("echo", "x"))
    assert.is_true(helper.alive(template:pid()))
    local ended = false
    template:on_exit(function() ended = true end)
    template:close()
    assert.are.equal("y", pool:await("echo", "y"))
    finish(pool)
    proc.wait_for(function() return ended end)
  end)

  case("is not waited for by the loop while it idles", function()
    local text, code = proc.run_program([[
      local pool = tine.new():pool(function(x) return x end, { max = 2, idle = 1 })
      local got
      pool("a", function(_, x) got = x end)
      tine.loop.run()
      say("run", got)
      say("main", tine.main(function() return (pool:await("b")) end))
      local gone
      pool:close(function() gone = true end)
      tine.loop.run()
      say("gone", gone)
    ]])
    assert.are.equal(0, code, text)
    assert.are.equal("run\ta\nmain\tb\ngone\ttrue\n", text)
  end)

  case("comes with the host's, however that dies", function()
    for _, how in ipairs { "os.exit(0)", "os.exit(0, true)", "error('out')", "die()" } do
      local program = proc.start_program([[
        local function die() os.execute("kill -KILL $PPID") end -- luacheck: ignore
        local pool = tine.new():pool(function()
          local f <close> = io.open("/proc/self/stat")
          require "tine".event(f:read("n"))
          while true do end
        end, { max = 2, start = 0, load = 1, on_event = function(pid) say("pid", pid) end })
        local n = 0
        for _ = 1, 4 do pool(function() n = n + 1 end) end
        tine.loop.timer(0.3, function() ]] .. how .. [[ end)
        tine.loop.run()
      ]])
      local one, two = program.wait_for("pid\t(%d+).-pid\t(%d+)")
      for _, pid in ipairs { one, two } do
        proc.wait_for(function() return not helper.alive(math.tointeger(tonumber(pid))) end)
      end
      proc.wait_for(function() return not helper.alive(program.pid) end)
    end
  end)

  case("is the same for one pool in another's worker", function()
    local pool = new_pool({ max = 1, init = function()
      local inner = require "tine"
      inner.reset()
      local below = inner.new():pool(function(x) return x * 2 end, { max = 1, serialiser = "lua" })
      function double(x) -- luacheck: globals double
        return inner.main(function() return (below:await(x)) end)
      end
    end, serialiser = "lua" }, "double", tine.new())
    assert.are.equal(42, pool:await(21))
    assert.are.equal(4, pool:await(2))
    finish(pool)
  end)

  case("gives init what was sent, in every worker", function()
    local shared = helper.write_file("shared text")
    local f <close> = assert(io.open(shared))
    local pool = new_pool({ max = 2, idle = 2, init = function(fd, a, b)
      local file = fd:to_file("r")
      file:seek("set")
      function work(what) -- luacheck: globals work
        return a, b, what, io.type(file)
      end
    end }, nil, tine.new():send_fd(f):send_arg("one", "two"))
    proc.wait_for(function() return pool:stats().idle == 2 end)
    local _, list = pool:broadcast("x")
    assert.are.equal(2, #list)
    for _, entry in ipairs(list) do
      assert.are.same({ "one", "two", "x", "file", n = 4 }, entry)
    end
    finish(pool)
  end)
end)
