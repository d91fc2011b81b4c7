-- C modules in tine's processes: whatever lua5.4 can load, a template can, and its workers use it.
-- From packages of Debian 12, all of which have them for Lua 5.4.
local tine = require "tine"
local helper = require "spec.helper"
local proc = require "spec.proc"

local case = proc.case(it)

-- What uses each module, given it, in a worker; returns what it is to return.
local uses <const> = {
  { "lua-cjson", "cjson", function(m) return m.encode { m.decode("[1.5]")[1] } end, "[1.5]" },
  { "lua-cqueues", "cqueues", function(m)
    local cq, order = m.new(), {}
    cq:wrap(function() m.sleep(0.01) order[#order + 1] = "b" end)
    cq:wrap(function() order[#order + 1] = "a" end)
    assert(cq:loop(5))
    return table.concat(order)
  end, "ab" },
  { "lua-dbi-sqlite3", "dbd.sqlite3", function(m)
    local db = assert(m.New(":memory:"))
    local statement = assert(db:prepare("select 6 * 7"))
    assert(statement:execute())
    return tostring(statement:fetch()[1])
  end, "42" },
  { "lua-event", "luaevent", function(m)
    local core, seen = m.core, {}
    local base = core.new()
    local timer = base:addevent(nil, core.EV_TIMEOUT, function()
      seen[#seen + 1] = "fired"
      return core.LEAVE
    end, 0.01)
    base:loop()
    return timer and seen[1]
  end, "fired" },
  { "lua-expat", "lxp", function(m)
    local names = {}
    local parser = m.new { StartElement = function(_, name) names[#names + 1] = name end }
    assert(parser:parse("<a><b/></a>"))
    parser:close()
    return table.concat(names)
  end, "ab" },
  { "lua-filesystem", "lfs", function(m) return m.attributes("/", "mode") end, "directory" },
  { "lua-ldap", "lualdap", function(m)
    local ok, err = pcall(m.open_simple, "ldap://127.0.0.1:1", "cn=x", "y")
    return type(ok) .. type(err)
  end, "booleannil|booleanstring" },
  { "lua-lpeg", "lpeg", function(m)
    return tostring(m.match(m.P("a") ^ 1 * -1, "aaa")) .. m.match(m.C(m.R("az")), "x")
  end, "4x" },
  { "lua-luaossl", "openssl.digest", function(m)
    local digest = m.new("sha256"):final("abc")
    return ("%02x"):rep(2):format(digest:byte(1, 2))
  end, "ba78" },
  { "lua-luaossl", "openssl.bignum", function(m) return tostring(m.new(6) * m.new(7)) end, "42" },
  { "lua-luv", "luv", function(m)
    local fired
    local timer = m.new_timer()
    timer:start(10, 0, function() fired = "fired" timer:close() end)
    m.run()
    return fired
  end, "fired" },
  { "lua-readline", "readline", function(m)
    return type(m.readline) .. type(m.set_options)
  end, "functionfunction" },
  { "lua-rex-pcre2", "rex_pcre2", function(m) return m.gsub("a1b22", "\\d+", "-") end, "a-b-" },
  { "lua-sec", "ssl", function(m)
    local context = assert(m.newcontext { mode = "client", protocol = "any", verify = "none" })
    return type(context)
  end, "userdata" },
  { "lua-socket", "socket", function(m)
    local server = assert(m.bind("127.0.0.1", 0))
    local address, port = server:getsockname()
    local client = assert(m.connect(address, port))
    local peer = server:accept()
    client:send("it works\n")
    local line = peer:receive()
    for _, each in ipairs { client, peer, server } do each:close() end
    return line
  end, "it works" },
  { "lua-socket", "mime", function(m) return (m.b64("tine")) end, "dGluZQ==" },
  { "lua-sql-sqlite3", "luasql.sqlite3", function(m)
    local env = m.sqlite3()
    local db = env:connect(":memory:")
    local cursor = db:execute("select round(41.7)")
    local value = cursor:fetch()
    cursor:close()
    db:close()
    env:close()
    return tostring(value)
  end, "42.0" },
  { "lua-system", "system", function(m) return type(m.monotime()) end, "number" },
  { "lua-term", "term", function(m) return tostring(m.isatty(io.stdin)) end, "false" },
  { "lua-unbound", "lunbound", function(m) return type(m.new()) end, "userdata" },
  { "lua-yaml", "lyaml", function(m) return m.load("a: [1, 2]").a[2] .. "" end, "2" },
  { "lua-zlib", "zlib", function(m)
    local packed = m.deflate()(("x"):rep(1000), "finish")
    return tostring(#packed < 100 and #m.inflate()(packed))
  end, "1000" },
}

-- Whether a plain interpreter loads it.
local function is_there(module)
  local _, code = helper.run(("lua5.4 -e %s"):format(helper.quote(("require %q"):format(module))))
  return code == 0
end

describe("a C module that lua5.4 can load #proc", function()
  for _, use in ipairs(uses) do
    local package_name, module, f, expected = table.unpack(use)
    it(("is loaded by a template and used in workers: %s (%s)"):format(module, package_name),
      function()
        if not is_there(module) then pending(package_name .. " is not installed") end
        helper.no_leaks(function()
          proc.within(15, function()
            local p = tine.new_exec():require(module):eval(
              "local f, module = ... used = function(s) s:write(tostring(f(require(module)))) end",
              f, module)
            for _ = 1, 2 do
              local result = proc.result(p:fork(), "used")
              assert.is_true(("|" .. expected .. "|"):find("|" .. result .. "|", 1, true) ~= nil,
                result)
            end
            p:close()
          end)
        end)
      end)
  end
end)

describe("libm #proc", function()
  local function has_libm(p)
    local maps = proc.text(("/proc/%d/maps"):format(assert(p:await_ready())))
    return maps:find("/libm[.-]") ~= nil
  end

  case("is in no process that has no C module", function()
    if helper.sanitized then pending("sanitizers have it loaded") end
    local p = tine.new_exec():eval("x = { 1 + 1, tostring(1.5) }")
    local w = p:fork()
    assert.is_false(has_libm(w))
    assert.is_false(has_libm(p))
    w:close()
    p:close()
  end)

  case("works for Lua and for modules in one process", function()
    local p = tine.new_exec():eval("x = math.sin(1) + math.fmod(7, 4)"):require("cjson")
    local result = proc.result(p:fork(), function(s)
      s:write(("%.3f %.3f"):format(x, math.log(2))) -- luacheck: ignore 113
    end)
    assert.are.equal("3.841 0.693", result)
    p:close()
  end)
end)
