-- What is copied of 1 GB by a worker that allocates, and collects as it goes.
return function(settings)
  local mb = settings.quick and 100 or 1000
  local command = "{lua} {bench}/keep.lua -l " .. mb
  return {
    title = ("A worker makes 10 million tables and strings on %d MB: copied of those"):format(mb),
    key = "percent",
    unit = "%",
    also = {
      { key = "most_mb", label = "its own memory at most, MB" },
      { key = "alive_mb", label = "alive at the end, MB" },
      { key = "of_bound", label = "at most / (4 × alive + 16 MB)" },
    },
    variants = {
      { id = "drop", cpus = 1, ours = true, host_mb = mb, label = "all are garbage at once",
        command = command },
      { id = "keep", cpus = 1, ours = true, host_mb = mb,
        label = "the last 500 000 are kept: garbage is old", command = command .. " -w" },
    },
    targets = {
      { what = "copied of what is shared, by 10 million allocations, %", of = "drop", at_most = 2 },
      { what = "the same, where garbage is old, %", of = "keep", at_most = 2 },
    },
  }
end
