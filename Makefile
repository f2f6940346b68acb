# Everything a newcomer or a CI needs: `make demo`, `make test`. Needs Python >= 3.11 and make.
# The virtual environment is .venv, made on first use from pins with hashes (constraints-*.txt in
# tests/ and bench/), and brought up to date when those or pyproject.toml change.

PYTHON ?= python3
UV ?= uv
ARGS ?=
MINUTES ?= 30
WORKERS ?= 4
PYTEST = -n $(WORKERS) --dist worksteal
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
SOURCES := relay tests bench
QUICK := not slow and not older_postgres

.DELETE_ON_ERROR:
vpath constraints-%.txt tests bench
.PHONY: help demo test test-all lint bench soak bugs spec advisories sbom constraints clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.relay-demo ## Watch it work on throw-away servers: make demo ARGS="--events 5000 --json"
	@$(PY) -m relay demo $(ARGS)

test: lint ## Lint, check types, run the quick tests on the newest Postgres: make test ARGS="-k bell"
	$(PY) -m pytest $(PYTEST) -m "$(QUICK)" $(ARGS)

test-all: test ## After that slow tests, the older Postgres, the models, bugs seeded in the core
	$(PY) -m pytest $(PYTEST) -m "not ($(QUICK))" $(ARGS)
	$(PY) -m tests.spec
	$(PY) -m tests.bugs --no-control --promises

bench: $(VENV)/.relay-bench ## Measure it here, into bench-report/: make bench ARGS="--scenario drain --quick"
	@$(PY) -m bench $(ARGS)

soak: $(VENV)/.relay-test ## All faults at random under load: make soak MINUTES=30 ARGS="--seed 7"
	$(PY) -m tests.soak --minutes $(MINUTES) $(ARGS)

bugs: $(VENV)/.relay-test ## Show that the tests catch every seeded bug: make bugs ARGS="settle"
	$(PY) -m tests.bugs $(ARGS)

spec: $(VENV)/.relay-test ## Exhaust the models of bell, cursor and lease: make spec ARGS="bell"
	$(PY) -m tests.spec $(ARGS)

lint: $(VENV)/.relay-test ## Check style and types only
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m ruff format --check $(SOURCES)
	$(PY) -m mypy

advisories: $(VENV)/.relay-test ## Ask which pinned dependencies have known vulnerabilities
	$(PY) -m tests.deploy.advisories $(ARGS)

sbom: $(VENV)/.relay-test ## List what the image is made of, with licences: dist/sbom.cdx.json
	$(PY) -m tests.deploy.supply dist/sbom.cdx.json

clean: ## Remove the virtual environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps. pip's hash mode can't install a local project, so that comes last, without dependencies.
# The build tools go first: one dependency has no wheel, and an isolated build would fetch its
# tools without hashes.
$(VENV)/.relay-%: constraints-%.txt constraints-build.txt pyproject.toml | $(PY)
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(VENV) has Python " + sys.version.split()[0] + ", needed is 3.11 or newer: run make clean")'
	@echo "Installing into $(VENV) ..."
	@$(PIP) --require-hashes -r $(word 2,$^)
	@$(PIP) --require-hashes --no-build-isolation -r $<
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(PY):
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is Python " + sys.version.split()[0] + ", needed is 3.11 or newer: make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv --clear $(VENV) || { echo "no virtual environment: on Debian and Ubuntu install python3-venv" >&2; rm -rf $(VENV); exit 1; }

# The largest set decides; the smaller ones are parts of it, so that all agree. `make constraints
# ARGS=--upgrade` takes the newest of everything.
COMPILE = $(UV) --no-config pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command "make constraints"

constraints: ## Pin every dependency anew, with hashes (needs uv)
	printf 'hatchling\neditables\nsetuptools\n' | $(COMPILE) $(ARGS) pyproject.toml - --extra test -o tests/constraints-test.txt
	$(COMPILE) pyproject.toml --extra bench -c tests/constraints-test.txt -o bench/constraints-bench.txt
	$(COMPILE) pyproject.toml --extra demo -c tests/constraints-test.txt -o tests/constraints-demo.txt
	$(COMPILE) pyproject.toml --extra prometheus -c tests/constraints-test.txt -o relay/deploy/constraints.txt
	printf 'hatchling\neditables\nsetuptools\n' | $(COMPILE) - -c tests/constraints-test.txt -o tests/constraints-build.txt
