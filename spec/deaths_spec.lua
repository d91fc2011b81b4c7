-- Whoever of host, templates and workers dies, in whatever order: what a worker has started goes
-- with it, and all that is below the host goes with that.
local helper = require "spec.helper"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)

local marker, sleepers = proc.marker, proc.sleepers

local function await_sleepers(mark, n)
  proc.wait_for(function() return sleepers(mark) == n end)
end

local function is_root()
  local f <close> = io.popen("id -u")
  return f:read("n") == 0
end

-- A host with a template of each kind, and below each a worker of each kind. It prints the ids of
-- templates (T), of the default one (D) and of workers (W).
local PROGRAM <const> = [[
  local KINDS <const> = {
    popen = function(_, t) io.popen("sleep " .. t):read("a") end,
    background = function(sock, t) os.execute("sleep " .. t .. " &") sock:read() end,
    execute = function(_, t) os.execute("sleep " .. t) end,
    exec = function(_, t) require "tine".exec("sleep", t) end,
    ["another user"] = root and function(_, t)
      require "tine".exec("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
        "sleep", t)
    end or nil,
    ["another user's background"] = root and function(_, t)
      os.execute("sleep " .. t .. " &")
      require "tine".exec("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
        "sleep", t)
    end or nil,
  }
  held = {}
  tine.main(function()
    local templates = { tine.new(), tine.new_exec(), tine.here() }
    for _, template in ipairs(templates) do
      say("T" .. template:await_ready())
      for _, fn in pairs(KINDS) do
        local p = template:fork():send_arg(mark):on_error(function() end)
        held[#held + 1] = p
        say("W" .. p:await_ready())
        held[#held + 1] = p:run(fn)
      end
      held[#held + 1] = template
    end
    held.pool = tine.new():pool(function(t) os.execute("sleep " .. t) end, { max = 1 })
    held.pool(mark, function() end)
    local f <close> = io.open("/proc/" .. templates[1]:pid() .. "/stat")
    say("D" .. f:read("a"):match("^.*%) %a (%d+)"))
    say("ready")
    while true do tine.loop.sleep(1) end
  end)]]

local PER_TEMPLATE <const> = is_root() and 7 or 4

local function shuffled(list)
  for i = #list, 2, -1 do
    local k = math.random(i)
    list[i], list[k] = list[k], list[i]
  end
  return list
end

local function start()
  local mark = marker()
  local head = ("local mark, root = %q, %s\n"):format(mark, is_root())
  local host = proc.start_program(head .. PROGRAM)
  host.wait_for("(ready)")
  await_sleepers(mark, 3 * PER_TEMPLATE + 1)
  return host, mark
end

-- Every set of those that can be killed.
local sets = {}
for bits = 1, 15 do
  local set = ""
  for i = 1, 4 do
    if bits & 1 << (i - 1) ~= 0 then set = set .. ("WTDH"):sub(i, i) end
  end
  sets[#sets + 1] = set
end
local NAMES <const> = { W = "workers", T = "templates", D = "the default template", H = "the host" }

-- The first template, and that of the pool, are forks of the default one.
local function left_after(set)
  if set:find("H") then return 0 end
  local of_pool = set:find("D") and 0 or 1
  if set:find("[WT]") then return of_pool end
  return (set:find("D") and 2 or 3) * PER_TEMPLATE + of_pool
end

describe("what workers have started #proc", function()
  for _, set in ipairs(sets) do
    local names = {}
    for c in set:gmatch(".") do names[#names + 1] = NAMES[c] end
    case("goes when these are killed at once: " .. table.concat(names, ", "), function()
      local host, mark = start()
      local family = helper.descendants(host.pid)
      local pids = { set:find("H") and host.pid }
      for kind, pid in host.output():gmatch("(%u)(%d+)\n") do
        if set:find(kind) then pids[#pids + 1] = pid end
      end
      os.execute("kill -KILL " .. table.concat(shuffled(pids), " "))
      await_sleepers(mark, left_after(set))
      host.kill()
      await_sleepers(mark, 0)
      for _, pid in ipairs(family) do
        proc.wait_for(function() return not helper.alive(pid) end)
      end
    end)
  end

  case("goes with a worker that returns, also where it is in the background", function()
    local mark = marker()
    local p = tine.new():send_arg(mark)
    p:run(function(_, t) os.execute("sleep " .. t .. " &") end, function() end)
    assert.is_nil((p:on_exit()))
    assert.equal(0, sleepers(mark))
    local q = tine.new_exec():send_arg(mark)
    q:run(function(_, t) os.execute("sleep " .. t .. " &") end, function() end)
    assert.is_nil((q:on_exit()))
    assert.equal(0, sleepers(mark))
  end)

  case("goes with a worker that is killed", function()
    local mark = marker()
    for _, how in ipairs { "new", "new_exec" } do
      local p = tine[how]():send_arg(mark)
      local sock = p:run(function(s, t)
        os.execute("sleep " .. t .. " &")
        s:write("x")
        s:read()
      end)
      sock:read(1)
      await_sleepers(mark, 1)
      p:kill("KILL")
      assert.equal(9, p:on_exit().signal)
      assert.equal(0, sleepers(mark))
      sock:close()
    end
  end)

  case("stays where it has made a session of its own", function()
    local mark = marker()
    local p = tine.new():send_arg(mark)
    local sock = p:run(function(sock, t)
      os.execute("setsid sleep " .. t .. " &")
      sock:read()
    end)
    await_sleepers(mark, 1)
    sock:close()
    assert.is_nil((p:on_exit()))
    assert.equal(1, sleepers(mark))
    os.execute("pkill -xf 'sleep " .. mark:gsub("%.", "\\.") .. "'")
    await_sleepers(mark, 0)
  end)
end)

describe("a worker that changes its user #proc", function()
  if not is_root() then return end

  case("goes with its template, while the host lives", function()
    local mark = marker()
    local template = tine.new_exec()
    local p = template:fork():send_arg(mark)
    p:run(function(_, t)
      require "tine".exec("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
        "sleep", t)
    end, function() end)
    await_sleepers(mark, 1)
    template:kill("KILL")
    assert.equal(9, p:on_exit().signal)
    assert.equal(0, sleepers(mark))
  end)
end)

describe("the sweeper #proc", function()
  local function sweepers_of(pid)
    local list = {}
    for _, child in ipairs(helper.children(pid)) do
      if helper.title(child):find("--sweep", 1, true) then list[#list + 1] = child end
    end
    return list
  end

  case("is one a host, and is made anew when it was killed", function()
    local mark, go = marker(), helper.tmpname()
    local host = proc.start_program(("local mark, go = %q, %q\n"):format(mark, go) .. [[
      tine.main(function()
        local list = {}
        for i = 1, 3 do
          list[i] = tine.new_exec()
          list[i]:await_ready()
        end
        say("first")
        while not io.open(go) do tine.loop.sleep(0.005) end
        list[4] = tine.new_exec()
        list[4]:await_ready()
        list[5] = list[1]:fork():send_arg(mark)
        list[5]:run(function(sock, t) os.execute("sleep " .. t .. " &") sock:read() end)
        say("second " .. list[1]:pid() .. " " .. list[5]:pid() .. ".")
        while true do tine.loop.sleep(1) end
      end)]])
    host.wait_for("(first)")
    local first = sweepers_of(host.pid)
    assert.equal(1, #first)
    os.execute("kill -KILL " .. first[1])
    proc.wait_for(function() return #sweepers_of(host.pid) == 0 end)
    io.open(go, "w"):close()
    local pids = host.wait_for("second (%d+ %d+)%.")
    await_sleepers(mark, 1)
    local second = sweepers_of(host.pid)
    assert.equal(1, #second)
    assert.not_equal(first[1], second[1])
    os.execute("kill -KILL " .. pids .. " " .. host.pid)
    await_sleepers(mark, 0)
    proc.wait_for(function() return not helper.alive(second[1]) end)
  end)

  case("ends with its host, and keeps nobody waiting who reads the host's output", function()
    for _, ending in ipairs { "os.exit(0)", "os.exit(0, true)", "return" } do
      local text, code = proc.run_program([[
        tine.main(function()
          local p = tine.new()
          say(p:run(function(sock) sock:write("x") end):read())
        end)]] .. ending)
      assert.equal("x\n", text)
      assert.equal(0, code)
    end
  end)
end)
