-- Promotion: a worker that has loaded and cached becomes the template of those to come.
local helper = require "spec.helper"
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local finish, results = pools.finish, pools.results

-- Workers that fill a cache with their first job, and say who has filled it.
local function prepare()
  local cache, inits = {}, 0

  local function pid()
    local f <close> = assert(io.open("/proc/self/stat"))
    return f:read("n")
  end

  function init(...) -- luacheck: globals init
    assert(... == "hello" and select("#", ...) == 1)
    inits = inits + 1
    if cache.poisoned then error("poisoned") end
  end

  function work(what, n) -- luacheck: globals work
    if not cache.by then
      cache.by, cache.list = pid(), {}
      for i = 1, 50000 do cache.list[i] = { i, tostring(i) } end
    end
    if what == "poison" then cache.poisoned = true end
    if what == "sleep" then os.execute("sleep " .. n) end
    return cache.by, pid(), inits, #cache.list, n or ""
  end
end

local function new_pool(options)
  options.init = options.init or "init"
  options.start = 0
  local template = tine.new():eval(prepare):send_arg("hello")
  return pools.new(options, "work", template), template
end

-- Each of two workers has done a job.
local function warm(pool)
  local r = results()
  for i = 1, 2 do pool("sleep", 0.05, r.cb(i)) end
  r.wait(2)
  assert.are.same({ "fine", "fine" }, r.kinds)
end

