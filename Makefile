# `make help` lists what there is. Everything happens inside .venv/, which these targets make and keep current.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# make's own -j would mix the printed lines of two targets.
.NOTPARALLEL:

VENV := .venv
BIN  := $(VENV)/bin
# The newest plain interpreter that is new enough; `make PYTHON=/path/to/python` chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

# What Jupyter, matplotlib, the compiler, pytest and the browser like to leave in the home directory stays in here.
VAR   := $(CURDIR)/$(VENV)/var
QUIET := XDG_CONFIG_HOME="$(VAR)/config" XDG_CACHE_HOME="$(VAR)/cache" XDG_DATA_HOME="$(VAR)/share" \
  IPYTHONDIR="$(VAR)/ipython" JUPYTER_CONFIG_DIR="$(VAR)/jupyter" JUPYTER_RUNTIME_DIR="$(VAR)/jupyter" \
  ZIG_GLOBAL_CACHE_DIR="$(VAR)/zig" ZIG_LOCAL_CACHE_DIR="$(VAR)/zig"
# A socket's path must be short, so temporary files are in /tmp after all; they go when the command ends.
QUIET := mkdir -p "$(VAR)"; export TMPDIR="$$(mktemp -d)"; trap 'rm -rf "$$TMPDIR"' EXIT; $(QUIET)
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
export PIP_ROOT_USER_ACTION := ignore

# What `make .venv/.dev` installs, to the version; `make lock` writes it, and `make LOCK= …` takes the newest instead.
LOCK  ?= .ci/requirements-dev.lock
JOBS  ?= $(shell nproc 2>/dev/null || echo 2)
TESTS := $(BIN)/python -m pytest -q --basetemp="$(VAR)/pytest"
# Tests of one group stay in one process, and the groups begin in the order in which tests/conftest.py puts them.
SPREAD := -n $(JOBS) --dist loadgroup --no-loadscope-reorder
# The oldest Unicorn that settings.ini allows.
UNICORN ?= $(shell sed -nE 's/^requirements = .*unicorn>=([0-9.]+).*/\1/p' settings.ini)
MINUTES ?= 10
BOOTS ?= 1000

.PHONY: help run quick lint test long fuzz unicorn copies docs lab nbs check-nbs export lock tools clean

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

run: $(VENV)/.run ## boot the built-in Guest and print what it says
	@$(BIN)/lguest demo

quick: $(VENV)/.dev ## the most telling tests, fewer examples, no browser: under a minute on two cores
	@$(QUIET) LGUEST_LIT_EXAMPLES=100 $(TESTS) $(SPREAD) -m "not (slow or site or browser)" tests

# What fails soonest comes first: the house rules take seconds, the lessons less than a minute.
lint: $(VENV)/.dev ## names that are not there, or not used: a second
	@$(BIN)/ruff check --quiet

test: tools ## everything that a change has to pass, all lessons and all tests: five to ten minutes
	@$(BIN)/ruff check --quiet
	@$(QUIET) $(TESTS) -x -m "not (slow or site or browser)" tests/test_project.py tests/test_marks.py
	@$(QUIET) $(BIN)/nbdev_test --n_workers $(JOBS)
	@$(QUIET) $(TESTS) $(SPREAD) tests

long: tools ## what takes patience: BOOTS=1000 recorded boots, 100,000 random Guests, half an hour of fuzzing: about 90 minutes
	@$(QUIET) $(BIN)/python tests/campaigns/boots.py --boots $(BOOTS) --workers $(JOBS)
	@$(QUIET) LGUEST_LIT_EXAMPLES=100000 $(TESTS) $(SPREAD) tests/test_invariants.py tests/test_differential.py tests/test_hostile_guests.py
	@$(QUIET) $(BIN)/python tests/fuzz --corpus "$(VAR)/fuzz" --minutes 30

fuzz: $(VENV)/.dev ## random Guests, programs and files for MINUTES=10, on one core; REPRO=file repeats what it found
	@$(QUIET) $(BIN)/python tests/fuzz --corpus "$(VAR)/fuzz" $(if $(REPRO),--repro "$(REPRO)",--minutes $(MINUTES))

# Found before the other by its path, so that everything else is what the tests use otherwise.
unicorn: $(VENV)/.dev ## the i386 and the Host with the oldest engine that settings.ini allows (UNICORN=version for another): three minutes
	@[ -d "$(VAR)/unicorn-$(UNICORN)" ] || $(PIP) --no-deps --target "$(VAR)/unicorn-$(UNICORN)" unicorn==$(UNICORN)
	@$(QUIET) PYTHONPATH="$(VAR)/unicorn-$(UNICORN)" $(BIN)/nbdev_test --n_workers $(JOBS) --path nbs/1_preparation
	@$(QUIET) PYTHONPATH="$(VAR)/unicorn-$(UNICORN)" $(TESTS) $(SPREAD) -m "not (slow or site or browser)" \
	  --ignore tests/test_project.py --ignore tests/test_marks.py tests

