--- What the Lua programs of the benchmark share: their options, memory to be big with, and
-- their conversation with bench/interleave (see bench.h). Knows nothing of tine.
local program = {}

--- Reads options from the command line.
-- @tparam table known shape of the result: name to default; a boolean makes a flag, a
-- number an option with a value
-- @treturn table the same names, with what was given
function program.options(known)
  local given, i = {}, 1
  for name, default in pairs(known) do given[name] = default end
  while arg[i] do
    local name = arg[i]:match("^%-(%a)$")
    local default = known[name]
    if type(default) == "boolean" then
      given[name] = true
    elseif type(default) == "number" then
      i = i + 1
      given[name] = assert(tonumber(arg[i]), "a number after -" .. name)
    else
      error("unknown option: " .. arg[i], 0)
    end
    i = i + 1
  end
  return given
end

--- Makes this process mb MiB bigger, in Lua strings.
-- @treturn table to be held as long as the memory is to stay
function program.touch(mb)
  local blocks, size = {}, 65536 - 64
  for i = 1, mb * 16 do
    blocks[i] = ("x"):rep(size)
    -- rep leaves a buffer of the same size behind: without this the host is twice as big.
    if i % 512 == 0 then collectgarbage() end
  end
  collectgarbage()
  return blocks
end

--- Lua text that loads about so many MiB, given as its argument, of records into the global
-- `data`: tables, strings, closures, two of each five bytes in tables' hash parts. Also
-- defines read_all(), which looks at every one of them, and returns a sum.
program.load = [[
local mb = ...
data = {}
local function record(i)
  local r = { id = i, name = "item number " .. i, at = { x = i, y = i * 2.5 }, tags = { "a", i } }
  r.area = function() return r.at.x * r.at.y end
  return r
end
-- A full collection first: count then tells of what is loaded alone.
collectgarbage()
local before = collectgarbage "count"
repeat
  for i = #data + 1, #data + 10000 do data[i] = record(i) end
until mb == 0 or collectgarbage "count" - before >= mb * 1024
if mb == 0 then data = {} end
collectgarbage()

function read_all()
  local sum = 0
  for i = 1, #data do
    local r = data[i]
    sum = sum + r.id + #r.name + r.at.x + #r.tags + r.area()
  end
  return sum
end
]]

--- An iterator over the rounds, giving the seconds that each may take.
function program.rounds()
  io.stdout:setvbuf("line")
  print("ready")
  return function() return tonumber(io.read("l")) end
end

--- Prints the result of a round: a table of names to numbers, on one line.
function program.answer(result)
  local words = {}
  for name, value in pairs(result) do words[#words + 1] = ("%s=%s"):format(name, value) end
  table.sort(words)
  print(table.concat(words, " "))
end

--- Keeps n of something under way for some seconds, and counts how many end. Prints "begin"
-- and "end COUNT", each at an ending, for interleave to time.
-- @tparam table loop with run and timer, as tine.loop
-- @tparam number seconds how long
-- @tparam number n under way at a time
-- @tparam function make starts one: make(ended), with ended(err) to be called at its end
function program.keep_busy(loop, seconds, n, make)
  local warm, count, time_is_up, over = n + 8, 0, false, false
  local failure

  local function ended(err)
    if err then
      failure, over = failure or err, true
    elseif warm > 0 then
      warm = warm - 1
      if warm == 0 then
        print("begin")
        loop.timer(seconds, function() time_is_up = true end)
      end
    elseif not over then
      count = count + 1
      if time_is_up then
        over = true
        print("end " .. count)
      end
    end
    if not over then make(ended) end
  end

  for _ = 1, n do make(ended) end
  loop.run()
  if failure then error("a worker failed: " .. tostring(failure), 0) end
  if not over then error("the loop ended before the time was up", 0) end
end

return program
