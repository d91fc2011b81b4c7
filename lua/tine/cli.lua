--- The command line: `tine run`, `tine map`, `tine serve`.
-- @module tine.cli
local cli = {}

local FAILED <const>, USAGE <const> = 1, 2

local function complain(...)
  io.stderr:write("tine: ", ...)
  io.stderr:write("\n")
end

-- As for lua: the script at 0, what follows it from 1.
local function set_arg(script, args)
  local list = table.move(args, 1, #args, 1, { [0] = script })
  list[-1], list[-2] = "run", "tine"
  _G.arg = list
end

local function run(options)
  local tine = require "tine"
  local path = options.script ~= "-" and options.script or nil
  local chunk, problem = loadfile(path)
  if not chunk then
    complain(problem)
    return FAILED
  end
  set_arg(options.script, options.arg)
  local ok, err = pcall(tine.main, chunk, table.unpack(options.arg))
  if not ok then
    complain(tostring(err))
    return FAILED
  end
  return 0
end

local function serve(options)
  local process = require "tine.process"
  local fd = options.stdio and 0 or options.fd
  local problem = process.serve_problem(fd)
  if problem then
    complain("serve: ", options.stdio and "stdin" or "descriptor " .. fd, " ", problem,
      options.stdio and problem == "is not a socket"
        and "; remote processes over pipes are not available yet" or "")
    return FAILED
  end
  local _, err = process.serve(fd)
  complain(tostring(err))
  return FAILED
end

local function map(options)
  local problem = options.code and require("tine.map").check(options.code)
  if problem then
    return nil, problem
  end
  return require("tine.map").run(options)
end

local function positive(option)
  return function(text)
    local n = tonumber(text)
    if not n or n <= 0 or n ~= n or n == math.huge then
      return nil, ("%s: a number above 0 expected, got '%s'"):format(option, text)
    end
    return n
  end
end

local function count(option, least)
  return function(text)
    local n = math.tointeger(tonumber(text))
    if not n or n < least then
      return nil, ("%s: a whole number of at least %d expected, got '%s'"):format(option, least,
        text)
    end
    return n
  end
end

local function descriptor(text)
  local fd = math.tointeger(tonumber(text))
  if not fd or fd < 0 then
    return nil, "--fd: a descriptor number expected, got '" .. text .. "'"
  end
  return fd
end

local function show_version()
  print("tine " .. require("tine.core")._VERSION)
  os.exit(0, true)
end

local function add_map(parser)
  local command = parser:command("map", "Give each line of files or stdin to a pool of workers.",
    "Each line is a job: the function is called with the line and its number, and what it\n"
    .. "returns is printed, separated by tabs; nothing if it returns nothing. What it prints\n"
    .. "itself comes whole, before its result. Errors go to stderr, with the line's number and\n"
    .. "the worker's traceback. At Ctrl-C, SIGTERM or SIGHUP the lines that run are finished,\n"
    .. "those that wait are dropped; a second one kills. Exit status: 0; 1 if a line failed or\n"
    .. "was not done, or its result could not be printed; 2 for wrong usage; or by that signal.")
  command:argument("files", "Files of lines; - is stdin."):args("*"):argname("FILE")
  command:option("-n -j --workers", "Most worker processes; default: the CPUs there are for us.")
    :argname("N"):convert(count("-n", 1))
  command:option("-r --require", "A module to load before workers are forked, as lua -l "
    .. "does; repeatable.")
    :argname("MODULE"):count("*"):init({})
  command:mutex(
    command:option("-f --func", "The function: module.name or a global."):argname("FUNC"),
    command:option("-e --code", "Lua code instead: an expression, or statements with a return; "
      .. "`line` and `n` are the line and its number."):argname("CODE"))
  command:option("--init", "A function called first in each worker."):argname("FUNC")
  command:mutex(
    command:flag("--ordered", "Results in the order of the lines (default)."),
    command:flag("--unordered", "Results as they come."))
  command:option("--timeout", "Seconds that a line may take, from its start.")
    :argname("S"):convert(positive("--timeout"))
  command:option("--retries", "How often a line is tried again whose worker died; default: 0.")
    :argname("N"):convert(count("--retries", 0))
  command:option("--retry-timeouts", "How often a line that took too long; default: 0.")
    :argname("N"):convert(count("--retry-timeouts", 0))
  command:option("--retry-errors", "How often a line that raised an error; default: 0.")
    :argname("N"):convert(count("--retry-errors", 0))
  command:option("--retry-delay", "Seconds before a line is tried again, doubled each time; "
    .. "default: none.")
    :argname("S"):convert(positive("--retry-delay"))
  command:flag("--json", "Lines are JSON values, and so are results, of "
    .. "which there may be one. Null is cjson.null; an empty table is {} unless it came as [].")
  command:flag("--halt-on-error", "Stop at the first line that fails: what is before it is "
    .. "finished, what is after it is cancelled.")
  command:flag("-0 --null", "Lines end in NUL, not in a newline; results still end in a newline.")
  command:flag("--tag", "Each result, and what a line prints, after the line itself and a tab.")
  command:option("--joblog", "Writes a line to FILE for each line that has ended: number, time, "
    .. "how, and the line.")
    :argname("FILE")
  command:flag("--resume", "With --joblog: skips the lines that FILE says are done, and goes on "
    .. "writing there. Lines that failed are done again.")
  command:flag("--stats", "Show figures at the end, on stderr.")
  command:flag("--no-progress", "No progress bar, also on a terminal.")
  return command
end

local function make_parser(argparse)
  local parser = argparse("tine", "Lua workers in many processes, forked from loaded templates.")
    :help_max_width(100)
  parser:flag("--version", "Show the version and leave."):action(show_version)
  parser:command_target("command")
  local command = parser:command("run", "Run a Lua script with the loop.",
    "In the script every wait works, as inside of tine.go. It ends when the script\n"
    .. "has ended and the loop has nothing left to wait for.")
  command:argument("script", "A file, or - for stdin.")
  command:argument("arg", "What the script gets as its arguments."):args("*")
  local commands = { run = command, map = add_map(parser) }
  command = parser:command("serve", "Be a process that a host commands over a socket.")
  command:mutex(
    command:option("--fd", "The socket's descriptor."):argname("N"):convert(descriptor),
    command:flag("--stdio", "The socket is stdin."))
  commands.serve = command
  return parser, commands
end

-- All that follows the script is the script's, options too.
local function guard_script_args(args)
  local list, guarded = {}, false
  for i, value in ipairs(args) do
    if i > 1 and not guarded and (value == "-" or value:sub(1, 1) ~= "-") then
      list[#list + 1] = "--"
      guarded = true
    end
    list[#list + 1] = value
    guarded = guarded or value == "--"
  end
  return list
end

-- What follows -e is code, also where it begins with a minus.
local function guard_code(args)
  local list, i = {}, 1
  while i <= #args do
    local value = args[i]
    if value == "--" then
      return table.move(args, i, #args, #list + 1, list)
    elseif (value == "-e" or value == "--code") and args[i + 1] then
      i = i + 1
      value = "--code=" .. args[i]
    end
    list[#list + 1] = value
    i = i + 1
  end
  return list
end

local guards <const> = { run = guard_script_args, map = guard_code }

-- Returns the options, or nil, what is wrong with them, and the usage of the command.
local function parse(parser, args)
  local usage = parser:get_usage()
  function parser.error(where, message)
    usage = where:get_usage()
    error(message, 0)
  end
  local guard = guards[args[1]]
  local ok, options = pcall(parser.parse, parser, guard and guard(args) or args)
  if ok then
    return options
  end
  return nil, options, usage
end

-- What argparse does not check.
local function check(options)
  if options.command == "serve" and not (options.fd or options.stdio) then
    return "one of --fd and --stdio is needed"
  elseif options.command == "map" and not (options.func or options.code) then
    return "one of -f and -e is needed"
  elseif options.resume and not options.joblog then
    return "--resume needs --joblog FILE"
  end
end

--- Runs a command line.
-- @tparam {string,...} args
-- @treturn integer the exit code
function cli.main(args)
  local found, argparse = pcall(require, "argparse")
  if not found then
    complain("the command line needs argparse: luarocks install argparse")
    return FAILED
  end
  local parser, commands = make_parser(argparse)
  local options, problem, usage = parse(parser, args)
  if options then
    problem = check(options)
    usage = commands[options.command]:get_usage()
  end
  if not problem then
    options.ordered = not options.unordered
    options.progress = not options.no_progress
    local run_command = { run = run, map = map, serve = serve }
    local code
    code, problem = run_command[options.command](options)
    if code then
      return code
    end
  end
  io.stderr:write(usage, "\n\nError: ", tostring(problem), "\n")
  return USAGE
end

return cli
