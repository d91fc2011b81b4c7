--- Checks of option tables. An error blames the caller of the function that calls these:
-- two frames up. What comes out is flat and needs no further check in C.
-- @module tine.opts
local core = require "tine.core"

local opts = {}

local known <const> = {
  name = true, stdin = true, stdout = true, stderr = true, detach = true,
}

local known_and_keep <const> = {
  name = true, stdin = true, stdout = true, stderr = true, detach = true, keep = true,
}

--- What an error says of an option that there is not.
-- @param name
-- @tparam table options with the names of those that there are as keys
-- @treturn string
function opts.unknown(name, options)
  local names = {}
  for option in pairs(options) do
    names[#names + 1] = option
  end
  table.sort(names)
  return ("unknown option '%s' (there are: %s)"):format(tostring(name),
    table.concat(names, ", "))
end

local function fail(format, ...)
  error(format:format(...), 5)
end

-- The open descriptor behind a value, or nil and why there is none.
local function descriptor(value)
  local ok, fd = pcall(core.fileno, value)
  if ok then
    return fd
  end
  local message = tostring(fd)
  return nil, message:match("^bad argument.-%((.*)%)$") or message
end

--- The descriptor behind a value.
-- @param value an integer, a Lua file, a `tine.fd`, or an object with `fileno()` or `getfd()`
-- @tparam string what names the function in an error
-- @treturn integer
function opts.fileno(value, what)
  local fd, problem = descriptor(value)
  if not fd then
    error(("%s: %s"):format(what, problem), 3)
  end
  return fd
end

-- program: it is for one that is no process of tine, which has no function for lines.
local function stream(options, key, what, program)
  local value = options[key]
  if value == nil or value == "inherit" or value == "null" then
    return value
  end
  if type(value) == "function" and key ~= "stdin" and not program then
    return value
  end
  local fd, problem = descriptor(value)
  if not fd then
    fail("%s: %s: \"inherit\", \"null\", %sor a descriptor expected (%s)", what, key,
         (key == "stdin" or program) and "" or "a function ", problem)
  end
  return fd
end

local function check_name(name, what)
  if name ~= nil and (type(name) ~= "string" or name:find("\0", 1, true)) then
    fail("%s: name: a string without zero bytes expected", what)
  end
  return name
end

local function check_keys(options, keep, what)
  if type(options) ~= "table" then
    fail("%s: a table of options expected, got %s", what, type(options))
  end
  local there <const> = keep and known_and_keep or known
  for key in pairs(options) do
    if not there[key] then
      fail("%s: %s", what, opts.unknown(key, there))
    end
  end
end

--- The options of a process.
-- @tparam ?table options
-- @tparam string what names the function in an error
-- @tparam[opt] boolean keep whether the option `keep` is known
-- @return name, stdin, stdout, stderr, detach; a stream is nil, `"inherit"`, `"null"`, an
-- integer, or a function
function opts.process(options, what, keep)
  if options == nil then
    return nil, nil, nil, nil, false
  end
  check_keys(options, keep, what)
  return check_name(options.name, what), stream(options, "stdin", what),
    stream(options, "stdout", what), stream(options, "stderr", what),
    options.detach and true or false
end

local exec_options <const> = {
  stdin = true, stdout = true, stderr = true, cwd = true, env = true,
}

--- Whether it can be the name of a variable of the environment.
function opts.is_variable(name)
  return type(name) == "string" and name ~= "" and not name:find("[=\0]")
end

--- Whether it can be a variable's value, or false, which removes it.
function opts.is_value(value)
  return value == false or (type(value) == "string" or type(value) == "number")
    and not tostring(value):find("\0", 1, true)
end

-- As a list of "NAME=VALUE", and "NAME" of what is removed.
local function changes(env)
  if type(env) ~= "table" then
    fail("exec: env: a table of variables expected, got %s", type(env))
  end
  local list = {}
  for name, value in pairs(env) do
    if not opts.is_variable(name) then
      fail("exec: env: a name without '=' and zero bytes expected, got %s", tostring(name))
    elseif not opts.is_value(value) then
      fail("exec: env: %s: a string without zero bytes, or false, expected", name)
    end
    list[#list + 1] = value and name .. "=" .. value or name
  end
  return list
end

--- The options of tine.exec.
-- @tparam ?table options
-- @return stdin, stdout, stderr, each nil, `"null"` or an integer; cwd; env, a list
function opts.exec(options)
  if options == nil then
    return nil, nil, nil, nil, nil
  end
  for key in pairs(options) do
    if not exec_options[key] then
      error("exec: " .. opts.unknown(key, exec_options), 3)
    end
  end
  local streams = {}
  for i, key in ipairs { "stdin", "stdout", "stderr" } do
    local value = stream(options, key, "exec", true)
    streams[i] = value ~= "inherit" and value or nil
  end
  local cwd = options.cwd
  if cwd ~= nil and (type(cwd) ~= "string" or cwd:find("\0", 1, true)) then
    error("exec: cwd: a path expected, got " .. type(cwd), 3)
  end
  return streams[1], streams[2], streams[3], cwd, options.env ~= nil and changes(options.env) or nil
end

--- The option `keep`.
-- @tparam ?table options checked with opts.process
-- @tparam string what names the function in an error
-- @treturn {integer,...} descriptors
-- @treturn table the values that they came from
function opts.keep(options, what)
  local keep = options and options.keep or {}
  if type(keep) ~= "table" then
    error(("%s: keep: a list of descriptors expected, got %s"):format(what, type(keep)), 3)
  end
  local fds = {}
  for i, value in ipairs(keep) do
    local fd, problem = descriptor(value)
    if not fd then
      error(("%s: keep[%d]: %s"):format(what, i, problem), 3)
    end
    fds[i] = fd
  end
  return fds, keep
end

return opts
