-- New workers against what their template has loaded, on one CPU.
local function forked(mb, more)
  return ("{lua} {bench}/spawn.lua -l %d%s"):format(mb, more or "")
end

local function sizes(settings)
  return settings.quick and { 10, 100, 1000 } or { 10, 100, 1000, 2000, 4000 }
end

return function(settings)
  local family = {
    title = "New worker, run, exit, end seen, against what the template has loaded, one CPU",
    picture = "rate",
    unit = "workers/s",
    base = "empty",
    variants = {
      { id = "empty", cpus = 1, ours = true, label = "tine, nothing loaded", mb = 0,
        command = forked(0) },
    },
    targets = {},
  }
  local function add(id, label, mb, command, ours)
    table.insert(family.variants, { id = id .. mb, cpus = 1, ours = ours, mb = mb, series = id,
      host_mb = mb, label = ("%s, %d MB loaded"):format(label, mb), command = command })
  end
  for _, mb in ipairs(sizes(settings)) do add("tine", "tine", mb, forked(mb), true) end
  for _, mb in ipairs(sizes(settings)) do
    if mb <= 2000 then
      add("malloc", "tine, TINE_HEAP=malloc", mb, "env TINE_HEAP=malloc " .. forked(mb), true)
      add("c", "bare C, fork of anonymous memory", mb, "{bin}/spawn_c -m " .. mb)
    end
    if mb <= 1000 then
      add("ae", "AnyEvent::Fork (Perl)", mb, "perl {bench}/aefork.pl -l " .. mb)
    end
  end
  for mb, ratio in pairs { [1000] = 0.8, [2000] = 0.7 } do
    for _, size in ipairs(sizes(settings)) do
      if size == mb then
        table.insert(family.targets, { of = "tine" .. mb, over = "empty", at_least = ratio,
          what = ("new worker: template with %d MB of Lua / an empty one"):format(mb) })
      end
    end
  end
  return family
end
