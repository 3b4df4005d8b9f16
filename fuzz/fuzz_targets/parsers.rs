//! All parsers behind one target: the first byte of an input chooses the entry.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mtg::fuzzing::ENTRIES;

fuzz_target!(|input: &[u8]| {
    if let Some((&choice, rest)) = input.split_first() {
        ENTRIES[usize::from(choice) % ENTRIES.len()].1(rest);
    }
});
