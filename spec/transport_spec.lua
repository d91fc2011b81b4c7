-- core/process/transport.h: the specs of processes hold with another transport in the place of that
-- for local processes, too: one that has a plain stream to where they are, and no descriptor can
-- follow it (spec/core/far/). What only a near process can do has the tag `near`.
local helper = require "spec.helper"

local folder = helper.build .. "/spec/far"
local cpath = folder .. "/?.so;" .. helper.build .. "/?.so"

-- Lua there, with words for its command line.
local function command(words)
  local variables = {
    TINE = helper.build .. "/tine/tine-template", TINE_SPEC_FAR_END = folder .. "/far_end",
    TINE_BUILD = helper.build, LUA_PATH_5_4 = package.path, LUA_CPATH_5_4 = cpath .. ";;",
  }
  local list = {}
  for name, value in pairs(variables) do list[#list + 1] = name .. "=" .. helper.quote(value) end
  return ("cd %s && env -u TINE_SPEC_STATE %s %s %s"):format(helper.quote(helper.root),
    table.concat(list, " "), helper.lua, words)
end

local function is_built()
  local f <close> = io.open(folder .. "/tine/core.so")
  return f ~= nil
end

describe("a transport without descriptors #proc", function()
  if not is_built() then
    pending("is not built (cmake -DTINE_TESTS=ON, target tine_tests)")
    return
  end

  -- What a program prints, which has `tine` with that transport, in a coroutine of tine.main.
  local function run(text)
    local program = "local tine = require 'tine' tine.main(function() " .. text .. " end)"
    return (helper.run(command(helper.quote(helper.write_file(program))), 20))
  end

  -- The long ones are long for what is not a transport's.
  local long = "hundreds of workers"

  for file, least in pairs { process = 75, functions = 20, lifetime = 60 } do
    it("keeps what " .. file .. "_spec.lua promises, but for what is near #slow", function()
      local said, code = helper.run(command(("tools/busted.lua --ignore-lua --cpath=%s"
        .. " --exclude-tags=near,slow --filter-out=%s spec/%s_spec.lua"):format(
          helper.quote(cpath), helper.quote(long), file)), 250)
      local passed = tonumber(said:match("(%d+) successes / 0 failures / 0 errors"))
      assert.is_truthy(passed, said)
      assert.are.equal(0, code, said)
      assert.is_true(passed >= least, passed .. " tests are too few")
    end)
  end

  it("has the module that it says it has", function()
    assert.are.equal(folder .. "/tine/core.so\n", run [[
      print(package.searchpath("tine.core", package.cpath))
    ]])
  end)

  it("refuses at the call what it cannot do, and the process goes on", function()
    local elsewhere = "the process is elsewhere, where no descriptor or memory can be sent"
    assert.are.equal(("false\tsend_fd: %s\nfalse\tto_fd: %s\nnil\trpc: %s\nfine\n")
      :format(elsewhere, elsewhere, elsewhere), run [[
      local function last(ok, err) return ok, (tostring(err):gsub("^[^ ]+:%d+: ", "")) end
      local p = tine.new()
      print(last(pcall(p.send_fd, p, 1)))
      print(last(pcall(p.to_fd, p, print)))
      print(last(p:rpc("print", {})))
      local sock = p:run(function(s) s:write("fine\n") end)
      io.write(sock:read())
    ]])
  end)

  it("refuses redirections to what is here as an error of the new process", function()
    assert.are.equal("system\nsystem\n", run [[
      for _, out in ipairs { print, 1 } do
        local p = tine.new { stdout = out }
        local ok, err = p:await_ready()
        print(err.kind)
        assert(err.message:find("the process is elsewhere"), err.message)
        p:close()
      end
    ]])
  end)

  it("fails the calls of a pool that cannot make workers there", function()
    assert.are.equal("system\nthe process is elsewhere\n", run [[
      local pool = tine.new():pool("print", { max = 1, on_error = function() end })
      local ok, err = pcall(pool.await, pool, 1)
      print(err.kind)
      print(err.message:match("the process is elsewhere"))
    ]])
  end)
end)
