# Everything a checkout needs, from `git clone` on. Works in any path (spaces, great length), as root and as an
# ordinary user. Programs of the environment run as `python -m …`: their scripts name the interpreter in a first line
# that neither may hold a space nor grow past 127 characters.

SHELL := /bin/sh
.DEFAULT_GOAL := help
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV
# Every program here starts often: what was compiled once is kept.
unexport PYTHONDONTWRITEBYTECODE

UV_VERSION := 0.13.9
PY := .venv/bin/python
UV := UV_PROJECT_ENVIRONMENT=.venv $(PY) -m uv
SYNC := $(UV) sync --quiet --frozen --python $(PY)
RUN_EXTRAS := --extra agent --extra coordinator --extra console

# What the tests play against, as program:package. Installed only when missing, and only as root.
DEBIAN_PACKAGES := nginx:nginx-light openssl:openssl pg_ctlcluster:postgresql wrk:wrk haproxy:haproxy apache2:apache2 \
  caddy:caddy lighttpd:lighttpd-mod-openssl sshd:openssh-server keytool:default-jdk-headless \
  javac:default-jdk-headless ip:iproute2 ps:procps sudo:sudo \
  faketime:faketime curl:curl shellcheck:shellcheck debootstrap:debootstrap busybox:busybox systemd-analyze:systemd \
  postfix:postfix /usr/lib/dovecot/imap:dovecot-imapd /usr/lib/dovecot/pop3:dovecot-pop3d \
  /usr/lib/dovecot/lmtp:dovecot-lmtpd pebble:pebble pebble-challtestsrv:pebble certbot:certbot lego:lego \
  dehydrated:dehydrated uacme:uacme acmetool:acmetool named:bind9

# Interpreters to try. A name on PATH proves nothing: a shim may point nowhere, and Debian keeps ensurepip elsewhere.
PYTHONS := $(PYTHON) python3.13 python3.12 python3.11 python3 /usr/bin/python3
PYTHON_TEST := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))

# A virtual environment holds absolute paths. One that was copied, moved or has lost its interpreter is made again.
WHERE := $(PY) -c 'import sys; print(sys.prefix, *sys.version_info[:2])'
$(shell test -f .venv/.where && test "$$($(WHERE) 2>&1)" = "$$(cat .venv/.where)" || rm -f .venv/.where)

# Processes that run tests, each whole files of them. They wait more than they compute.
WORKERS := 4
# tests.again: a few tests that failed get another chance, alone.
RUNNER := pytest

