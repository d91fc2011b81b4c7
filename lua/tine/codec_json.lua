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

json.decode_invalid_numbers(false)
-- What makes an empty table an array, in a way that newer versions know, too.
local empty_array <const> = cjson.empty_array_mt or {}

-- What stands between the whole and the rest of a number, in the locale of now.
local function decimal_point()
  return tostring(0.5):match("^0(.-)5$")
end

-- lua-cjson has noted the decimal point when it was loaded, and goes by that for ever.
local noted
do
  local ok, list = pcall(json.decode, "[0.5]")
  noted = ok and list[1] == 0.5 and json.encode(0.5) == "0.5" and decimal_point() or nil
end
-- Whether it is another one now: then lua-cjson gets no number with one to see.
local careful = false

local function look_at_locale()
  careful = decimal_point() ~= noted
end

local codec = {}

local MAX_DEPTH <const> = 100
-- All whole numbers below this have at most 14 digits.
local SHORT <const> = 10 ^ 14 // 1 | 0
-- All whole numbers up to this are doubles.
local EXACT <const> = 1 << 53
-- What an integer beyond it looks like, between others.
local LONG_INTEGER <const> = "%f[%d.]" .. ("%d"):rep(16)

local math_type <const>, tointeger <const> = math.type, math.tointeger

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

-- Whether lua-cjson, which may write 14 digits, writes a number without rounding it.
local function is_short(v)
  if math_type(v) == "integer" then
    return v < SHORT and v > -SHORT
  elseif v // 1 == v and v < SHORT and v > -SHORT then
    return v ~= 0 or 1 / v > 0
  elseif careful then
    return false
  end
  -- One of at most 6 decimals is the quotient of two numbers that are exact.
  local k = v * 1e6
  return k // 1 == k and k < SHORT and k > -SHORT and k / 1e6 == v
    or tonumber(("%.14g"):format(v)) == v
end

-- A key, as paths have it.
local function step(k)
  if type(k) == "number" then
    return ("[%s]"):format(k)
  elseif type(k) ~= "string" then
    return ("[%s]"):format(describe(k))
  end
  return k:find("^[%a_][%w_]*$") and "." .. k or ("[%q]"):format(k)
end

-- What is wrong with the keys of a table: JSON has arrays without holes, and objects whose keys
-- are strings, and no table that is both.
local function wrong_keys(t)
  local count, most, named = 0, 0, false
  for k in next, t do
    if type(k) == "string" then
      named = true
    elseif math_type(k) ~= "integer" or k < 1 then
      return "a key that is " .. (type(k) == "number" and "the number " .. k or describe(k))
    else
      count = count + 1
      most = k > most and k or most
    end
  end
  if named and cjson.array_mt and getmetatable(t) == cjson.array_mt then
    return "an array with strings as keys"
  elseif named and count > 0 then
    return "a table with both numbers and strings as keys"
  elseif count ~= most then
    return "a list with holes"
  end
  return nil
end

-- The path to the first value that JSON cannot say, and what it is.
local function culprit(value, path, parents, depth)
  local kind = type(value)
  if kind == "nil" or kind == "boolean" or kind == "string" or value == cjson.null
    or value == cjson.empty_array
  then
    return nil
  elseif kind == "number" then
    if value ~= value or value == math.huge or value == -math.huge then
      return path .. ": " .. describe(value)
    end
    return nil
  elseif kind ~= "table" then
    return path .. ": " .. describe(value)
  elseif parents[value] then
    return path .. ": a cycle"
  elseif depth > MAX_DEPTH then
    return path .. ": nested too deeply"
  end
  local wrong = wrong_keys(value)
  if wrong then
    return path .. ": " .. wrong .. ", which JSON cannot keep (the serialisers \"lua\" and "
      .. "\"msgpack\" can)"
  end
  parents[value] = true
  for k, v in next, value do
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

local function explain(path, value, message)
  local problem = culprit(value, path, {}, 1)
  if problem then
    return problem
  elseif type(value) == "table" and not pcall(json.encode, value) then
    path = innermost(value, path)
  end
  return path .. ": " .. message:gsub("^.-: ", "")
end

-- Bytes that no other string has: what is to stand in the text without quotes, or to be read
-- otherwise than lua-cjson does, passes it as a string that begins with these.
local mark <const> = ("%016x%016x"):format(math.random(0), math.random(0))

local FORMATS <const> = { "%.14g", "%.15g", "%.16g", "%.17g" }

