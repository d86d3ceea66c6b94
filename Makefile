# What a developer of vilab types. CI runs `make test`; see CONTRIBUTING.md for what each step needs.

.PHONY: help build test unit-test vm-test lint fmt deps

help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

build: ## Build target/release/vilab
	cargo build --locked --release

test: ## Run all tests: lints, unit and integration tests, all labs here and on Debian's kernel in a virtual machine
	scripts/test

unit-test: ## Run the unit and integration tests only
	cargo test --locked

vm-test: ## Run the suite that needs Debian's kernel, in a virtual machine
	scripts/test-vm

lint: ## Check formatting and lints
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

fmt: ## Format the code
	cargo fmt

deps: ## Install what building and testing need (Debian, Ubuntu; as root)
	scripts/install-deps
