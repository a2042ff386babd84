# EMO Viz: every command a person or the CI needs. `make help` lists them.
# Works with GNU make 3.81 (macOS) and later.

SHELL := /bin/bash
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
PORT := 8501
WATCH := none

VENV := .venv
BIN := $(VENV)/bin
APP_READY := $(VENV)/.app-ready
DEV_READY := $(VENV)/.dev-ready
BROWSER := PYTHONPATH=tests/browser $(BIN)/python

# glibc hands every large tensor back to the kernel and faults it in again; keeping the
# memory saves about a fifth of the training time on a CPU. Ignored on other systems.
KEEP_MEMORY := MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296
# Eight times through the corpus.
NANO_STEPS := 17500
TRAIN_NANO := $(KEEP_MEMORY) $(BIN)/python -m model.train --preset nano --steps $(NANO_STEPS) --objective

# One thread: a text is too little work to share (docs/log.md).
EMO_VIZ := OMP_NUM_THREADS=1 $(BIN)/python -m emo_viz
PAIR := emo-nano std-nano
WORKERS := 2

# What `make assets` makes.
ASSETS := assets
CORPUS := data/corpus
COUNTS := --per-domain 48 --calibration-per-domain 16
FIRST := --domain recipes
HELD_OUT = $(ASSETS)/documents/documents.parquet
CALIBRATION = $(ASSETS)/documents/calibration.parquet

# Of `make own`: DOCUMENTS is what `python -m model.data build --documents` takes.
DOCUMENTS :=
OUT := own
BUILDING :=
TRAINING :=

.PHONY: help app test check train-nano assets own docs-shots browser clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

app: $(APP_READY) ## Start the app on http://127.0.0.1:8501 (PORT=8502, WATCH=poll to reload on edits)
	$(BIN)/python -m streamlit run serve.py --server.port $(PORT) --server.fileWatcherType $(WATCH)

test: $(DEV_READY) browser ## Run every test, browser tests included
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --ignore tests/kernels -n $(WORKERS) --dist loadfile
	# In processes of their own: Triton reads at its import whether it interprets or compiles.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/kernels -n $(WORKERS) --dist loadfile

check: $(DEV_READY) ## Lint, formatting, types and the import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini
	$(BIN)/lint-imports

train-nano: $(APP_READY) ## Train the bundled pair from data/corpus: minutes on a GPU, 8 hours of a CPU each (NANO_STEPS=1900: one)
	$(TRAIN_NANO) emo
	$(TRAIN_NANO) standard

assets: $(APP_READY) ## Make documents, traces, clusters, experts, maps, curves and first screen anew (ASSETS=assets CORPUS=data/corpus)
	$(EMO_VIZ) documents --corpus $(CORPUS) --out $(ASSETS)/documents $(COUNTS)
	for name in $(PAIR); do \
	  $(EMO_VIZ) record --model $(ASSETS)/checkpoints/$$name --documents $(HELD_OUT) \
	    --out $(ASSETS)/traces/$$name && \
	  $(EMO_VIZ) clusters --model $(ASSETS)/checkpoints/$$name --documents $(HELD_OUT) \
	    --out $(ASSETS)/analysis/clusters-$$name.npz && \
	  $(EMO_VIZ) experts --model $(ASSETS)/checkpoints/$$name --documents $(HELD_OUT) \
	    --out $(ASSETS)/analysis/experts-$$name.npz && \
	  $(EMO_VIZ) ablate-experts --model $(ASSETS)/checkpoints/$$name --documents $(HELD_OUT) \
	    --out $(ASSETS)/analysis/expert-effects-$$name.npz --per-domain 8 --workers $(WORKERS) || exit 1; \
	done
	$(EMO_VIZ) map --traces $(PAIR:%=$(ASSETS)/traces/%) --out $(ASSETS)/analysis/maps.npz
	$(EMO_VIZ) token-map --models $(PAIR:%=$(ASSETS)/checkpoints/%) --documents $(HELD_OUT) \
	  --clusters $(PAIR:%=$(ASSETS)/analysis/clusters-%.npz) --out $(ASSETS)/analysis/token_map.npz
	$(EMO_VIZ) curves --models $(PAIR:%=$(ASSETS)/checkpoints/%) --documents $(HELD_OUT) \
	  --calibration $(CALIBRATION) --out $(ASSETS)/analysis/curves.parquet --workers $(WORKERS)
	$(EMO_VIZ) glance --models $(PAIR:%=$(ASSETS)/checkpoints/%) --documents $(HELD_OUT) \
	  --calibration $(CALIBRATION) --curves $(ASSETS)/analysis/curves.parquet $(FIRST) \
	  --out $(ASSETS)/analysis/glance.npz

own: $(APP_READY) ## Build, train and analyse a pair of your own: DOCUMENTS=my.jsonl OUT=own (BUILDING=, TRAINING=: options)
	@test -n "$(DOCUMENTS)" || { echo "Name your documents, as in 'make own DOCUMENTS=my.jsonl OUT=own'."; exit 2; }
	$(BIN)/python -m model.data build --documents $(DOCUMENTS) --out $(OUT)/corpus $(BUILDING)
	$(KEEP_MEMORY) $(BIN)/python -m model.train.pair --corpus $(OUT)/corpus --out $(OUT)/runs $(TRAINING)
	$(BIN)/python -m emo_viz analyse --runs $(OUT)/runs --corpus $(OUT)/corpus

docs-shots: $(DEV_READY) browser ## Take the README's screenshots anew
	$(BROWSER) docs/shots.py

browser: $(DEV_READY)
	@$(BROWSER) tests/browser/chromium.py
	@$(BROWSER) tests/browser/npm.py

clean: ## Remove the environment and every cache
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "EMO Viz needs Python 3.11 or later: install it and name it, as in 'make app PYTHON=python3.12'."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Python's venv module is missing: install it ('apt-get install python3-venv' on Debian) and run this again."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Compiled by all cores instead of by pip's one; that some packages hold files of other Pythons is no fault.
COMPILE := $(BIN)/python -m compileall -q -j 0 -x /tests/ $(VENV)/lib > /dev/null || true

$(APP_READY): requirements.txt | $(BIN)/pip
	$(BIN)/pip install --no-compile -r requirements.txt
	$(COMPILE)
	$(BIN)/python -m model.native
	@touch $@

$(DEV_READY): requirements-dev.txt $(APP_READY)
	$(BIN)/pip install --no-compile -r requirements-dev.txt
	$(COMPILE)
	@touch $@
