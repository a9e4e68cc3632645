//! Maps whose keys are offsets in files and numbers of blocks.
//!
//! They are asked for every request, several times: a key is hashed by one multiplication. Keys come from disk files, so
//! each map has a secret of its own, without which nobody can choose keys that collide.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A map from numbers.
pub(crate) type NumberMap<V> = HashMap<u64, V, Secret>;

/// What one map's keys are hashed with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Secret {
    mask: u64,
    /// Odd.
    factor: u64,
}

impl Default for Secret {
    fn default() -> Self {
        let random = RandomState::new();
        Self { mask: random.hash_one(0), factor: random.hash_one(1) | 1 }
    }
}

impl BuildHasher for Secret {
    type Hasher = NumberHasher;

    fn build_hasher(&self) -> NumberHasher {
        NumberHasher { secret: *self, hash: 0 }
    }
}

pub(crate) struct NumberHasher {
    secret: Secret,
    hash: u64,
}

impl Hasher for NumberHasher {
    fn write_u64(&mut self, number: u64) {
        let Secret { mask, factor } = self.secret;
        let product = u128::from(self.hash ^ number ^ mask) * u128::from(factor);
        self.hash = (product >> 64) as u64 ^ product as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_pages_spread_over_a_table() {
        let secret = Secret::default();
        let (mut slots, mut tags) = ([0; 1024], [0; 128]);
        for page in 0..1024u64 {
            let hash = secret.hash_one(page << 12);
            // Where the table looks first, and what it compares there.
            slots[hash as usize % 1024] += 1;
            tags[hash as usize >> 57] += 1;
        }
        assert!(slots.iter().all(|count| *count < 16), "{slots:?}");
        assert!(tags.iter().all(|count| *count < 64), "{tags:?}");
    }
}
