# make demo    from an empty environment to a trained model and pictures of it, in demo/
# make test    the tests; make test ARGS="-k split" some of them
# make check   format, lint, types and tests
# make package the wheel and the source package in dist/, checked, and the four lines run where the wheel is installed
# make site    the documentation as a site, in site/
# make bench   the benchmarks: make bench IMAGES=FOLDER TEST=FOLDER PHOTOS=FOLDER [DEVICE=cuda]; make bench-split one of
#              them (targets below); make bench-docs puts the last results into docs/speed.md
#
# VENV is the environment: made where it is missing, and kept while pyproject.toml stays the same. With
# CONSTRAINTS=constraints/lowest.txt it has the oldest versions that ptkit works with. BENCH_VENV is that of the programs
# that ptkit is measured against.

VENV ?= .venv
PYTHON ?= python3
BENCH_VENV ?= .bench-venv
# Where the results go: rows.jsonl, table.md, results.json.
BENCH_FOLDER ?= bench-results
DEVICE ?= cpu

# Two processes, on however many cores: each imports torch and makes its own images. pytest alone takes one.
PYTEST = $(RUN) -m pytest -n 2 --dist worksteal

# Several clones may share an environment, into which only one of them is installed: this one's sources go first.
RUN = PYTHONPATH="$(CURDIR)" "$(VENV)/bin/python"
CONSTRAINTS ?=
HASH := $(shell cat pyproject.toml $(CONSTRAINTS) | cksum | cut -d ' ' -f 1)
STAMP = ptkit-installed-$(HASH)

# $(call installed,STAMP,WHAT). The stamp comes last: what was interrupted is done again.
define installed
	@test -e "$(VENV)/$(1)" -o -e "$(VENV)/$(STAMP)-dev" || { set -ex; $(PYTHON) -m venv "$(VENV)"; \
		"$(VENV)/bin/python" -m pip install $(CONSTRAINTS:%=-c %) -e '$(2)'; touch "$(VENV)/$(1)"; }
endef

# The benchmarks, in the order in which `make bench` runs them; splitting first, because deleting slows ext4 down.
BENCHMARKS = split startup normstats decode batches steps train recording precision evaluate memory scale slow-disk many-cores \
	accuracy recipes photos fits digits catalogue transforms check diagnose processes survey eject export unknown

.PHONY: demo test check package site faults bench bench-start bench-table bench-docs bench-ready bench-images bench-peers install install-dev \
	$(BENCHMARKS:%=bench-%)

demo: install
	@PATH="$(abspath $(VENV))/bin:$$PATH" PYTHONPATH="$(CURDIR)" sh scripts/demo.sh demo

test: install-dev
	$(PYTEST) $(ARGS)

# NUMBER of each, or as many as each has by itself.
faults: install-dev
	for name in kills resume_matrix save_faults writers full_disk save_time properties; do \
		$(RUN) benchmarks/faults/$$name.py $(NUMBER:%=--number %) || exit 1; done

check: install-dev
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(PYTEST) $(ARGS)
	$(PYTEST) -m slow

