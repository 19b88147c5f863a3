# make demo      train both tokenizers and the model on this machine, then write runs/demo/report.html
# make test      lint, types, the site of docs/, and tests, which run a tiny demo from end to end
# Needs make, Python 3.11 or newer and a package registry. Plain POSIX sh and make 3.81 (macOS) are enough.

BUDGET = full
OUT = runs/demo
SEED = 0
ARGS =
# How many bugs `make mutants` tries (empty: all), and the seconds after which it begins no other.
COUNT =
SECONDS = 1500
# Seconds that `make fuzz` takes for each of its seven kinds, and the case that it repeats (none: new ones).
FUZZ_SECONDS = 60
FUZZ =
# Processes of the tests, one thread each.
JOBS = 2
VENV = .venv
# Another wheel index for torch alone, say a CPU build: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# The Python to make .venv with; empty: the first of the usual names that is new enough.
PYTHON ?=

BIN = $(VENV)/bin
# Without build isolation the few source packages are built by the pinned setuptools too. Compiling all 20,000
# files takes two minutes of a core; Python compiles those that are used when it imports them.
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation --no-compile -c constraints.txt

# Then the first import must be allowed to keep it: without it, each process of the tests compiles for 20 seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL = help
.PHONY: help install demo test quick-demo lint format docs pytest slow mutants fuzz bench clean

help:
	@echo 'make demo [BUDGET=quick|full] [OUT=runs/demo] [SEED=0]   train everything, write OUT/report.html'
	@echo 'make test                                                lint, docs, then all tests'
	@echo 'make install                                             only make .venv with what the demo needs'
	@echo 'make quick-demo                                          the quick demo from end to end; nothing is kept'
	@echo 'make pytest [ARGS="-k words"]                            tests alone, with these arguments'
	@echo 'make slow                                                the slow tests that `make test` leaves out'
	@echo 'make mutants [COUNT=5] [SECONDS=1500]                    put small bugs into a copy: do the tests find them?'
	@echo 'make fuzz [FUZZ_SECONDS=60] [FUZZ=model:7]               damage folders and requests at random'
	@echo 'make bench [ARGS="--only busy"]                          speed beside transformers, in ten idle minutes'
	@echo 'make lint                                                ruff and pyright alone'
	@echo 'make docs                                                the site of docs/, build/docs/index.html'
	@echo 'make format                                              let ruff rewrite the files'
	@echo 'make clean                                               remove .venv and what tools left; runs/ stays'
	@echo
	@echo 'Each makes .venv and installs what it needs. TORCH_INDEX=URL takes torch from another wheel index,'
	@echo 'PYTHON=python3.12 names the Python to use.'

install: $(VENV)/.installed-demo

demo: $(VENV)/.installed-demo
	$(BIN)/earlyfusion demo --out "$(OUT)" --seed "$(SEED)" --budget "$(BUDGET)"

# The tests run the demo's eight stages on a tiny budget; `make quick-demo` runs the quick one, in four minutes.
test: lint docs pytest

# Small and from nothing: its figures mean nothing, that it gets to its report does.
quick-demo: $(VENV)/.installed-demo
	rm -rf runs/quick-demo
	$(BIN)/earlyfusion demo --out runs/quick-demo --budget quick
	test -s runs/quick-demo/report.html
	rm -rf runs/quick-demo

# A file stays on one process, with its fixtures; the files come as tests/conftest.py sorts them.
pytest: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

# Trainings on up to four processes, a Ray cluster, and the runner of mutants: one to three minutes.
slow: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m slow $(ARGS)

# Every bug of tests/mutants/mutants.toml; resumes, since runs/mutants.jsonl has a line for each that has run.
mutants: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants/run.py --seconds $(SECONDS) $(if $(COUNT),--count $(COUNT))

# Damaged folders and requests, new ones each time, a few minutes of each kind; FUZZ=KIND:SEED repeats one.
fuzz: $(VENV)/.installed-dev
	FUZZ="$(FUZZ)" FUZZ_SECONDS=$(FUZZ_SECONDS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -q \
		tests/security/test_fuzz.py tests/playground/test_hostile.py -k damaged

# Speed on this machine, beside transformers: a table, and benchmarks/speed/bench.json. Nothing else should run.
bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/speed/bench.py --out benchmarks/speed/bench.json $(ARGS)

# The root is the package `earlyfusion`, whatever the checkout is called: pyright finds it through .types.
lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .types && ln -sfn .. .types/earlyfusion
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

# Without --clean Zensical would not see that docstrings changed.
docs: $(VENV)/.installed-dev
	$(BIN)/python docs/site/collect.py
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/zensical build --clean --strict

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .types .cache build dist earlyfusion.egg-info .pytest_cache .ruff_cache

# Three steps, each done again only when the files that it reads have changed.
$(VENV)/.installed-base: constraints.txt
	@if $(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then exit 0; fi; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python; do \
	    if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	        echo "making $(VENV) with $$python"; exec $$python -m venv --clear $(VENV); \
	    fi; \
	done; \
	echo 'earlyfusion needs Python 3.11 or newer with its venv module, and found none.' >&2; \
	echo 'Debian, Ubuntu: apt-get install python3 python3-venv; macOS: brew install python@3.13;' >&2; \
	echo 'or name one: make PYTHON=/path/to/python3.12 ...' >&2; exit 1
	$(INSTALL) pip setuptools
	@if [ -n "$(TORCH_INDEX)" ]; then set -x; $(INSTALL) --no-deps --index-url "$(TORCH_INDEX)" torch; fi
	@touch $@

$(VENV)/.installed-demo: $(VENV)/.installed-base pyproject.toml
	$(INSTALL) -e '.[demo]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-base pyproject.toml
	$(INSTALL) -e '.[demo,dev]'
	@touch $(VENV)/.installed-demo $@