-- A number as JSON; raises where there is no such thing.
local function number_text(v)
  if math_type(v) == "integer" then
    return tostring(v)
  elseif v ~= v or v == math.huge or v == -math.huge then
    error(describe(v), 0)
  elseif v == 0 then
    return 1 / v > 0 and "0" or "-0.0"
  end
  for _, format in ipairs(FORMATS) do
    local text = format:format(v)
    if tonumber(text) == v then
      return (text:gsub("[^%deE+-]+", "."))
    end
  end
end

-- Whether lua-cjson writes all that is in a table as it is. Only for what it could encode, which
-- has an end. Raises where keys cannot be kept.
local function is_plain(t)
  if next(t) == nil then
    return getmetatable(t) ~= empty_array
  end
  local plain, count, most, named = true, 0, 0, false
  for k, v in next, t do
    local kind = type(v)
    if kind == "number" and not is_short(v) or kind == "table" and not is_plain(v) then
      plain = false
    end
    if math_type(k) == "integer" then
      count = count + 1
      most = k > most and k or most
    else
      named = true
    end
  end
  if count > 0 and (named or count ~= most) or named and wrong_keys(t) then
    error("keys", 0)
  end
  return plain
end

-- A copy in which marked strings stand for what is not plain.
local function marked(value)
  if type(value) == "number" then
    return is_short(value) and value or mark .. number_text(value)
  elseif type(value) ~= "table" then
    return value
  end
  local meta = getmetatable(value)
  if next(value) == nil and meta == empty_array then
    return mark .. "[]"
  end
  local copy = {}
  if meta and (meta == cjson.array_mt or meta == cjson.empty_array_mt) then
    setmetatable(copy, meta)
  end
  for k, v in next, value do
    copy[k] = marked(v)
  end
  return copy
end

local function encode(value)
  if type(value) == "number" then
    return number_text(value)
  end
  local text = json.encode(value)
  if type(value) ~= "table" or is_plain(value) then
    return text
  end
  return (json.encode(marked(value)):gsub('"' .. mark .. '([^"]*)"', "%1"))
end

--- Encodes a list.
-- @tparam string what names the list in errors
-- @param ... values
-- @treturn[1] string
-- @treturn[2] nil
-- @treturn[2] string the path to what cannot be encoded
function codec.encode(what, ...)
  look_at_locale()
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
      return nil, explain(("%s[%d]"):format(what, i), value, tostring(text))
    end
    parts[i] = text
  end
  return "[" .. table.concat(parts, ",") .. "]"
end