package: install-dev
	rm -rf dist
	$(RUN) -m build
	$(RUN) -m twine check --strict dist/*
	sh scripts/try_package.sh dist $(CONSTRAINTS)

site: install-dev
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

BENCH = BENCH_OUT="$(abspath $(BENCH_FOLDER))/rows.jsonl" BENCH_PEERS="$(abspath $(BENCH_VENV))/bin/python" $(RUN)
# Measured one after the other, whatever -j says.
.NOTPARALLEL:

bench: bench-start $(BENCHMARKS:%=bench-%) bench-table

bench-start: bench-ready
	@rm -f "$(BENCH_FOLDER)/rows.jsonl"

bench-startup: bench-ready
	$(BENCH) benchmarks/bench_startup.py --device $(DEVICE)

bench-split: bench-ready
	$(BENCH) benchmarks/bench_split.py "$(IMAGES)" "$(TEST)"

bench-normstats: bench-ready
	$(BENCH) benchmarks/bench_normstats.py "$(IMAGES)" "$(PHOTOS)"

bench-decode: bench-ready
	$(BENCH) benchmarks/bench_decode.py "$(IMAGES)" "$(PHOTOS)"

bench-batches: bench-ready
	$(BENCH) benchmarks/bench_batches.py small "$(IMAGES)" --device $(DEVICE)
	$(BENCH) benchmarks/bench_batches.py photos "$(PHOTOS)" --device $(DEVICE)

bench-steps: bench-ready
	$(BENCH) benchmarks/bench_steps.py "$(IMAGES)"

bench-train: bench-ready
	$(BENCH) benchmarks/bench_train.py lenet-16 "$(IMAGES)" --device $(DEVICE)
	$(BENCH) benchmarks/bench_train.py lenet-128 "$(IMAGES)" --device $(DEVICE)
	$(BENCH) benchmarks/bench_train.py lenet-128-epoch "$(IMAGES)" --device $(DEVICE)
	$(BENCH) benchmarks/bench_train.py lenet-128-records "$(IMAGES)" --device $(DEVICE)
	$(if $(filter cuda,$(DEVICE)),$(BENCH) benchmarks/bench_train.py resnet18-32-records "$(IMAGES)" --device cuda)
	$(BENCH) benchmarks/bench_train.py resnet18-32 "$(IMAGES)" --device $(DEVICE)
	$(BENCH) benchmarks/bench_train.py resnet18-small-32 "$(IMAGES)" --device $(DEVICE)
	$(BENCH) benchmarks/bench_train.py resnet18-224 "$(PHOTOS)" --device $(DEVICE)
	$(BENCH) benchmarks/bench_train.py mobilenet_v2-224 "$(PHOTOS)" --device $(DEVICE)
	$(if $(filter cuda,$(DEVICE)),$(BENCH) benchmarks/bench_train.py resnet18-224-gpu "$(PHOTOS)" --device cuda)
	$(BENCH) benchmarks/bench_train.py yolo11n-cls-224 "$(PHOTOS)" --device $(DEVICE)

bench-recording: bench-ready
	$(BENCH) benchmarks/bench_recording.py lenet "$(IMAGES)" --device $(DEVICE)
	$(BENCH) benchmarks/bench_recording.py resnet18 "$(IMAGES)" --device $(DEVICE)

bench-precision: bench-ready
	$(BENCH) benchmarks/bench_precision.py --device $(DEVICE)

bench-evaluate: bench-ready
	$(BENCH) benchmarks/bench_evaluate.py "$(IMAGES)" "$(PHOTOS)" --device $(DEVICE)

bench-memory: bench-ready
	$(BENCH) benchmarks/bench_memory.py "$(IMAGES)"

bench-scale: bench-ready
	$(BENCH) benchmarks/bench_scale.py lists
	$(BENCH) benchmarks/bench_scale.py images "$(IMAGES)" --device $(DEVICE)
	$(BENCH) benchmarks/bench_scale.py classes --device $(DEVICE)
	$(BENCH) benchmarks/bench_scale.py model --device $(DEVICE)
	$(BENCH) benchmarks/bench_ranks.py

bench-slow-disk: bench-ready
	$(BENCH) benchmarks/bench_slow_disk.py "$(PHOTOS)"

bench-many-cores: bench-ready
	$(BENCH) benchmarks/bench_many_cores.py

bench-accuracy: bench-ready
	$(BENCH) benchmarks/bench_accuracy.py "$(IMAGES)" "$(TEST)" --device $(DEVICE) \
		$(if $(filter cuda,$(DEVICE)),--rounds 5)

bench-recipes: bench-ready
	$(BENCH) benchmarks/bench_recipes.py "$(IMAGES)" "$(PHOTOS)" --device $(DEVICE)

bench-photos: bench-ready
	$(BENCH) benchmarks/bench_photos.py "$(PHOTOS)" "$(IMAGES)" --device $(DEVICE)

bench-fits: bench-ready
	$(BENCH) benchmarks/bench_fits.py "$(PHOTOS)"

bench-digits: bench-ready
	$(BENCH) benchmarks/bench_digits.py --device $(DEVICE)

bench-catalogue: bench-ready
	$(BENCH) benchmarks/bench_catalogue.py

bench-transforms: bench-ready
	$(BENCH) benchmarks/bench_transforms.py --device $(DEVICE)

bench-check: bench-ready
	$(BENCH) benchmarks/bench_check.py "$(IMAGES)" "$(PHOTOS)"
	$(BENCH) benchmarks/bench_check_faults.py "$(IMAGES)" "$(PHOTOS)" --docs docs/checking.md

bench-diagnose: bench-ready
	$(BENCH) benchmarks/bench_diagnose.py --docs

bench-export: bench-ready
	$(BENCH) benchmarks/bench_export.py "$(PHOTOS)" --rows "$(BENCH_FOLDER)/export.json" --docs docs/exporting.md

bench-processes: bench-ready
	$(BENCH) benchmarks/bench_processes.py

bench-survey: bench-ready
	$(BENCH) benchmarks/bench_survey.py "$(IMAGES)" "$(PHOTOS)"

bench-eject: bench-ready
	$(BENCH) benchmarks/bench_eject.py "$(IMAGES)" "$(PHOTOS)" --docs

bench-unknown: bench-ready
	$(BENCH) benchmarks/bench_unknown.py "$(IMAGES)" "$(TEST)" "$(PHOTOS)" --docs

bench-table:
	$(RUN) benchmarks/table.py "$(BENCH_FOLDER)/rows.jsonl" "$(BENCH_FOLDER)" --peers "$(BENCH_VENV)/bin/python"

bench-docs:
	$(RUN) benchmarks/table.py "$(BENCH_FOLDER)/rows.jsonl" "$(BENCH_FOLDER)" --peers "$(BENCH_VENV)/bin/python" \
		--docs docs/speed.md

bench-ready: bench-images install-dev bench-peers
	@mkdir -p "$(BENCH_FOLDER)"

# First, before anything is installed.
bench-images:
	@test -d "$(IMAGES)" || { echo "IMAGES=FOLDER is missing: class folders of 32×32 JPEGs, such as CIFAR-10's"; exit 2; }
	@test -d "$(TEST)" || { echo "TEST=FOLDER is missing: more of them, which no training sees"; exit 2; }
	@test -d "$(PHOTOS)" || { echo "PHOTOS=FOLDER is missing: class folders of photographs, some hundred JPEGs"; exit 2; }

PEERS_STAMP = $(BENCH_VENV)/installed-$(shell cksum < benchmarks/requirements.txt | cut -d ' ' -f 1)
bench-peers:
	@test -e "$(PEERS_STAMP)" || { set -ex; $(PYTHON) -m venv "$(BENCH_VENV)"; \
		"$(BENCH_VENV)/bin/python" -m pip install -r benchmarks/requirements.txt; touch "$(PEERS_STAMP)"; }

install:
	$(call installed,$(STAMP)-photos,.[photos])

install-dev:
	$(call installed,$(STAMP)-dev,.[dev])
