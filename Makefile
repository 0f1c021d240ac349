# All commands of the repository. `make` without a target lists them.

.DEFAULT_GOAL := help
.PHONY: help tools envoy newest-envoy sdks build next schema demo stack check test test-sdks test-keycloak test-vault test-spire test-gateway playground test-playground istio-schema gateway-schema prometheus check-observe test-observe lint deny advisories doc fmt simulate explore simulate-mutants mutants fuzz fuzz-mutants bench bench-all bench-module bench-envoy bench-imds bench-cold bench-size bench-load wrk fleet clean

PYTHON ?= python3
export PYTHON
# Overrides the caller's environment, because the stack and the tests expect this folder.
export CARGO_TARGET_DIR := $(CURDIR)/target
CARGO := cargo --locked

NEWEST_ENVOY := 1.40.0
OLDEST_ENVOY := 1.36.2
# The oldest version with the extension that envoy/sidecar/file-server.yaml requires.
FILE_SERVER_ENVOY := 1.38.2

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.* ## /\1|/p' Makefile | while IFS='|' read -r name text; do printf '  make %-17s %s\n' "$$name" "$$text"; done

tools: ## check for rustup, cc and python3; install the pinned Rust toolchain
	@scripts/check-tools

envoy: tools ## install the pinned Envoys into .tools/ (ENVOY=/path uses another binary)
	@if [ -z "$(ENVOY)" ]; then for version in $(NEWEST_ENVOY) $(OLDEST_ENVOY) $(FILE_SERVER_ENVOY); do scripts/fetch-envoy $$version || exit; done; fi

newest-envoy: tools
	@[ -n "$(ENVOY)" ] || scripts/fetch-envoy $(NEWEST_ENVOY)

sdks: tools ## install the Azure SDKs for Python into .tools/, for tests and demo
	@scripts/fetch-sdks python

build: tools ## build the module: dist/entra-exchange.wasm
	@scripts/build-module

VERSION ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
COMMIT := $(shell git rev-parse HEAD 2>/dev/null)

image: build ## make the module's image: the OCI layout dist/image
	@$(CARGO) run --quiet --package entra-exchange-image -- build dist/entra-exchange.wasm dist/image $(VERSION) $(COMMIT)

push: build ## push the image to REGISTRY=registry.example/entra-exchange and print its name with the digest
	@[ -n "$(REGISTRY)" ] || { echo "make push REGISTRY=registry.example/entra-exchange" >&2; exit 2; }
	@$(CARGO) run --quiet --package entra-exchange-image -- push dist/entra-exchange.wasm $(REGISTRY) $(VERSION) $(COMMIT)

release: image ## put all files of the release VERSION=1.2.3 under dist/VERSION
	@scripts/release $(VERSION)

demo: newest-envoy sdks build ## show the token exchange in a real Envoy
	@$(CARGO) run --quiet --package entra-exchange-stack --bin demo

stack: newest-envoy build ## run the stack of the demo until Ctrl-C (CONFIG=file.json, CONCURRENCY=n)
	@$(CARGO) run --quiet --package entra-exchange-stack --bin stack

check: lint ## run the fast checks: formatting, lints and the core's tests, without Envoy
	$(CARGO) test --quiet --package entra-exchange-core

schema: tools ## write schema/entra-exchange.schema.json and the tables of docs/configuration.md from the declared fields
	SCHEMA_WRITE=1 $(CARGO) test --quiet --package entra-exchange-core --test schema written

next: tools ## build the module as the next version, for the upgrade test
	@scripts/build-module next

test: envoy sdks build next ## run all tests: core, fake Entra, and the module in a real Envoy and in the test host
	$(CARGO) test --workspace

manifests: tools ## write envoy/sidecar/, envoy/istio/ and envoy/gateway/ anew from the templates (crates/operator/templates)
	UPDATE=1 $(CARGO) test --quiet --package entra-exchange-operator --test manifests

test-image: tools ## push the image to Debian's docker-registry on loopback and pull it as Istio's agent does
	@scripts/fetch-debian registry docker-registry docker-registry
	PATH="$(CURDIR)/.tools/registry/usr/bin:$$PATH" $(CARGO) test --quiet --package entra-exchange-image --test registry -- --ignored

istio-schema: ## check envoy/istio/ and envoy/sources/istio/ against Istio's published CRDs (requires Go)
	@scripts/check-istio-schema

gateway-schema: ## check envoy/gateway/ against the published CRDs of Envoy Gateway (requires Go)
	@scripts/check-gateway-schema

test-sdks: envoy build ## run the Azure SDKs for Node.js, Go and Java against the filter, if their runtimes are installed
	@scripts/fetch-sdks node go java
	$(CARGO) test --workspace --test sdks -- --ignored

test-keycloak: envoy build ## get federated tokens from a real Keycloak, and with them the workload's token through the filter (requires Java and Maven; the first run takes some minutes)
	@scripts/fetch-keycloak
	$(CARGO) test --workspace --test keycloak -- --ignored

test-vault: envoy build ## get federated tokens from a real Vault, and with them the workload's token through the filter (requires Go; the first run builds Vault, which takes up to half an hour)
	@scripts/fetch-vault
	$(CARGO) test --workspace --test vault -- --ignored

test-spire: envoy build ## get federated tokens from a real SPIRE, and with them the workload's token through the filter (requires Linux, Go and a C compiler; the first run builds SPIRE, which takes up to half an hour)
	@scripts/fetch-spire
	$(CARGO) test --workspace --test spire -- --ignored