-- Copies a text, and has what is outside of its strings replaced.
local function outside_strings(text, replace)
  local parts, at = {}, 1
  while true do
    local quote = text:find('"', at, true)
    parts[#parts + 1] = replace(text:sub(at, (quote or 0) - 1))
    if not quote then
      return table.concat(parts)
    end
    local stop = text:find('["\\]', quote + 1)
    while text:byte(stop) == 92 do -- a backslash, and what it escapes
      stop = text:find('["\\]', stop + 2)
    end
    parts[#parts + 1] = text:sub(quote, stop)
    at = stop + 1
  end
end

-- Whether JSON has a number of this form.
local function is_number(token)
  local rest = token:match("^%-?[1-9]%d*(.*)$") or token:match("^%-?0(.*)$")
  rest = rest and rest:gsub("^%.%d+", ""):gsub("^[eE][+-]?%d+$", "")
  return rest == ""
end

-- An integer that a double may not keep is marked. With another decimal point lua-cjson reads no
-- number well: where that is a comma, [1,5] is 1.5.
local function mark_integer(token)
  if #token >= 16 and token:find("^%-?%d+$") or careful and is_number(token) then
    return '"' .. mark .. token .. '"'
  end
end

local function mark_integers(text)
  return (text:gsub("[%d.eE+-]+", mark_integer))
end

local function mark_all(text)
  return (mark_integers(text):gsub("%[%s*%]", '["' .. mark .. '"]'))
end

-- JSON has one kind of number: those without a fraction become integers. Returns whether any is
-- so large that it may be a rounded integer.
local function integers(t)
  local large = false
  for k, v in next, t do
    local kind = type(v)
    if kind == "number" then
      local i = tointeger(v)
      if i and (i ~= 0 or 1 / v > 0) then
        t[k] = i
      end
      large = large or v >= EXACT or v <= -EXACT
    elseif kind == "table" then
      large = integers(v) or large
    end
  end
  return large
end

-- Puts what they stand for in the place of marked strings.
local function unmark(t)
  if t[1] == mark then
    t[1] = nil
    setmetatable(t, empty_array)
    return
  end
  for k, v in next, t do
    local kind = type(v)
    if kind == "string" and v:sub(1, #mark) == mark then
      local number = tonumber((v:sub(#mark + 1):gsub("%.", decimal_point())))
      local i = tointeger(number)
      t[k] = i and (i ~= 0 or 1 / number > 0) and i or number
    elseif kind == "table" then
      unmark(v)
    end
  end
end

-- Decodes an array or an object; lua-cjson checks it before anything is marked.
local function decode(text, keep_empty)
  look_at_locale()
  local value = json.decode(careful and outside_strings(text, mark_integers) or text)
  local inexact = integers(value) and text:find(LONG_INTEGER)
  local empty = keep_empty and text:find("%[%s*%]")
  if inexact or empty then
    value = json.decode(outside_strings(text, empty and mark_all or mark_integers))
    integers(value)
  end
  if inexact or empty or careful then
    unmark(value)
  end
  return value
end

--- Decodes what `encode` made. A null at the top level is nil, deeper it is `cjson.null`.
-- @tparam string text
-- @return the values
-- @raise what is wrong with the text
function codec.decode(text)
  if not text:find("^%s*%[") then
    error("not a JSON array", 0)
  end
  local list = decode(text)
  local n = #list
  for i = 1, n do
    if list[i] == cjson.null then
      list[i] = nil
    end
  end
  return table.unpack(list, 1, n)
end

-- What stands for a descriptor is an object with this key alone.
local FD <const> = "\0tine.fd"

-- A copy in which indices stand for descriptors. What cannot be encoded stays.
local function without_fds(put, value, path, depth)
  local kind = type(value)
  if kind ~= "table" and kind ~= "userdata" or value == cjson.null then return value end
  local meta = debug.getmetatable(value)
  if kind == "userdata" or meta and rawget(meta, "__index") then
    local index, problem = put(value)
    if index then return { [FD] = index } end
    if problem then error(path .. ": " .. problem, 0) end
  end
  if kind == "userdata" or depth > MAX_DEPTH then return value end
  local copy = setmetatable({}, (meta == cjson.array_mt or meta == empty_array) and meta or nil)
  for k, v in next, value do
    if k == FD then error(path .. ": a key that stands for descriptors", 0) end
    copy[k] = without_fds(put, v, path .. step(k), depth + 1)
  end
  return copy
end

--- As `encode`, with descriptors.
-- @tparam function put takes a value, gives its index; nil, and a message if it may not be sent
-- @tparam string what
-- @param ... values
function codec.encode_fds(put, what, ...)
  local list = table.pack(...)
  for i = 1, list.n do
    local ok, value = pcall(without_fds, put, list[i], ("%s[%d]"):format(what, i), 1)
    if not ok then return nil, value end
    list[i] = value
  end
  return codec.encode(what, table.unpack(list, 1, list.n))
end

-- Puts the descriptors in their places.
local function with_fds(take, value)
  if type(value) ~= "table" then return value end
  local k, index = next(value)
  if k == FD and next(value, k) == nil then return take(index) end
  for key, v in next, value do
    if type(v) == "table" then value[key] = with_fds(take, v) end
  end
  return value
end

--- As `decode`, of values that came with descriptors.
-- @tparam function take gives the descriptor with an index, or raises
-- @tparam string text
function codec.decode_fds(take, text)
  local list = table.pack(codec.decode(text))
  for i = 1, list.n do
    list[i] = with_fds(take, list[i])
  end
  return table.unpack(list, 1, list.n)
end

--- Encodes one value, which may be nil. A table that is empty is an object, unless it was an
-- array when `read` made it.
-- @tparam string what names the value in errors
-- @param value
-- @treturn string
-- @raise the path to what cannot be encoded
function codec.write(what, value)
  if value == nil then
    return "null"
  end
  look_at_locale()
  local ok, text = pcall(encode, value)
  if not ok then
    error(explain(what, value, tostring(text)), 0)
  end
  return text
end

--- Decodes one value: numbers without a fraction that have 64 bits are integers, null is
-- `cjson.null`.
-- @tparam string text
-- @return the value
-- @raise what is wrong with the text
function codec.read(text)
  local ok, list = pcall(decode, "[" .. text .. "]", true)
  if not ok or #list ~= 1 then
    local _, problem = pcall(json.decode, text) -- which counts from where the text begins
    error("not a JSON value: " .. tostring(problem), 0)
  end
  return list[1]
end

return codec
