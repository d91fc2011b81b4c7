local core = require("tine.core").plain

local pack = table.pack

local function encode(functions, ...)
  local bytes, message = core.encode(functions, ...)
  assert(bytes, message)
  return bytes
end

--- The values after a round trip, the decoder's message as an error.
local function copy(functions, ...)
  local count = select("#", ...)
  local got = pack(core.decode(encode(functions, ...), functions))
  if got[1] == nil and got.n == 2 and count ~= 2 then error(got[2], 2) end
  assert.equal(count, got.n)
  return table.unpack(got, 1, got.n)
end

local function data(...) return copy(false, ...) end
local function code(...) return copy(true, ...) end

local function refusal(functions, ...)
  local bytes, message = core.encode(functions, ...)
  assert.is_nil(bytes)
  return message
end

--- Same type and subtype, same bits.
local function assert_same_number(want, got)
  assert.equal(math.type(want), math.type(got))
  local format = math.type(want) == "integer" and "<j" or "<n"
  assert.equal(format:pack(want), format:pack(got))
end

describe("plain data #unit", function()
  it("keeps nothing, nil and booleans apart", function()
    assert.equal(0, select("#", data()))
    assert.same(pack(nil), pack(data(nil)))
    assert.same(pack(nil, nil, nil), pack(data(nil, nil, nil)))
    assert.same(pack(true, false, nil, true), pack(data(true, false, nil, true)))
  end)

  it("keeps every integer", function()
    local list = { 0, math.maxinteger, math.mininteger }
    for bit = 0, 62 do
      for delta = -2, 2 do
        list[#list + 1] = (1 << bit) + delta
        list[#list + 1] = -(1 << bit) + delta
      end
    end
    for i, got in ipairs(data(list)) do
      assert_same_number(list[i], got)
    end
  end)

  it("keeps every float, and floats from integers", function()
    local list = {
      0.0, -0.0, 1.0, -1.0, 0.1, 2^53, 2^63, 1e308, 5e-324, math.pi,
      math.huge, -math.huge, 0/0, -(0/0), string.unpack("<d", "\1\2\3\4\5\6\xff\x7f"),
    }
    local got = data(list)
    assert.equal(#list, #got)
    for i = 1, #list do
      assert_same_number(list[i], got[i])
    end
  end)

  it("keeps strings of any bytes and length", function()
    local all = {}
    for i = 0, 255 do all[#all + 1] = string.char(i) end
    all = table.concat(all)
    for _, len in ipairs { 0, 1, 31, 32, 39, 40, 41, 127, 128, 255, 256, 70000, 2^20 } do
      local s = all:rep(len // 256 + 1):sub(1, len)
      assert.is_true(s == data(s))
      local t = data { s, s, [s] = s }
      assert.is_true(t[1] == s and t[2] == s and t[s] == s)
    end
  end)

  it("keeps tables, with holes and any keys", function()
    local tables = {
      {}, { 1 }, { 1, 2, 3 }, { a = 1 }, { 1, 2, a = 3 }, { 1, nil, 3 }, { nil, nil, 3 },
      { [0] = 0, [1] = 1, [-1] = -1, [1.5] = 1.5, [true] = 1, [false] = 0, [""] = "" },
      { [2^53] = "float", [math.maxinteger] = 1, [math.mininteger] = 2, [math.huge] = 3 },
      { 1, 2, [4] = 4, [8] = 8, [1 << 40] = 9 }, { { { {} } }, { {} } },
    }
    for _, t in ipairs(tables) do
      assert.same(t, (data(t)))
    end
    assert.same(tables, (data(tables)))
  end)

  it("keeps tables of every size around powers of two", function()
    for exponent = 0, 15 do
      for delta = -1, 1 do
        local size = (1 << exponent) + delta
        local list, set = {}, {}
        for i = 1, size do
          list[i] = i
          set["k" .. i] = i
        end
        local both = data { list, set }
        assert.equal(size, #both[1])
        for i = 1, size do
          if both[1][i] ~= i or both[2]["k" .. i] ~= i then error("entry " .. i) end
        end
      end
    end
  end)

  it("keeps tables as keys", function()
    local key = { name = "key" }
    local got = data { [key] = { key }, key = key }
    assert.equal("key", got.key.name)
    assert.equal(got.key, got[got.key][1])
    local k, v = next((data { [{ [{}] = 1 }] = {} }))
    assert.equal(1, select(2, next(k)))
    assert.same({}, v)
  end)

  it("keeps shared references and cycles, also between values", function()
    local shared, cycle = { 1 }, {}
    cycle.me, cycle[cycle] = cycle, { cycle }
    local a, b, c, d = data(shared, { shared, shared }, cycle, shared)
    assert.equal(a, b[1])
    assert.equal(a, b[2])
    assert.equal(a, d)
    assert.equal(c, c.me)
    assert.equal(c, c[c][1])
    assert.not_equal(shared, a)
    local many = {}
    for i = 1, 1000 do many[i] = { i } end
    for i = 1, 1000 do many[1000 + i] = many[i] end
    local got = data(many)
    for i = 1, 1000 do
      assert.equal(i, got[i][1])
      assert.equal(got[i], got[1000 + i])
    end
  end)

  it("writes a repeated string once", function()
    local long, short = ("x"):rep(1e6), "a key of records"
    local list = {}
    for i = 1, 1000 do list[i] = { [short] = long } end
    assert.is_true(#encode(false, list) < 1e6 + 10000)
    for _, record in ipairs((data(list))) do
      assert.is_true(record[short] == long)
    end
  end)

  it("keeps many different strings and their repetitions", function()
    local list = {}
    for i = 1, 20000 do list[i] = "s" .. i % 7000 end
    assert.is_true(table.concat(list) == table.concat((data(list))))
  end)

  it("takes as many values as fit on the stack", function()
    local list = {}
    for i = 1, 200000 do list[i] = i end
    local got = pack(data(table.unpack(list)))
    assert.equal(200000, got.n)
    assert.equal(200000, got[200000])
  end)

  it("takes 100000 levels, and refuses more", function()
    local deepest = {}
    local deep = deepest
    for _ = 2, 100000 do deep = { next = deep } end
    local got = data(deep)
    for _ = 2, 100000 do got = got.next end
    assert.is_nil(next(got))
    deepest[1] = {}
    local message = refusal(false, deep)
    assert.truthy(message:find("^args%[1%]%.next%.next.* %.%.%. .*%[1%]: nested too deeply$"))
    assert.is_true(#message < 200)
    local value, why = core.decode("\1\1" .. ("\xca\1"):rep(200000), false)
    assert.is_nil(value)
    assert.equal("nested too deeply", why)
    assert.equal(message, coroutine.wrap(refusal)(false, deep))
  end)

  it("calls no metamethod and reads raw", function()
    local proxied = setmetatable({}, { __pairs = error, __index = error, __len = error })
    assert.equal("args[1]: a table with a metatable", refusal(false, proxied))
  end)

  it("names the path to what it refuses", function()
    local file = io.tmpfile()
    finally(function() file:close() end)
    local list = { 1, 2, 3, 4, 5, 6, file }
    assert.equal("args[2].list[7]: a userdata (FILE*)", refusal(false, 1, { list = list }))
    assert.equal("args[1]: a C function", refusal(false, print))
    assert.equal("args[1]: a function", refusal(false, function() end))
    assert.equal("args[1]: a coroutine", refusal(false, coroutine.create(print)))
    assert.equal('args[1]["a b"][true][-7][1.5]: a table with a metatable', refusal(false,
      { ["a b"] = { [true] = { [-7] = { [1.5] = setmetatable({}, {}) } } } }))
    assert.equal('args[1]["\\000\\"\\\\\\255"]: a C function',
      (refusal(false, { ["\0\"\\\255"] = print }):gsub("\255", "\\255")))
    assert.equal('args[1]["1a"]: a C function', refusal(false, { ["1a"] = print }))
    assert.equal('args[1][""]: a C function', refusal(false, { [""] = print }))
    assert.equal("args[1][table]: a C function", refusal(false, { [{}] = print }))
    assert.equal("args[1] (a key): a C function", refusal(false, { [print] = 1 }))
    assert.equal("args[1] (a key).x: a C function", refusal(false, { [{ x = print }] = 1 }))
    assert.equal('args[1]["' .. ("k"):rep(40) .. '..."]: a C function',
      refusal(false, { [("k"):rep(1000)] = print }))
  end)

  it("is as before after a refusal", function()
    for _ = 1, 100 do
      refusal(false, { { { print } } })
      assert.same({ 1, { 2 } }, (data { 1, { 2 } }))
    end
  end)
end)

describe("malformed plain data #unit", function()
  local shared = { 1, 2, "shared" }
  local sample = encode(false, 1, "two", {
    list = { 1, -2, 300, 70000, 1 << 40, 0.5, "x", true, false },
    records = { { id = 1, name = "one" }, { id = 2, name = "two" }, { id = 3, name = shared } },
    shared = shared, [shared] = { shared }, long = ("long"):rep(50), again = ("long"):rep(50),
  }, nil)

  local function bad(bytes, functions)
    local got = pack(core.decode(bytes, functions or false))
    assert.equal(2, got.n)
    assert.is_nil(got[1])
    return got[2]
  end

  it("is refused at every truncation", function()
    for len = 0, #sample - 1 do
      assert.is_string(bad(sample:sub(1, len)))
    end
    assert.truthy(bad(sample .. "\0"):find("something follows", 1, true))
  end)

  it("never harms, whichever byte is another one", function()
    for i = 1, #sample do
      local head, tail = sample:sub(1, i - 1), sample:sub(i + 1)
      for byte = 0, 255 do
        core.decode(head .. string.char(byte) .. tail, false)
      end
    end
  end)

  it("never harms when random", function()
    for i = 1, 20000 do
      local bytes = { "\1", string.char(i % 4) }
      for n = 3, math.random(3, 40) do bytes[n] = string.char(math.random(0, 255)) end
      core.decode(table.concat(bytes), false)
    end
  end)

  it("claims no more memory than it has bytes for", function()
    collectgarbage()
    local before = collectgarbage("count")
    for _, table_head in ipairs { "\xca\x0f", "\xca\xf0", "\xca\xff", "\xca\x0e" } do
      bad("\1\1" .. table_head)
      bad("\1\1" .. table_head:rep(20000))
      bad("\1\1" .. ("\xca\x0f"):rep(2000) .. ("\0"):rep(20000))
    end
    assert.truthy(bad("\1\1\xc8\xff\xff\xff\xff\x0f"):find("ends in a string", 1, true))
    assert.truthy(bad("\1\xff\xff\xff\xff\x0f"):find("more values", 1, true))
    assert.is_true(collectgarbage("count") - before < 8192)
  end)

  it("has a message that says what and where", function()
    local cases = {
      [""] = "it is empty", ["\2\0"] = "version 2, 1 expected", ["\1"] = "ends in a number",
      ["\1\1"] = "more values", ["\1\1\xca\x10\xc0\0\xd3"] = "a key is nil",
      ["\1\1\xca\x10\xc3\0\0\0\0\0\0\xf8\x7f\0\xd3"] = "a key is NaN",
      ["\1\1\xe0"] = "a reference to nothing", ["\1\2\xca\0\xd3\xe0"] = "a reference to nothing",
      ["\1\1\xd2"] = "pairs out of place", ["\1\1\xd3"] = "an end out of place",
      ["\1\1\xde"] = "an unknown tag", ["\1\1\xce"] = "an unknown tag",
      ["\1\1\xca\x01\xd3\xc0"] = "a table ends too early",
      ["\1\1\xd6"] = "it ends in a table", ["\1\1\xd7\x10\0\xd3\xc0"] = "an end out of place",
      ["\1\1\xca\x10\0\xd3\xc0"] = "an end out of place",
      ["\1\1\xca\x30\0\0\xd3\0\0\0\0"] = "a table ends too early",
      ["\1\1\xca\xff\0\xd3\0\0"] = "larger than what is left",
      ["\1\1\xd0\xff\xff\xff\xff\xff\xff"] = "a number is too long",
      ["\1\1\xd0\xff\xff\xff\xff\x7f"] = "a number is too large",
      ["\1\1\xc7\0\0\0\0\0\0\0"] = "ends in a number",
      ["\1\1\xcc\0\0\0\0"] = "a function, where only data is taken",
      ["\1\1\xd1"] = "the globals, where only data is taken",
    }
    for bytes, want in pairs(cases) do
      local message = bad(bytes)
      assert.truthy(message:find(want, 1, true), message)
    end
    assert.truthy(bad(encode(true, function() end)):find("only data", 1, true))
    assert.truthy(bad("\1\1\xcc\3\0\0\0abc", true):find("binary", 1, true)
      or bad("\1\1\xcc\3\0\0\0abc", true):find("text", 1, true))
    assert.truthy(bad("\1\1\xcc\3\0\0\0ab", true):find("ends in a function", 1, true))
  end)
end)

describe("functions as plain data #unit", function()
  it("keeps code, upvalues and the chunk's name", function()
    local n, list = 40, { 1, 1 }
    local add = code(function(x) return n + #list + x end)
    assert.equal(43, add(1))
    local fail = code(function() error("oops") end)
    local _, message = pcall(fail)
    assert.truthy(message:find("plain_spec.lua:%d+: oops"))
    assert.equal(3, select("#", code(function(...) return ... end)(1, nil, nil)))
  end)

  it("is in tables too, and keeps its identity", function()
    local f = function() return 7 end
    local t, g = code({ f, f = f, [f] = "key" }, f)
    assert.equal(7, t.f())
    assert.equal(t[1], t.f)
    assert.equal(g, t.f)
    assert.equal("key", t[g])
  end)

  it("has upvalues by value: nil, shared tables, functions", function()
    local absent, shared = nil, {}
    local function get() return absent, shared end
    local got, table_too = code(get, shared)
    local a, b = got()
    assert.is_nil(a)
    assert.equal(table_too, b)
    assert.not_equal(shared, b)
  end)

  it("shares upvalues as they were shared", function()
    local n, other = 0, 0
    local function up() n = n + 1 end
    local function get() return n, other end
    local function up_other() other = other + 1 end
    local x, y, z = code(up, get, { up_other })
    x() x() z[1]()
    assert.same({ 2, 1 }, { y() })
    assert.equal(0, n)
    local made = {}
    for i = 1, 3 do
      made[i] = function(v) if v then i = v end return i end
    end
    local got = code(made)
    got[2](20)
    assert.same({ 1, 20, 3 }, { got[1](), got[2](), got[3]() })
  end)

  it("recurs through upvalues", function()
    local function fact(n) return n < 2 and 1 or n * fact(n - 1) end
    assert.equal(120, code(fact)(5))
    local even
    local function odd(n) if n == 0 then return false end return even(n - 1) end
    function even(n) if n == 0 then return true end return odd(n - 1) end
    local o, e = code(odd, even)
    assert.is_true(o(7))
    assert.is_false(e(7))
    assert.equal(o, select(2, debug.getupvalue(e, 1)))
    assert.equal(e, select(2, debug.getupvalue(o, 1)))
    -- A cell is joined while its own value is still being read.
    local self = {}
    self.list = { { get = function() return self end } }
    local outer = code(function() return self, self.list[1].get end)
    local inner_self, get = outer()
    assert.equal(inner_self, get())
    assert.equal(debug.upvalueid(outer, 1), debug.upvalueid(get, 1))
  end)

  it("gets the receiver's globals for its own", function()
    local bytes = encode(true, function() return _G, tostring end)
    local g, f = core.decode(bytes, true)()
    assert.equal(_G, g)
    assert.equal(tostring, f)
    local mine, t = _G, { _G }
    local got, got_table, itself = code(function() return mine end, t, _G)
    assert.equal(_G, got())
    assert.equal(_G, got_table[1])
    assert.equal(_G, itself)
    local getter, setter, other
    do
      local _ENV = { x = 1 }
      function getter() return _ENV end
      function setter(v) _ENV = v end
      function other() return _ENV.x end
    end
    local in_env, set, get_x = code(getter, setter, other)
    assert.equal(_G, in_env())
    set { x = 5 }
    assert.equal(5, get_x())
    local stripped = load(string.dump(function() return print end, true))
    assert.equal(print, code(stripped)())
    local no_globals = code(function() return t end)
    assert.equal(_G, no_globals()[1])
  end)

  it("keeps upvalues that are many", function()
    local source = { "local t = ... " }
    for i = 1, 100 do source[#source + 1] = ("local v%d = t[%d] "):format(i, i) end
    source[#source + 1] = "return function() return 0"
    for i = 1, 100 do source[#source + 1] = (" + v%d"):format(i) end
    source[#source + 1] = " end"
    local values = {}
    for i = 1, 100 do values[i] = i end
    assert.equal(5050, code(load(table.concat(source))(values))())
  end)

  it("names the upvalue that it refuses", function()
    local fh = io.tmpfile()
    finally(function() fh:close() end)
    local conf = { list = { 1, 2, 3, 4, 5, 6, fh } }
    local function helper() return fh end
    assert.equal("upvalue 'conf'.list[7]: a userdata (FILE*)",
      refusal(true, function() return conf end))
    assert.equal("upvalue 'helper' upvalue 'fh': a userdata (FILE*)",
      refusal(true, function() return helper end))
    assert.equal("args[2].list[7]: a userdata (FILE*)",
      refusal(true, function() end, conf))
    assert.equal("args[2] upvalue 'fh': a userdata (FILE*)",
      refusal(true, function() end, helper))
    assert.equal("args[1].f upvalue 'fh': a userdata (FILE*)", refusal(true, { f = helper }))
    local stripped = load(string.dump(helper, true))
    debug.setupvalue(stripped, 1, fh)
    assert.equal("upvalue #1: a userdata (FILE*)", refusal(true, stripped))
  end)

  it("says where a C function is to be found", function()
    local format, show = string.format, print
    assert.equal("upvalue 'format': a C function (string.format; use it as a global)",
      refusal(true, function() return format end))
    assert.equal("upvalue 'show': a C function (print; use it as a global)",
      refusal(true, function() return show end))
    assert.equal("args[1]: a C function", refusal(true, core.encode))
    local unpack = require "cjson".decode
    assert.equal("upvalue 'unpack': a C function (cjson.decode: require the module in the "
      .. "function that uses it)", refusal(true, function() return unpack end))
  end)

  it("says that a module is not sent, but required", function()
    local lfs = require "lfs"
    local text = refusal(true, function() return lfs.dir end)
    assert.matches("^upvalue 'lfs'%.[%a_.]+: a [%a ]+ %(in the module 'lfs': "
      .. "require the module in the function that uses it%)$", text)
    local tine = require "tine"
    assert.matches("upvalue 'tine'.*%(in the module 'tine[%a_.]*': require the module",
      refusal(true, function() return tine.new end))
  end)

  it("says what to do with cjson.null", function()
    local text = "a light userdata (cjson.null? the serialiser \"json\" has it; others have nil "
      .. "and false)"
    for _, functions in ipairs { true, false } do
      assert.equal("args[1].x: " .. text, refusal(functions, { x = require "cjson".null }))
    end
    local _, why = require "tine.core".codec("msgpack"):encode({ x = require "cjson".null })
    assert.equal("args[1].x: " .. text, why)
  end)

  it("gives names and values that survive the sender", function()
    local bytes
    do
      local name, count = "counter", { n = 0 }
      bytes = encode(true, function()
        count.n = count.n + 1
        return name .. count.n
      end)
    end
    collectgarbage()
    local one, two = core.decode(bytes, true), core.decode(bytes, true)
    assert.same({ "counter1", "counter2", "counter1" }, { one(), one(), two() })
  end)
end)

describe("the plain codec and the collector #unit", function()
  local function churn()
    local list = {}
    for i = 1, 50 do
      list[i] = { id = i, name = "name " .. i, f = function() return list end }
    end
    return encode(true, list), list
  end

  it("works at every pace of the collector", function()
    finally(function()
      debug.sethook()
      collectgarbage("incremental", 200, 100)
    end)
    local want = encode(false, { 1, { 2, { "three" } } })
    for _, mode in ipairs { "generational", "incremental" } do
      collectgarbage(mode)
      collectgarbage("setpause", 0)
      debug.sethook(function() collectgarbage() end, "", 50)
      for _ = 1, 3 do
        local bytes = churn()
        local got = core.decode(bytes, true)
        assert.equal("name 50", got[50].name)
        assert.equal(got, got[1].f())
        assert.equal(want, encode(false, (core.decode(want, false))))
      end
      debug.sethook()
    end
  end)

  it("may be used by a finalizer in the middle", function()
    local runs = 0
    local function make()
      setmetatable({}, { __gc = function()
        runs = runs + 1
        core.decode(core.encode(false, { 1, { print and 2 } }), false)
        core.encode(false, { print })
        if runs < 2000 then make() end
      end })
    end
    finally(function() runs = math.huge collectgarbage("incremental", 200, 100) end)
    collectgarbage("setpause", 0)
    make()
    local list = {}
    for i = 1, 3000 do list[i] = { "item " .. i } end
    -- When the collector comes by depends on how much the whole state holds.
    local rounds = 0
    repeat
      local got = data(list)
      assert.equal("item 3000", got[3000][1])
      refusal(false, { list, print })
      rounds = rounds + 1
    until rounds >= 20 and runs > 0 or rounds >= 2000
    assert.is_true(runs > 0)
  end)
end)
