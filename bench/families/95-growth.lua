-- The memory that workers have of their own over time: four of them, two CPUs, each at a job
-- that makes and drops tables and strings all the time. In `answers`, by the jobs done.
return function(settings)
  local mb, jobs = settings.quick and 100 or 200, settings.quick and 80 or 500
  -- By malloc each copies all that was loaded, and then lets as much garbage gather.
  local function grown(id, label, loaded, env)
    return { id = id, cpus = 2, ours = true, label = label, host_mb = loaded * (env and 12 or 2),
      command = ("%s{lua} {bench}/growth.lua -l %d -j %d"):format(env or "", loaded, jobs) }
  end
  return {
    title = ("Memory of a worker's own after %d jobs that allocate, %d MB loaded"):format(
      jobs, mb),
    picture = "growth",
    key = "private_mb",
    unit = "MiB",
    base = "malloc",
    rounds = 1,
    also = { { key = "peak_mb", label = "at most" }, { key = "rate", label = "jobs/s" } },
    variants = {
      grown("malloc", "tine, TINE_HEAP=malloc", mb, "env TINE_HEAP=malloc "),
      grown("tine", "tine", mb),
      grown("empty", "tine, nothing loaded", 0),
    },
    targets = {
      -- Four times what is alive in it, which is about 4 MB, and 16 MB.
      { what = "a worker's own memory after jobs that allocate, MiB", of = "tine", at_most = 32 },
      { what = "a worker's own memory after jobs that allocate / by malloc", of = "tine",
        over = "malloc", at_most = 0.5 },
    },
  }
end
