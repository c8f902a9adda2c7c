# Every target makes .venv when it is missing and installs what it needs, once. Another Python: make PYTHON=python3.12 test
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
RECIPE := pyproject.toml constraints.txt

.PHONY: demo test live bench lint

demo: .venv/installed-bench
	$(BIN)/python -m isdo demo

bench: .venv/installed-bench
	$(BIN)/python -m isdo bench --suite analytic
	$(BIN)/python -m isdo bench --suite zoo
	$(BIN)/python -m isdo bench --suite speed

test: .venv/installed-test
	$(BIN)/python -m pytest

# in the WebUI that WEBUI_DIR names, started for it on the CPU; see tests/livehost.py
live: .venv/installed-live
	$(BIN)/python -m pytest -rs tests/live_*.py

lint: .venv/installed-test
	$(BIN)/ruff check .

# k-diffusion by itself: its metadata asks for a training stack that its samplers do not import
.venv/installed-%: $(RECIPE)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e ".[$*]"
	$(PIP) --no-deps k-diffusion
	touch $@
