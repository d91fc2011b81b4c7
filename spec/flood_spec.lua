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
end)
