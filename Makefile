# Two commands: `make run` builds and starts the gateway, `make test` runs every test.
# Both install what they lack from Debian, PyPI and npm; without root they say in one line what to install.

NEED := tests/tools/need.sh

.PHONY: run test check fmt lint doc deny bench tools fuzz

run:
	@$(NEED) cargo cc cmake
	cargo run --release

test: tools
	@tests/tools/cargo-test.sh

# What the tests need beside the build: a Redis, a Postgres, a Prometheus, a browser, the official SDKs and a mock provider nobody here wrote.
tools:
	@$(NEED) cargo cc cmake redis-server postgresql prometheus chromium faketime python3 node npm
	@tests/tools/install.sh

check: fmt lint doc deny test

fmt:
	cargo fmt --all --check

lint:
	@$(NEED) cargo cc cmake
	cargo clippy --workspace --all-targets --locked -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked

# Licences, bans and sources are also checked by `make test` (tests/tests/tidy.rs); cargo-deny adds advisories.
deny:
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --all-features check; \
	else echo "cargo-deny is not installed: advisories are not checked (cargo install cargo-deny)"; fi

bench:
	@$(NEED) cargo cc cmake
	bench/run.sh

fuzz:
	tests/fuzz/run.sh
