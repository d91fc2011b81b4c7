-- The serialisers of calls: what they keep, what they refuse and how they say where, and that
-- nothing they are fed, on either side, costs more than the call that it belongs to.
local helper = require "spec.helper"
local proc = require "spec.proc"
local core = require "tine.core"
local tine = require "tine"

local case = proc.case(it)

-- The user's own: a list of values as Lua source of a kind.
local SOURCE <const> = {
  freeze = [[function(...)
    local t = table.pack(...)
    for i = 1, t.n do
      local kind = math.type(t[i]) or type(t[i])
      t[i] = kind .. ":" .. (kind == "float" and string.pack("d", t[i]) or tostring(t[i]))
    end
    return string.pack("<I4" .. ("s4"):rep(t.n), t.n, table.unpack(t, 1, t.n))
  end]],
  thaw = [[function(s)
    local n, at = string.unpack("<I4", s)
    local t = {}
    for i = 1, n do
      local item
      item, at = string.unpack("<s4", s, at)
      local kind, text = item:match("^(%a+):(.*)$")
      if kind == "string" then t[i] = text
      elseif kind == "integer" then t[i] = math.tointeger(text)
      elseif kind == "float" then t[i] = string.unpack("d", text)
      elseif kind == "boolean" then t[i] = text == "true"
      elseif kind ~= "nil" then error("unknown kind " .. item)
      end
    end
    return table.unpack(t, 1, n)
  end]],
}

local ALL <const> = { string = "string", json = "json", msgpack = "msgpack", lua = "lua",
  source = SOURCE }

local function text_of(source)
  return ("return (%s\n), (%s\n)"):format(source.freeze, source.thaw)
end

-- What workers do.
local function prepare()
  local worker = require "tine"
  local jobs = {}

  local function pid()
    local f <close> = io.open("/proc/self/stat")
    return f:read("n")
  end

  function jobs.echo(...) return ... end
  function jobs.pid() return tostring(pid()) end
  function jobs.count(...) return tostring(select("#", ...)) end
  function jobs.rep(text, n) return text:rep(math.tointeger(tonumber(n))) end

  -- The same table twice is one table, in the worker too.
  function jobs.same(a, b, cycle) return rawequal(a, b), cycle.self == cycle, a, b, cycle end

  function jobs.bad(what)
    local deep = {}
    if what == "deep" then
      local t = deep
      for _ = 1, 200000 do
        t[1] = {}
        t = t[1]
      end
      return deep
    elseif what == "path" then
      return 1, { list = { 1, 2, 3, 4, 5, 6, require "lpeg".P(1) } }
    elseif what == "coroutine" then
      return coroutine.create(jobs.echo)
    elseif what == "event" then
      worker.event(1, { list = { require "lpeg".P(1) } })
    elseif what == "caught" then
      local ok, message = pcall(worker.event, { require "lpeg".P(1) })
      return tostring(ok), message
    end
    return require "lpeg".P(1)
  end

  function work(name, ...) return jobs[name](...) end -- luacheck: globals work
end

