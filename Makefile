# The one interface. `make help` lists the targets; ARGS="..." passes overrides through.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ARGS   ?=
# uv makes the environment in a tenth of the time; pip where it is not installed.
UV      := $(shell command -v uv 2>/dev/null)
INSTALL  = $(if $(UV),$(UV) pip install --python $(BIN)/python,$(BIN)/python -m pip install --disable-pip-version-check)

.DEFAULT_GOAL := help
.PHONY: help setup run sweep reproduce compare report verify again query ui test lint format docs bench bench-quick coverage fuzz numbers clean

help: ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything in it (done by the others when needed); PINNED=1: versions of constraints.txt

$(STAMP): pyproject.toml $(if $(PINNED),constraints.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'medretrieval needs Python 3.11 or newer: make PYTHON=python3.12 ...' >&2; exit 1; }
	$(if $(UV),$(UV) venv --quiet --seed --allow-existing --python '$(PYTHON)' $(VENV),$(PYTHON) -m venv $(VENV))
	$(INSTALL) $(if $(PINNED),-c constraints.txt) -e '.[dev]'
	@touch $@

run: $(STAMP) ## one run on the embedded phantoms: embed, index, evaluate, track
	$(BIN)/medretrieval $(ARGS)

sweep: $(STAMP) ## 12 runs: 2 encoders x 3 index types x 2 metrics
	$(BIN)/medretrieval --multirun encoder=efficientnet_lite0,pixels index=flat,ivf,hnsw metric=cosine,l2 $(ARGS)

reproduce: $(STAMP) ## CLIP ViT-B/32 on PneumoniaMNIST, the system to reproduce (needs the hub once)
	$(BIN)/medretrieval experiments=clip_pneumonia $(ARGS)

compare: $(STAMP) ## compare runs, a sweep or an experiment: RUNS="<run> <run> ..."
	$(BIN)/medretrieval compare $(RUNS) $(ARGS)

report: $(STAMP) ## one HTML file to send: SWEEP=<id>, or RUNS="<run> <run> ..."
	$(BIN)/medretrieval report $(SWEEP) $(RUNS) $(ARGS)

verify: $(STAMP) ## recompute the scores and the ranking of RUN=<folder or MLflow id>
	$(BIN)/medretrieval verify run="$(RUN)" $(ARGS)

again: $(STAMP) ## repeat RUN=<folder or MLflow id> and say what differs
	$(BIN)/medretrieval again run="$(RUN)" $(ARGS)

query: $(STAMP) ## search RUN=<folder, id or sweep> with IMAGE=<file or folder> or TEXT="..."
	@$(BIN)/medretrieval query run="$(RUN)" $(if $(IMAGE),image="$(IMAGE)") $(if $(TEXT),text="$(TEXT)") $(ARGS)

# MLflow itself opens on another page than that of the runs.
ui: $(STAMP) ## the MLflow UI on what has been run; prints where the runs are shown
	@$(BIN)/python -m medretrieval.track.mlflow.open_ui $(ARGS)
	MLFLOW_DISABLE_TELEMETRY=$${MLFLOW_DISABLE_TELEMETRY:-true} $(BIN)/mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///outputs/mlflow.db}" $(ARGS)

test: $(STAMP) ## the tests (ARGS="-m slow" for the slow ones)
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pages that are made from the code are made first, a line each.
docs: $(STAMP) ## build the site of docs/ into build/site, with the API
	$(BIN)/python -m medretrieval.evaluate.score_docs docs/scores.md README.md
	$(BIN)/python -m medretrieval.runs.format_page docs/results-format.md
	$(BIN)/python docs/verb_tables.py docs/verbs.md
	$(BIN)/python docs/encoder_table.py docs/encoders.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(STAMP) ## time the stages side by side
	$(BIN)/python -m tests.bench $(ARGS)

bench-quick: $(STAMP) ## the same with smaller sizes, within 3 minutes
	$(BIN)/python -m tests.bench --quick $(ARGS)

coverage: $(STAMP) ## simulate what intervals cover and how often tests alarm falsely, into docs/trust.md (30 minutes)
	$(BIN)/python -m tests.coverage $(ARGS)

fuzz: $(STAMP) ## thousands of bad inputs in a sandbox, counted by how they end (an hour; ARGS="inputs=500 factories")
	$(BIN)/python -m tests.fuzz $(ARGS)

numbers: $(STAMP) ## make the tables of numbers in the pages again (minutes)
	$(BIN)/python -m tests.numbers

clean: ## remove .venv, caches of tools and build products; outputs/ stays
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
