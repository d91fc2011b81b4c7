-- What a user writes who has set nothing: pools with their defaults, pool:map, coroutines.
return {
  title = "Calls to a pool of two workers with its defaults, two CPUs",
  unit = "calls/s",
  base = "best",
  variants = {
    { id = "best", cpus = 2, ours = true, label = "tine, callbacks, load 64",
      command = "{lua} {bench}/defaults.lua -l 64" },
    { id = "tine", cpus = 2, ours = true, label = "tine, callbacks",
      command = "{lua} {bench}/defaults.lua" },
    { id = "map", cpus = 2, ours = true, label = "tine, pool:map",
      command = "{lua} {bench}/defaults.lua -m" },
    { id = "coroutines", cpus = 2, ours = true, label = "tine, 64 coroutines",
      command = "{lua} {bench}/defaults.lua -c" },
  },
  targets = {
    { what = "pool, defaults: callbacks / the same with load 64", of = "tine", over = "best",
      at_least = 0.8 },
  },
}
