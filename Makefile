# The commands of this project: `make` lists them. Portable to GNU make 3.81 and to any POSIX shell.
VENV := .venv
PY := $(VENV)/bin/python
# Two runs from one clone must not install into one environment at the same time.
LOCKED := $(shell mkdir -p .cache && command -v flock >/dev/null 2>&1 && echo "flock .cache/venv.lock")
# Checks read the settings, and reach no store.
CHECK_ENV = SECRET_KEY=$$($(PY) -c 'import secrets; print(secrets.token_urlsafe(64))') VOICE_HTTPS=1 VOICE_DATA_DIR=.cache/none \
	VOICE_SECRET_KEYS=$$($(PY) -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())')

.DEFAULT_GOAL := help
.PHONY: help run run-livekit test agents bench check clean venv venv-run venv-test venv-bench

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' Makefile | while IFS='	' read -r name text; do printf '  make %-11s %s\n' "$$name" "$$text"; done

run: venv-run  ## start the whole platform here; Ctrl-C stops it (PORT=8001, WEB=2, SERVER=daphne: see `manage.py up --help`)
	@exec $(PY) -I -S voiceplatform/launch.py --signal SIGTERM -- $(PY) manage.py up

run-livekit: venv-run  ## the same with a LiveKit server on this machine, for calls over WebRTC (installed with Go where there is none)
	@LIVEKIT_SERVER_BIN=$$($(PY) -m voiceplatform.embedded.livekit_program) || exit 1; export LIVEKIT_SERVER_BIN; \
	exec $(PY) -I -S voiceplatform/launch.py --signal SIGTERM -- $(PY) manage.py up --livekit

test: venv-test  ## run all tests, on real PostgreSQL and Valkey (PYTEST_ARGS adds arguments)
	@$(find_browser); $(find_livekit); exec $(PY) -m pytest -n 2 $(PYTEST_ARGS)

agents:  ## the example agent of docs/agents, by livekit-agents, for the LiveKit of make run-livekit or of LIVEKIT_URL
	@$(LOCKED) $(MAKE) --no-print-directory venv VENV=docs/agents/.venv WANTED=docs/agents/requirements.txt
	@cd docs/agents && exec .venv/bin/python -m livekit.agents start agent.py

bench: venv-bench  ## measure: NAME=crowd runs a benchmark, with ARGS; without NAME it lists them
	@exec $(PY) -m benchmarks.run $(NAME) $(ARGS)

check: venv-test  ## lint, types, layers, templates, deployment settings, migrations
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	@$(CHECK_ENV); export SECRET_KEY VOICE_SECRET_KEYS VOICE_HTTPS VOICE_DATA_DIR; set -ex; \
	$(PY) -m mypy .; \
	$(VENV)/bin/lint-imports; \
	find . -name $(VENV) -prune -o -name '*.html' -path '*templates/*' -print0 | xargs -0 -r $(VENV)/bin/djade --check --target-version 5.2; \
	$(PY) manage.py check --deploy --fail-level WARNING; \
	$(PY) -W 'ignore:Got an error checking a consistent migration history' manage.py makemigrations --check --dry-run

clean:  ## remove the environment and the data of `make run`; stops nothing
	@if [ -e .data/up.lock ] && command -v flock >/dev/null 2>&1 && ! flock -n .data/up.lock true; then \
		echo "An instance runs on .data: stop it first." >&2; exit 1; fi
	@place=$$(readlink .data/postgres-place 2>/dev/null || true); \
	case "$$place" in /var/lib/voiceplatform-*) rm -rf "$$place";; esac
	rm -rf $(VENV) docs/agents/.venv .data .cache

venv-run:
	@$(LOCKED) $(MAKE) --no-print-directory venv WANTED="requirements.txt"

venv-test:
	@$(LOCKED) $(MAKE) --no-print-directory venv WANTED="requirements.txt tests/requirements.txt"

venv-bench:
	@$(LOCKED) $(MAKE) --no-print-directory venv WANTED="requirements.txt tests/requirements.txt benchmarks/requirements.txt"

# Installed again when what is wanted differs from what was installed; the last file named brings the others in.
venv:
	@set -e; $(choose_python); \
	installed=$(VENV)/.installed-$$(echo "$(WANTED)" | cksum | cut -d' ' -f1); \
	$(PY) -c '' 2>/dev/null || { echo "Making $(VENV) with $$python"; "$$python" -m venv --clear $(VENV); }; \
	cat $(WANTED) | cmp -s - "$$installed" && exit 0; \
	echo "Installing $(lastword $(WANTED))"; \
	$(PY) -m pip install --quiet --disable-pip-version-check --no-input -r $(lastword $(WANTED)) || { \
		echo "The packages could not be installed: is a package index reachable?" >&2; exit 2; }; \
	cat $(WANTED) > "$$installed"

define choose_python
python=; for name in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { python=$$name; break; }; done; \
[ -n "$$python" ] || { echo "Python 3.11 or newer is needed: install it, or name it with PYTHON=..." >&2; exit 2; }; \
"$$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || { \
	echo "$$python cannot make virtual environments: install its venv module (on Debian: apt-get install python3-venv)." >&2; exit 2; }
endef

# Sets CHROMIUM_BIN, or leaves the browser tests out. A browser that does not run here is none.
define find_browser
works() { [ -n "$$1" ] && "$$1" --version >/dev/null 2>&1; }; \
look() { for name in chromium chromium-browser google-chrome google-chrome-stable; do \
	CHROMIUM_BIN=$$(command -v $$name || true); works "$$CHROMIUM_BIN" && return 0; done; return 1; }; \
works "$$CHROMIUM_BIN" || look || { \
	[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 && echo "Installing Chromium with apt-get" && \
	apt-get -qq update </dev/null >/dev/null && \
	DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium </dev/null >/dev/null && look; } || { \
	echo "Installing Chromium with Playwright"; $(PY) -m playwright install chromium >/dev/null && \
	CHROMIUM_BIN=$$($(PY) -c 'from playwright.sync_api import sync_playwright as p; w = p().start(); print(w.chromium.executable_path); w.stop()') && \
	works "$$CHROMIUM_BIN"; } || { \
	CHROMIUM_BIN=; export PYTEST_ADDOPTS="$$PYTEST_ADDOPTS -m 'not browser'"; echo "No Chromium runs here: the browser tests are skipped."; \
	if [ "$$CI" = true ]; then echo "In CI that is a failure." >&2; exit 1; fi; }; \
export CHROMIUM_BIN
endef

# Sets LIVEKIT_SERVER_BIN, or leaves the tests out that need it.
define find_livekit
LIVEKIT_SERVER_BIN=$$($(PY) -m voiceplatform.embedded.livekit_program "The tests that need it are skipped.") || { \
	LIVEKIT_SERVER_BIN=; if [ "$$CI" = true ]; then echo "In CI that is a failure." >&2; exit 1; fi; }; \
export LIVEKIT_SERVER_BIN
endef
