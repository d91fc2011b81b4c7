-- Waits that end early: tine.timeout, and a task that is cancelled.
require "spec.helper"
local tine = require "tine"

local loop = tine.loop

-- Seconds that nothing here takes.
local LONG <const> = 60

-- What a call raises is about the line in this file where the function was made.
local function assert_blames(pattern, fn)
  local ok, err = pcall(fn)
  assert.is_false(ok)
  assert.matches("timeout_spec%.lua:" .. debug.getinfo(fn, "S").linedefined .. ": ", err)
  assert.matches(pattern, err)
end

-- A pool of one worker whose jobs do as their argument says.
local function sleeper()
  return tine.new():eval(function()
    local t = require "tine"
    function _G.work(done, what)
      if what == "stay" then
        t.loop.timer(60, done)
      else
        done(what)
      end
    end
  end):pool("work", { max = 1, async = true, load = 4 })
end

describe("tine.timeout #unit", function()
  it("returns what the function returns in time, nils too", function()
    assert.are.same({ 1, nil, 3, nil, n = 4 }, table.pack(tine.main(function()
      return tine.timeout(LONG, function(...)
        loop.sleep(0)
        return ...
      end, 1, nil, 3, nil)
    end)))
    assert.is_true(loop.run()) -- no timer is left
  end)

  it("ends a wait, whatever is waited for, and what comes next is not touched", function()
    tine.main(function()
      local a, b = tine.socketpair()
      local full, unread = tine.socketpair()
      local listening = tine.listen("127.0.0.1:0")
      local other = tine.go(loop.sleep, LONG)
      local waits = {
        sleep = function() loop.sleep(LONG) end,
        read = function() b:read() end,
        read_line = function() b:read_line() end,
        recv_fd = function() b:recv_fd() end,
        write = function() full:write(("x"):rep(1 << 24)) end,
        accept = function() listening:accept() end,
        await = function() other:await() end,
        nested = function() return tine.timeout(LONG, loop.sleep, LONG) end,
      }
      for what, wait in pairs(waits) do
        local closed
        local result, err = tine.timeout(0.01, function()
          local _ <close> = setmetatable({}, { __close = function() closed = true end })
          wait()
          return what
        end)
        assert.is_nil(result, what)
        assert.are.equal("timeout", err.kind, what)
        assert.matches("it took longer than 0%.01 s", tostring(err))
        assert.is_true(closed, what)
      end
      other:cancel()
      listening:close()
      local own, peer = tine.socketpair()
      peer:write("mine")
      assert.are.equal("mine", own:read())
      for _, fd in ipairs { a, b, full, unread, own, peer } do fd:close() end
    end)
    assert.is_true(loop.run())
  end)

  it("raises what the function raises, and passes an outer one's end on", function()
    tine.main(function()
      local value = {}
      local ok, err = pcall(tine.timeout, LONG, error, value)
      assert.is_false(ok)
      assert.is_true(rawequal(value, err))
      local inside
      local result, late = tine.timeout(0.01, function()
        inside = table.pack(tine.timeout(LONG, loop.sleep, LONG))
      end)
      assert.is_nil(result)
      assert.are.equal("timeout", late.kind)
      assert.is_nil(inside)
    end)
  end)

  it("is over with the function: a function that waits for nothing is left alone", function()
    tine.main(function()
      local result = tine.timeout(0, function()
        local start = loop.now()
        while loop.now() - start < 0.02 do end
        return "done"
      end)
      assert.are.equal("done", result)
      loop.sleep(0.01)
      assert.are.equal("still", tine.timeout(math.huge, function() return "still" end))
    end)
  end)

  it("raises outside of a task, where Lua cannot yield, and for wrong arguments", function()
    assert_blames("only inside of tine.go", function() tine.timeout(1, print) end)
    tine.main(function()
      assert_blames("a time of 0 or more seconds", function() tine.timeout(-1, print) end)
      assert_blames("a time of 0 or more seconds", function() tine.timeout(0 / 0, print) end)
      assert_blames("a function expected, got nil", function() tine.timeout(1) end)
      local ok, err = pcall(string.gsub, "a", "a", function() tine.timeout(1, print) end)
      assert.is_false(ok)
      assert.matches("timeout: cannot wait inside", err)
    end)
  end)
end)

describe("tine.timeout where it does not wait #unit", function()
  -- What runs outside of the loop turns it by itself: time passes, and nothing waits.
  local function turn_for(seconds)
    local over = loop.now() + seconds
    while loop.now() < over do loop.poll(0.005) end
  end

  it("raises at the next wait, the outer's after the inner's", function()
    local outer, inner
    tine.go(function()
      outer = table.pack(tine.timeout(0.001, function()
        inner = table.pack(tine.timeout(0.002, function()
          turn_for(0.02)
          loop.sleep(LONG)
        end))
        return "goes on"
      end))
    end)
    assert.are.equal("timeout", outer[2].kind)
    assert.is_nil(inner) -- the outer's time was over first
    outer, inner = nil, nil
    tine.go(function()
      outer = table.pack(tine.timeout(0.002, function()
        inner = table.pack(tine.timeout(0.001, function()
          turn_for(0.02)
          loop.sleep(LONG)
        end))
        loop.sleep(LONG)
      end))
    end)
    assert.are.equal("timeout", inner[2].kind)
    assert.are.equal("timeout", outer[2].kind)
    assert.is_true(loop.run())
  end)

  it("raises nothing after the function", function()
    local slept
    tine.go(function()
      assert.are.equal("done", tine.timeout(0.001, function()
        turn_for(0.01)
        return "done"
      end))
      loop.sleep(0)
      slept = true
    end)
    assert.is_true(loop.run())
    assert.is_true(slept)
  end)
end)