describe("pool:promote #proc", function()
  case("gives new workers what one has loaded", function()
    local pool <close> = new_pool { max = 2, idle = 2, load = 1 }
    warm(pool)
    local before = pool:stats()
    local olds = {}
    for _, worker in ipairs(before.workers) do olds[worker.pid] = true end
    assert.is_true(pool:promote())
    for _ = 1, 4 do
      local by, own, inits, n = pool:await("x")
      assert.is_true(olds[math.tointeger(tonumber(by))], "it was made anew")
      assert.is_nil(olds[math.tointeger(tonumber(own))])
      assert.are.equal("50000", n)
      assert.are.equal("2", inits) -- of the promoted worker, and of its own
    end
    for _, worker in ipairs(pool:stats().workers) do
      if worker.state == "idle" or worker.state == "busy" then
        assert.are.equal(1, worker.generation)
        if worker.heap == "sealed" then
          assert.is_true(worker.own < before.workers[1].own / 10, worker.own)
          assert.is_true(worker.shared > before.workers[1].own / 2, worker.shared)
        end
      end
    end
  end)

  case("can be done again, with a worker from a promoted one", function()
    local pool <close> = new_pool { max = 2, idle = 1 }
    local by = pool:await("x")
    for generation = 1, 4 do
      assert.is_true(pool:promote())
      local now, _, inits = pool:await("x")
      assert.are.equal(by, now)
      assert.are.equal(generation + 1, math.tointeger(tonumber(inits)))
    end
    assert.are.equal(0, pool:stats().crashed)
  end)

  case("loses and refuses no job meanwhile", function()
    local pool = new_pool { max = 3, idle = 2, load = 4 }
    warm(pool)
    local ended, promoted = 0, 0
    local total = 3000
    for i = 1, total do
      pool("x", i, function(err, _, _, _, _, n)
        assert(not err, err)
        assert.are.equal(i, tonumber(n))
        ended = ended + 1
      end)
    end
    while ended < total do
      if pool:promote() then promoted = promoted + 1 end
      tine.loop.sleep(0.001)
    end
    assert.is_true(promoted >= 1)
    assert.are.equal(0, pool:stats().crashed)
    finish(pool)
  end)

  -- Serials count from 1 in each worker: what was done to a call of the promoted one says nothing
  -- of the calls of those forked from it.
  case("leaves jobs of new workers interruptible, as those of the promoted one were", function()
    local template = tine.new():eval(pools.prepare)
    local pool = pools.new({ max = 1, load = 1, grace = 60 }, "work", template)
    for _ = 1, 3 do
      pool:await("pid")
      local err = pool:call { args = { "spin" }, timeout = 0.05 }
      assert.are.equal("timeout", err.kind)
      assert.is_nil(err.signal)
      assert.is_true(pool:promote())
    end
    assert.are.equal(0, pool:stats().crashed)
    finish(pool)
  end)

  case("leaves the old template where a worker from the new one fails", function()
    local pool <close> = new_pool { max = 1, idle = 1 }
    pool:await("poison")
    local ok, err = pool:promote()
    assert.is_nil(ok)
    assert.matches("poisoned", err.message)
    local _, _, inits = pool:await("x")
    assert.are.equal("1", inits)
    assert.are.equal(0, pool:stats().workers[1].generation)
    -- And it can be tried again.
    assert.is_true(pool:promote())
  end)

  case("fails when the worker dies first, and the pool goes on", function()
    local pool <close> = new_pool { max = 1, idle = 1, load = 1 }
    local _, pid = pool:await("x")
    local r = results()
    pool("sleep", 1000, r.cb(1))
    proc.wait_for(function() return pool:stats().workers[1].job end)
    local ended
    pool:promote(function(...) ended = table.pack(...) end)
    pools.kill(math.tointeger(tonumber(pid)))
    proc.wait_for(function() return ended end)
    assert.is_nil(ended[1])
    assert.are.equal("crash", ended[2].kind)
    assert.are.equal("crash", r.kinds[1])
    assert.is_truthy(pool:await("x"))
  end)

  case("has a spare as any template has", function()
    local pool, template = new_pool { max = 1, idle = 1 }
    local by = pool:await("x")
    assert.is_true(pool:promote())
    assert.are.equal(by, (pool:await("x")))
    proc.wait_for(function() -- it is forked when the first worker is ready
      for _, pid in ipairs(helper.children(math.tointeger(tonumber(by)))) do
        if helper.title(pid):find("spare") then return true end
      end
    end)
    -- The promoted one takes the place of a template whose death is survived; it is the child of
    -- the first, so both go here.
    pools.kill(template:pid())
    proc.wait_for(function() return pool:stats().crashed > 0 end)
    assert.is_truthy(pool:await("x"))
    finish(pool)
  end)

  case("is over when the pool is closed", function()
    local pool = new_pool { max = 1, idle = 1, load = 1 }
    pool:await("x")
    local r = results()
    pool("sleep", 0.1, r.cb(1))
    local ended
    pool:promote(function(...) ended = table.pack(...) end)
    finish(pool)
    assert.is_nil(ended[1])
    assert.are.equal("closed", ended[2].kind)
    assert.are.equal("fine", r.kinds[1])
  end)

  case("says why not", function()
    local function refused(pool, pattern)
      local ok, err = pool:promote()
      assert.is_nil(ok)
      assert.matches("^promote: .*" .. pattern, tostring(err))
    end
    local pool = new_pool { max = 1, idle = 1 }
    refused(pool, "no worker has done a job")
    pool:await("x")
    local first
    pool:promote(function(ok) first = ok end)
    refused(pool, "under way")
    proc.wait_for(function() return first end)
    finish(pool)
    refused(pool, "closed")

    pool = pools.new({ max = 1, async = true }, "async")
    pool:await("echo", 1)
    refused(pool, "async")
    finish(pool)

    local near, far = assert(tine.socketpair())
    pool = pools.new({ max = 1 }, "work", tine.new():eval(pools.prepare):send_fd(far))
    far:close()
    pool:await("echo", 1)
    refused(pool, "descriptors")
    near:close()
    finish(pool)
  end)

  case("comes by itself when workers each load the same", function()
    local pool <close> = new_pool { max = 2, idle = 2, load = 1, promote = 1 << 20 }
    warm(pool)
    proc.wait_for(function()
      pool:await("x")
      local generation = 0
      for _, worker in ipairs(pool:stats().workers) do
        generation = math.max(generation, worker.generation)
      end
      return generation > 0
    end)
    assert.are.equal(0, pool:stats().crashed)
  end)

  it("blames the caller", function()
    helper.no_leaks(function()
      local pool = new_pool { max = 1 }
      proc.assert_blames("promote: a function expected", function() pool:promote(1) end)
      proc.assert_blames("a callback is needed", function() pool:promote() end)
      pool:close()
    end)
  end)
end)
