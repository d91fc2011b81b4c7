-- A pre-forked HTTP server: the host listens, hands the listening socket to one worker for each
-- CPU, and from then on only replaces workers that die. Each worker accepts and serves many
-- connections at once, in coroutines.
--
--   lua5.4 examples/http_server.lua [--port PORT | ADDRESS]     default: 127.0.0.1:8080
--   curl http://127.0.0.1:8080/ http://127.0.0.1:8080/crash
--
-- Port 0 takes any free one and says which.
local IDLE <const> = 10 -- seconds that a connection may take to send its next request
local PATIENCE <const> = 3 -- seconds that open connections get when the server stops
local LARGEST <const> = 16384 -- bytes in a request's line and headers

----------------------------------------------------------------------------- in a worker

local pages = { ["/"] = "Hello from tine.\n", ["/about"] = "One of the workers answered.\n" }

local function pid()
  local f <close> = assert(io.open("/proc/self/stat"))
  return f:read("n")
end

local function respond(client, status, body, keep)
  return client:write(("HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
    .. "Connection: %s\r\n\r\n%s"):format(status, #body, keep and "keep-alive" or "close", body))
end

-- Returns the request's method, path, version and headers; nil if there is none, and false if
-- it makes no sense.
local function read_request(client)
  local line = client:read_line()
  local size = 0
  if not line then return nil end
  local method, path, version = line:match("^(%u+) (%S+) HTTP/(1%.[01])\r?$")
  local headers = {}
  while method and size <= LARGEST do
    line = client:read_line()
    if not line then return nil end
    if line == "\r" or line == "" then return method, path, version, headers end
    local name, value = line:match("^([%w%-]+):%s*(.-)%s*$")
    if name then headers[name:lower()] = value end
    size = size + #line
  end
  return false
end

local function answer(client, method, path, keep)
  if method ~= "GET" then
    return respond(client, "405 Method Not Allowed", "only GET\n", false)
  end
  if path == "/crash" then os.execute("kill -SEGV $PPID") end
  local page = pages[path]
  return respond(client, page and "200 OK" or "404 Not Found",
    (page or "nothing here\n") .. ("process %d\n"):format(pid()), keep)
end

-- Serves one connection until either side has had enough.
local function serve(client, loop, state)
  repeat
    local idle = loop.timer(IDLE, function() client:close() end)
    state.waiting[client] = true
    local method, path, version, headers = read_request(client)
    state.waiting[client] = nil
    if idle then idle:close() end
    if method == false then respond(client, "400 Bad Request", "not understood\n", false) end
    local keep = method and version == "1.1" and not state.stopping
      and (headers.connection or ""):lower() ~= "close" and not headers["content-length"]
  until not method or not answer(client, method, path, keep) or not keep
  client:close()
end

-- The entry function.
local function work(sock, listener)
  local tine = require "tine"
  local state = { waiting = {}, stopping = false }
  tine.go(function()
    sock:read() -- nothing ever comes; it ends when the host stops, or has died
    state.stopping = true
    listener:close()
    for client in pairs(state.waiting) do client:close() end
  end)
  tine.main(function()
    while not state.stopping do
      local client = listener:accept()
      if client then
        tine.go(serve, client, tine.loop, state)
      elseif not state.stopping then
        tine.loop.sleep(0.1) -- out of descriptors, perhaps
      end
    end
  end)
end

----------------------------------------------------------------------------- in the host

local function say(format, ...)
  io.write(format:format(...), "\n"):flush()
end

local function fail(code, ...)
  io.stderr:write("http_server: ", ...)
  io.stderr:write("\n")
  os.exit(code)
end

local function address_of(first, second, ...)
  local usage = "usage: http_server.lua [--port PORT | HOST:PORT]"
  if first == "--help" then
    print(usage)
    os.exit(0)
  end
  local address = first or "127.0.0.1:8080"
  if first == "--port" then address = "127.0.0.1:" .. tostring(second) end
  if ... or first ~= "--port" and second or not address:match("^[^-].*:%d+$") then
    fail(2, usage)
  end
  return address
end

local function run_server(address)
  local tine = require "tine"
  local loop = tine.loop
  local listener, problem = tine.listen(address)
  if not listener then fail(1, tostring(problem)) end
  local template = tine.new { name = "http" }:send_fd(listener)
  local workers, stopping = {}, false -- workers: handle -> the host's end of its socket
  local watchers = {} -- the loop runs as long as there are any

  local function end_if_alone()
    if not next(workers) then
      for _, watcher in ipairs(watchers) do watcher:close() end
    end
  end

  local function start()
    local worker, began = template:fork(), os.time()
    workers[worker] = true
    worker:run(work, function(sock)
      if sock then workers[worker] = sock end
    end)
    worker:on_exit(function(err)
      workers[worker] = nil
      if not stopping then
        say("%s; another one takes its place", err and err.message or "a worker has ended")
        -- One that cannot even start must not keep the machine busy with trying.
        loop.timer(os.time() - began < 2 and 0.5 or 0, function()
          if not stopping then start() end
        end)
      else
        end_if_alone()
      end
    end)
  end

  -- Closing the sockets asks the workers to stop; the second time it is no longer a question.
  local function stop()
    for worker, sock in pairs(workers) do
      if stopping or sock == true then worker:kill("KILL") else sock:close() end
    end
    if not stopping then
      stopping = true
      say("stopping")
      template:close()
      watchers[#watchers + 1] = loop.timer(PATIENCE, stop)
      end_if_alone()
    end
  end

  for _ = 1, tine.cpus() do start() end
  for _, name in ipairs { "INT", "TERM" } do
    watchers[#watchers + 1] = assert(loop.signal(name, stop))
  end
  say("http://%s/ with %d workers; Ctrl-C stops it", listener:address(), tine.cpus())
  listener:close() -- the template keeps it open, for workers to come
  loop.run()
end

run_server(address_of(...))
