//! `mtg --version`.

use std::env::consts::{ARCH, OS};

/// The line that a bug report should have.
pub(crate) fn line() -> String {
    format!("mtg {} ({ARCH}-{OS})\n", env!("CARGO_PKG_VERSION"))
}
