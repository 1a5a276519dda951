# Everything a fresh machine needs: Python 3.10-3.12, gcc and make. `make help` lists the targets.
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.10 python3))
EXTRAS ?= dev,eval,sentences
# what the command line or the environment says, before the defaults of the main job
GIVEN_SPEC := $(SPEC)
GIVEN_SCALE := $(SCALE)
SCALE ?= laptop
SPEC ?= table-mtp-1
MB ?= 40
VENV := .venv
BIN := $(VENV)/bin
UV := $(VENV)/.uv/bin/uv
STAMP := $(VENV)/.installed-$(EXTRAS)
export UV_PYTHON_DOWNLOADS = never
export TOKENIZERS_PARALLELISM = false

.PHONY: help setup reproduce replay pages plan bundle merge test test-all check bench board space lock
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 24

reproduce: reproduce-$(SPEC)  ## train and compare on the embedded corpus: the first table (SPEC=table-mtp-1 SCALE=laptop)

reproduce-%: $(STAMP)  ## one table or figure of a paper: make reproduce-table-mtp-1 SCALE=desk JOBS=2
	@$(BIN)/python -m benchmarks.run $* --scale $(SCALE) $(if $(JOBS),--jobs $(JOBS))

pages: $(STAMP)  ## write the committed pages, status.json and the README's table anew from their records
	@$(BIN)/python -m benchmarks.report

replay: $(STAMP)  ## whether stale records still hold, by beginning their runs with the code of then and of now: make replay SPEC=table-mtp-1
	@$(BIN)/python -m benchmarks.replay $(SPEC) --scale $(or $(GIVEN_SCALE),desk)

plan: $(STAMP)  ## what runs would take: make plan SCALE=paper [SPEC=table-mtp-1] [DEVICE=h100] [MFU=0.4]
	@$(BIN)/python -m benchmarks.plan $(GIVEN_SPEC) --scale $(or $(GIVEN_SCALE),paper) $(if $(DEVICE),--device $(DEVICE)) $(if $(MFU),--mfu $(MFU))

bundle: $(STAMP)  ## one folder that runs a spec on a GPU node without network: make bundle SPEC=table-mtp-1 MB=40 [TAR=1]
	@$(BIN)/python -m benchmarks.bundle $(SPEC) --scale $(or $(GIVEN_SCALE),gpu) --megabytes $(MB) $(if $(TAR),--tar)

merge: $(STAMP)  ## add the records that a bundle brought back: make merge FROM=records.tar.gz
	@$(BIN)/python -m benchmarks.merge $(FROM) $(if $(ANY),--any)

test: $(STAMP)  ## the test suite
	@$(BIN)/python -m pytest -q --durations=10 tests

test-all: $(STAMP)  ## the test suite and the slow tests: every recipe starts, the README's commands run
	@$(BIN)/python -m pytest -q --durations=10 --slow tests

check: $(STAMP)  ## lint, types, pages that follow from their records, tests
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/python -m benchmarks.report --check && $(MAKE) --no-print-directory test

bench: $(STAMP)  ## speed and memory beside their anchors (a quiet machine, about ten minutes)
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.bench

board: $(STAMP)  ## TensorBoard over all runs, or over the arms of one spec: make board SPEC=table-mtp-1 SCALE=desk
	@$(if $(GIVEN_SPEC),$(BIN)/python -m benchmarks.board $(SPEC) --scale $(or $(GIVEN_SCALE),desk),$(BIN)/tensorboard --logdir runs)

# What was done of it is kept under runs/: the same words go on where a killed run stopped. What an earlier run left to be shipped
# goes first: a run that is told to stop ends well, and make would take the old one for its.
SPACE_RUN := runs/sonar-small/space
SPACE_DATA = -c recipes/sonar/small.yaml $(if $(FILES),--data.init_args.files="$(FILES)" --data.init_args.share=0.03)
space: $(STAMP)  ## make the shipped sentence space anew, about three hours: make space FILES="['my/novels.jsonl.gz']" [OUT=zoo/sonar/small] [REPLACE=1]
	@rm -rf $(SPACE_RUN)/pretrained
	@$(BIN)/zoo fit $(SPACE_DATA) --trainer.logger.init_args.version=space $(addprefix --ckpt_path=,$(wildcard $(SPACE_RUN)/checkpoints/last.ckpt))
	@$(BIN)/zoo prepare space $(SPACE_DATA) --run $(SPACE_RUN)/pretrained --out $(or $(OUT),zoo/sonar/small) --scored 1000 --limit 12 $(if $(REPLACE),--replace)

# uv is bootstrapped through pip into a folder of its own, so that it never meets the locked packages.
$(UV):
	@echo "== creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else "zoo needs Python 3.10-3.12, but $(PYTHON) is %d.%d: run make PYTHON=/path/to/python3.11" % v)'
	@$(PYTHON) -m venv $(VENV)/.uv
	@$(VENV)/.uv/bin/pip install -q --disable-pip-version-check 'uv>=0.9'

# Versions come from the lock, packages from pyproject.toml and EXTRAS; the stamp makes sure it is done once.
$(STAMP): pyproject.toml requirements.lock | $(UV)
	@test -x $(BIN)/python || $(UV) venv -q --allow-existing --python $(PYTHON) $(VENV)
	@echo "== installing the locked packages (8 GB the first time, a minute or two)"
	@$(UV) pip install -q --python $(BIN)/python --constraint requirements.lock 'setuptools>=77'
	@$(UV) pip install --python $(BIN)/python --constraint requirements.lock --no-build-isolation-package zoo -e '.[$(EXTRAS)]'
	@touch $@

setup: $(STAMP)  ## create .venv from requirements.lock (once; the other targets do it too)

lock: | $(UV)  ## resolve requirements.lock anew: all extras in one resolution, one version of each for Python 3.10-3.12
	$(UV) pip compile -q --universal --python-version 3.10 --fork-strategy fewest --all-extras --no-header --no-annotate pyproject.toml -o requirements.lock
