//! The system's randomness.

use std::time::Duration;

/// Says whether the system gives any.
pub(super) fn check() -> Result<(), getrandom::Error> {
    getrandom::fill(&mut [0; 8])
}

/// Fills a slice. A system that gave randomness at the start and gives none later cannot be worked with safely:
/// the process ends and its supervisor starts it anew.
pub(super) fn fill(bytes: &mut [u8]) {
    if let Err(error) = getrandom::fill(bytes) {
        log::error!("the system gives no random numbers any more error={error}");
        std::process::exit(1);
    }
}

/// Any number.
pub(super) fn number() -> u32 {
    let mut bytes = [0; 4];
    fill(&mut bytes);
    u32::from_le_bytes(bytes)
}

/// A duration between two bounds.
pub(super) fn between((low, high): (Duration, Duration)) -> Duration {
    // In parts of 65536, for routers have no floating point.
    low + high.saturating_sub(low) / (1 << 16) * (number() & 0xffff)
}
