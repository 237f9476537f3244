# The project's jobs. Each installs what it needs beyond Rust, a C compiler and make, or says what to install.
# Everything is built with --workspace, so that dependencies are built once with one set of features.
PBX ?= phone
STAY ?= 0
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
PROGRAMS = $(TARGET)/debug

.PHONY: demo test check interop bench conform fmt build

build:
	$(CARGO) build --locked --workspace --bins

# The main job: two homeservers, DNS, a bridge and a phone; a message, a call each way; proof.
demo: build
	$(PROGRAMS)/ahoy-demo --pbx $(PBX) $(if $(filter 1,$(STAY)),--stay)

test:
	$(CARGO) test --locked --workspace

# Format, lints, licences and advisories.
check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	bash interop/install.sh cargo-deny
	bash interop/deny.sh

# The same against real peers: Asterisk 22, NSD, and a bridge behind NAT; and messages through kill -9.
interop: build
	bash interop/install.sh asterisk nsd netns
	$(PROGRAMS)/ahoy-interop

# Figures, each beside its ceiling. Optimised build of the programs that are measured.
bench:
	$(CARGO) build --locked --release --workspace $(addprefix --bin ,ahoyd ahoyd-store-bench ahoy-bridge testkit-dns ahoy-bench)
	$(TARGET)/release/ahoy-bench

# The black-box suite against our own homeserver.
conform: build
	$(PROGRAMS)/ahoy-interop conform
	$(PROGRAMS)/ahoy-conform coverage

fmt:
	$(CARGO) fmt --all
