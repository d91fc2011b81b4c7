-- An HTTP server in the host, which reads requests and hands the work to a pool: a page that
-- takes long, or kills its process, holds up or costs nobody else.
--
--   lua5.4 examples/http_pool.lua [ADDRESS]        default: 127.0.0.1:8080; port 0: any
--   curl http://127.0.0.1:8080/primes?n=200000 http://127.0.0.1:8080/crash
--   curl http://127.0.0.1:8080/loop http://127.0.0.1:8080/stats
local tine = require "tine"

----------------------------------------------------------------------------- in a worker

-- Gets the request's path and query, returns a status and a page.
-- luacheck: globals handle
local function prepare()
  local pages = {}

  pages["/"] = function() return "200 OK", "try /primes?n=100000, /crash, /loop, /stats\n" end

  pages["/primes"] = function(query)
    local n = math.tointeger(tonumber(query:match("n=(%d+)"))) or 1000
    if n > 5000000 then return "400 Bad Request", "n is too large\n" end
    local sieve, count = {}, 0
    for i = 2, n do
      if not sieve[i] then
        count = count + 1
        for k = i * i, n, i do sieve[k] = true end
      end
    end
    return "200 OK", ("%d primes up to %d\n"):format(count, n)
  end

  pages["/crash"] = function() os.execute("kill -SEGV $PPID") end
  pages["/loop"] = function() while true do end end

  function handle(path, query)
    local page = pages[path]
    if not page then return "404 Not Found", "nothing here\n" end
    return page(query)
  end
end

------------------------------------------------------------------------------ in the host

local pool = tine.new():eval(prepare):pool("handle", { timeout = 2, queue = 100, idle = 1 })

local statuses <const> = {
  timeout = "504 Gateway Timeout", rejected = "503 Service Unavailable",
}

local function work(target)
  local path, query = target:match("^([^?]*)%??(.*)$")
  if path == "/stats" then
    local s = pool:stats()
    return "200 OK", ("%d workers, %d calls, %d failed, median %.1f ms\n"):format(#s.workers,
      s.calls, s.failed, s.run.p50 * 1000)
  end
  local ok, status, page = pcall(pool.await, pool, path, query)
  if not ok then
    local err = status
    return statuses[err.kind] or "500 Internal Server Error", tostring(err.message) .. "\n"
  end
  return status, page
end

local function serve(client)
  while true do
    local line = client:read_line()
    local target = line and line:match("^GET (%S+) HTTP/1%.[01]\r?$")
    repeat
      line = line and client:read_line()
    until not line or line == "\r" or line == ""
    if not target then break end
    local status, page = work(target)
    client:write(("HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s")
      :format(status, #page, page))
  end
  client:close()
end

tine.main(function()
  local listener = assert(tine.listen(arg[1] or "127.0.0.1:8080"))
  print("http://" .. listener:address())
  io.stdout:flush()
  local stop
  stop = tine.loop.signal("INT", function()
    stop:close()
    listener:close()
    pool:close(function() print "stopped" end, 3)
    tine.loop.timer(3.5, tine.loop.stop)
  end)
  while true do
    local client, err = listener:accept()
    if client then
      tine.go(serve, client)
    elseif err.kind == "closed" then
      return
    else
      tine.loop.sleep(0.1) -- out of descriptors, perhaps
    end
  end
end)
