-- A call to one worker and its answer, the next when it has come.
return {
  title = "Calls to one worker, one at a time",
  unit = "calls/s",
  base = "c",
  variants = {
    { id = "c", cpus = 1, label = "bare C: socketpair ping-pong, one CPU",
      command = "{bin}/calls_c" },
    { id = "tine", cpus = 1, ours = true, label = "tine, rpc, one CPU",
      command = "{lua} {bench}/calls.lua" },
    { id = "host", cpus = 1, ours = true, label = "libtine, from C, one CPU",
      command = "{bin}/calls_host" },
    { id = "ae", cpus = 1, label = "AnyEvent::Fork::RPC (Perl), one CPU",
      command = "perl {bench}/aerpc.pl" },
    { id = "c2", cpus = 2, full = true, label = "bare C, two CPUs",
      command = "{bin}/calls_c" },
    { id = "tine2", cpus = 2, full = true, ours = true, label = "tine, rpc, two CPUs",
      command = "{lua} {bench}/calls.lua" },
  },
  targets = {
    { what = "calls one at a time, one CPU: tine / bare C",
      of = "tine", over = "c", at_least = 0.75 },
  },
}
