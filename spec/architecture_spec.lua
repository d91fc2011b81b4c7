-- docs/ARCHITECTURE.md: each file that it names is there, and has what is named behind it.
local helper = require "spec.helper"

-- The text of a file, "" of a folder, nil where there is neither.
local function read(path)
  local f <close> = io.open(helper.root .. "/" .. path)
  return f and (f:read("a") or "")
end

local function has_word(text, word)
  return text:find("%f[%w_]" .. word .. "%f[^%w_]") ~= nil
end

describe("docs/ARCHITECTURE.md #unit", function()
  it("names files and functions that are there", function()
    local wrong, names = {}, 0
    local folder, text -- of the file that was named last
    for line in read("docs/ARCHITECTURE.md"):gmatch("[^\n]*") do
      if line == "" or line:find("^[-|*]") then folder, text = nil, nil end
      for word in line:gmatch("`([^`]+)`") do
        local path = word:find("^[%l_]+%.[ch]$") and folder and folder .. word or word
        if path:find("^[%l_/]+/$") or path:find("^[%l_/]+/[%w_]+%.%l+$") and word ~= "tine.h" then
          folder, text = path:match("^(.*/)"), read(path)
          if not text then wrong[#wrong + 1] = path end
        elseif text and word:find("^[%a_][%w_]+$") then
          names = names + 1
          if not has_word(text, word) then
            wrong[#wrong + 1] = word .. " is not where it is said to be"
          end
        end
      end
    end
    assert.are.same({}, wrong)
    assert.is_true(names > 50)
  end)
end)
