-- Says what is wrong with the name of an entry function: what is there instead, nearest first.
-- Loaded in a child, and only when a name was not found.

local function distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local diagonal
    diagonal, row[0] = row[0], i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      diagonal, row[j] = row[j], math.min(row[j] + 1, row[j - 1] + 1, diagonal + cost)
    end
  end
  return row[#b]
end

local function functions_of(t, prefix, list)
  for k, v in next, t do
    if type(k) == "string" and type(v) == "function" then list[#list + 1] = prefix .. k end
  end
end

local standard = { _G = true, package = true, coroutine = true, table = true, io = true, os = true,
  string = true, math = true, utf8 = true, debug = true }

local function candidates()
  local list, modules = {}, {}
  functions_of(_G, "", list)
  for name, value in next, package.loaded do
    if type(name) == "string" and name ~= "_G" then
      if type(value) == "function" then list[#list + 1] = name end
      if type(value) == "table" then functions_of(value, name .. ".", list) end
      if not standard[name] then modules[#modules + 1] = name end
    end
  end
  table.sort(modules)
  return list, modules
end

local function nearest(name, list)
  local last = name:match("[^.]*$")
  local scored = {}
  for _, other in ipairs(list) do
    local d = math.min(distance(name, other), distance(last, other:match("[^.]*$")) + 1)
    if d <= math.max(2, #name // 3) then scored[#scored + 1] = { d, other } end
  end
  table.sort(scored, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    return a[2] < b[2]
  end)
  local names = {}
  for i = 1, math.min(5, #scored) do names[i] = "'" .. scored[i][2] .. "'" end
  return names
end

local function why(name)
  local module, field = name:match("^(.*)%.([^.]*)$")
  if module and package.loaded[module] ~= nil then
    local value = package.loaded[module]
    if type(value) ~= "table" then
      return ("module '%s' is loaded, but is a %s"):format(module, type(value))
    end
    if value[field] ~= nil then
      return ("'%s' is a %s"):format(name, type(value[field]))
    end
    return ("module '%s' is loaded, but has no '%s'"):format(module, field)
  elseif module then
    return ("module '%s' is not loaded, and there is no such global"):format(module)
  elseif _G[name] ~= nil then
    return ("the global '%s' is a %s"):format(name, type(_G[name]))
  end
  return "no loaded module and no global has that name"
end

return function(name)
  local list, modules = candidates()
  local near = nearest(name, list)
  local parts = { ("no function '%s': %s"):format(name, why(name)) }
  if #near > 0 then parts[#parts + 1] = "near names: " .. table.concat(near, ", ") end
  local loaded = table.concat(modules, ", ", 1, math.min(#modules, 40))
  parts[#parts + 1] = "loaded modules: " .. (loaded ~= "" and loaded or "none but Lua's own")
  return table.concat(parts, "; ")
end
