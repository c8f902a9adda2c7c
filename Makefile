# Every target makes .venv when it is missing and installs what it needs, once. Another Python: make PYTHON=python3.12 test
PYTHON ?= python3
BIN := .venv/bin
INSTALL := -m pip --disable-pip-version-check install --quiet
PIP := $(BIN)/python $(INSTALL) -c constraints.txt
RECIPE := pyproject.toml constraints.txt

# a host's Python and torch of long ago, in an environment of their own
PYTHON_OLDEST ?= python3.10
OLDEST := .venv-oldest/bin/python
WHEEL := out/wheel
PIP_OLDEST := $(OLDEST) $(INSTALL) -c tests/constraints-oldest.txt

.PHONY: demo test coverage test-oldest live bench docs lint wheel

demo: .venv/installed-bench
	$(BIN)/python -m isdo demo

bench: .venv/installed-bench
	$(BIN)/python -m isdo bench --suite analytic
	$(BIN)/python -m isdo bench --suite zoo
	$(BIN)/python -m isdo bench --suite speed

# The measured pages, hours on two cores; goes on where it was stopped, and leaves what is done for
# the sources as they are. make docs LIST=1, make docs ONLY="zoo analytic",
# make docs PHOTOS="mine:load" LABEL="3 5 0" JUDGE=mine:Judge SHAPE=3,32,32; python -m isdo docs --help says more.
docs: .venv/installed-bench
	$(BIN)/python -m isdo docs $(if $(LIST),--list) $(if $(ONLY),--only $(ONLY)) $(if $(PHOTOS),--photos $(PHOTOS)) \
		$(if $(JUDGE),--judge $(JUDGE)) $(if $(SHAPE),--shape $(SHAPE)) \
		$(if $(LABEL),--label $(LABEL)) $(if $(LIMIT),--limit $(LIMIT))

test: .venv/installed-dev
	$(BIN)/python -m pytest

# the tests, and which lines of the package they run; the floor stands in pyproject.toml
coverage: .venv/installed-dev
	$(BIN)/python -m pytest --cov --cov-report=term

# the same tests in the environment of the oldest host; 5 GB, because torch of that age is on the index with CUDA only
test-oldest: .venv-oldest/installed
	$(OLDEST) -m pytest

# in the WebUI that WEBUI_DIR names, started for it on the CPU; see tests/livehost.py
live: .venv/installed-live
	$(BIN)/python -m pytest -rs tests/live_*.py

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --exclude "*.md" .
	$(BIN)/python -m mypy

# what people get who install the package: built, put into an environment that has never seen this
# folder, and asked what it is. A build/ from before would leave modules in it that are gone.
wheel:
	rm -rf build $(WHEEL) .venv-wheel
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir $(WHEEL) .
	.venv-wheel/bin/python $(INSTALL) -c constraints.txt $(WHEEL)/isdo-*.whl
	cd $(WHEEL) && PYTHONPATH= ../../.venv-wheel/bin/python ../../tests/installed.py
	cd $(WHEEL) && PYTHONPATH= ../../.venv-wheel/bin/isdo info

# k-diffusion by itself and without what it asks for: it cannot be an extra of the package. Its
# metadata lists 17 packages of its training scripts, without bounds (wandb, kornia, clip-anytorch,
# clean-fid, torchvision ...), which make 60 with theirs, a second torch and numpy below 2 among
# them; its samplers import none of these but torchdiffeq and torchsde. An extra has no way to say
# "without its dependencies", so the bench takes two commands.
.venv/installed-%: $(RECIPE)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e ".[$*]"
	$(PIP) --no-deps k-diffusion
	touch $@

.venv-oldest/installed: pyproject.toml tests/constraints-oldest.txt
	test -x $(OLDEST) || $(PYTHON_OLDEST) -m venv .venv-oldest
	$(PIP_OLDEST) -e ".[test]"
	$(PIP_OLDEST) --no-deps k-diffusion
	touch $@
