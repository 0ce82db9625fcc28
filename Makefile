# Portafilter: `make run` starts it with a demo fleet, `make test` proves it. Both work on a bare Debian 12.

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest -q

# Where the environment forbids it to write __pycache__, each of some hundred processes would compile all of our code anew.
unexport PYTHONDONTWRITEBYTECODE

# Two processes a core and one, five at most: they wait for real programs as much as they compute. Whole files, since some
# have machines at fixed addresses, and in the order of tests/conftest.py.
PARALLEL := -n $(shell n=$$(($$(nproc) * 2 + 1)); [ $$n -gt 5 ] && n=5; echo $$n) --dist loadfile --no-loadscope-reorder

# What the database has no part in, or only as a backdrop: once, on SQLite, is enough. The time is better spent.
NOT_ON_POSTGRES := e2e vpn agent fakes sessions/guacamole sessions/gateways portal/browser \
	$(addprefix test_,throwaway.py documents.py house.py imports.py) machines/test_handshake_real.py \
	$(addprefix machines/authorisation/test_,openvpn.py isolation.py two_ways.py) \
	$(addprefix portal/test_,demo.py demo_seeding.py serve.py secrets_on_the_way.py environment.py proxies.py) \
	$(addprefix portal/test_,slow_lines.py vpn_lines.py api_schema.py api_permissions.py) \
	$(addprefix portal/test_,worker_decisions.py) machines/test_rota.py \
	$(addprefix machines/telemetry/test_,iot_core.py iot_core_strict.py iot_core_refusals.py http.py) \
	$(addprefix portal/test_,doctor.py doctor_aws.py faces.py message_pages.py pages.py) \
	$(addprefix notifications/test_,email.py push_rules.py sns_channel.py sns_settings.py sns_whole.py web_push.py wording.py) \
	$(addprefix backbone/test_,commands.py deploy.py edge_template.py image_scripts.py images.py join.py) \
	$(addprefix backbone/test_,news_templates.py roles.py templates.py vpn_template.py) portal/test_servers.py \
	$(addprefix sessions/test_,keeper_real.py tunnel_real.py worker_real.py tunnel.py tunnel_slow.py ladder.py) \
	$(addprefix sessions/test_,idle_cuts.py machine_schema.py) machines/test_aws.py portal/test_start.py \
	$(addprefix machines/telemetry/test_,asking.py checks.py) notifications/test_sns_forgeries.py \
	$(addprefix portal/test_,checks.py machine_pages.py availability_pages.py) backbone/test_accelerator_page.py

# Deaths at every step, one after the other: once is enough, on the database that several processes have.
NOT_ON_SQLITE := e2e vpn $(addprefix sessions/test_,worker_crashes.py pool_crashes.py asking_crashes.py)

# Where the settings and secrets of this folder's installation are, unless the environment names another file.
SECRETS := PORTAFILTER_ENV_FILE=$${PORTAFILTER_ENV_FILE:-var/portafilter.env}

# The simulated machine that `make press` presses, and what `make line` makes its line.
MACHINE := IT-0042
LINE := slow

# The demo with a VPN has a database, machines and settings of its own; see portal/demo/vpn/bed.py.
VPN_STATE := $(CURDIR)/var/vpn
VPN_SETTINGS := STATE_DIR=$(VPN_STATE) VPN=openvpn VPN_NETWORK=10.77.0.0/20 VPN_REMOTE=198.18.0.1 VPN_PORT=1194 \
	VPN_PROTOCOL=udp MACHINE_API_BIND=10.77.0.1:8001 GATEWAY_UIDS=61000-61999

.PHONY: help run run-vpn press line setup-run setup-test test lint style \
	test-unit test-postgres test-whole test-whole-and-types test-e2e test-vpn build requirements clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help: ## Lists the targets.
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1: /p' $(MAKEFILE_LIST) | awk -F': ' '{ printf "  make %-15s %s\n", $$1, $$2 }'

run: setup-run ## Installs what is missing and starts the portal with a fleet of simulated machines.
	@$(SECRETS) $(PYTHON) manage.py migrate --no-input --verbosity 0
	@$(SECRETS) exec $(PYTHON) manage.py demo

