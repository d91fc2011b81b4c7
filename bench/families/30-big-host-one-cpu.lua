-- What the host's size costs: nothing, since the host does not fork itself. On one CPU.
local settings = ...
local mb = tonumber(settings.names.host_mb)
local size = mb % 1024 == 0 and mb // 1024 .. " GB" or mb .. " MB"

return {
  title = "The same from a host of " .. size .. ": one after another, on one CPU",
  unit = "workers/s",
  base = "small",
  variants = {
    { id = "small", cpus = 1, ours = true, label = "tine, small host",
      command = "{lua} {bench}/spawn.lua" },
    { id = "big", cpus = 1, ours = true, host_mb = mb, label = "tine, " .. size .. " host",
      command = "{lua} {bench}/spawn.lua -m {host_mb}" },
    { id = "host", cpus = 1, ours = true, full = true, label = "libtine, from C, small host",
      command = "{bin}/spawn_host" },
    { id = "bighost", cpus = 1, ours = true, full = true, host_mb = mb,
      label = "libtine, from C, " .. size .. " host",
      command = "{bin}/spawn_host -m {host_mb}" },
    { id = "c", cpus = 1, host_mb = mb, label = "bare C: plain fork, " .. size .. " host",
      command = "{bin}/spawn_c -m {host_mb}" },
  },
  targets = {
    { what = size .. " host, one after another, one CPU: tine / tine from a small host",
      of = "big", over = "small", at_least = 0.95 },
  },
}
