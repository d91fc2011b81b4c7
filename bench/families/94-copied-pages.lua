-- How many pages of a sealed template each kind of operation copies. Counts, not times: so one
-- round, and how busy the machine is makes no difference.
local operations = require "operations"

return function(settings)
  local mb, also = 100, {
    { key = "start", label = "being forked, and entered", of = "sealed" },
    { key = "rpc", label = "1 000 calls over RPC", of = "sealed" },
  }
  for _, operation in ipairs(operations.possible(settings.quick)) do
    also[#also + 1] = { key = operation.id, label = operation.label, of = "sealed",
      writes = operation.writes }
  end
  return {
    title = ("Pages that a worker copies of %d MB of sealed Lua records"):format(mb),
    picture = "pages",
    key = "sealed",
    unit = "pages of 4 kB",
    rounds = 1,
    also = also,
    variants = {
      { id = "pages", cpus = 1, ours = true, host_mb = 3 * mb, label = "all that is sealed",
        command = ("{lua} {bench}/operations.lua -l %d%s"):format(mb,
          settings.quick and " -q" or "") },
    },
    targets = {
      { what = "pages copied by making tables and strings, % of the sealed ones", of = "pages",
        key = settings.quick and "allocating" or "allocating_more", share = "sealed",
        at_most = 2 },
    },
  }
end
