--- Host programs for specs: a script of its own, run in a shell that has set something up
-- for it, such as limits. It ends with code 0 and prints nothing, or the test fails.
local helper = require "spec.helper"

local host_program = {}

-- What the programs begin with. They wait without opening a file: maybe they cannot.
local preamble <const> = [[
local tine = require "tine"
local loop = tine.loop

-- Runs the loop until fn returns a true value, which it returns.
local function wait(what, fn)
  local deadline = os.time() + %d
  while true do
    local result = fn()
    if result then return result end
    if os.time() > deadline then error("waited in vain for " .. what, 2) end
    loop.poll(0.01)
  end
end

-- Notes all that the callbacks of a process tell.
local function watch(p)
  local seen = { errors = {}, exits = 0 }
  p:on_error(function(err) table.insert(seen.errors, err) end)
  p:on_exit(function(err, info)
    seen.exits = seen.exits + 1
    seen.exit, seen.info = err, info
  end)
  return seen
end

local function ended(...)
  local list = { ... }
  wait("the end of a process", function()
    for _, seen in ipairs(list) do
      if seen.exits == 0 then return false end
    end
    return true
  end)
end

-- Tells p to run fn, and returns all that it writes to its socket.
local function answer(p, fn)
  local seen, sock, text, eof = watch(p), nil, "", false
  p:run(fn, function(fd, err) sock = fd or error(err) end)
  wait("an answer", function()
    while sock and not eof do
      local data, err = sock:read()
      if not data and err then break end
      eof = not data
      text = text .. (data or "")
    end
    return eof and seen.exits > 0
  end)
  sock:close()
  if seen.exit then error(seen.exit) end
  assert(#seen.errors == 0, seen.errors[1])
  return text
end

local function works(p)
  local text = answer(p:send_arg("it ", "works"), function(s, a, b) s:write(a .. b) end)
  assert(text == "it works", text)
end

local function expect(seen, kind, errno, text)
  local err = assert(seen.exit or seen.errors[1], "no error")
  assert(err.kind == kind, "kind " .. err.kind .. ": " .. tostring(err))
  assert(err.errno == errno, "errno " .. tostring(err.errno) .. ": " .. tostring(err))
  assert(err.message:find(text), "message: " .. err.message)
end
]]

--- Runs a program.
-- @tparam string source Lua, with the functions above at hand
-- @tparam[opt] table opts `setup`: a shell command that comes before it; `prefix`: a command that
-- executes it; `redirect`: redirections of it
-- @return output, exit code
function host_program.run(source, opts)
  opts = opts or {}
  local paths = ("package.path, package.cpath = %q, %q\n"):format(package.path, package.cpath)
  local head = preamble:format(15 * helper.patience)
  local path = helper.write_file(paths .. head .. source)
  local command = ("%s; exec %s %s %s"):format(opts.setup or ":", opts.prefix or "",
    helper.program(path), opts.redirect or "")
  return helper.run("exec bash -c " .. helper.quote(command), 25)
end

--- The same; it has to end well.
function host_program.check(...)
  local output, code = host_program.run(...)
  if code ~= 0 or output ~= "" then
    error(("exit code %d\n%s"):format(code, output), 2)
  end
end

--- A command that runs what follows as a user whose processes are its own alone: RLIMIT_NPROC
-- and the like do not bind root. Empty where this process is not root's.
-- @return it, or nil and why there is none
function host_program.other_user()
  local _, code = helper.run("test $(id -u) = 0")
  if code ~= 0 then return "" end
  local user <close> = assert(io.open("/dev/urandom", "rb"))
  local uid = 100000 + string.unpack("I2", user:read(2))
  local as_user = ("setpriv --reuid=%d --regid=%d --clear-groups "):format(uid, uid)
  local text
  text, code = helper.run(as_user .. "cat " .. helper.quote(helper.build .. "/tine/core.so") ..
    " " .. helper.quote(helper.root .. "/lua/tine/init.lua") .. " >/dev/null")
  if code ~= 0 then return nil, "another user cannot read this build: " .. text end
  return as_user
end

return host_program
