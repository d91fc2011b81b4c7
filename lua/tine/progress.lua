--- A progress bar on a terminal: how much is done, how fast, and how long it will take yet.
-- Knows nothing of what is being done.
-- @module tine.progress
local core = require "tine.core"

local progress = {}

local Bar = {}
Bar.__index = Bar

-- Seconds over which the rate is taken.
local WINDOW <const> = 5

local function clock()
  return core.loop.now()
end

--- Makes a bar on stderr.
-- @treturn ?bar nil where stderr is no terminal
function progress.new()
  local width = core.terminal_width(2)
  if not width then
    return nil
  end
  return setmetatable({ width = width, began = clock(), marks = {}, shown = 0 }, Bar)
end

--- 75 is "1:15", 3675 is "1:01:15".
function progress.duration(seconds)
  local s = math.floor(seconds + 0.5)
  if s >= 3600 then
    return ("%d:%02d:%02d"):format(s // 3600, s // 60 % 60, s % 60)
  end
  return ("%d:%02d"):format(s // 60, s % 60)
end

-- Jobs a second, lately.
local function rate_of(bar, done)
  local now = clock()
  local marks = bar.marks
  marks[#marks + 1] = { now, done }
  while #marks > 2 and marks[2][1] < now - WINDOW do
    table.remove(marks, 1)
  end
  local first = marks[1]
  if now - first[1] < 0.05 then
    return done / math.max(now - bar.began, 0.05)
  end
  return (done - first[2]) / (now - first[1])
end

--- What the bar says.
-- @tparam integer done jobs
-- @tparam integer failed of them
-- @tparam ?number fraction of all that is done, where that is known
-- @tparam number rate jobs a second
-- @tparam number elapsed seconds so far
-- @tparam integer width columns
-- @treturn string of at most that many columns
function progress.line(done, failed, fraction, rate, elapsed, width)
  local right = (" %d done%s, %s/s, "):format(done, failed > 0 and (", %d failed"):format(failed)
    or "", rate >= 10 and ("%.0f"):format(rate) or ("%.1f"):format(rate))
  if not fraction then
    return (progress.duration(elapsed) .. right:gsub(", $", "")):sub(1, width)
  end
  local left = fraction > 0 and elapsed / fraction * (1 - fraction) or nil
  right = right .. (left and progress.duration(left) .. " left" or "...")
  local head = ("%3.0f%% "):format(fraction * 100 // 1)
  local room = width - #head - #right - 2
  if room < 5 then
    return (head .. right:sub(2)):sub(1, width)
  end
  local full = math.floor(room * fraction)
  return head .. "[" .. ("#"):rep(full) .. (" "):rep(room - full) .. "]" .. right
end

-- Takes away what is shown. A terminal that has become narrower since has broken it into several
-- rows, but xterm, which cuts lines off.
local function erase(bar)
  bar.width = core.terminal_width(2) or bar.width
  local rows = os.getenv("XTERM_VERSION") and 0 or math.max(bar.shown - 1, 0) // bar.width
  io.stderr:write("\r", ("\27[A"):rep(rows), rows > 0 and "\27[J" or "")
end

--- Draws it, over what was there.
function Bar:draw(done, failed, fraction)
  erase(self)
  local text = progress.line(done, failed, fraction, rate_of(self, done), clock() - self.began,
    self.width - 1)
  io.stderr:write(text, "\27[K")
  io.stderr:flush()
  self.shown = #text
end

--- Takes it away, for something else to be written.
function Bar:clear()
  if self.shown > 0 then
    erase(self)
    io.stderr:write("\27[K")
    io.stderr:flush()
    self.shown = 0
  end
end

return progress
