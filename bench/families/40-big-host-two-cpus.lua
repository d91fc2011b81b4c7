-- What the host's size costs, with 8 under way on two CPUs.
local settings = ...
local mb = tonumber(settings.names.host_mb)
local size = mb % 1024 == 0 and mb // 1024 .. " GB" or mb .. " MB"

return {
  title = "The same from a host of " .. size .. ": 8 under way, on two CPUs",
  unit = "workers/s",
  base = "small",
  variants = {
    { id = "small", cpus = 2, ours = true, label = "tine, small host",
      command = "{lua} {bench}/spawn.lua -k 8" },
    { id = "big", cpus = 2, ours = true, host_mb = mb, label = "tine, " .. size .. " host",
      command = "{lua} {bench}/spawn.lua -k 8 -m {host_mb}" },
    { id = "c", cpus = 2, full = true, host_mb = mb,
      label = "bare C: plain fork, " .. size .. " host",
      command = "{bin}/spawn_c -k 8 -m {host_mb}" },
  },
  targets = {
    { what = size .. " host, 8 under way, two CPUs: tine / tine from a small host",
      of = "big", over = "small", at_least = 0.95 },
  },
}
