//! Randomness without state: numbers and permutations that depend on a key and a place alone.
//!
//! The mixing function is the finalizer of SplitMix64 (Steele, Lea, Flood, 2014). A permutation of n items is a Feistel
//! network on the least even number of bits that holds n, walked along its cycle until it is back below n (Black and
//! Rogaway, 2002): a bijection without a table.

/// A number from 64 random bits' worth of key and place.
pub(crate) fn keyed(key: u64, place: u64) -> u64 {
    mix(mix(key ^ 0x9e37_79b9_7f4a_7c15).wrapping_add(place))
}

fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Rounds of the Feistel network: with four it is a good shuffle, two more cost nothing.
const ROUNDS: u64 = 6;

/// A keyed order of the numbers below `len`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Permutation {
    key: u64,
    len: u64,
    half_bits: u32,
}

impl Permutation {
    pub(crate) fn new(key: u64, len: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Self {
            key,
            len,
            half_bits: bits.div_ceil(2).max(1),
        }
    }

    /// The item at a place.
    pub(crate) fn at(&self, place: u64) -> u64 {
        assert!(place < self.len, "place {place} of {}", self.len);
        let mut item = self.round_trip(place);
        while item >= self.len {
            item = self.round_trip(item);
        }
        item
    }

    fn round_trip(&self, x: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for round in 0..ROUNDS {
            let next = left ^ (keyed(self.key.wrapping_add(round), right) & mask);
            (left, right) = (right, next);
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_permutation_meets_every_item_once() {
        for len in [1, 2, 3, 15, 16, 17, 1000, 65_537] {
            let permutation = Permutation::new(7, len);
            let items: HashSet<u64> = (0..len).map(|place| permutation.at(place)).collect();
            assert_eq!(items.len() as u64, len);
            assert!(items.iter().all(|&item| item < len));
        }
    }

    #[test]
    fn keys_give_different_orders_and_neighbours_part() {
        let order = |key| -> Vec<u64> {
            (0..1000)
                .map(|at| Permutation::new(key, 1000).at(at))
                .collect()
        };
        let (one, other) = (order(1), order(2));
        let same = one
            .iter()
            .zip(&other)
            .filter(|(one, other)| one == other)
            .count();
        // One in common is expected.
        assert!(same < 10, "{same}");
        let neighbours = one
            .windows(2)
            .filter(|pair| pair[0].abs_diff(pair[1]) == 1)
            .count();
        // Two are expected.
        assert!(neighbours < 15, "{neighbours}");
    }
}
