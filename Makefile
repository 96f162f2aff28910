# One entry for everything: `make help` lists it. The environment is made in .venv; stamps in it keep repeated
# runs from doing work when nothing changed. PYTHON names the interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
AGENT := $(wildcard src/cowscope/runtimes/python/inside/*.[ch])
SOURCES := $(shell find src -name "*.py" -o -name py.typed) pyproject.toml hatch_build.py $(AGENT)

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast check mutants bench clean
.DELETE_ON_ERROR:

help: ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/installed ## install as a user would, and record a pre-forking server
	$(BIN)/cowscope run -- $(BIN)/python -m cowscope.demo.prefork

test: $(VENV)/developing $(VENV)/system-packages ## run all tests; as root they include those of the live kernel
	$(BIN)/python -m pytest --doctest-modules tests src

test-fast: $(VENV)/developing ## run the tests that need neither the live kernel nor patience
	$(BIN)/python -m pytest --doctest-modules tests src -m "not live and not slow"

check: $(VENV)/developing ## check format, style, types and layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

mutants: $(VENV)/developing ## break the vm's rules one by one, and see the lab notice (as root)
	$(BIN)/python -m tests.lab.mutants

bench: $(VENV)/developing ## print timings as ratios against peers on this machine
	$(BIN)/python bench/run.py

clean: ## remove the environment and everything built or cached
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Another Python version makes another environment. --group needs pip 25.1, newer than the one in old Pythons.
$(VENV)/python-$(VERSION):
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

# As a wheel for the demo, editable for tests: the environment holds one of the two, and its stamp says which.
$(VENV)/installed: $(VENV)/python-$(VERSION) $(SOURCES)
	rm -f $(VENV)/developing
	$(BIN)/python -m pip install --quiet .
	touch $@

$(VENV)/developing: $(VENV)/python-$(VERSION) pyproject.toml hatch_build.py $(AGENT)
	rm -f $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

$(VENV)/system-packages: $(VENV)/python-$(VERSION) tests/debian-packages.txt
	.ci/system-packages tests/debian-packages.txt
	touch $@
