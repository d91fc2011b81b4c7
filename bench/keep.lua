-- What a worker has copied of what its template has loaded, and has of its own, after 10 million
-- tables and strings in 1000 rounds.
--   lua5.4 keep.lua -l MB [-w]
-- -w: it keeps the last 50 rounds', which so become old before they are garbage.
package.path = (arg[0]:match("^(.*/)[^/]*$") or "./") .. "lib/?.lua;" .. package.path
local program = require "program"
local tine = require "tine"

local options = program.options { l = 100, w = false }

local WORK <const> = [[
function work(sock, keep)
  local kept, most = {}, 0
  for r = 1, 1000 do
    local round = {}
    for i = 1, 5000 do round[i] = { i, "string " .. i .. r } end
    kept[r % tonumber(keep)] = round
    most = math.max(most, (collectgarbage "count"))
  end
  sock:write(most .. "\n")
  sock:read()
  collectgarbage("collect", "own") -- now it is known what of it was alive
  sock:write((collectgarbage "count") .. "\n")
  sock:read()
end
]]

tine.main(function()
  local template = tine.new():eval(program.load, options.l):eval(WORK)
  template:fork():await_ready()
  for _ in program.rounds() do
    local p = template:fork():send_arg(options.w and "50" or "1")
    p:await_ready()
    local sealed = template:memory().sealed
    local sock = assert(p:run("work"))
    local most = tonumber(sock:read_line())
    local copied = p:memory().copied
    sock:write("\n")
    local alive = tonumber(sock:read_line())
    program.answer { percent = copied / sealed * 100, most_mb = most / 1024,
      alive_mb = alive / 1024, bound_mb = 4 * alive / 1024 + 16,
      of_bound = most / (4 * alive + 16 * 1024) }
    sock:close()
    p:on_exit()
  end
end)
