-- The same on two CPUs.
return {
  title = "Exec of a fresh interpreter, to its end: one after another, on two CPUs",
  unit = "processes/s",
  base = "lua",
  variants = {
    { id = "lua", cpus = 2, label = 'posix_spawn of lua5.4 -e ""',
      command = "{bin}/exec_c {lua} -e ''" },
    { id = "tine", cpus = 2, ours = true, label = "tine.new_exec, a line of Lua run",
      command = "{lua} {bench}/spawn.lua -x" },
    { id = "ae", cpus = 2, label = "AnyEvent::Fork->new_exec (Perl)",
      command = "perl {bench}/aefork.pl -x" },
  },
  targets = {
    { what = 'exec to the first line of Lua, two CPUs: tine.new_exec / lua5.4 -e ""',
      of = "tine", over = "lua", at_least = 0.9 },
  },
}
