local helper = require "spec.helper"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)
local result, finish, assert_blames = proc.result, proc.finish, proc.assert_blames

local function send(sock, ...) sock:write(table.concat({ ... }, " ")) end

-- What a function returns, in another process.
local function there(fn, ...)
  local p = tine.new():eval(function(f, ...)
    answer = table.pack(f(...)) -- luacheck: ignore 111
  end, fn, ...)
  return result(p, function(sock)
    local words = {}
    for i = 1, answer.n do words[i] = tostring(answer[i]) end -- luacheck: ignore 113
    sock:write(table.concat(words, " "))
  end)
end

describe("a function as eval's code #proc", function()
  case("runs there, with its arguments", function()
    local p = tine.new():eval(function(...)
      pid = require("tine").is_worker() and select("#", ...) -- luacheck: ignore 111
      list = { ... } -- luacheck: ignore 111
    end, "a", 2, { "b" })
    assert.equal("3 a 2 b", result(p, function(sock)
      send(sock, pid, list[1], list[2], list[3][1]) -- luacheck: ignore 113
    end))
    assert.is_nil(rawget(_G, "pid"))
  end)

  case("may be mixed with source text", function()
    local p = tine.new():eval("x = 1"):eval(function() x = x + 1 end) -- luacheck: ignore 111 113
      :eval("x = x * ...", 10)
    assert.equal("20", result(p, function(sock) sock:write(x) end)) -- luacheck: ignore 113
  end)

  case("takes functions as arguments, with their upvalues", function()
    local n = 5
    local function add(x) return x + n end
    assert.equal("12 7", there(function(f, t) return f(7), t.f(2) end, add, { f = add }))
  end)
end)

describe("a function as the entry #proc", function()
  case("gets the socket and all that was sent", function()
    local p = tine.new():send_arg("a", "b")
    assert.equal("a b c", result(p:send_arg("c"), send))
  end)

  case("works in every fork of a template", function()
    local template = tine.new():eval(function() counter = 10 end) -- luacheck: ignore 111
    local function entry(sock)
      counter = counter + 1 -- luacheck: ignore 111 113
      sock:write(counter) -- luacheck: ignore 113
    end
    for _ = 1, 3 do assert.equal("11", result(template:fork(), entry)) end
  end)

  case("works in an exec'ed process", function()
    assert.equal("x y", result(tine.new_exec():send_arg("x", "y"), send))
  end)
end)

describe("upvalues #proc", function()
  case("are copied by value: plain values of all kinds", function()
    local none, yes, integer, float, text = nil, true, 1 << 62, 0.1, "a\0b"
    local t = { 1, { x = "y" }, [2.5] = true }
    assert.equal("nil true " .. (1 << 62) .. " 0.1 3 y true float", there(function()
      return none, yes, integer, float, #text, t[2].x, t[2.5], math.type(float)
    end))
  end)

  case("are those of the moment of the call", function()
    local n = 1
    local p = tine.new():eval(function() x = n end) -- luacheck: ignore 111
    n = 2 -- luacheck: ignore 311
    assert.equal("1", result(p, function(sock) sock:write(x) end)) -- luacheck: ignore 113
  end)

  case("are changed there, not here", function()
    local n, t = 1, { 1 }
    local p = tine.new():eval(function()
      n = n + 1
      t[1] = n
      x, y = n, t[1] -- luacheck: ignore 111
    end)
    assert.equal("2 2", result(p, function(sock) send(sock, x, y) end)) -- luacheck: ignore 113
    assert.same({ 1, { 1 } }, { n, t })
  end)

  case("stay shared between the functions of one call", function()
    local n = 0
    local function increase() n = n + 1 end
    local function get() return n end
    assert.equal("0 1 2", there(function()
      local before = get()
      increase()
      local between = get()
      n = n + 1
      return before, between, get()
    end))
    assert.equal(0, n)
  end)

  case("keep references to one table", function()
    local shared = {}
    local a, b = { shared }, { shared }
    local function f() return a[1] == b[1] and a[1] == shared end
    assert.equal("true", there(f))
    shared.me = shared
    assert.equal("true", there(function() return shared.me.me == shared end))
  end)

  case("allow recursion, of one function and of two", function()
    local function factorial(n) return n <= 1 and 1 or n * factorial(n - 1) end
    assert.equal("120", there(factorial, 5))
    local even, odd
    function even(n) return n == 0 or odd(n - 1) end
    function odd(n) return n ~= 0 and even(n - 1) end
    assert.equal("true false", there(function() return even(10), odd(10) end))
  end)

  case("that are _ENV become the globals there", function()
    assert.equal("true nil true", there(function()
      made_there = 1 -- luacheck: ignore 111
      local same = _ENV == _G
      return same, rawget(_G, "describe"), _G.made_there == 1
    end))
    assert.is_nil(rawget(_G, "made_there"))
  end)

  case("that are an _ENV of one's own become the globals there, too", function()
    local chunk = load("x = (x or 0) + 1 return x, _ENV == _G", "=chunk", "t", { x = 41 })
    assert.equal("1 true", there(chunk))
  end)

  case("that are the table of globals become that there", function()
    local env = _G
    assert.equal("true", there(function() return env == _G end))
  end)

  case("of functions from load and of varargs work", function()
    assert.equal("3 a b c", there(load("return select('#', ...), ..."), "a", "b", "c"))
  end)

  case("may be many, and deep", function()
    local list = {}
    for i = 1, 5000 do list[i] = { i, tostring(i) } end
    local deep = {}
    for _ = 1, 100 do deep = { deep } end
    assert.equal("5000 5000 100", there(function()
      local n, t = 0, deep
      while t[1] do n, t = n + 1, t[1] end
      return #list, list[5000][2], n
    end))
  end)
end)

