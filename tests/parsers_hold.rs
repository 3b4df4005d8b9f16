//! What the fuzzer found, and mutations of good input, through every entry of the fuzzer.

use std::path::Path;

use mtg::fuzzing::ENTRIES;

/// Mutations of each seed for each entry.
const ROUNDS: u32 = 300;

#[test]
fn no_parser_fails_on_seeds_and_their_mutations() {
    let seeds = seeds();
    assert!(seeds.len() >= 12, "only {} seeds", seeds.len());
    let mut state = 0x2545_f491_u32;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as usize
    };
    for (name, entry) in ENTRIES {
        println!("{name}");
        for seed in &seeds {
            entry(seed);
            for _ in 0..ROUNDS {
                let mut input = seed.clone();
                for _ in 0..random() % 4 {
                    let at = random() % input.len();
                    input[at] = random() as u8;
                }
                input.truncate(random() % (input.len() + 1));
                entry(&input);
            }
        }
    }
}

/// The inputs in `fuzz/seeds` and the data of the other tests.
fn seeds() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["fuzz/seeds", "tests/data", "tests/data/clienthellos"];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
    let paths = files.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    paths.map(|path| std::fs::read(path).unwrap()).filter(|bytes| !bytes.is_empty()).collect()
}
