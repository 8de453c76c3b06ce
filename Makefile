# Everything from nothing: a virtual environment in .venv, pinned by constraints.txt.
#   make run    set up what is missing and start the daemon
#   make test   set up what is missing and run the tests, TEST_JOBS files at a time
#   make soak-train   kill a short round of training KILLS times, and resume it each time
#   make soak-daemon  kill a loaded daemon DAEMON_KILLS times, and look at what it left
#   make soak-hour    SOAK_MINUTES of modest use, with training and swaps: nothing grows
#   make soak         all three soaks
#   make fuzz   any input of the API, any file that is opened: FUZZ_EXAMPLES per test
#   make load   overload, storms of clients that leave, readers that do not read, LOAD times as many
#   make audit  the pinned versions and hashes; and a database of vulnerabilities, where it answers
#   make lint   ruff, mypy and the import contract
#   make docs   the documentation as a site in build/docs; a broken link is an error
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SERVE_FLAGS ?=
DAEMON_KILLS ?= 300
KILLS ?= 1000
TEST_JOBS ?= 2
SOAK_MINUTES ?= 60
FUZZ_EXAMPLES ?= 2000
FUZZED := tests/trust/test_api_fuzz.py tests/edge_agent/chat/test_hostile_templates.py \
	tests/models/test_gguf_fuzz.py tests/models/test_adapter_fuzz.py \
	tests/models/test_lora_fuzz.py \
	tests/trainer/test_checkpoint_fuzz.py tests/edge_agent/cli/test_config_fuzz.py \
	tests/edge_agent/log/test_import_fuzz.py tests/edge_agent/engine/test_hostile_grammars.py
LOAD ?= 5

# ggml's AMX kernels crash when compiled by GCC 12 (models/llama/model.py).
NO_AMX := -mno-amx-tile -mno-amx-int8 -mno-amx-bf16
ifeq ($(shell $(CC) $(NO_AMX) -E - </dev/null >/dev/null 2>&1 && echo known),known)
export CFLAGS := $(CFLAGS) $(NO_AMX)
export CXXFLAGS := $(CXXFLAGS) $(NO_AMX)
endif

.PHONY: run test test-long soak soak-daemon soak-train soak-hour fuzz load audit lint docs format clean

run: $(VENV)/.serve
	$(BIN)/edge-agent serve --reference-cloud $(SERVE_FLAGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not long" --numprocesses $(TEST_JOBS) --dist loadfile

test-long: $(VENV)/.dev
	$(BIN)/python -m pytest -m long

soak: soak-daemon soak-train soak-hour

soak-daemon: $(VENV)/.dev
	$(BIN)/python -m tests.soak.crash --kills $(DAEMON_KILLS)

soak-train: $(VENV)/.dev
	$(BIN)/python -m tests.soak.kill_soak --kills $(KILLS)

soak-hour: $(VENV)/.dev
	$(BIN)/python -m tests.soak.soak --minutes $(SOAK_MINUTES)

fuzz: $(VENV)/.dev
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest --timeout 7200 $(FUZZED)

load: $(VENV)/.dev
	LOAD=$(LOAD) $(BIN)/python -m pytest --timeout 1800 tests/trust/test_load.py

audit: $(VENV)/.dev
	$(BIN)/python -m tests.trust.audit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The first install compiles llama.cpp, which takes some minutes.
$(VENV)/.serve: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt \
		--report $(VENV)/pip-serve.json -e '.[smollm2]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt \
		--report $(VENV)/pip-dev.json -e '.[dev]'
	touch $@ $(VENV)/.serve
