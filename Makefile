# The front door: each target says in a line what it does, installs what it needs and lacks
# (tools/setup), and does nothing twice. CMakeLists.txt is what builds.

BUILD   ?= build
WERROR  ?= OFF
PREFIX  ?= /usr/local
# Where the bench draws its pictures: PICTURES=docs/figures for those of the README.
PICTURES ?= $(BUILD)/pictures
# What else is given to the demo (options of tine map) and to busted, such as ARGS="--tags=unit".
ARGS    ?=

OPTIONS = -DTINE_TESTS=ON -DTINE_WERROR=$(WERROR)
# Lua, with tine as built here.
ENV     = LUA_PATH_5_4="$(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua;;" \
          LUA_CPATH_5_4="$(abspath $(BUILD))/?.so;;"

.DEFAULT_GOAL := help
.PHONY: help build demo test bench lint sanitize env install uninstall clean

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

build: ## the library, the Lua module and tine-template, in build/
	@tools/setup build
	@tools/build $(BUILD) $(OPTIONS)

demo: ## the main job: tine map checks the system's Lua files on all CPUs, luacheck loaded once
	@tools/setup build demo
	@tools/build $(BUILD) $(OPTIONS)
	@$(ENV) tools/demo $(ARGS)

test: ## C tests and specs
	@tools/setup build test
	@tools/build $(BUILD) all tine_tests $(OPTIONS)
	@tools/run-tests --build $(BUILD) $(ARGS)

sanitize: ## the same with address and undefined-behaviour sanitizers, in build-asan/
	@tools/setup build test
	@tools/build build-asan all tine_tests $(OPTIONS) -DTINE_SANITIZE=ON
	@tools/run-sanitized build-asan $(ARGS)

bench: ## measures against bare C, others, and BASELINE=another checkout; prints ratios, draws build/pictures/
	@tools/setup build run
	@tools/setup bench || echo "bench: goes on without them"
	@tools/build $(BUILD) all tine_bench $(OPTIONS)
	@tools/bench-peers $(BUILD)
	@echo "bench: measuring"
	@status=0; $(ENV) TINE_BUILD="$(abspath $(BUILD))" lua5.4 bench/run $(ARGS) || status=$$?; \
	if command -v gnuplot >/dev/null; then \
		lua5.4 bench/plot "$(BUILD)/bench.json" "$(PICTURES)" || status=1; \
	else echo "bench: no pictures without gnuplot"; fi; exit $$status

lint: ## clang-format, clang-tidy, luacheck, luarocks lint, what may call what
	@tools/setup build lint
	@tools/build $(BUILD) $(OPTIONS)
	@tools/lint $(ARGS)

env: ## Lua's paths to what was built here, and the command's, for eval "$(make env)"
	@echo 'export $(ENV) PATH="$(CURDIR)/lua/bin:'"$$"'PATH"'

install: ## libtine, the Lua module, the command and the documents, below PREFIX=/usr/local
	@tools/setup build
	@tools/build $(BUILD) $(OPTIONS) -DCMAKE_INSTALL_PREFIX="$(PREFIX)"
	@tools/install $(BUILD) "$(PREFIX)"

uninstall: ## removes what the last install from here has put there
	@tools/install --remove $(BUILD)

clean: ## removes what was built
	@rm -rf $(BUILD) build-asan build.luarocks
