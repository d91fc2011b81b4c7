-- Calls of a Lua function in a worker, which gets a string of 5 bytes and returns it.
--   lua5.4 calls.lua [-k UNDER_WAY] [-w WORKERS] [-f FLOOD]
-- Without -w one worker by rpc, with it a pool. With -f beside it something that sends without
-- end: 1 two workers empty events, 2 a process empty lines.
package.path = (arg[0]:match("^(.*/)[^/]*$") or "./") .. "lib/?.lua;" .. package.path
local program = require "program"
local tine = require "tine"

local WARM_UP <const> = 1000

local options = program.options { k = 1, w = 0, f = 0 }
local template = tine.new():eval("function echo(s) return s end")
local call
if options.w > 0 then
  call = template:pool("echo", { max = options.w, idle = options.w,
    load = math.max(1, math.ceil(options.k / options.w)) })
else
  call = template:rpc("echo")
end

local function flood_of_events()
  local rpc = tine.new():rpc(function()
    local worker = require "tine"
    while true do worker.event("") end
  end, { on_event = function() end })
  rpc(function() end)
  return rpc
end

if options.f == 1 then
  options.held = { flood_of_events(), flood_of_events() }
elseif options.f == 2 then
  local p = tine.new { stdout = function() end }
  p:run(function()
    while true do io.write(("\n"):rep(4096)) end
  end, function(sock) options.held = sock end)
end

for seconds in program.rounds() do
  local now = tine.loop.now
  local warm, count, begin, over = WARM_UP, 0, nil, false
  local elapsed
  local left = options.k

  local function ended(err, result)
    if err then error(err) end
    assert(result == "hello")
    if warm > 0 then
      warm = warm - 1
      if warm == 0 then begin = now() end
    elseif not over then
      count = count + 1
      if count % 64 == 0 then
        elapsed = now() - begin
        over = elapsed >= seconds
      end
    end
    if not over then
      call("hello", ended)
    else
      left = left - 1
      if left == 0 and options.f > 0 then
        tine.loop.stop() -- the flood never ends
      end
    end
  end

  for _ = 1, options.k do call("hello", ended) end
  tine.loop.run()
  program.answer { rate = count / elapsed, count = count, seconds = elapsed }
end
