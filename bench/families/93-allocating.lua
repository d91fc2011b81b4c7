-- A worker whose work allocates a lot, from a template with something loaded. One CPU.
local command = "{lua} {bench}/load.lua -w -l 50"

return {
  title = "Work that allocates tables, strings and closures, in a worker",
  unit = "rounds/s",
  base = "malloc",
  variants = {
    { id = "malloc", cpus = 1, ours = true, label = "tine, TINE_HEAP=malloc",
      command = "env TINE_HEAP=malloc " .. command },
    { id = "tine", cpus = 1, ours = true, label = "tine", command = command },
  },
  targets = {
    { what = "work that allocates / the same by malloc", of = "tine", over = "malloc",
      at_least = 1 },
  },
}
