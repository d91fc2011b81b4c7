--- What a program prints beside a progress bar: whole lines only, results in blocks, what goes to
-- stderr at once and behind the results before it. Knows nothing of what is printed.
-- @module tine.printer
local printer = {}

-- Bytes after which a block is written.
local BLOCK <const> = 32768

local Printer = {}
Printer.__index = Printer

--- Takes stdout over, which then has no buffer of C's: what is written is written whole.
-- @tparam ?bar bar is taken away before anything is printed
-- @tparam boolean closed whether there is no stdout
-- @tparam function failed is called with the reason, once, when stdout cannot be written
-- @treturn printer
function printer.new(bar, closed, failed)
  io.stdout:setvbuf("no")
  return setmetatable({
    bar = bar, closed = closed, failed = failed, block = {}, n = 0, bytes = 0,
  }, Printer)
end

local function clear_bar(self)
  if self.bar then
    self.bar:clear()
  end
end

local function fail(self, problem)
  local failed = self.failed
  self.failed = nil
  self.block, self.n, self.bytes = {}, 0, 0
  if failed then
    failed(problem)
  end
end

--- Writes what waits.
function Printer:flush()
  if self.n == 0 then
    return
  end
  local text = table.concat(self.block, "", 1, self.n)
  self.block, self.n, self.bytes = {}, 0, 0
  clear_bar(self)
  local ok, problem = io.stdout:write(text)
  if not ok then
    fail(self, problem)
  end
end

--- A line of a result.
-- @tparam string line without its newline
function Printer:out(line)
  if self.closed then
    return fail(self, "stdout is closed")
  elseif not self.failed then
    return
  end
  self.n = self.n + 2
  self.block[self.n - 1], self.block[self.n] = line, "\n"
  self.bytes = self.bytes + #line + 1
  if self.bytes >= BLOCK then
    self:flush()
  end
end

--- A line for stderr.
-- @tparam string line without its newline
function Printer:err(line)
  self:flush()
  clear_bar(self)
  io.stderr:write(line, "\n")
end

return printer
