# `make demo` and `make test` do everything on a fresh machine; the environment is built once, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test coverage fuzz lint wheel proto clean help soak docs docs-pictures

help:
	@echo "make demo    data, nets, training, evaluation, pictures, conversion and proof, into demo/"
	@echo "make test    all tests"
	@echo "make soak    kill training, an LMDB and an evaluation N=200 times; all go on and end alike"
	@echo "make fuzz    damaged files against every reader; N=1000000 for more than 50,000"
	@echo "make coverage  all tests, and how much of each file they reach"
	@echo "make lint    ruff and mypy"
	@echo "make docs    the documentation site, into site/"
	@echo "make docs-pictures  the pictures in docs/, from demo/ (needs Chromium)"
	@echo "make wheel   sdist and wheel into dist/, tried in an empty environment"
	@echo "make proto   merge the Caffe schema after a change of caffe.proto or dialects/"
	@echo "make clean   remove demo/ and the environment"

# torch and torchvision first, so that pip picks a matching pair of their newest builds.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "install the venv module first: apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet -e ".[test]"
	@touch $@

demo: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/demo.sh demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST)

soak: $(READY)
	$(BIN)/python tests/soak/soak.py $(or $(N),200)

fuzz: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/fuzz/fuzz.py --number $(or $(N),50000)

coverage:
	$(MAKE) test PYTEST="--cov --cov-report=term:skip-covered"

lint: $(READY)
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs-pictures: $(READY)
	$(BIN)/python scripts/docs_pictures.py demo

wheel:
	bash scripts/check_wheel.sh dist

proto: $(READY)
	$(BIN)/python scripts/compile_proto.py
	$(BIN)/python scripts/dialect_page.py

clean:
	rm -rf demo dist build site $(VENV)
