-- busted, as its own script starts it, under the interpreter that runs this file.
require "busted.runner" { standalone = false }
