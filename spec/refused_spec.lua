-- A system that refuses calls, as containers do: all goes on, or one line says what is missing.
local helper = require "spec.helper"
local proc = require "spec.proc"

local ENOSYS <const>, EPERM <const> = 38, 1

-- Numbers of system calls on this kind of machine.
local function numbers()
  local f <close> = assert(io.popen("uname -m"))
  if f:read("l") ~= "x86_64" then return nil end
  return {
    memfd_create = "319", pidfd_open = "434", pidfd_send_signal = "424", close_range = "436",
    timerfd_create = "283", eventfd2 = "290", clone3 = "435", ["prctl"] = "157",
    ["prctl(PR_SET_PDEATHSIG)"] = "157:1", ["prctl(PR_SET_NAME)"] = "157:15",
    ["all of these"] = "319,434,424,436,283,290,435,157",
  }
end

local PROGRAM <const> = [[
  tine.main(function()
    local function line_of(make)
      local lines = {}
      local p = make { stdout = function(line) lines[#lines + 1] = line end }
      local sock = assert(p:run(function(sock) print("line") sock:write("hello") end))
      local text = sock:read()
      local err = p:on_exit()
      return text, err or "well", lines[1]
    end
    local template = tine.new():eval("x = 1")
    print(line_of(tine.new))
    print(line_of(tine.new_exec))
    print(line_of(function(options) return template:fork(options) end))
    local pool = template:pool(function(x)
      if x == "die" then os.exit(3) end
      if x == "spin" then while true do end end
      return x .. "!"
    end, { max = 2 })
    print(pool:await("a"), pool:await("b"))
    local ok, err = pcall(pool.await, pool, "die")
    print(ok, err.kind, err.code)
    pool:call { args = { "spin" }, timeout = 0.05, cb = function(e) print(e.kind) end }
    tine.loop.sleep(0.01)
    pool:close()
    local p = tine.new()
    p:run(function(sock) sock:read() end)
    print(p:kill("KILL"), select(2, p:on_exit()).signal)
  end)]]

local EXPECTED <const> = [[
hello	well	line
hello	well	line
hello	well	line
a!	b!
false	crash	3
]]

describe("where the system refuses #proc", function()
  local calls = numbers()
  if not calls then return end
  for name, number in pairs(calls) do
    for what, errno in pairs { ENOSYS = ENOSYS, EPERM = EPERM } do
      it(name .. " (" .. what .. "), all goes on", function()
        local text = helper.run(("%s/spec/refuse %d %s %s"):format(helper.build, errno, number,
          proc.program(PROGRAM)))
        assert.equal(EXPECTED, text:sub(1, #EXPECTED))
        assert.matches("timeout\n", text)
        assert.matches("\t9\n", text)
      end)
    end
  end
end)
