--- The log of `tine map`: which lines are done, for a later run to skip them. One line of text a
-- job, with tabs between: its number in the input, when it ended (seconds since 1970), how (`ok`,
-- or the kind of its error), and the job's own line. Knows nothing of pools.
-- @module tine.joblog
local joblog = {}

local HEAD <const> = "Seq\tEnded\tStatus\tLine"

local Log = {}
Log.__index = Log

local escapes <const> = { ["\\"] = "\\\\", ["\n"] = "\\n", ["\t"] = "\\t" }

-- In one field of one line.
local function escape(line)
  return (line:gsub("[\\\n\t]", escapes))
end

-- Takes in what an earlier run has logged; a line that it was killed in the middle of counts for
-- nothing.
local function read(log, file)
  local whole = true
  for text in file:lines("L") do
    whole = text:sub(-1) == "\n"
    local seq, status, line = text:match("^(%d+)\t[^\t]*\t([^\t]*)\t([^\t\n]*)\n$")
    if seq and status == "ok" then
      log.lines[math.tointeger(seq)] = line
    end
  end
  return whole
end

local function begin(log)
  local size = log.file:seek("end")
  if size == 0 then
    return log.file:write(HEAD, "\n")
  elseif not log.whole then
    return log.file:write("\n")
  end
  return true
end

--- Opens a log.
-- @tparam string path
-- @tparam boolean resume whether what is in the file already counts, and is kept
-- @treturn[1] log
-- @treturn[2] nil
-- @treturn[2] string why not
function joblog.open(path, resume)
  local log = setmetatable({ path = path, lines = {}, whole = true }, Log)
  local old = resume and io.open(path, "rb")
  if old then
    log.whole = read(log, old)
    old:close()
  end
  local file, problem = io.open(path, resume and "ab" or "wb")
  if not file then
    return nil, problem
  end
  log.file = file
  local ok
  ok, problem = begin(log)
  if not ok then
    return nil, path .. ": " .. problem
  end
  return log
end

--- Whether an earlier run has done the line.
-- @tparam integer seq
-- @tparam string line
-- @treturn[1] boolean
-- @treturn[2] nil
-- @treturn[2] string what is wrong: the log is of another input
function Log:has(seq, line)
  local known = self.lines[seq]
  if not known then
    return false
  end
  self.lines[seq] = nil
  if known == escape(line) then
    return true
  end
  return nil, ("%s is the log of another input: its line %d is '%s', and here it is '%s'"):format(
    self.path, seq, known:sub(1, 60), escape(line):sub(1, 60))
end

--- Notes the end of a line. It is in the file after the next flush.
-- @tparam integer seq
-- @tparam string line
-- @tparam ?string kind of its error
function Log:add(seq, line, kind)
  self.file:write(("%d\t%d\t%s\t%s\n"):format(seq, os.time(), kind or "ok", escape(line)))
end

--- Writes to the file what was noted.
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] string why not
function Log:flush()
  local ok, problem = self.file:flush()
  return ok, problem
end

--- Closes the file.
function Log:close()
  return self.file:close()
end

return joblog
