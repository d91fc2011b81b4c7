-- Values of calls come back equal, or are refused with their path: random ones, in the locales of
-- this world, which may change at any time.
local helper = require "spec.helper"

-- Every serialiser carries a list of random values to a worker and back. The host's locale and the
-- worker's are set as the arguments say, before or after the serialiser is loaded.
local PROGRAM <const> = [[
  local host, worker, when, serialiser, seed = table.unpack(arg)
  math.randomseed(tonumber(seed))
  local tine = require "tine"
  local function set(name) assert(os.setlocale(name), name) end
  if when == "before" then set(host) end

  local function random_string()
    local bytes = {}
    for i = 1, math.random(0, 12) do bytes[i] = string.char(math.random(0, 255)) end
    return table.concat(bytes)
  end

  local numbers = {
    0, -0.0, 1.5, -0.1, 1 / 3, 1e300, -1e-300, 5e-324, 2 ^ 53, 2 ^ 53 + 2, 2 ^ 62, 2 ^ 63,
    1e15 + 0.3, math.maxinteger, math.mininteger, math.maxinteger - 1, (1 << 53) + 1,
    123456789012345678, 0.1 + 0.2,
  }
  local function random_number()
    local kind = math.random(4)
    if kind == 1 then return numbers[math.random(#numbers)] end
    if kind == 2 then return math.random(0) end
    if kind == 3 then return math.random() * 10 ^ math.random(-20, 20) end
    return math.random(-1000, 1000)
  end

  local function random_value(depth)
    local kind = math.random(depth > 0 and 6 or 4)
    if kind == 1 then return math.random() < 0.5 end
    if kind == 2 then return random_string() end
    if kind <= 4 then return random_number() end
    local t = {}
    if kind == 5 then
      for i = 1, math.random(0, 5) do t[i] = random_value(depth - 1) end
    else
      for _ = 1, math.random(0, 5) do t[random_string()] = random_value(depth - 1) end
    end
    -- Now and then something that JSON does not have.
    if math.random() < 0.1 then t[math.random(20)] = random_value(0) end
    if math.random() < 0.05 then t[tostring(math.random(3))] = 1 end
    if math.random() < 0.03 then t[1.5] = "x" end
    return t
  end

  local function same(a, b)
    if type(a) ~= type(b) then return false end
    if type(a) ~= "table" then return a == b and (a ~= 0 or 1 / a == 1 / b) end
    for k, v in next, a do if not same(v, b[k]) then return false end end
    for k in next, b do if a[k] == nil then return false end end
    return true
  end

  local kept, refused = 0, 0
  tine.main(function()
    local pool = tine.new():eval(function(name)
      function echo(...)
        assert(os.setlocale(name), name)
        return ...
      end
    end, worker):pool("echo", { max = 1, serialiser = serialiser })
    for i = 1, 400 do
      if i == 2 then set(host) end
      local value = random_value(3)
      local err, got = pool:call { args = { value } }
      if err then
        refused = refused + 1
        assert(serialiser == "json" and err.kind == "encode"
          and err.message:find("^args%[1%].*which JSON cannot keep"), tostring(err))
      else
        kept = kept + 1
        assert(same(value, got), ("value %d of seed %s"):format(i, seed))
      end
    end
    pool:close()
  end)
  assert(kept > 100, kept)
  print(kept > 100, serialiser == "json" == (refused > 0))
]]

local LOCALES <const> = { "C", "de_DE.UTF-8", "fa_IR.UTF-8" }

describe("values of calls, whatever the locale #proc", function()
  local folder, program

  setup(function()
    folder = helper.tmpname()
    assert(os.execute("mkdir " .. folder))
    for i = 2, #LOCALES do
      -- It warns of what does not matter here, and returns 1 for that.
      os.execute(("localedef -i %s -f UTF-8 %s/%s >/dev/null 2>&1"):format(
        LOCALES[i]:match("^[^.]+"), folder, LOCALES[i]))
    end
    program = helper.write_file(PROGRAM)
  end)

  for _, serialiser in ipairs { "json", "msgpack", "lua" } do
    for _, host in ipairs(LOCALES) do
      it(("come back equal: %s, host in %s"):format(serialiser, host), function()
        for _, worker in ipairs(LOCALES) do
          for _, when in ipairs { "before", "after" } do
            local seed = tostring(math.random(1 << 30))
            local out, code = helper.run(("LOCPATH=%s %s 2>&1"):format(folder,
              helper.program(program, host, worker, when, serialiser, seed)), 60)
            assert.equal("true\ttrue\n", out,
              ("worker in %s, set %s, seed %d"):format(worker, when, seed))
            assert.equal(0, code)
          end
        end
      end)
    end
  end

  it("numbers among strings have a point", function()
    local out = helper.run(("LOCPATH=%s %s 2>&1"):format(folder, helper.program(helper.write_file([[
      local tine = require "tine"
      assert(os.setlocale("de_DE.UTF-8"))
      tine.main(function()
        local pool = tine.new():eval(function()
          function echo(x) assert(os.setlocale("de_DE.UTF-8")) return x, 0.25 end
        end):pool("echo", { max = 1 })
        print(pool:await(1.5))
        pool:close()
      end)
    ]]))))
    assert.equal("1.5\t0.25\n", out)
  end)
end)

describe("json", function()
  it("refuses keys that it cannot keep, with their path", function()
    local codec = require "tine.codec_json"
    for value, problem in pairs {
      [{ ["1"] = "a", [1] = "b" }] = "args[1]: a table with both numbers and strings as keys",
      [{ x = { 1, nil, 3 } }] = "args[1].x: a list with holes",
      [{ { [0] = 1 } }] = "args[1][1]: a key that is the number 0",
      [{ [1.5] = 1 }] = "args[1]: a key that is the number 1.5",
      [{ [true] = 1 }] = "args[1]: a key that is a boolean",
      [{ [10] = 1 }] = "args[1]: a list with holes",
    } do
      local text, message = codec.encode("args", value)
      assert.is_nil(text)
      assert.equal(problem .. ", which JSON cannot keep (the serialisers \"lua\" and "
        .. "\"msgpack\" can)", message)
    end
  end)

  it("refuses them beside a descriptor, too", function()
    local codec = require "tine.codec_json"
    local function put(value) return value == io.stdout and 1 or nil end
    for key, what in pairs { [true] = "a boolean", [require "cjson".null] = "a userdata",
      [{}] = "a table" } do
      local text, message = codec.encode_fds(put, "args", { x = { [key] = io.stdout } })
      assert.is_nil(text)
      assert.matches("^args%[1%]%.x: a key that is " .. what .. ", which JSON cannot keep", message)
    end
  end)

  it("keeps integers of Lua's size, and makes a float of a larger one", function()
    local codec = require "tine.codec_json"
    for _, n in ipairs { math.maxinteger, math.mininteger, (1 << 53) + 1 } do
      local back = codec.decode(codec.encode("args", n))
      assert.equal(n, back)
      assert.equal("integer", math.type(back))
    end
    for _, text in ipairs { "9223372036854775808", "-9223372036854777856", "18446744073709551615" }
    do
      local back = codec.decode("[" .. text .. "]")
      assert.equal("float", math.type(back))
      assert.equal(tonumber(text .. ".0"), back)
    end
    assert.equal("float", math.type((codec.decode(codec.encode("args", 2.0 ^ 63)))))
  end)

  it("refuses numbers that it does not have", function()
    local codec = require "tine.codec_json"
    for what, n in pairs { infinite = math.huge, ["not a number"] = 0 / 0 } do
      assert.same({ nil, "args[1].x: " .. what }, { codec.encode("args", { x = n }) })
    end
  end)
end)
