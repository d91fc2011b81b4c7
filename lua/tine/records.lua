--- The records of an input, one after another: lines, or what ends in NUL.
-- @module tine.records
local records = {}

local CHUNK <const> = 65536

-- As `fd:read_line`, for what ends in NUL.
local function until_nul(fd)
  local held, from, at_end = "", 1, false
  return function()
    local scanned = from
    while true do
      local nul = held:find("\0", scanned, true)
      if nul then
        local record = held:sub(from, nul - 1)
        from = nul + 1
        return record
      elseif at_end then
        local rest = held:sub(from)
        held, from = "", 1
        return rest ~= "" and rest or nil
      end
      local more, err = fd:read(CHUNK)
      if err then
        return nil, err
      end
      held = held:sub(from) .. (more or "")
      from, scanned, at_end = 1, #held - #(more or "") + 1, not more or more == ""
    end
  end
end

--- An iterator over the records of a descriptor.
-- @tparam tine.fd fd
-- @tparam ?boolean null whether they end in NUL, and not in a newline
-- @treturn function returns the next one without its end, nil behind the last, or nil and err
function records.of(fd, null)
  if null then
    return until_nul(fd)
  end
  return function() return fd:read_line() end
end

return records
