-- lua5.4 spec/soak.lua [WORKERS]: makes that many workers and ends them in all ways there are,
-- a few at a time. Ends with 0 if host and template have the descriptors and the memory that
-- they had after the first tenth of them, and no process is left. By hand, 100 000 say more.
local tine = require "tine"
local loop = tine.loop

local total <const> = tonumber(arg[1]) or 100000
local UNDER_WAY <const> = 8
local MORE <const> = 512 * 1024 -- bytes, which are no growth

local function read(path)
  local f <close> = assert(io.open(path))
  return f:read("a")
end

-- Descriptors, resident bytes, and resident bytes that it does not share.
local function measure(pid)
  local path, fds = os.tmpname(), 0
  os.execute("ls /proc/" .. pid .. "/fd >" .. path)
  for _ in io.lines(path) do fds = fds + 1 end
  os.remove(path)
  local rollup = read("/proc/" .. pid .. "/smaps_rollup")
  local function sum(name)
    local n = 0
    for kb in rollup:gmatch(name .. ":%s*(%d+) kB") do n = n + tonumber(kb) end
    return n * 1024
  end
  return { fds = fds, rss = sum("Rss"), private = sum("Private_%a+") }
end

local own = tonumber(read("/proc/self/stat"):match("^%d+"))
local source, template = tine.new(), nil
source:await_ready(function(pid) template = pid end)
while not template do loop.poll(1) end

local goal, started, done, wrong = 0, 0, 0, nil
local start

local function finished(expected)
  return function(err, info)
    local found = err and (err.signal or err.code) or 0
    if found ~= expected or not info.pid then
      wrong = wrong or ("ended with %d instead of %d: %s"):format(found, expected, err)
    end
    done = done + 1
    if started < goal then start() end
  end
end

local function drop(sock) sock:close() end

-- Ways to end; each takes a new process.
local ways = {
  function(p)
    p:on_exit(finished(0)):run(function() end, drop)
  end,
  function(p)
    p:on_exit(finished(0)):send_arg("x"):close()
  end,
  function(p)
    p:on_exit(finished(3)):run(function() os.exit(3) end, drop)
  end,
  function(p)
    p:on_exit(finished(1)):on_error(function() end):eval("error('on purpose')")
  end,
  function(p)
    p:on_exit(finished(9)):await_ready(function() p:kill("KILL") end)
  end,
  function(p)
    p:on_exit(finished(0)):send_fd(0):run(function(s) s:read() end, function(sock)
      sock:write("bye")
      sock:close()
    end)
  end,
  function(p) -- a fork of it lives for a moment longer
    local child = p:fork()
    child:run(function() end, drop)
    p:on_exit(finished(0)):close()
  end,
}

function start()
  started = started + 1
  local way = ways[started % #ways + 1]
  if started % 29 == 0 then
    way(source:fork { stdout = function() end, name = "soak" })
  else
    way(source:fork())
  end
end

local function run_until(n)
  goal = n
  while started < goal and started - done < UNDER_WAY do start() end
  while done < goal and not wrong do loop.poll(1) end
  repeat -- what is still due of those that have ended
    collectgarbage()
    collectgarbage()
  until not loop.poll(0.01)
  if wrong then error(wrong, 0) end
end

local function uptime()
  return tonumber(read("/proc/uptime"):match("^%S+"))
end

local function show(name, before, after)
  print(("%-9s %d -> %d descriptors, %d -> %d kB resident, %d -> %d kB of its own"):format(name,
    before.fds, after.fds, before.rss // 1024, after.rss // 1024, before.private // 1024,
    after.private // 1024))
  return before.fds == after.fds and after.rss - before.rss < MORE and
    after.private - before.private < MORE
end

run_until(total // 10)
local host_before, template_before = measure(own), measure(template)
local began = uptime()
run_until(total)
local seconds = uptime() - began
local host_after, template_after = measure(own), measure(template)

print(("%d workers, the last %d in %.1f s"):format(done, total - total // 10, seconds))
local good = show("host:", host_before, host_after)
good = show("template:", template_before, template_after) and good
local left = read(("/proc/%d/task/%d/children"):format(template, template))
if left ~= "" then
  print("processes that are left: " .. left)
  good = false
end
os.exit(good, true)