copies: $(VENV)/.dev ## the same on copies of the engine's state, as where a system shows nobody its memory: two minutes
	@$(QUIET) LGUEST_LIT_COPIES=1 LGUEST_LIT_EXAMPLES=100 $(TESTS) $(SPREAD) -m "not (slow or site or browser)" \
	  --ignore tests/test_project.py --ignore tests/test_marks.py tests

docs: $(VENV)/.dev ## the site, into _docs/
	@$(QUIET) PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/smalldocs render . 2> >(grep -Ev '(execute.enabled|ipynb-filters) is ignored|-render: ' >&2)

lab: $(VENV)/.dev ## JupyterLab on the notebooks
	$(BIN)/jupyter lab nbs $$([ "$$(id -u)" != 0 ] || echo --allow-root)

nbs: $(VENV)/.dev ## export the package, run every notebook, keep its outputs (NB="one.ipynb two.ipynb" for a few)
	@$(QUIET) $(BIN)/nbdev_export
	@$(QUIET) $(BIN)/python tests/run_notebooks.py $(NB)
	@$(QUIET) $(BIN)/nbdev_clean

check-nbs: $(VENV)/.dev ## run every notebook and compare with the outputs it is committed with
	@$(QUIET) $(BIN)/python tests/run_notebooks.py --check $(NB)

export: $(VENV)/.dev ## write the package from the notebooks, and clean them
	@$(QUIET) $(BIN)/nbdev_export
	@$(QUIET) $(BIN)/nbdev_clean

clean: ## remove everything that make has made
	rm -rf $(VENV) _docs _proc nbs/reference .quarto .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -prune -exec rm -rf {} +

# --- the virtual environment ---------------------------------------------------------------------------------------

# Debian ships a Python without ensurepip. Root can mend that here; anybody else is told how.
$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
	  echo "lguest_lit needs Python 3.11 or newer as python3; on Debian: apt-get install python3" >&2; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	  package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "$(PYTHON) has no ensurepip: installing $$package"; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    { apt-get update -qq && apt-get install -qq -y --no-install-recommends $$package; } </dev/null >/dev/null 2>&1 \
	      || { echo "apt-get could not install $$package" >&2; exit 1; }; \
	  else echo "$(PYTHON) cannot make a virtual environment; on Debian: sudo apt-get install $$package" >&2; exit 1; fi; fi
	@echo "making $(VENV)/ with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.run: settings.ini setup.py pyproject.toml | $(BIN)/python
	@echo "installing what lguest_lit needs into $(VENV)/"
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run $(LOCK)
	@echo "installing the notebook and test tools into $(VENV)/ (a minute or two the first time)"
	@$(PIP) $(if $(LOCK),-c $(LOCK)) -e '.[dev]'
	@touch $@

# The oldest Python that we support makes the lock: what it can install, the newer ones can too.
lock: $(BIN)/python ## the newest development tools, written down in .ci/requirements-dev.lock: two minutes
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "make the lock with Python 3.11: make clean, make lock PYTHON=python3.11")'
	@rm -rf $(VENV)/lock && $(BIN)/python -m venv $(VENV)/lock
	@$(VENV)/lock/bin/python -m pip install --quiet --disable-pip-version-check --no-input -e '.[dev]'
	@{ echo "# Made by make lock: what pip chose for lguest_lit[dev]. Facts and reasons are in settings.ini."; \
	   $(VENV)/lock/bin/python -m pip --disable-pip-version-check freeze --exclude-editable; } > .ci/requirements-dev.lock
	@rm -rf $(VENV)/lock

# What the tests want of Debian: a browser for the rendered pages, with the library that Playwright's driver loads, and an
# assembler. Root gets it; anybody else is told, and what needs it is skipped by name.
tools: $(VENV)/.dev
	@wanted=; \
	command -v chromium chromium-browser google-chrome >/dev/null || wanted="chromium"; \
	$(BIN)/playwright --version >/dev/null 2>&1 || wanted="$$wanted libatomic1"; \
	command -v nasm >/dev/null || wanted="$$wanted nasm"; \
	if [ -n "$$wanted" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing for the tests:" $$wanted; export DEBIAN_FRONTEND=noninteractive; \
	    { apt-get update -qq && apt-get install -qq -y --no-install-recommends $$wanted; } </dev/null >/dev/null 2>&1 \
	      || echo "apt-get failed: the tests that need them will be skipped:" $$wanted; \
	  else echo "missing, and the tests that need them will be skipped (on Debian: sudo apt-get install" $$wanted")"; fi; fi
