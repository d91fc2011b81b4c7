-- How long a template takes to load, and to be forked the first time, which is when it is
-- sealed; or, with -w, how long a worker takes for work that allocates a lot.
--   lua5.4 load.lua -l MB [-c | -w]
-- -c: and for one copy of so much memory to a file in memory.
package.path = (arg[0]:match("^(.*/)[^/]*$") or "./") .. "lib/?.lua;" .. package.path
local program = require "program"
local tine = require "tine"

local options = program.options { l = 100, c = false, w = false }

-- Words of a text, counted and sorted, over and over: strings, tables that grow, closures.
local WORK <const> = [[
function work(sock)
  local began, n = os.clock(), 0
  repeat
    local counts, list = {}, {}
    for i = 1, 20000 do
      local word = "word " .. (i * 7919 % 5003)
      counts[word] = (counts[word] or 0) + 1
      list[#list + 1] = { word = word, at = i, print = function() return word, i end }
    end
    table.sort(list, function(a, b) return a.at * 7 % 1009 < b.at * 7 % 1009 end)
    n = n + 1
  until n == 50
  sock:write(("%.9f\n"):format(os.clock() - began))
end
]]

-- CPU seconds so far of process pid.
local function cpu(pid)
  local f <close> = assert(io.open(("/proc/%d/stat"):format(pid)))
  local user, system = f:read("a"):match("^.*%) %a" .. (" %-?%d+"):rep(10) .. " (%d+) (%d+)")
  return (user + system) / 100
end

local function copy()
  local blocks, path = {}, os.tmpname()
  for i = 1, options.l do blocks[i] = ("x"):rep(1 << 20) end
  os.remove(path)
  local f <close> = assert(io.open("/dev/shm/" .. path:match("[^/]*$"), "w"))
  os.remove("/dev/shm/" .. path:match("[^/]*$"))
  f:setvbuf("no")
  local began = os.clock()
  for i = 1, options.l do assert(f:write(blocks[i])) end
  return os.clock() - began
end

local function load_all()
  local p = tine.new_exec():eval(program.load, options.l)
  local worker = p:fork()
  worker:await_ready()
  local seconds = cpu(p:pid()) + (options.c and copy() or 0)
  program.answer { rate = options.l / seconds, seconds = seconds }
  worker:close()
  p:close()
  worker:on_exit()
  p:on_exit()
end

local function work(template)
  local p = template:fork()
  local sock = assert(p:run("work"))
  local seconds = tonumber(sock:read_line())
  program.answer { rate = 50 / seconds, seconds = seconds }
  sock:close()
  p:on_exit()
end

tine.main(function()
  local template = options.w and tine.new():eval(WORK):eval(program.load, options.l)
  for _ in program.rounds() do
    if options.w then work(template) else load_all() end
  end
end)
