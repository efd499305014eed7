# Two commands do everything on a machine with nothing prepared but Python 3.11-3.13:
#   make demo    set up .venv, segment the sample volume, write demo/, open napari where there is a display
#   make test    the same set-up with the test tools, then lint, types, layers and tests
# The others: make help

PYTHON ?= python3
ARGS ?=
WORKERS ?= logical

VENV := .venv
ifeq ($(OS),Windows_NT)
  BIN := $(VENV)/Scripts
  PLATFORM := Windows
else
  BIN := $(VENV)/bin
  PLATFORM := $(shell uname -s)
endif
PY := $(BIN)/python
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# A display: always on Windows and macOS, otherwise when X11 or Wayland says so.
DISPLAY_HERE := $(if $(filter Windows Darwin,$(PLATFORM)),yes,$(DISPLAY)$(WAYLAND_DISPLAY))
DEMO_SHOW := $(if $(DISPLAY_HERE),--show)

# napari's canvas needs OpenGL, which Xvfb gives and Qt's offscreen platform does not.
WITH_DISPLAY = $(if $(DISPLAY_HERE),,$(shell command -v xvfb-run >/dev/null \
  && echo 'xvfb-run --auto-servernum --server-args="-screen 0 1400x1000x24"' || echo 'env QT_QPA_PLATFORM=offscreen'))

.PHONY: help demo test test-slow test-origins lint types layers format docs bench clean qt-libraries
.DEFAULT_GOAL := help

help:
	@echo 'make demo       set up, segment the sample volume, write demo/'
	@echo 'make test       set up, then lint, types, layers and tests   (ARGS="-k grid" goes to pytest)'
	@echo 'make test-slow  the tests marked slow'
	@echo 'make test-origins  the results against nnU-Net, bioimageio.core and MONAI, which it installs'
	@echo 'make lint       ruff and codespell        make types   mypy        make layers   import-linter'
	@echo 'make format     let ruff mend what it can'
	@echo 'make docs       build the documentation into site/'
	@echo 'make bench      time the engine beside its peers, which it installs (ARGS="--save" keeps the report)'
	@echo 'make clean      remove .venv and everything that was built'

demo: $(VENV)/.installed $(if $(DISPLAY_HERE),qt-libraries)
	$(BIN)/tessera demo --out demo $(DEMO_SHOW)

# One process for each core, of one thread each; a file's tests stay together, as they share what they make.
test: export OMP_NUM_THREADS = 1
test: lint types layers qt-libraries
	$(WITH_DISPLAY) $(PY) -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile -m 'not slow and not origin' $(ARGS)

# Some of them may take 900 seconds by their own limit, which faulthandler's must not come before.
test-slow: $(VENV)/.installed-dev qt-libraries
	$(WITH_DISPLAY) $(PY) -m pytest -o faulthandler_timeout=960 -m 'slow and not origin' $(ARGS)

test-origins: $(VENV)/.installed-origins
	$(PY) -m pytest -m origin $(ARGS)

lint: $(VENV)/.installed-dev
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m codespell_lib

types: $(VENV)/.installed-dev
	$(PY) -m mypy

layers: $(VENV)/.installed-dev
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

bench: $(VENV)/.installed-bench
	$(PY) benchmarks/compare.py $(ARGS)
	$(PY) benchmarks/interleaved.py
	$(PY) benchmarks/gpu_busy.py

clean:
	rm -rf $(VENV) build dist demo site .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

qt-libraries:
	@bash scripts/qt_libraries.sh

# The set-up. A stamp says that a step is done; each waits for the one before, so that -j never runs two pips.

$(VENV)/.created:
	@$(PYTHON) scripts/check_python.py
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo 'Installing Tessera into $(VENV): some minutes the first time ...'
	$(PIP_INSTALL) --editable '.[qt]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP_INSTALL) --editable '.[docs]'
	@touch $@

# An origin that cannot be installed, as without a network, has its tests skipped, visibly; the next run tries again.
ORIGINS := tests/models/requirements.txt benchmarks/requirements-no-deps.txt
$(VENV)/.installed-origins: $(VENV)/.installed-dev $(ORIGINS)
	@{ $(PIP_INSTALL) --requirement tests/models/requirements.txt \
	  && $(PIP_INSTALL) --no-deps --requirement benchmarks/requirements-no-deps.txt && touch $@; } \
	  || echo 'Not all origins could be installed: the comparisons with the others are skipped.'

# Peers that cannot be installed, as without a network, are left out of the table; the next run tries again.
PEERS := benchmarks/requirements.txt benchmarks/requirements-no-deps.txt
$(VENV)/.installed-bench: $(VENV)/.installed $(PEERS)
	@{ $(PIP_INSTALL) --requirement benchmarks/requirements.txt \
	  && $(PIP_INSTALL) --no-deps --requirement benchmarks/requirements-no-deps.txt && touch $@; } \
	  || echo 'Not all peers could be installed: the table leaves out those that cannot be imported.'
