-- The time that an interpreter has for its first answer ran out while the host was busy and did
-- not run its loop: as soon as it did, a template that had long been there was killed.
local helper = require "spec.helper"
local tine = require "tine"

describe("a host that is long away from its loop #proc #slow", function()
  it("finds its new process there", function()
    helper.no_leaks(function()
      local p = tine.new_exec()
      assert(os.execute("sleep 10.5")) -- the time for an answer is 10 s
      local line
      p:run(function(sock) sock:write("here\n") end, function(sock, err)
        assert(sock, tostring(err))
        tine.go(function() line = sock:read_line() end)
      end)
      helper.wait_until(10, function() return line end)
      assert.equal("here", line)
    end)
  end)
end)
