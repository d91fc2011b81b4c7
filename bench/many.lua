-- A pool of many idle workers: a call to each, and what is asked of each.
--   lua5.4 many.lua [-n WORKERS]
package.path = (arg[0]:match("^(.*/)[^/]*$") or "./") .. "lib/?.lua;" .. package.path
local program = require "program"
local tine = require "tine"

local options = program.options { n = 100 }
local now = tine.loop.now

-- kB that the system has left: of all that a worker takes, page tables and sockets too.
local function available()
  local f <close> = io.open("/proc/meminfo")
  return tonumber(f:read("a"):match("MemAvailable:%s*(%d+)"))
end

local had = available()
local pool = tine.new():pool(function(x) return x end,
  { max = options.n, idle = options.n, load = 1, start = 0 })

local function broadcast()
  local answered
  pool:broadcast("x", function(err, list) answered = assert(list, err) end)
  while not answered do tine.loop.poll(1) end
  assert(#answered == options.n)
end

local from
repeat
  from = now()
  repeat tine.loop.poll(0.1) until now() - from > 0.2
until pool:stats().idle == options.n
broadcast()
local kb = (had - available()) / options.n

for seconds in program.rounds() do
  local rounds, begin = 0, now()
  repeat
    broadcast()
    rounds = rounds + 1
  until now() - begin >= seconds
  local took, before = now() - begin, now()
  pool:stats()
  program.answer { rate = rounds * options.n / took, seconds = took, count = rounds,
    stats_us = (now() - before) / options.n * 1e6, kb = kb }
end
