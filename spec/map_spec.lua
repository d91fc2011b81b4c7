-- The command line: tine map.
local helper = require "spec.helper"

local COMMAND <const> = helper.program(helper.root .. "/lua/bin/tine")

local function slurp(path)
  local f <close> = assert(io.open(path, "rb"))
  return f:read("a")
end

-- Runs `tine map` with words for the shell; returns its stdout, stderr, and exit code.
local function map(words, input)
  local out = helper.tmpname()
  if input then words = words .. " <" .. helper.write_file(input) end
  local err, code = helper.run(COMMAND .. " map " .. words .. " >" .. out, 60)
  return slurp(out), err, code
end

local function lines(first, last)
  local list = {}
  for i = first, last do list[#list + 1] = i .. "\n" end
  return table.concat(list)
end

local function good(out, err, code)
  assert.are.equal("", err)
  assert.are.equal(0, code)
  return out
end

describe("tine map #proc", function()
  it("gives each line and its number to the code, and prints what it returns, in order", function()
    assert.are.equal("A\t1\nB C\t2\n\t3\nD\t4\n",
      good(map("-e 'line:upper(), n'", "a\nb c\n\nd\n")))
    assert.are.equal("d\n", good(map("-e 'if n == 4 then return line end'", "a\nb\nc\nd")))
    local expected = {}
    for i = 1, 5000 do expected[i] = i * i .. "\n" end
    assert.are.equal(table.concat(expected),
      good(map("-n 3 -e 'return line * line // 1 | 0'", lines(1, 5000))))
  end)

  it("prints no addresses: what has no text fails its line, and says what to do", function()
    local out, err, code = map("-e 'function(l) return l end'", "a\n")
    assert.are.same({ "", 1 }, { out, code })
    assert.matches("result%[1%]: a function %(return what it returns%)", err)
    out, err, code = map("-e 'n, n == 1 and {} or nil'", "a\nb\n")
    assert.are.same({ "2\tnil\n", 1 }, { out, code })
    assert.matches("result%[2%]: a table %(%-%-json", err)
    assert.are.equal("me\ttrue\n", good(map(
      "-e 'setmetatable({}, { __tostring = function() return \"me\" end }), true'", "a\n")))
  end)

  it("keeps the order although jobs take different times", function()
    local out = good(map("-n 4 -e 'if n % 7 == 1 then os.execute(\"sleep 0.02\") end return n'",
      lines(1, 60)))
    assert.are.equal(lines(1, 60), out)
  end)

  it("does not keep it with --unordered, nor wait for it", function()
    local out = good(map("-n 2 --unordered -e 'if n == 1 then os.execute(\"sleep 0.5\") end "
      .. "return n'", lines(1, 20)))
    local sorted, list = {}, {}
    for n in out:gmatch("%d+") do
      list[#list + 1] = tonumber(n)
      sorted[#sorted + 1] = tonumber(n)
    end
    table.sort(sorted)
    assert.are.equal(20, #sorted)
    for i = 1, 20 do assert.are.equal(i, sorted[i]) end
    assert.are.equal(1, list[20])
  end)

  it("loads modules, finds a function in them, and calls init in each worker", function()
    local folder = helper.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir " .. folder))
    local module = io.open(folder .. "/shout.lua", "w")
    module:write([[
      local shout = { ready = "not ready" }
      function shout.init() shout.ready = "ready" end
      function shout.work(line, n) return n .. line .. shout.ready end
      return shout
    ]])
    module:close()
    local words = "map -r shout -f shout.work --init shout.init <" .. helper.write_file("a\nb\n")
    -- Without its folder on the path there is no such module.
    local err, code = helper.run(COMMAND .. " " .. words)
    assert.are.equal(1, code)
    assert.matches("module 'shout' not found", err)
    local out
    local env = COMMAND:gsub("LUA_PATH_5_4='?", "%0" .. folder .. "/?.lua;")
    out, code = helper.run(env .. " " .. words)
    os.remove(folder .. "/shout.lua")
    os.remove(folder)
    assert.are.equal("1aready\n2bready\n", out)
    assert.are.equal(0, code)
  end)

  it("makes loaded modules globals, as lua -l does, but for names that are taken", function()
    assert.are.equal("loaf\tfunction\n", good(map("-r cjson -r string "
      .. "-e 'cjson.decode(line)[1], type(string.rep)'", "[\"loaf\"]")))
  end)

  it("tells of a failed line by number, with the worker's traceback, and goes on", function()
    local out, err, code = map("-e 'if n == 2 then error(\"no \" .. line) end return line'",
      "a\nb\nc\n")
    assert.are.equal("a\nc\n", out)
    assert.are.equal(1, code)
    assert.matches("^tine: map: line 2: %-e:1: no b\n", err)
    assert.matches("stack traceback:\n", err)
  end)

  it("tells the file too when there are several", function()
    local one, two = helper.write_file("x\n"), helper.write_file("y\nz\n")
    local out, err, code = map(("-e 'if line == \"z\" then error(\"oops\", 0) end return line' "
      .. "%s %s"):format(one, two))
    assert.are.equal("x\ny\n", out)
    assert.are.equal(1, code)
    assert.is_truthy(err:find("tine: map: " .. two .. ": line 2: oops\n", 1, true), err)
  end)

  it("goes on with the other files when one cannot be read, and fails", function()
    local out, err, code = map("-e line /nonexistent/file " .. helper.write_file("a\n"))
    assert.are.equal("a\n", out)
    assert.are.equal(1, code)
    assert.matches("/nonexistent/file: No such file or directory", err)
  end)

  it("loses one line to a crash, and none with --retries", function()
    local crash = "-n 2 -e 'if n == 3 then os.execute(\"kill -SEGV $PPID\") end return n'"
    local out, err, code = map(crash, lines(1, 9))
    assert.are.equal(lines(1, 2) .. lines(4, 9), out)
    assert.are.equal(1, code)
    assert.matches("line 3: .*signal 11", err)
    local marker = helper.tmpname()
    os.remove(marker)
    out = good(map(("--retries 1 -e 'if n == 3 and not io.open(\"%s\") then "
      .. "io.open(\"%s\", \"w\"):close() os.exit(4) end return n'"):format(marker, marker),
      lines(1, 9)))
    os.remove(marker)
    assert.are.equal(lines(1, 9), out)
  end)

  it("gives a line up when its retries are used up", function()
    local tries = helper.write_file("")
    local out, err, code = map(("-n 2 --retries 2 -e 'if n == 3 then "
      .. "local f = io.open(\"%s\", \"a\") f:write(\"x\") f:close() os.exit(4) end return n'")
      :format(tries), lines(1, 9))
    assert.are.equal("xxx", slurp(tries))
    assert.are.equal(lines(1, 2) .. lines(4, 9), out)
    assert.are.equal(1, code)
    assert.matches("^tine: map: line 3: ", err)
    assert.are.equal(1, select(2, err:gsub("line 3: ", "")))
  end)

  it("tries a line again that raised or took too long, if it is told to", function()
    local tries = helper.write_file("")
    local code = ("'if n == 3 then "
      .. "local f = io.open(\"%s\", \"a+\") f:write(\"x\") f:seek(\"set\") "
      .. "local tried = #f:read(\"a\") f:close() if tried %% 2 == 1 then error(\"no\") end "
      .. "while tried == 2 do end end return n'"):format(tries)
    local out = good(map("-n 2 --retry-errors 2 --retry-timeouts 1 --timeout 0.3 "
      .. "--retry-delay 0.01 -e " .. code, lines(1, 9)))
    assert.are.equal(lines(1, 9), out)
    assert.are.equal("xxxx", slurp(tries))
  end)

  it("ends a line that takes too long", function()
    local out, err, code = map("--timeout 0.2 -e 'while n == 2 do end return n'", lines(1, 4))
    assert.are.equal("1\n3\n4\n", out)
    assert.are.equal(1, code)
    assert.matches("line 2: ", err)
  end)

  it("takes no line's error for the pool's, whatever it says", function()
    local out, err, code = map("-n 1 -e 'if n < 3 then error(n == 1 and "
      .. "\"the pool cannot make workers: 5 in a row have failed\" or { broken = true }) end "
      .. "return n'", lines(1, 4))
    assert.are.equal("3\n4\n", out)
    assert.matches("line 1: .*the pool cannot make workers", err)
    assert.are.equal(1, code)
  end)

  it("stops at the first failure with --halt-on-error", function()
    local out, err, code = map("-n 1 --halt-on-error -e 'if n == 5 then error(\"x\") end "
      .. "os.execute(\"sleep 0.01\") return n'", lines(1, 3000))
    assert.are.equal(1, code)
    assert.are.equal(lines(1, 4), out)
    assert.matches("line 5: ", err)
    assert.matches("stopped at the first failed line", err)
  end)

  it("with --halt-on-error prints all that is before the failed line, and no more", function()
    for _ = 1, 5 do
      local out, err, code = map("-n 2 --halt-on-error -e 'if n == 2 then "
        .. "os.execute(\"sleep 0.1\") end if n == 5 then error(\"x\", 0) end return n'",
        lines(1, 3000))
      assert.are.equal(lines(1, 4), out)
      assert.are.equal(1, code)
      assert.matches("^tine: map: line 5: x\n", err)
      assert.matches("\ntine: map: stopped at the first failed line [^\n]+\n$", err)
    end
  end)

  it("with --halt-on-error tells of the first line that fails, not of the first failure", function()
    local out, err, code = map("-n 2 --stats --halt-on-error -e 'if n == 2 then "
      .. "os.execute(\"sleep 0.2\") error(\"two\", 0) end if n == 5 then error(\"five\", 0) end "
      .. "return n'", lines(1, 3000))
    assert.are.equal("1\n", out)
    assert.are.equal(1, code)
    assert.matches("^tine: map: line 2: two\n", err)
    assert.is_nil(err:find("five", 1, true))
    assert.matches("; 1 failed, ", err)
  end)

  it("with --halt-on-error does not wait for what comes after the failed line", function()
    local out, err, code = map("-n 2 --halt-on-error -e 'if n == 3 then error(\"x\", 0) end "
      .. "if n > 3 then os.execute(\"sleep 1000\") end return n'", lines(1, 50))
    assert.are.equal("1\n2\n", out)
    assert.are.equal(1, code)
    assert.matches("line 3: x\n", err)
  end)

  it("with --halt-on-error --unordered prints what has ended, and kills the rest", function()
    local out, err, code = map("-n 2 --unordered --halt-on-error -e 'if n == 1 then "
      .. "os.execute(\"sleep 1000\") end if n == 40 then error(\"x\", 0) end return n'",
      lines(1, 3000))
    -- The worker that sleeps may have been given one more.
    local printed = 0
    for n in out:gmatch("%d+") do
      assert.is_true(tonumber(n) > 1 and tonumber(n) < 40, out)
      printed = printed + 1
    end
    assert.is_true(printed >= 37, out)
    assert.are.equal(1, code)
    assert.matches("line 40: x\n", err)
  end)

  it("gives up when its results cannot be written, says so once, and fails", function()
    local work = COMMAND .. " map -n 1 -e 'line' <" .. helper.write_file(lines(1, 200000))
    local err, code = helper.run(work .. " >/dev/full")
    assert.are.equal("tine: map: cannot write the results: No space left on device\n", err)
    assert.are.equal(1, code)
    err, code = helper.run(work .. " >&-")
    assert.are.equal("tine: map: cannot write the results: stdout is closed\n", err)
    assert.are.equal(1, code)
    -- The last lines are written when all is done.
    err, code = helper.run(("echo 1 | %s map -e line >/dev/full"):format(COMMAND))
    assert.are.equal("tine: map: cannot write the results: No space left on device\n", err)
    assert.are.equal(1, code)
    -- Nobody reads on, and SIGPIPE does not end it.
    local seen, status = helper.write_file(""), helper.write_file("")
    err = helper.run(("trap '' PIPE; { %s --stats 2>%s; echo $? >%s; } | head -1"):format(work,
      seen, status))
    assert.are.equal("1\n", err)
    assert.are.equal("1\n", slurp(status))
    assert.matches("^tine: map: cannot write the results: Broken pipe\n", slurp(seen))
    assert.is_true(tonumber(slurp(seen):match("map: (%d+) lines in")) < 200000, slurp(seen))
  end)

  it("needs none of the standard streams", function()
    local file, out = helper.write_file("a\nb\n"), helper.write_file("")
    local err, code = helper.run(("%s map -e line <&-"):format(COMMAND))
    assert.are.equal("tine: map: stdin is closed\n", err)
    assert.are.equal(1, code)
    err, code = helper.run(("%s map -e line %s <&-"):format(COMMAND, file))
    assert.are.equal("a\nb\n", err)
    assert.are.equal(0, code)
    err, code = helper.run(("%s map -n 2 -e line %s <&- 2>&- >%s"):format(COMMAND, file, out))
    assert.are.equal("", err)
    assert.are.equal(0, code)
    assert.are.equal("a\nb\n", slurp(out))
    -- What would be written to a closed stderr goes into no socket of ours.
    err, code = helper.run(("%s map -e 'error(line)' %s <&- >&- 2>&-"):format(COMMAND, file))
    assert.are.equal("", err)
    assert.are.equal(1, code)
    -- It is the results that need stdout.
    err, code = helper.run(("%s map -e 'if false then return 1 end' %s >&-"):format(COMMAND, file))
    assert.are.equal("", err)
    assert.are.equal(0, code)
  end)

  it("does not ask for the pool's figures at each failed line", function()
    local script = helper.write_file([[
      local core, asked = require "tine.core", 0
      local stats = core.rpc.stats
      function core.rpc.stats(...)
        asked = asked + 1
        return stats(...)
      end
      local code = require("tine.cli").main { "map", "-e", "error('x', 0)" }
      io.stderr:write("asked ", asked, ", exit status ", code, "\n")
    ]])
    local err = helper.run(helper.program(script) .. " <" .. helper.write_file(lines(1, 200)))
    assert.matches("line 200: x\n", err)
    assert.matches("\nasked 0, exit status 1\n$", err)
  end)

  it("says why there can be no workers where there is no interpreter", function()
    local script = helper.write_file([[
      require("tine").interpreter = "/nonexistent/interpreter"
      os.exit(require("tine.cli").main { "map", "-e", "line" })
    ]])
    local err, code = helper.run("echo a | " .. helper.program(script))
    assert.are.equal(1, code)
    assert.matches("^tine: map: .*cannot execute /nonexistent/interpreter: .*%(ENOENT%)\n$", err)
    assert.are.equal(1, select(2, err:gsub("\n", "")))
  end)

  it("takes and gives JSON", function()
    assert.are.equal("[3,[1,2]]\n\"a\"\nnull\n", good(map(
      "--json -e 'type(line) == \"table\" and {#line, {line[1], line[2]}} or line'",
      "[1,2,5]\n\"a\"\nnull\n")))
    local out, err, code = map("--json -e line", "{\n1\n")
    assert.are.equal("1\n", out)
    assert.are.equal(1, code)
    assert.matches("line 1: not a JSON value: ", err)
  end)

  it("gives the numbers and lists back that came with --json", function()
    local values = "12345678901234567\n1234567890123456\n-9223372036854775808\n"
      .. "0.30000000000000004\n0.1\n1e+300\n9007199254740993\n[]\n{}\n[[],{}]\n"
      .. "[9007199254740993,[]]\n\"[] 12345678901234567\"\n"
    assert.are.equal(values, good(map("--json -e line", values)))
    assert.are.equal("9007199254740994\n", good(map("--json -e 'line + 1'", "9007199254740993\n")))
  end)

  it("prints one JSON value for a line or none, and refuses more", function()
    assert.are.equal("2\nnull\n", good(map(
      "--json -e 'if n == 2 then return line end if n == 3 then return nil end'", "1\n2\n3\n")))
    local out, err, code = map("--json -e '1, 2'", "1\n")
    assert.are.equal("", out)
    assert.are.equal(1, code)
    assert.matches("line 1: 2 results, where %-%-json prints one value", err)
    out, err, code = map("--json -e '{ a = { line, 1 / 0 } }'", "1\n")
    assert.are.equal("", out)
    assert.are.equal(1, code)
    assert.matches("line 1: result%.a%[2%]: infinite", err)
    for _, line in ipairs { "", "1,2", "NaN", "[1" } do
      out, err, code = map("--json -e line", line .. "\n")
      assert.are.equal("", out)
      assert.are.equal(1, code)
      assert.matches("line 1: not a JSON value: ", err)
    end
  end)

  it("reads a slow input as it comes, and shows results at once", function()
    local out = helper.write_file("")
    local fifo = helper.tmpname()
    os.remove(fifo)
    assert(os.execute("mkfifo " .. fifo))
    assert(os.execute(("%s map -e 'line .. line' <%s >%s 2>&1 &"):format(COMMAND, fifo, out)))
    local writer = assert(io.open(fifo, "w"))
    writer:write("a\n")
    writer:flush()
    helper.wait_until(10, function() return slurp(out) == "aa\n" end)
    writer:write("b\n")
    writer:close()
    helper.wait_until(10, function() return slurp(out) == "aa\nbb\n" end)
    os.remove(fifo)
  end)

  it("reads FIFOs by name, and shows the results of one before the next is written", function()
    local out, status = helper.write_file(""), helper.write_file("")
    local one, two = helper.tmpname(), helper.tmpname()
    assert(os.execute(("mkfifo %s %s"):format(one, two)))
    assert(os.execute(("(%s map -e 'line, n' %s %s >%s 2>&1 </dev/null; echo $? >%s) &"):format(
      COMMAND, one, two, out, status)))
    for _, fifo in ipairs { one, two } do
      local writer = assert(io.open(fifo, "w")) -- waits for a reader
      writer:write("a\nb\n")
      writer:close()
      local expected = fifo == one and "a\t1\nb\t2\n" or "a\t1\nb\t2\na\t1\nb\t2\n"
      helper.wait_until(10, function() return slurp(out) == expected, slurp(out) end)
    end
    helper.wait_until(10, function() return slurp(status) == "0\n", slurp(status) end)
  end)

  it("can be interrupted while it waits for the writer of a FIFO", function()
    local out, status, fifo = helper.write_file(""), helper.write_file(""), helper.tmpname()
    assert(os.execute("mkfifo " .. fifo))
    local script = helper.write_file(("echo host $$\nexec env --default-signal=INT %s map -e line "
      .. "%s %s"):format(COMMAND, helper.write_file("a\n"), fifo))
    assert(os.execute(("(sh %s >%s 2>&1; echo $? >%s) &"):format(script, out, status)))
    helper.wait_until(10, function() return slurp(out):find("\na\n"), slurp(out) end)
    assert(os.execute("kill -INT " .. slurp(out):match("^host (%d+)\n")))
    helper.wait_until(10, function() return slurp(status) == "130\n", slurp(out) end)
  end)

  local function has_script()
    return os.execute("command -v script >/dev/null") or pending("script is not installed")
  end

  it("shows no bar where there is no terminal, and one where there is", function()
    if not has_script() then return end
    local slow = "-e 'os.execute(\"sleep 0.02\") return n' " .. helper.write_file(lines(1, 40))
    local bar = "%d+%% %[#* *%] %d+ done, [%d.]+/s, %d+:%d%d left"
    local other = helper.write_file("")
    local function on_terminal(words)
      local text, code = helper.run(("script -qec %s /dev/null"):format(helper.quote(
        ("exec %s map %s"):format(COMMAND, words))), 60)
      assert.are.equal(0, code, text)
      return text
    end
    local text = on_terminal(slow)
    assert.matches(bar, text)
    assert.matches("40\r?\n", text)
    -- It is taken away at the end.
    assert.matches("\27%[K$", text)
    -- Stderr it is that counts.
    assert.matches(bar, on_terminal(slow .. " >" .. other))
    assert.are.equal(lines(1, 40), slurp(other))
    assert.is_nil(on_terminal(slow .. " 2>" .. other):find("\27", 1, true))
    assert.are.equal("", slurp(other))
    assert.is_nil(on_terminal("--no-progress " .. slow):find("\27", 1, true))
  end)

  it("draws a bar for a FIFO without a share or a time left", function()
    if not has_script() then return end
    local fifo = helper.tmpname()
    assert(os.execute("mkfifo " .. fifo))
    local out, status = helper.write_file(""), helper.write_file("")
    assert(os.execute(("(script -qec %s /dev/null >%s </dev/null; echo $? >%s) &"):format(
      helper.quote(("exec %s map -e line %s"):format(COMMAND, fifo)), out, status)))
    local writer = assert(io.open(fifo, "w"))
    writer:write("a\n")
    writer:flush()
    helper.wait_until(10, function() return slurp(out):find("1 done, [%d.]+/s"), slurp(out) end)
    writer:close()
    helper.wait_until(10, function() return slurp(status) == "0\n", slurp(out) end)
    assert.is_nil(slurp(out):find("%", 1, true))
  end)

  it("leaves no rests of the bar when the window gets narrower", function()
    if not os.execute("command -v tmux >/dev/null") then return pending("tmux is not installed") end
    local server, go = helper.tmpname(), helper.tmpname()
    local function tmux(words)
      return helper.run(("env -u TMUX tmux -S %s %s"):format(server, words))
    end
    local input = helper.write_file(lines(1, 2000))
    local command = ("%s map -n 1 -e %s %s; echo the end; read x"):format(COMMAND,
      helper.quote(("if n == 3 then repeat os.execute('sleep 0.02') until io.open('%s') end "
        .. "if n < 4 then return n end"):format(go)), input)
    local _ <close> = setmetatable({}, { __close = function()
      assert(io.open(go, "w")):close()
      tmux("kill-server")
    end })
    tmux("-f /dev/null new-session -d -x 100 -y 30 "
      .. helper.quote("sh -c " .. helper.quote(command)))
    -- Lines above may be in the history by then.
    local function screen() return (tmux("capture-pane -p"):gsub("^1\n", ""):gsub("^2\n", "")) end
    helper.wait_until(10, function()
      return screen():find("%d+%% %[#* *%] 2 done"), screen()
    end)
    tmux("resize-window -x 40 -y 30")
    helper.wait_until(10, function()
      local text = screen()
      return text:match("^ *%d+%%[^\n]*\n+$") and #text:match("%d+%%[^\n]*") < 40, text
    end)
    assert(io.open(go, "w")):close()
    helper.wait_until(10, function()
      return screen():match("^3\nthe end\n+$"), screen()
    end)
  end)

  -- As `interrupted` below, with the interrupt typed on a terminal, which sends SIGINT to all that
  -- is in its foreground.
  local function typed(code, steps)
    local keys, out, status = helper.tmpname(), helper.write_file(""), helper.write_file("")
    assert(os.execute("mkfifo " .. keys))
    local words = ("exec env --default-signal=INT %s map -n 1 -e %s %s"):format(COMMAND,
      helper.quote(code), helper.write_file(lines(1, 100000)))
    assert(os.execute(("(script -qec %s /dev/null <%s >%s 2>&1; echo $? >%s) &"):format(
      helper.quote(words), keys, out, status)))
    local keyboard <close> = assert(io.open(keys, "w"))
    for _, step in ipairs(steps) do
      helper.wait_until(10, function() return step(slurp(out)), slurp(out) end)
      keyboard:write("\3")
      keyboard:flush()
    end
    helper.wait_until(10, function() return slurp(status) ~= "", slurp(out) end)
    return slurp(out), tonumber(slurp(status))
  end

  it("finishes what runs when Ctrl-C is typed, and drops what waits", function()
    if not has_script() then return end
    local out, code = typed("if n == 3 then os.execute('sleep 0.3') end return n", {
      function(text) return text:find("2\r\n") end,
    })
    assert.are.equal(130, code)
    -- One worker runs one line at most, and the terminal interrupts no worker.
    local count = tonumber(out:match("interrupted: finishing (%d+) lines, %d+ that wait"))
    assert.is_true(count and count <= 1, out)
    assert.is_nil(out:find("tine: map: line", 1, true), out)
    local last = 0
    for n in out:gsub("\r[^\r\n]*\27%[K", ""):gmatch("%f[%w](%d+)\r\n") do
      assert.are.equal(last + 1, tonumber(n))
      last = tonumber(n)
    end
    assert.is_true(last >= 3 and last < 1000, out)
  end)

  it("kills what is under way when Ctrl-C is typed again", function()
    if not has_script() then return end
    local out, code = typed("if n == 3 then os.execute('sleep 1000') end return n", {
      function(text) return text:find("2\r\n") end,
      function(text) return text:find("interrupted: ") end,
    })
    assert.are.equal(130, code)
    assert.matches("tine: map: killed: %d+ lines are not finished", out)
    assert.is_nil(out:find("3\r\n", 1, true))
    assert.is_nil(out:find("4\r\n", 1, true))
  end)

  it("shows figures with --stats", function()
    local out, err, code = map("--stats -n 2 -e n", lines(1, 10))
    assert.are.equal(lines(1, 10), out)
    assert.are.equal(0, code)
    assert.matches("^tine: map: 10 lines in [%d.]+ s, [%d.]+/s; 0 failed, 0 retried", err)
    assert.matches("\n  ran +mean ", err)
    local memory = "SIZE MB resident, SIZE private, SIZE pss, SIZE own, SIZE shared, "
      .. "SIZE sealed, SIZE copied; %d+ faults\n"
    memory = memory:gsub("SIZE", "%%d+%%.%%d")
    assert.matches("\n  template %d+: " .. memory, err)
    assert.matches("\n  worker %d+: %d+ jobs, " .. memory, err)
  end)

  it("prints what a job prints whole, before its result and in its turn", function()
    local code = "io.write('a', n) print(' b') os.execute('echo c' .. n) io.write('rest') "
      .. "io.stdout:flush() if n %% 3 == 1 then os.execute('sleep 0.02') end return 'r' .. n"
    local expected = {}
    for i = 1, 30 do expected[i] = ("a%d b\nc%d\nrest\nr%d\n"):format(i, i, i) end
    assert.are.equal(table.concat(expected),
      good(map("-n 4 -e " .. helper.quote((code:gsub("%%%%", "%%"))), lines(1, 30))))
  end)

  it("prints the rest of a line that a job leaves before its result", function()
    -- Small and large results, errors, and jobs that outlast the timer that sends what waits.
    local code = "io.write('a', n) if n % 50 == 0 then error('no', 0) end "
      .. "if n % 70 == 0 then local t = os.clock() while os.clock() < t + 0.003 do end end "
      .. "return n .. ('x'):rep(n % 70 == 1 and 200000 or n % 30 == 0 and 5000 or 1)"
    local many <const>, expected = 3000, {}
    for n = 1, many do
      expected[#expected + 1] = "a" .. n
      if n % 50 ~= 0 then
        local size = n % 70 == 1 and 200000 or n % 30 == 0 and 5000 or 1
        expected[#expected + 1] = n .. ("x"):rep(size)
      end
    end
    local out, err, status = map("-n 2 -e " .. helper.quote(code), lines(1, many))
    assert.are.equal(1, status, err)
    assert.is_true(out == table.concat(expected, "\n") .. "\n")
  end)

  it("prints what a job printed that raises, or whose worker dies", function()
    local out, err, code = map("-n 2 -e 'io.write(\"at \", n) io.stderr:write(\"err \", n) "
      .. "if n == 2 then error(\"no\", 0) end "
      .. "if n == 3 then io.stdout:flush() os.exit(9) end return n'", lines(1, 4))
    assert.are.equal(1, code)
    assert.are.equal("at 1\n1\nat 2\nat 3\nat 4\n4\n", out)
    assert.matches("^err 1\nerr 2\ntine: map: line 2: no\n", err)
    assert.matches("\nerr 3\ntine: map: line 3: .*code 9", err)
    assert.matches("\nerr 4\n$", err)
  end)

  it("tags each result with its line", function()
    assert.are.equal("a\tp\na\t1\nb\tp\nb\t2\n",
      good(map("--tag -e 'print(\"p\") return n'", "a\nb\n")))
  end)

  it("takes lines that end in NUL", function()
    assert.are.equal("1\ta\\nb\n2\t\n3\tc\n",
      good(map("-0 -j 1 -e 'n, (line:gsub(\"\\n\", \"\\\\n\"))'", "a\nb\0\0c")))
    local long = {}
    for i = 1, 50 do long[i] = ("x"):rep(i * 999) end
    local sizes = {}
    for i = 1, 50 do sizes[i] = i * 999 .. "\n" end
    assert.are.equal(table.concat(sizes),
      good(map("--null -e '#line'", table.concat(long, "\0") .. "\0")))
  end)

  it("logs what is done, and resumes where it was not", function()
    local log = helper.tmpname()
    local input = "a\nb\tc\\\nd\n"
    local out, err, code = map("--joblog " .. log
      .. " -e 'if n == 2 then error(\"x\", 0) end return n'", input)
    assert.are.same({ "1\n3\n", 1 }, { out, code }, err)
    local text = slurp(log)
    assert.matches("^Seq\tEnded\tStatus\tLine\n1\t%d+\tok\ta\n", text)
    assert.matches("\n2\t%d+\texception\tb\\tc\\\\\n", text)
    -- It was killed while it wrote.
    local f <close> = assert(io.open(log, "a"))
    f:write("4\t17")
    f:close()
    assert.are.equal("2\n4\n", good(map("--resume --joblog " .. log .. " -e n", input .. "e\n")))
    assert.are.equal("", good(map("--resume --joblog " .. log .. " -e n", input .. "e\n")))
    -- Another input.
    out, err, code = map("--resume --joblog " .. log .. " -e n", "a\nother\n")
    assert.are.same({ "", 1 }, { out, code })
    assert.matches("is the log of another input: its line 2 is 'b\\tc\\\\', and here it is "
      .. "'other'", err)
    out, err, code = map("--joblog /nonexistent/log -e n", "a\n")
    assert.are.same({ "", 1 }, { out, code })
    assert.matches("/nonexistent/log: No such file or directory", err)
  end)

  it("takes code that looks like an option", function()
    for _, words in ipairs { "-e -line", "--code -line", "--code=-line", "-n 2 -e '-line'" } do
      assert.are.equal("-1\n-2\n", good(map(words, "1\n2\n")))
    end
    assert.are.equal("-1\n", good(map("-e -n -- -", "1\n")))
    local folder = helper.tmpname()
    assert(os.execute(("mkdir %s && echo 3 >%s/-e"):format(folder, folder)))
    local text, code = helper.run(("cd %s && %s map -e line -- -e"):format(folder, COMMAND))
    assert.are.equal("3\n", text)
    assert.are.equal(0, code)
  end)

  it("does what the README shows", function()
    local shown = slurp(helper.root .. "/README.md"):match("```sh\n(%$ [^`]*tine map.-)```")
    local commands, printed = { ("tine() { %s \"$@\"; }"):format(COMMAND) }, {}
    for text in shown:gmatch("[^\n]+") do
      local command = text:match("^%$ (.*)")
      table.insert(command and commands or printed, command or text)
    end
    assert.is_true(#commands > 5 and #printed > 5)
    local folder = helper.tmpname()
    assert(os.execute("mkdir " .. folder))
    local text, code = helper.run(("cd %s && . %s"):format(folder,
      helper.write_file(table.concat(commands, "\n"))))
    assert.are.equal(table.concat(printed, "\n") .. "\n", text)
    assert.are.equal(0, code)
  end)

  it("refuses wrong usage with 2", function()
    for words, expected in pairs {
      [""] = "one of -f and -e is needed", ["-e 'x ='"] = "-e:1:",
      ["-n 0 -e 1"] = "-n: a whole number of at least 1", ["-n x -e 1"] = "'x'",
      ["--timeout=-1 -e 1"] = "--timeout: a number above 0",
      ["-e 1 -f x"] = "can not be used together", ["--nonsense -e 1"] = "unknown option",
      ["--retries=-1 -e 1"] = "at least 0", ["--retry-errors x -e 1"] = "'x'",
      ["--retry-delay=0 -e 1"] = "--retry-delay: a number above 0",
      ["--resume -e 1"] = "--resume needs --joblog",
    } do
      local out, err, code = map(words, "a\n")
      assert.are.equal(2, code, words)
      assert.are.equal("", out)
      assert.matches("^Usage: tine map ", err)
      assert.is_truthy(err:find(expected, 1, true), words .. ": " .. err)
    end
  end)

  it("says once what is wrong with a function that is not there", function()
    local out, err, code = map("-f nosuch.fn", lines(1, 50))
    assert.are.equal(1, code)
    assert.are.equal("", out)
    assert.matches("no function 'nosuch.fn'", err)
    local _, times = err:gsub("no function 'nosuch.fn'", "")
    assert.are.equal(1, times)
    -- That of --init is looked for by each worker.
    out, err, code = map("--init nosuch.init -e line", lines(1, 50))
    assert.are.equal(1, code)
    assert.are.equal("", out)
    _, times = err:gsub("no function 'nosuch.init'", "")
    assert.are.equal(1, times, err)
    assert.matches("the pool cannot make workers: 5 in a row have failed\n$", err)
  end)

  -- Runs in the background; each function of `steps` is called with the output so far until it
  -- returns something, and then the signal is sent. Returns the output and the exit code.
  local function signalled(signal, code, steps, words, command)
    local out, status = helper.write_file(""), helper.write_file("")
    local script = helper.write_file(("echo host $$\nexec env --default-signal=%s %s map -n 1 "
      .. "%s -e %s %s"):format(signal, command or COMMAND, words or "", helper.quote(code),
      helper.write_file(lines(1, 100000))))
    assert(os.execute(("(sh %s >%s 2>&1; echo $? >%s) &"):format(script, out, status)))
    for _, step in ipairs(steps) do
      helper.wait_until(10, function() return step(slurp(out)), slurp(out) end)
      assert(os.execute("kill -" .. signal .. " " .. slurp(out):match("^host (%d+)\n")))
    end
    helper.wait_until(10, function() return slurp(status) ~= "", slurp(out) end)
    return slurp(out), tonumber(slurp(status))
  end

  local function interrupted(code, steps)
    return signalled("INT", code, steps)
  end

  for signal, number in pairs { INT = 2, TERM = 15, HUP = 1 } do
    it("finishes what runs at SIG" .. signal .. ", drops what waits, and ends by it", function()
      local out, code = signalled(signal, "print('at', n) os.execute('sleep 0.05') return n", {
        function(text) return text:find("\n10\n") end,
      })
      assert.are.equal(128 + number, code)
      local running, dropped = out:match("interrupted: finishing (%d+) lines, (%d+) that wait")
      -- One runs, and the answer of the one before may be on its way.
      assert.is_true(tonumber(running) <= 2 and tonumber(dropped) >= 50, out)
      -- Each line printed is whole, and its result follows.
      local last = 0
      for at, n in out:gmatch("\nat\t(%d+)\n(%d+)%f[\n]") do
        assert.are.equal(at, n)
        assert.are.equal(last + 1, tonumber(n))
        last = tonumber(n)
      end
      assert.is_true(last >= 10 and last < 1000, out)
      assert.are.equal("\n", out:sub(-1))
    end)
  end

  it("ends by a signal also while a module is being loaded, which may never end", function()
    local said = helper.write_file("")
    local folder = helper.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir " .. folder))
    local module = assert(io.open(folder .. "/endless.lua", "w"))
    module:write(("io.open(%q, 'w'):write('loads'):close() while true do end"):format(said))
    module:close()
    local command = COMMAND:gsub("LUA_PATH_5_4='?", "%0" .. folder .. "/?.lua;")
    for signal, number in pairs { INT = 2, TERM = 15 } do
      local out, code = signalled(signal, "line", {
        function() return slurp(said) ~= "" end,
      }, "-r endless", command)
      assert.are.equal(128 + number, code, out)
      io.open(said, "w"):close()
    end
    os.remove(folder .. "/endless.lua")
    os.remove(folder)
  end)

  it("goes on where a signal is ignored, as nohup has it", function()
    local out, status = helper.write_file(""), helper.write_file("")
    local script = helper.write_file(("trap '' HUP\necho host $$\nexec %s map -n 1 -e %s %s")
      :format(COMMAND, helper.quote("if n < 3 then os.execute('sleep 0.2') end return n"),
      helper.write_file(lines(1, 50))))
    assert(os.execute(("(sh %s >%s 2>&1; echo $? >%s) &"):format(script, out, status)))
    helper.wait_until(10, function() return slurp(out):find("\n1\n") end)
    assert(os.execute("kill -HUP " .. slurp(out):match("^host (%d+)\n")))
    helper.wait_until(10, function() return slurp(status) == "0\n", slurp(out) end)
    assert.are.equal(lines(1, 50), (slurp(out):gsub("^host %d+\n", "")))
  end)

  it("kills what is under way at the second Ctrl-C", function()
    local out, code = interrupted("if n == 3 then os.execute('sleep 1000') end return n", {
      function(text) return text:find("\n2\n") end,
      function(text) return text:find("interrupted: ") end,
    })
    assert.are.equal(130, code)
    assert.matches("killed: 1 lines are not finished", out)
    assert.is_nil(out:find("\n4\n", 1, true))
  end)
end)
