# Each target sets up what it needs: Python 3.11 or newer and pip's package index, nothing else.
# Without a GPU, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves some GB of CUDA.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check cover bench soak schedules torture torture-check fuzz clean

demo: $(READY)
	$(BIN)/rankloop demo $(ARGS)

# Two at a time: most of the time of most tests is waiting for Kafka.
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

cover: $(READY)
	$(BIN)/coverage run -m pytest -m "not kafka" $(ARGS)
	$(BIN)/coverage report

bench: $(READY)
	$(BIN)/python tests/benchmarks $(ARGS)

torture: $(READY)
	$(BIN)/rankloop torture --events 1000000 --faults 200 --interval 10 $(ARGS)

torture-check: $(READY)
	RANKLOOP_TEST_SLOW=1 $(BIN)/python -m pytest tests/test_torture.py $(ARGS)

fuzz: $(READY)
	$(BIN)/python -m pip install --quiet atheris
	PYTHONPATH=. $(BIN)/python tests/fuzz/codec.py -max_total_time=300 $(ARGS)

schedules: $(READY)
	$(BIN)/python -m tests.schedules $(ARGS)

soak: $(READY)
	$(BIN)/python tests/benchmarks/soak.py $(ARGS)

clean:
	rm -rf .venv .coverage .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# torch goes first and alone, so that pip takes the wheel that its own configuration prefers.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rankloop needs Python 3.11 or newer, $(PYTHON) is: $$($(PYTHON) --version 2>&1); say make PYTHON=python3.11"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || { \
	  echo "Python cannot make an environment with pip in it; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[local,minilm,evaluate,dev]'
	@touch $@
