-- A pool under fire: workers, and once the template, are killed at random instants, but not faster
-- than jobs get done: then it would rightly find that its workers die at once.
local helper = require "spec.helper"
local tine = require "tine"

local JOBS <const> = 200000
local WORKERS <const> = 4
local UNDER_WAY <const> = 2000
local PEACE <const> = 200

-- A process that kills those whose ids are written to it: not in step with the host.
local function killer()
  return assert(io.popen("while read -r pid; do kill -KILL \"$pid\" 2>/dev/null; done", "w"))
end

-- Most jobs are tiny; some return more than a socket holds, some take a moment. What comes back
-- says which job it was.
local function prepare()
  function work(n, kind) -- luacheck: globals work
    if kind == "large" then
      return n, ("x"):rep(300000)
    elseif kind == "slow" then
      local x = 0
      for i = 1, 20000 do x = x + i end
    end
    return n, "y"
  end
end

local function kind_of(i, random)
  if random(2000) == 1 then return "large" end
  return i % 50 == 0 and "slow" or "tiny"
end

describe("a pool under fire #proc #slow", function()
  it("ends every job exactly once, and only what ran is lost", function()
    helper.no_leaks(function()
      local seed = os.time()
      math.randomseed(seed)
      local random = math.random
      local kill = killer()
      local template = tine.new():eval(prepare)
      local pool = template:pool("work", {
        max = WORKERS, load = 16, start = 0, on_error = function() end,
      })
      local times, right, crashed, wrong = {}, 0, 0, {}
      local made, ended, kills = 0, 0, 0

      local function check(i, kind, err, n, text)
        times[i] = (times[i] or 0) + 1
        ended = ended + 1
        if err then
          crashed = crashed + 1
          if err.kind ~= "crash" then wrong[#wrong + 1] = tostring(err) end
        elseif tonumber(n) == i and text == (kind == "large" and ("x"):rep(300000) or "y") then
          right = right + 1
        else
          wrong[#wrong + 1] = ("job %d: %s, %d bytes"):format(i, n, #text)
        end
      end

      local function more()
        while made < JOBS and made - ended < UNDER_WAY do
          made = made + 1
          local i, kind = made, kind_of(made, random)
          pool(i, kind, function(...)
            check(i, kind, ...)
            more()
          end)
        end
      end

      local template_dies, next_shot = JOBS // 2, 0
      local function shoot()
        if ended >= JOBS then return end
        tine.loop.timer(random() * 0.02, shoot)
        if ended < next_shot then return end
        next_shot = ended + PEACE
        local pids = {}
        for _, worker in ipairs(pool:stats().workers) do
          if worker.pid and worker.state ~= "starting" then pids[#pids + 1] = worker.pid end
        end
        if template_dies and ended > template_dies then
          template_dies = nil
          kill:write(template:pid(), "\n")
          kills = kills + WORKERS
        elseif #pids > 0 then
          kill:write(pids[random(#pids)], "\n")
          kills = kills + 1
        end
        kill:flush()
      end

      more()
      shoot()
      local gone = false
      helper.wait_until(30, function()
        return ended == JOBS, ("%d of %d jobs ended"):format(ended, JOBS)
      end)
      pool:close(function() gone = true end)
      helper.wait_until(10, function() return gone, "the pool does not close" end)
      kill:close()
      local note = ("seed %d, %d kills, %d crashed"):format(seed, kills, crashed)
      assert.are.same({}, wrong, note)
      for i = 1, JOBS do
        if times[i] ~= 1 then
          error(("job %d ended %s times; %s"):format(i, times[i] or 0, note))
        end
      end
      assert.are.equal(JOBS, right + crashed)
      assert.is_true(crashed <= kills, note)
      assert.is_true(kills >= 20, note)
      assert.is_nil(template_dies)
    end)
  end)
end)
