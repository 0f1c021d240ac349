# The one list of commands; bare `make` prints it.

.DEFAULT_GOAL := help
.PHONY: help tools envoy sdks build next demo stack check test test-sdks istio-schema lint deny advisories doc fmt simulate simulate-mutants mutants fuzz bench bench-module bench-load fleet clean

PYTHON ?= python3
export PYTHON
# One place, whatever the caller's environment says: the stack and the tests look for things there.
export CARGO_TARGET_DIR := $(CURDIR)/target
CARGO := cargo --locked

NEWEST_ENVOY := 1.40.0
OLDEST_ENVOY := 1.36.2
# The oldest with the extension that envoy/sidecar/file-server.yaml needs.
FILE_SERVER_ENVOY := 1.38.2

help: ## this list
	@sed -n 's/^\([a-z-]*\):.* ## /\1|/p' Makefile | while IFS='|' read -r name text; do printf '  make %-17s %s\n' "$$name" "$$text"; done

tools: ## see that rustup, cc and python3 are here; install the pinned Rust toolchain
	@scripts/check-tools

envoy: tools ## fetch the pinned Envoys into .tools/ (ENVOY=/path uses another)
	@if [ -z "$(ENVOY)" ]; then for version in $(NEWEST_ENVOY) $(OLDEST_ENVOY) $(FILE_SERVER_ENVOY); do scripts/fetch-envoy $$version || exit; done; fi

sdks: tools ## fetch the Azure SDKs for Python, which tests and demo run, into .tools/
	@scripts/fetch-sdks python

build: tools ## build the filter: dist/entra-exchange.wasm
	@scripts/build-module

demo: envoy sdks build ## show the main job on a real Envoy
	@$(CARGO) run --quiet --package entra-exchange-stack --bin demo

stack: envoy build ## the same stack, to stay until Ctrl-C (CONFIG=file.json, CONCURRENCY=n)
	@$(CARGO) run --quiet --package entra-exchange-stack --bin stack

check: lint ## what shows most mistakes within a minute: formatting, lints and the core's tests, without Envoy
	$(CARGO) test --quiet --package entra-exchange-core

next: tools ## build the filter as another version of itself, for the test of an upgrade
	@scripts/build-module next

test: envoy sdks build next ## every test: core, fake Entra, and the filter in a real Envoy and in a host of our own
	$(CARGO) test --workspace

istio-schema: ## check envoy/istio/ against Istio's published CRDs (needs Go)
	@scripts/check-istio-schema

test-sdks: envoy build ## the Azure SDKs for Node.js, Go and Java behind the filter, each where its runtime is
	@scripts/fetch-sdks node go java
	$(CARGO) test --workspace --test sdks -- --ignored

SEEDS ?= 1000
simulate: tools ## let many workers of the broker meet in SEEDS random ways (SEED=n repeats one)
	SEEDS=$(SEEDS) $(CARGO) test --release --package entra-exchange-core --test simulation -- --nocapture

simulate-mutants: tools ## break the broker in one way after the other, and see that the simulation notices
	@scripts/simulate-mutants

mutants: tools ## change broker and classification in every way, and see that a test notices (takes long)
	@scripts/mutants

SECONDS ?= 60
fuzz: build ## throw random events at the module for SECONDS (FUZZ_SEED=n repeats one)
	FUZZ_SECONDS=$(SECONDS) $(CARGO) test --workspace --test fuzz -- --ignored --nocapture

bench: tools ## time the look-up of a destination among ten rules and among ten thousand
	$(CARGO) bench --quiet --package entra-exchange-core --bench lookup

bench-module: build ## write what a request costs in the module into benches/module-fuel.txt
	BENCH_WRITE=1 $(CARGO) test --workspace --test module_fuel -- --nocapture
	@cat benches/module-fuel.txt

bench-load: envoy build ## what 1,000 and 10,000 requests cost that wait for connections, and a release of 2,000
	@$(CARGO) run --quiet --package entra-exchange-stack --bin load connections 100 1000 10000
	@$(CARGO) run --quiet --package entra-exchange-stack --bin load release 2000

fleet: tools ## simulate 100,000 proxies over a day; draws target/fleet.svg
	@$(CARGO) run --quiet --release --package fleet

lint: tools ## formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- --deny warnings
	$(CARGO) clippy --package entra-exchange --lib --profile module --target wasm32-wasip1 -- --deny warnings

deny: tools ## licences and sources of all dependencies, by deny.toml
	@scripts/deny licenses bans sources

advisories: tools ## known holes in dependencies, and yanked ones (fetches RustSec's database from GitHub)
	@scripts/deny advisories

doc: tools ## the documentation of all crates; a warning is an error
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps

fmt: tools ## format the code
	$(CARGO) fmt --all

clean: ## remove what was built; fetched tools stay in .tools/
	rm -rf target dist
