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

# every table of the docs, hours on two cores; without --json, which would take over rows of an older ISDO
docs: .venv/installed-bench
	$(BIN)/python -m isdo bench --suite analytic --calls 5 6 8 10 15 20 --doc docs/analytic.md
	$(BIN)/python -m isdo bench --suite zoo --calls 6 8 10 15 20 --doc docs/zoo.md
	$(BIN)/python -m isdo bench --suite analytic --calls 5 6 8 10 15 20 --bend --doc docs/analytic-bent.md
	$(BIN)/python -m isdo bench --suite zoo --calls 6 10 20 --bend --doc docs/zoo-bent.md
	$(BIN)/python -m isdo bench --suite img2img --calls 6 8 10 15 20 --doc docs/img2img.md
	$(BIN)/python -m isdo bench --suite sweep --doc docs/sweep.md
	$(BIN)/python -m isdo bench --suite speed --doc docs/speed.md
	$(BIN)/python -m isdo bench --suite ablation --doc docs/ablation.md --into docs/experiments.md
	$(BIN)/python -m isdo bench --suite grids --doc docs/grids.md
	$(BIN)/python -m isdo bench --suite ceiling --doc docs/ceiling.md
	$(BIN)/python -m isdo bench --suite adaptive --doc docs/adaptive.md --plot docs/adaptive.png
	$(BIN)/python -m isdo bench --suite penalty --doc docs/penalty.md --plot docs/penalty.png
	$(BIN)/python -m isdo bench --suite trajectory --doc docs/trajectory.md --plot docs/trajectory.png
	$(BIN)/python -m isdo bench --suite inversion --doc docs/invert.md --plot docs/invert.png
	$(BIN)/python -m isdo bench --suite frechet --doc docs/frechet.md
	$(BIN)/python -m isdo bench --suite refine --limit 192 --doc docs/refine.md

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
