# Thin names for the scripts, which CI calls as well.
.DEFAULT_GOAL := help
.PHONY: help build dist demo test soak test-kernels bench conformance fmt lint doc install

BIN_DIR ?= /opt/cni/bin
# More options of `simple-ebpf-cni install`, such as --subnet 10.244.1.0/24
INSTALL ?=

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

bench: ## benchmarks of address management and map updates
	cargo bench --locked

conformance: ## hold our plugin and installed reference plugins to the specification
	@scripts/conformance.sh

fmt: ## format the Rust sources
	cargo fmt --all

lint: ## clippy, warnings are errors
	cargo clippy --locked --workspace --all-targets --features cnikit/conformance,simple-ebpf-cni/pages -- -D warnings

doc: ## documentation of the library
	cargo doc --locked --workspace --no-deps

install: ## install the plugin into BIN_DIR (/opt/cni/bin), with more options in INSTALL
	@scripts/install.sh --bin-dir "$(BIN_DIR)" $(INSTALL)
