//! The table of all keys, a part for each section. Parser, help, sample file and manual page are made from it.

mod defense;
mod front;
mod network;
mod proxy;
mod stats;
mod web;

use super::spec::{KeySpec, Status};

/// The parts in the order of the manual. A key stands before its other names, and wins over them.
static PARTS: [&[KeySpec]; 6] = [proxy::KEYS, front::KEYS, network::KEYS, defense::KEYS, stats::KEYS, web::KEYS];

/// Every key.
pub(super) fn all() -> impl Iterator<Item = &'static KeySpec> {
    PARTS.iter().copied().flatten()
}

/// Finds what is known about a key of the file.
pub(super) fn find(key: &str) -> Option<&'static KeySpec> {
    all().find(|spec| spec.matches(key))
}

/// The key that this one is another name of, or the key itself.
pub(super) fn target(spec: &'static KeySpec) -> &'static KeySpec {
    match spec.status {
        Status::Alias(name) | Status::Deprecated(name) => find(name).unwrap_or(spec),
        _ => spec,
    }
}
