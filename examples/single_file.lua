-- A whole program in one file that executes no other: `early` and `here` make templates by
-- forking this very process, so no interpreter has to be found, and what the program has loaded
-- and computed so far is there in every worker.
--
--   lua5.4 examples/single_file.lua
local tine = require "tine"

-- luacheck: globals password nth_prime

-- First of all: later, modules may make processes of their own with tine.new, in a program that
-- is then large and has secrets, files and connections open. They get forks of it as it is now.
tine.early()

password = "from a vault"

-- What the workers are to have: functions, modules, data.
local primes = {}
for n = 2, 1000 do
  local is_prime = true
  for _, p in ipairs(primes) do
    if n % p == 0 then
      is_prime = false
      break
    end
  end
  if is_prime then primes[#primes + 1] = n end
end

function nth_prime(sock, n)
  sock:write(("prime number %s is %d\n"):format(n, primes[tonumber(n)]))
end

-- The program as it is here becomes a template. Nothing is copied but page tables.
local template = assert(tine.here { name = "primes" })

tine.main(function()
  local workers = {}
  for n = 10, 160, 50 do
    workers[#workers + 1] = assert(template:fork():send_arg(tostring(n)):run("nth_prime"))
  end
  for _, sock in ipairs(workers) do print(sock:read_line()) end
  template:close()

  local sock = assert(tine.new():run(function(sock)
    sock:write(password and "knows the password\n" or "knows no password\n")
  end))
  print("a process of the early template " .. sock:read_line())
end)
