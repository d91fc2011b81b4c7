--- Measures the variants of a family against each other, and judges its targets.
--
-- A family is a table, one in each file of bench/families:
--   title      heading of its table
--   key, unit  what is compared: the name of a number that the programs answer with
--              (default "rate"), and its unit, for the heading
--   base       id of the variant that the others are shown as multiples of
--   rounds     how many, if not as many as of others
--   also       other numbers of the programs', to be shown below each: a list of key, label,
--              and of, the key of what it is shown as a share of
--   picture    which of the pictures of bench/plot shows it
--   variants   a list; its programs are all started, and then measured in turns:
--     id, label   its name in this file, and for the reader
--     command     for sh, with {bin} (the C programs), {bench} (this folder), {lua} and
--                 {host_mb} filled in; speaks with interleave as bench.h says
--     cpus        on how many CPUs it may run, 1 or 2
--     host_mb     about how much memory it takes, if much
--     files       how many descriptors, if many
--     ours        true: it is tine's, and a failure fails the benchmark; run with another tine as
--                 well where the settings have a baseline
--     full        true: left out by QUICK
--   targets    a list of what is promised:
--     what        in words
--     of, over    ids: the promise is about the ratio of these; without over, of the figure
--     key, share  without over, instead of the figure: another number of the programs', as it
--                 is or, in percent, as a share of a third
--     at_least, at_most
local machine = require "machine"

local measure = {}

local function fill(command, names)
  return (command:gsub("{([%w_]+)}", function(name)
    return assert(names[name], "unknown name in a family: " .. name)
  end))
end

--- Why a variant cannot be measured here, or nil; given the memory that others take, in MB.
local function obstacle(variant, settings, taken)
  if settings.quick and variant.full then return "not with QUICK" end
  if variant.cpus > #settings.cpus then return "needs " .. variant.cpus .. " CPUs" end
  if variant.files and not machine.allow_files(variant.files) then
    return ("needs %d open files (ulimit -n)"):format(variant.files)
  end
  if variant.host_mb and taken + variant.host_mb * 1.2 > machine.available_mb() - 512 then
    return ("not enough memory for a host of %d MB"):format(variant.host_mb)
  end
  return nil
end

--- What the variant's command needs and has not, or nil.
local function not_built(variant, names)
  local path = variant.command:match("{bin}/[%w_]+")
  path = path and fill(path, names)
  return path and not machine.exists(path) and "not built: " .. path or nil
end

--- The same program with the other tine, noted in the variant as its baseline; nil where there
-- is none, or it cannot be measured.
local function baseline_for(variant, settings, taken)
  local other = variant.ours and settings.baseline
  if not other or obstacle(variant, settings, taken) or not_built(variant, other.names) then
    return nil
  end
  variant.baseline = { command = variant.command, cpus = variant.cpus, files = variant.files,
    of = other, answers = {}, values = {} }
  return variant.baseline
end

