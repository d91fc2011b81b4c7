-- A pool whose worker is killed by every 10th job: each crash costs the job that caused it, and
-- with `retries` not even that when it was bad luck.
--
--   lua5.4 examples/survivor.lua [JOBS]         default: 100
local tine = require "tine"

local jobs = math.tointeger(tonumber(arg[1] or 100))

-- In a worker. Job 10, 20, ... crash always; every 10th + 5 only the first time.
local function work(n, marker)
  if n % 10 == 0 then
    os.execute("kill -SEGV $PPID")
  elseif n % 10 == 5 then
    local path = marker .. "/" .. n
    local seen = io.open(path)
    if not seen then
      io.open(path, "w"):close()
      os.exit(3)
    end
    seen:close()
    os.remove(path)
  end
  return n * n
end

tine.main(function()
  local folder = os.tmpname()
  os.remove(folder)
  assert(os.execute("mkdir " .. folder))
  local pool <close> = tine.new():pool(work, {
    serialiser = "lua", retries = 1, start = 0,
    on_error = function(err) print("a worker died between jobs: " .. tostring(err)) end,
  })
  local list = {}
  for i = 1, jobs do list[i] = { i, folder } end
  local good, bad = 0, 0
  for i, ok, result in pool:map(list, { packed = true }) do
    if ok then
      assert(result == i * i)
      good = good + 1
    else
      bad = bad + 1
      if bad <= 3 then print(("job %d: %s: %s"):format(i, result.kind, result.message)) end
    end
  end
  local stats = pool:stats()
  print(("%d jobs done, %d lost; %d workers died, %d jobs tried again"):format(good, bad,
    stats.crashed, stats.retried))
  os.remove(folder)
end)
