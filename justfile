# The everyday commands. `just` lists them.

default:
    @just --list

# Run everything that must pass, as in CI.
test *ARGS:
    ./scripts/test {{ARGS}}

# Install what the tests need: Postgres, Python and node packages, cargo-nextest.
setup:
    ./scripts/setup

# Format, then run the lints as CI does.
lint:
    cargo fmt
    cargo clippy --all-targets -- -D warnings

# Run a gateway without configuration: loopback, the example backend, two printed tokens.
quickstart:
    cargo run --release -- serve --quickstart

# Validate a configuration without starting.
check CONFIG="examples/gatepost.toml":
    cargo run --quiet -- config check --config {{CONFIG}}

# Regenerate the tables of docs/configuration.md.
docs:
    UPDATE_DOCS=1 cargo test --quiet --test cli config::the_documentation

# Check licenses, bans, sources and advisories of dependencies.
deny:
    cargo deny check
