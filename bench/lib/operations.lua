--- What a worker does with what its template has loaded, each to be looked at for the pages of
-- sealed memory that it copies. A list, in an order for the reader:
--   id, label   its name in the answers, and in words
--   prepare     what a template of its own has besides the records, made before the seal:
--               prepare(records), for run to use
--   run         run(records, prepared), in a worker
--   writes      true: it is meant to write to what is loaded
--   full        true: takes seconds
--   needs       a module that must be there
-- The records are those of program.load. A worker of tine's needs these here for their `run`,
-- the family for their names alone; so nothing of tine is loaded.
local cjson_found, cjson = pcall(require, "cjson")

local operations = {}

local function add(operation) operations[#operations + 1] = operation end

local function list_of(n, make)
  local list = {}
  for i = 1, n do list[i] = make(i) end
  return list
end

local function nothing() end

-- ------------------------------------------------------------------------------- reading

add { id = "idle", label = "nothing", run = nothing }

add { id = "calls", label = "calling the closure of each record", run = function(records)
  for i = 1, #records do records[i].area() end
end }

add { id = "indexing", label = "reading all fields of each record", run = function(records)
  local sum = 0
  for i = 1, #records do
    local r = records[i]
    sum = sum + r.id + #r.name + r.at.x + r.at.y + r.tags[2] + (r.absent or 0)
  end
  return sum
end }

add { id = "iterating", label = "pairs, ipairs over each record", run = function(records)
  local n = 0
  for _, r in ipairs(records) do
    for _ in pairs(r) do n = n + 1 end
    for _ in ipairs(r.tags) do n = n + 1 end
  end
  return n
end }

add { id = "length", label = "# of each record's list, from a constructor",
  run = function(records)
    local n = 0
    for i = 1, #records do n = n + #records[i].tags end
    return n
  end }

-- Of 5 in room for 8.
local function appended()
  local t = {}
  for i = 1, 5 do t[#t + 1] = i end
  return t
end

local function measured() -- its # was taken, as by most appending code
  local t = appended()
  return #t > 0 and t
end

local function length_of_all(_, lists)
  local n = 0
  for i = 1, #lists do n = n + #lists[i] end
  return n
end

local function ipairs_over_all(_, lists)
  local n = 0
  for i = 1, #lists do
    for _ in ipairs(lists[i]) do n = n + 1 end
  end
  return n
end

local function tables(make)
  return function() return list_of(10000, make) end
end

add { id = "length_appended", label = "# of 10 000 lists, filled by append",
  prepare = tables(appended), run = length_of_all }

add { id = "ipairs_measured", label = "ipairs over these", prepare = tables(measured),
  run = ipairs_over_all }

add { id = "length_holes", label = "# of 10 000 such lists with holes",
  prepare = tables(function()
    local t = appended()
    t[2] = nil
    return t
  end), run = length_of_all }

-- ------------------------------------------------------------------------------- strings

add { id = "strings", label = "100 000 new short strings", run = function()
  for i = 1, 100000 do nothing("a new string " .. i) end
end }

add { id = "format", label = "string.format, 100 000 times", run = function(records)
  for i = 1, 100000 do
    local r = records[i % #records + 1]
    nothing(("%s is at %g, %g: %d"):format(r.name, r.at.x, r.at.y, r.id))
  end
end }

add { id = "gsub", label = "gsub and gmatch over each name", run = function(records)
  for i = 1, #records do
    nothing(records[i].name:gsub("%a+", string.upper))
    for word in records[i].name:gmatch("%d+") do nothing(word) end
  end
end }

add { id = "concat", label = "table.concat, to long strings", run = function(records)
  local parts = {}
  for i = 1, #records, 50 do
    for j = 0, 49 do parts[j + 1] = records[math.min(i + j, #records)].name end
    nothing(table.concat(parts, ", "))
  end
end }

local function long_strings(warm)
  return function()
    return list_of(10000, function(i)
      local s = ("%060d"):format(i)
      nothing(warm and ({})[s]) -- which has to know where in the table it would be
      return s
    end)
  end
end

local function look_up(_, keys)
  local t = {}
  for i = 1, #keys do nothing(t[keys[i]]) end
end

add { id = "long_keys", label = "10 000 long strings, first time used as keys",
  prepare = long_strings(false), run = look_up }

-- ---------------------------------------------------------------------------- metatables

local function read_absent(_, list)
  for i = 1, #list do nothing(list[i].absent) end
end

local function object_of_a_class()
  local class = { size = function(self) return #self end }
  return setmetatable({}, class)
end

add { id = "metatables", label = "absent field, objects of 10 000 metatables",
  prepare = tables(object_of_a_class), run = read_absent }

add { id = "metatable", label = "absent field, 10 000 objects of one metatable",
  prepare = function()
    local class = {}
    return list_of(10000, function() return setmetatable({}, class) end)
  end, run = read_absent }

-- ----------------------------------------------------------------- coroutines, functions

add { id = "coroutines", label = "10 000 coroutines made and run", run = function()
  for i = 1, 10000 do
    local co = coroutine.wrap(function(x) return coroutine.yield(x) end)
    nothing(co(i), co(i))
  end
end }

local function suspended()
  return list_of(1000, function(i)
    local co = coroutine.create(function(x)
      while true do x = coroutine.yield(x) end
    end)
    coroutine.resume(co, i)
    return co
  end)
end

add { id = "upvalues_read", label = "10 000 closures that read their upvalues",
  prepare = tables(function(i) return function() return i end end),
  run = function(_, list)
    for i = 1, #list do list[i]() end
  end }

add { id = "upvalues_written", label = "10 000 closures that write their upvalues",
  writes = true,
  prepare = tables(function(i) return function() i = i + 1 end end),
  run = function(_, list)
    for i = 1, #list do list[i]() end
  end }

add { id = "errors", label = "100 000 errors caught by pcall", run = function()
  for i = 1, 100000 do pcall(error, { i }) end
end }

add { id = "tracebacks", label = "10 000 errors with text and traceback", run = function()
  for i = 1, 10000 do xpcall(error, debug.traceback, "wrong: " .. i) end
end }

add { id = "deep", label = "a recursion of 10 000 calls", run = function()
  local function down(n) return n == 0 and 0 or 1 + down(n - 1) end
  return down(10000)
end }

add { id = "require", label = "require of a loaded module, 10 000 times", run = function()
  for _ = 1, 10000 do require "string" end
end }

add { id = "load", label = "load of new code, 1 000 times", run = function()
  for i = 1, 1000 do load("local x = ... return x + " .. i)(i) end
end }

add { id = "cjson", label = "cjson: 10 000 records to text and back", needs = "cjson",
  run = function(records)
    for i = 1, 10000 do
      local r = records[i % #records + 1]
      cjson.decode(cjson.encode { id = r.id, name = r.name, at = r.at, tags = r.tags })
    end
  end }

-- ----------------------------------------------------------------------------- collecting

add { id = "minor", label = "collectgarbage(), 10 times", run = function()
  for _ = 1, 10 do collectgarbage() end
end }

add { id = "minor_coroutines", label = "the same, 1 000 suspended coroutines loaded",
  prepare = suspended, run = function()
    for _ = 1, 10 do collectgarbage() end
  end }

add { id = "minor_weak", label = "the same, 1 000 weak tables loaded",
  prepare = function(records)
    return list_of(1000, function(i)
      return setmetatable({ records[i] }, { __mode = i % 2 == 0 and "k" or "v" })
    end)
  end, run = function()
    for _ = 1, 10 do collectgarbage() end
  end }

add { id = "pcalls", label = "a loop of pcalls that allocate, collections",
  run = function(records)
    local function job(i)
      local list = {}
      for j = 1, 100 do
        local r = records[(i * 100 + j) % #records + 1]
        list[j] = { name = r.name .. "!", area = r.area() }
      end
      if i % 10 == 0 then error("job " .. i) end
      return list
    end
    for i = 1, 2000 do
      pcall(job, i)
      if i % 100 == 0 then collectgarbage() end
    end
  end }

local function allocate(rounds)
  return function()
    for _ = 1, rounds do
      local list = {}
      for i = 1, 5000 do list[i] = { "string " .. i } end
      nothing(list)
    end
  end
end

add { id = "allocating", label = "100 000 tables and strings in 10 rounds", run = allocate(10) }

add { id = "allocating_more", label = "10 million tables and strings in 1 000 rounds",
  full = true, run = allocate(1000) }

add { id = "finalizer", label = "a finalizer set for each 1000th record", writes = true,
  run = function(records)
    local meta = { __gc = nothing }
    for i = 1, #records, 1000 do setmetatable(records[i], meta) end
  end }

add { id = "write", label = "a field of each 1000th record set", writes = true,
  run = function(records)
    for i = 1, #records, 1000 do records[i].id = -i end
  end }

add { id = "write_tables", label = "a new table put into each, 5 collections", writes = true,
  run = function(records)
    for i = 1, #records, 1000 do records[i].at = { x = 1, y = 2 } end
    for _ = 1, 5 do collectgarbage() end
  end }

add { id = "write_fields", label = "two fields added to each, 5 collections", writes = true,
  run = function(records)
    for i = 1, #records, 1000 do records[i].added, records[i].too = true, true end
    for _ = 1, 5 do collectgarbage() end
  end }

add { id = "step", label = 'collectgarbage("step"), 10 times', run = function()
  for _ = 1, 10 do collectgarbage("step", 1) end
end }

add { id = "full", label = 'collectgarbage("collect", "full")', run = function()
  collectgarbage("collect", "full")
end }

--- Makes of a list of operations those that can run here.
function operations.possible(quick)
  local list = {}
  for _, operation in ipairs(operations) do
    if not (quick and operation.full) and (operation.needs ~= "cjson" or cjson_found) then
      list[#list + 1] = operation
    end
  end
  return list
end

return operations
