//! What the fuzzer found worth keeping, and changes of it, harm nobody. Needs no fuzzer.

use std::fs;
use std::path::Path;

use ireko_fuzz::TARGETS;
use ireko_testkit::random::Random;

/// Changes of each seed that are tried.
const CHANGES: u64 = 6;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn change(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        match random.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.number() as u8),
            _ if at == bytes.len() => {}
            2 => drop(bytes.remove(at)),
            3 => bytes[at] = [0, 0x7F, 0x80, 0xFF][random.below(4) as usize],
            _ => bytes[at] ^= 1 << random.below(8),
        }
    }
    bytes
}

#[test]
fn every_target_survives_its_corpus_and_changes_of_it() {
    std::thread::scope(|scope| {
        for &(name, run) in TARGETS {
            scope.spawn(move || {
                let (seeds, mut random) = (seeds(name), Random::new(1));
                assert!(!seeds.is_empty(), "{name} has no corpus");
                for seed in seeds {
                    run(&seed);
                    (0..CHANGES).for_each(|_| run(&change(&seed, &mut random)));
                }
            });
        }
    });
}

#[test]
fn empty_input_is_input_too() {
    for (_, run) in TARGETS {
        run(&[]);
    }
}
