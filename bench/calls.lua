-- Calls of a Lua function in a worker, which gets a string of 5 octets and returns it.
--   lua5.4 calls.lua [-k UNDER_WAY] [-w WORKERS]
-- Without -w one worker by rpc, with it a pool.
package.path = (arg[0]:match("^(.*/)[^/]*$") or "./") .. "lib/?.lua;" .. package.path
local program = require "program"
local tine = require "tine"

local WARM_UP <const> = 1000

local options = program.options { k = 1, w = 0 }
local template = tine.new():eval("function echo(s) return s end")
local call
if options.w > 0 then
  call = template:pool("echo", { max = options.w, idle = options.w,
    load = math.max(1, math.ceil(options.k / options.w)) })
else
  call = template:rpc("echo")
end

for seconds in program.rounds() do
  local now = tine.loop.now
  local warm, count, begin, over = WARM_UP, 0, nil, false
  local elapsed

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
    if not over then call("hello", ended) end
  end

  for _ = 1, options.k do call("hello", ended) end
  tine.loop.run()
  program.answer { rate = count / elapsed, count = count, seconds = elapsed }
end
