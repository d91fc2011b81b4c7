--- Each program in examples/, run as a user would run it, and tine.exec, which starts them here.
local helper = require "spec.helper"
local tine = require "tine"

-- The entry function of a worker that becomes a program.
local function become(_, ...)
  local _, err = require("tine").exec(...)
  error(err.message, 0)
end

local Program = {}
Program.__index = Program

--- Starts a program. Its lines are collected in `out` and `err`.
local function start(...)
  local program = setmetatable({ out = {}, err = {} }, Program)
  program.process = tine.new {
    stdout = function(line) table.insert(program.out, line) end,
    stderr = function(line) table.insert(program.err, line) end,
  }
  program.process:send_arg(...):on_exit(function(_, info) program.info = info end)
  program.process:on_error(function(err) program.failure = err end)
  program.process:run(become, function(sock)
    if sock then sock:close() end
  end)
  return program
end

local function example(name, ...)
  return start(helper.lua, helper.root .. "/examples/" .. name .. ".lua", ...)
end

--- Waits for a line; returns its captures.
function Program:line(list, pattern, seconds)
  return table.unpack(helper.wait_until(seconds or 10, function()
    for _, line in ipairs(list) do
      local found = { line:match(pattern) }
      if found[1] then return found end
    end
    if self.info then
      error(("ended without '%s': %s\n%s"):format(pattern, table.concat(self.out, "\n"),
        table.concat(self.err, "\n")))
    end
    return nil, "no line with " .. pattern
  end))
end

--- Waits for the end; returns what it printed, its exit code (128 + signal) and its stderr.
function Program:finish(seconds)
  helper.wait_until(seconds or 20, function() return self.info, "it does not end" end)
  return table.concat(self.out, "\n"), self.info.code or 128 + self.info.signal,
    table.concat(self.err, "\n")
end

--- What a terminal does at Ctrl-C: the group is the program's own.
function Program:interrupt(name)
  assert(os.execute(("kill -%s -%d"):format(name or "INT", self.process:pid())))
end

