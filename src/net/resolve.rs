//! Names to addresses, through the system's resolver, with a short memory.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer is used without asking again. The system's resolver does not tell its TTL.
const FRESH: Duration = Duration::from_secs(60);
/// How long an answer is used when no new one can be had.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// Names that are remembered.
const NAMES_MAX: usize = 64;

/// A resolver with its memory.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    known: Mutex<HashMap<String, Answer>>,
}

#[derive(Clone, Debug)]
struct Answer {
    addresses: Vec<IpAddr>,
    at: Instant,
}

impl Resolver {
    /// The addresses of a name, in the order of the system's preference.
    ///
    /// # Errors
    /// The resolver's error, if no answer of the last day is known either.
    pub(crate) async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let known = self.lock().get(name).cloned();
        let age = known.as_ref().map_or(Duration::MAX, |answer| answer.at.elapsed());
        match known {
            Some(answer) if age < FRESH => Ok(answer.addresses),
            known => match look_up(name).await {
                Ok(addresses) => {
                    self.remember(name, &addresses);
                    Ok(addresses)
                }
                Err(error) => known.filter(|_| age < STALE).map(|answer| answer.addresses).ok_or(error),
            },
        }
    }

    fn remember(&self, name: &str, addresses: &[IpAddr]) {
        let mut known = self.lock();
        known.retain(|_, answer| answer.at.elapsed() < STALE);
        if known.len() < NAMES_MAX || known.contains_key(name) {
            known.insert(name.to_owned(), Answer { addresses: addresses.to_vec(), at: Instant::now() });
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Answer>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    let addresses = smol::net::resolve((name, 0)).await?;
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses.into_iter().map(|address| address.ip()).collect())
}
