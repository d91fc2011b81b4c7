-- Random work on a graph of objects, part of it sealed, against a model of what they refer to;
-- test_private_gc.c runs it, with a seed and a number of steps, and gives it own, minor, seal.
-- luacheck: read_globals own minor seal
local seed, steps = ...
math.randomseed(seed)
local random = math.random

local FIELDS <const> = { 1, 2, 3, 4, "a", "b", "c", "upvalue", "coroutine", "new", "newer" }
local SLOTS <const> = { 1, 2, 3, 4, "a", "b", "c" }

local nodes, model, old, ids = {}, {}, {}, 0
local filler = {} -- luacheck: ignore 241
local weak = {
  setmetatable({}, { __mode = "v" }), setmetatable({}, { __mode = "kv" }),
}
local ephemeral = setmetatable({}, { __mode = "k" })

local function keeper()
  local kept = false
  while true do
    local x = coroutine.yield(kept)
    if x ~= nil then kept = x end
  end
end

local function new_node()
  local value = false
  local n = { 1, 2, 3, 4, a = false, b = false, c = false }
  n.get = function() return value end
  n.set = function(x) value = x end
  if random(6) == 1 then
    n.resume = coroutine.wrap(keeper)
    n.resume()
  end
  if random(10) == 1 then
    setmetatable(n, { __gc = function(o) if random(3) == 1 then weak[1][random(200)] = o end end })
  end
  return n
end

-- A value that tells its number, and that.
local function new_value()
  ids = ids + 1
  local kind = random(3)
  if kind == 1 then return { number = ids }, ids end
  return (kind == 2 and "short " or ("long "):rep(12)) .. ids, ids
end

local function number_of(value)
  if type(value) == "table" then return value.number end
  return tonumber(value:match("%d+$"))
end

local function put(i, field, value, number)
  local n = nodes[i]
  if field == "upvalue" then
    n.set(value)
  elseif field == "coroutine" then
    if not n.resume then return end
    n.resume(value)
  else
    n[field] = value
  end
  model[i][field] = number
end

local function get(n, field)
  if field == "upvalue" then return n.get() end
  if field == "coroutine" then return n.resume() end
  return n[field]
end

local function check(i)
  for field, number in pairs(model[i]) do
    assert(number_of(get(nodes[i], field)) == number, field)
  end
end

local function swap(i, j)
  local a, b = SLOTS[random(#SLOTS)], SLOTS[random(#SLOTS)]
  if model[i][a] and model[j][b] then
    nodes[i][a], nodes[j][b] = nodes[j][b], nodes[i][a]
    model[i][a], model[j][b] = model[j][b], model[i][a]
  end
end

local function look_at_weak()
  for k = 1, 200 do
    for _, t in ipairs(weak) do
      local v = t[k]
      assert(not v or v.number or v.get or type(v) == "string")
    end
  end
  for n, v in pairs(ephemeral) do assert(n.get and v.number) end
end

local function write_weak(i)
  for _, t in ipairs(weak) do t[random(200)] = { number = 1 } end
  ephemeral[nodes[i]] = { number = i }
  if #old > 0 then weak[random(2)][random(200)] = old[random(#old)][1] end
end

local function load_more()
  local t = {}
  for k = 1, random(9000, 20000) do t[k] = { k, "loaded " .. k .. random(9) } end
  filler[random(20)] = t
  seal()
end

local function keep_old()
  old[#old < 60 and #old + 1 or random(60)] = { new_value() }
end

-- What is done, and how often in a hundred.
local actions = {
  { 45, function(i) put(i, FIELDS[random(#FIELDS)], new_value()) end },
  { 15, function(i)
    if #old > 0 then put(i, FIELDS[random(#FIELDS)], table.unpack(old[random(#old)])) end
  end },
  { 5, keep_old },
  { 7, function(i) swap(i, random(#nodes)) end },
  { 4, function(i) nodes[i], model[i] = new_node(), {} end },
  { 6, write_weak },
  { 2, look_at_weak },
  { 2, function(i) setmetatable(nodes[i], { __index = { q = i } }) assert(nodes[i].q == i) end },
  { 8, check },
  { 3, function() minor() end },
  { 2, function() own() end },
  { 1, function() if random(25) == 1 then load_more() end end },
}

local function step()
  local chance = random(100)
  for _, action in ipairs(actions) do
    chance = chance - action[1]
    if chance <= 0 then return action[2](random(#nodes)) end
  end
end

for i = 1, 3000 do nodes[i], model[i] = new_node(), {} end
for i = 1, 200 do weak[1][i], weak[2][i] = false, false end
for i = 1, 15000 do filler[i] = { i } end

-- Finalizers that touch what is loaded, at any time.
local over, rearm = false, {}
rearm.__gc = function()
  nodes[random(#nodes)].touched = { random(5) }
  if random(3) == 1 then coroutine.wrap(function() end)() end
  if not over then setmetatable({}, rearm) end
end
setmetatable({}, rearm)

assert(seal())
for _ = 1, steps do step() end
for i = 1, #nodes do check(i) end
over = true
