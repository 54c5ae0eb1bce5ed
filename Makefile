# The commands of the appliance; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PYTHON := $(VENV)/bin/python
UV := $(VENV)/uv/bin/uv
UV_VERSION := 0.13.9
# Debian's client where there is one: others may lack BuildKit.
DOCKER := $(firstword $(wildcard /usr/bin/docker) docker)
CONTROL := ./entrypoint.sh python -m appliance.control

# What installs sees nothing of the caller's environment that sends packages elsewhere, or other modules here; what runs
# sees what tableloop/environment.py leaves. Certificates are those of the system, where a company adds its own.
unexport $(filter-out PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX PYTHON_FOR_SETUP,$(filter PYTHON%,$(.VARIABLES)))
unexport BASH_ENV CDPATH GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
unexport PIP_TARGET PIP_PREFIX PIP_ROOT UV_PYTHON UV_SYSTEM_PYTHON UV_TARGET UV_PREFIX UV_NO_CONFIG
export PIP_USER := 0
export UV_SYSTEM_CERTS := 1
ifneq ($(shell cache=$${XDG_CACHE_HOME:-$${HOME:-}/.cache}; [ -e "$$cache" ] || cache=$${HOME:-}; [ -w "$$cache" ] || echo closed),)
export XDG_CACHE_HOME := $(CURDIR)/.runtime/cache
endif

# A .venv whose Python has gone, or is of another version by now, is made anew.
ifneq ($(wildcard $(VENV)/.dependencies),)
ifneq ($(shell $(PYTHON) -Ic 'from importlib.util import find_spec; print(find_spec("pydantic_core") and "here")' 2>/dev/null),here)
$(info the Python of $(VENV) has changed: what was installed for it is removed, make setup installs it anew)
$(shell rm -rf $(VENV))
endif
endif

# Each of these trains several times, or waits for minutes as alerts do.
LOOP_TESTS := tests/integration/pipeline/test_labels.py tests/integration/pipeline/test_gate.py tests/integration/pipeline/test_onnx_scorer.py \
    tests/integration/pipeline/test_shadow.py \
    tests/integration/monitoring/test_drift_monitor.py tests/integration/monitoring/test_alerts.py tests/tables tests/upgrade \
    tests/integration/appliance/test_on_postgres.py tests/integration/pipeline/test_dask.py tests/integration/pipeline/test_shared_workspace.py \
    tests/integration/appliance/test_migrate.py tests/integration/pipeline/test_large_table.py

# Whatever has become of .venv and of the settings: the appliance's first process is a shell and ends the others.
STOP = state=$${STATE_DIR:-$$(sed -n 's/^STATE_DIR=//p' .env 2>/dev/null | tr -d "\r\"'" | tail -n 1 || true)}; \
    pid=$$(cat "$${state:-state$${TABLE:+-$$(basename "$$TABLE")}}/run/pid" 2>/dev/null || true); \
    running() { [ -n "$$pid" ] && ps -o args= -p "$$pid" 2>/dev/null | grep -q entrypoint.sh; }; \
    running || { echo "does not run"; exit 0; }; \
    kill -TERM "$$pid"; \
    for _ in {1..100}; do running || { echo "stopped"; exit 0; }; sleep 0.1; done; \
    echo "is still stopping after 10 s"; exit 1

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.dependencies .runtime/mlflow.db  ## install everything into .venv and .runtime; uv keeps downloads in its own cache
	@$(PYTHON) -m appliance.binaries --retry

table: $(VENV)/.dependencies  ## make tables/NAME of a CSV or Parquet file (FILE=, TARGET= a column; NAME=, FORCE=1, KEEP=, DROP=, CATEGORIES=)
	@$(PYTHON) -m pipeline.describe "$(FILE)" --target "$(TARGET)" --name "$(NAME)" $(if $(FORCE),--replace) \
	    $(if $(KEEP),--keep $(KEEP)) $(if $(DROP),--drop $(DROP)) $(if $(CATEGORIES),--categories $(CATEGORIES))

up: $(VENV)/.dependencies .runtime/mlflow.db  ## start the appliance in the background and wait until it is ready
	@$(PYTHON) -m appliance.binaries >/dev/null
	@$(CONTROL) up

down:  ## stop it
	@$(CONTROL) down || { echo "stopping it without Python"; $(STOP); }

status:  ## show services, model, drift and last retraining; Error 1: something is down, Error 3: it does not run
	@$(CONTROL) status

logs:  ## follow the console, Ctrl-C ends that
	@$(CONTROL) logs

retrain:  ## train, gate and promote while the service goes on answering (FORCE=1 REASON="..." overrules the gate)
	@$(CONTROL) retrain $(if $(FORCE),--force) --reason "$(REASON)"

