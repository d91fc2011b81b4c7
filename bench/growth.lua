-- The memory that workers have of their own over time, while they do a job that allocates.
--   lua5.4 growth.lua [-l MB] [-n WORKERS] [-j JOBS]
-- -l: how much their template has loaded; -j: how many jobs each does. Time goes by jobs, so
-- that it is the same on a busy machine. Answers with the mean of the workers in MiB, after so
-- many jobs of each (at_0, at_10, ...), at the end (private_mb) and at most (peak_mb), and with
-- how many jobs they did in a second all together (rate).
package.path = (arg[0]:match("^(.*/)[^/]*$") or "./") .. "lib/?.lua;" .. package.path
local program = require "program"
local tine = require "tine"

local options = program.options { l = 200, n = 4, j = 400 }
local SAMPLES <const> = 40

-- Of 2000 of the records loaded (or of some of its own, where nothing is): to lines of text,
-- which are taken apart again, summed up by kind, sorted, and written as a report. The last
-- 20 reports are kept.
local JOB <const> = [[
local reports, done = {}, 0

local function lines_of(first, n)
  local lines = {}
  for i = first, first + n - 1 do
    local r = #data > 0 and data[i % #data + 1]
      or { id = i, name = "item number " .. i, at = { x = i, y = i * 2.5 } }
    lines[#lines + 1] = ("%d;%s;%g;%g;kind %d"):format(r.id, r.name, r.at.x, r.at.y, i * 7 % 97)
  end
  return table.concat(lines, "\n")
end

local function parse(text)
  local list = {}
  for id, name, x, y, kind in text:gmatch("(%d+);([^;]*);([^;]*);([^;]*);([^\n]*)") do
    list[#list + 1] = { id = tonumber(id), name = name:upper(), kind = kind,
      area = tonumber(x) * tonumber(y), text = function() return kind .. ": " .. name end }
  end
  return list
end

local function sum_up(list)
  local kinds, sorted = {}, {}
  for _, item in ipairs(list) do
    local kind = kinds[item.kind]
    if not kind then
      kind = { name = item.kind, area = 0, items = {} }
      kinds[item.kind], sorted[#sorted + 1] = kind, kind
    end
    kind.area = kind.area + item.area
    kind.items[#kind.items + 1] = item.text()
  end
  table.sort(sorted, function(a, b) return a.area > b.area end)
  return sorted
end

function job(worker)
  done = done + 1
  local out = {}
  for i, kind in ipairs(sum_up(parse(lines_of((worker * 7919 + done) * 2000, 2000)))) do
    out[i] = ("%s: %g (%s)"):format(kind.name, kind.area, table.concat(kind.items, ", "))
  end
  reports[done % 20 + 1] = table.concat(out, "\n")
  return done
end
]]

--- Calls the job over and over.
local function keep_busy(rpc, number, run)
  tine.go(function()
    for _ = 1, options.j do
      rpc:await(number)
      run.jobs = run.jobs + 1
    end
  end)
end

local function mean_private(workers)
  local sum = 0
  for _, worker in ipairs(workers) do sum = sum + assert(worker.process:memory()).private end
  return sum / #workers / (1 << 20)
end

local function measure(template)
  local workers, run = {}, { jobs = 0 }
  for i = 1, options.n do
    local p = template:fork()
    p:await_ready()
    workers[i] = { process = p, rpc = p:rpc("job") }
  end
  local result = { at_0 = mean_private(workers) }
  result.peak_mb = result.at_0
  local clock <close> = assert(io.open("/proc/uptime"))
  local began = clock:read("n")
  for i, worker in ipairs(workers) do keep_busy(worker.rpc, i, run) end
  for i = 1, SAMPLES do
    while run.jobs < options.n * options.j * i / SAMPLES do tine.loop.sleep(0.005) end
    result.private_mb = mean_private(workers)
    result.peak_mb = math.max(result.peak_mb, result.private_mb)
    result[("at_%d"):format(run.jobs // options.n)] = result.private_mb
  end
  clock:seek("set")
  result.rate = options.n * options.j / (clock:read("n") - began)
  for _, worker in ipairs(workers) do worker.rpc:close() end
  for name, value in pairs(result) do result[name] = tonumber(("%.2f"):format(value)) end
  program.answer(result)
end

tine.main(function()
  local template = tine.new():eval(JOB):eval(program.load, options.l)
  template:fork():await_ready()
  for _ in program.rounds() do measure(template) end
end)
