--- Calls to one worker, and what rpc and pool handles have in common.
-- @module tine.rpc
local core = require "tine.core"
local process = require "tine.process"
local service = require "tine.service"
local task = require "tine.task"

local rpc = {}

-- Of both; a pool has more (tine.pool).
local methods = {}
local kinds = setmetatable({}, { __mode = "k" }) -- handle -> its methods
rpc.methods, rpc.kinds = methods, kinds

local meta = core.rpc.metatable
meta.__name = "tine.service"

function meta.__index(self, name)
  local own = kinds[self]
  return own and own[name] or methods[name]
end

function meta.__tostring(self)
  local pid = core.rpc.pid(self)
  return kinds[self] and "tine.pool" or pid and ("tine.rpc (process %d)"):format(pid) or "tine.rpc"
end

local function check(self, what)
  service.check_self(what, self, core.rpc.is(self), "an rpc or a pool")
end

--- Calls the function in the worker.
-- @function rpc:call
-- @param ... its arguments
-- @tparam function cb `cb(err)` or `cb(nil, ...)` with the results, exactly once. Inside of
-- tine.go it can be left out: then the same is returned
-- @treturn job with `cancel()` and `id()`
meta.__call = service.call
methods.call = meta.__call

--- Calls, and waits for the results, inside of tine.go.
-- @function rpc:await
-- @param ... arguments
-- @return the results
-- @raise err
function methods:await(...)
  check(self, "await")
  if not task.current() then
    error("await: only inside of tine.go or tine.main", 2)
  end
  return service.results(service.call_and_wait("await", 2, self, ...))
end

--- Ends it: queued calls are still carried out, then the worker exits. Without a callback, inside
-- of tine.go: waits for that.
-- @function rpc:close
-- @tparam[opt] function cb called when all is done
function methods:close(cb)
  check(self, "close")
  return service.close(self, cb)
end

meta.__close = function(self)
  service.closing(self)
  core.rpc.close(self)
end

--- Asks what the worker runs now.
-- @function rpc:traceback
-- @tparam[opt] function cb `cb(text)` or `cb(nil, err)`; see `rpc:call`
function methods:traceback(cb)
  check(self, "traceback")
  local listen = task.listener("traceback", cb)
  return task.answer(cb, nil, listen, core.rpc.traceback(self, listen))
end

--- The worker's process id.
-- @function rpc:pid
-- @treturn ?integer nil while it is not known
function methods:pid()
  check(self, "pid")
  return core.rpc.pid(self)
end

--- Makes the process a worker that serves calls of a function. Consumes the handle.
-- @function process:rpc
-- @tparam string|function func a name, `"my.module.fn"` or `"fn"`, or a Lua function
-- @tparam[opt] table options
--
-- - `async`: true: `func(done, ...)` may answer later, many calls at once
-- - `init`: called first, with the descriptors and strings sent
-- - `serialiser`: `"string"` (default; strings and numbers only, fastest), `"json"`, `"msgpack"`,
--   `"lua"` (any plain data), or `{freeze = ..., thaw = ...}`, each the source text of a function:
--   freeze(...) returns a string, thaw(string) the values
-- - `on_event(...)`: what the worker gave to `tine.event`
-- - `on_error(err)`: failures that belong to no call; without one they go to stderr
-- - `on_destroy()`: it was closed, or collected, and all is done
-- - `done`: called in the worker after its last call, before it leaves: because the host has
--   closed, or a pool replaces it. Not in one that dies, is killed or ends itself, nor in one that
--   becomes a template. An error in it goes to `on_error`
-- - `timeout`: seconds that a call may run, from its start; `grace`: seconds from the error
--   that is then raised in it to SIGKILL (default 1). The error comes also where the call waits, in
--   tine or in a system call that a signal ends
-- - `spawn_timeout`: seconds that the worker may take until `init` has returned (default 10), from
--   when it, or its template, has loaded what it was told to before
-- @treturn[1] rpc
-- @treturn[2] nil
-- @treturn[2] err
function process.methods:rpc(func, options)
  local checked = service.options("rpc", func, options, service.rpc_options, {}, 3)
  local handle, err = core.rpc.new(self, false, checked)
  return handle, err
end

return rpc
