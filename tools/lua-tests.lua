-- Lua's own test suite inside of workers: tools/lua-tests calls this, in the suite's folder.
local tine = require "tine"

-- Not: main.lua, which is about the stand-alone interpreter; all.lua, which calls the others;
-- heavy.lua, which takes all memory there is; api.lua, whose subject is a library that is
-- built for tests only.
local FILES <const> = {
  "attrib", "big", "bitwise", "bwcoercion", "calls", "closure", "code", "constructs", "coroutine",
  "cstack", "db", "errors", "events", "files", "gc", "gengc", "goto", "literals", "locals",
  "math", "nextvar", "pm", "sort", "strings", "tpack", "utf8", "vararg", "verybig",
}

-- Those that are about collections of all kinds: with Lua's own collectgarbage, which copies
-- what is shared.
local COLLECTS <const> = { gc = true, gengc = true }

-- What is loaded before: enough to be sealed, and looked at again after each test.
local function prepare()
  -- luacheck: globals data run check _port _soft _nomsg T ARG
  _port, _soft, _nomsg, T, ARG = true, true, true, nil, {}
  data = {}
  for i = 1, 6000 do
    data[i] = { id = i, name = "item " .. i, at = { i, i * 2 }, f = function() return i end }
  end

  local all, own, getupvalue = data, collectgarbage, debug.getupvalue
  local type, error, dofile, io, os = type, error, dofile, io, os
  debug = nil -- luacheck: ignore

  function check()
    for i = 1, #all do
      local d = all[i]
      if d.id ~= i or d.name ~= "item " .. i or d.at[2] ~= i * 2 or d.f() ~= i then
        error("what was loaded has changed: " .. i)
      end
    end
    return #all
  end

  function run(file, original)
    if original == "yes" then
      local _, f = getupvalue(own, 1)
      if type(f) == "function" then collectgarbage = f end -- luacheck: ignore
    end
    io.output(io.open("/dev/null", "w"))
    dofile(file .. ".lua")
    check()
    own("collect", "full")
    check()
    io.output():close()
    os.remove(file)
    return "fine"
  end
end

local function template() return tine.new_exec { stdout = "null" }:eval(prepare) end

local passed, failed = 0, 0

local function tell(name, err)
  if err then
    failed = failed + 1
    print(name .. ": failed: " .. tostring(err.message) .. "\n" .. (err.traceback or ""))
  else
    passed = passed + 1
    print(name .. ": fine")
  end
end

local function in_workers()
  local p = template()
  p:fork():await_ready()
  local m = p:memory()
  print(("sealed: %d MB, by %s"):format((m.sealed or 0) >> 20, m.heap))
  for _, file in ipairs(FILES) do
    local w, why = p:fork { stdout = "null", stderr = "null" }, nil
    w:on_error(function(err) why = err end)
    w:send_arg(file, COLLECTS[file] and "yes" or "no"):run(function(_, ...) _G.run(...) end)
    local err = w:on_exit()
    tell("worker: " .. file, why or err)
  end
  p:close()
end

local function in_promoted()
  local pool = template():pool("run", { max = 1, on_error = function() end })
  local ok, err = pcall(pool.await, pool, "bitwise", "no")
  tell("promoted: bitwise, before", not ok and err or nil)
  ok, err = pool:promote()
  tell("promoted: it was", not ok and err or nil)
  for _, file in ipairs(FILES) do
    ok, err = pcall(pool.await, pool, file, COLLECTS[file] and "yes" or "no")
    tell("promoted: " .. file, not ok and err or nil)
    for _, worker in ipairs(pool:stats().workers) do os.execute("kill -KILL " .. worker.pid) end
  end
  pool:close(nil, 0)
end

tine.main(function()
  in_workers()
  in_promoted()
end)
print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0)
