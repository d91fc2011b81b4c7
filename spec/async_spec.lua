-- Async workers whose jobs are stopped, asked about, and print, while others wait.
local helper = require "spec.helper"
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
    elseif name == "print" then
      local text, n, seconds = ...
      for i = 1, n do
        print(text, i)
        io.stderr:write(text, "\terr")
        worker.loop.sleep(tonumber(seconds))
      end
      worker.loop.timer(0, function()
        print("callback")
        done(text)
      end)
    elseif name == "nap" then
      local function napping() worker.loop.sleep(1000) end
      napping()
    elseif name == "callback" then
      worker.loop.timer(0, function()
        say(name)
        spin()
      end)
      done()
    elseif name == "sleep, then spin" then
      worker.loop.sleep(0.01)
      say(name)
      spin()
    elseif name == "go and fail" then
      local i, how = ...
      local function fail() error("job " .. i .. " fails") end
      local ways = {
        coroutine = function()
          worker.go(function()
            worker.loop.sleep(0.02)
            fail()
          end)
        end,
        timer = function() worker.loop.timer(0.02, fail) end,
        nested = function()
          worker.loop.timer(0.01, function()
            worker.go(function()
              worker.loop.sleep(0.01)
              worker.loop.timer(0, fail)
            end)
          end)
        end,
        ["wrapped coroutine"] = function()
          worker.go(coroutine.wrap(function() fail() end))
        end,
        watcher = function()
          local a, b = worker.socketpair()
          worker.loop.io(a, "r", function(_, io)
            io:close()
            fail()
          end)
          b:write("x")
        end,
      }
      ways[how]()
      worker.go(function() -- keeps its done
        worker.loop.sleep(0.1)
        done("late")
      end)
    elseif name == "go and answer" then
      worker.go(function(...)
        worker.loop.sleep(0.05)
        done(...)
      end, ...)
    elseif name == "go and spin" then
      worker.go(function()
        worker.loop.sleep(0.01)
        say(name)
        spin()
      end)
      worker.go(function()
        worker.loop.sleep(1000)
        done()
      end)
    elseif name == "close" then
      local path = ...
      worker.go(function()
        local _ <close> = setmetatable({}, { __close = function(_, err)
          local f <close> = io.open(path, "w")
          f:write(tostring(err.kind))
        end })
        worker.loop.sleep(1000)
        done()
      end)
    elseif name == "exit late" then
      worker.loop.timer(0.02, function() os.exit(9) end)
      worker.go(function()
        worker.loop.sleep(1000)
        done()
      end)
    elseif name == "fail late" then
      worker.loop.timer(0.02, function() error("too late") end)
      done("answered")
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
      local pool, seen = new_async { grace = 60 }
      local pid = pool:await("pid")
      local r = results()
      pool("later", 0.5, "x", r.cb(1))
      local later = pool("later", 1000, "y", r.cb(2))
      local spin = pool(name, r.cb(3))
      proc.wait_for(function() return seen[name] end)
      spin:cancel()
      later:cancel()
      r.wait(3)
      assert.are.same({ "fine", "cancelled", "cancelled" }, r.kinds)
      assert.matches("spin", r.errs[3].traceback)
      assert.are.equal(pid, pool:await("pid"))
      finish(pool)
    end)
  end

  case("interrupts one that goes on after it was stopped", function()
    local pool, seen = new_async { grace = 60 }
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

describe("what a job of an async worker has started #proc", function()
  for _, how in ipairs { "coroutine", "timer", "nested", "wrapped coroutine", "watcher" } do
    case("fails that job when it raises, and no neighbour: " .. how, function()
      local pool, _, faults = new_async {}
      local pid = pool:await("pid")
      local r = results()
      for i = 1, 10 do
        if i == 3 then
          pool("go and fail", i, how, r.cb(i))
        else
          pool("go and answer", i, r.cb(i))
        end
      end
      r.wait(10)
      for i = 1, 10 do assert.are.equal(i == 3 and "exception" or "fine", r.kinds[i]) end
      assert.matches("job 3 fails$", r.errs[3].message)
      assert.matches("^stack traceback:\n", r.errs[3].traceback)
      assert.are.equal(pid, pool:await("pid"))
      assert.are.same({}, faults)
      finish(pool)
    end)
  end

  case("is interrupted past its deadline, in whichever coroutine it spins", function()
    local pool, seen = new_async { grace = 60 }
    local pid = pool:await("pid")
    local r = results()
    pool("later", 0.3, "x", r.cb(1))
    pool:call { args = { "go and spin" }, timeout = 0.1, cb = r.cb(2) }
    proc.wait_for(function() return seen["go and spin"] end)
    r.wait(2)
    assert.are.same({ "fine", "timeout" }, r.kinds)
    assert.are.equal(pid, pool:await("pid"))
    finish(pool)
  end)

  case("gets the error where it waits when it is cancelled or late", function()
    local pool = new_async { grace = 60 }
    local pid = pool:await("pid")
    local r, paths = results(), { helper.tmpname(), helper.tmpname() }
    local job = pool("close", paths[1], r.cb(1))
    pool:call { args = { "close", paths[2] }, timeout = 0.1, cb = r.cb(2) }
    r.wait(1)
    job:cancel()
    r.wait(2)
    assert.are.same({ "cancelled", "timeout" }, r.kinds)
    for i, kind in ipairs { "cancelled", "timeout" } do
      proc.wait_for(function()
        local f <close> = io.open(paths[i])
        return f and f:read("a") == kind
      end)
    end
    assert.are.equal(pid, pool:await("pid"))
    finish(pool)
  end)

  case("kills its worker at its own cost: what else was open spends no try", function()
    local pool = new_async { retries = 1 }
    local r = results()
    for i = 1, 10 do
      if i == 3 then pool("exit late", r.cb(i)) else pool("go and answer", i, r.cb(i)) end
    end
    r.wait(10)
    for i = 1, 10 do assert.are.equal(i == 3 and "crash" or "fine", r.kinds[i], i) end
    assert.matches("code 9.* %(tried 2 times%)", r.errs[3].message)
    finish(pool)
  end)

  case("may raise after the answer: the worker lives", function()
    local pool, _, faults = new_async {}
    local pid = pool:await("pid")
    assert.are.equal("answered", pool:await("fail late"))
    proc.wait_for(function() return #faults > 0 end)
    assert.are.equal(pid, pool:await("pid"))
    assert.are.equal(1, #faults)
    assert.are.equal("exception", faults[1].kind)
    assert.matches("too late", faults[1].message)
    assert.matches("traceback", faults[1].traceback)
    assert.are.equal(tonumber(pid), faults[1].pid)
    finish(pool)
  end)

  case("may raise after the answer, of an rpc, too", function()
    local faults = {}
    local rpc = assert(tine.new():eval(pools.prepare):eval(prepare):rpc("async", { async = true,
      on_error = function(err) faults[#faults + 1] = err end }))
    assert.are.equal("answered", rpc:await("fail late"))
    proc.wait_for(function() return #faults > 0 end)
    assert.are.equal("x", (rpc:await("echo", "x")))
    assert.are.equal(tonumber((rpc:await("pid"))), faults[1].pid)
    assert.matches("too late", faults[1].message)
    rpc:close()
    assert.are.equal(1, #faults)
  end)
end)

describe("lines of an async worker #proc", function()
  case("have the job whose function wrote them, also after a wait", function()
    local lines, ids, r = {}, {}, results()
    local pool = new_async { on_line = function(line, info)
      lines[#lines + 1] = { line, info.job, info.stream }
    end }
    for i = 1, 20 do ids[i] = pool("print", "job" .. i, 3, 0.001 * (i % 3), r.cb(i)):id() end
    r.wait(20)
    finish(pool)
    local count, callbacks = 0, 0
    for _, entry in ipairs(lines) do
      local i, rest = entry[1]:match("^job(%d+)\t(%w+)$")
      if i then
        count = count + 1
        assert.are.equal(ids[tonumber(i)], entry[2], entry[1])
        assert.are.equal(rest == "err" and "stderr" or "stdout", entry[3])
      else
        assert.are.equal("callback", entry[1])
        assert.is_truthy(entry[2]) -- it is the job's that has made the timer
        callbacks = callbacks + 1
      end
    end
    assert.are.equal(20 * 3 * 2, count)
    assert.are.equal(20, callbacks)
  end)

  -- The host knows the last 256 calls of a worker by heart, and those that are open.
  case("have the job that is open, however many have ended since", function()
    local lines, r = {}, results()
    local pool = new_async { on_line = function(line, info) lines[line] = info.job end }
    local old = pool("print", "old", 2, 0.3, r.cb(1))
    for i = 2, 601 do pool("echo", i, r.cb(i)) end
    r.wait(601)
    finish(pool)
    assert.are.equal(old:id(), lines["old\t1"])
    assert.are.equal(old:id(), lines["old\t2"])
  end)
end)

describe("the traceback of an async worker #proc", function()
  case("tells where each open call waits, by its job", function()
    local pool = new_async { grace = 5 }
    local pid = tonumber(pool:await("pid"))
    assert.matches("nothing runs", pool:traceback(pid))
    local r = results()
    local nap, never = pool("nap", r.cb(1)), pool("never", r.cb(2))
    pool:await("pid") -- they have started
    local text = assert(pool:traceback(pid))
    assert.matches("^nothing runs: 2 calls wait\n", text)
    assert.matches("\njob " .. nap:id() .. ": .*napping.*\njob " .. never:id() .. ": .*returned",
      text)
    assert.is_nil(text:find("job " .. nap:id() .. ": .*napping.*napping.*job"))
    never:cancel()
    r.wait(1)
    assert.matches("^nothing runs: 1 call waits\n.*napping", assert(pool:traceback(pid)))
    nap:cancel()
    r.wait(2)
    assert.matches("^nothing runs: the worker waits", assert(pool:traceback(pid)))
    finish(pool)
  end)

  case("shows the oldest of very many", function()
    local pool = new_async { load = 5000, grace = 5 }
    local pid = tonumber(pool:await("pid"))
    local r = results()
    for i = 1, 3000 do pool("nap", r.cb(i)) end
    pool:await("pid")
    local text = assert(pool:traceback(pid))
    assert.matches("^nothing runs: 3000 calls wait; the first %d+:\njob 2: .*\njob 3: ", text)
    assert.is_true(#text < 200000, #text)
    pools.kill(pid)
    r.wait(3000)
    finish(pool)
  end)

  case("shows what runs: a job, or a callback", function()
    for _, name in ipairs { "spin loudly", "sleep, then spin", "callback" } do
      local pool, seen = new_async { grace = 0.1 }
      local pid = tonumber(pool:await("pid"))
      local r = results()
      pool("nap", r.cb(1))
      local job = pool(name, r.cb(2))
      proc.wait_for(function() return seen[name] end)
      local text = assert(pool:traceback(pid))
      assert.matches("'spin'", text)
      assert.is_nil(text:find("napping"))
      if name ~= "callback" then assert.matches("^job " .. job:id() .. ": ", text) end
      finish(pool, 0)
    end
  end)
end)
