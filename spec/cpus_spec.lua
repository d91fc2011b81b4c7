-- tine.cpus: what the affinity mask and the control groups leave to this process.
local helper = require "spec.helper"
local core = require "tine.core"
local tine = require "tine"

local function allowed()
  local f <close> = assert(io.open("/proc/self/status"))
  return f:read("a"):match("Cpus_allowed_list:%s*(%S+)")
end

-- How many processors a list like "0,2-3" names, and the first of them.
local function count(list)
  local n = 0
  for from, to in list:gmatch("(%d+)%-?(%d*)") do
    n = n + (tonumber(to) or tonumber(from)) - tonumber(from) + 1
  end
  return n, list:match("%d+")
end

describe("tine.cpus #unit", function()
  -- A folder with what /proc and /sys/fs/cgroup hold, by path; the root for tine.core.cpus.
  local function system(files)
    local root = helper.tmpname()
    for path, text in pairs(files) do
      os.execute("mkdir -p '" .. root .. path:match("^(.*)/") .. "'")
      local f <close> = assert(io.open(root .. path, "w"))
      f:write(text)
    end
    return root
  end

  it("is a whole number from 1 to what the affinity mask allows", function()
    assert.are.equal("integer", math.type(tine.cpus()))
    assert.is_true(tine.cpus() >= 1)
    assert.is_true(tine.cpus() <= count(allowed()))
  end)

  it("is 1 under taskset with one processor", function()
    local _, first = count(allowed())
    local script = helper.write_file("print(require(\"tine\").cpus())")
    assert.are.equal("1\n", (helper.run("taskset -c " .. first .. " " .. helper.program(script))))
  end)

  it("is all of the mask where no control group sets a limit", function()
    local all = count(allowed())
    assert.are.equal(all, core.cpus(system {}))
    local root = system {
      ["/proc/self/cgroup"] = "0::/a/b\n", ["/sys/fs/cgroup/a/b/cpu.max"] = "max 100000\n",
    }
    assert.are.equal(all, core.cpus(root))
  end)

  it("is no more than the quota of a control group, rounded up", function()
    local function with_quota(path, text)
      return core.cpus(system { ["/proc/self/cgroup"] = "0::/a/b\n", [path] = text })
    end
    assert.are.equal(1, with_quota("/sys/fs/cgroup/a/b/cpu.max", "50000 100000\n"))
    assert.are.equal(1, with_quota("/sys/fs/cgroup/a/b/cpu.max", "100000 100000\n"))
    assert.are.equal(1, with_quota("/sys/fs/cgroup/a/cpu.max", "1000 100000\n"))
    assert.are.equal(1, with_quota("/sys/fs/cgroup/cpu.max", "1000 100000\n"))
    assert.are.equal(count(allowed()), with_quota("/sys/fs/cgroup/a/b/cpu.max",
      "100000000 100000\n"))
    assert.are.equal(count(allowed()) > 1 and 2 or 1,
      with_quota("/sys/fs/cgroup/a/b/cpu.max", "150000 100000\n"))
  end)

  it("knows the control groups of version 1", function()
    local root = system {
      ["/proc/self/cgroup"] = "3:memory:/x\n2:cpu,cpuacct:/a\n1:name=systemd:/\n",
      ["/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us"] = "70000\n",
      ["/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us"] = "100000\n",
    }
    assert.are.equal(1, core.cpus(root))
    root = system {
      ["/proc/self/cgroup"] = "2:cpu:/a\n",
      ["/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us"] = "-1\n",
      ["/sys/fs/cgroup/cpu/a/cpu.cfs_period_us"] = "100000\n",
    }
    assert.are.equal(count(allowed()), core.cpus(root))
  end)
end)
