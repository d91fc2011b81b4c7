-- Pools whose template, spare and workers die together: another is told what the first was.
-- luacheck: globals told tell seen start
local helper = require "spec.helper"
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local results, finish = pools.results, pools.finish

local default -- the default template's id

local function case(name, fn)
  proc.case(it)(name, function()
    for _, pid in ipairs(helper.children()) do
      if helper.title(pid) == "tine: template" then default = pid end
    end
    fn()
  end)
end

-- All of tine's processes but the sweeper, which the host keeps; the default template only if
-- asked for.
local function everybody(all)
  local list = {}
  for _, pid in ipairs(helper.descendants()) do
    local swept = helper.title(pid):find("--sweep", 1, true)
    if not swept and (all or pid ~= default) then list[#list + 1] = pid end
  end
  return list
end

-- Stopped first, so that none lives to see another's end. What they have started may have ended.
local function kill_all(all)
  local list = everybody(all)
  local pids = table.concat(list, " ")
  os.execute(("kill -STOP %s 2>/dev/null; kill -KILL %s 2>/dev/null"):format(pids, pids))
  proc.wait_for(function()
    for _, pid in ipairs(list) do
      if helper.alive(pid) then return false end
    end
    return true
  end)
end

local function has_spare()
  for _, pid in ipairs(everybody()) do
    if helper.title(pid):find("spare") then return true end
  end
end

-- A template with something of every kind from three generations.
local function template(path)
  local first = tine.new{ name = "first" }:eval(pools.prepare):eval("seen = { ... }", "a", "b")
  local second = first:fork():require("tine.codec_json"):send_arg("one", "two")
  local file <close> = assert(io.open(path))
  second:send_fd(file)
  return second:fork():eval(function()
    function told(...)
      start = {}
      for i, value in ipairs { ... } do
        if type(value) ~= "string" then
          value = io.popen("readlink /proc/$PPID/fd/" .. value:fileno()):read()
        end
        start[i] = value
      end
    end

    function tell(text)
      return text, seen[1] .. seen[2], package.loaded["tine.codec_json"] and "json",
        table.concat(start, ",")
    end
  end):send_arg("three")
end

describe("a pool whose template, spare and workers are killed together #proc", function()
  local path

  before_each(function()
    path = helper.write_file("text")
  end)

  for _, all in ipairs { false, true } do
    case("makes another, told the same" .. (all and ", also with the default template" or ""),
      function()
        local pool = template(path):pool("work", { max = 2, start = 0, retries = 1 })
        for round = 1, 3 do
          assert.are.equal("x", pool:await("echo", "x"))
          proc.wait_for(has_spare)
          local r, total = results(), 40
          for i = 1, total do pool("sleep", "0.02", r.cb(i)) end
          pools.running(pool, 2)
          kill_all(all)
          r.wait(total)
          for i = 1, total do assert.are.equal("fine", r.kinds[i], r.errs[i]) end
          local s = pool:stats()
          assert.is_true(s.replayable)
          assert.is_false(s.broken)
          assert.are.equal(round, s.replays)
        end
        finish(pool)
      end)
  end

  case("has its arguments, modules, globals and descriptors again", function()
    local pool = template(path):pool("tell", { max = 1, init = "told" })
    local first = { pool:await("x") }
    assert.are.equal("ab", first[2])
    assert.are.equal("json", first[3])
    assert.are.equal("one,two," .. path .. ",three", first[4])
    proc.wait_for(has_spare)
    kill_all(true)
    local second = { pool:await("x") }
    assert.are.same(first, second)
    finish(pool)
  end)

  -- A pool whose template and spare have died, and whose file is not there for the next one.
  -- Returns what a call gets.
  local function without_file(prepare)
    local pool = tine.new():eval(pools.prepare):eval(prepare, path):pool("work", { max = 1 })
    assert.are.equal("x", pool:await("echo", "x"))
    proc.wait_for(has_spare)
    os.remove(path)
    kill_all()
    local r = results()
    pool("echo", "y", r.cb(1))
    r.wait(1)
    return r.errs[1], pool
  end

  case("fails with the cause where that goes wrong the second time", function()
    local err, pool = without_file(function(name)
      local f = io.open(name)
      if not f then error("the file has gone", 0) end
      f:close()
    end)
    assert.matches("the file has gone", err.message)
    assert.is_true(pool:stats().broken)
    finish(pool)
  end)

  case("does not go on for ever with one that dies each time", function()
    local err, pool = without_file(function(name)
      local f = io.open(name)
      if not f then os.execute("kill -9 $PPID") end
      f:close()
    end)
    assert.are.equal("closed", err.kind)
    assert.matches("the pool's template has ended: .*signal 9", err.message)
    assert.are.equal(5, pool:stats().replays)
    finish(pool)
  end)

  -- What has no list of what it was told, and says so.
  local function elsewhere(make)
    local pool = make():pool("work", { max = 1 })
    assert.are.equal("x", pool:await("echo", "x"))
    assert.is_false(pool:stats().replayable)
    proc.wait_for(has_spare)
    kill_all()
    local r = results()
    pool("echo", "y", r.cb(1))
    r.wait(1)
    assert.are.equal("closed", r.kinds[1])
    assert.are.equal(0, pool:stats().replays)
    finish(pool)
  end

  case("fails its calls where the template came from elsewhere", function()
    elsewhere(function()
      local fd
      tine.new():eval(pools.prepare):to_fd(function(f) fd = f end)
      proc.wait_for(function() return fd end)
      return tine.from_fd(fd):fork()
    end)
  end)

  case("fails its calls where a function gets the template's output", function()
    elsewhere(function() return tine.new{ stdout = function() end }:eval(pools.prepare) end)
  end)

  case("fails its calls where the template was told more than is kept", function()
    elsewhere(function()
      local text = ("x"):rep(9 << 20)
      return tine.new():eval(pools.prepare):send_arg(text):send_arg(text)
    end)
  end)
end)

describe("what a process was told #proc", function()
  case("is kept no longer than it can be made again: until it runs, ends or is given up", function()
    local null <close> = assert(io.open("/dev/null"))
    assert.is_truthy(tine.new():await_ready())
    for _, way in ipairs { "run", "kill", "close" } do
      local p = tine.new():eval("function f() end"):send_fd(null, null, null)
      local child = p:fork()
      local before = helper.fd_count()
      assert.is_truthy(child:await_ready())
      if way == "run" then
        for _, q in ipairs { p, child } do
          local sock
          q:run("f", function(s) sock = s end)
          proc.wait_for(function() return sock end)
          sock:close()
        end
      else
        for _, q in ipairs { child, p } do
          if way == "kill" then q:kill("KILL") end
          q:close()
        end
      end
      -- Theirs, and the three.
      proc.wait_for(function() return helper.fd_count() <= before - 3 end)
    end
  end)
end)
