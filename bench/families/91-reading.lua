-- Looking at all that a template has loaded: in a worker, and where it was loaded. One CPU.
return function(settings)
  local mb = settings.quick and 100 or 1000
  local function read(label, id, more, env)
    return { id = id, cpus = 1, ours = true, host_mb = mb, label = label,
      command = ("%s{lua} {bench}/read.lua -l %d%s"):format(env or "", mb, more or "") }
  end
  return {
    title = ("Reading all of %d MB of Lua records"):format(mb),
    key = "millions",
    unit = "million/s",
    base = "self",
    variants = {
      read("in the process that loaded it, malloc", "self", " -s", "env TINE_HEAP=malloc "),
      read("in a worker, the first time", "worker"),
      read("in a worker, again", "again", " -a"),
      read("in a worker, malloc, the first time", "malloc", nil, "env TINE_HEAP=malloc "),
    },
    targets = {
      { what = "reading all that is loaded in a worker / where it was loaded", of = "worker",
        over = "self", at_least = 1 / 1.3 },
    },
  }
end
