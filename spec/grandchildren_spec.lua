-- What the processes of a host have started goes when the host does, however that ends.
local helper = require "spec.helper"
local proc = require "spec.proc"

local case = proc.case(it)

local marker, sleepers = proc.marker, proc.sleepers

-- Each starts as many processes with the mark as it says.
local programs <const> = {
  ["a worker of a pool"] = { 2, [[
    local pool = tine.new():eval("function work(t) os.execute('sleep ' .. t) end")
      :pool("work", { max = 2, start = 0, load = 1 })
    for _ = 1, 2 do pool(mark, function() end) end]] },
  ["a worker of a pool that has done its job"] = { 1, [[
    local pool = tine.new():pool(function(t) os.execute("sleep " .. t .. " &") end, { max = 1 })
    pool:await(mark)]] },
  ["the worker of an rpc in a process of its own"] = { 1, [[
    local rpc = tine.new_exec():rpc(function(t) os.execute("sleep " .. t) end)
    rpc(mark, function() end)]] },
  ["an async worker"] = { 1, [[
    local rpc = tine.new():rpc(function(done, t)
      os.execute("sleep " .. t .. " &")
      done()
    end, { async = true })
    rpc:await(mark)]] },
  ["a process that runs, of an exec'ed one that does too"] = { 2, [[
    local p = tine.new_exec()
    local function fn(_, t) os.execute("sleep " .. t) end
    held = { p:fork():send_arg(mark):run(fn), p:send_arg(mark):run(fn) }]] },
  ["a process that evaluates, and is not heard of"] = { 1, [[
    tine.new():eval("os.execute('sleep ' .. ...)", mark)]] },
  ["workers of nested templates"] = { 3, [[
    local list = { tine.new() }
    for i = 2, 4 do list[i] = list[i - 1]:fork() end
    held = {}
    for i = 2, 4 do
      held[i] = list[i]:fork():send_arg(mark):run(function(_, t) os.execute("sleep " .. t) end)
    end]] },
  ["a worker of a fork of the program"] = { 1, [[
    local pool = tine.here():pool(function(t) os.execute("sleep " .. t) end, { max = 1 })
    pool(mark, function() end)]] },
  ["a process of a process that is a host itself"] = { 1, [[
    held = tine.new():send_arg(mark):run(function(_, m)
      local t = require "tine"
      t.main(function()
        t.new():send_arg(m):run(function(_, x) os.execute("sleep " .. x) end):read()
      end)
    end)]] },
}

local endings <const> = {
  ["is killed"] = "while true do tine.loop.poll(1) end",
  ["exits"] = "os.exit(0)",
  ["exits and closes its state"] = "os.exit(0, true)",
}

describe("when a host #proc", function()
  for ending, last in pairs(endings) do
    for what, program in pairs(programs) do
      case(ending .. ", nothing is left that was started by " .. what, function()
        local mark, n = marker(), program[1]
        local go = helper.tmpname()
        local host = proc.start_program(("local mark, go = %q, %q\ntine.main(function()\n")
          :format(mark, go) .. program[2] .. [[

            say("ready")
            while not io.open(go) do tine.loop.sleep(0.005) end
          ]] .. last .. "\nend)")
        host.wait_for("(ready)")
        proc.wait_for(function() return sleepers(mark) == n end)
        if ending == "is killed" then host.kill() end
        io.open(go, "w"):close()
        proc.wait_for(function() return sleepers(mark) == 0 end)
        proc.wait_for(function() return not helper.alive(host.pid) end)
        assert.are.equal("ready\n", host.output())
      end)
    end
  end

  case("ends, what it has detached goes on, with what that has started", function()
    local mark = marker()
    local host = proc.start_program(("local mark = %q\n"):format(mark) .. [[
      tine.main(function()
        local template = tine.new()
        local p = template:fork { detach = true }
        p:send_arg(mark):run(function(_, t) os.execute("sleep " .. t) end)
        say(p:pid())
        say("ready")
        while true do tine.loop.sleep(1) end
      end)]])
    local pid = tonumber((host.wait_for("(%d+)\nready")))
    proc.wait_for(function() return sleepers(mark) == 1 end)
    local family = helper.descendants(host.pid)
    host.kill()
    for _, other in ipairs(family) do
      local stays = other == pid or proc.parent(other) == pid
        or proc.parent(proc.parent(other) or 0) == pid
      if not stays then proc.wait_for(function() return not helper.alive(other) end) end
    end
    assert.are.equal(1, sleepers(mark))
    os.execute("kill -KILL -" .. pid)
    proc.wait_for(function() return sleepers(mark) == 0 end)
  end)
end)
