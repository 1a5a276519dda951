# Everything a fresh machine needs: Python 3.10-3.12, gcc and make. `make help` lists the targets.
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.10 python3))
EXTRAS ?= dev
VENV := .venv
BIN := $(VENV)/bin
SCALE ?= laptop
STAMP := $(VENV)/.installed-$(EXTRAS)
export UV_PYTHON_DOWNLOADS = never
export TOKENIZERS_PARALLELISM = false

.PHONY: help setup lock
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 24

# uv is bootstrapped through pip into its own folder, so that it never meets the locked packages.
$(VENV)/.uv/bin/uv:
	@echo "== creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else "zoo needs Python 3.10-3.12, but $(PYTHON) is %d.%d: run make PYTHON=/path/to/python3.11" % v)'
	@$(PYTHON) -m venv $(VENV)/.uv
	@$(VENV)/.uv/bin/pip install -q --disable-pip-version-check 'uv>=0.9'

$(STAMP): pyproject.toml requirements.lock | $(VENV)/.uv/bin/uv
	@test -x $(BIN)/python || $(VENV)/.uv/bin/uv venv -q --allow-existing --python $(PYTHON) $(VENV)
	@echo "== installing the locked packages (about 7 GB the first time, a minute or two)"
	@$(VENV)/.uv/bin/uv pip install -q --python $(BIN)/python --constraint requirements.lock 'setuptools>=77'
	$(VENV)/.uv/bin/uv pip install --python $(BIN)/python --constraint requirements.lock --no-build-isolation-package zoo -e '.[$(EXTRAS)]' 2>&1 | grep -vE '^ [+] '
	@touch $@

setup: $(STAMP)  ## create .venv from requirements.lock (once)

lock: | $(VENV)/.uv/bin/uv  ## resolve requirements.lock anew, all extras in one resolution
	$(VENV)/.uv/bin/uv pip compile -q --universal --python-version 3.10 --all-extras --no-header --no-annotate pyproject.toml -o requirements.lock
