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
QUIET := export TMPDIR="$$(mktemp -d)"; trap 'rm -rf "$$TMPDIR"' EXIT; $(QUIET)
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
export PIP_ROOT_USER_ACTION := ignore

.PHONY: help run test docs lab nbs check-nbs export browser clean

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

run: $(VENV)/.run ## boot the built-in Guest and print what it says
	@$(BIN)/lguest demo

test: browser ## notebooks and package agree, every lesson cell runs, every test passes
	@$(QUIET) $(BIN)/nbdev_test --n_workers 2
	@$(QUIET) $(BIN)/python -m pytest -q --basetemp="$(VAR)/pytest" tests

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

$(VENV)/.dev: $(VENV)/.run
	@echo "installing the notebook and test tools into $(VENV)/ (a minute or two the first time)"
	@$(PIP) -e '.[dev]'
	@touch $@

# A real browser for the tests of the rendered pages, and the library that Playwright's driver wants. Without them those
# tests are skipped, and say so.
browser: $(VENV)/.dev
	@if ! command -v chromium chromium-browser google-chrome >/dev/null || ! $(BIN)/playwright --version >/dev/null 2>&1; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing chromium for the browser tests"; export DEBIAN_FRONTEND=noninteractive; \
	    { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium libatomic1; } </dev/null >/dev/null 2>&1 \
	      || echo "apt-get failed: the browser tests will be skipped"; \
	  else echo "no chromium: the browser tests will be skipped (on Debian: sudo apt-get install chromium libatomic1)"; fi; fi
