-- The memory that an idle worker has for itself, waiting for its socket. Private is what the
-- kernel counts as Private_Dirty and Private_Clean; a page of a file that no other process
-- maps is among it. Page tables come on top.
return {
  title = "Private memory of an idle worker",
  key = "private_kb",
  unit = "kB",
  base = "c",
  also = {
    { key = "pss_kb", label = "Pss" },
    { key = "private_dirty_kb", label = "Private_Dirty" },
    { key = "anonymous_kb", label = "Anonymous, shared or not" },
    { key = "page_tables_kb", label = "page tables" },
  },
  variants = {
    { id = "c", cpus = 1, label = "bare C: fork, read", command = "{bin}/spawn_c -i" },
    { id = "tine", cpus = 1, ours = true, label = "tine, from an empty template",
      command = "{lua} {bench}/memory.lua" },
    { id = "loaded", cpus = 1, ours = true, label = "tine, from a template with modules",
      command = "{lua} {bench}/memory.lua -l" },
    { id = "big", cpus = 1, ours = true, full = true, host_mb = 1000,
      label = "tine, from a template with 1000 MB of Lua",
      command = "{lua} {bench}/memory.lua -m 1000" },
    { id = "ae", cpus = 1, label = "AnyEvent::Fork->new (Perl)",
      command = "perl {bench}/aefork.pl -i" },
    { id = "aex", cpus = 1, full = true, label = "AnyEvent::Fork->new_exec (Perl)",
      command = "perl {bench}/aefork.pl -x -i" },
    { id = "python", cpus = 1, label = "multiprocessing forkserver (Python)",
      command = "python3 {bench}/forkserver.py -i" },
  },
  targets = {
    { what = "idle worker's private memory, kB", of = "tine", at_most = 200 },
    { what = "idle worker's private memory, 1000 MB loaded, kB", of = "big", at_most = 200 },
  },
}
