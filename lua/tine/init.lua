--- Lua workers in many processes, forked from loaded templates.
-- @module tine
local core = require "tine.core"
local go = require "tine.go"
local loop = require "tine.loop"
local opts = require "tine.opts"
local process = require "tine.process"
require "tine.rpc"
require "tine.pool"

local tine = {
  _VERSION = core._VERSION,
  version = core._VERSION,
  loop = loop,
  go = go.go,
  main = go.main,
  timeout = go.timeout,
  early = process.early,
  from_fd = process.from_fd,
  reset = core.reset,
  cpus = core.cpus,
  fd = core.adopt,
  listen = core.listen,
  connect = core.connect,
  socketpair = core.socketpair,
  --- The executable of later exec'ed processes. Default: `tine-template` beside the library,
  -- then the environment's `TINE`, then one on its `PATH`.
  -- @field[opt] interpreter
  interpreter = nil,
}

local function check_interpreter(what)
  if tine.interpreter ~= nil and type(tine.interpreter) ~= "string" then
    error(("%s: tine.interpreter: a path expected, got %s"):format(what,
      type(tine.interpreter)), 3)
  end
  return tine.interpreter
end

--- A new empty process, forked from the default template, which is exec'ed on first use, and anew
-- when since then `package.path`, `package.cpath`, `tine.interpreter`, the working directory or the
-- environment have changed.
-- @tparam[opt] table options `name` for the process title; `stdin`, `stdout`, `stderr`:
-- `"inherit"`, `"null"`, a descriptor, or for the outputs a function called with each line and
-- the handle; `detach`: true if it may outlive this process
-- @treturn[1] process
-- @treturn[2] nil
-- @treturn[2] err
function tine.new(options)
  local interpreter = check_interpreter("new")
  local p, err = process.new(false, interpreter, package.path, package.cpath,
    opts.process(options, "new"))
  return p, err
end

--- A new empty process, by exec of a fresh interpreter.
-- @tparam[opt] table options as for tine.new
-- @treturn[1] process
-- @treturn[2] nil
-- @treturn[2] err
function tine.new_exec(options)
  local interpreter = check_interpreter("new_exec")
  local p, err = process.new(true, interpreter, package.path, package.cpath,
    opts.process(options, "new_exec"))
  return p, err
end

--- Forks this program, its Lua state and all, as a template. The new process never returns from
-- here: it serves the handle.
-- @tparam[opt] table options as for tine.new, and `keep`: a list of descriptors that stay open
-- @treturn[1] process
-- @treturn[2] nil
-- @treturn[2] err of errno EBUSY when other threads run
function tine.here(options)
  local name, stdin, stdout, stderr, detach = opts.process(options, "here", true)
  local fds, kept = opts.keep(options, "here")
  local p, err = process.here(fds, kept, name, stdin, stdout, stderr, detach)
  return p, err
end

--- Whether this process is one of tine's.
-- @treturn boolean
function tine.is_worker()
  return core.child() ~= nil
end

--- In a child, before `run`: the descriptors and strings sent so far, which are then cleared.
-- @return them, in the order sent
function tine.run_args()
  local child = core.child()
  if not child then
    error("run_args: this process is not a child", 2)
  end
  return child.run_args()
end

-- The child's function of that name; raises where there is none.
local function in_child(name)
  local child = core.child()
  if not child then
    error(name .. ": this process is not a child", 3)
  end
  return child[name]
end

--- In a worker that serves calls: sends values to the host, where `on_event` gets them. Events
-- and answers arrive in the order in which they were made.
-- @param ... values that the serialiser takes
function tine.event(...)
  return in_child("event")(...)
end

--- In a worker that serves calls: returns when all answers and events are on their way.
function tine.flush()
  return in_child("flush")()
end

--- In a worker of a pool: asks to be replaced. It finishes what it was given.
function tine.retire()
  return in_child("retire")()
end

-- The arguments of exec, and its options.
local function exec_arguments(...)
  local words = table.pack(...)
  local options
  if words.n > 1 and type(words[words.n]) == "table" then
    options = words[words.n]
    words.n = words.n - 1
  end
  for i = 1, math.max(words.n, 1) do
    local word = words[i]
    if type(word) ~= "string" and type(word) ~= "number" then
      error(("bad argument #%d to 'exec' (string expected, got %s)"):format(i, type(word)), 3)
    elseif tostring(word):find("\0", 1, true) then
      error(("bad argument #%d to 'exec' (a string without zero bytes expected)"):format(i), 3)
    end
  end
  return options, words
end

--- In a child: becomes another program, under the same process id. Every descriptor but stdin,
-- stdout and stderr is closed, signals are as in a fresh process. Where the program cannot be
-- executed, the process goes on as it was.
-- @tparam string program a path, or a name that is searched for in PATH
-- @tparam string ... its arguments
-- @tparam[opt] table options behind them: `stdin`, `stdout`, `stderr`: `"inherit"` (default),
-- `"null"` or a descriptor, which the program finds blocking; `cwd`: its working directory, from
-- which a program with a slash is looked up; `env`: `{ NAME = "value" | false }`, changes of its
-- environment, whose PATH counts
-- @treturn nil if it cannot be executed; else this does not return
-- @treturn err with the name of the option that is to blame, if one is, and `errno`
function tine.exec(...)
  local child = core.child()
  if not child then
    error("exec: this process is not a child", 2)
  end
  local options, words = exec_arguments(...)
  local stdin, stdout, stderr, cwd, env = opts.exec(options)
  -- No tail call: the descriptors are those of values in options.
  local _, err = child.exec(stdin, stdout, stderr, cwd, env, table.unpack(words, 1, words.n))
  return nil, err
end

--- The id of this process.
-- @function tine.pid
-- @treturn integer
tine.pid = core.pid

--- Changes the working directory of this process, and so of those that it makes from now on.
-- @tparam string path
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] err
function tine.chdir(path)
  if type(path) ~= "string" or path:find("\0", 1, true) then
    error("chdir: a path expected, got " .. type(path), 2)
  end
  return core.chdir(path)
end

--- A variable of the environment, which the processes and programs that this one makes from now on
-- have, too.
-- @tparam string name
-- @tparam[opt] string|boolean value what it is set to; false removes it
-- @treturn[1] ?string the value, if none was given
-- @treturn[2] boolean true
-- @treturn[3] nil
-- @treturn[3] err
function tine.env(name, ...)
  if not opts.is_variable(name) then
    error("env: a name without '=' and zero bytes expected, got "
      .. (type(name) == "string" and ("'%s'"):format(name) or type(name)), 2)
  end
  if select("#", ...) == 0 then
    return os.getenv(name)
  end
  local value = ...
  if not opts.is_value(value) then
    error("env: a string without zero bytes, or false to remove the variable, expected, got "
      .. type(value), 2)
  end
  return core.setenv(name, value and tostring(value))
end

--- Leaves the process; in a host the same as os.exit.
-- @tparam[opt=true] boolean|integer code
-- @tparam[opt=false] boolean close whether the Lua state is closed, finalizers and all
function tine.exit(code, close)
  local child = core.child()
  local exit = child and child.exit or os.exit
  exit(code, close)
end

return tine
