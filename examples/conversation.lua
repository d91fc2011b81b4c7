-- One worker process and a conversation with it over its socket: the host sends a line, the
-- worker answers with a line.
--
--   lua5.4 examples/conversation.lua [NUMBER...]
local tine = require "tine"

-- Runs in the worker. There a read simply blocks; nil is the end of the conversation.
local function factorise(sock)
  for line in sock.read_line, sock do
    local n, factors = math.tointeger(line), {}
    if not n or n < 2 then error("not a number above 1: " .. line) end
    local divisor = 2
    while divisor * divisor <= n do
      while n % divisor == 0 do
        factors[#factors + 1] = divisor
        n = n // divisor
      end
      divisor = divisor + 1
    end
    if n > 1 then factors[#factors + 1] = n end
    sock:write(table.concat(factors, " x ") .. "\n")
  end
end

-- In tine.main a read waits in the loop: other coroutines, timers and callbacks go on meanwhile.
local function main(...)
  local numbers = select("#", ...) > 0 and { ... } or { "360360", "1000000007", "600851475143" }
  local worker = tine.new { name = "factorise" }
  local failure
  worker:on_error(function(err) failure = err end)

  local sock = assert(worker:run(factorise))
  for _, number in ipairs(numbers) do
    sock:write(number .. "\n")
    local answer = sock:read_line()
    if not answer then break end
    print(number .. " = " .. answer)
  end
  sock:close()

  local err, info = worker:on_exit()
  if err then
    io.stderr:write("worker ", info.pid, ": ", tostring(failure or err), "\n")
    return 1
  end
  print(("worker %d has ended; it used %.3f s of CPU"):format(info.pid,
    info.rusage.utime + info.rusage.stime))
  return 0
end

local code = tine.main(main, ...)
if code ~= 0 then os.exit(code) end
