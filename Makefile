# The project's jobs. Each installs what it needs beyond Rust, a C compiler and make, or says what to install.
# PROFILE=release builds everything optimised; the default builds once for tests, the demo and interop alike.
PBX ?= phone
STAY ?= 0
CARGO ?= cargo
BINARIES = -p ahoyd -p ahoy-client -p ahoy-bridge -p ahoy-testkit -p ahoy-demo -p ahoy-conform

.PHONY: demo test check interop bench conform fmt build fuzz coverage

build:
	$(CARGO) build --locked $(BINARIES) --bins

# The main job: two homeservers, DNS, a bridge and a phone; a message, a call each way; proof.
demo: build
	$(CARGO) run --locked -q -p ahoy-demo --bin ahoy-demo -- --pbx $(PBX) $(if $(filter 1,$(STAY)),--stay)

test:
	$(CARGO) test --locked --workspace

# Format, lints, licences and advisories.
check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	bash interop/install.sh cargo-deny
	bash interop/deny.sh

# The same against real peers: Asterisk 22, NSD, and a bridge behind NAT.
interop: build
	bash interop/run.sh

# Figures, each beside its ceiling. Optimised build.
bench:
	$(CARGO) build --locked --release $(BINARIES) --bins
	$(CARGO) run --locked --release -q -p ahoy-demo --bin ahoy-bench

# The black-box suite against our own homeserver.
conform: build
	bash conformance-tests/run.sh

fmt:
	$(CARGO) fmt --all
