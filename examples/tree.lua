-- A tree of templates: what all workers need is loaded once into a base template; two kinds of
-- template are forked from it and load what only their workers need; workers are forked from
-- those in no time and share the memory of all that is above them.
--
--   base (the word list) ── spell (an index by letters) ── 2 workers
--                        └─ rhyme (an index by endings) ── 2 workers
--
--   lua5.4 examples/tree.lua
local tine = require "tine"

-- What a template makes for its workers are its globals.
-- luacheck: globals words key_of index

-- Runs once, in the base.
local function load_words()
  words = {}
  for word in ([[
    night light sight thing station nation ration notion ocean motion potion lotion
    stone tone zone phone alone listen silent enlist tinsel inlets onset notes
  ]]):gmatch("%a+") do
    words[#words + 1] = word
  end
end

-- Runs once in each of the two templates forked from the base.
local function build_index(key)
  key_of, index = key, {}
  for _, word in ipairs(words) do
    index[key(word)] = (index[key(word)] or "") .. " " .. word
  end
end

local function letters_of(word)
  local letters = { word:byte(1, -1) }
  table.sort(letters)
  return string.char(table.unpack(letters))
end

local function ending_of(word)
  return word:sub(-3)
end

-- Runs in every worker of either kind.
local function answer(sock)
  for word in sock.read_line, sock do
    sock:write((index[key_of(word)] or " nothing") .. "\n")
  end
end

local function ask(template, name, questions)
  local worker = template:fork { name = name }
  local sock = assert(worker:run(answer))
  for _, word in ipairs(questions) do
    sock:write(word .. "\n")
    print(("%s (process %d): %s ->%s"):format(name, worker:pid(), word, sock:read_line()))
  end
  sock:close()
  assert(not worker:on_exit())
end

tine.main(function()
  local base = tine.new { name = "base" }:eval(load_words)
  local spell = base:fork { name = "spell" }:eval(build_index, letters_of)
  local rhyme = base:fork { name = "rhyme" }:eval(build_index, ending_of)
  -- A template stays while it has workers, and may go before those it was the model for.
  base:close()

  local tasks = {}
  for i, questions in ipairs { { "silent", "night" }, { "stone", "tine" } } do
    tasks[#tasks + 1] = tine.go(ask, spell, "spell worker " .. i, questions)
  end
  for i, questions in ipairs { { "vacation", "fork" }, { "bone", "Joan" } } do
    tasks[#tasks + 1] = tine.go(ask, rhyme, "rhyme worker " .. i, questions)
  end
  for _, task in ipairs(tasks) do task:await() end
  spell:close()
  rhyme:close()
end)
