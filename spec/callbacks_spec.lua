-- What callbacks are told, and what the same returns in a coroutine: as the README says, of each
-- method that it names, and of each that takes a callback.
local helper = require "spec.helper"
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)

-- The names in each of the paragraph's three parts.
local function named()
  local f <close> = assert(io.open(helper.root .. "/README.md"))
  local paragraph = f:read("a"):match("%*%*Callbacks%.%*%*(.-)\n\n")
  local first, second, third = paragraph:match(
    "^(.-) Who asks for one thing(.-) Who closes(.-) Inside `tine.main`")
  local lists = {}
  for i, text in ipairs { first, second, third } do
    local names = {}
    for name in text:gmatch("`([%w_:]+)`") do
      if name:find(":") then names[#names + 1] = name end
    end
    for name in text:gmatch("`(%w+)%(%.%.%.%)`") do names[#names + 1] = name end
    lists[i] = names
  end
  return lists
end

-- Methods whose comment says that they take a callback, as the README calls them.
local function documented()
  local names = {}
  for _, file in ipairs { "process", "rpc", "pool" } do
    local f <close> = assert(io.open(helper.root .. "/lua/tine/" .. file .. ".lua"))
    local name
    for line in f:lines() do
      name = line:match("^%-%- @function ([%w_:]+)") or name
      if line:find("^%-%- @tparam%S* function cb") then
        names[name:gsub("^process:", "p:")] = true
      end
    end
  end
  return names
end

local function process() return tine.new():on_error(function() end) end

-- One that has ended before it was asked.
local function ended()
  local p = process():eval("os.exit(3)")
  p:on_exit()
  return p
end

local function new_pool() return (pools.new { max = 1 }) end

local function new_rpc() return (tine.new():eval(pools.prepare):rpc("work")) end

-- Each way to make the object, and what to give to the method, so that it goes well, and so that
-- it does not.
local good <const>, bad <const> = {}, {}

for name, new in pairs { pool = new_pool, rpc = new_rpc } do
  for _, how in ipairs { name, name .. ":call" } do
    good[how] = function() return new(), "echo", "x" end
    bad[how] = function() return new(), "fail", "x" end
  end
  good[name .. ":traceback"] = function()
    local object = new()
    local pid = math.tointeger(tonumber((object:await("pid"))))
    if name == "rpc" then return object end
    return object, pid
  end
  bad[name .. ":traceback"] = function()
    local object = new()
    if name == "pool" then return object, 1 end
    object:close()
    return object
  end
  good[name .. ":close"] = function() return new() end
end

good["pool:broadcast"] = function() return new_pool(), "echo", "x" end
bad["pool:broadcast"] = function()
  local pool = new_pool()
  pool:close()
  return pool, "echo", "x"
end
good["pool:reload"] = function() return new_pool(), tine.new():eval(pools.prepare) end
bad["pool:reload"] = function() return new_pool(), process():eval("error('no luck')") end
good["pool:promote"] = function()
  local pool = new_pool()
  pool:await("echo", "x")
  return pool
end
bad["pool:promote"] = new_pool -- no worker has done a job

good["p:run"] = function() return process(), function() end end
bad["p:run"] = function() return ended(), function() end end
good["p:to_fd"] = process
bad["p:to_fd"] = ended
good["p:await_ready"] = process
bad["p:await_ready"] = function()
  local before = tine.interpreter
  tine.interpreter = "/no/such/interpreter"
  local p = tine.new_exec():on_error(function() end)
  tine.interpreter = before
  return p
end
good["p:await_loaded"] = function() return process():eval("x = 1") end
bad["p:await_loaded"] = function() return process():eval("error('no luck')") end
good["p:memory"] = process
bad["p:memory"] = ended
good["p:on_exit"] = function()
  local p = process()
  p:run(function() end, function(sock) sock:close() end)
  return p
end
bad["p:on_exit"] = function() return process():eval("os.exit(3)") end
bad["p:on_error"] = function() return tine.new():eval("error('no luck')") end

local function call(name, object, ...)
  local method = name:match(":(.*)")
  if method then return object[method](object, ...) end
  return object(...)
end

-- What the callback is told, and what is returned without one; of objects that are alike.
local function ask(name, make)
  local told
  local made = table.pack(make())
  local object = made[1]
  made.n = made.n + 1
  made[made.n] = function(...) told = told or table.pack(...) end
  call(name, table.unpack(made, 1, made.n))
  proc.wait_for(function() return told end)
  made = table.pack(make())
  local returned = table.pack(call(name, table.unpack(made, 1, made.n)))
  for _, o in ipairs { object, made[1], told[1], returned[1] } do
    if type(o) == "userdata" then o:close() end
  end
  return told, returned
end

local function is_err(value)
  return type(value) == "table" and type(value.kind) == "string" and type(value.message) == "string"
end

local function check(name, make, judge)
  for i, values in ipairs { ask(name, make) } do
    local what = name .. (i == 1 and " with a callback" or " in a coroutine")
    assert(judge(values), ("%s: %s, %s"):format(what, values[1], values[2]))
  end
end

describe("a callback #proc", function()
  local lists = named()

  case("is told err first where something happened", function()
    assert.equal(7, #lists[1])
    for _, name in ipairs(lists[1]) do
      if name ~= "p:on_error" then
        check(name, good[name], function(v) return v[1] == nil and v[2] ~= nil end)
      end
      check(name, bad[name], function(v) return is_err(v[1]) end)
    end
  end)

  case("is told what a function would return where one thing is asked for", function()
    assert.equal(9, #lists[2])
    for _, name in ipairs(lists[2]) do
      check(name, good[name], function(v) return v[1] and not is_err(v[1]) and v[2] == nil end)
      check(name, bad[name], function(v) return v[1] == nil and is_err(v[2]) end)
    end
  end)

  case("is told nothing where something is closed", function()
    assert.equal(2, #lists[3])
    for _, name in ipairs(lists[3]) do
      check(name, good[name], function(v) return v[1] == nil and v[2] == nil end)
    end
  end)

  it("is named in the README wherever a method takes one", function()
    local all = documented()
    for _, list in ipairs(lists) do
      for _, name in ipairs(list) do all[name] = nil end
    end
    assert.is_nil(next(all))
  end)

  case("is not needed by await, which raises", function()
    for _, new in ipairs { new_pool, new_rpc } do
      local object = new()
      assert.equal("x", (object:await("echo", "x")))
      local ok, err = pcall(object.await, object, "fail", "x")
      assert.is_false(ok)
      assert.is_true(is_err(err))
      local job = object("echo", "x", function() end)
      assert.equal("x", (job:await()))
      object:close()
    end
    assert.equal("x", (tine.go(function() return "x" end):await()))
    local task = tine.go(function()
      tine.loop.sleep(0)
      error("y", 0)
    end)
    local ok, err = pcall(task.await, task)
    assert.is_false(ok)
    assert.equal("y", err)
  end)
end)
