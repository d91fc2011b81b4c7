-- tools/check-layers: each way of leaving the layers is found where it is planted, and told with
-- files, symbol and folders.
local helper = require "spec.helper"

describe("tools/check-layers", function()
  -- Compiles the sources, by path, to where CMake would put their objects. Returns the tree.
  local function plant(files)
    local root = helper.tmpname()
    os.execute("mkdir -p '" .. root .. "/core' '" .. root .. "/lua' '" .. root .. "/build'")
    for path, text in pairs(files) do
      local folder = path:match("^(.*)/")
      os.execute(("mkdir -p '%s/%s' '%s/build/x.dir/%s'"):format(root, folder, root, folder))
      local f <close> = assert(io.open(root .. "/" .. path, "w"))
      f:write(text)
    end
    for path in pairs(files) do
      if path:find("%.c$") then
        local command = "cc -w -I'%s/core' -I'%s/lua' -c '%s/%s' -o '%s/build/x.dir/%s.o'"
        assert(os.execute(command:format(root, root, root, path, root, path)))
      end
    end
    return root
  end

  -- Returns what it said, and whether it was content.
  local function look_at(root)
    local said, code = helper.run(("'%s/tools/check-layers' '%s'"):format(helper.root, root), 20)
    assert.is_true(code == 0 or code == 1)
    return said, code == 0
  end

  local function assert_content(files)
    local said, content = look_at(plant(files))
    assert.are.equal("", said)
    assert.is_true(content)
  end

  local function assert_told(files, ...)
    local said, content = look_at(plant(files))
    assert.is_false(content)
    for _, part in ipairs { ... } do
      assert.is_truthy(said:find(part, 1, true), part .. " is not in: " .. said)
    end
    return said
  end

  it("is content with calls and includes downwards", function()
    assert_content {
      ["core/base/low.h"] = "int low(void);",
      ["core/base/low.c"] = "int low(void) { return 1; }",
      ["core/wire/middle.c"] = '#include "base/low.h"\nint middle(void) { return low(); }',
      ["core/rpc/high.c"] = "int low(void); int middle(void);"
        .. "int high(void) { return low() + middle(); }",
    }
  end)

  it("finds a call upwards, and says what to do", function()
    local said = assert_told({
      ["core/base/low.c"] = "int high(void); int low(void) { return high(); }",
      ["core/pool/high.c"] = "int high(void) { return 1; }",
    }, "core/base/low.c needs high of core/pool/high.c", "upwards, from core/base to core/pool",
      "be given a function")
    assert.is_nil(said:find("ring", 1, true))
  end)

  it("finds a function that is not called, but whose address is taken", function()
    assert_told({
      ["core/loop/low.c"] = "int high(void); int (*table[])(void) = { high };",
      ["core/process/high.c"] = "int high(void) { return 1; }",
    }, "core/loop/low.c needs high of core/process/high.c")
  end)

  it("finds data of another's", function()
    assert_told({
      ["core/wire/low.c"] = "extern int high; int low(void) { return high; }",
      ["core/rpc/high.c"] = "int high = 1;",
    }, "core/wire/low.c needs high of core/rpc/high.c")
  end)

  it("finds an include upwards", function()
    assert_told({
      ["core/wire/low.h"] = '#include "process/high.h"',
      ["core/process/high.h"] = "int high(void);",
    }, "core/wire/low.h includes a header of core/process/high.h",
      "upwards, from core/wire to core/process")
  end)

  it("finds a transport that calls a handle, not one that is given what to call", function()
    local seam = { ["core/process/transport.h"] = "extern int (*news)(void);" }
    local function with(files)
      for path, text in pairs(seam) do files[path] = text end
      return files
    end
    assert_content(with {
      ["core/process/local/pidfd.c"] = '#include "process/transport.h"\n'
        .. "int (*news)(void); int end(void) { return news(); }",
      ["core/process/state.c"] = "int end(void); int state(void) { return end(); }",
    })
    assert_told(with {
      ["core/process/local/pidfd.c"] = "int state(void); int end(void) { return state(); }",
      ["core/process/state.c"] = "int state(void) { return 1; }",
    }, "core/process/local/pidfd.c needs state of core/process/state.c",
      "upwards, from core/process/local to core/process")
    assert_told(with {
      ["core/process/local/local_priv.h"] = '#include "process/proc.h"',
      ["core/process/proc.h"] = "int state(void);",
    }, "core/process/local/local_priv.h includes a header of core/process/proc.h")
  end)

  it("finds who reaches through a handle to its transport", function()
    assert_told({
      ["core/rpc/deadline.c"] = "int pidfd(void); int late(void) { return pidfd(); }",
      ["core/process/local/pidfd.c"] = "int pidfd(void) { return 1; }",
    }, "core/rpc/deadline.c needs pidfd of core/process/local/pidfd.c",
      "core/rpc may use core/base core/wire core/loop core/process only, not core/process/local")
    assert_told({
      ["core/pool/pool.c"] = '#include "process/local/local.h"',
      ["core/process/local/local.h"] = "int exec(void);",
    }, "core/pool/pool.c includes a header of core/process/local/local.h")
  end)

  it("finds the use of a folder that is none of another's business", function()
    assert_told({
      ["core/heap/heap.c"] = "int frame(void); int heap(void) { return frame(); }",
      ["core/wire/frame.c"] = "int frame(void) { return 1; }",
    }, "core/heap/heap.c needs frame of core/wire/frame.c", "core/heap may use core/base only")
  end)

  it("lets the binding use public functions, and none that are internal", function()
    assert_content {
      ["lua/bind/new.c"] = "int tine_pool_new(void); int new(void) { return tine_pool_new(); }",
      ["core/pool/pool.c"] = "int tine_pool_new(void) { return 1; }",
    }
    assert_told({
      ["lua/bind/new.c"] = "int tine__wake(void); int new(void) { return tine__wake(); }",
      ["core/pool/pool.c"] = "int tine__wake(void) { return 1; }",
    }, "lua/bind/new.c needs tine__wake of core/pool/pool.c")
  end)

  it("finds libevent and Lua where they are not known", function()
    assert_told({ ["core/rpc/client.h"] = "#include <event2/event.h>" },
      "core/rpc/client.h includes <event2/event.h>", "core/rpc knows nothing of event2")
    assert_told({ ["core/wire/frame.h"] = "#include <lua.h>" }, "core/wire knows nothing of lua")
  end)

  it("finds a ring of folders", function()
    assert_told({
      ["core/base/a.c"] = "int b(void); int a(void) { return b(); }",
      ["core/wire/b.c"] = "int a(void); int b(void) { return a(); }",
    }, "a ring of folders", "core/base -> core/wire (core/base/a.c needs b of core/wire/b.c)",
      "core/wire -> core/base (core/wire/b.c needs a of core/base/a.c)")
  end)

  -- n files, each of which calls the next.
  local function ring(n)
    local files = {}
    for i = 1, n do
      files[("core/wire/f%d.c"):format(i)] = ("int f%d(void); int f%d(void) { return f%d(); }")
        :format(i % n + 1, i, i % n + 1)
    end
    return files
  end

  it("finds a ring of 6 files inside a folder, and lets 5 pass", function()
    assert_content(ring(5))
    assert_told(ring(6), "a ring of 6 files in core/wire, where 5 are the most",
      "core/wire/f6.c needs f1 of core/wire/f1.c")
  end)

  it("finds a folder that it does not know, and a source that was not compiled", function()
    assert_told({ ["core/attic/old.h"] = "" }, "core/attic/old.h: no layer is called core/attic")
    local root = plant { ["core/base/new.c"] = "int new(void) { return 1; }" }
    os.remove(root .. "/build/x.dir/core/base/new.c.o")
    local said, content = look_at(root)
    assert.is_false(content)
    assert.is_truthy(said:find("core/base/new.c: there is no object of it", 1, true))
  end)
end)
