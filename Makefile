# make demo    from an empty environment to a trained model and pictures of it, in demo/
# make test    the tests; make test ARGS="-k split" some of them
# make check   format, lint, types and tests
# make bench   the benchmarks: make bench IMAGES=FOLDER
#
# VENV is the environment: made where it is missing, and kept while pyproject.toml stays the same.

VENV ?= .venv
PYTHON ?= python3
# A Python that has split-folders, which `ptkit split` is compared with.
PEER_PYTHON ?= $(VENV)/bin/python

# Several clones may share an environment, into which only one of them is installed: this one's sources go first.
RUN = PYTHONPATH="$(CURDIR)" "$(VENV)/bin/python"
HASH := $(shell cksum < pyproject.toml | cut -d ' ' -f 1)
STAMP = ptkit-installed-$(HASH)

# $(call installed,STAMP,WHAT). The stamp comes last: what was interrupted is done again.
define installed
	@test -e "$(VENV)/$(1)" -o -e "$(VENV)/$(STAMP)-dev" || { set -ex; $(PYTHON) -m venv "$(VENV)"; \
		"$(VENV)/bin/python" -m pip install -e '$(2)'; touch "$(VENV)/$(1)"; }
endef

.PHONY: demo test check bench bench-images install install-dev

demo: install
	@PATH="$(abspath $(VENV))/bin:$$PATH" PYTHONPATH="$(CURDIR)" sh scripts/demo.sh demo

test: install-dev
	$(RUN) -m pytest $(ARGS)

check: install-dev
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -m pytest $(ARGS)

bench: bench-images install-dev
	$(RUN) benchmarks/bench_startup.py
	$(RUN) benchmarks/bench_digits.py
	$(RUN) benchmarks/bench_catalogue.py
	$(RUN) benchmarks/bench_transforms.py
	$(RUN) benchmarks/bench_normstats.py "$(IMAGES)"
	$(RUN) benchmarks/bench_train.py "$(IMAGES)"
	@"$(PEER_PYTHON)" -c "import splitfolders" || { echo "for bench_split.py name a Python with split-folders:" \
		"PEER_PYTHON=..."; exit 2; }
	$(RUN) benchmarks/bench_split.py "$(IMAGES)" --peer-python "$(PEER_PYTHON)"

bench-images:
	@test -d "$(IMAGES)" || { echo "make bench IMAGES=FOLDER: class folders of 32×32 JPEGs, such as CIFAR-10's"; exit 2; }

install:
	$(call installed,$(STAMP),.)

install-dev:
	$(call installed,$(STAMP)-dev,.[dev])
