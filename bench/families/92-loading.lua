-- Loading a template, and sealing it for its first fork. One CPU.
return function(settings)
  local mb = settings.quick and 100 or 500
  local command = "{lua} {bench}/load.lua -l " .. mb
  return {
    title = ("Loading %d MB of Lua into a template, up to its first fork"):format(mb),
    unit = "MB/s",
    base = "malloc",
    variants = {
      { id = "malloc", cpus = 1, ours = true, host_mb = mb, label = "tine, TINE_HEAP=malloc",
        command = "env TINE_HEAP=malloc " .. command },
      { id = "copied", cpus = 1, ours = true, host_mb = 2 * mb,
        label = "the same, and one copy of the memory",
        command = "env TINE_HEAP=malloc " .. command .. " -c" },
      { id = "tine", cpus = 1, ours = true, host_mb = mb, label = "tine", command = command },
    },
    targets = {
      { what = "loading a template and sealing it / by malloc, and one copy", of = "tine",
        over = "copied", at_least = 1 },
    },
  }
end
