-- A new worker while many idle ones of the same template live, each with two descriptors of the
-- host's.
local function variant(live, full)
  return { id = "n" .. live, cpus = 1, ours = true, full = full, host_mb = live // 5,
    files = 2 * live + 200, label = ("%d others live"):format(live),
    command = ("{lua} {bench}/spawn.lua -n %d"):format(live) }
end

local function flat(live)
  return { what = ("a new worker beside %d idle ones / beside 100"):format(live), of = "n" .. live,
    over = "n100", at_least = 0.8 }
end

return {
  title = "New worker beside idle ones of its template: one after another, on one CPU",
  unit = "workers/s",
  base = "n100",
  variants = { variant(100), variant(1000), variant(3000), variant(9000, true),
    variant(10000, true) },
  targets = { flat(1000), flat(3000), flat(9000), flat(10000) },
}
