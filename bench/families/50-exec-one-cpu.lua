-- From exec of a fresh interpreter to its first line of Lua, and its end; on one CPU.
return {
  title = "Exec of a fresh interpreter, to its end: one after another, on one CPU",
  unit = "processes/s",
  base = "lua",
  variants = {
    { id = "lua", cpus = 1, label = 'posix_spawn of lua5.4 -e ""',
      command = "{bin}/exec_c {lua} -e ''" },
    { id = "tine", cpus = 1, ours = true, label = "tine.new_exec, a line of Lua run",
      command = "{lua} {bench}/spawn.lua -x" },
    { id = "host", cpus = 1, ours = true, label = "libtine, from C",
      command = "{bin}/spawn_host -x" },
    { id = "ae", cpus = 1, label = "AnyEvent::Fork->new_exec (Perl)",
      command = "perl {bench}/aefork.pl -x" },
  },
  targets = {
    { what = 'exec to the first line of Lua, one CPU: tine.new_exec / lua5.4 -e ""',
      of = "tine", over = "lua", at_least = 0.9 },
  },
}
