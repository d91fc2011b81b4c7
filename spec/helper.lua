--- What specs share: the interpreter to test with, what processes and descriptors there are,
-- waiting with a deadline, and a check that nothing leaks. busted runs this file before the
-- specs, which get it with `require "spec.helper"`.
local helper = {}

local cwd
do
  local f <close> = assert(io.popen("pwd"))
  cwd = f:read("l")
end

local function absolute(path)
  return path:sub(1, 1) == "/" and path or (cwd .. "/" .. path):gsub("/%./", "/")
end

--- The source tree and the build that is tested.
local here = absolute(debug.getinfo(1, "S").source:sub(2))
helper.root = here:match("^(.*)/spec/helper%.lua$")
helper.build = absolute(os.getenv("TINE_BUILD") or helper.root .. "/build")

--- The interpreter for programs that a spec starts: under sanitizers, not every one can load
-- the module.
helper.lua = os.getenv("TINE_LUA") or "lua5.4"

--- Whether sanitizers are on: all is slower, address space is not to be limited, and memory
-- figures mean little.
helper.sanitized = os.getenv("TINE_SANITIZED") ~= nil

--- Deadlines are given as for a machine that does nothing else, and are there to end what hangs:
-- so many times as long is waited.
helper.patience = helper.sanitized and 20 or 6

local function prepend(path, entry)
  return (";" .. path .. ";"):find(";" .. entry .. ";", 1, true) and path or entry .. ";" .. path
end
package.path = prepend(package.path, helper.root .. "/lua/?/init.lua")
package.path = prepend(package.path, helper.root .. "/lua/?.lua")
package.path = prepend(package.path, helper.root .. "/?.lua")
package.cpath = prepend(package.cpath, helper.build .. "/?.so")

-- busted unloads after each file what it has loaded. A second copy of tine would be a second
-- host in this process; loaded here, it stays. Where that fails, the specs that use it tell.
pcall(require, "tine")
package.loaded["spec.helper"] = helper

------------------------------------------------------------------------------- small things

--- Seconds since some point, in steps of 10 ms, not changed by setting the clock.
function helper.now()
  local f <close> = assert(io.open("/proc/uptime"))
  return f:read("n")
end

--- The id of this process.
function helper.pid()
  local f <close> = assert(io.open("/proc/self/stat"))
  return f:read("n")
end

-- A path in a folder for temporary files, kept apart from others by a random number of the
-- system's, so that workers and parallel runs get different ones. Nothing is made there.
local function tmppath()
  local f <close> = assert(io.open("/dev/urandom", "rb"))
  local a, b = string.unpack("I4I4", f:read(8))
  return string.format("%s/tine-spec-%08x%08x", os.getenv("TMPDIR") or "/tmp", a, b)
end

local temporary = {}

