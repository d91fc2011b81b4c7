-- Makes small pictures of large ones on all CPUs: a pool whose jobs tell how far they are.
--
--   lua5.4 examples/thumbnails.lua [--size PIXELS] FOLDER [FILE.ppm...]
--
-- Reads pictures in the binary PPM form (P6), writes FOLDER/NAME.thumb.ppm. Without files it
-- first lets the same workers paint four to begin with, FOLDER/picture-N.ppm.
local tine = require "tine"

---------------------------------------------------------------------------- in the workers

-- All that workers need is here, in a function that the template runs once.
-- luacheck: globals paint shrink
local function prepare()
  local worker = require "tine"

  -- A part of the Mandelbrot set, in colours.
  function paint(path, width, height, left, top, scale)
    width, height = math.tointeger(width), math.tointeger(height)
    local file <close> = assert(io.open(path, "wb"))
    file:write(("P6\n%d %d\n255\n"):format(width, height))
    for y = 0, height - 1 do
      local row = {}
      for x = 0, width - 1 do
        local cr, ci, zr, zi, n = left + x * scale, top + y * scale, 0, 0, 0
        while zr * zr + zi * zi < 4 and n < 60 do
          zr, zi, n = zr * zr - zi * zi + cr, 2 * zr * zi + ci, n + 1
        end
        row[x + 1] = string.char(n * 4, n * n % 256, 255 - n * 4)
      end
      file:write(table.concat(row))
      if y % 50 == 49 then worker.event(path, y / height) end
    end
    return width, height
  end

  local function read_header(file)
    local magic = file:read("l")
    local width, height, depth = file:read("n", "n", "n")
    if magic ~= "P6" or not depth or depth ~= 255 then error("not a binary PPM of 8 bits", 0) end
    file:read(1)
    return math.tointeger(width), math.tointeger(height)
  end

  -- The mean of each square of step x step pixels.
  function shrink(path, to, size)
    local file <close> = assert(io.open(path, "rb"))
    local width, height = read_header(file)
    local step = math.max(1, math.ceil(math.max(width, height) / math.tointeger(size)))
    local w, h = width // step, height // step
    local out <close> = assert(io.open(to, "wb"))
    out:write(("P6\n%d %d\n255\n"):format(w, h))
    for y = 1, h do
      local sums = {}
      for i = 1, w * 3 do sums[i] = 0 end
      for _ = 1, step do
        local row = file:read(width * 3) or ""
        if #row < width * 3 then error("the file ends too soon", 0) end
        for x = 0, w * step - 1 do
          local r, g, b = row:byte(x * 3 + 1, x * 3 + 3)
          local i = x // step * 3
          sums[i + 1], sums[i + 2], sums[i + 3] = sums[i + 1] + r, sums[i + 2] + g, sums[i + 3] + b
        end
      end
      for i, sum in ipairs(sums) do sums[i] = string.char(sum // (step * step)) end
      out:write(table.concat(sums))
      if y % 10 == 9 then worker.event(path, y / h) end
    end
    return w, h
  end

  function work(what, ...) -- luacheck: globals work
    return ({ paint = paint, shrink = shrink })[what](...)
  end
end

------------------------------------------------------------------------------- in the host

local HELP <const> = "usage: thumbnails.lua [--size PIXELS] FOLDER [FILE.ppm...]"

local function options()
  local size, list = 64, {}
  local i = 1
  while arg[i] do
    if arg[i] == "--size" then
      i = i + 1
      size = math.tointeger(tonumber(arg[i]))
    elseif arg[i]:sub(1, 2) == "--" then
      return nil
    else
      list[#list + 1] = arg[i]
    end
    i = i + 1
  end
  return size, table.remove(list, 1), list
end

local size, folder, files = options()
if not size or size < 1 or not folder then
  io.stderr:write(HELP, "\n")
  os.exit(2)
end

local shares = {} -- path -> how much of it is done

local function show(path, share)
  shares[path] = share
  local parts = {}
  for name, part in pairs(shares) do
    parts[#parts + 1] = ("%s %d%%"):format(name:match("[^/]*$"), part * 100 // 1)
  end
  table.sort(parts)
  io.stderr:write("\r", table.concat(parts, "  "), "\27[K")
end

-- Returns whether all went well.
local function each(pool, what, jobs)
  local good = true
  for i, ok, width, height in pool:map(jobs, { packed = true }) do
    local path = jobs[i][2]
    shares[path] = nil
    io.stderr:write("\r\27[K")
    if ok then
      print(("%s %s: %d x %d"):format(what, path, width, height))
    else
      print(("%s %s: failed: %s"):format(what, path, width.message))
      good = false
    end
  end
  return good
end

tine.main(function()
  local pool <close> = tine.new():eval(prepare):pool("work", {
    start = 0,
    serialiser = "lua",
    on_event = show,
  })
  local good = true
  local jobs = {}
  if #files == 0 then
    for n = 1, 4 do
      files[n] = ("%s/picture-%d.ppm"):format(folder, n)
      jobs[n] = { "paint", files[n], 400, 300, -2.2 + n * 0.1, -1.2, 0.008 / n }
    end
    good = each(pool, "painted", jobs)
    jobs = {}
  end
  for n, path in ipairs(files) do
    local to = folder .. "/" .. path:match("[^/]*$"):gsub("%.ppm$", "") .. ".thumb.ppm"
    jobs[n] = { "shrink", path, to, size }
  end
  good = each(pool, "shrunk", jobs) and good
  if not good then os.exit(1, true) end
end)
