//! How much memory a list of addresses takes, and how long a look into it.
//!
//! Usage: `cargo run --release --example iplist_bench [NETWORKS]`; a million networks unless told otherwise.

use std::hint::black_box;
use std::time::Instant;

use mtg::benchmark::IpListBench;

const LOOKUPS: u32 = 1_000_000;

fn main() {
    let networks = std::env::args().nth(1).map_or(1_000_000, |count| count.parse().expect("a number of networks"));
    let started = Instant::now();
    let list = IpListBench::new(networks);
    let read = started.elapsed();
    // Half of them are listed.
    let first = networks.saturating_sub(LOOKUPS / 2);
    let addresses: Vec<_> = (first..first + LOOKUPS).map(IpListBench::address).collect();
    let started = Instant::now();
    let found = addresses.iter().filter(|ip| list.contains(black_box(**ip))).count();
    let nanos = started.elapsed().as_nanos() / u128::from(LOOKUPS);
    println!(
        "{} networks: {} KiB, {:.1} bytes each, read in {} ms, {nanos} ns per look-up, {found} of {LOOKUPS} found",
        list.networks(),
        list.bytes() / 1024,
        list.bytes() as f64 / list.networks() as f64,
        read.as_millis()
    );
}