describe("refused upvalues #proc", function()
  case("are named at the caller's line", function()
    local p = tine.new()
    local thread, file, fmt = coroutine.create(print), io.stdout, string.format
    local meta = setmetatable({}, {})
    assert_blames("upvalue 'thread': a coroutine",
      function() p:eval(function() return thread end) end)
    assert_blames("upvalue 'file': a userdata",
      function() p:eval(function() return file end) end)
    assert_blames("upvalue 'p': a userdata %(tine.process%)",
      function() p:eval(function() return p end) end)
    assert_blames("upvalue 'fmt': a C function %(string.format",
      function() p:eval(function() return fmt end) end)
    assert_blames("upvalue 'meta': a table with a metatable",
      function() p:eval(function() return meta end) end)
    assert_blames("upvalue 'file'", function() p:run(function() return file end) end)
    assert_blames("upvalue 'file'", function() p:run(function() return file end, print) end)
    assert.equal("fine", result(p, function(sock) sock:write("fine") end))
  end)

  case("are named by the path to them", function()
    local p = tine.new()
    local config = { outputs = { "x", log = io.stdout } }
    local function inner() return config.outputs.log end
    assert_blames("upvalue 'inner' upvalue 'config'%.outputs%.log: a userdata",
      function() p:eval(function() return inner() end) end)
    local outputs = { log = io.stdout }
    local nested = { outputs = outputs, list = {} }
    assert_blames("upvalue 'nested'%.outputs%.log: a userdata",
      function() p:eval(function() return nested end) end)
    nested.outputs = nil
    nested.list[3] = print
    assert_blames("upvalue 'nested'%.list%[3%]: a C function %(print",
      function() p:eval(function() return nested end) end)
    nested.list = { ["a key"] = coroutine.create(print) }
    assert_blames("upvalue 'nested'%.list%[\"a key\"%]: a coroutine",
      function() p:eval(function() return nested end) end)
    assert_blames("%[1%]%.x: a userdata", function() p:eval("y = ...", { { x = io.stdout } }) end)
  end)

  case("do not consume the process, and leave nothing queued", function()
    local file = io.stdout
    local p = tine.new()
    pcall(p.run, p, function() return file end, print)
    pcall(p.eval, p, function() x = 1 return file end) -- luacheck: ignore 111
    assert.equal("nil", result(p, function(sock)
      sock:write(tostring(x)) -- luacheck: ignore 113
    end))
  end)
end)

