//! Bytes that are looked at: an echo through the relay with all encryption, every byte compared.

use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use crate::support::client::{Session, session};
use crate::support::dc::FakeDc;
use crate::support::pattern::Pattern;

/// Sizes of the client's records, cyclically.
const RECORDS: [usize; 6] = [2878, 1, 16_384, 517, 4096, 33];
/// A reader in this many is slow.
const SLOW: usize = 4;

/// Echoes `amount` bytes over `connections`. Panics at the first wrong byte.
pub(crate) fn run(relay: SocketAddr, dc: SocketAddr, connections: usize, amount: u64) -> String {
    let echo = FakeDc::from(TcpListener::bind(dc).unwrap()).echo();
    let each = amount / connections as u64;
    thread::scope(|scope| {
        for number in 0..connections {
            scope.spawn(move || one(session(relay, 2), number, each));
        }
    });
    format!("{{\"checked\": {}, \"connections\": {}}}", each * connections as u64, echo.served())
}

fn one(client: Session, number: usize, amount: u64) {
    let Session { mut upload, mut download, .. } = client;
    let sender = thread::spawn(move || {
        let mut pattern = Pattern::new(number as u64);
        for record in RECORDS.into_iter().cycle().skip(number) {
            let count = (amount - pattern.position()).min(9 * record as u64);
            if count == 0 {
                break;
            }
            upload.record = record;
            upload.send(&pattern.take(count as usize));
        }
        upload
    });
    let mut pattern = Pattern::new(number as u64);
    while pattern.position() < amount {
        let count = (amount - pattern.position()).min(100_000);
        pattern.expect(&download.receive(count as usize).unwrap());
        if number.is_multiple_of(SLOW) {
            thread::sleep(Duration::from_millis(2));
        }
    }
    drop(sender.join().unwrap());
}