--- The variants that can be measured, each before its baseline; notes in the others why not.
local function measurable(variants, settings)
  local present, taken = {}, 0
  for _, variant in ipairs(variants) do
    variant.answers, variant.values = {}, {}
    variant.skip = obstacle(variant, settings, taken)
    variant.fail = not variant.skip and not_built(variant, settings.names) or nil
    if not variant.skip and not variant.fail then
      taken = taken + (variant.host_mb or 0) * 1.2
      present[#present + 1] = variant
      local baseline = baseline_for(variant, settings, taken)
      if baseline then
        taken = taken + (variant.host_mb or 0) * 1.2
        present[#present + 1] = baseline
      end
    end
  end
  return present
end

local function command_of(variant, settings)
  local cpus = table.concat(settings.cpus, ",", 1, variant.cpus)
  local tine = variant.of or settings
  local limit = variant.files and ("ulimit -n %d && "):format(variant.files) or ""
  return ("%sexec env %s taskset -c %s %s"):format(limit, tine.environment, cpus,
    fill(variant.command, tine.names))
end

--- Median, least and greatest of a list of numbers.
local function summary(values)
  local sorted, n = table.move(values, 1, #values, 1, {}), #values
  table.sort(sorted)
  local median = (sorted[(n + 1) // 2] + sorted[n // 2 + 1]) / 2
  return { median = median, min = sorted[1], max = sorted[n], rounds = n }
end

local function numbers(words)
  local result = {}
  for name, value in words:gmatch("([%w_]+)=(%S+)") do result[name] = tonumber(value) end
  return result
end

--- Runs the programs of the variants in turns; notes in each its answers or its failure.
local function interleave(variants, settings, rounds)
  local command = { settings.names.bin .. "/interleave", rounds or settings.rounds,
    settings.seconds, settings.deadline }
  for _, variant in ipairs(variants) do
    command[#command + 1] = machine.quote(command_of(variant, settings))
  end
  local pipe = assert(io.popen(table.concat(command, " ")))
  for line in pipe:lines() do
    local index, kind, rest = line:match("^(%d+) (%a+) (.*)")
    local variant = variants[tonumber(index)]
    if variant and kind == "result" then
      variant.answers[#variant.answers + 1] = numbers(rest)
    elseif variant then
      variant[kind] = rest
    end
  end
  if not pipe:close() then error("bench/interleave failed", 0) end
end

--- The ratios of two variants' figures, round by round.
local function ratios(of, over, key)
  local result = {}
  for i, answer in ipairs(of.answers) do
    local other = over.answers[i]
    if other and other[key] > 0 then result[#result + 1] = answer[key] / other[key] end
  end
  return result
end

--- A number of each of the answers, or the share that it is of another, in percent.
local function shares(answers, key, whole)
  local result = {}
  for i, answer in ipairs(answers) do
    result[i] = whole and answer[key] / answer[whole] * 100 or answer[key]
  end
  return result
end

local function why_missing(variant)
  return variant.fail or variant.skip or "not measured"
end

--- Sets in target: result, a summary of the ratio or the figure, and reached; or missing.
local function judge(target, by_id, key)
  local of, over = by_id[target.of], target.over and by_id[target.over]
  for _, variant in ipairs { of, over } do
    if variant.fail or #variant.answers == 0 then
      target.missing = variant.label .. ": " .. why_missing(variant)
      return
    end
  end
  if over then
    target.result = summary(ratios(of, over, key))
  else
    target.result = summary(shares(of.answers, target.key or key, target.share))
  end
  local median = target.result.median
  target.reached = median >= (target.at_least or -math.huge)
    and median <= (target.at_most or math.huge)
end

local function check(family, by_id)
  for _, target in ipairs(family.targets) do
    assert(by_id[target.of], "a target of an unknown variant")
    assert(not target.over or by_id[target.over], "a target over an unknown variant")
  end
  assert(not family.base or by_id[family.base], "an unknown base")
end

--- Sets in the variant how many times its baseline it is.
local function compare(variant, key)
  local against = ratios(variant, variant.baseline, key)
  if #against > 0 then variant.to_baseline = summary(against) end
  variant.baseline.of = nil
end

--- Measures a family, filling in its variants (figure, ratio, or skip or fail with the
-- reason) and its targets.
-- @tparam table family
-- @tparam table settings rounds, seconds, deadline, quick, cpus (a list), environment (for
-- env), names (for the commands), baseline (nil, or its environment and names)
function measure.family(family, settings)
  local key, by_id = family.key or "rate", {}
  family.targets = family.targets or {}
  for _, variant in ipairs(family.variants) do by_id[variant.id] = variant end
  local present = measurable(family.variants, settings)
  check(family, by_id)
  if #present > 0 then interleave(present, settings, family.rounds) end

  local base = by_id[family.base]
  for _, variant in ipairs(present) do
    for i, answer in ipairs(variant.answers) do variant.values[i] = answer[key] end
    if #variant.values > 0 then variant.figure = summary(variant.values) end
    local against = base and ratios(variant, base, key) or {}
    if #against > 0 then variant.ratio = summary(against) end
    if variant.baseline then compare(variant, key) end
  end
  for _, target in ipairs(family.targets) do judge(target, by_id, key) end
end

return measure
