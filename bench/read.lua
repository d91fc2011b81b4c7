-- How long a process takes to look at all that was loaded: CPU seconds, faults and all.
--   lua5.4 read.lua -l MB [-s | -a]
-- In a worker that was just forked from the template that loaded it; -s: in the process that
-- loaded it itself, the first time in each of a row of such processes; -a: again.
package.path = (arg[0]:match("^(.*/)[^/]*$") or "./") .. "lib/?.lua;" .. package.path
local program = require "program"
local tine = require "tine"

local options = program.options { l = 100, s = false, a = false }

-- read_all as what is entered: sends the seconds and what it found.
local READ <const> = [[
function read(sock, again)
  if again == "yes" then read_all() end
  local began = os.clock()
  local sum = read_all()
  sock:write(("%.9f %.17g %d\n"):format(os.clock() - began, sum, #data))
end
]]

local function load_all() return tine.new():eval(program.load, options.l):eval(READ) end

tine.main(function()
  local template = not options.s and load_all()
  if template then template:fork():await_ready() end
  for _ in program.rounds() do
    local p = template and template:fork() or load_all()
    local sock = assert(p:send_arg(options.a and "yes" or "no"):run("read"))
    local seconds, sum, records = sock:read_line():match("(%S+) (%S+) (%S+)")
    assert(tonumber(sum) > 0)
    program.answer { seconds = seconds, millions = records / seconds / 1e6 }
    sock:close()
    p:on_exit()
  end
end)
