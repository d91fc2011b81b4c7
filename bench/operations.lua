-- How many pages of a sealed template each kind of operation copies, in a fresh worker.
--   lua5.4 operations.lua [-l MB] [-q]
-- -l: how much the template has loaded; -q: without the operations that take seconds.
-- Answers with the pages of each, of 4 kB, by the names of lib/operations.lua; "start" is what
-- a worker has copied before, "rpc" is 1000 calls; "sealed" is how many pages there are.
local bench = arg[0]:match("^(.*/)[^/]*$") or "./"
package.path = bench .. "lib/?.lua;" .. package.path
local operations = require "operations"
local program = require "program"
local tine = require "tine"

local options = program.options { l = 100, q = false }

-- What a template has besides the records: run_operation and written, as what is entered.
local PREPARE <const> = [[
local path, id = ...
package.path = path .. "lib/?.lua;" .. package.path
local operations = require "operations"
local core = require "tine.core"
local records, by_id, prepared = data, {}, nil
-- Its keys are kept: to make strings of them would be a write to the string table.
local names = core.child().heap_stats()
for _, operation in ipairs(operations) do by_id[operation.id] = operation end
if by_id[id].prepare then prepared = by_id[id].prepare(records) end

function written()
  local stats = names and core.child().heap_stats()
  return stats and stats.written // 4096 or 0, stats and stats.sealed // 4096 or 0
end

function run_operation(sock, name)
  local before, sealed = written()
  by_id[name].run(records, prepared)
  sock:write(("%d %d %d\n"):format(written() - before, before, sealed))
end

function call() return written() end
]]

local function make_template(id)
  return tine.new_exec():eval(program.load, options.l):eval(PREPARE, bench, id)
end

--- Pages copied by the operation, pages copied before, and sealed pages.
local function measure(template, id)
  local p = template:fork()
  local sock = assert(p:send_arg(id):run("run_operation"))
  local copied, before, sealed = sock:read_line():match("(%d+) (%d+) (%d+)")
  sock:close()
  p:on_exit()
  return tonumber(copied), tonumber(before), tonumber(sealed)
end

local function measure_calls(template)
  local rpc = template:fork():rpc("call")
  local before = rpc:await()
  for _ = 1, 1000 do rpc:await() end
  local after = rpc:await()
  rpc:close()
  return after - before
end

local function measure_all()
  local result = {}
  local template = make_template("idle")
  result.idle, result.start, result.sealed = measure(template, "idle")
  if result.sealed == 0 then
    print("skip=nothing is sealed here")
    return
  end
  result.rpc = measure_calls(template)
  for _, operation in ipairs(operations.possible(options.q)) do
    local own = operation.prepare and make_template(operation.id)
    result[operation.id] = measure(own or template, operation.id)
    if own then own:close() end
  end
  template:close()
  program.answer(result)
end

tine.main(function()
  for _ in program.rounds() do measure_all() end
end)
