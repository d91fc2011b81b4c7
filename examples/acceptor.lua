-- A host that accepts connections and hands each to a worker of a pool: the worker talks to the
-- client itself, and one that crashes costs its own client only. The host holds no connection.
--
--   lua5.4 examples/acceptor.lua [ADDRESS]         default: 127.0.0.1:7070; port 0: any
--   printf 'hello\nquit\n' | nc 127.0.0.1 7070
local tine = require "tine"

----------------------------------------------------------------------------- in a worker

-- Serves one client, from its first line to its last.
-- luacheck: globals serve
local function prepare()
  function serve(client, number)
    local conn <close> = client
    conn:write(("you are client %d\n"):format(number))
    local lines = 0
    for line in function() return conn:read_line() end do
      if line == "quit" then break end
      if line == "crash" then os.exit(1) end
      lines = lines + 1
      conn:write(line:upper() .. "\n")
    end
    return lines
  end
end

------------------------------------------------------------------------------ in the host

tine.main(function()
  -- One client a worker at a time: load = 1.
  local pool = tine.new():eval(prepare)
    :pool("serve", { serialiser = "lua", max = 8, idle = 1, start = 0, load = 1 })
  local listener = assert(tine.listen(arg[1] or "127.0.0.1:7070"))
  print("listening on " .. listener:address())
  io.stdout:flush()
  local stop
  stop = tine.loop.signal("INT", function()
    stop:close()
    listener:close()
    pool:close(function() print "stopped" end, 3)
  end)
  local clients = 0
  while true do
    local client, err = listener:accept()
    if client then
      clients = clients + 1
      local number = clients
      pool(client, number, function(problem, lines)
        print(("client %d: %s"):format(number, problem and problem.message or lines .. " lines"))
        io.stdout:flush()
      end)
      client:close() -- the call has a duplicate, which the worker gets
    elseif err.kind == "closed" then
      return
    else
      tine.loop.sleep(0.1) -- out of descriptors, perhaps
    end
  end
end)