--- A path where nothing is yet; what a spec makes there (file, socket, folder) is removed when
-- all specs have ended, or by helper.cleanup().
function helper.tmpname()
  local path = tmppath()
  temporary[#temporary + 1] = path
  return path
end

function helper.cleanup()
  for i = #temporary, 1, -1 do
    if not os.remove(temporary[i]) then os.execute("rm -rf '" .. temporary[i] .. "'") end
    temporary[i] = nil
  end
end

local function read_all(path)
  local f <close> = assert(io.open(path, "rb"))
  return f:read("a")
end

--- Writes a file to a temporary path, and returns that.
function helper.write_file(text)
  local path = helper.tmpname()
  local f <close> = assert(io.open(path, "wb"))
  f:write(text)
  return path
end

-- What a shell command prints to its standard output. Unlike io.popen, this process has no
-- descriptor open for it while it runs.
local function output_of(command)
  local path = tmppath()
  os.execute("{ " .. command .. "; } >" .. path .. " 2>/dev/null")
  local text = read_all(path)
  os.remove(path)
  return text
end

--- A word for the shell.
function helper.quote(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

--- Runs a program to its end, in a process group that is ended with it.
-- @tparam string command a shell command
-- @tparam[opt=20] number seconds it may take, times patience
-- @treturn string its standard output and standard error
-- @treturn integer its exit code; 124 if it took too long, 128 + n for signal n
function helper.run(command, seconds)
  local path = tmppath()
  local _, how, code = os.execute(string.format("timeout -k 1 %g sh -c %s >%s 2>&1 </dev/null",
    (seconds or 20) * helper.patience, helper.quote(command), path))
  local text = read_all(path)
  os.remove(path)
  return text, how == "signal" and 128 + code or code
end

--- A program under the tested interpreter, which finds tine as we do, for helper.run:
-- helper.run(helper.program(path)).
function helper.program(path, ...)
  local words = {
    "env", "LUA_PATH_5_4=" .. helper.quote(package.path),
    "LUA_CPATH_5_4=" .. helper.quote(package.cpath), helper.lua, helper.quote(path),
  }
  for _, word in ipairs { ... } do words[#words + 1] = helper.quote(word) end
  return table.concat(words, " ")
end

-------------------------------------------------------------------------------- descriptors

--- The open descriptors of this process, or of another.
-- @treturn {[integer]=string,...} what each is, as in /proc/PID/fd
function helper.fd_list(pid)
  local list = {}
  local text = output_of(string.format("ls -l /proc/%d/fd", pid or helper.pid()))
  for fd, what in text:gmatch(" (%d+) %-> ([^\n]*)") do
    list[math.tointeger(tonumber(fd))] = what
  end
  return list
end

--- How many there are.
function helper.fd_count(pid)
  local n = 0
  for _ in pairs(helper.fd_list(pid)) do n = n + 1 end
  return n
end

---------------------------------------------------------------------------------- processes

-- All processes, by id: {pid, ppid, pgrp, session, state, name}.
local function processes()
  local text = output_of("echo $$; exec cat /proc/[0-9]*/stat")
  local self, rest = text:match("^(%d+)\n(.*)")
  local all = {}
  for pid, name, state, ppid, pgrp, session in
    rest:gmatch("(%d+) %((.-)%) (%a) (%d+) (%d+) (%d+) [^\n]*")
  do
    if pid ~= self then
      all[tonumber(pid)] = {
        pid = tonumber(pid), name = name, state = state, ppid = tonumber(ppid),
        pgrp = tonumber(pgrp), session = tonumber(session),
      }
    end
  end
  return all
end

local function sorted(list)
  table.sort(list)
  return list
end

--- The ids of the child processes of this one, or of another; zombies are among them.
function helper.children(pid)
  pid = pid or helper.pid()
  local list = {}
  for id, p in pairs(processes()) do
    if p.ppid == pid then list[#list + 1] = id end
  end
  return sorted(list)
end

local function descendants_in(all, pid)
  local below, list = {}, {}
  for id, p in pairs(all) do
    below[p.ppid] = below[p.ppid] or {}
    table.insert(below[p.ppid], id)
  end
  local function add(id)
    for _, child in ipairs(below[id] or {}) do
      list[#list + 1] = child
      add(child)
    end
  end
  add(pid)
  return list
end

--- The ids of children, their children, and so on.
function helper.descendants(pid)
  return sorted(descendants_in(processes(), pid or helper.pid()))
end

-- Which of these processes work in our directory. Templates have sessions of their own, and other
-- users of this machine may have theirs.
local function in_own_directory(ids)
  if #ids == 0 then return ids end
  local own = output_of("readlink /proc/self/cwd")
  local text = output_of("ls -ld /proc/" .. table.concat(ids, "/cwd /proc/") .. "/cwd")
  local list = {}
  for id, path in text:gmatch("/proc/(%d+)/cwd %-> ([^\n]*\n)") do
    if path == own then list[#list + 1] = tonumber(id) end
  end
  return list
end

--- Processes of tine that are no longer below this process: what outlived the one that made it.
-- Under tools/run-tests, those of this run; else, all that work in our directory.
function helper.strays()
  local all, own, list = processes(), helper.pid(), {}
  local below = { [own] = true }
  for _, id in ipairs(descendants_in(all, own)) do below[id] = true end
  local session = tonumber(os.getenv("TINE_SPEC_SESSION"))
  for _, id in ipairs(descendants_in(all, session or 0)) do
    local p = all[id]
    if not below[id] and p.state ~= "Z" and p.name:find("^tine") then list[#list + 1] = id end
  end
  return sorted(session and list or in_own_directory(list))
end

--- Whether a process is there, other than as a zombie.
function helper.alive(pid)
  local f <close> = io.open(string.format("/proc/%d/stat", pid))
  local text = f and f:read("a") -- nil when it goes between the two
  return text ~= nil and text:match("^%d+ %(.*%) (%a)") ~= "Z"
end

--- The command line of a process as ps shows it; a title that it gave itself, too.
function helper.title(pid)
  local f <close> = io.open(string.format("/proc/%d/cmdline", pid), "rb")
  local text = f and f:read("a") or ""
  return (text:gsub("%z+$", ""):gsub("%z", " "))
end

------------------------------------------------------------------------------------ waiting

--- Runs the loop until fn returns a true value, which it returns. Raises after that many
-- seconds, times patience, with what fn's second result says, if any.
function helper.wait_until(seconds, fn)
  local loop = require("tine").loop
  seconds = seconds * helper.patience
  local deadline = helper.now() + seconds
  while true do
    local result, why = fn()
    if result then return result end
    if helper.now() >= deadline then
      error(string.format("waited %g s in vain%s", seconds, why and ": " .. tostring(why) or ""), 2)
    end
    loop.poll(0.01)
  end
end

-- The default template is kept for ever, so it is no leak; it is made on first use.
local function warm_up()
  local tine = require("tine")
  local done = false
  local p = tine.new():on_exit(function() done = true end)
  p:close()
  helper.wait_until(10, function() return done, "the default template makes no process" end)
end

local function settled(own, fds, pids)
  local fds_now, all = helper.fd_list(own), processes()
  local left, before, now = {}, 0, 0
  for _ in pairs(fds) do before = before + 1 end
  for _ in pairs(fds_now) do now = now + 1 end
  for fd, what in pairs(fds_now) do
    -- One may have been replaced by another, such as a new default template's socket.
    if now > before and not fds[fd] then
      left[#left + 1] = string.format("descriptor %d -> %s", fd, what)
    end
  end
  for _, pid in ipairs(descendants_in(all, own)) do
    if not pids[pid] then
      left[#left + 1] = string.format("process %d, parent %d, state %s: %s", pid, all[pid].ppid,
        all[pid].state, helper.title(pid))
    end
  end
  for _, pid in ipairs(helper.strays()) do
    if not pids[pid] then
      left[#left + 1] = string.format("stray process %d, parent %d: %s", pid, all[pid] and
        all[pid].ppid or 0, helper.title(pid))
    end
  end
  return #left == 0, table.concat(sorted(left), "\n  ")
end

local function set_of(...)
  local set = {}
  for _, list in ipairs { ... } do
    for _, v in ipairs(list) do set[v] = true end
  end
  return set
end

--- Runs fn, collects garbage twice, and runs the loop until there are no descriptors and no
-- processes that were not there before. Raises with a list of what is left after some seconds.
-- @tparam function fn
-- @tparam[opt] table opts `cold`: the default template is not made beforehand
-- @return what fn returns
function helper.no_leaks(fn, opts)
  if not (opts and opts.cold) then warm_up() end
  local own = helper.pid()
  local fds = helper.fd_list(own)
  local pids = set_of(helper.descendants(own), helper.strays())
  local results = table.pack(fn())
  collectgarbage()
  collectgarbage()
  local ok, message = pcall(helper.wait_until, 5, function()
    collectgarbage()
    local clean, left = settled(own, fds, pids)
    return clean, "left over are\n  " .. (left or "")
  end)
  if not ok then error(message, 2) end
  return table.unpack(results, 1, results.n)
end

--------------------------------------------------------------------------------- busted side

-- The file that an element of busted's tree stands in, and its name with all of its contexts'.
local function identify(element)
  local busted, names = require "busted", {}
  while element and element.descriptor ~= "file" do
    table.insert(names, 1, element.name)
    element = busted.parent(element)
  end
  return element and element.name or "?", table.concat(names, " ")
end

-- tools/run-tests ends a test that hangs: it is told here what runs and how long it may take.
local function tell_watchdog(path)
  local n = 0
  require("busted").subscribe({ "test", "start" }, function(element)
    local _, name = identify(element)
    local seconds = (name:find("#slow", 1, true) and 60 or 30) * helper.patience
    n = n + 1
    local f <close> = io.open(path, "w")
    if f then f:write(n, "\n", seconds, "\n", name, "\n") end
    return nil, true
  end)
end

-- How long each test took, a line each: seconds, file, name.
local function tell_times(path)
  local busted, began = require "busted", 0
  busted.subscribe({ "test", "start" }, function()
    began = helper.now()
    return nil, true
  end)
  busted.subscribe({ "test", "end" }, function(element)
    local file, name = identify(element)
    local f <close> = io.open(path, "a")
    if f then f:write(("%.2f\t%s\t%s\n"):format(helper.now() - began, file, name)) end
    return nil, true
  end)
end

-- busted runs this file; a program that a spec starts may only require it.
if package.loaded["busted"] or package.loaded["busted.core"] then
  local busted = require "busted"
  if os.getenv("TINE_SPEC_STATE") then tell_watchdog(os.getenv("TINE_SPEC_STATE")) end
  if os.getenv("TINE_SPEC_TIMES") then tell_times(os.getenv("TINE_SPEC_TIMES")) end
  busted.subscribe({ "suite", "end" }, function()
    helper.cleanup()
    return nil, true
  end)
end

return helper
