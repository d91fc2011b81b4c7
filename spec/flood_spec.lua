-- Who sends without end costs others a few callbacks a turn of the loop. Counted, not timed.
local tine = require "tine"
local helper = require "spec.helper"

local loop, wait_until = tine.loop, helper.wait_until

-- More than a turn may call for a source: a first read that was made for larger things.
local FIRST <const>, MOST <const> = 5000, 200

-- The most that counter() has grown by in a poll, once the flood is there.
local function most_a_poll(counter)
  wait_until(10, function() return counter() > FIRST end)
  local most = 0
  for _ = 1, 200 do
    local before = counter()
    loop.poll(0.05)
    most = math.max(most, counter() - before)
  end
  return most
end

describe("a flood #proc", function()
  it("of empty events costs a few callbacks a turn, and calls are answered beside it", function()
    helper.no_leaks(function()
      local events, answered, rpcs = 0, 0, {}
      for i = 1, 2 do
        rpcs[i] = tine.new():rpc(function()
          local worker = require "tine"
          while true do worker.event("") end
        end, { on_event = function() events = events + 1 end, on_error = function() end })
        rpcs[i](function() end)
      end
      assert.is_true(most_a_poll(function() return events end) <= MOST)
      local pool = tine.new():pool(function(x) return x end, { max = 1 })
      local function again()
        answered = answered + 1
        if answered < 1000 then pool("x", again) end
      end
      pool("x", again)
      wait_until(10, function() return answered == 1000 end)
      pool:close()
      for i = 1, 2 do
        assert(os.execute("kill -9 " .. rpcs[i]:pid()))
        rpcs[i]:close()
      end
      loop.run()
    end)
  end)

  it("of empty lines costs a few callbacks a turn", function()
    helper.no_leaks(function()
      local lines, sock = 0, nil
      local p = tine.new { stdout = function() lines = lines + 1 end }
      p:run(function()
        while true do io.write(("\n"):rep(4096)) end
      end, function(fd) sock = fd end)
      wait_until(10, function() return sock end)
      assert.is_true(most_a_poll(function() return lines end) <= MOST)
      p:kill("KILL")
      sock:close()
      loop.run()
    end)
  end)

  -- A pool that always has a call under way. Returns what ends it.
  local function busy_pool()
    local busy = true
    local pool = tine.new():pool(function(x) return x end, { max = 1 })
    local function again() if busy then pool("x", again) end end
    pool("x", again)
    return function()
      busy = false
      pool:close()
      loop.run()
    end
  end

  -- The share of the host's time that events have, of those who send them all the time. An event
  -- costs the host 50 us.
  local function share_of_events(timer)
    local spent, over = 0, false
    local function on_event()
      if over then return end
      local now = os.clock()
      repeat until os.clock() - now > 50e-6
      spent = spent + os.clock() - now
    end
    local rpcs = {}
    for i = 1, 2 do
      rpcs[i] = tine.new():rpc(function()
        local worker = require "tine"
        while true do worker.event("") end
      end, { on_event = on_event, on_error = function() end })
      rpcs[i](function() end)
    end
    -- Who sends for long only.
    wait_until(20, function() return spent > 0.2 end)
    spent = 0
    local began = os.clock()
    wait_until(20, function() return os.clock() - began > 0.3 end)
    local share = spent / (os.clock() - began)
    over = true
    if timer then timer:close() end
    for i = 1, 2 do
      assert(os.execute("kill -9 " .. rpcs[i]:pid()))
      rpcs[i]:close()
    end
    return share
  end

  it("has a small share of the time while calls of others are under way", function()
    helper.no_leaks(function()
      local close = busy_pool()
      local share = share_of_events(loop.timer(0, 0, function() end))
      close()
      -- A tenth, but for the time in which others have this program's CPU. Else it is 0.93.
      assert.is_true(share < 0.75, "share: " .. share)
    end)
  end)

  it("has what it can get while there are none", function()
    helper.no_leaks(function()
      local share = share_of_events()
      loop.run()
      assert.is_true(share > 0.5, "share: " .. share)
    end)
  end)

  it("is none: a job with ten thousand events beside others' calls", function()
    helper.no_leaks(function()
      local close = busy_pool()
      local events, answer = {}, nil
      local rpc = tine.new():rpc(function(n)
        local worker = require "tine"
        for i = 1, n do worker.event(tostring(i)) end
        return n
      end, { on_event = function(i) events[#events + 1] = i end })
      rpc("10000", function(err, n) answer = err or n end)
      wait_until(10, function() return answer end)
      assert.equal("10000", answer)
      for i = 1, 10000 do
        if events[i] ~= tostring(i) then error("event " .. i .. " is " .. tostring(events[i])) end
      end
      assert.equal(10000, #events)
      rpc:close()
      close()
    end)
  end)
end)