-- An rpc of such a worker. Its second result collects what on_error got.
local function new_rpc(serialiser, options)
  local faults = {}
  options = options or {}
  options.serialiser = serialiser
  options.on_error = function(err) faults[#faults + 1] = err end
  return assert(tine.new():eval(prepare):rpc("work", options)), faults
end

-- Closes it, and checks that its worker was the same all along and that nobody complains.
local function still_lives(rpc, faults, pid)
  assert.are.equal(pid, rpc:await("pid"))
  local gone = false
  rpc:close(function() gone = true end)
  proc.wait_for(function() return gone end)
  assert.are.same({}, faults)
end

-- Of equal type and value, also where == would not tell.
local function assert_same_number(expected, got)
  local function show(v)
    return math.type(v) == "float" and ("float %a"):format(v) or math.type(v) .. " " .. v
  end
  assert.are.equal("number", type(got))
  if expected ~= expected then
    assert.is_true(got ~= got, show(got))
    return
  end
  assert.are.equal(show(expected), show(got))
end

local INTEGERS <const> = {
  0, 1, -1, 127, 128, 255, 256, -128, -129, 65535, 65536, 1 << 31, 1 << 32, -(1 << 31) - 1,
  10 ^ 14 // 1 | 0, 123456789012345, (1 << 53) - 1, 1 << 53, -(1 << 53),
}
local LARGE <const> = { (1 << 53) + 1, 1 << 62, math.maxinteger, math.mininteger }
local FLOATS <const> = {
  0.5, -0.25, 1.0, -1.0, 2.0 ^ 53, 1e100, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 0.0,
}
local STRANGE <const> = { 1 / 0, -1 / 0, 0 / 0 }

---------------------------------------------------------------------------- without processes

describe("serialisers", function()
  local function round(codec, ...)
    local bytes, why = codec:encode(...)
    if not bytes then return nil, why end
    return table.pack(codec:decode(bytes))
  end

  local function codec_of(name)
    return name == "source" and core.codec(name, text_of(SOURCE)) or core.codec(name)
  end

  for _, name in ipairs { "msgpack", "lua", "source" } do
    it("keep integers and floats apart: " .. name, function()
      local codec = codec_of(name)
      for _, list in ipairs { INTEGERS, LARGE, FLOATS, STRANGE } do
        for _, v in ipairs(list) do assert_same_number(v, round(codec, v)[1]) end
      end
    end)
  end

  it("keep the value of every number that JSON has: json", function()
    local codec = core.codec("json")
    for _, list in ipairs { INTEGERS, LARGE } do
      for _, v in ipairs(list) do
        assert_same_number(v, round(codec, v)[1])
        assert_same_number(v, round(codec, { a = { v, "x" } })[1].a[1])
      end
    end
    -- A whole one may come back as an integer, but for zero with its sign.
    assert_same_number(-0.0, round(codec, -0.0)[1])
    for _, list in ipairs {
      FLOATS, { 0.1 + 0.2, 1 - 2.0 ^ -53, 3.0000000000000004, 2.0 ^ 53 + 2, 2.0 ^ 53 - 1, -2.0 ^ 62,
        2.0 ^ 63, -2.0 ^ 63, 2.0 ^ 64, 1e22, 1e23, 123456789012345.0, 2.2250738585072014e-308,
        2.2250738585072009e-308, 1234567.891, 0.1, 1e-7, 4.35, 1e14, 1e14 - 1, 1e15 + 0.5 },
    } do
      for _, v in ipairs(list) do
        local back = round(codec, v, { v, { x = v } })
        assert.are.equal(v, back[1])
        assert.are.equal(v, back[2][1])
        assert.are.equal(v, back[2][2].x)
        assert.are.equal(v, round(codec, back[1])[1])
      end
    end
  end)

  it("keep the value of any double: json", function()
    local codec = core.codec("json")
    math.randomseed(7)
    local list, n = {}, 0
    while n < 20000 do
      local v
      if n % 4 == 0 then
        v = string.unpack("d", string.pack("j", math.random(0)))
      elseif n % 4 == 1 then
        v = string.unpack("d", string.pack("j", math.random(0) & 0x800fffffffffffff)) -- subnormal
      elseif n % 4 == 2 then
        v = 2.0 ^ 53 + math.random(-2000, 2000)
      else
        v = math.random(-1000000000, 1000000000) / 10 ^ math.random(0, 18)
      end
      if v - v == 0 then
        n = n + 1
        list[n] = v
      end
    end
    local back = round(codec, list)[1]
    for i = 1, n do
      if back[i] ~= list[i] then error(("%a became %a"):format(list[i], back[i])) end
    end
  end)

  it("leave digits in strings alone, and what looks like numbers there: json", function()
    local codec = core.codec("json")
    for _, s in ipairs { "12345678901234567", '"12345678901234567', '\\"1e400\\', "[]", "[ ]" } do
      assert.are.same({ s, { 1 << 60, s, [3] = "" }, n = 2 }, round(codec, s, { 1 << 60, s, "" }))
      assert.are.same({ [s] = 1 << 60 }, round(codec, { [s] = 1 << 60 })[1])
    end
  end)

  it("refuse numbers that JSON does not have, and keys that it would round: json", function()
    local codec = core.codec("json")
    for _, v in ipairs(STRANGE) do
      local list, why = round(codec, 1, { a = { v } })
      assert.is_nil(list)
      assert.matches("^args%[2%]%.a%[1%]: ", why)
      list, why = round(codec, v)
      assert.is_nil(list)
      assert.matches("^args%[1%]: ", why)
    end
    for _, k in ipairs { 1 / 3, (1 << 53) + 1 } do
      local list, why = round(codec, { a = { x = 1, [k] = 2 } })
      assert.is_nil(list)
      assert.matches("^args%[1%].a: .*which JSON cannot keep", why)
    end
  end)

  it("make numbers strings: string", function()
    local list = round(core.codec("string"), 7, math.mininteger, 1.5, -0.0, "")
    assert.are.same({ "7", "-9223372036854775808", "1.5", "-0.0", "", n = 5 }, list)
  end)

  for name in pairs(ALL) do
    it("keep strings of any bytes, and how many values there are: " .. name, function()
      local codec = codec_of(name)
      local bytes = {}
      for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
      -- JSON is UTF-8; other bytes pass all the same.
      local all = table.concat(bytes)
      for _, s in ipairs { "", "\0", "a\0b", all, "\u{20ac}", ("x"):rep(70000), "\n\"\\/" } do
        assert.are.same({ s, "", s, n = 3 }, round(codec, s, "", s))
      end
      assert.are.same({ n = 0 }, round(codec))
      local many = {}
      for i = 1, 3000 do many[i] = tostring(i) end
      many.n = 3000
      assert.are.same(many, round(codec, table.unpack(many)))
    end)
  end

  for _, name in ipairs { "json", "msgpack", "lua", "source" } do
    it("keep nils wherever they are: " .. name, function()
      local codec = codec_of(name)
      for _, list in ipairs {
        { n = 1 }, { n = 4 }, { nil, 1, nil, n = 3 }, { 1, nil, 3, nil, n = 4 },
        { true, false, nil, false, n = 4 },
      } do
        assert.are.same(list, round(codec, table.unpack(list, 1, list.n)))
      end
    end)
  end

  for _, name in ipairs { "json", "msgpack", "lua" } do
    it("keep tables inside of each other: " .. name, function()
      local codec = core.codec(name)
      for _, t in ipairs {
        {}, { {} }, { { {} }, {} }, { 1, 2, 3 }, { a = 1 }, { a = { b = { "c", { d = false } } } },
        { list = { 1, "2", 3.5, true }, [""] = "", ["a b"] = {} },
      } do
        local list = round(codec, t, t)
        assert.are.same({ t, t, n = 2 }, list)
        assert.are_not.equal(t, list[1])
      end
      local deep = { "end" }
      for i = 1, 24 do deep = i % 2 == 0 and { x = deep } or { i, deep } end
      assert.are.same(deep, round(codec, deep)[1])
    end)
  end

  for _, name in ipairs { "msgpack", "lua" } do
    it("keep holes, and keys of any plain kind: " .. name, function()
      local t = { 1, nil, 3, [10] = 10, [-1] = "m", [2.5] = "f", [true] = "b", [1 << 62] = 0 }
      assert.are.same(t, round(core.codec(name), t)[1])
    end)
  end

  it("keep what is shared, and cycles: lua", function()
    local shared, cycle = { "s" }, {}
    cycle.self, cycle.list = cycle, { cycle, shared }
    local list = round(core.codec("lua"), { shared, shared }, shared, cycle)
    local a, b, c = table.unpack(list)
    assert.are.equal(a[1], a[2])
    assert.are.equal(a[1], b)
    assert.are.equal(c, c.self)
    assert.are.equal(c, c.list[1])
    assert.are.equal(b, c.list[2])
    assert.are.same({ "s" }, b)
  end)

  for _, name in ipairs { "json", "msgpack" } do
    it("refuse cycles, and copy what is shared: " .. name, function()
      local codec = core.codec(name)
      local shared, cycle = { "s" }, { x = { y = {} } }
      cycle.x.y.z = cycle
      local list = round(codec, { shared, shared })
      assert.are.same({ { "s" }, { "s" } }, list[1])
      local bytes, why = codec:encode(1, cycle)
      assert.is_nil(bytes)
      assert.are.equal("args[2].x.y.z: a cycle", why)
      -- A cycle far below the depth that is taken, too.
      cycle = {}
      local inner = cycle
      for _ = 1, 500 do
        inner[1] = {}
        inner = inner[1]
      end
      inner[1] = cycle
      assert.is_nil((codec:encode(cycle)))
    end)
  end

  it("take some depth, and refuse more with a message", function()
    for name, most in pairs { json = 1000, msgpack = 30, lua = 100000 } do
      local codec, deep, depth = core.codec(name), {}, 1
      local refused
      while not refused and depth <= most + 10 do
        local grow = depth < 25 and 1 or math.max(1, most // 4)
        for _ = 1, grow do deep = { deep } end
        depth = depth + grow
        local bytes, why = codec:encode(deep)
        if bytes then
          assert.are.equal(1, select("#", codec:decode(bytes)))
          local inner, n = codec:decode(bytes), 0
          while inner do inner, n = inner[1], n + 1 end
          assert.are.equal(depth, n)
        else
          refused = why
        end
      end
      assert.is_true(depth > 25, name)
      assert.matches("^args%[1%].*nested", refused, nil, nil, name)
    end
  end)

  it("name the path to what they refuse", function()
    local long = { list = { 1, 2, 3, 4, 5, 6, io.stdout } }
    for _, name in ipairs { "json", "msgpack", "lua" } do
      local codec = core.codec(name)
      local function refuses(expected, ...)
        local bytes, why = codec:encode(...)
        assert.is_nil(bytes)
        assert.are.equal(expected, why:sub(1, #expected), name .. ": " .. why)
      end
      refuses("args[2].list[7]: a userdata", "x", long)
      refuses("args[1]: a userdata", io.stdout)
      refuses("args[3][\"a b\"].c[2]: a ", 1, nil, { ["a b"] = { c = { 1, print } } })
      refuses("args[1]: a function", function() end)
      refuses("args[2]", 1, { [io.stdout] = 1 })
      -- It is as before.
      assert.are.same({ 1, "x", n = 2 }, round(codec, 1, "x"))
    end
    for _, v in ipairs { true, {}, print, io.stdout } do
      local bytes, why = core.codec("string"):encode("a", v)
      assert.is_nil(bytes)
      assert.matches("^args%[2%]: a " .. type(v), why)
    end
    local bytes, why = core.codec("string"):encode("a", nil, "b")
    assert.is_nil(bytes)
    assert.matches("^args%[2%]: a nil", why)
  end)

  it("name the path below a list that JSON has no form for", function()
    local bytes, why = core.codec("json"):encode(1, { deep = { [100000] = 1 } })
    assert.is_nil(bytes)
    assert.are.equal("args[2].deep: ", why:sub(1, 14))
  end)

  for name in pairs(ALL) do
    it("never harm, cut short or with other bytes: " .. name, function()
      local codec = codec_of(name)
      local function feed(bytes)
        local list = table.pack(pcall(codec.decode, codec, bytes))
        assert.is_true(list[1], list[2])
        if list[2] == nil and list.n == 3 then assert.are.equal("string", type(list[3])) end
      end
      local good = name == "string" and codec:encode("abc", "", ("d"):rep(300))
        or name == "source" and codec:encode("abc", 1, 2.5, nil, true)
        or codec:encode({ 1, 2.5, "x", { a = true, b = { "y" } } }, nil, ("z"):rep(300), -1)
      for i = 0, #good - 1 do feed(good:sub(1, i)) end
      for i = 1, math.min(#good, 120) do
        for _, c in ipairs { 0, 1, 0x7f, 0x80, 0xc1, 0xdc, 0xdd, 0xde, 0xdf, 0xff, 0x5b } do
          feed(good:sub(1, i - 1) .. string.char(c) .. good:sub(i + 1))
        end
      end
      for _ = 1, 2000 do
        local t = {}
        for i = 1, math.random(0, 30) do t[i] = math.random(0, 255) end
        feed(string.char(table.unpack(t)))
      end
    end)
  end

  it("claim no memory that MessagePack only promises", function()
    local codec = core.codec("msgpack")
    for _, bytes in ipairs {
      "\xdd\xff\xff\xff\xff", "\x91\xdf\xff\xff\xff\xff", "\x91\xc6\xff\xff\xff\xff",
      ("\xdd\xff\xff\xff\xff"):rep(20), ("\x91"):rep(100000), ("\x81"):rep(100000),
      "\x91\x81\xc0\x01", "\x91\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "\x91\xd4\x01\x02", "\xc0",
      "\x90\x90", "\x91\x81\xcb\x7f\xf8\0\0\0\0\0\0\x01",
    } do
      local v, why = codec:decode(bytes)
      assert.is_nil(v)
      assert.are.equal("string", type(why))
    end
  end)

  it("take no bytecode and no functions from others: lua", function()
    local plain = core.codec("lua")
    assert.is_nil((plain:encode(load("return 1"))))
    local code = string.dump(load("return 1"))
    for tag = 0, 255 do
      local bytes = ("<I4"):pack(#code)
      local ok, v = pcall(plain.decode, plain, "\1\1" .. string.char(tag) .. bytes .. code)
      assert.is_true(ok, v)
      assert.are_not.equal("function", type(v))
    end
  end)

  it("have the source of the user's own checked", function()
    for source, expected in pairs {
      ["return 1, 2"] = "two functions", ["return function() end"] = "two functions",
      ["x ="] = "serialiser:1:", ["error('oops', 0)"] = "oops",
    } do
      local ok, err = pcall(core.codec, "source", source)
      assert.is_false(ok)
      assert.matches(expected, tostring(err))
    end
  end)
end)

--------------------------------------------------------------------------------- through calls

describe("values of calls #proc", function()
  for name, serialiser in pairs(ALL) do
    case("come back as they were: " .. name, function()
      local rpc, faults = new_rpc(serialiser)
      local pid = rpc:await("pid")
      for _, s in ipairs { "", "\0", "a\0b\xff", ("x"):rep(100000) } do
        assert.are.same({ s, "", n = 2 }, table.pack(rpc:await("echo", s, "")))
      end
      assert.are.same({ n = 0 }, table.pack(rpc:await("echo")))
      if name ~= "string" then
        assert.are.same({ nil, 1, nil, n = 3 }, table.pack(rpc:await("echo", nil, 1, nil)))
        assert.are.same({ nil, n = 1 }, table.pack(rpc:await("echo", nil)))
        assert.are.equal("3", rpc:await("count", nil, nil, nil))
        for _, v in ipairs { 1, -7, 2.5, 1 << 40 } do
          assert_same_number(v, (rpc:await("echo", v)))
        end
      end
      if name ~= "string" and name ~= "source" then
        local t = { list = { 1, 2, { a = "b" } }, flag = false }
        assert.are.same(t, (rpc:await("echo", t)))
      end
      if name == "json" then
        for _, v in ipairs { 0.1 + 0.2, 1 - 2.0 ^ -53, 2.0 ^ 53 + 2, -0.0, 5e-324 } do
          assert.are.equal(v, (rpc:await("echo", v)))
        end
        for _, v in ipairs(LARGE) do assert_same_number(v, (rpc:await("echo", v))) end
      end
      if name == "lua" or name == "msgpack" or name == "source" then
        for _, list in ipairs { LARGE, FLOATS, STRANGE } do
          for _, v in ipairs(list) do assert_same_number(v, (rpc:await("echo", v))) end
        end
      end
      still_lives(rpc, faults, pid)
    end)

    case("may be of some MB: " .. name, function()
      local rpc, faults = new_rpc(serialiser)
      local pid = rpc:await("pid")
      local text = ("0123456789abcdef"):rep(1 << 18)
      assert.is_true(rpc:await("echo", text) == text)
      assert.are.equal(6 << 20, #rpc:await("rep", "xy", 3 << 20))
      if name ~= "string" and name ~= "source" then
        local list = {}
        for i = 1, 100000 do list[i] = { i, "item " .. i } end
        local back = rpc:await("echo", list)
        assert.are.equal(100000, #back)
        for i = 1, 100000, 999 do assert.are.same({ i, "item " .. i }, back[i]) end
      end
      still_lives(rpc, faults, pid)
    end)
  end

  case("keep what is shared in a worker too: lua", function()
    local rpc, faults = new_rpc("lua")
    local pid = rpc:await("pid")
    local shared, cycle = { 1 }, {}
    cycle.self = cycle
    local same, is_cycle, a, b, c = rpc:await("same", shared, shared, cycle)
    assert.is_true(same)
    assert.is_true(is_cycle)
    assert.are.equal(a, b)
    assert.are.equal(c, c.self)
    still_lives(rpc, faults, pid)
  end)

  for _, name in ipairs { "json", "msgpack", "lua" } do
    case("that cannot be sent fail their call, on either side: " .. name, function()
      local rpc, faults = new_rpc(name)
      local pid = rpc:await("pid")
      local function fails(pattern, ...)
        local err = rpc(...)
        assert.are.equal("encode", err and err.kind, tostring(err))
        assert.matches(pattern, err.message)
        return err
      end
      local list = { 1, 2, 3, 4, 5, 6, require "lpeg".P(1) }
      fails("^args%[2%]%.list%[7%]: a userdata", "echo", { list = list })
      fails("^args%[3%]: a ", "echo", 1, coroutine.create(print))
      local side = name == "lua" and "results%[1%]" or "args%[2%]" -- functions go to workers
      fails("^" .. side .. ": a function", "echo", function() end, 1)
      fails("^results%[2%]%.list%[7%]: a userdata", "bad", "path")
      fails("^results%[1%]: a userdata", "bad", "userdata")
      fails("^results%[1%]: a ", "bad", "coroutine")
      fails("^results%[1%].*nested", "bad", "deep")
      -- Between others, in order.
      local order = {}
      for i = 1, 20 do
        rpc(i % 3 == 0 and "bad" or "echo", i, function(err, n)
          order[#order + 1] = err and err.kind or n
        end)
      end
      proc.wait_for(function() return #order == 20 end)
      for i = 1, 20 do assert.are.equal(i % 3 == 0 and "encode" or i, order[i]) end
      still_lives(rpc, faults, pid)
    end)

    case("of events raise in the worker, with the path: " .. name, function()
      local rpc, faults = new_rpc(name)
      local pid = rpc:await("pid")
      local err = rpc("bad", "event")
      assert.are.equal("exception", err.kind)
      assert.matches("event%[2%]%.list%[1%]: a userdata", err.message)
      assert.is_truthy(err.traceback)
      local ok, message = rpc:await("bad", "caught")
      assert.are.equal("false", ok)
      assert.matches("event%[1%]%[1%]: a userdata", message)
      still_lives(rpc, faults, pid)
    end)
  end

  case("that are no strings fail with what to do: string", function()
    local rpc, faults = new_rpc("string")
    local pid = rpc:await("pid")
    for _, v in ipairs { true, {}, print } do
      local err = rpc("echo", v, 1)
      assert.are.equal("encode", err.kind)
      assert.matches("^args%[2%]: a " .. type(v) .. ".*serialiser", err.message)
    end
    local err = rpc("bad", "path")
    assert.are.equal("encode", err.kind)
    assert.matches("^results%[2%]: a table", err.message)
    err = rpc("bad", "event")
    assert.are.equal("exception", err.kind)
    assert.matches("event%[2%]: a table", err.message)
    still_lives(rpc, faults, pid)
  end)
end)

describe("the user's own serialiser #proc", function()
  -- Strings joined; freeze and thaw do strange things in one of the two processes. The host is
  -- told from a worker by what the spec sets in it.
  local FREEZE <const> = [[function(...)
    local text = table.concat({...}, "\1")
    local at = SPEC_IS_HOST and "host" or "worker"
    if text:find("freeze-error-" .. at, 1, true) then error("no ice in the " .. at) end
    if text:find("freeze-table-" .. at, 1, true) then error({ 1 }) end
    if text:find("freeze-number-" .. at, 1, true) then return 7 end
    if text:find("freeze-nothing-" .. at, 1, true) then return end
    if text:find("freeze-memory-" .. at, 1, true) then error("not enough memory", 0) end
    if text:find("freeze-forever-" .. at, 1, true) then while true do end end
    return text
  end]]
  local THAW <const> = [[function(text)
    local at = SPEC_IS_HOST and "host" or "worker"
    if text:find("thaw-error-" .. at, 1, true) then error("no fire in the " .. at) end
    if text:find("thaw-table-" .. at, 1, true) then error({ 1 }) end
    if text:find("thaw-memory-" .. at, 1, true) then error("not enough memory", 0) end
    if text:find("thaw-some-" .. at, 1, true) then return nil, "a", nil end
    if text:find("thaw-forever-" .. at, 1, true) then while true do end end
    local t, n = {}, 0
    for part in (text .. "\1"):gmatch("(.-)\1") do
      n = n + 1
      t[n] = part
    end
    return table.unpack(t, 1, n)
  end]]

  local function strange(fn)
    return function()
      rawset(_G, "SPEC_IS_HOST", true)
      local rpc, faults = new_rpc({ freeze = FREEZE, thaw = THAW }, { timeout = 0.5, grace = 60 })
      local pid = rpc:await("pid")
      local ok, err = pcall(fn, rpc)
      if ok then ok, err = pcall(still_lives, rpc, faults, pid) end
      rawset(_G, "SPEC_IS_HOST", nil)
      if not ok then error(err, 0) end
    end
  end

  -- Calls with these words, one of which lies between two others, end with these kinds. Nothing
  -- may be lost, so that this has its own deadline.
  local function ends(rpc, word, kind, pattern)
    local ended, got = {}, 0
    for i = 1, 3 do
      rpc("echo", i == 2 and word or "fine", function(err, text)
        assert(not ended[i], "ended twice")
        ended[i] = err or text
        got = got + 1
      end)
    end
    local deadline = tine.loop.now() + 5 * helper.patience
    proc.wait_for(function() return got == 3 or tine.loop.now() > deadline end)
    assert.are.equal("fine", ended[1])
    assert.are.equal("fine", ended[3])
    assert.is_truthy(ended[2], word .. ": its call has not ended")
    assert.are.equal(kind, ended[2].kind, tostring(ended[2]))
    if pattern then assert.matches(pattern, ended[2].message) end
  end

  case("may raise in the worker", strange(function(rpc)
    ends(rpc, "freeze-error-worker", "encode", "freeze: .*no ice in the worker")
    ends(rpc, "freeze-table-worker", "encode", "freeze: ")
    ends(rpc, "thaw-error-worker", "decode", "thaw: .*no fire in the worker")
    ends(rpc, "thaw-table-worker", "decode", "thaw: ")
  end))

  case("may raise in freeze in the host", strange(function(rpc)
    ends(rpc, "freeze-error-host", "encode", "freeze: .*no ice in the host")
    ends(rpc, "freeze-table-host", "encode", "freeze: ")
  end))

  case("may raise in thaw in the host", strange(function(rpc)
    ends(rpc, "thaw-error-host", "decode", "thaw: .*no fire in the host")
    ends(rpc, "thaw-table-host", "decode", "thaw: ")
  end))

  case("may return what is no string from freeze", strange(function(rpc)
    for _, at in ipairs { "host", "worker" } do
      local what = at == "host" and "args" or "results"
      ends(rpc, "freeze-number-" .. at, "encode", "^" .. what .. ": freeze returned a number")
      ends(rpc, "freeze-nothing-" .. at, "encode", "^" .. what .. ": freeze returned a nil")
    end
  end))

  case("may run out of memory in the worker", strange(function(rpc)
    for _, word in ipairs { "freeze-memory-worker", "thaw-memory-worker" } do
      local err = rpc("echo", word)
      assert.is_truthy(err)
      assert.matches("not enough memory", err.message)
    end
  end))

  case("may run out of memory in thaw in the host", strange(function(rpc)
    local ended, after
    rpc("echo", "thaw-memory-host", function(err) ended = err end)
    rpc("echo", "fine", function(_, text) after = text end)
    local deadline = tine.loop.now() + 5 * helper.patience
    proc.wait_for(function() return ended and after or tine.loop.now() > deadline end)
    assert.are.equal("fine", after)
    assert.is_truthy(ended, "the call has not ended")
    assert.matches("not enough memory", ended.message)
  end))

  case("is stopped by the call's deadline in the worker", strange(function(rpc)
    ends(rpc, "freeze-forever-worker", "timeout")
    ends(rpc, "thaw-forever-worker", "timeout")
  end))

  case("gives as many values as thaw returns", strange(function(rpc)
    assert.are.same({ nil, "a", nil, n = 3 }, table.pack(rpc:await("echo", "thaw-some-host")))
  end))

  case("may freeze to nothing", function()
    local rpc, faults = new_rpc {
      freeze = "function(...) return table.concat({...}, '\\1') end",
      thaw = "function(s) if s ~= '' then return s end end",
    }
    assert.are.equal("exception", rpc().kind) -- no name came
    assert.are.same({ n = 0 }, table.pack(rpc:await("echo")))
    assert.are.same({}, faults)
    rpc:close()
  end)

  case("whose thaw fails for an event is told to on_error", function()
    rawset(_G, "SPEC_IS_HOST", true)
    local events, faults = {}, {}
    local rpc = tine.new():eval([[
      local tine = require "tine"
      function work(...)
        for _, text in ipairs { "one", "thaw-error-host", "two" } do tine.event(text) end
        return "done"
      end
    ]]):rpc("work", {
      serialiser = { freeze = FREEZE, thaw = THAW },
      on_event = function(text) events[#events + 1] = text end,
      on_error = function(err) faults[#faults + 1] = err end,
    })
    local err = rpc("x")
    rawset(_G, "SPEC_IS_HOST", nil)
    rpc:close()
    assert.is_nil(err)
    assert.are.same({ "one", "two" }, events)
    assert.are.equal(1, #faults)
    assert.are.equal("decode", faults[1].kind)
  end)

  case("that does not load is told: raised here, or by the calls", function()
    local p = tine.new():eval(prepare)
    for _, bad in ipairs { { freeze = "x =", thaw = "y" }, { freeze = "1", thaw = "2" } } do
      local ok, err = pcall(p.rpc, p, "work", { serialiser = bad })
      assert.is_false(ok)
      assert.matches("serialiser", tostring(err))
    end
    -- A refused one has not consumed the process.
    local rpc = assert(p:rpc("work", { serialiser = "lua" }))
    assert.are.equal(1, (rpc:await("echo", 1)))
    rpc:close()
    rawset(_G, "SPEC_IS_HOST", true)
    local faults
    rpc, faults = new_rpc { freeze = "SPEC_IS_HOST and tostring", thaw = "tostring" }
    local err = rpc("echo")
    rawset(_G, "SPEC_IS_HOST", nil)
    assert.is_truthy(err)
    assert.matches("must give two functions", tostring(err) .. tostring(faults[1]))
    rpc:close()
  end)

  case("has the upvalues and globals of its own process only", function()
    local counting = "(function() local n = 0 return function(s) n = n + 1 "
      .. "return n .. ':' .. tostring(s) end end)()"
    local rpc = new_rpc { freeze = counting, thaw = "function(s) return 'echo', s end" }
    -- Frozen here, thawed and frozen there, thawed here: each counts for itself.
    local _, a = rpc:await("x")
    local _, b = rpc:await("y")
    assert.are.equal("1:1:x", a)
    assert.are.equal("2:2:y", b)
    rpc:close()
  end)
end)
