-- What a worker's error is when it is no text: it travels to the caller, or its type is told; and
-- no text has an address of another process.
local helper = require "spec.helper"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)

local function prepare()
  local worker = require "tine"
  local kinds = {}

  function kinds.table() error({ code = 7, list = { 1, "two" } }) end
  function kinds.number() error(42, 0) end
  function kinds.float() error(2.5, 0) end
  function kinds.boolean() error(false) end
  function kinds.none() error(nil) end
  function kinds.text() error("plain", 0) end
  function kinds.func() error(print) end
  function kinds.file() error(io.stdout) end
  function kinds.hidden() error({ f = print }) end
  function kinds.cycle()
    local t = {}
    t.t = t
    error(t)
  end
  function kinds.thread() error(coroutine.create(print)) end
  function kinds.said()
    error(setmetatable({ code = 8 }, { __tostring = function(e) return "code " .. e.code end }))
  end
  function kinds.dumb()
    error(setmetatable({}, { __tostring = function() error("no") end }))
  end
  -- What a call of the worker's own has failed with.
  function kinds.nested()
    local p = worker.new():rpc(function() os.exit(3) end, { on_error = function() end })
    local err
    p(function(e) err = e end)
    while not err do worker.loop.poll(1) end
    p:close()
    worker.loop.run()
    err.value = { more = 1 }
    error(err)
  end

  function raise(kind) kinds[kind]() end -- luacheck: ignore 111
  function raise_async(_, kind) kinds[kind]() end -- luacheck: ignore 111
  function raise_later(_, kind) -- luacheck: ignore 111
    worker.go(function()
      worker.loop.sleep(0.001)
      kinds[kind]()
    end)
  end
end

local function no_address(err)
  assert.is_nil((err.message .. (err.traceback or "")):find("0x%x%x%x"), err.message)
end

-- In a coroutine: an rpc and a pool of each kind of worker, and a function that gives a job's err.
local function each(options, check)
  for _, entry in ipairs { "raise", "raise_async", "raise_later" } do
    for _, what in ipairs { "rpc", "pool" } do
      local copy = { async = entry ~= "raise" }
      for k, v in pairs(options) do copy[k] = v end
      local template = tine.new():eval(prepare)
      local service = assert(template[what](template, entry, copy))
      check(function(...)
        local ok, err = pcall(service.await, service, ...)
        assert.is_false(ok)
        assert.are.equal("exception", err.kind)
        no_address(err)
        return err
      end, what .. " " .. entry)
      local gone = false
      service:close(function() gone = true end)
      proc.wait_for(function() return gone end)
    end
  end
end


