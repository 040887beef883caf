# Thin names for the scripts, which CI calls as well.
.DEFAULT_GOAL := help
.PHONY: help build dist demo test soak test-kernels fuzz bench bench-add bench-net bench-plots benchmarks conformance fmt lint doc install

BIN_DIR ?= /opt/cni/bin
# More options of `simple-ebpf-cni install`, such as --subnet 10.244.1.0/24
INSTALL ?=
# Options of the measurements, such as --quick
BENCH ?=

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: ## build the plugin in release
	@scripts/build.sh

dist: ## what a release consists of: static binaries in archives, and their digests (ARCH="x86_64 aarch64")
	@scripts/dist.sh $(ARCH)

demo: ## two pods talk through eBPF, on a private host that vanishes
	@scripts/demo.sh

test: ## format, lints and every test
	@scripts/test.sh

soak: ## kill, refuse and race the plugin at every step, and attach 10,000 pods (ONLY="soak:: storm::")
	@scripts/soak.sh $(ONLY)

test-kernels: ## the tests that need a kernel, on other kernels in QEMU (VERSIONS="6.1 6.12")
	@scripts/kernels.sh $(VERSIONS)

fuzz: ## every fuzz target for ten seconds (FUZZ_SECONDS=600); FUZZ_ASAN=1 adds AddressSanitizer, of a nightly compiler
	@scripts/fuzz.sh

bench: ## criterion's benchmarks of the library (BENCH="--quick maps")
	@scripts/bench.sh library $(BENCH)

bench-add: ## the plugin's verbs beside the reference plugins (BENCH="--quick --pods 1,10")
	@scripts/bench.sh add --json docs/benchmarks/add.json $(BENCH)

bench-net: ## packets from pod to pod, by each way (BENCH="--quick")
	@scripts/bench.sh net --json docs/benchmarks/net.json $(BENCH)

bench-plots: ## the tables and pictures of docs/benchmarks.md, from what both have left
	@scripts/bench.sh plot

benchmarks: bench bench-add bench-net bench-plots ## measure all of docs/benchmarks.md again: an hour on an idle machine

conformance: ## hold our plugin and installed reference plugins to the specification
	@scripts/conformance.sh

fmt: ## format the Rust sources
	cargo fmt --all

lint: ## clippy, warnings are errors
	CNIKIT_BPF_WERROR=1 cargo clippy --locked --workspace --all-targets --all-features -- -D warnings

doc: ## documentation of the library
	cargo doc --locked --workspace --no-deps

install: ## install the plugin into BIN_DIR (/opt/cni/bin), with more options in INSTALL
	@scripts/install.sh --bin-dir "$(BIN_DIR)" $(INSTALL)
