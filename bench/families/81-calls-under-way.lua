-- 64 calls under way to one worker.
return {
  title = "Calls to one worker, 64 under way",
  unit = "calls/s",
  base = "c",
  variants = {
    { id = "c", cpus = 1, label = "bare C: echo of the same frames, one CPU",
      command = "{bin}/calls_c -k 64" },
    { id = "tine", cpus = 1, ours = true, label = "tine, rpc, one CPU",
      command = "{lua} {bench}/calls.lua -k 64" },
    { id = "host", cpus = 1, ours = true, label = "libtine, from C, one CPU",
      command = "{bin}/calls_host -k 64" },
    { id = "tine2", cpus = 2, ours = true, label = "tine, rpc, two CPUs",
      command = "{lua} {bench}/calls.lua -k 64" },
    { id = "host2", cpus = 2, full = true, ours = true, label = "libtine, from C, two CPUs",
      command = "{bin}/calls_host -k 64" },
    { id = "ae", cpus = 1, label = "AnyEvent::Fork::RPC (Perl), one CPU",
      command = "perl {bench}/aerpc.pl -k 64" },
    { id = "ae2", cpus = 2, full = true, label = "AnyEvent::Fork::RPC (Perl), two CPUs",
      command = "perl {bench}/aerpc.pl -k 64" },
  },
  targets = {
    { what = "calls, 64 under way, one CPU: tine / bare C",
      of = "tine", over = "c", at_least = 0.15 },
    { what = "calls, 64 under way: tine on two CPUs / on one",
      of = "tine2", over = "tine", at_least = 1.2 },
  },
}
