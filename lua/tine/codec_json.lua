--- The serialiser "json": lists of values as JSON arrays, by lua-cjson. Serves hosts and workers.
-- @module tine.codec_json
local found, cjson = pcall(require, "cjson")
if not found then
  error("the serialiser \"json\" needs lua-cjson: luarocks install lua-cjson", 0)
end

-- Its own settings: neither the user's are taken, nor are they changed.
local json = cjson.new()
json.encode_number_precision(14) -- the most that all versions can
json.encode_sparse_array(false, 2, 10)

local codec = {}

local MAX_DEPTH <const> = 100
-- Of a larger integer a reader that has only doubles would make another one.
local MOST <const> = 1 << 53

local function describe(value)
  local kind = type(value)
  if kind == "userdata" then
    local meta = debug.getmetatable(value)
    local name = meta and rawget(meta, "__name")
    return "a userdata" .. (type(name) == "string" and " (" .. name .. ")" or "")
  end
  if kind == "number" then
    return value ~= value and "not a number" or "infinite"
  end
  return "a " .. kind
end

-- A key, as paths have it.
local function step(k)
  if type(k) == "number" then
    return ("[%s]"):format(k)
  end
  return k:find("^[%a_][%w_]*$") and "." .. k or ("[%q]"):format(k)
end

-- The path to the first value that JSON cannot say, and what it is.
local function culprit(value, path, parents, depth)
  local kind = type(value)
  if kind == "nil" or kind == "boolean" or kind == "string" or value == cjson.null then
    return nil
  elseif kind == "number" then
    if value ~= value or value == math.huge or value == -math.huge then
      return path .. ": " .. describe(value)
    elseif math.type(value) == "integer" and (value > MOST or value < -MOST) then
      return path .. ": an integer that JSON cannot keep exactly"
    end
    return nil
  elseif kind ~= "table" then
    return path .. ": " .. describe(value)
  elseif parents[value] then
    return path .. ": a cycle"
  elseif depth > MAX_DEPTH then
    return path .. ": nested too deeply"
  end
  parents[value] = true
  for k, v in next, value do
    if type(k) ~= "string" and type(k) ~= "number" then
      return path .. ": a key that is " .. describe(k)
    end
    local problem = culprit(v, path .. step(k), parents, depth + 1)
    if problem then
      return problem
    end
  end
  parents[value] = nil
  return nil
end

-- The path to the innermost table that cannot be encoded although all in it can.
local function innermost(value, path)
  for k, v in next, value do
    if type(v) == "table" and not pcall(json.encode, v) then
      return innermost(v, path .. step(k))
    end
  end
  return path
end

local function explain(what, list, message)
  for i = 1, list.n do
    local value = list[i]
    local path = ("%s[%d]"):format(what, i)
    local problem = culprit(value, path, {}, 1)
    if problem then
      return problem
    end
    if not pcall(json.encode, value) then
      return innermost(value, path) .. ": " .. message
    end
  end
  return what .. ": " .. message
end

-- Octets that no other string has, in which numbers are kept from being rounded.
local mark <const> = ("%016x%016x"):format(math.random(0), math.random(0))

-- A copy in which the numbers of more than 14 digits are strings with a mark.
local function exactly(value)
  if type(value) == "number" then
    local format = math.type(value) == "integer" and "%d" or "%.17g"
    return tonumber(("%.14g"):format(value)) == value and value or mark .. format:format(value)
  elseif type(value) ~= "table" then
    return value
  end
  local copy = {}
  for k, v in next, value do
    copy[k] = exactly(v)
  end
  return copy
end

local function encode(value)
  local text = json.encode(value)
  -- Numbers that were rounded have an exponent or all digits that there are.
  if text:find("%d[eE]%+?%d") or text:find("%d%d%d%d%d%d%d%d%d%d%d%d%d") then
    local problem = culprit(value, "", {}, 1)
    if problem then
      error(problem, 0)
    end
    return (json.encode(exactly(value)):gsub('"' .. mark .. '([^"]*)"', "%1"))
  end
  return text
end

--- Encodes a list.
-- @tparam string what names the list in errors
-- @param ... values
-- @treturn[1] string
-- @treturn[2] nil
-- @treturn[2] string the path to what cannot be encoded
function codec.encode(what, ...)
  local list = table.pack(...)
  local parts = {}
  for i = 1, list.n do
    local value = list[i]
    local ok, text
    if value == nil then
      ok, text = true, "null"
    else
      ok, text = pcall(encode, value)
    end
    if not ok then
      return nil, explain(what, list, (tostring(text):gsub("^.-: ", "")))
    end
    parts[i] = text
  end
  return "[" .. table.concat(parts, ",") .. "]"
end

-- JSON has one kind of number: those without a fraction become integers.
local function integers(value)
  if type(value) == "number" then
    return math.tointeger(value) or value
  elseif type(value) == "table" then
    for k, v in next, value do
      if type(v) == "number" then
        value[k] = math.tointeger(v) or v
      elseif type(v) == "table" then
        integers(v)
      end
    end
  end
  return value
end

--- Decodes what `encode` made. A null at the top level is nil, deeper it is `cjson.null`.
-- @tparam string text
-- @return the values
-- @raise what is wrong with the text
function codec.decode(text)
  local list = json.decode(text)
  if type(list) ~= "table" then
    error("not a JSON array", 0)
  end
  local n = #list
  for i = 1, n do
    local value = list[i]
    if value == cjson.null then
      list[i] = nil
    else
      list[i] = integers(value)
    end
  end
  return table.unpack(list, 1, n)
end

return codec
