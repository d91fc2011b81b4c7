--- Prints what was measured as tables, and writes it as JSON.
local report = {}

--- Cuts or pads to a width in characters, not bytes.
local function pad(text, width)
  local len = utf8.len(text) or #text
  if len > width then return text:sub(1, utf8.offset(text, width) - 1) .. "…" end
  return text .. (" "):rep(width - len)
end

local function number(value)
  if math.type(value) == "integer" then return ("%d"):format(value) end
  if value >= 1000 then return ("%d"):format(math.floor(value + 0.5)) end
  if value >= 100 then return ("%.0f"):format(value) end
  if value >= 10 then return ("%.1f"):format(value) end
  return ("%.2f"):format(value)
end

local function range(summary)
  return number(summary.min) .. " to " .. number(summary.max)
end

local function row(label, ...)
  local cells = { "  " .. pad(label, 50) }
  for _, cell in ipairs { ... } do cells[#cells + 1] = ("%17s"):format(cell) end
  print((table.concat(cells):gsub("%s+$", "")))
end

--- What a variant's program tells besides its figure, in its last answer.
local function also_rows(variant, also)
  local answer = variant.answers[#variant.answers]
  for _, other in ipairs(also) do
    local value, whole = answer[other.key], other.of and answer[other.of]
    if value then
      row("    " .. other.label, number(value), whole and ("%.2f %%"):format(value / whole * 100))
    end
  end
end

--- The cells that hold a variant against its baseline, if it has one.
local function against_baseline(variant)
  local baseline = variant.baseline
  if not baseline then return "", "", "" end
  local ratio = variant.to_baseline
  if not ratio then return baseline.fail and "FAILED" or "-", "", "" end
  return number(baseline.figure.median), ("%.3f"):format(ratio.median),
    ("%.2f to %.2f"):format(ratio.min, ratio.max)
end

--- Prints the table of a family.
-- @tparam table family
-- @tparam[opt] boolean compared there are baselines
function report.family(family, compared)
  print()
  print(family.title)
  row("", family.unit, "spread", family.base and "ratio" or "",
    table.unpack(compared and { "baseline", "ratio to it", "spread" } or {}))
  for _, variant in ipairs(family.variants) do
    if variant.figure then
      row(variant.label, number(variant.figure.median), range(variant.figure),
        variant.ratio and ("%.2f"):format(variant.ratio.median) or "", against_baseline(variant))
      also_rows(variant, family.also or {})
    end
    if not variant.figure or variant.fail then
      print(("  %s  %s"):format(pad(variant.label, 50),
        variant.fail and "FAILED: " .. variant.fail or variant.skip or "not measured"))
    end
  end
end

local function bound(target)
  return target.at_least and ("≥ %g"):format(target.at_least)
    or ("≤ %g"):format(target.at_most)
end

--- Prints each promise and what became of it; returns how many were missed or could not be
-- judged.
function report.targets(families)
  local short = 0
  print()
  print("Targets")
  for _, family in ipairs(families) do
    for _, target in ipairs(family.targets) do
      if target.result then
        print(("  %-8s %s %s  (%s)  must be %s"):format(target.reached and "reached" or "MISSED",
          pad(target.what, 76), number(target.result.median), range(target.result),
          bound(target)))
      else
        print(("  unknown  %s %s"):format(pad(target.what, 76), target.missing))
      end
      if not target.reached then short = short + 1 end
    end
  end
  return short
end

--- Prints what the figures were taken on.
function report.facts(facts, settings)
  print(("%s · %d CPUs · %d MB · %s · %s"):format(facts.cpu, facts.cpus, facts.memory_mb,
    facts.kernel, facts.date))
  print(("medians of %d rounds of %g s each, all programs of a table in turns%s"):format(
    settings.rounds, settings.seconds, settings.quick and "; QUICK: rough figures" or ""))
  if settings.baseline then print("baseline: " .. settings.baseline.root) end
end

local encode

local function encode_string(text)
  return '"' .. text:gsub('[%c"\\]', function(c)
    return ("\\u%04x"):format(c:byte())
  end) .. '"'
end

local function encode_table(value, indent)
  local parts, inner = {}, indent .. "  "
  if value[1] ~= nil or next(value) == nil then
    for i, item in ipairs(value) do parts[i] = encode(item, inner) end
    if type(value[1]) ~= "table" then return "[" .. table.concat(parts, ", ") .. "]" end
    return "[\n" .. inner .. table.concat(parts, ",\n" .. inner) .. "\n" .. indent .. "]"
  end
  for name, item in pairs(value) do
    parts[#parts + 1] = encode_string(name) .. ": " .. encode(item, inner)
  end
  table.sort(parts)
  return "{\n" .. inner .. table.concat(parts, ",\n" .. inner) .. "\n" .. indent .. "}"
end

function encode(value, indent)
  if type(value) == "table" then return encode_table(value, indent) end
  if type(value) == "string" then return encode_string(value) end
  if math.type(value) == "float" then return ("%.10g"):format(value) end
  return tostring(value)
end

--- Writes everything as JSON.
-- @tparam string path
-- @tparam table all machine, settings and families, as measured
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] string message
function report.write_json(path, all)
  local file, message = io.open(path, "w")
  if not file then return nil, message end
  file:write(encode(all, ""), "\n")
  return file:close()
end

return report
