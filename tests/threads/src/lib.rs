//! Nothing: see `Cargo.toml`. A package has to have something that is not a test.
