# Short names for the scripts. The CI calls the same scripts.
.DEFAULT_GOAL := help
.PHONY: help build dist demo test package soak cluster cluster-down test-kubernetes test-kernels fuzz bench bench-add bench-net bench-plots benchmarks conformance fmt lint doc install

BIN_DIR ?= /opt/cni/bin
# More options of `simple-ebpf-cni install`, such as --subnet 10.244.1.0/24
INSTALL ?=
# Options of a cluster (scripts/cluster.sh up --help) and of scripts/test-kubernetes.sh
CLUSTER ?=
KUBERNETES ?=
# Options of the measurements, such as --quick
BENCH ?=
# The build of libbpf is a make too, and has an INSTALL of its own: keep these out of it.
MAKEOVERRIDES =
unexport BIN_DIR INSTALL BENCH CLUSTER KUBERNETES

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: ## build the plugin in release
	@scripts/build.sh

dist: ## build a release: static binaries in archives, and their digests (ARCH="x86_64 aarch64")
	@scripts/dist.sh $(ARCH)

demo: ## two pods ping each other through eBPF, on a private host
	@scripts/demo.sh

test: ## format, lints, prose and all tests
	@scripts/test.sh

package: ## pack the library as for the registry, and test the package
	@scripts/package.sh

soak: ## kills, errors and races at every step of the plugin, and 10,000 pods (ONLY="soak:: storm::")
	@scripts/soak.sh $(ONLY)

cluster: ## start a Kubernetes cluster with the plugin, in private namespaces (CLUSTER="--nodes 1 --dual-stack")
	@scripts/cluster.sh up $(CLUSTER)

cluster-down: ## delete the cluster
	@scripts/cluster.sh down

test-kubernetes: ## test the plugin on Kubernetes clusters, with Kubernetes' own network tests (KUBERNETES="--short")
	@scripts/test-kubernetes.sh $(KUBERNETES)

test-kernels: ## run the kernel tests on other kernels, in QEMU (VERSIONS="6.1 6.12")
	@scripts/kernels.sh $(VERSIONS)

fuzz: ## run each fuzz target for ten seconds (FUZZ_SECONDS=600); FUZZ_ASAN=1 adds AddressSanitizer (nightly)
	@scripts/fuzz.sh

bench: ## benchmark the library with criterion (BENCH="--quick maps")
	@scripts/bench.sh library $(BENCH)

bench-add: ## benchmark the plugin's verbs and the reference plugins (BENCH="--quick --pods 1,10")
	@scripts/bench.sh add --json docs/benchmarks/add.json $(BENCH)

bench-net: ## benchmark packets from pod to pod, on one node and to another node (BENCH="--quick")
	@scripts/bench.sh net --json docs/benchmarks/net.json $(BENCH)

bench-plots: ## write tables and plots of docs/benchmarks.md, from the results of both
	@scripts/bench.sh plot

benchmarks: bench bench-add bench-net bench-plots ## repeat all measurements of docs/benchmarks.md: an hour on an idle machine

conformance: ## test our plugin and the reference plugins against the CNI specification
	@scripts/conformance.sh

fmt: ## format the Rust sources
	cargo fmt --all

lint: ## clippy, warnings are errors
	CNIKIT_BPF_WERROR=1 cargo clippy --locked --workspace --all-targets --all-features -- -D warnings

doc: ## build the library's documentation
	cargo doc --locked --workspace --no-deps

install: ## install the plugin into BIN_DIR (/opt/cni/bin), with more options in INSTALL
	@scripts/install.sh --bin-dir "$(BIN_DIR)" $(INSTALL)
