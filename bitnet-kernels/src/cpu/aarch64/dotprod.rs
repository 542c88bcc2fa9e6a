//! Ternary × int8 sums with the dot products of ARM 8.2 (FEAT_DotProd).
//!
//! Method: `sdot` multiplies the codes 0, 1, 2 with the activations and adds four products to each 32-bit lane, exactly. For
//! one token a mask alone takes codes out of a byte, times 1, 4 or 16; sums of each kind are divided at the end. `sdot` is
//! written as assembly, because the intrinsic `vdotq_s32` is not stable in Rust 1.95 (rust-lang/rust#117224).

use std::arch::aarch64::*;
use std::arch::asm;

use super::{
    Block, CODE, LANES, PLANES, TOKENS, add, blocks, codes, load_bytes, load_words, masked, steps,
    store_pairs, unpack,
};
use crate::cpu::{Kernel, ROWS, Vectors, check_pair_sums, check_sums};

/// Proof that the CPU has NEON and its dot products.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Dotprod(());

impl Dotprod {
    pub(in crate::cpu) fn new() -> Option<Self> {
        let has = std::arch::is_aarch64_feature_detected!("neon")
            && std::arch::is_aarch64_feature_detected!("dotprod");
        has.then_some(Self(()))
    }
}

impl Kernel for Dotprod {
    fn name(&self) -> &'static str {
        "aarch64-dotprod"
    }

    fn vectors(&self) -> Vectors {
        Vectors::Neon
    }

    fn lanes(&self) -> usize {
        LANES
    }

    fn tokens(&self) -> usize {
        TOKENS
    }

    fn add_sums(&self, words: [&[u32]; ROWS], tokens: &[&[i8]], sums: &mut [[i32; ROWS]]) {
        let vectors = check_sums(LANES, words, tokens, sums);
        // SAFETY: the CPU has NEON and its dot products, because `self` exists.
        unsafe {
            match tokens.len() {
                1 => add_token(words, tokens[0], &mut sums[0]),
                2 => add_sums::<2>(vectors, words, tokens, sums),
                3 => add_sums::<3>(vectors, words, tokens, sums),
                4 => add_sums::<4>(vectors, words, tokens, sums),
                count => panic!("{count} tokens, expected 1 to {TOKENS}"),
            }
        }
    }

    fn pair_sums(
        &self,
        words: [&[u32]; ROWS],
        tokens: &[&[i8]],
        sums: &mut [[i32; ROWS]],
        stride: usize,
    ) {
        let vectors = check_pair_sums(LANES, words, tokens, sums, stride);
        // SAFETY: the CPU has NEON and its dot products, because `self` exists.
        unsafe { pair_sums(vectors, words, tokens, sums, stride) }
    }
}

/// One token, with 40 instructions for 256 weights.
///
/// A lane of `sixteens` adds every sixteenth product sixteen-fold. That is at most 16·2·128·d_in/16 = 256·d_in, the bound of
/// the whole sum: d_in up to 2²³ fits, as everywhere. The other lanes take a quarter of it at most.
#[target_feature(enable = "neon,dotprod")]
fn add_token(words: [&[u32]; ROWS], token: &[i8], sums: &mut [i32; ROWS]) {
    let [mut ones, mut fours, mut sixteens] = [[vdupq_n_s32(0); ROWS]; 3];
    for (words, q) in steps(words, token) {
        for r in 0..ROWS {
            let packed = load_words(words[r]);
            ones[r] = dot(ones[r], codes(packed, 0), load_bytes(&q[0]));
            fours[r] = dot(fours[r], masked(packed, CODE << 2), load_bytes(&q[1]));
            sixteens[r] = dot(sixteens[r], masked(packed, CODE << 4), load_bytes(&q[2]));
            ones[r] = dot(ones[r], codes(packed, 3), load_bytes(&q[3]));
        }
    }
    for r in 0..ROWS {
        // Sums of multiples lose nothing in these shifts.
        ones[r] = vsraq_n_s32::<2>(ones[r], fours[r]);
        ones[r] = vsraq_n_s32::<4>(ones[r], sixteens[r]);
    }
    add(sums, ones);
}

/// More tokens, which share the codes.
#[target_feature(enable = "neon,dotprod")]
fn add_sums<const T: usize>(
    vectors: usize,
    words: [&[u32]; ROWS],
    tokens: &[&[i8]],
    sums: &mut [[i32; ROWS]],
) {
    let words = words.map(|row| &row.as_chunks::<LANES>().0[..vectors]);
    let tokens: [&[Block]; T] = std::array::from_fn(|t| &blocks(tokens[t])[..vectors]);
    let mut acc = [[vdupq_n_s32(0); ROWS]; T];
    for v in 0..vectors {
        let mut codes = [[vdupq_n_s8(0); PLANES]; ROWS];
        for r in 0..ROWS {
            codes[r] = unpack(load_words(&words[r][v]));
        }
        for plane in 0..PLANES {
            for r in 0..ROWS {
                for t in 0..T {
                    acc[t][r] = dot(acc[t][r], codes[r][plane], load_bytes(&tokens[t][v][plane]));
                }
            }
        }
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        add(sums, acc);
    }
}

#[target_feature(enable = "neon,dotprod")]
fn pair_sums(
    vectors: usize,
    words: [&[u32]; ROWS],
    tokens: &[&[i8]],
    sums: &mut [[i32; ROWS]],
    stride: usize,
) {
    let words = words.map(|row| &row.as_chunks::<LANES>().0[..vectors]);
    for v in 0..vectors {
        let mut codes = [[vdupq_n_s8(0); PLANES]; ROWS];
        for r in 0..ROWS {
            codes[r] = unpack(load_words(&words[r][v]));
        }
        for (t, token) in tokens.iter().enumerate() {
            let q = &blocks(token)[v];
            let mut acc = [vdupq_n_s32(0); ROWS];
            for r in 0..ROWS {
                for plane in 0..PLANES {
                    acc[r] = dot(acc[r], codes[r][plane], load_bytes(&q[plane]));
                }
            }
            store_pairs(acc, &mut sums[t * stride + v * LANES / 2..]);
        }
    }
}

/// Adds four products to each lane.
#[target_feature(enable = "neon,dotprod")]
fn dot(mut acc: int32x4_t, codes: int8x16_t, q: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction exists, as the caller enabled the feature; it touches nothing but these registers.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {codes:v}.16b, {q:v}.16b",
            acc = inout(vreg) acc,
            codes = in(vreg) codes,
            q = in(vreg) q,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}
