# Everything below runs as root on Debian 12 or 13 and installs what it needs by itself.
# ENGINE=sid uses the newest Docker Engine, from Debian's unstable suite.
.DEFAULT_GOAL := help
.PHONY: help demo test long crash power-cut yocto bench lint format clean prepare

ENGINE ?= trixie
export ENGINE
# Processes that tests run in; most of their time is waiting. 1 for a debugger.
JOBS ?= 2
# Says which tests took longest, in seconds.
DURATIONS := --durations=40 --durations-min=20
BIN := .venv/bin
SOURCES := agent qemu tests
SUITES := $(wildcard tests/unit tests/yocto tests/docker tests/crash tests/qemu)

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

demo: prepare ## Publish, sign, update, break, roll back, corrupt, reset; then a device in QEMU
	$(BIN)/python tests/demo/demo.py
	$(BIN)/python tests/demo/device.py

test: prepare ## Run all tests; ENGINE=sid for the newest engine, TESTS=path for some, JOBS=1 in one process
	$(BIN)/pytest $(DURATIONS) $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --no-loadscope-reorder) $(or $(TESTS),$(SUITES))

long: prepare ## The tests that boot an emulator many times, which make test leaves out (an hour)
	LONG=1 $(BIN)/pytest $(DURATIONS) $(or $(TESTS),$(addprefix tests/qemu/test_,engine_damage.py two_slots.py bad_input.py suspend.py arm64.py))

crash: prepare ## Kill the command before every durable call and ask the law (hours; WHAT=update)
	$(BIN)/python tests/crash/crash.py $(WHAT)

power-cut: prepare ## Cut a virtual device's power N times in updates; PEER=1 does it to stock Docker
	$(BIN)/python tests/qemu/campaign.py $(or $(N),10) $(if $(SEED),--seed $(SEED)) \
		$(if $(ONLY),--only $(ONLY)) $(if $(PEER),--peer $(PEER:1=classic)) $(if $(WITHIN),--within $(WITHIN))

yocto: prepare ## Build the Yocto image with real bitbake; LAYERS=dir for checkouts (kas checkout)
	tests/yocto/yocto.sh $(or $(LAYERS),layers)

bench: prepare ## Measure against stock Docker and print a table; BENCH="--runs 5" for options
	$(BIN)/python tests/bench/bench.py $(BENCH)

lint: prepare ## Check format, types, spelling, import directions
	$(BIN)/pytest -q tests/unit/test_style.py

format: prepare ## Format the Python code
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

clean: ## Remove everything that was made here: .venv, caches, the engine's tree
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build

prepare:
	@tests/prepare.sh $(MAKECMDGOALS)
