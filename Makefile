# make demo        set up .venv, then show what the package does: pictures and tables in demo_output/
# make app         open the interactive demo in a browser (http://127.0.0.1:7860, Ctrl-C stops it)
# make test        lint, types and the fast tests (offline, no GPU)
# make test-slow   the full versions of the slow tests
# make lint        ruff and mypy only
# make reproduce   claims of the papers at small scale: CLAIM="ijepa vjepa" (all by default), BUDGET=60 minutes,
#                  then REPRODUCTION.md from all results there are
# make system      the system packages that some tests use (Debian's chromium, libegl1 and g++); needs root, skips otherwise
# make clean       remove .venv and everything built
#
# PYTHON picks the interpreter (3.11 or newer), PIP_FLAGS goes to every pip install, for instance
#   make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
PY := $(VENV)/bin/python
OUT ?= demo_output
CLAIM ?=
BUDGET ?=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo app test test-slow lint reproduce system clean

help:
	@sed -n 's/^# \{0,1\}//p; /^$$/q' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed-demo
	@$(PY) -m demos.first_look --out $(OUT)
	@$(PY) -m demos.intuitive_physics --out $(OUT)
	@echo "Play with it in a browser: make app, or jepa-hub demo"

app: $(VENV)/.installed-demo
	@$(VENV)/bin/jepa-hub demo

# The fast tests run in as many processes as there are cores, each with one thread: their work is too small for more.
test: system lint
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n auto --maxprocesses 8 --dist loadfile

test-slow: $(VENV)/.installed-dev
	@code=0; $(PY) -m pytest -q -m "slow and not network" || code=$$?; \
	if [ $$code -eq 5 ]; then echo "No test is marked slow in this version: nothing to run."; else exit $$code; fi

lint: $(VENV)/.installed-dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

reproduce: $(VENV)/.installed-dev
	@$(PY) -m training.reproduce $(CLAIM) $(if $(BUDGET),--budget-minutes $(BUDGET))

# The marker .incomplete exists while pip writes. It is still there when an installation was killed half-way; then, or
# when the interpreter behind the environment has gone, the environment is made anew.
define install
	@if [ -e $(VENV)/.incomplete ] || ! $(PY) -m pip --version >/dev/null 2>&1; then \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: make PYTHON=python3.12 ...")' && \
		rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) || exit 1; \
	fi
	@echo "Installing $(1) into $(VENV) (a few minutes the first time) ..."
	@touch $(VENV)/.incomplete
	@$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e "$(1)" \
		|| { code=$$?; rm -f $(VENV)/.incomplete; exit $$code; }
	@rm -f $(VENV)/.incomplete
	@touch $@
endef

$(VENV)/.installed-%: pyproject.toml constraints.txt
	$(call install,.[$*])

system:
	@if dpkg-query --show --showformat='$${db:Status-Status}\n' chromium libegl1 g++ 2>/dev/null | grep -c '^installed$$' | grep -qx 3; then \
		:; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" -eq 0 ]; then \
		echo "Installing chromium, libegl1 and g++ ..."; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium libegl1 g++ >/dev/null; } \
			|| { echo "apt-get could not install chromium, libegl1 and g++; the tests that use them will say so."; [ -z "$$JEPA_HUB_REQUIRE_ALL" ]; }; \
	else \
		echo "Not root, or no apt-get: tests that need a browser, EGL or a compiler skip. With root: apt-get install --no-install-recommends chromium libegl1 g++"; \
	fi

clean:
	rm -rf $(VENV) build dist demo_output .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
