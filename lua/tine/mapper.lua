--- The worker's side of `tine map`: a line in, a line of text out. Knows nothing of the host.
-- @module tine.mapper
local mapper = {}

local work -- what is called with each line and its number
local json -- the codec, with --json

--- Compiles the code of `tine map -e`: an expression, or a chunk that returns something.
-- @tparam string code uses `line` and `n`, or `...`
-- @treturn[1] function
-- @treturn[2] nil
-- @treturn[2] string what is wrong with it
function mapper.compile(code)
  local head = "local line, n = ...; "
  local fn = load(head .. "return " .. code, "=-e", "t")
  if fn then
    return fn
  end
  return load(head .. code, "=-e", "t")
end

local function find(name)
  return require("tine.core").child().lookup(name)
end

--- Called once, in the template.
-- @tparam string kind `"code"` or `"name"`: what the next one is
-- @tparam string what
-- @tparam string format `"json"`: lines are JSON values, and results become some
-- @param ... names of loaded modules that become globals, as those of `lua -l` do
function mapper.setup(kind, what, format, ...)
  for _, name in ipairs { ... } do
    if _G[name] == nil then
      _G[name] = package.loaded[name]
    end
  end
  work = kind == "code" and assert(mapper.compile(what)) or find(what)
  if format == "json" then
    json = require "tine.codec_json"
  end
end

local HINTS <const> = {
  ["function"] = "return what it returns",
  table = "--json prints it as JSON, table.concat makes a line of it",
}

-- An address is nobody's result.
local function word(value, i)
  local kind = type(value)
  if kind == "string" or kind == "number" or kind == "boolean" or kind == "nil" then
    return tostring(value)
  end
  local meta = debug.getmetatable(value)
  if type(meta) == "table" and rawget(meta, "__tostring") then
    return tostring(value)
  end
  local hint = HINTS[kind]
  error(("result[%d]: a %s%s"):format(i, kind, hint and (" (%s)"):format(hint) or ""), 0)
end

local function text(...)
  local n = select("#", ...)
  if n == 0 then
    return
  end
  local words = {}
  for i = 1, n do
    words[i] = word((select(i, ...)), i)
  end
  return table.concat(words, "\t")
end

local function json_text(...)
  local n = select("#", ...)
  if n > 1 then
    error(("%d results, where --json prints one value: return a list of them"):format(n), 0)
  elseif n == 1 then
    return json.write("result", (...))
  end
end

--- A job.
-- @tparam string line
-- @tparam string number
-- @treturn ?string what is to be printed, if anything
function mapper.run(line, number)
  local n = math.tointeger(number)
  if json then
    return json_text(work(json.read(line), n))
  end
  return text(work(line, n))
end

return mapper
