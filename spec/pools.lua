--- What the specs of pools share.
local helper = require "spec.helper"
local proc = require "spec.proc"
local tine = require "tine"

local pools = {}

--- What workers do: `work(name, ...)` carries one of these out, `async(done, name, ...)` too.
function pools.prepare()
  local worker = require "tine"
  local jobs, garbage, pending, seen = {}, {}, {}, 0

  function jobs.echo(...) return ... end
  function jobs.fail(text) error(text, 0) end
  function jobs.exit(code) os.exit(tonumber(code)) end
  function jobs.kill(signal) os.execute("kill -" .. signal .. " $PPID") end
  function jobs.retire() worker.retire() end

  function jobs.unsendable() return { {} } end
  function jobs.rep(text, n) return text:rep(math.tointeger(tonumber(n))) end

  function jobs.pid()
    local f <close> = assert(io.open("/proc/self/stat"))
    return f:read("n")
  end

  -- Until the file is there. Returns its second argument and the worker's id.
  function jobs.gate(path, ...)
    while true do
      local f = io.open(path)
      if f then
        f:close()
        return ..., jobs.pid()
      end
      os.execute("sleep 0.005")
    end
  end

  function jobs.count(...)
    seen = seen + 1
    return seen, jobs.pid(), ...
  end

  function jobs.grow(size)
    garbage[#garbage + 1] = ("x"):rep(tonumber(size))
    return jobs.pid()
  end

  -- Fails as it is told until it has been tried so often.
  function jobs.nth(path, n, how, ...)
    local f <close> = assert(io.open(path, "a+"))
    f:write("x")
    f:flush()
    f:seek("set")
    if #f:read("a") < tonumber(n) then return jobs[how](...) end
    return "at last"
  end

  -- Three ways to take too long, or to be asked where it is.
  local function deep()
    while true do end
  end

  function jobs.spin() deep() end
  function jobs.sleep(seconds) os.execute("sleep " .. seconds) end

  function jobs.stubborn()
    while true do pcall(deep) end
  end

  function jobs.coroutine()
    return coroutine.wrap(function() deep() end)()
  end

  function jobs.catch()
    local ok, err = pcall(deep)
    return tostring(ok), err.kind, tostring(err)
  end

  -- Leaves a child behind, and ends.
  function jobs.leave(path)
    os.execute("sleep 1000 & echo $! >" .. path)
  end

  -- Waits for a child, whose id goes into a file.
  function jobs.child(path)
    os.execute("sleep 1000 & echo $! >" .. path .. "; sleep 1000")
  end

  function jobs.say(text)
    print(text)
    io.stderr:write(text, " too\n")
    return "said"
  end

  function jobs.say_much(text)
    io.write(text)
    io.stderr:write("err ", text, "\n")
    os.execute("echo from a child")
    return "said"
  end

  function jobs.events(n, text)
    for i = 1, tonumber(n) do worker.event(text, i) end
    return n
  end

  -- The event is seen before the job has ended.
  function jobs.early(path)
    worker.event("early")
    return jobs.gate(path)
  end

  -- Does something with the worker's socket for calls; with "all", also with that on which
  -- all processes of a host tell what happens to them.
  function jobs.sockets(what, data, all)
    local streams, n = {}, 0
    for line in io.lines("/proc/net/unix") do
      local kind, inode = line:match("^%x+: %x+ %x+ %x+ (%x+) %x+ +(%d+)")
      if kind == "0001" then streams[inode] = true end
    end
    local list <close> = io.popen("ls -l /proc/$PPID/fd")
    for line in list:lines() do
      local number, inode = line:match(" (%d+) %-> socket:%[(%d+)%]")
      if number and (all or streams[inode]) then
        local fd = worker.fd(math.tointeger(tonumber(number)))
        n = n + 1
        if what == "write" then
          fd:write(data)
          fd:detach()
        elseif what == "shut" then
          fd:shutdown("rw")
          fd:detach()
        else
          fd:close()
        end
      end
    end
    return n
  end

  function work(name, ...) -- luacheck: globals work
    return jobs[name](...)
  end

  -- An async backend: some calls are answered later or never, others block all.
  function async(done, name, ...) -- luacheck: globals async
    if name == "later" then
      local seconds, value = ...
      worker.loop.timer(tonumber(seconds), function() done(value) end)
    elseif name == "never" then
      pending[#pending + 1] = done
    elseif name == "event" then
      local value = ...
      worker.loop.timer(0, function() worker.event("between", value) end)
      done(value)
    elseif name ~= "drop" then
      done(work(name, ...)) -- luacheck: globals work
    end
  end
end

--- The same as source text, for programs.
do
  local info = debug.getinfo(pools.prepare, "S")
  local list, n = {}, 0
  for line in io.lines(info.source:sub(2)) do
    n = n + 1
    if n > info.linedefined and n < info.lastlinedefined then list[#list + 1] = line end
  end
  pools.source = table.concat(list, "\n")
end

--- A pool of such workers.
-- @tparam table options
-- @tparam[opt="work"] string|function entry
-- @tparam[opt] process template another one
-- @treturn pool
-- @treturn {table,...} what its on_error got, unless the options have one
function pools.new(options, entry, template)
  local faults = {}
  options.on_error = options.on_error or function(err) faults[#faults + 1] = err end
  template = template or tine.new():eval(pools.prepare)
  return assert(template:pool(entry or "work", options)), faults
end

--- A path that a job `gate` waits for, and the function that lets it go on.
function pools.gate()
  local path = helper.tmpname()
  return path, function() assert(io.open(path, "w")):close() end
end

--- Collects what calls get: `cb(i)` makes a callback; `kinds[i]` is "fine" or err.kind, `errs[i]`
-- and `values[i]` what came; `ended` counts, `wait(n)` waits for so many, in a coroutine.
function pools.results()
  local r = { ended = 0, kinds = {}, errs = {}, values = {} }
  function r.cb(i)
    return function(err, ...)
      assert(not r.kinds[i], "called twice")
      r.kinds[i] = err and err.kind or "fine"
      r.errs[i], r.values[i] = err, table.pack(...)
      r.ended = r.ended + 1
    end
  end
  function r.wait(n) proc.wait_for(function() return r.ended == n end) end
  return r
end

--- In a coroutine: closes the pool and waits for that.
function pools.finish(pool, seconds)
  local gone = false
  pool:close(function() gone = true end, seconds)
  proc.wait_for(function() return gone end)
end

--- Sends a signal, by default SIGKILL.
function pools.kill(pid, signal)
  assert(os.execute(("kill -%s %d"):format(signal or "KILL", pid)))
end

--- The only worker's id, once it is there.
function pools.only(pool)
  return proc.wait_for(function()
    local worker = pool:stats().workers[1]
    return worker and worker.state ~= "starting" and worker.pid
  end)
end

--- Waits until that many calls are handed over.
function pools.running(pool, n)
  proc.wait_for(function() return pool:stats().running >= n end)
end

--- Resident memory of a process in bytes.
function pools.rss(pid)
  local f <close> = assert(io.open(("/proc/%d/statm"):format(pid)))
  return select(2, f:read("n", "n")) * 4096
end

return pools
