-- The same with two CPUs, and with 8 under way. Bare C one after another is measured on one
-- CPU as well, where it is faster, and that is what 8 under way are held against.
return {
  title = "New worker, run, exit, end seen: on two CPUs",
  unit = "workers/s",
  base = "c1",
  variants = {
    { id = "c1", cpus = 1, label = "bare C, one after another, on one CPU",
      command = "{bin}/spawn_c" },
    { id = "c", cpus = 2, label = "bare C, one after another",
      command = "{bin}/spawn_c" },
    { id = "c8", cpus = 2, label = "bare C, 8 under way",
      command = "{bin}/spawn_c -k 8" },
    { id = "tine", cpus = 2, ours = true, label = "tine, one after another",
      command = "{lua} {bench}/spawn.lua" },
    { id = "tine8", cpus = 2, ours = true, label = "tine, 8 under way",
      command = "{lua} {bench}/spawn.lua -k 8" },
    { id = "host8", cpus = 2, ours = true, label = "libtine, from C, 8 under way",
      command = "{bin}/spawn_host -k 8" },
    { id = "ae", cpus = 2, full = true, label = "AnyEvent::Fork (Perl), one after another",
      command = "perl {bench}/aefork.pl" },
    { id = "ae8", cpus = 2, label = "AnyEvent::Fork (Perl), 8 under way",
      command = "perl {bench}/aefork.pl -k 8" },
    { id = "python", cpus = 2, full = true,
      label = "multiprocessing forkserver (Python), one by one",
      command = "python3 {bench}/forkserver.py" },
  },
  targets = {
    { what = "8 under way on two CPUs: tine / bare C one after another, one CPU",
      of = "tine8", over = "c1", at_least = 1 },
  },
}