describe("errors of functions #proc", function()
  local FILE <const> = debug.getinfo(1, "S").short_src

  case("name the original file and line", function()
    local line = debug.getinfo(1, "l").currentline + 2
    local function inner(x)
      error("went " .. x)
    end
    local _, _, errors = finish(tine.new():eval(function(x) inner(x) end, "wrong"))
    assert.equal(1, #errors)
    assert.equal(FILE .. ":" .. line .. ": went wrong", errors[1].message)
    assert.matches(FILE .. ":" .. line .. ": in", errors[1].traceback, 1, true)
    assert.matches(FILE .. ":" .. line + 2 .. ": in", errors[1].traceback, 1, true)
  end)

  case("name variables, since the bytecode is not stripped", function()
    local _, _, errors = finish(tine.new(), function(sock)
      local answer = sock and nil
      return answer.field
    end)
    assert.matches("attempt to index a nil value (local 'answer')", errors[1].message, 1, true)
    assert.matches("^" .. FILE:gsub("%p", "%%%0") .. ":%d+: ", errors[1].message)
  end)

  case("of arguments that are code are blamed, too", function()
    local line = debug.getinfo(1, "l").currentline + 1
    local function f() error("in f") end
    local _, _, errors = finish(tine.new():eval("local g = ... g()", f))
    assert.equal(FILE .. ":" .. line .. ": in f", errors[1].message)
  end)
end)

describe("bytecode #proc", function()
  case("is refused as text, also where functions go", function()
    local p = tine.new()
    local dump = string.dump(function() end)
    assert_blames("bytecode", function() p:eval(dump) end)
    assert_blames("bytecode", function() p:eval(dump, {}) end)
    assert_blames("bytecode", function() p:eval(string.dump(function() end, true)) end)
  end)

  it("needs no source file in the child", function()
    local text, code = proc.run_program([[
      os.remove(arg[0])
      tine.main(function()
        local n = 2
        print(tine.new():run(function(sock) sock:write(n) end):read())
      end)
    ]])
    assert.equal("2\n", text)
    assert.equal(0, code)
    helper.cleanup()
  end)
end)

describe("a function as an argument of a call #proc", function()
  local function prepare()
    function apply(f, ...) return f(...) end -- luacheck: ignore 111
    function apply_later(done, f, ...) done(f(...)) end -- luacheck: ignore 111
    function give() return function() end end -- luacheck: ignore 111
    function tell() require("tine").event(1, { f = function() end }) end -- luacheck: ignore 111
  end

  local function each(entries, fn)
    for _, what in ipairs { "rpc", "pool" } do
      for _, entry in ipairs(entries) do
        local p = tine.new():eval(prepare)
        local service = p[what](p, entry,
          { serialiser = "lua", async = entry == "apply_later" })
        fn(service, what .. " " .. entry)
        service:close()
      end
    end
  end

  case("runs there, with its upvalues copied #near", function()
    each({ "apply", "apply_later" }, function(service, label)
      local n, list = 5, { 1, 2 }
      local function add(x) return x + n + #list end
      assert.equal(17, service:await(add, 10), label)
      assert.equal(9, service:await(function(t) return t.f(t.x) end, { f = add, x = 2 }))
      assert.equal("function", service:await(function()
        return type(apply) -- luacheck: ignore 113
      end))
      assert.equal("nil", service:await(function() return type(describe) end))
      -- One list, which both see, as often as they are called.
      local function set() list[3] = 3 end
      assert.equal(3, service:await(function(f, l) f() return #l end, set, list))
      assert.equal(2, #list)
    end)
  end)

  case("is the same twice in one call, and goes by map #near", function()
    local pool = tine.new():eval(prepare):pool("apply", { serialiser = "lua", max = 2 })
    local function same(f, g) return f == g end
    assert.is_true(pool:await(same, same, same))
    local n, jobs = 3, {}
    for i = 1, 5 do jobs[i] = function() return i * n end end
    for i, ok, got in pool:map(jobs) do
      assert.is_true(ok)
      assert.equal(i * 3, got)
    end
    pool:close()
  end)

  case("is refused with the path where an upvalue cannot be copied #near", function()
    each({ "apply" }, function(service)
      local file, deep = io.stdout, { list = { io.stdout } }
      local function fails(pattern, ...)
        local ok, err = pcall(service.await, service, ...)
        assert.is_false(ok)
        assert.equal("encode", err.kind)
        assert.matches(pattern, err.message)
      end
      fails("^args%[1%] upvalue 'file': a userdata %(FILE%*%)$", function() return file end)
      fails("^args%[2%]%.f upvalue 'deep'%.list%[1%]: a userdata", 1,
        { f = function() return deep end })
      fails("^args%[1%]: a C function %(print; use it as a global%)$", print)
    end)
  end)

  case("goes to workers only, and by no other serialiser #near", function()
    local events = 0
    local function fails(entry, serialiser, pattern, ...)
      local p = tine.new():eval(prepare)
      local function count() events = events + 1 end
      local rpc = p:rpc(entry, { serialiser = serialiser, on_event = count })
      local ok, err = pcall(rpc.await, rpc, ...)
      assert.is_false(ok)
      assert.matches(pattern, err.message)
      rpc:close()
    end
    fails("give", "lua", "^results%[1%]: a function$")
    fails("tell", "lua", "event%[2%]%.f: a function$")
    for _, serialiser in ipairs { "json", "msgpack", "string" } do
      fails("apply", serialiser, "^args%[1%]: a function", function() end)
    end
    assert.equal(0, events)
  end)

  it("is garbage to a host, whoever writes it", function()
    local bytes = require "tine.core".plain.encode(true, function() return 1 end)
    local codec = require "tine.core".codec("lua")
    local got, why = codec:decode(bytes)
    assert.is_nil(got)
    assert.matches("a function, where only data is taken", why)
  end)
end)
