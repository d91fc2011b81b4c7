-- A pool of many workers: what is asked of all of them, for each.
local function variant(n, full)
  return { id = "n" .. n, cpus = 1, ours = true, full = full, host_mb = n // 5,
    files = 2 * n + 200, label = ("%d workers"):format(n),
    command = ("{lua} {bench}/many.lua -n %d"):format(n) }
end

return {
  title = "Calls to all idle workers of a pool (broadcast), on one CPU",
  unit = "calls/s",
  base = "n100",
  also = { { key = "stats_us", label = "stats, us a worker" },
    { key = "kb", label = "memory, kB a worker" } },
  variants = { variant(100), variant(1000), variant(3000), variant(9000, true) },
  targets = {
    { what = "broadcast to 3000 / to 100, for each", of = "n3000", over = "n100", at_least = 0.4 },
  },
}