BENCHMARKS = $(patsubst benchmarks/%.py,%,$(filter-out benchmarks/demo.py,$(shell grep -l '^if __name__ == ' benchmarks/*.py 2>/dev/null))) fleet api

.PHONY: help
help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

# --- use -------------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: .venv/.ready-run ## Run the whole platform here and show it; ONCE=1 stops after one round, exit 0 means verified
	$(call debian,nginx:nginx-light) || echo 'Going on without nginx.'
	@$(PY) -m benchmarks.demo $(if $(ONCE),--once)

.PHONY: bench
bench: $(addprefix bench-,$(subst _,-,$(BENCHMARKS))) ## Run every benchmark

bench-%: .venv/.ready-dev debian-packages FORCE ## Run one benchmark: a table here, JSON in benchmarks/results; ARGS=…
	@$(PY) -m benchmarks.$(subst -,_,$*) $(ARGS)

.PHONY: soak-kill
soak-kill: .venv/.ready-dev debian-packages ## Shake a whole platform for 30 minutes (ARGS='--minutes 5') and check it; needs root
	@$(PY) -m benchmarks.soak $(ARGS)

.PHONY: wheel
wheel: .venv/.ready-dev ## Build the wheel into dist/
	@$(PY) -m build --wheel --no-isolation --outdir dist .

.PHONY: agent-binary
agent-binary: .venv/.ready-dev ## Build an agent that needs no Python into dist/, for hosts like this one (system, processor, C library)
	@$(no_home) $(SYNC) --inexact --extra all --extra jks --group binary
	@$(PY) installers/agent_binary.py

# --- check -----------------------------------------------------------------------------------------------------------

.PHONY: test
test: .venv/.ready-dev debian-packages peers-acme ## Run every test (as root, installs the Debian packages they need); WORKERS=1: one by one
	@$(PY) -m $(RUNNER) --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder $(ARGS)

.PHONY: model
model: .venv/.ready-dev ## Compare the queue with its model for longer (ARGS='--minutes 10 --seed 7')
	@$(PY) -m tests.coordinator.model $(ARGS)

.PHONY: crash
crash: .venv/.ready-dev debian-packages ## Kill the programs at every point on every road, also where nothing comes to the point
	@CRASH_MATRIX=whole $(PY) -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder tests/journeys/crash

.PHONY: acme-oracle
acme-oracle: .venv/.ready-dev debian-packages ## Hold the ACME server against certbot's library for longer (ARGS='--minutes 10 --seed 7')
	@$(PY) -m tests.coordinator.acme.oracle $(ARGS)

.PHONY: schemathesis
schemathesis: .venv/.ready-dev ## Hold a running coordinator against its OpenAPI document (ARGS='--seconds 600 --seed 7')
	@$(PY) -m tests.coordinator.conformance $(ARGS)

.PHONY: mutants
mutants: .venv/.ready-dev debian-packages ## Break the code on purpose and see that the tests notice (ARGS='NAME …')
	@$(PY) -m tests.mutants $(ARGS)

.PHONY: acme-clients
acme-clients: .venv/.ready-dev debian-packages peers-acme ## Play every case of every ACME client (ARGS='--server pebble lego …')
	@$(PY) -m tests.journeys.acme $(ARGS)

.PHONY: journeys
journeys: .venv/.ready-dev debian-packages peers-acme ## Play all types of targets and ACME clients to the full and write their pages (ARGS='nginx lego …')
	@$(PY) -m tests.journeys $(ARGS)

# Programs for the tests that no package brings are built once and used whenever they are there.
GOCLIENT := tests/journeys/acme/goclient

.PHONY: peers-acme
peers-acme: ## Build an ACME client on golang.org/x/crypto/acme and a newer Pebble for the tests, where Go is
	@! command -v '$(GO)' >/dev/null || $(MAKE) --silent .cache/acme/goclient || echo 'Going on without what Go builds.'

.cache/acme/goclient: $(wildcard $(GOCLIENT)/*.go) $(GOCLIENT)/go.mod $(GOCLIENT)/go.sum
	@mkdir -p $(@D)
	@cd $(GOCLIENT) && CGO_ENABLED=0 '$(GO)' build -p 2 -trimpath -buildvcs=false -ldflags '-s -w' \
	  -o '$(CURDIR)/$(@D)/' . github.com/letsencrypt/pebble/v2/cmd/pebble
	@touch $@

STEP_CA_VERSION := v0.30.2

.PHONY: peers-step-ca
peers-step-ca: .cache/acme/step-ca ## Build step-ca for make bench-acme (needs Go; 3 minutes on two cores)

.cache/acme/step-ca:
	@command -v '$(GO)' >/dev/null || { echo 'Go was not found; name one: make GO=/path/to/go peers-step-ca'; exit 1; }
	@CGO_ENABLED=0 GOBIN='$(CURDIR)/$(@D)' nice '$(GO)' install -p 2 -trimpath -ldflags '-s -w' \
	  github.com/smallstep/certificates/cmd/step-ca@$(STEP_CA_VERSION)

CERT_MANAGER := tests/peers/certmanager

.PHONY: peers-cert-manager
peers-cert-manager: .cache/acme/cert-manager ## Build cert-manager for the tests that have make peers-kubernetes (needs Go 1.26; 15 minutes on two cores)

.cache/acme/cert-manager: $(wildcard $(CERT_MANAGER)/*.go) $(CERT_MANAGER)/go.mod $(CERT_MANAGER)/go.sum
	@command -v '$(GO)' >/dev/null || { echo 'Go 1.26 or newer was not found; name one: make GO=/path/to/go $@'; exit 1; }
	@mkdir -p $(@D)
	@cd $(CERT_MANAGER) && '$(GO)' mod download github.com/cert-manager/cert-manager && \
	  cat "$$('$(GO)' list -m -f '{{.Dir}}' github.com/cert-manager/cert-manager)"/deploy/crds/*.yaml > '$(CURDIR)/$@.yaml'
	@cd $(CERT_MANAGER) && CGO_ENABLED=0 nice '$(GO)' build -p 2 -trimpath -buildvcs=false -ldflags '-s -w' \
	  -o '$(CURDIR)/$@' .
	@touch $@

KUBERNETES_VERSION := $(shell sed -n 's|^\tk8s.io/kubernetes \(v[0-9.]*\)$$|\1|p' tests/peers/kubernetes/go.mod)
KUBERNETES := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/certctl/kubernetes/$(KUBERNETES_VERSION)
GO := $(firstword $(shell command -v go) $(wildcard /usr/local/go/bin/go) go)

.PHONY: peers-kubernetes
peers-kubernetes: $(KUBERNETES)/kube-apiserver ## Build a Kubernetes API server with etcd for the tests, once (needs Go 1.26; 20 minutes on two cores)

$(KUBERNETES)/kube-apiserver:
	@command -v '$(GO)' >/dev/null || { echo 'Go 1.26 or newer was not found; name one: make GO=/path/to/go peers-kubernetes'; exit 1; }
	@mkdir -p '$(KUBERNETES)'
	@cd tests/peers/kubernetes && CGO_ENABLED=0 nice '$(GO)' build -p 2 -trimpath -buildvcs=false \
	  -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=$(KUBERNETES_VERSION)' \
	  -o '$(KUBERNETES)/' ./etcd ./kube-apiserver
	@echo "It is in $(KUBERNETES)."

.PHONY: check
check: format lint types imports secrets $(if $(filter no,$(FAST)),,fast) ## Format, lint, types, imports, secrets, fast tests (FAST=no: without)

.PHONY: fast
fast: .venv/.ready-dev ## Run the tests that take moments
	@$(PY) -m pytest -m 'not slow and not journey' $(ARGS)

.PHONY: format lint types imports secrets
format: .venv/.ready-dev
	@$(PY) -m ruff format --quiet --check . || { echo 'run: make fmt'; exit 1; }

lint: .venv/.ready-dev
	@$(PY) -m ruff check --quiet .

types: .venv/.ready-dev
	@$(PY) -m mypy --no-error-summary

imports: .venv/.ready-dev
	@$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' --no-logo > .venv/imports.txt \
	  || { cat .venv/imports.txt; exit 1; }

secrets: .venv/.ready-dev
	@git ls-files -z --cached --others --exclude-standard \
	  | xargs -0 $(PY) -m detect_secrets.pre_commit_hook --baseline .secrets.baseline

# --- change ----------------------------------------------------------------------------------------------------------

.PHONY: fmt
fmt: .venv/.ready-dev ## Format, and mend what can be mended
	@$(PY) -m ruff check --quiet --fix-only .
	@$(PY) -m ruff format .

.PHONY: lock
lock: .venv/.where ## Resolve the dependencies again into uv.lock (ARGS=--upgrade for newer ones)
	@$(UV) lock --python $(PY) $(ARGS)

.PHONY: clean
clean: ## Remove the environment, caches and builds
	@rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- environment -----------------------------------------------------------------------------------------------------

# Written last, so that a broken start is no environment.
.venv/.where:
	@$(find_python); \
	if [ -z "$$found" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  $(apt_install) python3-venv; $(find_python); \
	fi; \
	if [ -z "$$found" ]; then \
	  echo 'No Python 3.11 or newer with venv and ensurepip was found. On Debian: apt-get install python3-venv;' >&2; \
	  echo 'elsewhere, name one: make PYTHON=/path/to/python3' >&2; exit 1; \
	fi; \
	echo "Setting up .venv with $$found …"; \
	rm -rf .venv && "$$found" -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check 'uv==$(UV_VERSION)'
	@$(WHERE) > $@

# What runs the product; leaves what is there beyond it, so that it never undoes .ready-dev.
.venv/.ready-run: pyproject.toml uv.lock .venv/.where
	@$(no_home) $(SYNC) --inexact --no-dev $(RUN_EXTRAS)
	@touch $@

# What develops it, exactly: an import that the lock does not provide fails here and not at a user's.
.venv/.ready-dev: pyproject.toml uv.lock .venv/.where
	@$(no_home) $(SYNC) --extra all --extra jks
	@touch $@ .venv/.ready-run

.PHONY: debian-packages
debian-packages:
	$(call debian,$(DEBIAN_PACKAGES))

.PHONY: FORCE
FORCE:

# --- pieces of shell -------------------------------------------------------------------------------------------------

find_python = found=; for p in $(PYTHONS); do if "$$p" -c '$(PYTHON_TEST)' >/dev/null 2>&1; then found=$$p; break; fi; done

# An account without a home folder has no place for a cache.
no_home = [ -w "$${XDG_CACHE_HOME:-$$HOME}" ] || export UV_NO_CACHE=1;

# SYSTEMD_OFFLINE: a package is wanted for its programs; its service is not started on this machine.
apt_install = apt-get -qq update && DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1 \
  apt-get -qq install --yes --no-install-recommends -o DPkg::Lock::Timeout=120 >/dev/null

# $(1): pairs program:package. As anybody but root on a Debian, says nothing: who needs a program says so.
define debian
@want=; for pair in $(1); do \
  PATH="$$PATH:/usr/sbin:/sbin" command -v "$${pair%%:*}" >/dev/null || want="$$want $${pair#*:}"; \
done; \
if [ -n "$$want" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
  echo "Installing$$want …"; $(apt_install) $$want; \
fi
endef
