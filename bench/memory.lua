-- The memory that an idle worker has of its own, while it waits in sock:read.
--   lua5.4 memory.lua [-n WORKERS] [-l] [-m MB]
-- -l: forked from a template that has loaded modules, as many as it finds of a few that
-- are often there; -m: from one that has loaded so many MB of Lua. Of several workers from one
-- template the median is printed, in kB.
package.path = (arg[0]:match("^(.*/)[^/]*$") or "./") .. "lib/?.lua;" .. package.path
local program = require "program"
local tine = require "tine"

local options = program.options { n = 8, l = false, m = 0 }

local idle = [[
function idle(sock)
  sock:write("r")
  sock:read(1)
end
]]

local load_some = [[
for _, module in ipairs { "luacheck", "luacheck.main", "argparse", "cjson", "lfs", "busted" } do
  pcall(require, module)
end
]]

--- The sum of the lines of a file in /proc/PID that start with key.
local function proc_kb(pid, file, key)
  local total = 0
  for line in io.lines(("/proc/%d/%s"):format(pid, file)) do
    local kb = line:match("^" .. key .. ":%s*(%d+)")
    if kb then total = total + tonumber(kb) end
  end
  return total
end

local function memory_of(pid)
  local dirty = proc_kb(pid, "smaps_rollup", "Private_Dirty")
  return {
    private_kb = dirty + proc_kb(pid, "smaps_rollup", "Private_Clean"),
    private_dirty_kb = dirty,
    pss_kb = proc_kb(pid, "smaps_rollup", "Pss"),
    anonymous_kb = proc_kb(pid, "smaps_rollup", "Anonymous"),
    rss_kb = proc_kb(pid, "smaps_rollup", "Rss"),
    page_tables_kb = proc_kb(pid, "status", "VmPTE"),
  }
end

local function medians(all)
  local result = {}
  for name in pairs(all[1]) do
    local values = {}
    for i, one in ipairs(all) do values[i] = one[name] end
    table.sort(values)
    result[name] = values[(#values + 1) // 2]
  end
  return result
end

--- Starts one idle worker; returns its handle and socket once it is about to wait.
local function start(template)
  local p = template:fork()
  p:await_ready()
  local sock = assert(p:run("idle"))
  assert(sock:read(1) == "r", "the worker did not start")
  return { process = p, sock = sock }
end

local function measure(template)
  local workers, found = {}, {}
  for i = 1, options.n do workers[i] = start(template) end
  tine.loop.sleep(0.05)
  for i, worker in ipairs(workers) do found[i] = memory_of(worker.process:pid()) end
  for _, worker in ipairs(workers) do worker.sock:close() end
  program.answer(medians(found))
end

tine.main(function()
  local template = tine.new():eval(idle)
  if options.l then template:eval(load_some) end
  if options.m > 0 then template:eval(program.load, options.m) end
  for _ in program.rounds() do measure(template) end
end)
