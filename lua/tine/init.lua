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

--- In a child: becomes another program, under the same process id and with stdin, stdout and
-- stderr as they are. Every other descriptor is closed, signals are as in a fresh process.
-- @tparam string program a path, or a name that is searched for in PATH
-- @tparam string ... its arguments
-- @treturn nil if it cannot be executed; else this does not return
-- @treturn err
function tine.exec(program, ...)
  local child = core.child()
  if not child then
    error("exec: this process is not a child", 2)
  end
  return child.exec(program, ...)
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