describe("tine.timeout and calls #proc", function()
  it("cancels the call, and the next gets its own answer", function()
    tine.main(function()
      local pool <close> = sleeper()
      assert.are.equal("first", pool:await("first"))
      local result, err = tine.timeout(0.02, pool.await, pool, "stay")
      assert.is_nil(result)
      assert.are.equal("timeout", err.kind)
      assert.are.equal("second", pool:await("second"))
      local _, third = tine.timeout(LONG, pool.call, pool, "third")
      assert.are.equal("third", third)
      result, err = tine.timeout(0.02, pool.call, pool, { args = { "stay" }, timeout = LONG })
      assert.is_nil(result)
      assert.are.equal("timeout", err.kind)
      while pool:stats().cancelled < 2 do loop.sleep(0.002) end
      pool:close()
    end)
  end)

  it("leaves a job alone that was made before, and is only awaited", function()
    tine.main(function()
      local pool <close> = sleeper()
      local told
      local job = pool("stay", function(err) told = err.kind end)
      assert.are.equal("timeout", select(2, tine.timeout(0.02, job.await, job)).kind)
      loop.sleep(0.01)
      assert.is_nil(told)
      job:cancel()
      loop.sleep(0)
      pool:close()
      assert.are.equal("cancelled", told)
    end)
  end)

  it("cancels what is made ahead by map", function()
    tine.main(function()
      local pool <close> = sleeper()
      assert.are.equal("timeout", select(2, tine.timeout(0.02, function()
        for _ in pool:map { "stay", "stay", "stay" } do end
      end)).kind)
      pool:close() -- would wait for them
    end)
  end)

  it("ends waits for a process", function()
    tine.main(function()
      local p = tine.new()
      local err, info, late
      err, late = tine.timeout(0.02, p.on_exit, p)
      assert.is_nil(err)
      assert.are.equal("timeout", late.kind)
      p:kill("KILL")
      err, info = p:on_exit()
      assert.are.equal("crash", err.kind)
      assert.are.equal(9, info.signal)
    end)
  end)
end)

describe("task:cancel #unit", function()
  it("raises where the task waits, at once; who awaits it gets the error", function()
    tine.main(function()
      local closed
      local task = tine.go(function()
        local _ <close> = setmetatable({}, { __close = function() closed = true end })
        loop.sleep(LONG)
      end)
      task:cancel()
      assert.is_true(closed)
      for _ = 1, 2 do
        local ok, err = pcall(task.await, task)
        assert.is_false(ok)
        assert.are.equal("cancelled", err.kind)
        task:cancel()
      end
    end)
    assert.is_true(loop.run()) -- nobody else gets it
  end)

  it("wakes one who awaits it already", function()
    local got = tine.main(function()
      local task = tine.go(loop.sleep, LONG)
      local waiter = tine.go(function() return select(2, pcall(task.await, task)) end)
      task:cancel()
      return waiter:await()
    end)
    assert.are.equal("cancelled", got.kind)
  end)

  it("ends a task that does not wait at its next wait, once", function()
    local myself, order = nil, {}
    tine.main(function()
      myself = tine.go(function()
        loop.sleep(0)
        myself:cancel()
        order[1] = "goes on"
        order[2] = select(2, pcall(loop.sleep, LONG)).kind
        loop.sleep(0)
        order[3] = "may tidy up"
        return "result"
      end)
      assert.are.equal("result", myself:await())
    end)
    assert.are.same({ "goes on", "cancelled", "may tidy up" }, order)
  end)

  it("ends itself, and quietly, before its first wait too", function()
    tine.main(function()
      local closed
      local task
      task = tine.go(function()
        local _ <close> = setmetatable({}, { __close = function() closed = true end })
        loop.sleep(0)
        task:cancel()
        task:cancel() -- is one
        loop.sleep(LONG)
      end)
      loop.sleep(0.005)
      assert.is_true(closed)
      local ok, err = pcall(task.await, task)
      assert.is_false(ok)
      assert.are.equal("cancelled", err.kind)
    end)
    assert.is_true(loop.run())
  end)

  it("raises again when it is cancelled again", function()
    tine.main(function()
      local n = 0
      local task = tine.go(function()
        for _ = 1, 3 do
          if not pcall(loop.sleep, LONG) then n = n + 1 end
        end
      end)
      for _ = 1, 3 do task:cancel() end
      task:await()
      assert.are.equal(3, n)
    end)
  end)

  it("does nothing to one that has ended", function()
    local task = tine.go(function() return 42 end)
    task:cancel()
    assert.are.equal(42, task:await())
  end)

  it("tells of another error that came of it", function()
    local task = tine.go(function()
      local _ <close> = setmetatable({}, { __close = function() error("while closing") end })
      loop.sleep(LONG)
    end)
    tine.go(function()
      loop.sleep(0)
      task:cancel()
    end)
    local ok, err = pcall(loop.run)
    assert.is_false(ok)
    assert.matches("while closing", err)
  end)
end)

describe("task:cancel and calls #proc", function()
  it("cancels the call of a main that is given up", function()
    local pool = sleeper()
    tine.main(function()
      pool:await("ready")
      loop.timer(0.01, function() loop.stop() end)
      pool:await("stay")
    end)
    pool:close()
    assert.is_true(loop.run()) -- would wait for the job
    assert.is_false(loop.poll())
  end)

  it("cancels the call that the task waits for", function()
    tine.main(function()
      local pool <close> = sleeper()
      pool:await("ready")
      local task = tine.go(function() pool:await("stay") end)
      task:cancel()
      pool:close() -- would wait for the job
      assert.are.equal("cancelled", select(2, pcall(task.await, task)).kind)
    end)
  end)
end)
