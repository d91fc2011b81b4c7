--- Process handles: the methods that take a callback, or wait in its place.
-- @module tine.process
local core = require "tine.core"
local opts = require "tine.opts"
local task = require "tine.task"

local process = core.process
local methods = process.methods

-- Of a descriptor: one that nobody waits for any more is closed.
local function fd_listener(what, cb)
  local listen = task.listener(what, cb, 3)
  if cb then
    return listen
  end
  return function(fd, err)
    if not listen(fd, err) and fd then
      fd:close()
    end
  end
end

-- The process had already ended: its end says why there is no descriptor.
local function tell_why(p, listen)
  process.on_exit(p, function(err)
    listen(nil, err or core.error("closed", "the process has ended"))
  end)
end

--- A new process, forked from this one, with its state and what was sent to it so far.
-- @function process:fork
-- @tparam[opt] table options as for `tine.new`
-- @treturn process
function methods:fork(options)
  local p, err = process.fork(self, opts.process(options, "fork"))
  return p, err
end

--- Enters a function in the process, as `func(sock, ...)` with the descriptors and strings sent
-- so far. Consumes the handle: then only `pid`, `kill`, `on_exit`, `on_error` and `close` work.
-- @function process:run
-- @tparam string|function func a name, `"my.module.fn"` or `"fn"`, or a Lua function
-- @tparam[opt] function cb `cb(sock)` with this end as a `tine.fd`, or `cb(nil, err)`. Inside of
-- tine.go it can be left out: then the same is returned
function methods:run(func, cb)
  local listen = fd_listener("run", cb)
  if not process.run(self, func, listen) then
    tell_why(self, listen)
  end
  return task.answer(cb)
end

--- Flushes, then gives the command socket, which can be passed on, for `tine.from_fd`. Consumes
-- the handle.
-- @function process:to_fd
-- @tparam[opt] function cb `cb(fd)` with a `tine.fd`, or `cb(nil, err)`; see `process:run`
function methods:to_fd(cb)
  local listen = fd_listener("to_fd", cb)
  if not process.to_fd(self, listen) then
    tell_why(self, listen)
  end
  return task.answer(cb)
end

--- Tells of the end of the process.
-- @function process:on_exit
-- @tparam[opt] function cb `cb(err, info)`: err is nil for exit code 0; info has `pid`, `code`
-- or `signal`, and `rusage` (`utime` and `stime` in seconds, `maxrss` in bytes, `minflt`,
-- `majflt`, `nvcsw`, `nivcsw`, `inblock`, `oublock`). Inside of tine.go it can be left out: then
-- the same is returned
-- @treturn process itself
function methods:on_exit(cb)
  local listen = task.listener("on_exit", cb)
  process.on_exit(self, listen)
  return task.answer(cb, self)
end

--- Tells of a failed eval, require, fork or entry function.
-- @function process:on_error
-- @tparam[opt] function cb `cb(err)`. Inside of tine.go it can be left out: then the next err is
-- returned, or nil when the process has ended without one
-- @treturn process itself
function methods:on_error(cb)
  local listen = task.listener("on_error", cb)
  process.on_error(self, listen)
  if not cb then
    process.on_exit(self, function() listen(nil) end)
  end
  return task.answer(cb, self)
end

--- The memory of the process, as it is when it has carried out what was queued before.
--
-- Of what its interpreter says: `own` and `shared` (Lua's bytes: all but those in sealed memory,
-- and those), `sealed` (bytes), `seals` (how often), `failed` (why one failed), `heap`: `"sealed"`,
-- `"plain"` (tine's heap, nothing is sealed yet) or `"malloc"`. Of what the system says: `rss`,
-- `pss`, `private` (of sealed memory only what is copied), `copied` (pages of sealed memory that
-- the process has a copy of, because it or whom it was forked from has written to them), all in
-- bytes; `faults`, a table of `minor` and `major`; and `pid`. What is not known is nil.
--
-- After `run` and `to_fd` nobody can ask the interpreter any more, and only what the system says
-- is there. One that serves calls (`rpc`) has said it when its last call had ended. A pool's
-- template can be asked as before. The host reads /proc/PID/smaps for it, which takes about 0.3 ms
-- and 20 ms more for each GB that the process has touched.
-- @function process:memory
-- @tparam[opt] function cb `cb(memory)` or `cb(nil, err)`, of kind `"closed"` when the process has
-- ended or the handle is closed. Inside of tine.go it can be left out: then the same is returned
function methods:memory(cb)
  local listen = task.listener("memory", cb)
  return task.answer(cb, nil, listen, process.memory(self, listen))
end

--- Waits until all that was queued before has been carried out: code, modules, descriptors,
-- strings and forks. Not after `run`, `to_fd`, `rpc` and `pool`.
-- @function process:await_loaded
-- @tparam[opt] function cb `cb(true)`, or `cb(nil, err)` if some of it failed: `err` is what
-- `on_error` gets. Inside of tine.go it can be left out: then the same is returned
-- @treturn process itself
function methods:await_loaded(cb)
  local listen = task.listener("await_loaded", cb)
  return task.answer(cb, self, listen, process.loaded(self, listen))
end

--- Waits until the process is there.
-- @function process:await_ready
-- @tparam[opt] function cb `cb(pid)` or `cb(nil, err)`. Inside of tine.go it can be left out:
-- then the same is returned
-- @treturn process itself
function methods:await_ready(cb)
  local listen = task.listener("await_ready", cb)
  process.on_ready(self, listen)
  return task.answer(cb, self)
end

return process
