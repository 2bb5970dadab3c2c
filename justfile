# The everyday commands. `just` lists them.

default:
    @just --list

# Everything that must be green, as in CI.
test *ARGS:
    ./scripts/test {{ARGS}}

# Postgres, Python and node packages, cargo-nextest: what the tests need.
setup:
    ./scripts/setup

# Format, then the lints as CI runs them.
lint:
    cargo fmt
    cargo clippy --all-targets -- -D warnings

# A gateway that needs nothing: loopback, the example backend, two printed tokens.
quickstart:
    cargo run --release -- serve --quickstart

# Validate a configuration without starting.
check CONFIG="examples/gatepost.toml":
    cargo run --quiet -- config check --config {{CONFIG}}

# Write the table of docs/configuration.md anew.
docs:
    UPDATE_DOCS=1 cargo test --quiet --test cli config::the_documentation

# Licenses, bans, sources and advisories of dependencies.
deny:
    cargo deny check
