-- Jobs that are cancelled, or late, while they wait: the error reaches them where they wait, so
-- that their variables are closed, and the worker lives.
local helper = require "spec.helper"
local pools = require "spec.pools"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local finish, only, results = pools.finish, pools.only, pools.results

-- Ways to wait; each says in an event that it is about to, and in another one that it has closed.
local function prepare()
  local worker = require "tine"
  local waits, guard, entered, closed = {}, {}, 0, 0

  -- Two ends to be closed together.
  local ends <const> = { __close = function(pair)
    pair.a:close()
    pair.b:close()
  end }

  local function new_pair()
    local a, b = assert(worker.socketpair())
    return setmetatable({ a = a, b = b }, ends)
  end

  local function fill(fd)
    fd:set_blocking(false)
    while fd:write(("x"):rep(65536)) do end
    fd:set_blocking(true)
  end

  local function fifo()
    local path = os.tmpname()
    os.remove(path)
    os.execute("mkfifo " .. path)
    local f <close> = assert(io.open(path, "r+"))
    os.remove(path)
    local pair <close> = new_pair()
    pair.a:send_fd(f)
    return (pair.b:recv_fd())
  end

  local function address()
    return ("unix:@tine-%d-%d"):format(work("pid"), entered) -- luacheck: globals work
  end

  function waits.read()
    local pair <close> = new_pair()
    return pair.a:read(1)
  end

  function waits.read_line()
    local pair <close> = new_pair()
    pair.b:write("half a line")
    return pair.a:read_line()
  end

  function waits.write()
    local pair <close> = new_pair()
    fill(pair.a)
    return pair.a:write("more")
  end

  function waits.recv_fd()
    local pair <close> = new_pair()
    return pair.a:recv_fd()
  end

  function waits.pipe_read()
    local fd <close> = fifo()
    return fd:read(1)
  end

  function waits.pipe_write()
    local fd <close> = fifo()
    fill(fd)
    return fd:write("more")
  end

  function waits.accept()
    local listener <close> = assert(worker.listen(address()))
    return listener:accept()
  end

  function waits.connect()
    local _ <close> = assert(worker.listen(address(), { backlog = 0 }))
    local first <close> = assert(worker.connect(address()))
    return first, worker.connect(address())
  end

  function waits.tcp_connect()
    local listener <close> = assert(worker.listen("127.0.0.1:0", { backlog = 0 }))
    local clients = {}
    while true do
      clients[#clients + 1] = assert(worker.connect(listener:address()))
    end
  end

  function waits.sleep()
    return worker.main(function()
      local here <close> = setmetatable({}, { __close = function() closed = closed + 1 end })
      entered = entered + 1
      worker.loop.sleep(1000)
      return here
    end)
  end

  function waits.read_in_loop()
    return worker.main(function()
      local pair <close> = new_pair()
      return pair.a:read(1)
    end)
  end

  function waits.poll()
    local _ <close> = assert(worker.loop.timer(1000, function() end))
    return worker.loop.poll(1000)
  end

  function waits.file_read()
    local pair <close> = new_pair()
    local f <close> = assert(pair.a:to_file("r"))
    return f:read(1)
  end

  -- Ends by itself; a system call that is interrupted fails it.
  function waits.patience()
    local f <close> = io.popen("sleep 0.005; echo there")
    return assert(f:read())
  end

  function waits.coroutine()
    return coroutine.wrap(function()
      local pair <close> = new_pair()
      return pair.a:read(1)
    end)()
  end

  setmetatable(guard, { __close = function() closed = closed + 1 end })

  function wait(name, ...) -- luacheck: globals wait
    local here <close> = guard
    entered = entered + 1
    worker.event(name)
    worker.flush()
    return here and waits[name](...)
  end

  -- Catches the error, and waits once more.
  function waits.twice(path)
    local ok, err = pcall(waits.read)
    if ok or err.kind ~= "cancelled" then return "wrong" end
    local pair <close> = new_pair()
    os.execute("(sleep 0.2; touch " .. path .. ") >/dev/null 2>&1 &")
    local f = io.popen("while ! [ -e " .. path .. " ]; do sleep 0.01; done; echo there")
    local text = f:read()
    f:close()
    pair.b:write(text)
    os.remove(path)
    return pair.a:read()
  end

  local work_as_before = work -- luacheck: globals work
  function work(name, ...) -- luacheck: globals work
    if name == "counts" then
      local n = 0
      collectgarbage()
      local list <close> = io.popen("ls /proc/$PPID/fd")
      for _ in list:lines() do n = n + 1 end
      return entered, closed, n
    elseif waits[name] then
      return wait(name, ...) -- luacheck: globals wait
    end
    return work_as_before(name, ...)
  end
end

local names <const> = { "read", "read_line", "write", "recv_fd", "pipe_read", "pipe_write",
  "accept", "connect", "tcp_connect", "sleep", "read_in_loop", "poll", "file_read", "coroutine" }

local function new(options)
  local begun = {}
  options.on_event = function(name) begun[#begun + 1] = name end
  local pool, faults = pools.new(options, options.async and "async",
    tine.new():eval(pools.prepare):eval(prepare))
  return pool, faults, begun
end

local function counts(pool)
  local entered, closed, fds = pool:await("counts")
  return tonumber(entered), tonumber(closed), tonumber(fds)
end

describe("jobs that wait #proc", function()
  local function check(name, async)
    local pool, faults, begun = new { max = 1, grace = 60, async = async }
    local pid = tonumber(pool:await("pid"))
    for round = 1, 3 do
      local r = results()
      local job = pool(name, r.cb(1))
      proc.wait_for(function() return #begun == round end)
      tine.loop.sleep(round == 1 and 0.1 or 0) -- it waits, or not yet
      job:cancel()
      r.wait(1)
      assert.are.equal("cancelled", r.kinds[1], r.errs[1])
      if not async then assert.matches("traceback", r.errs[1].traceback) end
    end
    local entered, closed = counts(pool)
    assert.is_true(entered >= 3)
    assert.is_true(closed >= entered)
    assert.are.equal(pid, only(pool))
    finish(pool)
    assert.are.same({}, faults)
  end

  for _, name in ipairs(names) do
    case("get the error there when they are cancelled: " .. name, function() check(name) end)
    if name ~= "poll" then -- the loop runs
      case("get it in an async worker, too: " .. name, function() check(name, true) end)
    end
  end

  case("get it when they are late", function()
    local pool = new { max = 1, grace = 60, timeout = 0.1 }
    local pid = tonumber(pool:await("pid"))
    local r = results()
    pool("read", r.cb(1))
    pool("accept", r.cb(2))
    pool("sleep", r.cb(3))
    r.wait(3)
    assert.are.same({ "timeout", "timeout", "timeout" }, r.kinds)
    assert.are.equal(pid, only(pool))
    finish(pool)
  end)

  case("that catch it can wait in peace, and have their results", function()
    local pool, _, begun = new { max = 1, grace = 60 }
    local pid = tonumber(pool:await("pid"))
    local r = results()
    local job = pool("twice", helper.tmpname() .. ".x", r.cb(1))
    proc.wait_for(function() return #begun == 1 end)
    tine.loop.sleep(0.05)
    job:cancel()
    r.wait(1)
    assert.are.equal("fine", r.kinds[1], r.errs[1])
    assert.are.equal("there", r.values[1][1])
    assert.are.equal(pid, only(pool))
    finish(pool)
  end)

  case("get it although the host is busy for longer than the grace", function()
    local pool, faults, begun = new { max = 1, grace = 0.1 }
    local pid = tonumber(pool:await("pid"))
    for _, name in ipairs { "accept", "read", "sleep", "pipe_read" } do
      local r, n = results(), #begun
      local job = pool(name, r.cb(1))
      proc.wait_for(function() return #begun > n end)
      tine.loop.sleep(0.05)
      job:cancel()
      os.execute("sleep 0.3")
      r.wait(1)
      assert.are.equal("cancelled", r.kinds[1])
      assert.is_nil(r.errs[1].signal)
    end
    assert.are.equal(pid, only(pool))
    finish(pool)
    assert.are.same({}, faults)
  end)

  case("get it at any moment, 1000 times", function()
    local pool, faults = new { max = 1, load = 2, grace = 60 }
    local pid = tonumber(pool:await("pid"))
    local _, _, fds = counts(pool)
    local waits <const> = { "read", "read_line", "accept", "coroutine", "write", "tcp_connect",
      "pipe_read", "connect" }
    local seed = os.time()
    math.randomseed(seed)
    for round = 1, 1000 do
      local name = waits[round % #waits + 1]
      local r = results()
      local job = pool(name, r.cb(1))
      local until_then = tine.loop.now() + math.random() * 0.0015
      repeat tine.loop.sleep(0) until tine.loop.now() >= until_then
      job:cancel()
      r.wait(1)
      assert(r.kinds[1] == "cancelled", ("%s, round %d of seed %d: %s"):format(name, round, seed,
        tostring(r.errs[1])))
      if round % 10 == 0 then -- the next one has its peace
        assert.are.equal("there", (pool:await("patience")))
      end
    end
    assert.are.equal(pid, only(pool))
    local entered, closed, left = counts(pool)
    assert.is_true(closed >= entered)
    -- One that was stopped before it had what it made in a variable leaves that to the collector.
    assert.is_true(left < fds + 100, left)
    finish(pool)
    assert.are.same({}, faults)
  end)
end)
