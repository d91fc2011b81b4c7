-- Pools: map, broadcast, how many workers there are, and how many calls may wait.
local helper = require "spec.helper"
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local new_pool, gate, finish =
  pools.new, pools.gate, pools.finish

local function silent() end

-- Tests outside of a coroutine.
local function plain(name, fn)
  it(name, function() helper.no_leaks(fn) end)
end

describe("pool:map #proc", function()
  case("gives results in order, in a coroutine", function()
    local pool <close> = new_pool { max = 2, start = 0 }
    local list, n = {}, 0
    for i = 1, 200 do list[i] = table.pack("echo", i) end
    for i, ok, result in pool:map(list, { packed = true }) do
      n = n + 1
      assert.are.equal(n, i)
      assert.is_true(ok)
      assert.are.equal(tostring(i), result)
    end
    assert.are.equal(200, n)
  end)

  plain("runs the loop itself outside of one", function()
    local pool = tine.new():pool(function(x) return x * 2 end, { max = 2, serialiser = "lua" })
    local sum = 0
    for i, ok, result in pool:map { 1, 2, 3, 4, 5 } do
      assert.is_true(ok)
      assert.are.equal(2 * i, result)
      sum = sum + result
    end
    assert.are.equal(30, sum)
    for _ in pool:map {} do error("nothing to do") end
    pool:close()
  end)

  case("gives each result once, whatever the window; nil, several or none as they are", function()
    local pool <close> = tine.new():pool(function(i, n)
      if n < 0 then error(i, 0) end
      if i % 7 == 0 then os.execute("true") end
      return table.unpack({ i, nil, i + 2 }, 1, n)
    end, { max = 3, start = 0, serialiser = "lua" })
    for round = 1, 12 do
      local list, seen, last = {}, 0, 0
      local many <const>, ordered <const> = 60, round % 2 == 0
      local window = math.random(1, 9)
      if window == 9 then window = math.huge end
      for i = 1, many do list[i] = { i, math.random(-1, 3) } end
      local done = {}
      local how <const> = { packed = true, ordered = ordered, window = window }
      for i, ok, a, b, c in pool:map(list, how) do
        local n = list[i][2]
        assert.is_nil(done[i])
        assert.is_true(not ordered or i == last + 1)
        done[i], seen, last = true, seen + 1, i
        assert.are.equal(n >= 0, ok)
        if ok then
          assert.are.same({ n > 0 and i or nil, nil, n > 2 and i + 2 or nil }, { a, b, c })
        else
          assert.are.equal(tostring(i), a.message)
        end
      end
      assert.are.equal(many, seen)
    end
  end)

  case("gives errors in their place", function()
    local pool <close> = new_pool { max = 2, start = 0 }
    local function list()
      local i = 0
      return function()
        i = i + 1
        if i > 9 then return nil end
        return i % 3 == 0 and "fail" or "echo", i
      end
    end
    for _, ordered in ipairs { true, false } do
      local seen = {}
      for i, ok, result in pool:map(list(), { ordered = ordered }) do
        assert.are.equal(i % 3 ~= 0, ok)
        assert.are.equal(tostring(i), ok and result or result.message)
        assert.is_nil(seen[i])
        seen[i] = true
      end
      assert.are.equal(9, #seen)
    end
  end)

  case("does not wait for a slow one when unordered, and does when ordered", function()
    local pool <close> = new_pool { max = 2, idle = 2, load = 1, start = 0 }
    local path, open = gate()
    local list = { table.pack("gate", path, "slow") }
    for i = 2, 20 do list[i] = table.pack("echo", i) end
    local order = {}
    for i in pool:map(list, { ordered = false, packed = true }) do
      order[#order + 1] = i
      if #order == 19 then open() end
    end
    assert.are.equal(20, #order)
    assert.are.equal(1, order[20])
    path, open = gate()
    list[1][2] = path
    tine.loop.timer(0.05, open)
    order = {}
    for i in pool:map(list, { packed = true }) do order[#order + 1] = i end
    for i = 1, 20 do assert.are.equal(i, order[i]) end
  end)

  case("makes no more than window calls ahead", function()
    local pool <close> = new_pool { max = 2, start = 0 }
    local made, given, most = 0, 0, 0
    local function source()
      made = made + 1
      most = math.max(most, made - given)
      if made > 100 then return nil end
      return "echo", made
    end
    for _, ordered in ipairs { true, false } do
      made, given, most = 0, 0, 0
      for _ in pool:map(source, { window = 5, ordered = ordered }) do given = given + 1 end
      assert.are.equal(100, given)
      assert.is_true(most <= 6, most) -- the one that is asked for now counts as made
    end
  end)

  case("cancels what was made ahead when left early", function()
    local pool <close> = new_pool { max = 2, start = 0, grace = 0.1 }
    local list = { table.pack("echo", 1) }
    for i = 2, 40 do list[i] = table.pack("spin") end
    for i, ok in pool:map(list, { packed = true }) do
      assert.is_true(ok and i == 1)
      if i == 1 then break end
    end
    proc.wait_for(function()
      local stats = pool:stats()
      return stats.done == stats.calls
    end)
    assert.are.equal(39, pool:stats().cancelled)
    assert.are.equal("x", pool:await("echo", "x"))
    -- And when the loop's body raises.
    local ok, err = pcall(function()
      for _ in pool:map(list, { packed = true }) do error("out", 0) end
    end)
    assert.is_false(ok)
    assert.are.equal("out", err)
    proc.wait_for(function() return pool:stats().cancelled == 78 end)
  end)

  case("raises what the iterator raises", function()
    local pool <close> = new_pool { max = 1, grace = 0.1 }
    local n = 0
    local ok, err = pcall(function()
      for _ in pool:map(function()
        n = n + 1
        if n == 5 then error("no more", 0) end
        return "spin"
      end) do error("nothing is ready") end
    end)
    assert.is_false(ok)
    assert.are.equal("no more", err)
    proc.wait_for(function() return pool:stats().cancelled == 4 end)
  end)

  case("takes each item as one argument, whatever it is, unless it is told otherwise", function()
    local pool <close> = tine.new():pool(function(...)
      local item = ...
      return select("#", ...), item
    end, { max = 1, serialiser = "lua" })
    local list = { { name = "b", n = 3 }, { n = 0 }, {}, { 1, 2 }, false, nil, "x", n = 7 }
    local seen = 0
    for i, ok, count, item in pool:map(list) do
      seen = seen + 1
      assert.is_true(ok, count)
      assert.are.equal(1, count)
      assert.are.same(list[i], item)
    end
    assert.are.equal(7, seen)
    local counts = {}
    for _, _, count in pool:map({ { 1, nil, n = 2 }, {}, { 1, 2, 3 } }, { packed = true }) do
      counts[#counts + 1] = count
    end
    assert.are.same({ 2, 0, 3 }, counts)
    local packed = { packed = true }
    proc.assert_blames("packed: a list", function() for _ in pool:map({ 1 }, packed) do end end)
    proc.assert_blames("map: a whole number .* as n", function() pool:map { n = "x" } end)
    proc.assert_blames("map: packed", function() pool:map({}, { packed = 1 }) end)
  end)

  case("makes no more calls than a queue with a bound has room for", function()
    for _, ordered in ipairs { true, false } do
      local pool <close> = new_pool { max = 2, start = 0, queue = 5 }
      local list, seen = {}, 0
      for i = 1, 100 do list[i] = { "echo", i } end
      for i, ok, result in pool:map(list, { packed = true, ordered = ordered }) do
        assert.is_true(ok, result)
        assert.are.equal(tostring(i), result)
        seen = seen + 1
      end
      assert.are.equal(100, seen)
      assert.are.equal(0, pool:stats().rejected)
    end
  end)

  -- A pool whose queue is full of others' calls, and a map of three that waits.
  local function full(on_drain)
    local pool = new_pool { max = 1, load = 1, queue = 2, on_drain = on_drain }
    local path, open = gate()
    pool("gate", path, "x", silent)
    proc.wait_for(function() return pool:stats().running == 1 end)
    for _ = 1, 2 do pool("echo", "x", silent) end
    local kinds = {}
    tine.go(function()
      for i, ok, result in pool:map({ { "echo", 1 }, { "echo", 2 }, { "echo", 3 } },
        { packed = true })
      do
        kinds[i] = ok and "fine" or result.kind
      end
      kinds.ended = true
    end)
    tine.loop.sleep(0)
    assert.are.equal(3, pool:stats().calls)
    return pool, kinds, open
  end

  plain("goes on when the queue has drained, although on_drain raises", function()
    local pool, kinds, open
    local raised, drains = 0, 0
    proc.within(15, function()
      pool, kinds, open = full(function()
        drains = drains + 1
        if drains == 1 then error("by on_drain", 0) end
      end)
    end)
    open()
    local deadline = helper.now() + 10 * helper.patience
    while not kinds.ended and helper.now() < deadline do
      local ok, err = pcall(tine.loop.poll, 0.01)
      if not ok then
        assert.matches("^by on_drain", err)
        raised = raised + 1
      end
    end
    assert.are.same({ "fine", "fine", "fine", ended = true }, kinds)
    assert.are.equal(1, raised)
    pool:close()
  end)

  case("does not wait for room in a pool that is closed", function()
    local pool, kinds, open = full()
    local gone = false
    pool:close(function() gone = true end)
    proc.wait_for(function() return kinds.ended end)
    assert.are.same({ "closed", "closed", "closed", ended = true }, kinds)
    open()
    proc.wait_for(function() return gone end)
  end)

  case("says in each place that the pool was closed", function()
    local pool = new_pool { max = 1 }
    pool:close()
    local n = 0
    for _, ok, err in pool:map { "a", "b", "c" } do
      n = n + 1
      assert.is_false(ok)
      assert.are.equal("closed", err.kind)
    end
    assert.are.equal(3, n)
  end)

  case("takes more than one at a time, and timeout, retries and priority", function()
    local pool <close> = new_pool { max = 2, start = 0, grace = 0.1 }
    local function count(options)
      local n = 0
      options.packed = true
      for _, ok, result in pool:map({ { "echo", 1 }, { "spin" } }, options) do
        n = n + 1
        if n == 1 then assert.is_true(ok) else assert.are.equal("timeout", result.kind) end
      end
      return n
    end
    local other = tine.go(count, { timeout = 0.1 })
    assert.are.equal(2, count { timeout = 0.1, retries = 1, priority = 1 })
    assert.are.equal(2, other:await())
  end)
end)

describe("pool:broadcast #proc", function()
  case("calls once in every worker", function()
    local pool <close> = new_pool { max = 3, idle = 3 }
    proc.wait_for(function() return pool:stats().idle == 3 end)
    local err, list = pool:broadcast("pid")
    assert.is_nil(err)
    assert.are.equal(3, #list)
    local pids, expected = {}, {}
    for i, entry in ipairs(list) do
      assert.are.equal(1, entry.n)
      pids[i] = tonumber(entry[1])
    end
    for i, worker in ipairs(pool:stats().workers) do expected[i] = worker.pid end
    table.sort(pids)
    table.sort(expected)
    assert.are.same(expected, pids)
  end)

  case("makes a worker when there is none, and tells errors of each", function()
    local pool <close> = new_pool { max = 3 }
    local err, list = pool:broadcast("fail", "x")
    assert.is_nil(err)
    assert.are.equal(1, #list)
    assert.are.equal("exception", list[1].err.kind)
    err, list = pool:broadcast("echo", {})
    assert.are.equal("encode", err.kind)
    assert.is_nil(list)
  end)

  case("goes ahead of what is queued, and is not rejected", function()
    local pool <close> = new_pool { max = 1, load = 1, queue = 3 }
    local path, open = gate()
    local order = {}
    pool("gate", path, "x", silent)
    proc.wait_for(function() return pool:stats().running == 1 end)
    for i = 1, 3 do
      pool("echo", i, function() order[#order + 1] = i end)
    end
    pool:broadcast("echo", "all", function(err, list)
      assert.is_nil(err)
      order[#order + 1] = list[1][1]
    end)
    open()
    proc.wait_for(function() return #order == 4 end)
    assert.are.same({ "all", 1, 2, 3 }, order)
  end)

  case("fails in a worker that dies before it has begun, in no other", function()
    local pool <close> = new_pool { max = 2, idle = 2, load = 1 }
    local path, open = gate()
    proc.wait_for(function() return pool:stats().idle == 2 end)
    for _ = 1, 2 do pool("gate", path, "x", silent) end
    proc.wait_for(function() return pool:stats().running == 2 end)
    local list
    pool:broadcast("echo", "all", function(_, l) list = l end)
    assert(os.execute("kill -KILL " .. pool:stats().workers[1].pid))
    proc.wait_for(function() return pool:stats().crashed == 1 end)
    open()
    proc.wait_for(function() return list end)
    assert.are.equal(2, #list)
    local good, bad = 0, 0
    for _, entry in ipairs(list) do
      if entry.err then
        bad = bad + 1
        assert.are.equal("closed", entry.err.kind)
      else
        good = good + 1
        assert.are.equal("all", entry[1])
      end
    end
    assert.are.equal(1, good)
    assert.are.equal(1, bad)
  end)

  case("says that the pool was closed", function()
    local pool = new_pool { max = 1 }
    pool:close()
    local err = pool:broadcast("echo")
    assert.are.equal("closed", err.kind)
  end)

  case("tells of the crash of a worker that dies in it, and does not try it again", function()
    local pool = new_pool { max = 2, idle = 2, retries = 2 }
    proc.wait_for(function() return pool:stats().idle == 2 end)
    local err, list = pool:broadcast("kill", "KILL")
    assert.is_nil(err)
    assert.are.equal(2, #list)
    for _, entry in ipairs(list) do
      assert.are.equal("crash", entry.err.kind)
      assert.are.equal(9, entry.err.signal)
    end
    assert.are.equal(0, pool:stats().retried)
    assert.are.equal(2, pool:stats().failed)
    finish(pool)
  end)
end)

describe("the size of a pool #proc", function()
  case("keeps idle workers, and no more after stop", function()
    local pool <close> = new_pool { max = 4, idle = 1, start = 0, load = 1, stop = 0.05 }
    local path, open = gate()
    local ended = 0
    for _ = 1, 4 do
      pool("gate", path, "x", function() ended = ended + 1 end)
    end
    proc.wait_for(function() return pool:stats().busy == 4 end)
    open()
    proc.wait_for(function() return ended == 4 and #pool:stats().workers == 1 end)
    assert.are.equal(0, pool:stats().crashed)
    assert.are.equal(1, pool:stats().idle)
  end)

  case("grows no further than max, and after start seconds of all-busy only", function()
    local pool <close> = new_pool { max = 2, start = 0.2, load = 1 }
    local path, open = gate()
    local ended, began = 0, tine.loop.now()
    for _ = 1, 5 do
      pool("gate", path, "x", function() ended = ended + 1 end)
    end
    proc.wait_for(function() return pool:stats().running == 1 end)
    proc.wait_for(function() return pool:stats().running == 2 end)
    assert.is_true(tine.loop.now() - began >= 0.2)
    assert.are.equal(2, #pool:stats().workers)
    assert.are.equal(3, pool:stats().queued)
    open()
    proc.wait_for(function() return ended == 5 end)
    assert.are.equal(2, pool:stats().started)
  end)

  for _, load in ipairs { 1, 2 } do
    case("changes with resize, also while much is queued, load " .. load, function()
      local pool <close> = new_pool { max = 1, load = load, start = 0 }
      local ended, failed = 0, 0
      local total = 600
      for _ = 1, total do
        pool("rep", "x", 300000, function(err)
          ended = ended + 1
          if err then failed = failed + 1 end
        end)
      end
      assert.is_true(pool:resize { max = 3, idle = 1 })
      proc.wait_for(function() return pool:stats().busy == 3 or ended == total end)
      assert.is_true(pool:resize { max = 1 })
      proc.wait_for(function() return #pool:stats().workers == 1 or ended == total end)
      assert.is_true(ended < total, "workers too many go on as long as calls are queued")
      proc.wait_for(function() return ended == total end)
      assert.are.equal(0, failed)
      assert.are.equal(0, pool:stats().crashed)
    end)
  end

  case("cannot be changed after close", function()
    local pool = new_pool { max = 1 }
    finish(pool)
    local ok, err = pool:resize { max = 2 }
    assert.is_nil(ok)
    assert.are.equal("closed", err.kind)
  end)
end)

describe("the queue of a pool #proc", function()
  case("has a bound, and tells when there is room again", function()
    local drains = 0
    local pool <close> = new_pool {
      max = 1, load = 1, queue = 3, on_drain = function() drains = drains + 1 end,
    }
    local path, open = gate()
    local kinds, ended = {}, 0
    local function cb(err)
      local kind = err and err.kind or "fine"
      kinds[kind] = (kinds[kind] or 0) + 1
      ended = ended + 1
      if err then assert.matches("queue", err.message) end
    end
    pool("gate", path, "x", cb)
    proc.wait_for(function() return pool:stats().running == 1 end)
    for _ = 1, 3 do pool("echo", "x", cb) end
    tine.loop.sleep(0)
    assert.are.equal(0, drains)
    for _ = 1, 4 do pool("echo", "x", cb) end
    assert.are.equal(0, ended) -- never in the call itself
    proc.wait_for(function() return ended == 4 end)
    assert.are.equal(0, drains)
    open()
    proc.wait_for(function() return ended == 8 and drains == 1 end)
    assert.are.same({ fine = 4, rejected = 4 }, kinds)
    assert.are.equal(4, pool:stats().rejected)
    -- It can fill and drain again.
    for _ = 1, 9 do pool("echo", "x", cb) end
    proc.wait_for(function() return ended == 17 and drains == 2 end)
  end)

  it("takes a million calls at once, and rejects what is too much #slow", function()
    helper.no_leaks(function()
      local total <const> = helper.sanitized and 100000 or 1000000
      local pool = new_pool { max = 2, queue = 1000, start = 0 }
      local fine, rejected, other = 0, 0, 0
      local function cb(err)
        if not err then
          fine = fine + 1
        elseif err.kind == "rejected" then
          rejected = rejected + 1
        else
          other = other + 1
        end
      end
      for _ = 1, total do pool("echo", "x", cb) end
      assert.are.equal(0, fine + rejected)
      helper.wait_until(100, function() return fine + rejected + other == total end)
      assert.are.equal(0, other)
      assert.are.equal(1000, fine)
      assert.are.equal(total - 1000, rejected)
      pool:close()
    end)
  end)

  case("loses what is cancelled, and nothing else", function()
    local pool <close> = new_pool { max = 1, load = 1, queue = 10 }
    local path, open = gate()
    local kinds, jobs, ended = {}, {}, 0
    for i = 1, 10 do
      jobs[i] = pool(i == 1 and "gate" or "echo", path, "x", function(err)
        kinds[i] = err and err.kind or "fine"
        ended = ended + 1
      end)
    end
    proc.wait_for(function() return pool:stats().running == 1 end)
    for i = 2, 10, 2 do
      jobs[i]:cancel()
      jobs[i]:cancel()
    end
    assert.are.equal(0, ended)
    assert.are.equal(4, pool:stats().queued)
    open()
    proc.wait_for(function() return ended == 10 end)
    for i = 1, 10 do assert.are.equal(i % 2 == 0 and "cancelled" or "fine", kinds[i]) end
    for i = 1, 10 do jobs[i]:cancel() end
    assert.are.equal(5, pool:stats().cancelled)
  end)
end)
