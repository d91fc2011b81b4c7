-- The process that ends what a host leaves when that is killed together with its templates.
local helper = require "spec.helper"
local proc = require "spec.proc"

describe("the sweeper of a host #proc", function()
  -- It is made of the same interpreter as the first process.
  it("is made anew when its interpreter has never answered #slow", function()
    local path = helper.write_file("#!/bin/sh\nexec sleep 1000\n")
    os.execute("chmod +x " .. path)
    local text, code = proc.run_program([[
      local function sleepers()
        local list <close> = io.popen("pgrep -cx sleep -P $PPID")
        return list:read("n")
      end
      tine.interpreter = arg[1]
      local ended
      tine.new_exec():on_exit(function(err) ended = err.kind end)
      say(sleepers())
      while not ended do tine.loop.poll(1) end
      say(ended, sleepers())
      tine.interpreter = nil
      tine.main(function()
        local p = tine.new()
        p:await_ready()
        local list <close> = io.popen("pgrep -cf '^[^ ]*tine-template --sweep' -P $PPID")
        say(list:read("n"), sleepers())
      end)
    ]], path)
    assert.equal(0, code, text)
    assert.equal("2\ntimeout\t0\n1\t0\n", text)
  end)
end)
