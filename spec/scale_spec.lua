-- What a new worker costs does not depend on how many live: in the template's time and the host's.
local helper = require "spec.helper"
local proc = require "spec.proc"

local LIVE <const>, FILES <const> = 2500, 6000

-- For 20 and for LIVE idle ones: nanoseconds of the template's and of the host's for a worker.
local PROGRAM <const> = [[
  local function ran(pid)
    local f <close> = assert(io.open("/proc/" .. pid .. "/schedstat"))
    return f:read("n")
  end
  tine.main(function()
    local template = tine.new():eval("function noop() end")
    local idle = {}
    local function fill(n)
      while #idle < n do idle[#idle + 1] = template:fork() end
      for i = 1, n do idle[i]:await_ready() end
    end
    local function cost(n)
      local of_template, of_host = ran(template:pid()), ran("self")
      for _ = 1, n do
        local p = template:fork()
        p:run("noop", function(sock) sock:close() end)
        assert(not p:on_exit())
      end
      return (ran(template:pid()) - of_template) // n, (ran("self") - of_host) // n
    end
    fill(20)
    cost(50)
    say(cost(200))
    fill(%d)
    say(cost(200))
    for _, p in ipairs(idle) do p:close() end
  end)]]

describe("many workers #proc #slow", function()
  it("do not make a new one dearer", function()
    local _, status = helper.run(("ulimit -n %d && cat /proc/self/schedstat"):format(FILES))
    if status ~= 0 then
      pending("needs /proc/self/schedstat and ulimit -n " .. FILES)
      return
    end
    local text = helper.run(("ulimit -n %d; %s"):format(FILES,
      proc.program(PROGRAM:format(LIVE))))
    local few_t, few_h, many_t, many_h = text:match("^(%d+)\t(%d+)\n(%d+)\t(%d+)\n$")
    assert(few_t, text)
    -- Of 2500, looking at each would make it about five times as dear.
    assert.is_true(many_t / few_t < 2.5, "the template: " .. text)
    assert.is_true(many_h / few_h < 2.5, "the host: " .. text)
  end)
end)
