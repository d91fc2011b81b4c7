-- New workers: made, told to run a function that returns at once, and seen to end.
--   lua5.4 spawn.lua [-k UNDER_WAY] [-m HOST_MB] [-n LIVE] [-d | -x | -l TEMPLATE_MB]
-- -d: from the default template, a C function that is there in any case; -x: each by exec of
-- a fresh interpreter, to its first line of Lua; else forked from a template, with -l from one
-- that has loaded so much of Lua. -n: while so many idle ones of that template live.
package.path = (arg[0]:match("^(.*/)[^/]*$") or "./") .. "lib/?.lua;" .. package.path
local program = require "program"
local tine = require "tine"

local options = program.options { k = 1, m = 0, n = 0, d = false, x = false, l = 0 }

local function close(sock) sock:close() end

local make
local idle = {}

-- So many more that wait for commands: the loop does not wait for them.
local function live(template, n)
  for _ = 1, n do idle[#idle + 1] = template:fork() end
  while not idle[#idle]:pid() do tine.loop.poll(1) end
end

if options.d then
  function make(ended)
    local p = tine.new()
    p:on_exit(ended)
    p:run("type", close)
  end
elseif options.x then
  function make(ended)
    local p = tine.new_exec()
    p:on_exit(ended)
    p:eval("function noop() end"):run("noop", close)
  end
else
  local template = tine.new():eval("function noop() end")
  if options.l > 0 then template:eval(program.load, options.l) end
  function make(ended)
    local p = template:fork()
    p:on_exit(ended)
    p:run("noop", close)
  end
  for _ = 1, options.n, 64 do live(template, math.min(64, options.n - #idle)) end
end

local host = program.touch(options.m)
for seconds in program.rounds() do
  program.keep_busy(tine.loop, seconds, options.k, make)
end
-- Held to the end: the memory is what makes the host big.
assert(#host == options.m * 16)
