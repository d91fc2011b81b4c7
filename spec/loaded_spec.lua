-- process:await_loaded: when all that was queued has been carried out.
local helper = require "spec.helper"
local proc = require "spec.proc"
local tine = require "tine"

local case = proc.case(it)

describe("await_loaded #proc", function()
  case("tells when what was queued before is done", function()
    local path = helper.tmpname()
    local p = tine.new()
      :eval("os.execute('sleep 0.1') io.open(..., 'w'):close()", path)
      :send_arg("x")
    assert.is_true(p:await_loaded())
    assert.is_truthy(io.open(path))
    -- And again, in order, whatever else is asked.
    local told = {}
    p:eval("y = 1")
    p:await_loaded(function(...) told[#told + 1] = { "loaded", ... } end)
    p:memory(function(m) told[#told + 1] = { "memory", m.pid == p:pid() } end)
    p:eval("y = 2"):await_loaded(function(...) told[#told + 1] = { "again", ... } end)
    proc.wait_for(function() return #told == 3 end)
    assert.same({ { "loaded", true }, { "memory", true }, { "again", true } }, told)
    p:close()
  end)

  case("tells what failed, as on_error does", function()
    local errs = {}
    local p = tine.new():on_error(function(err) errs[#errs + 1] = err end)
      :eval("x = 1"):eval("error('no luck')"):eval("x = 2")
    local ok, err = p:await_loaded()
    assert.is_nil(ok)
    assert.equal("exception", err.kind)
    assert.matches("no luck", err.message)
    assert.matches("traceback", err.traceback)
    assert.equal(errs[1].message, err.message)
    p = tine.new():on_error(function() end):require("no.such.module")
    ok, err = p:await_loaded()
    assert.is_nil(ok)
    assert.matches("no.such.module", err.message)
    p:on_exit()
    ok, err = p:await_loaded() -- later, too
    assert.is_nil(ok)
    assert.is_truthy(err.kind)
    p:close()
  end)

  case("tells of an end, a closed handle, and one that is used up", function()
    local p = tine.new():eval("os.execute('sleep 0.05') os.exit(3)"):on_error(function() end)
    local ok, err = p:await_loaded()
    assert.is_nil(ok)
    assert.matches("code 3", tostring(err))
    p:close()
    ok, err = p:await_loaded()
    assert.is_nil(ok)
    assert.equal("closed", err.kind)
    p = tine.new():eval("function f() end")
    p:run("f", function(sock) sock:close() end)
    proc.assert_blames("await_loaded: this process was consumed by run",
      function() p:await_loaded() end)
    p:on_exit()
  end)

  it("needs a callback outside of a task, and can be called with one", function()
    helper.no_leaks(function()
      local p, told = tine.new(), nil
      assert.has_error(function() p:await_loaded() end)
      assert.equal(p, p:eval("x = 1"):await_loaded(function(...) told = table.pack(...) end))
      helper.wait_until(10, function() return told end)
      assert.is_true(told[1])
      p:close()
    end)
  end)
end)
