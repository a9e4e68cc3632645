# The chores of this repository; `make` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Cargo uses all cores by itself; the steps of one goal are in order.
.NOTPARALLEL:

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

# The tests and the demonstration share the machine's cache; see `ireko setup`.
ifeq ($(shell id -u),0)
IREKO_CACHE ?= /var/cache/ireko
else
IREKO_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ireko
endif
export IREKO_CACHE

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: setup ## sets this machine up and runs the main job, with the time of each step
	@scripts/demo.sh $(TARGET)/release/ireko

.PHONY: setup
setup: ## installs what is missing, builds, fetches the guest kernel and the base image's parts
	@scripts/install-deps.sh run
	@$(CARGO) build --release --locked --package ireko
	@$(TARGET)/release/ireko setup

.PHONY: test
test: lint test-setup fixtures ## sets this machine up and runs all that CI runs
	IREKO_BIN=$(abspath $(TARGET))/debug/ireko $(CARGO) test --workspace --locked

# The whole workspace, so that `cargo test` finds the dependencies built with the same features.
.PHONY: test-setup
test-setup:
	@scripts/install-deps.sh test
	@$(CARGO) build --workspace --locked
	@$(TARGET)/debug/ireko setup

.PHONY: fixtures
fixtures: ## makes what the tests read: a Debian root file system, Debian disks, docker clients
	@scripts/install-deps.sh test
	@scripts/fixtures/debian-rootfs.sh
	@scripts/fixtures/debian-machine.sh
	@scripts/fixtures/docker-debian.sh
	@scripts/fixtures/docker-py.sh

.PHONY: lint
lint: ## checks formatting, lints, and which crate depends on which
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings
	$(CARGO) xtask rooms

.PHONY: bench
bench: setup ## measures what create, start and commit cost, the disk engine, and networks
	@scripts/install-deps.sh bench
	IREKO_BIN=$(abspath $(TARGET))/release/ireko $(CARGO) bench --locked --package ireko-e2e --bench tree --bench start --bench disk --bench network

# Each unit is one run of the test suite's power cuts: some 7 s of CPU.
IREKO_SOAK ?= 50
.PHONY: soak
soak: test-setup ## tests for hours: power cuts, IREKO_SOAK=n for n times as many, networks in full, five machines at once, then fuzzing
	IREKO_SOAK=$(IREKO_SOAK) $(CARGO) test --release --locked --package ireko-disk
	IREKO_NET_MIB=1024 IREKO_NET_SHORT=1000 IREKO_NET_MANY=200 IREKO_BIN=$(abspath $(TARGET))/debug/ireko \
		$(CARGO) test --locked --package ireko-e2e --test network_traffic -- --nocapture
	IREKO_SOAK=1 IREKO_BIN=$(abspath $(TARGET))/debug/ireko \
		$(CARGO) test --locked --package ireko-e2e --test machine_twins -- --nocapture
	scripts/fuzz.sh 600

IREKO_FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: ## runs every fuzz target for a minute; IREKO_FUZZ_SECONDS=n for n seconds
	scripts/fuzz.sh $(IREKO_FUZZ_SECONDS)
