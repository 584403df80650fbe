# Each target makes what it needs. `make demo` and `make test` are all the set-up there is.
PYTHON ?= python3
DEMO = .venv
TEST = .venv-test
DOCS = .venv-docs
PIP = -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
TESTS ?= tests conformance

.PHONY: demo test test-quick lint conformance clean docs bench notebooks notebooks-write

demo: $(DEMO)/.ready
	$(DEMO)/bin/python -m triclip demo --output demo-output

test: $(TEST)/.ready
	OMP_NUM_THREADS=1 TF_CPP_MIN_LOG_LEVEL=2 $(TEST)/bin/python -m pytest -n 2 --dist worksteal $(TESTS)

test-quick: $(TEST)/.ready
	OMP_NUM_THREADS=1 TF_CPP_MIN_LOG_LEVEL=2 $(TEST)/bin/python -m pytest -n 2 --dist worksteal -m 'not slow' $(TESTS)

conformance: $(TEST)/.ready
	OMP_NUM_THREADS=1 TF_CPP_MIN_LOG_LEVEL=2 $(TEST)/bin/python -m pytest conformance

lint: $(TEST)/.ready
	$(TEST)/bin/python -m ruff check .
	$(TEST)/bin/python -m ruff format --check .
	$(TEST)/bin/python -m mypy

# Environments for triclip and its peers are built on first use (several GB); ROW=name measures one row.
bench:
	python=$$($(PYTHON) -m benchmarks.peers triclip) && $$python -m benchmarks.run $(ROW)

# PyTorch goes first: where a CPU build of the pinned version is at hand, nothing later replaces it.
$(DEMO)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python $(PIP) torch
	$(DEMO)/bin/python $(PIP) --editable '.[torch]'
	touch $@

$(DOCS)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python $(PIP) '.[docs]'
	touch $@

$(TEST)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(TEST)
	$(TEST)/bin/python $(PIP) torch
	$(TEST)/bin/python $(PIP) --editable '.[dev]'
	touch $@

notebooks: $(TEST)/.ready
	OMP_NUM_THREADS=2 TF_CPP_MIN_LOG_LEVEL=2 $(TEST)/bin/python notebooks/run.py

notebooks-write: $(TEST)/.ready
	OMP_NUM_THREADS=2 TF_CPP_MIN_LOG_LEVEL=2 $(TEST)/bin/python notebooks/run.py --write

docs: $(DOCS)/.ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict

clean:
	rm -rf $(DEMO) $(TEST) $(DOCS) site build dist *.egg-info demo-output
