-- One worker that holds thousands of timers: with the async backend a call is answered whenever
-- its `done` is called, and calls made later may be answered sooner.
--
--   lua5.4 examples/timers.lua [NUMBER]      default: 2000 timers, of up to half a second
local tine = require "tine"

local number = math.tointeger(tonumber(arg[1] or 2000))

-- In the worker: answers when the time is up.
local function remind(done, seconds, text)
  local worker = require "tine"
  if seconds == 0 then
    return done("at once: " .. text)
  end
  worker.loop.timer(seconds, function()
    if text == "number 1" then worker.event("the first of all rings") end
    done(text)
  end)
end

local rpc = tine.new():rpc(remind, {
  async = true,
  serialiser = "lua",
  on_event = print,
  on_destroy = function() print "the worker has gone" end,
})

local answered, late = 0, 0
local began = tine.loop.now()

for i = 1, number do
  local seconds = 0.5 * (number - i) / number
  rpc(seconds, "number " .. i, function(err)
    if err then error(err) end
    answered = answered + 1
    if tine.loop.now() - began > seconds + 0.25 then late = late + 1 end
    if answered == number then
      print(("%d timers rang, %d of them late"):format(answered, late))
    end
  end)
end
rpc(0, "made last", function(err, text) print(err or text) end)

rpc:close() -- what is queued is still carried out
tine.loop.run()
