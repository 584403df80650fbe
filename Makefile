# Each target makes what it needs. `make demo` and `make test` are all the set-up there is.
PYTHON ?= python3
DEMO = .venv
TEST = .venv-test
DOCS = .venv-docs
PIP = -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
TESTS ?= tests conformance
# What depends on the processor: products, their short cuts, pictures' short cuts, half types.
LEVEL_TESTS = tests/core/test_fast_*.py tests/core/test_image_*.py tests/core/test_machine.py tests/torch tests/tf/test_fast_*.py \
	tests/flax/test_fast_*.py tests/triclip/test_fast_*.py tests/triclip/torch/test_fast_*.py \
	tests/triclip/torch/test_train_engine.py tests/triclip/torch/test_train_processes.py conformance/test_cases.py
PYTEST = OMP_NUM_THREADS=1 TF_CPP_MIN_LOG_LEVEL=2 $(TEST)/bin/python -m pytest -n 2 --dist worksteal

.PHONY: demo test test-quick test-levels lint conformance clean docs bench release notebooks notebooks-write

demo: $(DEMO)/.ready
	$(DEMO)/bin/python -m triclip demo --output demo-output

test: $(TEST)/.ready
	$(PYTEST) $(TESTS)

test-quick: $(TEST)/.ready
	$(PYTEST) -m 'not slow' $(TESTS)

# As on a processor with AVX2 and nothing newer; then with every short cut off, and with every one taken.
test-levels: $(TEST)/.ready
	bash .ci/avx2.sh env $(PYTEST) $(LEVEL_TESTS)
	TRICLIP_SHORT_CUTS=none $(PYTEST) $(LEVEL_TESTS)
	TRICLIP_SHORT_CUTS=all $(PYTEST) $(LEVEL_TESTS)

conformance: $(TEST)/.ready
	OMP_NUM_THREADS=1 TF_CPP_MIN_LOG_LEVEL=2 $(TEST)/bin/python -m pytest conformance

lint: $(TEST)/.ready
	$(TEST)/bin/python -m ruff check .
	$(TEST)/bin/python -m ruff format --check .
	$(TEST)/bin/python -m mypy
	$(TEST)/bin/python -m mypy tests/typing/*.py

# At the processor's own level and, where that has AVX-512, at AVX2's. Environments for triclip and its peers are built
# on first use (several GB); ROW=name measures one row.
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

# The wheel and the source archive, checked, installed and run once; prints what is left to do by hand.
release:
	PYTHON=$(PYTHON) bash .ci/release.sh

docs: $(DOCS)/.ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict

clean:
	rm -rf $(DEMO) $(TEST) $(DOCS) site build dist *.egg-info demo-output
