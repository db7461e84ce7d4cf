# Each target installs into .venv what it needs; `make help` lists them.

PYTHON3 = python3
# Folders of scans with a manifest.json.
DATA = ../shared/data ../shared/tumors
ARGS =
# Address of the published repository, whose tags count as well.
PUBLISHED =
# Test files run side by side, one process a core, each with one thread: faster than threads that wait.
JOBS = logical

PYTHON = .venv/bin/python
INSTALLED = .venv/.installed
# Warnings of the package index's mirrors are not for the reader; errors are still shown.
PIP = $(PYTHON) -m pip --quiet --quiet --disable-pip-version-check --no-input install \
      --constraint constraints.txt

.PHONY: help demo test test-slicer lint bench campaign validate reproduce-embedded screenshots architecture cmake errors release-tree clean

help:
	@echo "make demo      segment two real scans that come with the program, into out/demo"
	@echo "make test      run all tests; make test ARGS='-k lesions' runs some"
	@echo "make test-slicer  panel, worker and batch in exactly the packages that Slicer ships"
	@echo "make lint      check style, types and the layers of the packages"
	@echo "make bench     measure speed and memory"
	@echo "make campaign  bad inputs, kills and full disks by the hundred; some minutes"
	@echo "make validate  score the embedded model on the scans in $(DATA), tables into docs/validation"
	@echo "make reproduce-embedded  train the embedded model anew from $(DATA), and score it"
	@echo "make screenshots  draw the panel and the views, into Resources/Screenshots"
	@echo "make architecture  draw the packages and their imports, into docs/architecture.png"
	@echo "make cmake     write the file lists of the CMakeLists anew"
	@echo "make errors    write docs/errors.md, every error code and sentence, anew"
	@echo "make release-tree  write what is published, one commit without history, into build/SlicerDiffuGTS; PUBLISHED=URL counts the tags there"
	@echo "make clean     remove the environment and what was built"

demo: $(INSTALLED)
	@$(PYTHON) -m DiffuGTSLib.cli demo --output out/demo

test: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

test-slicer: $(INSTALLED)
	@$(PYTHON) Testing/slicer_environment.py 5.12 5.10

lint: $(INSTALLED)
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy
	@PYTHONPATH=DiffuGTS .venv/bin/lint-imports

bench: $(INSTALLED)
	@$(PYTHON) Testing/Benchmarks/speed.py
	@$(PYTHON) Testing/Benchmarks/batch.py
	@$(PYTHON) Testing/Benchmarks/panel.py
	@$(PYTHON) Testing/Benchmarks/remote.py
	@$(PYTHON) Testing/Benchmarks/foundation.py
	@$(PYTHON) Testing/Benchmarks/gpu_check.py
	@$(PYTHON) Testing/Benchmarks/memory.py

validate: $(INSTALLED)
	@$(PYTHON) -m DiffuGTSLib.cli.embedded validate $(foreach folder,$(DATA),--data "$(folder)") \
	  --output out/validation --docs docs/validation

# Large memory pages, where Linux has them, make the training faster.
reproduce-embedded: $(INSTALLED)
	@THP_MEM_ALLOC_ENABLE=1 $(PYTHON) -m DiffuGTSLib.cli.embedded reproduce $(foreach folder,$(DATA),--data "$(folder)") \
	  --runs out/reproduce/runs --output out/reproduce

campaign: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(PYTHON) Testing/Campaign/run.py $(ARGS)

screenshots: $(INSTALLED)
	@$(PYTHON) Testing/Host/screenshots.py

architecture: $(INSTALLED)
	@$(PYTHON) Testing/architecture.py

cmake:
	@$(PYTHON3) Testing/cmake_lists.py

errors:
	@$(PYTHON3) Testing/errors_page.py

# torch goes first and alone, so that a CPU build is taken where the machine offers one.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON3) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { \
	  echo "DiffuGTS needs Python 3.11 or newer, as $(PYTHON3). Another: make PYTHON3=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -c "" 2>/dev/null || $(PYTHON3) -m venv --clear .venv
	@echo "Installing into .venv; the first time this takes some minutes."
	@$(PIP) torch setuptools
	@$(PIP) --no-build-isolation --editable ".[dev]"
	@touch $@

release-tree:
	@$(PYTHON3) Testing/release_tree.py build/SlicerDiffuGTS $(if $(PUBLISHED),--published $(PUBLISHED))

clean:
	rm -rf .venv build dist out/demo *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find DiffuGTSLib Testing -name __pycache__ -prune -exec rm -rf {} +
