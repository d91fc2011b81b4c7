-- What a crashed process leaves: a core dump with what it has of its own, and not with what it
-- shares with all others of its template, which may be gigabytes.
if os.getenv("TINE_HEAP") == "malloc" then return end

local helper = require "spec.helper"
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local MB <const> = 1 << 20

local LOAD <const> = [[
  data = {}
  for i = 1, 250000 do data[i] = { i } end
]]

-- Of the mappings of sealed memory: how many bytes there are, how many of them a core dump
-- would leave out, and how many were written to.
local function sealed(pid)
  local all, left_out, written, size = 0, 0, 0, nil
  for line in io.lines(("/proc/%d/smaps"):format(pid)) do
    local from, to, name = line:match("^(%x+)%-(%x+) %S+ %x+ %S+ %d+%s*(.*)")
    if from then
      size = name:find("^/memfd:tine%-") and tonumber(to, 16) - tonumber(from, 16) or 0
      all = all + size
    elseif line:find("^VmFlags:") and (line .. " "):find(" dd ") then
      left_out = left_out + size
    elseif line:find("^Anonymous:") and size > 0 then
      written = written + tonumber(line:match("%d+")) * 1024
    end
  end
  return all, left_out, written
end

local function assert_left_out(pid, least)
  local all, left_out, written = sealed(pid)
  assert.is_true(all > least, all)
  assert.are.equal(all, left_out)
  return written
end

local function pid_of(p)
  return assert(p:await_ready())
end

describe("what is sealed is not in core dumps #proc", function()
  case("of a template, of workers, of their workers, sealed once or again", function()
    local p = tine.new_exec():eval(LOAD)
    local w = p:fork()
    pid_of(w)
    assert.are.equal(0, assert_left_out(pid_of(p), 10 * MB))
    assert_left_out(pid_of(w), 10 * MB)
    w:eval("for i = 1, #data, 500 do data[i][1] = 0 end"):eval((LOAD:gsub("data", "more")))
    local deep = w:fork():eval("more[1][1], data[1][1] = 7, 7")
    pid_of(deep)
    assert(deep:memory())
    assert.is_true(assert_left_out(pid_of(deep), 20 * MB) > 0)
    assert_left_out(pid_of(w), 20 * MB)
    for i = 1, 40 do -- pages are taken out of the mapping, which is made anew
      p:eval("data[math.tointeger(tonumber(...))][1] = ...", tostring(i * 1000))
      local short = p:fork()
      pid_of(short)
      short:close()
    end
    assert(p:memory())
    assert_left_out(pid_of(p), 10 * MB)
    for _, each in ipairs { deep, w, p } do each:close() end
  end)

  case("of a worker that was promoted, and of its workers", function()
    local pool <close> = tine.new():pool(function()
      -- luacheck: globals list
      if not list then
        list = {}
        for i = 1, 100000 do list[i] = { i } end
      end
      return #list
    end, { max = 1, serialiser = "json" })
    assert.are.equal(100000, pool:await())
    assert.is_true(pool:promote())
    assert.are.equal(100000, pool:await())
    assert_left_out(pools.only(pool), 5 * MB)
  end)
end)

-- Runs a program whose worker writes one value into what is shared, and crashes, in a folder of
-- its own. Returns the size of the core dump, or nil and why there is none.
local function core_size(environment)
  local pattern = proc.text("/proc/sys/kernel/core_pattern")
  if pattern:find("^[|/]") then return nil, "core dumps go elsewhere: " .. pattern end
  local folder = helper.tmpname()
  assert(os.execute("mkdir " .. folder))
  local text = ([[
    tine.main(function()
      local p = tine.new_exec():eval(%q)
      local w = p:fork():eval("data[1000][1], data[249000][1] = 7, 7")
      say(w:await_ready())
      w:memory()
      w:run(function() os.execute("kill -SEGV $PPID") end):close()
      local err, info = w:on_exit()
      assert(info.signal == 11, err)
    end)]]):format(LOAD)
  local output, code = helper.run(("cd %s && ulimit -c unlimited && exec env %s %s"):format(
    folder, environment, proc.program(text)))
  if output:find("cannot modify limit") then return nil, "core dumps are forbidden" end
  assert.are.equal(0, code, output)
  local size = tonumber((helper.run("cat " .. folder .. "/*core* | wc -c")))
  if size == 0 then return nil, "the system writes none" end
  return size
end

describe("a core dump #proc", function()
  if helper.sanitized then return end

  it("has little in it, though the worker has written to what it shares", function()
    local size, why = core_size("X=x")
    if not size then pending(why) end
    assert.is_true(size > 50000 and size < 4 * MB, size)
  end)

  it("has all in it with TINE_CORE_SHARED=1", function()
    local size, why = core_size("TINE_CORE_SHARED=1")
    if not size then pending(why) end
    assert.is_true(size > 20 * MB, size)
  end)
end)