describe("an error that is no text #proc", function()
  for _, serialiser in ipairs { "lua", "msgpack", "json" } do
    case("travels to the caller by " .. serialiser, function()
      each({ serialiser = serialiser }, function(fails, label)
        local err = fails("table")
        assert.are.same({ code = 7, list = { 1, "two" } }, err.value, label)
        assert.are.equal("(error object is a table value)", err.message)
        assert.are.equal(42, fails("number").value)
        assert.are.equal("42", fails("number").message)
        assert.are.equal(2.5, fails("float").value)
        assert.are.equal(false, fails("boolean").value)
        assert.are.equal("false", fails("boolean").message)
        err = fails("none")
        assert.is_nil(err.value)
        assert.are.equal("nil", err.message)
      end)
    end)

    case("is told by its type where it cannot travel by " .. serialiser, function()
      each({ serialiser = serialiser }, function(fails, label)
        for kind, type in pairs { func = "function", file = "FILE%*", hidden = "table",
          thread = "thread" } do
          local err = fails(kind)
          assert.is_nil(err.value, label .. " " .. kind)
          assert.matches("^%(error object is a " .. type .. " value%)$", err.message)
        end
        local err = fails("cycle")
        if serialiser == "lua" then
          assert.are.equal(err.value, err.value.t)
        else
          assert.is_nil(err.value)
        end
        -- The worker lives.
        assert.are.equal(7, fails("table").value.code)
      end)
    end)

    case("has the text of its __tostring by " .. serialiser, function()
      each({ serialiser = serialiser }, function(fails)
        local err = fails("said")
        assert.are.equal("code 8", err.message)
        if serialiser == "lua" then -- which drops no metatable
          assert.is_nil(err.value)
        else
          assert.are.same({ code = 8 }, err.value)
        end
        assert.is_nil(fails("dumb").value and fails("dumb").value.code)
        assert.is_nil(fails("text").value)
        assert.are.equal("plain", fails("text").message)
      end)
    end)
  end

  case("is an err with all it says when a worker's own call has failed", function()
    for _, serialiser in ipairs { "lua", "msgpack", "json" } do
      local rpc = tine.new():eval(prepare):rpc("raise", { serialiser = serialiser })
      local ok, err = pcall(rpc.await, rpc, "nested")
      assert.is_false(ok)
      assert.are.equal("exception", err.kind)
      assert.are.equal("crash", err.value.kind, serialiser)
      assert.are.equal(3, err.value.code)
      assert.is_true(math.type(err.value.pid) == "integer")
      assert.are.equal(err.message, err.value.message)
      assert.are.same({ more = 1 }, err.value.value)
      assert.are.equal(getmetatable(err), getmetatable(err.value))
      assert.matches(err.value.message, tostring(err.value), 1, true)
      rpc:close()
    end
  end)

  case("may be an argument, a result, an event and an upvalue, an err by \"lua\"", function()
    local pool, event = tine.new():eval(function()
      local worker = require "tine"
      function _G.work(what, err)
        if what == "back" then
          worker.event(err)
          return nil, err, { err, err }, getmetatable(err) ~= nil and tostring(err)
        elseif what == "call" then
          return err()
        end
        local _, b <close> = worker.socketpair()
        local text, late = b:read(1, { timeout = 0 })
        return text, late
      end
    end), nil
    pool = pool:pool("work", { serialiser = "lua", max = 1, on_event = function(e) event = e end })
    local none, err = pool:await("read")
    assert.is_nil(none)
    assert.are.equal("timeout", err.kind)
    assert.are.equal("read: timed out", tostring(err))
    local _, same, list, text = pool:await("back", err)
    assert.are.same(err, same)
    assert.are.equal(getmetatable(err), getmetatable(same))
    assert.are.equal("read: timed out", tostring(same))
    assert.are.equal("read: timed out", text)
    assert.are.equal(same, list[1])
    assert.are.equal(same, list[2])
    assert.are.equal("read: timed out", tostring(event))
    assert.are.equal("read: timed out", tostring((pool:await("call", function() return err end))))
    err.value = err -- a cycle
    _, same = pool:await("back", err)
    assert.are.equal(same, same.value)
    err.value = print
    local ok, why = pcall(pool.await, pool, "back", { err })
    assert.is_false(ok)
    assert.matches("^args%[2%]%[1%]%.value: a C function", why.message)
    pool:close()
  end)

  case("is a text by the serialiser of strings, and tables are told by type", function()
    each({}, function(fails)
      assert.are.equal("42", fails("number").value)
      assert.are.equal("(error object is a table value)", fails("table").message)
      assert.is_nil(fails("table").value)
      assert.is_nil(fails("text").value)
    end)
  end)

  case("goes through the user's serialiser, whose own errors cost the value only", function()
    local source = {}
    source.freeze = [[function(...)
        if select("#", ...) == 1 and type(...) == "table" then
          if not (...).code then error({ "frozen" }) end
          return "code " .. (...).code
        end
        return table.concat({ ... }, " ")
      end]]
    source.thaw = [[function(text)
        if text:find("^code") then return { thawed = text } end
        return text
      end]]
    local template = tine.new():eval(prepare)
    local rpc = template:rpc("raise", { serialiser = source })
    local _, err = pcall(rpc.await, rpc, "table")
    assert.are.same({ thawed = "code 7" }, err.value)
    _, err = pcall(rpc.await, rpc, "hidden")
    assert.is_nil(err.value)
    assert.are.equal("(error object is a table value)", err.message)
    rpc:close()
  end)

  case("gives no address away in an eval, a require, an entry or an init", function()
    local texts = {}
    local function keep(err) texts[#texts + 1] = err end
    tine.new():on_error(keep):eval("error({})"):await_ready()
    local p = tine.new():on_error(keep)
    p:run(function() error({}) end)
    local rpc = tine.new():rpc(function() end, { on_error = keep, init = function() error({}) end })
    pcall(rpc.await, rpc)
    proc.wait_for(function() return #texts >= 3 end)
    for _, err in ipairs(texts) do
      no_address(err)
      assert.matches("error object is a table value", err.message, 1, true)
    end
    rpc:close()
  end)

  it("has not to be a text in freeze, either", function()
    local core = require "tine.core"
    local codec = core.codec("source", "return function() error({}) end, function() error({}) end")
    local _, why = codec:encode(1)
    assert.are.equal("freeze: (error object is a table value)", why)
    _, why = codec:decode("x")
    assert.are.equal("thaw: (error object is a table value)", why)
    helper.no_leaks(function() end)
  end)
end)
