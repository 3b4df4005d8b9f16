//! What the fuzzer found, and mutations of good input, through every entry of the fuzzer.

use std::path::{Path, PathBuf};

use mtg::fuzzing::ENTRIES;

/// Mutations of each seed of an entry, and of those of the others.
const ROUNDS: u32 = 300;
const ROUNDS_OF_OTHERS: u32 = 20;

#[test]
fn every_entry_has_a_target_of_the_fuzzer_and_seeds() {
    let targets = std::fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    let targets: Vec<_> =
        targets.split("[[bin]]\nname = \"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(targets, ENTRIES.map(|(name, _)| name));
    for (name, _) in ENTRIES {
        assert!(!files_in(&folder_of(name)).is_empty(), "no seed for {name}");
    }
}

#[test]
fn no_parser_fails_on_seeds_and_their_mutations() {
    let seeds = seeds();
    assert!(seeds.len() >= ENTRIES.len(), "only {} seeds", seeds.len());
    let mut state = 0x2545_f491_u32;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as usize
    };
    for (name, entry) in ENTRIES {
        println!("{name}");
        let own = folder_of(name);
        for (path, seed) in &seeds {
            let rounds = if path.starts_with(&own) { ROUNDS } else { ROUNDS_OF_OTHERS };
            entry(seed);
            for _ in 0..rounds {
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

/// The inputs in `fuzz/seeds`, those of other entries too, and the data of the other tests.
fn seeds() -> Vec<(PathBuf, Vec<u8>)> {
    let mut folders: Vec<_> = ENTRIES.map(|(name, _)| folder_of(name)).to_vec();
    folders.extend(["tests/data", "tests/data/clienthellos"].map(|folder| root().join(folder)));
    let files = folders.iter().flat_map(|folder| files_in(folder));
    let seeds = files.map(|path| (path.clone(), std::fs::read(path).unwrap()));
    seeds.filter(|(_, bytes)| !bytes.is_empty()).collect()
}

fn folder_of(entry: &str) -> PathBuf {
    root().join("fuzz/seeds").join(entry)
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
