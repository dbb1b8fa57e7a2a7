# `make run` and `make test` need Python >= 3.11 and a package index, nothing else. `make help` lists the rest.
#
# All paths are relative and all tools are started as modules of .venv's Python, so that the tree may lie under a
# path with spaces and may be moved.

SHELL = /bin/sh
VENV_PYTHON = .venv/bin/python
PIP_INSTALL = $(VENV_PYTHON) -m pip --disable-pip-version-check install --quiet
# As in the environment of the caller, these would lead out of .venv; and without bytecode kept each process that
# starts would compile all that it imports.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_USER PIP_TARGET PIP_PREFIX PYTHONDONTWRITEBYTECODE
# Packages are there once they have code.
CODE = $(patsubst %/__init__.py,%,$(wildcard config/__init__.py deploy/__init__.py pool_monitor/__init__.py proxy/__init__.py tests/__init__.py))
LOCK = $(VENV_PYTHON) -m uv --quiet pip compile --universal --python-version 3.11 --generate-hashes --upgrade --no-strip-extras \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" pyproject.toml

# A .venv that is not there, or whose Python is gone, is made anew.
ifneq ($(shell $(VENV_PYTHON) -c 'import pip; print("works")' 2>/dev/null),works)
.PHONY: .venv/made
endif

.DEFAULT_GOAL = help
.PHONY: help run test check format docs bench soak compiled conformance cover lock clean

help: ## show this
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile | expand -t 24

run: .venv/run ## start Siding here (UPSTREAM_URL=http://localhost:3000 puts it in front of a service)
	@exec $(VENV_PYTHON) -m deploy up

test: .venv/dev ## run the whole test suite (PYTEST_ARGS="-k name" for a part)
	@exec $(VENV_PYTHON) -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: .venv/dev ## lint, format, types, the tests of architecture and documents, every branch of the policy
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy $(CODE)
	$(VENV_PYTHON) -m pytest -q tests/test_laws.py tests/test_docs.py tests/test_packaging.py
	$(VENV_PYTHON) -m pytest -q tests/policy --cov=proxy.policy --cov-branch --cov-report=term-missing --cov-fail-under=100

format: .venv/dev ## lay out the code, mend what the linter can
	$(VENV_PYTHON) -m ruff check --fix .
	$(VENV_PYTHON) -m ruff format .

docs: .venv/run ## bring the README's tables of settings up to date
	$(VENV_PYTHON) -m config.describe README.md

bench: .venv/dev ## measure against nginx and Varnish (BENCH_ARGS="--help"); BENCH=pool, shared or grading: other parts
	$(if $(filter-out pool shared grading,$(BENCH)),$(error BENCH is $(BENCH); allowed: pool, shared or grading))@exec $(VENV_PYTHON) -m tests.bench$(if $(BENCH),.$(BENCH)) $(BENCH_ARGS)

soak: .venv/dev ## two proxies (SOAK=monitors: two monitors) for ten minutes, while all around breaks (SOAK_ARGS="--help")
	@exec $(VENV_PYTHON) -m tests.soak$(if $(SOAK),.$(SOAK)) $(SOAK_ARGS)

compiled: .venv/dev ## compile what every request runs through into build/compiled, and run its tests there
	@exec $(VENV_PYTHON) -m tests.compiled build/compiled

conformance: .venv/dev ## run the public HTTP cache test suite (needs node; UPDATE=1 writes the baseline)
	@exec $(VENV_PYTHON) -m tests.conformance.suite $(if $(UPDATE),--update)

cover: .venv/dev ## run the tests and show what they do not reach
	@exec $(VENV_PYTHON) -m pytest --cov $(PYTEST_ARGS)

lock: .venv/made ## lock the newest versions that pyproject.toml allows
	$(PIP_INSTALL) 'uv>=0.9'
	$(LOCK) --output-file requirements.lock
	$(LOCK) --extra otel --constraint requirements.lock --output-file requirements-otel.lock
	$(LOCK) --extra local --constraint requirements.lock --output-file requirements-local.lock
	$(LOCK) --extra dev --constraint requirements-local.lock --constraint requirements-otel.lock --output-file requirements-dev.lock

clean: ## remove what was made here
	rm -rf tests/conformance/node_modules tests/e2e/node/node_modules .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/run: requirements-local.lock .venv/made
	@echo "installing what runs Siding into .venv (once)"
	@$(PIP_INSTALL) --require-hashes -r requirements-local.lock
	@touch $@

.venv/dev: requirements-dev.lock .venv/made
	@echo "installing what tests Siding into .venv (once)"
	@$(PIP_INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

# The first Python that is new enough and can make a virtual environment; PYTHON=... goes before.
.venv/made:
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		echo "making .venv with $$("$$python" --version)"; \
		"$$python" -m venv --clear .venv && touch $@ && exit 0; \
	done; \
	rm -rf .venv; \
	echo "make: no Python >= 3.11 that can make a virtual environment was found" >&2; \
	echo "(looked for python3 and python3.11 to python3.14; name another with: make PYTHON=/path/to/python;" >&2; \
	echo "some systems keep the venv module in a package of its own, python3-venv)" >&2; \
	exit 1