--- Waits until that many processes of tine are below the program; returns their ids. Others are
-- there for a moment: a program may use io.popen.
function Program:below(n)
  return helper.wait_until(10, function()
    local list = {}
    for _, pid in ipairs(helper.descendants(self.process:pid())) do
      if helper.title(pid):find("^tine: ") then list[#list + 1] = pid end
    end
    return #list == n and list, ("%d processes, not %d"):format(#list, n)
  end)
end

local function alive(pids)
  local n, who = 0, {}
  for _, pid in ipairs(pids) do
    if helper.alive(pid) then
      n = n + 1
      who[n] = ("%d (%s)"):format(pid, helper.title(pid))
    end
  end
  return n, table.concat(who, ", ")
end

local function await_death(pids)
  helper.wait_until(5, function()
    local n, who = alive(pids)
    return n == 0, ("%d are left: %s"):format(n, who)
  end)
end

-- Runs fn as a coroutine, while programs run; returns what it returned.
local function await(fn, ...)
  local results
  local args = table.pack(...)
  tine.go(function() results = table.pack(fn(table.unpack(args, 1, args.n))) end)
  helper.wait_until(10, function() return results, "the coroutine does not end" end)
  return table.unpack(results, 1, results.n)
end

local function has(text, part)
  assert(text:find(part, 1, true), ("'%s' is not in\n%s"):format(part, text))
end

describe("tine.exec #proc", function()
  it("gives a program 0, 1, 2, default signals and its exit code", function()
    helper.no_leaks(function()
      local out, code = start("sh", "-c",
        "ls -l /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status; exit 7"):finish()
      assert.equal(7, code)
      for _, fd in ipairs { "0 -> /dev/null", "1 -> ", "2 -> " } do has(out, " " .. fd) end
      for fd, what in out:gmatch(" (%d+) %-> (%S+)") do
        assert(tonumber(fd) <= 2 or what:find("^/proc/"), fd .. " -> " .. what)
      end
      assert.equal("0000000000000000", out:match("SigBlk:%s*(%x+)"))
      assert.equal("0000000000000000", out:match("SigIgn:%s*(%x+)"))
    end)
  end)

  it("keeps the process id, and passes any arguments", function()
    helper.no_leaks(function()
      local program = start("sh", "-c", "echo $$; printf '<%s>' \"$@\"", "-", "", "a b", "\n")
      local out = program:finish()
      assert.equal(program.process:pid() .. "\n<><a b><\n>", out)
    end)
  end)

  it("returns nil and an err where there is no such program", function()
    helper.no_leaks(function()
      local program = start("tine-no-such-program")
      local _, code = program:finish()
      assert.equal(1, code)
      has(program.failure.message, "exec tine-no-such-program: No such file or directory (ENOENT)")
    end)
  end)

  it("refuses what is no string, and to replace a host", function()
    helper.no_leaks(function()
      local problem
      local p = tine.new():on_error(function(err) problem = err end)
      p:run(function() require("tine").exec("true", {}, "x") end, function() end)
      helper.wait_until(10, function() return problem end)
      has(problem.message, "bad argument #2 to 'exec' (string expected, got table)")
      assert.has_error(function() tine.exec("true") end, "exec: this process is not a child")
    end)
  end)
end)

describe("example #proc", function()
  it("conversation: a worker answers", function()
    helper.no_leaks(function()
      local out, code, err = example("conversation"):finish()
      assert.equal("", err)
      assert.equal(0, code)
      has(out, "360360 = 2 x 2 x 2 x 3 x 3 x 5 x 7 x 11 x 13\n")
      has(out, "600851475143 = 71 x 839 x 1471 x 6857\n")
      assert.matches("\nworker %d+ has ended; it used [%d.]+ s of CPU$", out)
    end)
  end)

  it("conversation: an error of the worker is told", function()
    helper.no_leaks(function()
      local out, code, err = example("conversation", "12", "x", "14"):finish()
      assert.equal("12 = 2 x 2 x 3", out)
      assert.equal(1, code)
      has(err, "not a number above 1: x\nstack traceback:")
    end)
  end)

  it("single_file: early and here, without a file", function()
    helper.no_leaks(function()
      local out, code, err = example("single_file"):finish()
      assert.equal("", err)
      assert.equal(0, code)
      assert.equal("prime number 10 is 29\nprime number 60 is 281\nprime number 110 is 601\n"
        .. "prime number 160 is 941\na process of the early template knows no password", out)
    end)
  end)

  it("tree: two kinds of worker from one base", function()
    helper.no_leaks(function()
      local out, code, err = example("tree"):finish()
      assert.equal("", err)
      assert.equal(0, code)
      assert.matches("spell worker 1 %(process %d+%): silent %-> listen silent enlist tinsel", out)
      assert.matches("spell worker 2 %(process %d+%): tine %-> nothing", out)
      assert.matches("rhyme worker 1 %(process %d+%): vacation %-> station nation ration", out)
      assert.matches("rhyme worker 2 %(process %d+%): bone %-> stone tone zone phone alone", out)
    end)
  end)

  it("runs under tine run as well", function()
    helper.no_leaks(function()
      for name, line in pairs { conversation = "1000000007 = 1000000007",
        single_file = "prime number 10 is 29", tree = "onset notes" }
      do
        local out, code, err = start(helper.lua, helper.root .. "/lua/bin/tine", "run",
          helper.root .. "/examples/" .. name .. ".lua"):finish()
        assert.equal("", err)
        assert.equal(0, code)
        has(out, line)
      end
    end)
  end)
end)

describe("example run_program #proc", function()
  it("brings both outputs apart, and the exit code", function()
    helper.no_leaks(function()
      local out, code, err = example("run_program"):finish()
      assert.equal("", err)
      assert.equal(0, code)
      assert.matches("^process %d+ has ended well\nits stdout, by way of a file: 10 bytes\n"
        .. "to stdout\nits stderr, by way of a socket: 10 bytes\nto stderr$", out)
    end)
  end)

  it("passes on how the program ended", function()
    helper.no_leaks(function()
      local out, code = example("run_program", "sh", "-c", "exit 3"):finish()
      assert.matches("^process %d+ exited with code 3\n", out)
      assert.equal(3, code)
      out, code = example("run_program", "sh", "-c", "kill -9 $$"):finish()
      assert.matches("^process %d+ was killed by signal 9 %(SIGKILL%)\n", out)
      assert.equal(137, code)
      out, code = example("run_program", "/no/such/program"):finish()
      has(out, "exec /no/such/program: No such file or directory (ENOENT)\n")
      assert.equal(127, code)
    end)
  end)

  it("measures", function()
    helper.no_leaks(function()
      local out, code, err = example("run_program", "--bench", "20", "0.2"):finish()
      assert.equal("", err)
      assert.equal(0, code)
      has(out, "from a host with 20 MB of strings:\n")
      local _, rates = out:gsub("%d+ programs/s\n", "")
      assert.equal(3, rates)
      assert.matches("the template is [%d.]+ times as fast as a fork", out)
      out, code, err = example("run_program", "--bench"):finish()
      assert.equal("", out)
      assert.equal(2, code)
      has(err, "usage:")
    end)
  end)
end)

local function with_curl(fn)
  return function()
    if not os.execute("command -v curl >/dev/null") then
      pending("curl is not installed")
      return
    end
    helper.no_leaks(fn)
  end
end

describe("example http_server #proc", function()
  local function serve(...)
    local program = example("http_server", ...)
    local url, address, workers =
      program:line(program.out, "^(http://([%d.:]+)/) with (%d+) workers")
    program.url, program.address, program.workers = url, address, tonumber(workers)
    return program
  end

  -- Runs curl with the server's URL in place of URL.
  local function curl(program, arguments)
    return helper.run("curl -sS -m 10 " .. arguments:gsub("URL", program.url))
  end

  local function stop(program)
    program.process:kill("TERM")
    local out, code, err = program:finish()
    assert.equal("", err)
    assert.equal(0, code)
    has(out, "\nstopping")
  end

  it("answers curl, one connection for several requests", with_curl(function()
    local program = serve("--port", "0")
    local out, code = curl(program, "-w '%{http_code} %{num_connects}\\n' URL URL")
    assert.equal(0, code)
    local first, second = out:match("^Hello from tine.\nprocess (%d+)\n200 1\n"
      .. "Hello from tine.\nprocess (%d+)\n200 0\n$")
    assert(first, out)
    assert.equal(first, second)
    assert.is_true(helper.alive(tonumber(first)))

    out = curl(program, "-w '%{http_code}\\n' --http1.0 URL --next URL" .. "nix --next"
      .. " -d a=b URL")
    assert.matches("200\n", out)
    assert.matches("nothing here\nprocess %d+\n", out)
    assert.matches("only GET\n", out)
    stop(program)
  end))

  it("serves many at once", with_curl(function()
    local program = serve("127.0.0.1:0")
    assert.equal(tine.cpus(), program.workers)
    local out, code = curl(program, "-Z --parallel-immediate --parallel-max 40 "
      .. "-H 'Connection: close'" .. (" URL"):rep(40))
    assert.equal(0, code)
    local _, answers = out:gsub("Hello from tine.\nprocess %d+\n", "")
    assert.equal(40, answers)
    stop(program)
  end))

  it("refuses nonsense", function()
    helper.no_leaks(function()
      local program = serve("--port", "0")
      local answer = await(function()
        local sock <close> = assert(tine.connect(program.address))
        sock:write("nonsense\r\n\r\n")
        return sock:read_line()
      end)
      assert.equal("HTTP/1.1 400 Bad Request\r", answer)
      stop(program)
    end)
  end)

  it("replaces a worker that crashes", with_curl(function()
    local program = serve("--port", "0")
    local before = program:below(2 + program.workers) -- two templates
    local out, code = curl(program, "URL" .. "crash")
    assert.equal(52, code, out) -- an empty reply
    local pid = program:line(program.out,
      "^process (%d+) %(?.*was killed by signal 11 %(SIGSEGV%); another one takes its place$")
    local now = helper.wait_until(10, function()
      local list = helper.descendants(program.process:pid())
      return #list == #before and alive(list) == #list and list
    end)
    assert.is_false(helper.alive(tonumber(pid)))
    assert.not_same(before, now)
    out, code = curl(program, "URL")
    assert.equal(0, code)
    has(out, "Hello from tine.")
    stop(program)
  end))

  it("stops while a connection is open and idle", function()
    helper.no_leaks(function()
      local program = serve("--port", "0")
      local pids = program:below(2 + program.workers)
      await(function()
        local sock <close> = assert(tine.connect(program.address))
        sock:write("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert.equal("HTTP/1.1 200 OK\r", sock:read_line())
        program:interrupt()
        local line
        repeat line = sock:read_line() until not line -- it is closed, not cut off
      end)
      local out, code, err = program:finish()
      assert.equal("", err)
      assert.equal(0, code)
      has(out, "\nstopping")
      await_death(pids)
      local sock, problem = await(tine.connect, program.address)
      assert.is_nil(sock)
      has(problem.message, "refused")
    end)
  end)

  it("takes its workers along when it is killed", function()
    helper.no_leaks(function()
      local program = serve("--port", "0")
      local pids = program:below(2 + program.workers)
      program.process:kill("KILL")
      local _, code = program:finish()
      assert.equal(137, code)
      await_death(pids)
    end)
  end)

  it("says what is wrong with its address", function()
    helper.no_leaks(function()
      local program = serve("--port", "0")
      local _, code, err = example("http_server", program.address):finish()
      assert.equal(1, code)
      has(err, "http_server: listen " .. program.address .. ": Address already in use")
      stop(program)
      for _, wrong in ipairs { "--port", "8080", "--what" } do
        _, code, err = example("http_server", wrong):finish()
        assert.equal(2, code)
        has(err, "http_server: usage:")
      end
    end)
  end)
end)

describe("example thumbnails #proc", function()
  -- Width, height and bytes of a picture.
  local function picture(path)
    local f <close> = assert(io.open(path, "rb"))
    local width, height, rest = f:read("a"):match("^P6\n(%d+) (%d+)\n255\n(.*)$")
    return tonumber(width), tonumber(height), rest and #rest
  end

  it("paints pictures and makes them smaller, with progress", function()
    helper.no_leaks(function()
      local folder = helper.tmpname()
      os.remove(folder)
      assert(os.execute("mkdir " .. folder))
      local out, code, err = example("thumbnails", "--size", "100", folder):finish(60)
      assert.equal(0, code, err)
      for n = 1, 4 do
        has(out, ("painted %s/picture-%d.ppm: 400 x 300"):format(folder, n))
        has(out, ("shrunk %s/picture-%d.ppm: 100 x 75"):format(folder, n))
        local width, height, bytes = picture(("%s/picture-%d.thumb.ppm"):format(folder, n))
        assert.same({ 100, 75, 100 * 75 * 3 }, { width, height, bytes })
      end
      has(err, "picture-1.ppm 99%")
      local _
      _, code, err = example("thumbnails", "--size", "100", folder, "/no/such.ppm"):finish()
      assert.equal(1, code, err)
      assert(os.execute("rm -r " .. folder))
    end)
  end)

  it("says how it is used", function()
    helper.no_leaks(function()
      local _, code, err = example("thumbnails"):finish()
      assert.equal(2, code)
      has(err, "usage: thumbnails.lua")
    end)
  end)
end)

describe("example timers #proc", function()
  it("holds many timers in one worker, which answers each when it rings", function()
    helper.no_leaks(function()
      local out, code, err = example("timers", "500"):finish()
      assert.equal("", err)
      assert.equal(0, code)
      assert.matches("^at once: made last\nthe first of all rings\n"
        .. "500 timers rang, %d+ of them late\nthe worker has gone$", out)
    end)
  end)
end)

describe("example survivor #proc", function()
  it("loses the jobs that crash, and no other", function()
    helper.no_leaks(function()
      local out, code, err = example("survivor", "40"):finish()
      assert.equal("", err)
      assert.equal(0, code)
      has(out, "job 10: crash: ")
      has(out, "(tried 2 times)")
      -- The last may die after the figures are taken.
      assert.matches("36 jobs done, 4 lost; 1[12] workers died, 8 jobs tried again", out)
    end)
  end)
end)

describe("example http_pool #proc", function()
  it("gives each request to a worker, and outlives what they do", with_curl(function()
    local program = example("http_pool", "127.0.0.1:0")
    local url = program:line(program.out, "^(http://.*)$")
    local function get(path)
      local text = helper.run(("curl -sS -m 10 -w '%%{http_code}' '%s%s'"):format(url, path))
      return text
    end
    assert.equal("46 primes up to 200\n200", get("/primes?n=200"))
    assert.equal("nothing here\n404", get("/nowhere"))
    has(get("/crash"), "killed by signal 11")
    local slow = start("/usr/bin/env", "curl", "-sS", "-m", "10", url .. "/loop")
    -- Not held up by the one that never ends.
    assert.equal("17 primes up to 60\n200", get("/primes?n=60"))
    local late = slow:finish()
    has(late, "the job took too long")
    assert.matches("%d workers, %d+ calls, 2 failed", get("/stats"))
    program:interrupt()
    local out, code = program:finish()
    has(out, "stopped")
    assert.equal(0, code)
  end))
end)

describe("example acceptor #proc", function()
  it("hands each connection to a worker, and outlives what they do", function()
    helper.no_leaks(function()
      local program = example("acceptor", "127.0.0.1:0")
      local address = program:line(program.out, "^listening on (.*)$")
      await(function()
        local one, two = assert(tine.connect(address)), assert(tine.connect(address))
        assert.equal("you are client 1", one:read_line())
        assert.equal("you are client 2", two:read_line()) -- at the same time
        two:write("crash\n")
        assert.is_nil((two:read_line()))
        one:write("still here\nquit\n")
        assert.equal("STILL HERE", one:read_line())
        assert.is_nil((one:read_line())) -- the host has it open no more
        one:close()
        two:close()
      end)
      program:interrupt()
      local out, code = program:finish()
      has(out, "client 1: 1 lines")
      has(out, "client 2: the worker")
      has(out, "stopped")
      assert.equal(0, code)
    end)
  end)
end)

describe("example pool.c #proc", function()
  it("drives a pool of Lua workers from a C program without a Lua state", function()
    helper.no_leaks(function()
      local path = helper.build .. "/examples/pool"
      assert.equal("9592 primes below 100000\n", (helper.run(path .. " 100000", 60)))
      local _, code = helper.run(path .. " nonsense")
      assert.equal(2, code)
      assert.is_nil(helper.run("ldd " .. path):find("liblua", 1, true))
    end)
  end)
end)

describe("examples embed.c and fork_self.c #proc", function()
  it("have workers that are the program itself, with its own functions", function()
    helper.no_leaks(function()
      -- Elsewhere, without an interpreter in reach.
      local embed = ("env -u TINE PATH=/usr/bin %s/examples/embed"):format(helper.build)
      local out, code = helper.run(embed)
      assert.equal(0, code, out)
      local first = out:match("^Ada moves 1 %(rules 1%.0%)\n")
      assert.is_truthy(first, out)
      assert.equal(6, select(2, out:gsub("moves %d", "")))
      local rules = helper.write_file("function move(name) return game.roll(name, 'x') end")
      out, code = helper.run(embed .. " " .. rules .. " 2>&1")
      assert.equal(1, code)
      has(out, "bad argument #2 to 'roll'")
    end)
  end)

  it("fork a Lua state of the program's as a template", function()
    helper.no_leaks(function()
      assert.equal("1000000\n", (helper.run(helper.build .. "/examples/fork_self")))
      assert.equal("49\n", (helper.run(helper.build .. "/examples/fork_self 7")))
    end)
  end)
end)
