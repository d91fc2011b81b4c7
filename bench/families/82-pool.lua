-- 64 calls under way to a pool of two workers, on two CPUs.
return {
  title = "Calls to a pool of two workers, 64 under way, two CPUs",
  unit = "calls/s",
  base = "rpc",
  variants = {
    { id = "rpc", cpus = 2, ours = true, label = "tine, rpc, one worker",
      command = "{lua} {bench}/calls.lua -k 64" },
    { id = "one", cpus = 2, ours = true, full = true, label = "tine, pool, one worker",
      command = "{lua} {bench}/calls.lua -k 64 -w 1" },
    { id = "tine", cpus = 2, ours = true, label = "tine, pool",
      command = "{lua} {bench}/calls.lua -k 64 -w 2" },
    { id = "host", cpus = 2, ours = true, full = true, label = "libtine, pool, from C",
      command = "{bin}/calls_host -k 64 -w 2" },
    { id = "ae", cpus = 2, label = "AnyEvent::Fork::Pool (Perl)",
      command = "perl {bench}/aerpc.pl -k 64 -w 2" },
    { id = "piscina", cpus = 2, label = "piscina (Node.js, threads)",
      command = "node {bench}/piscina.mjs {node_modules} -k 64 -w 2" },
    { id = "python", cpus = 2, label = "multiprocessing.Pool (Python)",
      command = "python3 {bench}/pool.py -k 64 -w 2" },
  },
  targets = {
    { what = "pool calls, 64 under way, two workers: tine / one worker by rpc, two CPUs",
      of = "tine", over = "rpc", at_least = 0.8 },
  },
}