run-vpn: setup-run-vpn ## The same behind a real OpenVPN, each machine in a network namespace of its own; needs root.
	@mkdir -p -m 700 $(VPN_STATE)
	@$(SECRETS) $(VPN_SETTINGS) $(PYTHON) manage.py migrate --no-input --verbosity 0
	@$(SECRETS) $(VPN_SETTINGS) exec $(PYTHON) manage.py demo_vpn

press: ## Presses help on a machine of the running demo, IT-0042 or as in MACHINE=PL-0311.
	@folder=$${STATE_DIR:-var}/demo/machines; \
	if ! test -S "$$folder/simulator.sock"; then folder="$(VPN_STATE)/demo/machines/$(MACHINE)"; fi; \
	test -S "$$folder/simulator.sock" || \
		{ echo "The demo does not run. Start it in another terminal: make run" >&2; exit 1; }; \
	$(PYTHON) -m agent.simulator press --folder "$$folder" --machine "$(MACHINE)"

line: ## Makes a machine's line to the VPN good, slow, lossy or dead: make line MACHINE=IT-0042 LINE=dead
	@$(PYTHON) -m portal.demo.vpn.lines tell "$(VPN_STATE)/demo/lines.sock" "$(MACHINE)" "$(LINE)"

test: setup-test style test-unit test-postgres test-whole-and-types ## Installs what is missing and runs all of the tests.

lint: style ## Style, known weaknesses and types.
	@echo "— types"
	@$(TYPES)

TYPES := $(PYTHON) -m mypy --no-error-summary

style: setup-test
	@echo "— style and known weaknesses"
	@$(PYTHON) -m ruff check --quiet .
	@$(PYTHON) -m ruff format --check --quiet .
	@$(PYTHON) -m bandit --quiet --recursive --severity-level medium --configfile pyproject.toml agent backbone machines notifications portal sessions

test-unit: setup-test ## All tests on SQLite, but the end-to-end ones and those for PostgreSQL.
	@echo "— tests, on SQLite"
	@$(PYTEST) $(PARALLEL) $(addprefix --ignore tests/,$(NOT_ON_SQLITE))

test-postgres: setup-test ## Those that use the database once more, on a PostgreSQL of their own.
	@echo "— tests, on PostgreSQL"
	@$(PYTHON) -m tests.throwaway postgres -- $(PYTEST) $(PARALLEL) $(addprefix --ignore tests/,$(NOT_ON_POSTGRES))

# Four processes on however few processors: mostly they wait for lines that are silent on purpose.
WHOLE := $(PYTEST) -n 4 --dist loadfile --no-loadscope-reorder

test-whole: setup-test ## End to end, and the same behind a real OpenVPN (which needs root).
	@echo "— tests, end to end, and behind a real OpenVPN"
	@$(WHOLE) tests/e2e tests/vpn

# The types are looked at meanwhile, with the processors' time that those tests leave.
test-whole-and-types: setup-test
	@echo "— types, and tests end to end, and behind a real OpenVPN"
	@nice -n 19 $(TYPES) & types=$$!; \
	trap 'kill $$types' EXIT; trap 'exit 130' INT; trap 'exit 143' TERM; \
	$(WHOLE) tests/e2e tests/vpn; whole=$$?; \
	wait $$types; typed=$$?; \
	trap - EXIT; \
	[ $$typed -eq 0 ] && exit $$whole

test-e2e: setup-test ## From the button on a machine to the pixels in a browser.
	@$(PYTEST) tests/e2e

test-vpn: setup-test ## Behind a real OpenVPN, in network namespaces; needs root.
	@$(WHOLE) tests/vpn

build: setup-test ## The front end, from static/ into static/dist.

setup-run:
	@./setup run

setup-run-vpn:
	@./setup run-vpn

setup-test:
	@./setup test

requirements: setup-test ## Writes the hashed requirements*.txt from requirements*.in.
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@for list in requirements requirements-dev requirements-node; do \
		UV_NO_CONFIG=1 UV_FIND_LINKS= PIP_FIND_LINKS= $(PYTHON) -m uv pip compile --quiet --universal --python-version 3.11 \
			--generate-hashes --no-emit-index-url --no-header $$list.in -o $$list.txt || exit 1; \
	done

clean: ## Removes what was made, but for var/, which holds the demo's data and secrets.
	rm -rf .venv node_modules static/dist static/dist.new-* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find agent backbone machines notifications portal sessions tests -name __pycache__ -type d -prune -exec rm -rf {} +
