-- Workers and the terminal of their host: nothing is stopped in the background of it.
local helper = require "spec.helper"
local proc = require "spec.proc"

-- Runs a shell command on a terminal of its own, in the foreground as a shell's job is.
local function on_terminal(command, seconds)
  local path = helper.write_file(command)
  return helper.run("script -qec " .. helper.quote("sh " .. path) .. " /dev/null", seconds or 10)
end

local function tine_map(arguments)
  return ("env LUA_PATH_5_4=%s LUA_CPATH_5_4=%s %s %s/lua/bin/tine map %s"):format(
    helper.quote(package.path), helper.quote(package.cpath), helper.lua, helper.root, arguments)
end

local function job(code) return "-e " .. helper.quote(code) end

describe("on a terminal #proc", function()
  it("a job that touches it fails, and says why", function()
    local text, code = on_terminal("seq 2 | " .. tine_map(job(
      [[return tostring(os.execute("stty sane </dev/tty"))]])))
    assert.equal(0, code, text)
    local _, n = text:gsub("nil\r\n", "")
    assert.equal(2, n, text)
    assert.matches("/dev/tty: No such device or address", text)
  end)

  it("a job that prints there does, also where the background may not", function()
    local text, code = on_terminal("stty tostop; seq 2 | " .. tine_map(job(
      [[os.execute("echo from a program >&2") return "done"]])))
    assert.equal(0, code, text)
    assert.equal(2, select(2, text:gsub("done\r\n", "")), text)
    assert.equal(2, select(2, text:gsub("from a program\r\n", "")), text)
  end)

  for _, how in ipairs { "new", "new_exec", "here" } do
    it("a process of tine." .. how .. " that runs, and what it starts, does", function()
      local text, code = on_terminal("stty tostop; " .. proc.program([[
        local how = ...
        tine.main(function()
          local p = tine[how]()
          local sock = p:run(function(sock)
            os.execute("echo a program; stty sane </dev/tty")
            io.stderr:write("itself\n")
            sock:write("end")
          end)
          print(sock:read())
          print(p:on_exit() or "well")
        end)]], how))
      assert.equal(0, code, text)
      for _, part in ipairs { "a program", "itself", "end", "well" } do
        assert.matches(part .. "\r\n", text)
      end
    end)
  end

  it("a worker whose template has it as stdin can read it", function()
    local text, code = helper.run("(sleep 0.2; echo a line) | script -qec "
      .. helper.quote(proc.program([[
        local template = tine.new_exec { stdin = "inherit" }
        tine.main(function()
          local p = template:fork()
          print(p:run(function(sock) sock:write("read: " .. tostring(io.read())) end):read())
        end)]])) .. " /dev/null")
    assert.equal(0, code, text)
    assert.matches("read: a line\r\n", text)
  end)
end)
