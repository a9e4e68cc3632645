//! Ids, and names for containers whose user gave none.

use crate::error::{Error, Result};
use rand::Rng;
use rand::seq::IndexedRandom;

const ADJECTIVES: &[&str] = &[
    "agile", "amber", "ample", "apt", "awake", "bold", "brave", "bright", "brisk", "calm",
    "candid", "careful", "cheerful", "civil", "clear", "clever", "cosy", "curious", "daring",
    "deft", "eager", "earnest", "easy", "fair", "fleet", "fond", "frank", "gentle", "glad",
    "golden", "happy", "hardy", "honest", "humble", "jolly", "keen", "kind", "lively", "loyal",
    "lucid", "mellow", "merry", "modest", "neat", "nimble", "noble", "patient", "placid", "polite",
    "proud", "quick", "quiet", "ready", "serene", "sharp", "shiny", "silent", "sincere", "steady",
    "sunny", "swift", "tidy", "vivid", "warm", "wise", "witty",
];

/// People who made storage, machines and time-sharing what they are.
const SURNAMES: &[&str] = &[
    "adleman",
    "aiken",
    "allen",
    "amdahl",
    "atanasoff",
    "babbage",
    "backus",
    "bartik",
    "berners",
    "boole",
    "brooks",
    "cerf",
    "church",
    "codd",
    "conway",
    "corbato",
    "creasy",
    "curry",
    "dahl",
    "dennis",
    "dijkstra",
    "eckert",
    "engelbart",
    "estrin",
    "euler",
    "floyd",
    "forrester",
    "gauss",
    "goldberg",
    "gray",
    "hamilton",
    "hamming",
    "hoare",
    "hopper",
    "huffman",
    "iverson",
    "johnson",
    "kahn",
    "kay",
    "kilburn",
    "knuth",
    "lamport",
    "liskov",
    "lovelace",
    "mauchly",
    "mccarthy",
    "minsky",
    "moore",
    "naur",
    "nygaard",
    "perlis",
    "perlman",
    "popek",
    "ritchie",
    "shannon",
    "simon",
    "spence",
    "strachey",
    "sutherland",
    "takahashi",
    "thompson",
    "torvalds",
    "turing",
    "wilkes",
    "wirth",
    "zuse",
];

/// A random `adjective_surname`; with a digit behind it from the sixth attempt on.
pub(crate) fn random_name(attempt: u32) -> String {
    let mut rng = rand::rng();
    let adjective = ADJECTIVES.choose(&mut rng).unwrap_or(&"plain");
    let surname = SURNAMES.choose(&mut rng).unwrap_or(&"turing");
    match attempt {
        0..5 => format!("{adjective}_{surname}"),
        _ => format!("{adjective}_{surname}{}", rng.random_range(0..10_000)),
    }
}

/// `digits` random lower-case hex digits.
pub(crate) fn random_hex(digits: usize) -> String {
    let mut rng = rand::rng();
    (0..digits).filter_map(|_| char::from_digit(rng.random_range(0..16), 16)).collect()
}

/// Checks a container's name as the user gave it; a leading `/` is dropped.
///
/// Errors with docker's words where it is not `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub(crate) fn check_name(given: &str) -> Result<&str> {
    let name = given.strip_prefix('/').unwrap_or(given);
    let mut characters = name.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let rest = characters.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if first && rest && (2..=253).contains(&name.len()) {
        return Ok(name);
    }
    Err(Error::bad_parameter(format!(
        "Invalid container name ({given}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_names_are_names_that_a_user_could_have_given() {
        for attempt in 0..20 {
            let name = random_name(attempt);
            assert_eq!(check_name(&name).unwrap(), name);
        }
    }

    #[test]
    fn names_follow_dockers_pattern() {
        assert_eq!(check_name("/web-1.a_b").unwrap(), "web-1.a_b");
        for bad in ["", "a", "-web", "we b", "wéb", "a/b"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hex_ids_have_the_asked_length() {
        let id = random_hex(64);
        assert_eq!(id.len(), 64);
        assert!(id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    }
}
