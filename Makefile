# Two commands do everything on a fresh Debian-like machine with Rust: `make run` and `make test`.
# Each sets up what it needs first; the second time that takes no time.

SHELL := bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
# One target directory for everything, so that nothing is built twice.
export CARGO_TARGET_DIR ?= $(CURDIR)/target

.PHONY: help run test bench fuzz setup fmt
help: ## Say what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 14

run: ## Set up, build for speed, and watch the demo
	@scripts/setup.sh build
	cargo run --release --locked -- demo

test: ## Set up, and check everything that CI checks
	@scripts/test.sh

bench: setup ## Measure mailrail beside its peers (BENCHMARKS.md)
	python3 bench/run.py

fuzz: ## Fuzz each target for FUZZ_SECONDS (60), with nightly Rust; TARGETS="replies commands"
	@scripts/fuzz.sh $(or $(FUZZ_SECONDS),60) $(TARGETS)

setup: ## Install what the tests need: Debian packages, .venv, tests/node
	@scripts/setup.sh test

fmt: ## Format the code
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml
