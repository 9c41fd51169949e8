# Everything runs in .venv, which make creates: a machine needs make and Python 3.11 or newer, nothing else.
.PHONY: test lint demo readme seeds schemas picture clean bench bench-zoo
.DEFAULT_GOAL := test

# The first Python on the machine that is new enough; `make PYTHON=python3.12 test` chooses another.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	if $$python -c '$(NEW_ENOUGH)' 2>/dev/null; then echo $$python; break; fi; done)

BIN := .venv/bin
READY := .venv/ready
RESULTS := bench/results
EXAMPLE := examples/aspp_image_pooling
FACTS := --batch-size 1 --input 3,65,65

$(READY): pyproject.toml constraints.txt
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null || { \
		echo "bnlint needs Python 3.11 or newer, and '$(or $(PYTHON),python3)' here is older or missing:" \
			"install one, or name it with make PYTHON=python3.12" >&2; exit 2; }
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

test: lint
	$(BIN)/python -m pytest -n 2

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The faulty program must fail with 1 and its repaired twin pass with 0: anything else fails the demo.
demo: $(READY)
	@check() { echo "\$$ bnlint check $$*"; $(BIN)/bnlint check "$$@"; status=$$?; echo "exit status $$status"; echo; }; \
	check $(EXAMPLE)/faulty.py $(FACTS); faulty=$$status; \
	check $(EXAMPLE)/repaired.py $(FACTS); repaired=$$status; \
	test $$faulty -eq 1 -a $$repaired -eq 0

readme: $(READY)
	$(BIN)/python docs/readme.py

seeds: $(READY)
	$(BIN)/python docs/seeds.py

schemas: $(READY)
	$(BIN)/python docs/schemas.py

picture: $(READY)
	$(BIN)/python docs/picture.py $(EXAMPLE)/faulty.py $(FACTS)

# Less than half an hour on two cores, which nothing else should use meanwhile. See bench/README.md.
bench: $(READY)
	$(BIN)/python bench/performance.py --out docs/performance.md

# About an hour on two cores; a stopped run continues.
bench-zoo: $(READY)
	set -e; for family in timm torchvision; do \
		$(BIN)/python bench/truth.py --family $$family --out $(RESULTS)/truth/$$family.jsonl; \
		$(BIN)/python bench/zoo.py --family $$family --truth $(RESULTS)/truth/$$family.jsonl \
			--out $(RESULTS)/zoo/$$family.jsonl; \
	done
	$(BIN)/python bench/zoo.py --report $(RESULTS)/zoo/timm.jsonl $(RESULTS)/zoo/torchvision.jsonl --out docs/zoo.md
	$(BIN)/python bench/facts.py --limit 50
	$(BIN)/python bench/scripts.py --limit 150
	$(BIN)/python bench/memory.py --limit 2000

clean:
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
