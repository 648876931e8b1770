# make run    set up, then run the main job: every recipe on the embedded data
# make test   set up, then pass the tests
# make check  before every commit: format, lint, types, fast tests, documentation, committed results
# make static the same without the tests
# make docs   the generated parts of docs/, then the site: site/index.html

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
STUDY := results/augmentation
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: run test check static docs bench lock clean

run: $(READY)
	$(BIN)/wbc-bench run --all

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

check: static
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

static: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MKDOCS)
	$(BIN)/wbc-bench verify
	$(BIN)/wbc-bench verify --results results/reproductions
	@# The page and the figures of the study are not committed: verify needs them drawn.
	$(BIN)/wbc-bench leaderboard --results $(STUDY)
	git diff --exit-code --stat -- $(STUDY)
	$(BIN)/wbc-bench verify --results $(STUDY)

docs: $(READY)
	$(BIN)/python -m tests.reference
	$(MKDOCS)

bench: $(READY)
	for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

lock: $(READY)
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --generate-hashes --universal \
		--python-version 3.11 --no-header --upgrade -q -o requirements.lock

clean:
	rm -rf $(VENV) site results/artefacts .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@
