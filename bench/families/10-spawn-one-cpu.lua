-- A new worker: made, run, left, and its end seen; one after another, on one CPU.
return {
  title = "New worker, run, exit, end seen: one after another, on one CPU",
  unit = "workers/s",
  base = "c",
  variants = {
    { id = "c", cpus = 1, label = "bare C: socketpair, fork, _exit, waitpid",
      command = "{bin}/spawn_c" },
    { id = "tine", cpus = 1, ours = true, label = "tine, forked from a template",
      command = "{lua} {bench}/spawn.lua" },
    { id = "new", cpus = 1, ours = true, label = "tine, tine.new",
      command = "{lua} {bench}/spawn.lua -d" },
    { id = "host", cpus = 1, ours = true, label = "libtine, from C",
      command = "{bin}/spawn_host" },
    { id = "ae", cpus = 1, label = "AnyEvent::Fork (Perl)",
      command = "perl {bench}/aefork.pl" },
    { id = "python", cpus = 1, label = "multiprocessing forkserver (Python)",
      command = "python3 {bench}/forkserver.py" },
  },
  targets = {
    { what = "new worker, one after another, one CPU: tine / bare C",
      of = "tine", over = "c", at_least = 0.6 },
    { what = "new worker, one after another, one CPU: tine / AnyEvent::Fork",
      of = "tine", over = "ae", at_least = 3 },
  },
}