test-alert:  ## send a test message where alerts go
	@./entrypoint.sh python -m monitoring.alerting

drift:  ## compare the newest predictions with what the model was made from; exit 1 for drift, 2 for too few
	@./entrypoint.sh python -m monitoring.drift_check

key:  ## make a key for a program and print it once (NAME=... SCOPE=predict, label or admin; REMOVE=1; alone: list them)
	@./entrypoint.sh python -m tableloop.api_keys --name "$(NAME)" --scope "$(SCOPE)" $(if $(REMOVE),--remove)

trust:  ## sign a version that was registered by hand, after it has loaded without code (VERSION=n)
	@./entrypoint.sh python -m pipeline.trust "$(VERSION)"

revoke:  ## take labels out of later trainings (SENDER=, SINCE=, UNTIL=, BATCH=, REASON="..."; DRY_RUN=1 only says which)
	@./entrypoint.sh python -m pipeline.revoke $(if $(SENDER),--sender "$(SENDER)") $(if $(SINCE),--since "$(SINCE)") \
	    $(if $(UNTIL),--until "$(UNTIL)") $(if $(BATCH),--batch "$(BATCH)") --reason "$(REASON)" $(if $(DRY_RUN),--dry-run)

export:  ## write predictions with labels into FILE (.parquet or .csv, - is stdout), while it runs (FROM=, TO= are times)
	@./entrypoint.sh python -m pipeline.export $(if $(FROM),--from "$(FROM)") $(if $(TO),--to "$(TO)") "$(FILE)"

score:  ## predict the rows of a file or folder, on disk or s3://, into another, by the version that serves (IN=, OUT=)
	@./entrypoint.sh python -m pipeline.score "$(IN)" "$(OUT)"

rollback:  ## give the alias back to the version that served before (REASON="...")
	@./entrypoint.sh python -m pipeline.rollback --reason "$(REASON)"

promote:  ## let a version serve that waits for it with PROMOTE=ask, or any other (VERSION=n REASON="...")
	@./entrypoint.sh python -m pipeline.promote "$(VERSION)" --reason "$(REASON)"

reject:  ## let no retraining promote a version, now or later (VERSION=n REASON="...")
	@./entrypoint.sh python -m pipeline.promote "$(VERSION)" --reject --reason "$(REASON)"

reproduce:  ## build a registered version again and compare its metrics (VERSION=n)
	@./entrypoint.sh python -m pipeline.reproduce "$(VERSION)"

backup:  ## save the whole state in FILE (a name or s3://…), while it runs; without FILE in backups, FILE=- writes to stdout
	@./entrypoint.sh python -m appliance.backup "$(FILE)"

restore:  ## put the backup FILE in place of the state, while nothing runs; the former state is kept aside
	@./entrypoint.sh python -m appliance.restore "$(FILE)" $(if $(TRUST),--trust)

migrate-to:  ## move the state to PostgreSQL and object storage, in passes (FILE= has DATABASE_URL, ARTIFACTS_URI; or the environment)
	@./entrypoint.sh python -m appliance.migrate "$(FILE)"

simulate:  ## tell a story of some minutes to the running appliance (SCENARIO=drift, steady, burst or shadow)
	@./entrypoint.sh python -m scenarios $(SCENARIO)

test: $(VENV)/.development .runtime/mlflow.db  ## run the tests: real servers on free ports, state in temporary directories
	@$(PYTHON) -m pytest --numprocesses 2 $(addprefix --ignore=,$(LOOP_TESTS))

test-loop: $(VENV)/.development .runtime/mlflow.db  ## run the slow tests that `make test` leaves out: whole retrainings with labels
	@$(PYTHON) -m pytest --numprocesses 2 $(LOOP_TESTS)

test-unit: $(VENV)/.development  ## run the fast part of the tests
	@$(PYTHON) -m pytest --numprocesses 2 tests/unit

bench: $(VENV)/.development  ## measure the service beside mlflow models serve and others, some three minutes
	@./entrypoint.sh python -m bench.serving

bench-quality: $(VENV)/.development  ## measure the models under the published protocol (SEEDS="7 8" chooses others)
	@$(PYTHON) -m bench.quality $(SEEDS)

bench-tables: $(VENV)/.development  ## measure the models of each table beside CatBoost's and LightGBM's defaults
	@$(UV) pip install --quiet --python $(PYTHON) --no-deps --target .runtime/bench catboost==1.2.10 lightgbm==4.7.0
	@PYTHONPATH=.runtime/bench $(PYTHON) -m bench.tables

bench-cluster: $(VENV)/.development  ## measure processes, PostgreSQL, the scoring of files, a large table and the drift check, half an hour
	@./entrypoint.sh python -m bench.cluster
	@$(PYTHON) -m bench.scoring
	@$(PYTHON) -m bench.large_table
	@$(PYTHON) -m bench.drift_check

