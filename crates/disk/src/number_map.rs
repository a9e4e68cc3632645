//! Maps whose keys are offsets in files and numbers of blocks.
//!
//! They are asked for every request, several times: a key is hashed by two multiplications. Keys come from disk files, so
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
        self.hash = folded_product(self.hash ^ number ^ mask, factor);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    // With one multiplication alone, one secret in a hundred leaves keys at equal distances together.
    fn finish(&self) -> u64 {
        folded_product(self.hash, GOLDEN_RATIO)
    }
}

/// Of 2⁶⁴, odd.
const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

/// All bits of both, in all bits of the result.
fn folded_product(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_at_equal_distances_spread_over_a_table_whatever_its_secret() {
        for secret in (0..2000).map(|_| Secret::default()) {
            for shift in [0, 9, 12, 21, 25] {
                let (mut slots, mut tags) = ([0; 1024], [0; 128]);
                for number in 0..1024u64 {
                    let hash = secret.hash_one(number << shift);
                    // Where the table looks first, and what it compares there.
                    slots[hash as usize % 1024] += 1;
                    tags[hash as usize >> 57] += 1;
                }
                assert!(slots.iter().all(|count| *count < 16), "{secret:?} {shift}: {slots:?}");
                assert!(tags.iter().all(|count| *count < 64), "{secret:?} {shift}: {tags:?}");
            }
        }
    }
}
