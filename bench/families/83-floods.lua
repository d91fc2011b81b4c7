-- A pool beside something that sends without end.
return {
  title = "Calls to a pool of one worker beside a flood, two CPUs",
  unit = "calls/s",
  base = "one",
  variants = {
    { id = "one", cpus = 2, ours = true, label = "one at a time, no flood",
      command = "{lua} {bench}/calls.lua -k 1 -w 1" },
    { id = "events", cpus = 2, ours = true, label = "one at a time, two workers' empty events",
      command = "{lua} {bench}/calls.lua -k 1 -w 1 -f 1" },
    { id = "lines", cpus = 2, ours = true, label = "one at a time, a process' empty lines",
      command = "{lua} {bench}/calls.lua -k 1 -w 1 -f 2" },
    { id = "many", cpus = 2, ours = true, label = "64 under way, no flood",
      command = "{lua} {bench}/calls.lua -k 64 -w 1" },
    { id = "many_events", cpus = 2, ours = true, label = "64 under way, two workers' empty events",
      command = "{lua} {bench}/calls.lua -k 64 -w 1 -f 1" },
    { id = "many_lines", cpus = 2, ours = true, label = "64 under way, a process' empty lines",
      command = "{lua} {bench}/calls.lua -k 64 -w 1 -f 2" },
  },
  targets = {
    { what = "64 under way beside empty events / without", of = "many_events", over = "many",
      at_least = 0.8 },
    { what = "64 under way beside empty lines / without", of = "many_lines", over = "many",
      at_least = 0.8 },
  },
}