bench-page: $(VENV)/.development  ## measure the front page of the running appliance in a real browser
	@./entrypoint.sh python -m tests.browser.speed

screenshots: $(VENV)/.development  ## take the pictures of docs/screenshots from the running appliance
	@./entrypoint.sh python -m tests.browser.screenshots

image:  ## build the image tableloop, on base images by their digests, and list what is in it: tableloop.cdx.json
	@mapfile -t arguments < <(.ci/build-arguments); \
	DOCKER_BUILDKIT=1 $(DOCKER) build "$${arguments[@]}" --tag tableloop .
	@$(DOCKER) run --rm --network none tableloop python -m appliance.sbom >tableloop.cdx.json

run: image  ## build the image and run the whole appliance in one container, Ctrl-C stops it
	@$(DOCKER) run --rm --interactive --name tableloop --volume tableloop:/data \
	    -p 8000:8000 -p 127.0.0.1:5002:5002 -p 127.0.0.1:9090:9090 -p 127.0.0.1:3000:3000 tableloop

test-image: $(VENV)/.development  ## build the image and test real containers of it
	@$(PYTHON) -m pytest tests/image

test-cluster: $(VENV)/.development .runtime/mlflow.db  ## bring up a whole cluster on loopback, and end its parts one after the other under load
	@$(PYTHON) -m pytest tests/cluster

test-grafana: $(VENV)/.development .runtime/mlflow.db  ## ask a real Grafana for every panel, or say NOT RUN (IMAGE=1: the pinned image's, or fail)
	@$(PYTHON) -m tests.grafana $(if $(IMAGE),--image)

lint: $(VENV)/.development  ## check style, types and the direction of imports
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@$(VENV)/bin/lint-imports --no-logo

dashboards: $(VENV)/.development  ## write Grafana's dashboards anew from monitoring/grafana/dashboards.py
	@$(PYTHON) -m monitoring.grafana.dashboards

lock: $(VENV)/.development  ## resolve pyproject.toml into the two lock files
	@export UV_CUSTOM_COMPILE_COMMAND="make lock"; \
	compile="$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links pyproject.toml"; \
	$$compile --extra cluster --output-file requirements.lock; \
	$$compile --all-extras --constraint requirements.lock --output-file requirements-dev.lock

clean:  ## remove state, .venv and .runtime (asks; FORCE=1 does not)
	@if [ -x $(PYTHON) ]; then $(CONTROL) clean $(if $(FORCE),--force); fi
	@rm -rf $(VENV) .runtime

.PHONY: $(shell awk -F : '/^[a-z-]+:.*## / {print $$1}' $(MAKEFILE_LIST))

# Python 3.11 or newer may have any of these names.
$(PYTHON):
	@case "$$PWD" in *:*) echo "the checkout's path $$PWD has a colon, at which PATH would be cut: move it" >&2; exit 1;; esac
	@for python in $${PYTHON_FOR_SETUP:-} python3 python3.14 python3.13 python3.12 python3.11 python; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	    echo "Python 3.11 or newer is needed, and no python3 on PATH is: install it and run make again" >&2; exit 1; \
	fi; \
	if ! "$$found" -c 'import venv, ensurepip' 2>/dev/null; then \
	    echo "$$found has no venv: install it (Debian, Ubuntu: apt install python3-venv) and run make again" >&2; exit 1; \
	fi; \
	"$$found" -m venv $(VENV)

# uv has a directory of its own, so that `uv pip sync` does not remove it.
$(UV): | $(PYTHON)
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m ensurepip >/dev/null  # a .venv made by uv has none
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --target $(VENV)/uv uv==$(UV_VERSION)

# Installs what a lock file names, and the library in place: a change of the code needs no other installation.
# Byte-compiled now, because a first import costs a start many seconds.
INSTALL = export VIRTUAL_ENV=$(VENV); unset PYTHONDONTWRITEBYTECODE; \
    $(UV) pip sync --quiet --require-hashes --compile-bytecode $<; $(UV) pip install --quiet --no-deps --editable .

# Prometheus and Grafana are fetched meanwhile.
$(VENV)/.dependencies: requirements.lock | $(UV)
	@$(PYTHON) -m appliance.binaries >/dev/null & fetching=$$!; $(INSTALL); wait $$fetching
	@touch $@

$(VENV)/.development: requirements-dev.lock $(VENV)/.dependencies
	@$(INSTALL)
	@touch $@

.runtime/mlflow.db: $(VENV)/.dependencies
	@env -u PYTHONDONTWRITEBYTECODE $(PYTHON) -m appliance.prepare --template