test-gateway: envoy build ## get a token through a real Envoy Gateway with the objects of envoy/gateway/, in a network of its own (requires Linux and Go; the first run builds Envoy Gateway, which takes several minutes)
	@scripts/fetch-envoy-gateway
	$(CARGO) test --workspace --test gateway -- --ignored --test-threads=1

playground: tools ## build the browser page that checks and explains a configuration: dist/playground
	@scripts/playground

test-playground: playground ## test the browser page in Debian's Chromium: every feature, no request, no violation of axe-core
	@scripts/test-playground

prometheus: ## fetch Debian's Prometheus into .tools/ (nothing to do where prometheus and promtool are on the PATH)
	@scripts/fetch-debian prometheus "prometheus promtool" prometheus

check-observe: prometheus ## check observe/prometheus/ with promtool: the rules, and a test of each alert
	@PATH="$(CURDIR)/.tools/prometheus/usr/bin:$$PATH" promtool check rules observe/prometheus/rules.yaml
	@PATH="$(CURDIR)/.tools/prometheus/usr/bin:$$PATH" promtool test rules observe/prometheus/rules-test.yaml

test-observe: prometheus envoy build ## cause and cure every alert, with a real Prometheus that scrapes a real Envoy (takes six minutes)
	$(CARGO) test --workspace --test observe -- --ignored --nocapture

SEEDS ?= 1000
CASES ?= 2560
simulate: tools ## simulate many workers of the broker with SEEDS random schedules (SEED=n repeats one)
	SEEDS=$(SEEDS) $(CARGO) test --release --package entra-exchange-core --test simulation -- --nocapture

explore: tools ## run the random tests with ten times the cases, and other ones each time (CASES=n, PROPTEST_RNG_SEED=n repeats a run)
	@seed=$${PROPTEST_RNG_SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; echo "PROPTEST_RNG_SEED=$$seed"; \
	PROPTEST_RNG_SEED=$$seed PROPTEST_CASES=$(CASES) $(CARGO) test --package entra-exchange-core --package entra-exchange-operator --test properties --test schema --test explain --test robust

simulate-mutants: tools ## break the broker in many ways, one at a time, and check that the simulation catches each
	@scripts/simulate-mutants

mutants: tools ## change the core in many ways, one at a time, and check that a test fails each time (SHARD=k/n: a part)
	@scripts/mutants

SECONDS ?= 60
fuzz: build ## send random events to the module for SECONDS (FUZZ_SEED=n repeats one run)
	FUZZ_SECONDS=$(SECONDS) $(CARGO) test --workspace --test fuzz -- --ignored --nocapture

fuzz-mutants: build ## put one fault after the other into the filter and check that the fuzz test finds it
	@scripts/fuzz-mutants

bench: tools ## measure the lookup of a destination among ten and ten thousand rules
	$(CARGO) bench --quiet --package entra-exchange-core --bench lookup

bench-module: build ## measure the cost of a request in the module and write benches/module-fuel.txt
	BENCH_WRITE=1 $(CARGO) test --workspace --test module_fuel -- --nocapture
	@cat benches/module-fuel.txt

wrk: ## fetch Debian's wrk, the load generator of the benchmarks, into .tools/ (nothing to do where wrk is on the PATH)
	@scripts/fetch-debian wrk wrk "wrk libluajit-5.1-2"

BENCH := $(CARGO) run --quiet --package entra-exchange-bench --bin

bench-envoy: envoy build wrk ## measure the CPU time that the filter adds to a request in Envoy, beside other filters (ROUNDS=n)
	@$(BENCH) envoy $(ROUNDS)

bench-imds: envoy build wrk ## measure the CPU time of a managed-identity reply (ENDPOINT=address:port PID=n measures another one beside it)
	@ENDPOINT="$(ENDPOINT)" PID="$(PID)" ENDPOINT_PATH="$(ENDPOINT_PATH)" $(BENCH) imds $(ROUNDS)

N ?= 900
bench-cold: envoy build ## measure N requests at once without a cached token, beside as many with one
	@$(BENCH) cold $(N) $(ROUNDS)

bench-size: envoy build ## measure the module's size, its memory, and the memory of Envoy with and without the filter
	@$(BENCH) size
	@$(CARGO) test --quiet --workspace --test workers -- memory_does_not_grow --nocapture

bench-load: envoy build ## measure 1,000 and 10,000 requests that wait for connections, and 2,000 resumed at once
	@$(BENCH) load connections 100 1000 10000
	@$(BENCH) load release 2000

bench-all: bench-size bench-envoy bench-imds bench-cold ## run the benchmarks of docs/performance.md, one after the other (takes six minutes)
	@cat benches/module-fuel.txt benches/module-host-calls.txt

fleet: tools ## simulate 100,000 proxies over a day and draw target/fleet.svg
	@$(CARGO) run --quiet --release --package fleet

lint: tools ## check formatting and lints
	$(CARGO) fmt --all --check
	@scripts/check-words
	@scripts/check-imports
	@scripts/fuzz-mutants --check
	@scripts/simulate-mutants --check
	$(CARGO) clippy --workspace --all-targets -- --deny warnings
	$(CARGO) clippy --package entra-exchange --lib --profile module --target wasm32-wasip1 -- --deny warnings

deny: tools ## check licences and sources of all dependencies with deny.toml
	@scripts/deny licenses bans sources

advisories: tools ## check dependencies for vulnerabilities and yanked versions (fetches RustSec's database from GitHub)
	@scripts/deny advisories

doc: tools ## build the documentation of all crates; warnings are errors
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps

fmt: tools ## format the code
	$(CARGO) fmt --all

clean: ## remove build outputs, but not the installed tools in .tools/
	rm -rf target dist
