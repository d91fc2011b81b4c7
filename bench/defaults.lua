-- Calls to a pool of two workers as users write them, of a function that gets a string of 5 bytes
-- and returns it.
--   lua5.4 defaults.lua [-l LOAD] [-m | -c]
-- Without -l the pool finds out how many calls to hand to a worker. By callbacks, 64 under way;
-- with -m by pool:map, with -c by 64 coroutines that wait for each call.
package.path = (arg[0]:match("^(.*/)[^/]*$") or "./") .. "lib/?.lua;" .. package.path
local program = require "program"
local tine = require "tine"

local options = program.options { l = 0, m = false, c = false }
local pool = tine.new():eval("function echo(s) return s end"):pool("echo",
  { max = 2, idle = 2, load = options.l > 0 and options.l or nil })

local WARM_UP <const>, UNDER_WAY <const> = 5000, 64

-- Each makes calls until going() says no.

local function by_callbacks(going)
  local function ended(err, result)
    if err then error(err) end
    assert(result == "hello")
    if going() then pool("hello", ended) end
  end
  for _ = 1, UNDER_WAY do pool("hello", ended) end
  tine.loop.run()
end

local function by_map(going)
  for _, ok, result in pool:map(function() return going() and "hello" or nil end) do
    assert(ok and result == "hello")
  end
end

local function by_coroutines(going)
  for _ = 1, UNDER_WAY do
    tine.go(function()
      repeat assert(pool:await("hello") == "hello") until not going()
    end)
  end
  tine.loop.run()
end

local run = options.m and by_map or options.c and by_coroutines or by_callbacks

-- So many calls, or for so long; returns how many there were.
local function calls(many, seconds)
  local count, now = 0, tine.loop.now
  local over = seconds and now() + seconds
  run(function()
    count = count + 1
    if over and count % 64 == 0 and now() >= over then many = 0 end
    return count < many
  end)
  return count
end

for seconds in program.rounds() do
  calls(WARM_UP)
  local begin = tine.loop.now()
  local count = calls(math.huge, seconds)
  local elapsed = tine.loop.now() - begin
  program.answer { rate = count / elapsed, count = count, seconds = elapsed }
end
