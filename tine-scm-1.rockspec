rockspec_format = "3.0"
package = "tine"
version = "scm-1"

source = {
  url = "git://tine/tine.git", -- where a clone is; `luarocks make` in one needs nothing of it
}

description = {
  summary = "Lua workers in many processes, forked from loaded templates",
  detailed = [[
    A worker runtime for Lua 5.4: processes that have loaded what workers need, and workers
    forked from them in a moment, which share that memory, get descriptors and arguments, and
    run a Lua function. The host never forks itself, never blocks, and learns how everything
    ended.]],
  license = "MIT",
  labels = { "process", "fork", "worker", "concurrency", "linux" },
}

supported_platforms = { "unix" }

dependencies = {
  "lua >= 5.4, < 5.5",
  -- argparse is not listed, on purpose: only the command `tine` uses it, which says so where
  -- it is missing, and as a dependency it would be fetched from the net even where the
  -- system's own (Debian: lua-argparse) is there, since LuaRocks does not see that one.
}

external_dependencies = {
  EVENT = { header = "event2/event.h", library = "event_core" },
  MSGPACK = { header = "msgpack.h" },
}

build = {
  type = "cmake",
  variables = {
    CMAKE_C_FLAGS = "$(CFLAGS)",
    LUA_INCDIR = "$(LUA_INCDIR)",
    LIBDIR = "$(LIBDIR)",
    LUADIR = "$(LUADIR)",
    BINDIR = "$(BINDIR)",
  },
  install = {
    bin = { tine = "lua/bin/tine" },
  },
}

test_dependencies = { "busted" }
test = { type = "busted" }
