-- Results of more values than the host's stack takes: each call is answered all the same.
local helper = require "spec.helper"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)

local function many(n)
  local list = {}
  for i = 1, math.tointeger(tonumber(n)) do list[i] = "v" end
  return table.unpack(list)
end

-- Calls fn so many levels below.
local function below(levels, fn)
  if levels == 0 then return fn() end
  local result = below(levels - 1, fn)
  return result
end

describe("very many results #proc", function()
  for _, serialiser in ipairs { "string", "lua", "msgpack" } do
    it("reach the callback once, or an err does, wherever the loop runs: " .. serialiser, function()
      helper.no_leaks(function()
        local rpc = tine.new():rpc(many, { serialiser = serialiser })
        for _, levels in ipairs { 0, 10000 } do
          for _, n in ipairs { 900000, 990000, 998500, 999000, 999600, 999900 } do
            local calls, err, got = 0, nil, nil
            rpc(n, function(e, ...)
              calls, err, got = calls + 1, e, (...)
            end)
            below(levels, function()
              helper.wait_until(20, function() return calls > 0 end)
              return true
            end)
            assert.are.equal(1, calls)
            assert.are.equal(err == nil, got == "v")
            if n > 200000 then
              assert.are.equal("encode", err and err.kind, n)
              assert.matches("results: " .. n .. " values, too many for a call", err.message)
            end
          end
        end
        rpc:close()
      end)
    end)
  end

  case("raise an err in the coroutine that awaits them", function()
    local pool = tine.new():pool(many, { max = 1 })
    local ok, err = pcall(pool.await, pool, 900000)
    assert.is_false(ok)
    assert.are.equal("encode", err.kind)
    assert.matches("too many for a call", err.message)
    assert.are.equal("encode", pool(900000).kind)
    assert.are.equal("encode", (pool:call { args = { 900000 } }).kind)
    assert.are.equal(200000, select("#", pool:await(200000)))
    for _, fine, first in pool:map { 200000, 900000 } do
      if fine then assert.are.equal("v", first) else assert.are.equal("encode", first.kind) end
    end
    local counted -- by a callback that passes all of them on
    pool(200000, function(...) counted = select("#", ...) end)
    repeat tine.loop.sleep(0.01) until counted
    assert.are.equal(200001, counted)
    assert.are.equal("v", pool:await(1))
    pool:close()
  end)
end)

describe("very many arguments #proc", function()
  case("fail their call", function()
    local pool = tine.new():pool(function(...) return select("#", ...) end, { max = 1 })
    local args = {}
    for i = 1, 1500000 do args[i] = "v" end
    local err = pool:call { args = args }
    assert.are.equal("encode", err.kind)
    assert.matches("too many values", err.message)
    args.n = 300000
    assert.matches("args: 300000 values, too many for a call", pool:call({ args = args }).message)
    args.n = 200000
    assert.are.same({ nil, "200000", n = 2 }, table.pack(pool:call { args = args }))
    pool:close()
  end)
end)
