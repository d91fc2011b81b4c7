-- The command line: tine run, tine serve.
local helper = require "spec.helper"
local tine = require "tine"

local COMMAND <const> = helper.program(helper.root .. "/lua/bin/tine")

local function slurp(path)
  local f <close> = assert(io.open(path, "rb"))
  return f:read("a")
end

-- Runs the command with words for the shell; returns its stdout, stderr, and exit code.
local function run(words)
  local out = helper.tmpname()
  local err, code = helper.run(COMMAND .. " " .. words .. " >" .. out)
  return slurp(out), err, code
end

local function run_script(text, words)
  return run("run " .. helper.write_file(text) .. " " .. (words or ""))
end

describe("tine run #proc", function()
  it("runs a script with its arguments", function()
    local script = helper.write_file([[
      print(...)
      print(#arg, table.unpack(arg))
      io.write(arg[0])
    ]])
    local out, err, code = run("run " .. script .. " a 'b c' ''")
    assert.are.equal("", err)
    assert.are.equal(0, code)
    assert.are.equal("a\tb c\t\n3\ta\tb c\t\n" .. script, out)
  end)

  it("leaves all that follows the script to the script", function()
    for _, words in ipairs { "--help", "-x", "--version 1", "-- a", "- b", "run c", "a --help" } do
      local out, err, code = run_script("print(table.concat(arg, \" \"))", words)
      assert.are.equal("", err)
      assert.are.equal(0, code)
      assert.are.equal(words .. "\n", out)
    end
  end)

  it("lets the script wait, and its top level", function()
    local out, err, code = run_script([[
      local tine = require "tine"
      tine.loop.sleep(0.001)
      local sock = tine.new():run(function(s) s:write("from a worker") end)
      print(sock:read())
    ]])
    assert.are.equal("", err)
    assert.are.equal(0, code)
    assert.are.equal("from a worker\n", out)
  end)

  it("runs the loop until nothing is left to wait for", function()
    local out, _, code = run_script([[
      local tine = require "tine"
      tine.loop.timer(0.01, function() print("timer") end)
      tine.go(function()
        tine.loop.sleep(0.02)
        print("task")
      end)
      tine.new():eval("x = 1")
      print("script")
    ]])
    assert.are.equal(0, code)
    assert.are.equal("script\ntimer\ntask\n", out)
  end)

  it("fails with 1 and a traceback where the script raises", function()
    for _, text in ipairs {
      "local function culprit()\n  error('oops')\nend\nculprit()\nprint('on')",
      "require('tine').loop.sleep(0) local function culprit()\n  error('oops')\nend\nculprit()"
        .. "\nprint('on')",
      "require('tine').loop.timer(0, function()\n error('oops') end)",
      "require('tine').go(function() require('tine').loop.sleep(0)\n error('oops') end)",
    } do
      local out, err, code = run_script(text)
      assert.are.equal(1, code)
      assert.are.equal("", out)
      assert.matches("^tine: %S+:2: oops\nstack traceback:\n", err)
      assert.matches("\n%s+%S+:2: in ", err)
    end
  end)

  it("shows errors of all types", function()
    local _, err, code = run_script("error(setmetatable({}, "
      .. "{ __tostring = function() return 'as text' end }))")
    assert.are.equal(1, code)
    assert.matches("^tine: as text\n", err)
    _, err, code = run_script("error(nil)")
    assert.are.equal(1, code)
    assert.are.equal("tine: nil\n", err)
    _, err, code = run_script("local t = require 'tine' t.interpreter = '/nonexistent' "
      .. "assert(t.new():await_ready())")
    assert.are.equal(1, code)
    assert.matches("^tine: .*/nonexistent", err)
  end)

  it("fails with 1 where the script does not compile, or is not there", function()
    local _, err, code = run_script("x =\n= 1")
    assert.are.equal(1, code)
    assert.matches("^tine: %S+:2: unexpected symbol near '='\n$", err)
    _, err, code = run("run /nonexistent/script.lua a")
    assert.are.equal(1, code)
    assert.matches("^tine: cannot open /nonexistent/script.lua", err)
  end)

  it("fails where the script waits for what cannot happen", function()
    local _, err, code = run_script("p = require('tine').new() p:on_exit()")
    assert.are.equal(1, code)
    assert.matches("^tine: deadlock: ", err)
  end)

  it("leaves with what os.exit says", function()
    for text, expected in pairs {
      ["os.exit(7)"] = 7, ["os.exit(true, true)"] = 0, ["os.exit(false)"] = 1, ["return 5"] = 0,
      ["require('tine').exit(3)"] = 3,
      ["require('tine').loop.timer(0, function() os.exit(9) end)"] = 9,
      ["require('tine').loop.timer(0, function() os.exit(9, true) end)"] = 9,
    } do
      local _, err, code = run_script(text)
      assert.are.equal("", err)
      assert.are.equal(expected, code)
    end
  end)

  it("takes the script from stdin", function()
    local script = helper.write_file("print(arg[0], ...) require(\"tine\").loop.sleep(0)")
    local out, err, code = run("run - a --b <" .. script)
    assert.are.equal("", err)
    assert.are.equal(0, code)
    assert.are.equal("-\ta\t--b\n", out)
  end)

  it("is an interpreter that a script can name in its first line", function()
    local script = helper.write_file("#!/usr/bin/env -S " .. helper.lua .. " " .. helper.root
      .. "/lua/bin/tine run\nrequire(\"tine\").loop.sleep(0)\nprint(...)\n")
    assert(os.execute("chmod +x " .. script))
    local env = COMMAND:match("^(env .-) " .. helper.lua:gsub("%p", "%%%0") .. " ")
    local text, code = helper.run(env .. " " .. script .. " a b")
    assert.are.equal("a\tb\n", text)
    assert.are.equal(0, code)
  end)

  it("leaves nothing behind when it is interrupted", function()
    local script = helper.write_file([[
      local tine = require "tine"
      local p = tine.new()
      local sock = p:run(function(sock) while sock:read() do end end)
      local f = io.open("/proc/self/stat")
      io.write(f:read("n"), " ", p:await_ready(), "\n")
      io.stdout:flush()
      sock:read()
    ]])
    local out = helper.write_file("")
    -- A shell starts background jobs with SIGINT ignored; env undoes that.
    local status = helper.write_file("")
    assert(os.execute(("(env --default-signal=INT %s run %s >%s 2>&1 </dev/null; echo $? >%s) &")
      :format(COMMAND, script, out, status)))
    local host, worker
    helper.wait_until(10, function()
      host, worker = slurp(out):match("^(%d+) (%d+)\n")
      return host, slurp(out)
    end)
    assert(os.execute("kill -INT " .. host))
    helper.wait_until(10, function() return slurp(status) ~= "" end)
    -- lua5.4 answers with an error; the interpreter of sanitized runs just dies.
    assert.are.equal(helper.sanitized and "130\n" or "1\n", slurp(status))
    if not helper.sanitized then assert.matches("interrupted!", slurp(out)) end
    helper.wait_until(5, function() return not helper.alive(tonumber(worker)) end)
  end)
end)

describe("the command line #unit", function()
  it("tells its version", function()
    local out, err, code = run("--version")
    assert.are.equal("", err)
    assert.are.equal(0, code)
    assert.are.equal("tine " .. tine._VERSION .. "\n", out)
    assert.matches("^%d+%.%d+%.%d+", tine._VERSION)
  end)

  it("helps", function()
    local out, err, code = run("--help")
    assert.are.equal("", err)
    assert.are.equal(0, code)
    for _, word in ipairs { "Usage: tine", "run", "serve", "--version", "--help" } do
      assert.is_truthy(out:find(word, 1, true), word)
    end
    for command, words in pairs {
      run = { "Usage: tine run", "script" }, serve = { "Usage: tine serve", "--fd", "--stdio" },
    } do
      out, err, code = run(command .. " --help")
      assert.are.equal("", err)
      assert.are.equal(0, code)
      for _, word in ipairs(words) do assert.is_truthy(out:find(word, 1, true), word) end
    end
  end)

  it("is refused with 2 and the usage where it makes no sense", function()
    for words, message in pairs {
      ["nonsense"] = "nonsense", [""] = "command", ["--nonsense"] = "nonsense",
      ["run"] = "script", ["run --nonsense x"] = "nonsense",
      ["serve"] = "--fd", ["serve --fd"] = "--fd", ["serve --fd x"] = "'x'",
      ["serve --fd -1"] = "-1", ["serve --fd 3 --stdio"] = "--stdio", ["serve x"] = "too many",
      ["map"] = "-f and -e", ["map --nonsense"] = "nonsense", ["map -e"] = "'-e'",
    } do
      local out, err, code = run(words)
      assert.are.equal("", out)
      assert.are.equal(2, code, words)
      local command = words:match("^run") or words:match("^serve") or words:match("^map")
      assert.matches("^Usage: tine " .. (command and command .. " " or "%["), err)
      assert.is_truthy(err:match("\nError: (.*)"):find(message, 1, true), err)
    end
  end)

  it("says what it lacks where argparse is not installed", function()
    local _, err, code = run("--version")
    assert.are.equal(0, code, err)
    local script = helper.write_file([[
      package.preload.argparse = function() error("not there") end
      os.exit(require("tine.cli").main { "--version" })
    ]])
    err, code = helper.run(helper.program(script))
    assert.are.equal(1, code)
    assert.matches("^tine: the command line needs argparse", err)
  end)
end)

describe("tine serve #proc", function()
  -- Has a worker, of which stdin is one end of a socket, run the command in a shell; then the
  -- function with a handle for the other end. Returns how the shell ended.
  local function with_server(words, fn)
    local code
    helper.no_leaks(function()
      tine.main(function()
        local near, far = assert(tine.socketpair())
        local shell = tine.new { stdin = far }:send_arg(COMMAND .. " " .. words)
        far:close()
        local sock = shell:run(function(_, command)
          local _, _, status = os.execute(command)
          os.exit(status)
        end)
        local ended = tine.go(function() return shell:on_exit() end)
        fn(tine.from_fd(near))
        local _, info = ended:await()
        code = info.code
        sock:close()
      end)
    end)
    return code
  end

  for title, words in pairs {
    ["on a descriptor"] = "serve --fd 3 3<&0 </dev/null",
    ["on stdin by its number"] = "serve --fd 0",
    ["on stdin"] = "serve --stdio",
  } do
    it("is a template " .. title, function()
      local code = with_server(words, function(p)
        p:eval("value = ...", "evaluated"):send_arg("sent")
        local q = p:fork()
        local sock = assert(q:run(function(s, text)
          s:write(value .. " " .. text) -- luacheck: ignore 113
          s:read()
          os.exit(5)
        end))
        assert.are.equal("evaluated sent", sock:read())
        assert.is_true(p:await_ready() ~= q:pid())
        sock:close()
        local err, info = q:on_exit()
        assert.are.equal("exit", err.kind)
        assert.are.equal(5, info.code)
        sock = assert(p:run(function(s)
          -- Its stdin is not the command socket.
          s:write(tostring(io.read()))
          os.exit(6)
        end))
        assert.are.equal("nil", sock:read())
        sock:close()
        err, info = p:on_exit()
        assert.are.equal("exit", err.kind)
        assert.are.equal(6, info.code)
      end)
      assert.are.equal(6, code)
    end)
  end

  it("has what the program's interpreter has, and its module path", function()
    with_server("serve --stdio", function(p)
      local sock = p:require("tine.cli"):run(function(s)
        s:write(type(require("tine.cli").main) .. " " .. tostring(require("tine").is_worker()))
      end)
      assert.are.equal("function true", sock:read())
      sock:close()
      p:on_exit()
    end)
  end)

  it("ends when the handle is closed", function()
    local code = with_server("serve --stdio", function(p)
      p:await_ready()
      p:close()
    end)
    assert.are.equal(0, code)
  end)

  it("ends when nobody ever speaks to it", function()
    helper.no_leaks(function()
      local text, code = helper.run(helper.program(helper.write_file([[
        local tine = require "tine"
        local near, far = tine.socketpair()
        tine.main(function()
          local p = tine.new { stdin = far }:send_arg(arg[1])
          far:close()
          p:run(function(_, command) os.exit(select(3, os.execute(command))) end)
          near:close()
          print((select(2, p:on_exit()).code))
        end)
      ]]), COMMAND .. " serve --stdio"))
      assert.are.equal("0\n", text)
      assert.are.equal(0, code)
    end)
  end)

  it("fails with 1 and says why where there is no socket", function()
    local _, err, code = run("serve --stdio </dev/null")
    assert.are.equal(1, code)
    assert.matches("^tine: serve: stdin is not a socket", err)
    local pipe
    pipe, code = helper.run("true | " .. COMMAND .. " serve --stdio")
    assert.are.equal(1, code)
    assert.matches("^tine: serve: stdin is not a socket; .*pipes", pipe)
    for fd, what in pairs { ["77"] = "open", ["3 3</dev/null"] = "a socket" } do
      _, err, code = run("serve --fd " .. fd)
      assert.are.equal(1, code)
      assert.equal("tine: serve: descriptor " .. fd:match("%d+") .. " is not " .. what .. "\n", err)
    end
  end)

  it("says what is wrong with a socket that no host can command it over", function()
    local function serve_on(fd)
      local lines, info = {}
      tine.main(function()
        local p = tine.new { stdin = fd, stderr = function(line) lines[#lines + 1] = line end }
        p:send_arg(COMMAND):run(function(_, command)
          os.exit(select(3, os.execute(command .. " serve --stdio")))
        end, function() end)
        info = select(2, p:on_exit())
      end)
      assert.equal(1, info.code)
      return table.concat(lines, "\n")
    end
    helper.no_leaks(function()
      local server <close> = tine.listen("unix:" .. helper.tmpname())
      server:set_blocking(true)
      assert.equal("tine: serve: stdin is a listening socket: accept a connection, and serve on "
        .. "that", serve_on(server))
      local tcp <close> = tine.listen("127.0.0.1:0")
      tcp:set_blocking(true)
      assert.matches("^tine: serve: stdin is not a Unix%-domain socket", serve_on(tcp))
      local text, code = helper.run("bash -c " .. helper.quote("exec 5<>/dev/udp/127.0.0.1/9; "
        .. COMMAND .. " serve --fd 5"))
      assert.equal(1, code)
      assert.matches("^tine: serve: descriptor 5 is not a Unix%-domain socket", text)
    end)
  end)

  it("ends where it is told garbage", function()
    local problem
    local code = with_server("serve --stdio", function(p)
      p:on_error(function(err) problem = err end)
      local fd = assert(p:to_fd())
      fd:write(("garbage"):rep(100))
      fd:close()
    end)
    assert.are.equal(1, code)
    assert.are.equal("protocol", problem.kind)
    assert.matches("garbage", problem.message)
  end)
end)
