-- Waits where Lua cannot yield, and waits that were given up: nobody gets another's answer.
local helper = require "spec.helper"
local tine = require "tine"

-- Calls a function from C, in each place that Lua cannot yield from; returns as pcall.
local places = {
  ["string.gsub"] = function(f) return pcall(string.gsub, "A", "%a", function() f() end) end,
  ["table.sort"] = function(f)
    return pcall(table.sort, { 1, 2 }, function() f() return false end)
  end,
  ["require"] = function(f)
    package.loaded["spec.no_such"] = nil
    package.preload["spec.no_such"] = function() f() return true end
    return pcall(require, "spec.no_such")
  end,
  ["__tostring"] = function(f)
    return pcall(tostring, setmetatable({}, { __tostring = function() f() return "" end }))
  end,
  ["__index by C"] = function(f)
    return pcall(table.concat, setmetatable({}, {
      __len = function() return 1 end, __index = function() f() return "" end,
    }))
  end,
  ["load"] = function(f)
    return pcall(function()
      local fn, problem = load(function() f() end)
      if not fn or problem then error(problem, 0) end
    end)
  end,
}

-- What waits, each with what it is given: a template, a pool and an rpc of an echo.
local waits = {
  ["pool:await"] = function(o) local r = o.pool:await("no") return r end,
  ["pool(...)"] = function(o) local _, r = o.pool("no") return r end,
  ["pool:call{}"] = function(o) local _, r = o.pool:call { args = { "no" } } return r end,
  ["pool:map"] = function(o) for _ in o.pool:map { "no" } do end end,
  ["pool:broadcast"] = function(o) local r = o.pool:broadcast("no") return r end,
  ["pool:close"] = function(o) o.pool:close() end,
  ["pool:reload"] = function(o) local r = o.pool:reload(o.spare) return r end,
  ["pool:promote"] = function(o) local r = o.pool:promote() return r end,
  ["pool:traceback"] = function(o) local r = o.pool:traceback(1) return r end,
  ["rpc:await"] = function(o) local r = o.rpc:await("no") return r end,
  ["rpc:close"] = function(o) o.rpc:close() end,
  ["rpc:traceback"] = function(o) local r = o.rpc:traceback() return r end,
  ["process:run"] = function(o) local r = o.process:run("no_such_function") return r end,
  ["process:to_fd"] = function(o) local r = o.process:to_fd() return r end,
  ["process:on_exit"] = function(o) local r = o.process:on_exit() return r end,
  ["process:on_error"] = function(o) local r = o.process:on_error() return r end,
  ["process:memory"] = function(o) local r = o.process:memory() return r end,
  ["process:await_ready"] = function(o) local r = o.process:await_ready() return r end,
  ["process:await_loaded"] = function(o) local r = o.process:await_loaded() return r end,
  ["task:await"] = function(o) local r = o.task:await() return r end,
  ["loop.sleep"] = function() tine.loop.sleep(0) end,
  ["loop.run"] = function() tine.loop.run() end,
  ["tine.main"] = function() tine.main(function() tine.loop.sleep(0) end) end,
}

local function objects()
  local echo = "function echo(x) return x end function answer(sock) sock:write('ran\n') end"
  local function template() return tine.new():eval((echo:gsub("\n", "\\n"))) end
  local o = {
    pool = template():pool("echo", { max = 1 }), rpc = template():rpc("echo"),
    process = template(), spare = template(),
    task = tine.go(function() tine.loop.sleep(0.2) return "task" end),
  }
  return o
end

-- All of them still do what they are for, each with its own answer.
local function check(o)
  assert.equal("B", o.pool:await("B"))
  assert.equal("C", o.rpc:await("C"))
  assert.equal("D", (select(2, o.pool("D"))))
  local got = {}
  for i, ok, result in o.pool:map { "x", "y" } do got[i] = ok and result end
  assert.same({ "x", "y" }, got)
  assert.equal("table", type(o.process:memory()))
  local sock = o.process:run("answer")
  assert.equal("ran", sock:read_line())
  sock:close()
  assert.equal("task", o.task:await())
  o.rpc:close()
  o.pool:close()
  o.spare:close()
end

describe("where Lua cannot yield #proc", function()
  for name, enter in pairs(places) do
    it("nothing is begun inside of " .. name, function()
      helper.no_leaks(function()
        tine.main(function()
          local o = objects()
          tine.loop.sleep(0) -- from here on the loop runs
          for what, wait in pairs(waits) do
            local ok, err = enter(function() wait(o) end)
            assert.is_false(ok, what)
            assert.matches("cannot wait inside of a function that C calls", err, 1, true)
          end
          assert.equal(0, o.pool:stats().calls, "a call was made")
          check(o)
        end)
      end)
    end)
  end

  it("blames the caller's line", function()
    tine.main(function()
      local _, err = places["string.gsub"](function() tine.loop.sleep(0) end)
      assert.matches("yield_spec.lua:%d+: loop.sleep: cannot wait", err)
      local o = objects()
      _, err = places["table.sort"](function() local r = o.pool:await("x") return r end)
      assert.matches("yield_spec.lua:%d+: await: cannot wait", err)
      check(o)
    end)
  end)

  it("a descriptor does not wait, and says so", function()
    helper.no_leaks(function()
      tine.main(function()
        local a, b = tine.socketpair()
        local line, err
        places["string.gsub"](function() line, err = a:read_line() end)
        assert.is_nil(line)
        assert.equal(11, err.errno)
        assert.matches("cannot wait inside", err.message)
        b:write("one\ntwo\n")
        places["string.gsub"](function() line = a:read_line() end)
        assert.equal("one", line)
        assert.equal("two", a:read_line())
        a:close()
        b:close()
      end)
    end)
  end)
end)

describe("a wait that was given up #proc", function()
  it("gets no answer, and no other wait gets its", function()
    helper.no_leaks(function()
      tine.main(function()
        local o = objects()
        -- What is called in vain raises once the wait has begun.
        local userdata = io.stdout
        for _ = 1, 3 do
          pcall(o.pool.await, o.pool, userdata)
          pcall(o.rpc.await, o.rpc, userdata)
          pcall(o.process.run, o.process, function() return userdata end)
        end
        check(o)
      end)
    end)
  end)

  it("belongs to its coroutine, whoever else wakes meanwhile", function()
    tine.main(function()
      local o = objects()
      local answers, tasks = {}, {}
      for i = 1, 50 do
        tasks[i] = tine.go(function()
          pcall(string.gsub, "A", "%a", function() o.pool:await("wrong " .. i) end)
          tine.loop.sleep(i % 3 * 0.01)
          answers[i] = o.pool:await("right " .. i)
        end)
      end
      for i = 1, 50 do
        tasks[i]:await()
        assert.equal("right " .. i, answers[i])
      end
      check(o)
    end)
  end)

  it("closes the descriptor that comes for it", function()
    helper.no_leaks(function()
      local p = tine.new():eval("function wait(sock) sock:read() end")
      local waits_for_it = tine.go(function() p:run("wait") end)
      require("tine.task").abandon(waits_for_it)
      local ended
      p:on_exit(function() ended = true end)
      collectgarbage("stop") -- nobody else closes it
      helper.wait_until(10, function() return ended end)
      collectgarbage("restart")
    end)
  end)
end)
