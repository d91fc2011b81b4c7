-- Descriptors as values of calls: arguments, results, events.
local helper = require "spec.helper"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)

local SERIALISERS <const> = { "lua", "msgpack", "json" }

local function prepare()
  local worker = require "tine"
  local jobs, kept = {}, {}

  -- Writes to each descriptor, wherever in the values it lies, and closes it.
  local function write(value, text)
    if type(value) == "table" then
      for _, v in pairs(value) do write(v, text) end
    elseif type(value) == "userdata" then
      assert(value:write(text))
      value:close()
    end
  end

  function jobs.write(text, ...)
    for i = 1, select("#", ...) do write((select(i, ...)), text) end
    return "done"
  end

  function jobs.give(n)
    local list = {}
    for i = 1, n or 1 do
      local mine, yours = worker.socketpair()
      mine:write("given " .. i)
      mine:close()
      list[i] = yours
    end
    return list, "beside"
  end

  function jobs.tell()
    local mine, yours = worker.socketpair()
    mine:write("told")
    mine:close()
    worker.event("news", { yours })
    yours:close()
    return "done"
  end

  function jobs.count(...)
    local n = 0
    for i = 1, select("#", ...) do
      for _, v in ipairs((select(i, ...))) do
        n = n + (io.type(v) == nil and tostring(v):find("^tine.fd") and 1 or 0)
        v:close()
      end
    end
    return n
  end

  function jobs.same(a, t) return a == t.b and a == t.c end

  function jobs.flags(fd)
    for line in io.lines("/proc/self/fdinfo/" .. fd:fileno()) do
      local flags = line:match("^flags:%s*(%d+)")
      if flags then return tonumber(flags, 8) & 0x80000 ~= 0, fd:fileno() > 2 end
    end
  end

  function jobs.open()
    collectgarbage("collect", "full")
    collectgarbage("collect", "full")
    local n = 0
    local list <close> = io.popen("ls -l /proc/$PPID/fd")
    for line in list:lines() do
      n = n + (line:find("-> socket:", 1, true) and 1 or 0)
    end
    return n
  end

  function jobs.ignore() return "ignored" end
  function jobs.keep(fd) kept[#kept + 1] = fd end
  function jobs.fail(fd) error("failed with " .. type(fd), 0) end
  function jobs.fail_with(fd) error({ fd = fd }, 0) end
  function jobs.die() os.exit(5) end

  function jobs.fill()
    for i = 1, math.huge do
      local f = io.open("/dev/null")
      if not f then return i end
      kept[#kept + 1] = f
    end
  end

  function jobs.free()
    for _, f in ipairs(kept) do f:close() end
    kept = {}
  end

  -- Dies in the first process that has it, works in the next.
  function jobs.second(path, fd)
    local f = io.open(path)
    if not f then
      assert(io.open(path, "w")):close()
      os.exit(1)
    end
    f:close()
    return jobs.write("second", fd)
  end

  function work(name, ...) return jobs[name](...) end -- luacheck: ignore 111
  function work_async(done, name, ...) done(jobs[name](...)) end -- luacheck: ignore 111
end

local function close(service)
  local gone = false
  service:close(function() gone = true end)
  proc.wait_for(function() return gone end)
end

-- Calls check with an rpc and a pool, of each kind, by each serialiser.
local function each(check, options)
  for _, serialiser in ipairs(SERIALISERS) do
    for _, entry in ipairs { "work", "work_async" } do
      for _, what in ipairs { "rpc", "pool" } do
        local template = tine.new():eval(prepare)
        local all = { serialiser = serialiser, async = entry == "work_async",
          max = what == "pool" and 1 or nil }
        for k, v in pairs(options or {}) do all[k] = v end
        local service = assert(template[what](template, entry, all))
        check(service, ("%s %s %s"):format(serialiser, entry, what))
        close(service)
      end
    end
  end
end

local function read_and_close(sock)
  local text = sock:read(100)
  sock:close()
  return text
end

describe("a descriptor as an argument of a call #proc", function()
  case("arrives as a tine.fd of the worker's own", function()
    each(function(service, label)
      local mine, yours = tine.socketpair()
      local path = os.tmpname()
      local file = assert(io.open(path, "w"))
      local copy = yours:dup()
      local methods = { fileno = function() return yours:fileno() end }
      local object = setmetatable({}, { __index = methods })
      local failed
      service("write", "text", yours, { file = file, deep = { copy } }, object, function(err)
        failed = err
      end)
      yours:close() -- it was duplicated
      copy:close()
      file:close()
      local got = ""
      while #got < 12 do got = got .. assert(mine:read(100), failed or label) end
      assert.equal("texttexttext", got, label)
      assert.is_nil(mine:read(1)) -- nobody has it any more
      mine:close()
      assert.is_nil(failed)
      assert.equal("done", service:await("write", "x"))
      local f <close> = io.open(path)
      assert.equal("text", f:read("a"))
      os.remove(path)
    end)
  end)

  case("is close-on-exec, above stdio, and blocks there", function()
    each(function(service, label)
      local mine, yours = tine.socketpair()
      local cloexec, above = service:await("flags", yours)
      assert.is_true(cloexec and above, label)
      mine:close()
      yours:close()
    end)
  end)

  case("is one object however often it occurs, by the serialiser of plain data", function()
    local rpc = tine.new():eval(prepare):rpc("work", { serialiser = "lua" })
    local mine, yours = tine.socketpair()
    assert.is_true(rpc:await("same", yours, { b = yours, c = yours }))
    mine:close()
    yours:close()
    close(rpc)
  end)

  case("may be one of many, in one call or in many", function()
    for _, serialiser in ipairs(SERIALISERS) do
      for _, entry in ipairs { "work", "work_async" } do
        local rpc = tine.new():eval(prepare):rpc(entry,
          { serialiser = serialiser, async = entry == "work_async" })
        local null <close> = assert(io.open("/dev/null", "w"))
        local list = {}
        for i = 1, 300 do list[i] = null end
        if serialiser == "lua" then -- one object is sent once
          for i = 1, 300 do list[i] = assert(io.open("/dev/null")) end
        end
        assert.equal(300, rpc:await("count", list))
        for i = 1, 300 do
          if list[i] ~= null then list[i]:close() end
        end
        local sum, left = 0, 200
        for _ = 1, 200 do
          rpc("count", { null }, function(err, n)
            assert.is_nil(err)
            sum, left = sum + n, left - 1
          end)
        end
        proc.wait_for(function() return left == 0 end)
        assert.equal(200, sum)
        close(rpc)
      end
    end
  end)

  case("does not stay open where nobody takes it, whatever becomes of the call", function()
    each(function(service, label)
      local before = service:await("open")
      for _, name in ipairs { "ignore", "fail", "fail_with", "count" } do
        local mine, yours = tine.socketpair()
        pcall(service.await, service, name, { yours })
        mine:close()
        yours:close()
      end
      assert.equal(before, service:await("open"), label)
    end)
  end)

  case("goes with the call that is cancelled, or never carried out", function()
    each(function(service)
      local mine, yours = tine.socketpair()
      local left, n = 50, 0
      for _ = 1, left do
        local job = service("ignore", yours, function()
          left = left - 1
        end)
        n = n + 1
        if n % 2 == 0 then job:cancel() end
      end
      yours:close()
      proc.wait_for(function() return left == 0 end)
      service("ignore", mine, function() left = left - 1 end)
      service("die", function() left = left - 1 end)
      service("ignore", mine, function() left = left - 1 end)
      proc.wait_for(function() return left == -3 end)
      mine:close()
    end, { on_error = function() end })
  end)

  case("goes with each retry", function()
    for _, serialiser in ipairs(SERIALISERS) do
      local path = os.tmpname()
      os.remove(path)
      local pool = tine.new():eval(prepare):pool("work",
        { serialiser = serialiser, retries = 2, max = 1, on_error = function() end })
      local mine, yours = tine.socketpair()
      local result
      pool("second", path, yours, function(err, text) result = err or text end)
      yours:close()
      proc.wait_for(function() return result end)
      assert.equal("done", tostring(result))
      assert.equal("second", read_and_close(mine))
      os.remove(path)
      close(pool)
    end
  end)

  case("fails its call where it is closed, with the path", function()
    each(function(service, label)
      local mine, yours = tine.socketpair()
      yours:close()
      local ok, err = pcall(service.await, service, "ignore", { x = { yours } })
      assert.is_false(ok)
      assert.equal("encode", err.kind, label)
      assert.equal("args[2].x[1]: a closed descriptor", err.message)
      mine:close()
    end)
  end)

  case("is refused by the serialiser of strings", function()
    local rpc = tine.new():eval(prepare):rpc("work")
    local mine, yours = tine.socketpair()
    local ok, err = pcall(rpc.await, rpc, "ignore", yours)
    assert.is_false(ok)
    assert.matches("^args%[2%]: .*see the option serialiser", err.message)
    mine:close()
    yours:close()
    close(rpc)
  end)

  case("fails its call in a worker that has no room for it, and no other", function()
    for _, serialiser in ipairs(SERIALISERS) do
      local rpc = tine.new():eval(prepare):rpc("work", { serialiser = serialiser })
      local null <close> = assert(io.open("/dev/null"))
      rpc:await("ignore") -- it is there
      assert(os.execute(("prlimit --pid %d --nofile=200:"):format(rpc:pid())))
      rpc:await("fill")
      local ok, err = pcall(rpc.await, rpc, "ignore", null)
      assert.is_false(ok)
      assert.equal("decode", err.kind)
      assert.matches("too many open files", err.message)
      rpc:await("free")
      assert.equal("ignored", rpc:await("ignore", null))
      close(rpc)
    end
  end)
end)

describe("a descriptor as a result or in an event #proc", function()
  case("arrives as a tine.fd of the host's own", function()
    each(function(service, label)
      local list, beside = service:await("give", 3)
      assert.equal("beside", beside, label)
      for i = 1, 3 do
        assert.equal("given " .. i, read_and_close(list[i]))
      end
    end)
  end)

  case("arrives with an event", function()
    local news
    each(function(service, label)
      news = nil
      assert.equal("done", service:await("tell"))
      assert.equal("told", news and read_and_close(news[1]), label)
    end, { on_event = function(_, list) news = list end })
  end)

  case("may be one of many", function()
    for _, serialiser in ipairs(SERIALISERS) do
      local rpc = tine.new():eval(prepare):rpc("work", { serialiser = serialiser })
      local list = rpc:await("give", 300)
      assert.equal(300, #list)
      for i = 1, 300 do assert.equal("given " .. i, read_and_close(list[i])) end
      close(rpc)
    end
  end)

  case("is closed where nobody takes it", function()
    each(function(service)
      local left = 20
      for _ = 1, left do
        service("give", 2, function() left = left - 1 end)
      end
      proc.wait_for(function() return left == 0 end)
    end)
    collectgarbage()
  end)

  it("is not left behind when the worker dies, or the host closes, with many under way", function()
    helper.no_leaks(function()
      proc.within(15, function()
        for round = 1, 5 do
          local pool = tine.new():eval(prepare):pool("work",
            { serialiser = "lua", max = 2, on_error = function() end })
          local null <close> = assert(io.open("/dev/null"))
          local left = 101
          local function ended() left = left - 1 end
          for i = 1, 100 do
            pool(i % 2 == 0 and "give" or "ignore", i % 2 == 0 and 2 or null, ended)
            if i == 50 + round then pool("die", ended) end
          end
          local gone = false
          pool:close(function() gone = true end, round % 2 == 0 and 0 or nil)
          proc.wait_for(function() return gone and left == 0 end)
        end
      end)
      collectgarbage()
      collectgarbage()
    end)
  end)
end)
