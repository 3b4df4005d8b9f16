//! Every target: its name is that of the entry it runs.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| mtg::fuzzing::run(env!("CARGO_BIN_NAME"), input));
