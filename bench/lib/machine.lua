--- What a benchmark's figures depend on: the machine, its kernel, its settings.
local machine = {}

--- A word for sh.
function machine.quote(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

--- The first line that a shell command prints, or nil.
function machine.first_line(command)
  local pipe = assert(io.popen(command .. " 2>/dev/null"))
  local line = pipe:read("l")
  pipe:close()
  return line ~= "" and line or nil
end

function machine.exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

local function file_line(path, pattern)
  local file = io.open(path)
  if not file then return nil end
  for line in file:lines() do
    local found = line:match(pattern)
    if found then
      file:close()
      return found
    end
  end
  file:close()
  return nil
end

--- The numbers of the CPUs that this process may use, in order.
function machine.allowed_cpus()
  local cpus = {}
  local list = file_line("/proc/self/status", "^Cpus_allowed_list:%s*(.*)") or "0"
  for first, last in list:gmatch("(%d+)%-?(%d*)") do
    for cpu = tonumber(first), tonumber(last) or tonumber(first) do cpus[#cpus + 1] = cpu end
  end
  return cpus
end

--- Whether a process may have so many open files.
function machine.allow_files(n)
  return os.execute(("ulimit -n %d 2>/dev/null"):format(n)) == true
end

--- Memory that could be used without swapping, in MiB.
function machine.available_mb()
  return (tonumber(file_line("/proc/meminfo", "^MemAvailable:%s*(%d+)")) or 0) // 1024
end

--- What is known of the machine, as strings and numbers by name.
function machine.facts()
  return {
    host = machine.first_line("uname -n") or "?",
    cpu = file_line("/proc/cpuinfo", "^model name%s*:%s*(.*)") or machine.first_line("uname -m"),
    cpus = #machine.allowed_cpus(),
    memory_mb = (tonumber(file_line("/proc/meminfo", "^MemTotal:%s*(%d+)")) or 0) // 1024,
    kernel = machine.first_line("uname -sr") or "?",
    transparent_hugepages =
      file_line("/sys/kernel/mm/transparent_hugepage/enabled", "%[(%a+)%]") or "?",
    date = os.date("!%Y-%m-%dT%H:%M:%SZ"),
    lua = machine.first_line("lua5.4 -v") or _VERSION,
    python = machine.first_line("python3 -V"),
    perl_anyevent_fork =
      machine.first_line("perl -MAnyEvent::Fork -e 'print \"$AnyEvent::Fork::VERSION\\n\"'"),
  }
end

return machine
