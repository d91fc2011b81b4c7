-- The meter: what processes, workers and templates tell of their memory.
local tine = require "tine"
local helper = require "spec.helper"
local proc = require "spec.proc"

local case = proc.case(it)
local MB <const> = 1 << 20

local LOAD <const> = [[
  data = {}
  for i = 1, 160000 do data[i] = { id = i, name = "item " .. i, at = { i, i * 2 } } end
  collectgarbage()
]]

local function template(code)
  return tine.new_exec():eval(LOAD):eval(code or "")
end

-- Whether what is loaded is sealed: not with TINE_HEAP=malloc.
local function seals(memory)
  return memory.heap ~= "malloc"
end

local function assert_system(m)
  assert.is_true(m.pid > 1)
  assert.is_true(m.private <= m.rss and m.pss <= m.rss and m.pss > 0)
  assert.is_true(m.faults.minor > 0 and m.faults.major >= 0)
  assert.are.equal(0, m.copied % 4096)
end

-- Forks once, so that what is loaded is sealed if it ever is.
local function seal(p)
  local w = p:fork()
  assert(w:memory())
  w:close()
end

describe("a process's memory #proc", function()
  case("is its own before a fork, and shared after it", function()
    local p = template()
    local before = assert(p:memory())
    assert_system(before)
    assert.is_true(before.own > 40 * MB and before.own < 120 * MB, before.own)
    assert.is_true(before.private > before.own / 2)
    assert.are.equal(0, before.shared)
    assert.are.equal(0, before.sealed)
    assert.are.equal(0, before.seals)
    assert.are.equal(0, before.copied)
    assert.is_nil(before.failed)
    seal(p)
    local after = assert(p:memory())
    assert_system(after)
    assert.are.equal(before.pid, after.pid)
    if seals(after) then
      assert.are.equal("plain", before.heap)
      assert.are.equal("sealed", after.heap)
      assert.are.equal(1, after.seals)
      assert.is_true(after.own < MB, after.own)
      assert.is_true(after.shared > 40 * MB and after.shared <= after.sealed)
      if not helper.sanitized then assert.is_true(after.private < 4 * MB, after.private) end
    else
      assert.are.equal("malloc", after.heap)
      assert.is_true(after.own > 40 * MB)
      assert.are.equal(0, after.shared)
    end
    p:close()
  end)

  case("tells what a worker allocates", function()
    local p = template()
    local w = p:fork()
    local before = assert(w:memory())
    w:eval("x = {} for i = 1, 50000 do x[i] = { i } end")
    local after = assert(w:memory())
    assert.is_true(after.own > before.own + 3 * MB)
    assert.is_true(after.private > before.private + 3 * MB)
    assert.is_true(after.faults.minor > before.faults.minor + 500)
    if seals(after) then
      assert.are.equal(before.shared, after.shared)
      assert.is_true(after.copied < 2 * MB, after.copied)
      assert.is_true(before.own < MB)
    end
    w:close()
    p:close()
  end)

  case("tells what is copied of what is sealed", function()
    local p = template()
    local w = p:fork()
    local before = assert(w:memory())
    w:eval("for i = 1, #data, 1000 do data[i].id = 0 end")
    local after = assert(w:memory())
    if seals(after) then
      assert.is_true(after.copied >= before.copied + 100 * 4096, after.copied)
      assert.is_true(after.copied <= before.copied + 400 * 4096, after.copied)
    else
      assert.are.equal(0, after.copied)
    end
    -- To read all of it alone makes nothing private.
    local reader = p:fork()
    before = assert(reader:memory())
    reader:eval("sum = 0 for i = 1, #data do sum = sum + #data[i].name + data[i].id end")
    after = assert(reader:memory())
    if seals(after) then
      assert.is_true(after.rss > before.rss + 20 * MB)
      assert.is_true(after.private < before.private + MB)
      assert.is_true(after.copied < before.copied + MB)
    end
    w:close()
    reader:close()
    p:close()
  end)

  case("is told by templates with workers, and of templates of templates", function()
    local p = template()
    local q = p:fork():eval(LOAD:gsub("data", "more"))
    local w = q:fork()
    w:await_ready()
    local first, second = assert(p:memory()), assert(q:memory())
    if seals(first) then
      assert.are.equal(1, first.seals)
      assert.are.equal(2, second.seals)
      assert.is_true(second.shared > first.shared * 1.8)
      assert.is_true(assert(w:memory()).shared == second.shared)
    else
      assert.is_true(second.own > first.own * 1.8)
    end
    w:close()
    q:close()
    p:close()
  end)

  case("comes after what was queued before, in order", function()
    local p, seen = tine.new(), {}
    for i = 1, 20 do
      p:memory(function(m) seen[#seen + 1] = m end)
      p:eval("kept = (kept or '') .. ('x'):rep(1 << 20)")
      if i % 5 == 0 then p:fork():close() end
    end
    assert(p:memory())
    assert.are.equal(20, #seen)
    for i = 2, 20 do
      assert.are.equal(seen[1].pid, seen[i].pid)
      assert.is_true(seen[i].seals >= seen[i - 1].seals)
    end
    assert.is_true(seen[20].own + seen[20].shared > seen[1].own + seen[1].shared + 15 * MB)
    p:close()
  end)

  case("keeps a handle that nobody holds", function()
    local seen
    do
      local p = tine.new()
      p:memory(function(m, err) seen = { m, err } end)
    end
    collectgarbage()
    collectgarbage()
    proc.wait_for(function() return seen end)
    assert.is_true(seen[1].own > 0)
  end)

  case("is only the system's of one that runs a function", function()
    local p = template()
    local w = p:fork()
    local sock = assert(w:run(function(s) s:read() end))
    local m = assert(w:memory())
    assert_system(m)
    assert.are.equal(w:pid(), m.pid)
    for _, name in ipairs { "own", "shared", "sealed", "seals", "heap", "failed" } do
      assert.is_nil(m[name], name)
    end
    sock:close()
    assert.is_nil((w:on_exit()))
    p:close()
  end)

  case("is only the system's of one whose socket was passed on", function()
    local w = tine.new()
    local fd = assert(w:to_fd())
    local m = assert(w:memory())
    assert.are.equal(w:pid(), m.pid)
    assert.is_nil(m.own)
    assert.is_true(m.rss > 0)
    local again = assert(tine.from_fd(fd:detach()))
    assert.is_true(assert(again:memory()).own > 0)
    again:close()
    w:close()
  end)

  case("says why a seal has failed", function()
    local p = template()
    local m = assert(p:memory())
    if seals(m) then
      assert(os.execute(("prlimit --pid %d --fsize=65536:"):format(m.pid)))
      local w = p:fork()
      for _, each in ipairs { w, p } do
        m = assert(each:memory())
        assert.are.equal("plain", m.heap)
        assert.are.equal(0, m.seals)
        assert.matches("%w+: %w+", m.failed)
      end
      local rpc = w:rpc(function() return "fine" end)
      assert.are.equal("fine", rpc:await())
      assert.are.equal(m.failed, w:memory().failed)
      rpc:close()
    end
    p:close()
  end)
end)

describe("a question for the memory #proc", function()
  case("is refused once the process has ended, or the handle is closed", function()
    local p = tine.new()
    p:await_ready()
    p:kill("KILL")
    p:on_exit()
    for _ = 1, 2 do
      local m, err = p:memory()
      assert.is_nil(m)
      assert.are.equal("closed", err.kind)
      assert.matches("has ended", err.message)
    end
    local q = tine.new()
    q:close()
    local m, err = q:memory()
    assert.is_nil(m)
    assert.are.equal("closed", err.kind)
    assert.matches("closed", err.message)
    local told
    q:memory(function(...) told = { ... } end)
    assert.is_nil(told) -- later
    proc.wait_for(function() return told end)
    assert.are.equal("closed", told[2].kind)
  end)

  case("fails when the process dies before it answers", function()
    local p = tine.new():eval("while true do end")
    local first
    p:memory(function(m, err) first = { m, err } end)
    p:await_ready()
    tine.loop.sleep(0.02)
    p:kill("KILL")
    local m, err = p:memory()
    assert.is_nil(m)
    assert.is_nil(first[1])
    for _, each in ipairs { err, first[2] } do
      assert.are.equal("crash", each.kind)
      assert.are.equal(9, each.signal)
    end
    p:on_exit()
  end)

  case("fails when the process was never made", function()
    local p = tine.new():eval("error('no such luck')"):on_error(function() end)
    local w = p:fork():on_error(function() end)
    local m, err = w:memory()
    assert.is_nil(m)
    assert.matches("no such luck", err.message)
    -- One that has failed and lives on for its workers' sake still answers, or says why not.
    m, err = p:memory()
    assert.is_true(m ~= nil or err ~= nil)
  end)

  it("blames the caller for wrong use", function()
    local p = tine.new()
    for _, wrong in ipairs { 1, "x", {} } do
      local ok, message = pcall(function() p:memory(wrong) end)
      assert.is_false(ok)
      assert.matches("memory_spec.lua:%d+: memory: a function expected", message)
    end
    local ok, message = pcall(function() p:memory() end)
    assert.is_false(ok)
    assert.matches("memory_spec.lua:%d+: memory: a callback is needed", message)
    p:close()
  end)
end)

describe("the memory of workers that serve calls #proc", function()
  local CODE <const> = [[
    function work(what, n)
      if what == "allocate" then
        kept = {}
        for i = 1, tonumber(n) do kept[i] = { i } end
      elseif what == "write" then
        for i = 1, #data, 1000 do data[i].id = 0 end
      end
      return "done"
    end
    function async(done, ...) done(work(...)) end
  ]]

  local function serves(options)
    return function()
      local p = template(CODE)
      local w = p:fork()
      local rpc = w:rpc(options.async and "async" or "work", options)
      assert.are.equal("done", rpc:await("nothing"))
      local before = assert(w:memory())
      assert_system(before)
      assert.are.equal("done", rpc:await("allocate", "50000"))
      local after = assert(w:memory())
      assert.is_true(after.own > before.own + 3 * MB)
      assert.is_true(after.private > before.private + 3 * MB)
      assert.are.equal(before.heap, after.heap)
      if seals(after) then
        assert.are.equal("sealed", after.heap)
        assert.is_true(after.shared > 40 * MB and after.shared <= after.sealed)
        rpc:await("write")
        assert.is_true(assert(w:memory()).copied > after.copied + 100 * 4096)
      end
      rpc:close()
      p:close()
    end
  end

  case("is told by rpc, sync", serves {})
  case("is told by rpc, async", serves { async = true })

  case("is in pool:stats(), the costly part on request", function()
    local p = template(CODE)
    local pool = p:pool("work", { max = 2, load = 1, start = 0 })
    local stats = pool:stats()
    assert.is_nil(stats.template.own) -- no worker has told
    local calls = {}
    for i = 1, 2 do
      calls[i] = tine.go(function() return pool:await("allocate", "40000") end)
    end
    for i = 1, 2 do assert.are.equal("done", calls[i]:await()) end
    stats = pool:stats()
    assert.is_true(stats.template.rss > 0 and stats.template.faults.minor > 0)
    assert.is_nil(stats.template.pss)
    for _, worker in ipairs(stats.workers) do
      assert.is_nil(worker.pss or worker.private or worker.copied)
      assert.is_true(worker.rss > 0 and worker.faults.minor > 0)
    end
    stats = pool:stats { memory = true }
    local whole, most = stats.template, nil
    assert.are.equal(p:pid(), whole.pid)
    assert_system(whole)
    for _, worker in ipairs(stats.workers) do
      assert_system(worker)
      if not most or worker.own > most.own then most = worker end
    end
    assert.is_true(most.own > 3 * MB)
    if seals(whole) then
      assert.are.equal(1, whole.seals)
      assert.is_true(whole.own < MB and whole.shared > 40 * MB)
      assert.are.equal(whole.shared, most.shared)
      assert.are.equal(whole.sealed, most.sealed)
    else
      assert.is_true(whole.own > 40 * MB and most.own > whole.own)
    end
    local asked = assert(p:memory()) -- the handle is consumed, its template listens
    assert.are.equal(asked.pid, whole.pid)
    assert.are.equal(asked.shared, whole.shared)
    assert.is_true(math.abs(asked.own - whole.own) < MB)
    pool:close()
  end)

  case("of the template is that of the new one after a reload", function()
    local pool = tine.new():eval(CODE):pool("work", { max = 1 })
    pool:await("nothing")
    local old = pool:stats().template
    local p = template(CODE)
    assert(pool:reload(p))
    local new = pool:stats().template
    assert.are.equal(p:pid(), new.pid)
    assert.is_true(new.own + new.shared > old.own + old.shared + 30 * MB)
    pool:close()
  end)

  it("blames the caller of stats for wrong options", function()
    local pool = tine.new():pool("print")
    for message, options in pairs {
      ["unknown option 'memroy'"] = { memroy = true }, ["a boolean expected"] = { memory = 1 },
      ["a table of options expected"] = "memory",
    } do
      local ok, text = pcall(function() pool:stats(options) end)
      assert.is_false(ok)
      assert.matches("memory_spec.lua:%d+: stats: .*" .. message, text)
    end
    pool:close(nil, 0)
  end)
end)
