-- The heap: what a template has loaded stays shared with its workers, whatever they allocate
-- and collect. Small sizes; the figures for large ones are the bench's.
if os.getenv("TINE_HEAP") == "malloc" then return end

local tine = require "tine"
local helper = require "spec.helper"

local wait_until = helper.wait_until

-- What every process of these specs has: functions that say how its memory is.
local SETUP = [[
  local child = require "tine.core".child()
  function stats() return child.heap_stats() end
]]

local LOAD = [[
  data = {}
  for i = 1, 60000 do data[i] = { id = i, name = "item " .. i, at = { i, i * 2 } } end
]]

local function template(code)
  return tine.new_exec():eval(SETUP):eval(code or "")
end

-- Forks p and evaluates code there; returns what it returns, as strings.
local function ask(p, code)
  local w, sock, failed = p:fork(), nil, nil
  w:on_error(function(err) failed = err end)
  w:eval("function answer(s) local r = table.pack(ask()) for i = 1, r.n do "
    .. "s:write(tostring(r[i]) .. '\\n') end end")
  w:eval("function ask() " .. code .. " end"):run("answer", function(s) sock = s end)
  local text, done = {}, false
  wait_until(20, function()
    while sock and not done do
      local data, err = sock:read()
      if err then break end
      done = data == nil
      text[#text + 1] = data
    end
    return done or failed
  end)
  if sock then sock:close() end
  if failed then error(failed.message) end
  local values = {}
  for line in table.concat(text):gmatch("([^\n]*)\n") do values[#values + 1] = line end
  return table.unpack(values)
end

local function number(p, code) return tonumber((ask(p, code))) end

describe("the heap #proc", function()
  it("seals what was loaded, before the first fork", function()
    local p = template(LOAD)
    assert.is_true(number(p, "return stats().sealed") > 4 << 20)
    assert.are.equal(1, number(p, "return stats().seals"))
    assert.is_true(number(p, "return stats().written") < 200 << 10)
    p:close()
  end)

  it("does not seal what is not worth it", function()
    local p = template("small = {} for i = 1, 100 do small[i] = { i } end")
    assert.are.equal(0, number(p, "return stats().seals"))
    p:eval("more = {} for i = 1, 100 do more[i] = { i } end")
    assert.are.equal(0, number(p, "return stats().seals"))
    p:close()
  end)

  it("does not seal garbage", function()
    local p = template("for i = 1, 200000 do local t = { i } end")
    assert.are.equal(0, number(p, "return stats().seals"))
    p:close()
  end)

  it("seals again what was loaded since, also in templates of templates", function()
    local p = template(LOAD)
    assert.are.equal(1, number(p, "return stats().seals"))
    p:eval(LOAD:gsub("data", "more"))
    assert.are.equal(2, number(p, "return stats().seals"))
    local q = p:fork():eval(LOAD:gsub("data", "third"))
    assert.are.same({ "3", "item 7", "item 8", "item 9" }, { ask(q,
      "return stats().seals, data[7].name, more[8].name, third[9].name") })
    assert.are.equal(2, number(p, "return stats().seals"))
    q:close()
    p:close()
  end)

  it("keeps sharing while a worker allocates and collects", function()
    local p = template(LOAD)
    local written, own, minors, majors = ask(p, [[
      local before = stats().written
      for r = 1, 40 do
        local q = {}
        for i = 1, 5000 do q[i] = { i, tostring(i * r) } end
        collectgarbage()
      end
      local s = stats()
      return (s.written - before) / s.sealed, s.own, s.minors, s.majors]])
    assert.is_true(tonumber(written) < 0.04, written)
    assert.is_true(tonumber(own) < 12 << 20, own)
    assert.are.equal("0", majors)
    assert.is_not_nil(minors)
    p:close()
  end)

  it("bounds a worker's garbage without being asked", function()
    local p = template(LOAD)
    local own, collections, majors = ask(p, [[
      local most = 0
      for i = 1, 600000 do
        local t = { i, tostring(i) }
        if i % 1000 == 0 then most = math.max(most, stats().own) end
      end
      return most, stats().minors + stats().owns, stats().majors]])
    assert.is_true(tonumber(own) < 16 << 20, own)
    assert.is_true(tonumber(collections) > 5, collections)
    assert.are.equal("0", majors)
    p:close()
  end)

  it("reads without writing", function()
    local p = template(LOAD)
    local pages = number(p, [[
      local before, s = stats().written, 0
      for i = 1, #data do
        s = s + data[i].id + #data[i].name + data[i].at[2]
        for k, v in pairs(data[i]) do s = s + 1 end
      end
      return (stats().written - before) // 4096]])
    assert.is_true(pages < 20, pages)
    p:close()
  end)

  it("copies nothing where a look would write: list ends, hashes, absent metamethods", function()
    local p = template(LOAD .. [[
      lists, keys, objects = {}, {}, {}
      for i = 1, 4000 do
        local list = {}
        for j = 1, 5 do list[#list + 1] = j end
        lists[i], keys[i] = list, ("long "):rep(12) .. i
        objects[i] = setmetatable({}, { name = i })
      end]])
    local lists, keys, objects, sum = ask(p, [[
      local function pages(f)
        local before = stats().written
        f()
        return (stats().written - before) // 4096
      end
      local sum, t = 0, {}
      local lists = pages(function()
        for i = 1, #lists do
          sum = sum + #lists[i]
          for _, v in ipairs(lists[i]) do sum = sum + v end
        end
      end)
      local keys = pages(function() for i = 1, #keys do sum = sum + (t[ keys[i] ] or 1) end end)
      local objects = pages(function()
        for i = 1, #objects do sum = sum + (objects[i].absent or 1) end
      end)
      return lists, keys, objects, sum]])
    for _, pages in ipairs { lists, keys, objects } do
      assert.is_true(tonumber(pages) < 10, pages)
    end
    assert.are.equal(tostring(4000 * (5 + 15 + 1 + 1)), sum)
    -- They are whole: they grow where they ended.
    assert.are.equal("6 9 nil", (ask(p, [[
      local list = lists[1]
      list[#list + 1] = 9
      return #list .. " " .. list[6] .. " " .. tostring(list[7])]])))
    p:close()
  end)

  it("collects everything when told to", function()
    local p = template(LOAD)
    assert.are.equal("1 true", (ask(p, [[
      local before = stats().written
      collectgarbage("collect", "full")
      return stats().majors .. " " .. tostring(stats().written > before + stats().sealed / 4)]])))
    p:close()
  end)

  it("has a collectgarbage that tells what is its own and what is shared", function()
    local p = template(LOAD)
    local own, shared, mode, why, running, result = ask(p, [[
      local own, shared = collectgarbage("count")
      local mode, why = collectgarbage("incremental")
      return own, shared, mode, why, collectgarbage("isrunning"), collectgarbage()]])
    assert.is_true(tonumber(own) < 1024, own)
    assert.is_true(tonumber(shared) > 4096, shared)
    assert.are.equal("nil", mode)
    assert.matches("shared", why)
    assert.are.same({ "true", "0" }, { running, result })
    p:close()
  end)

  it("has a collectgarbage that is the manual's otherwise", function()
    local p = template(LOAD)
    local step, mode, before, stopped, running, bad = ask(p, [[
      local step, mode = collectgarbage("step"), collectgarbage("generational", 30, 200)
      local before = collectgarbage("setpause", 150)
      collectgarbage("stop")
      local stopped = collectgarbage("isrunning")
      local n = stats().minors + stats().owns
      for i = 1, 300000 do local t = { i } end
      assert(stats().minors + stats().owns == n and stats().own > 20 << 20)
      collectgarbage("restart")
      for i = 1, 100000 do local t = { i } end
      assert(stats().own < 16 << 20, stats().own)
      return step, mode, before, stopped, collectgarbage("isrunning"),
        pcall(collectgarbage, "collect", "all")]])
    assert.are.same({ "false", "generational", "200", "false", "true", "false" },
      { step, mode, before, stopped, running, bad })
    p:close()
  end)

  it("collects what has become old of a worker's own, and copies nothing for that", function()
    local p = template(LOAD)
    local most, own, majors, written, finalized = ask(p, [[
      local kept, most, n = {}, 0, 0
      local before = stats().written
      for r = 1, 400 do
        local q = setmetatable({}, { __gc = function() n = n + 1 end })
        for i = 1, 1000 do q[i] = { i, "text" } end
        kept[r % 40] = q
        data[r % 40 + 1].extra = q
        most = math.max(most, stats().own)
      end
      kept, data[1].extra = nil
      for i = 1, 40 do data[i].extra = nil end
      for i = 1, 2 do collectgarbage("collect", "own") collectgarbage() end
      local s = stats()
      return most, s.own, s.majors, (s.written - before) / s.sealed, n]])
    assert.is_true(tonumber(most) < 4 * (5 << 20) + (16 << 20), most)
    assert.is_true(tonumber(own) < 1 << 20, own)
    assert.are.same({ "0", "400" }, { majors, finalized })
    assert.is_true(tonumber(written) < 0.04, written)
    p:close()
  end)

  it("collects strings of a worker's own, which the string table does not keep", function()
    local p = template(LOAD)
    local most, own, majors = ask(p, [[
      local most = 0
      for r = 1, 100 do
        local kept = {}
        for i = 1, 4000 do kept[i] = "own " .. i .. " " .. r end
        collectgarbage("step") collectgarbage("step") -- old
        most = math.max(most, stats().own)
      end
      for i = 1, 2 do collectgarbage("collect", "own") end
      local s = stats()
      return most, s.own, s.majors]])
    assert.is_true(tonumber(most) < 16 << 20, most)
    assert.is_true(tonumber(own) < 3 << 19, own) -- where the table has doubled, it is 1 MB of that
    assert.are.equal("0", majors)
    p:close()
  end)

  it("runs finalizers and clears weak tables in a worker", function()
    local p = template(LOAD)
    local finalized, weak, kept = ask(p, [[
      local n, weak = 0, setmetatable({}, { __mode = "v" })
      for i = 1, 100 do
        weak[i] = setmetatable({}, { __gc = function() n = n + 1 end })
      end
      weak[101] = data[1]
      collectgarbage() collectgarbage()
      return n, weak[1], weak[101] == data[1]
    ]])
    assert.are.same({ "100", "nil", "true" }, { finalized, weak, kept })
    p:close()
  end)

  it("takes pages that a template writes to out of what is sealed", function()
    local p = template(LOAD)
    for _ = 1, 40 do
      p:eval("local function deep(n) return n > 0 and 1 + deep(n - 1) or 0 end deep(50)")
      local w = p:fork()
      w:eval("os.exit(0)")
    end
    assert.is_true(number(p, "return stats().carved") > 0)
    assert.is_true(number(p, "return stats().written") < 300 << 10)
    assert.are.equal("item 60000", (ask(p, "return data[60000].name")))
    p:close()
  end)

  it("goes on unsealed where sealing is refused, and says so", function()
    local p = template(LOAD)
    local pid
    p:await_ready(function(id) pid = id end)
    wait_until(10, function() return pid end)
    assert(os.execute(("prlimit --pid %d --fsize=65536:"):format(pid)))
    local sealed, failures, why, name = ask(p, [[
      local s = stats()
      return s.sealed, s.failures, s.failed, data[5].name]])
    assert.are.same({ "0", "1", "item 5" }, { sealed, failures, name })
    assert.matches("sealing", why)
    p:close()
  end)
end)

describe("a heap that is switched off #proc", function()
  it("is plain memory", function()
    local program = [[
      local tine = require "tine"
      tine.main(function()
        local p = tine.new_exec():eval(...)
        p:eval("data = {} for i = 1, 50000 do data[i] = { i } end")
        local sock = p:fork():run(function(s)
          s:write(tostring((require "tine.core".child().heap_stats())))
        end)
        print(sock:read())
      end)]]
    local path = helper.tmpname()
    local f = assert(io.open(path, "w"))
    f:write((program:gsub("%.%.%.", '""')))
    f:close()
    local out <close> = assert(io.popen(("TINE_HEAP=malloc %s %s"):format(helper.lua, path)))
    assert.are.equal("nil\n", out:read("a"))
  end)
end)
