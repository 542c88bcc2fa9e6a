//! Ternary × int8 sums with the dot products of ARM 8.2 (FEAT_DotProd).
//!
//! Method: `sdot` multiplies the codes 0, 1, 2 with the activations and adds four products to each 32-bit lane, exactly.
//! It is written as assembly, because the intrinsic `vdotq_s32` is not stable in Rust 1.95 (rust-lang/rust#117224).

use std::arch::aarch64::*;
use std::arch::asm;

use super::{
    Block, LANES, PLANES, TOKENS, blocks, codes, load_bytes, load_words, reduce, store_pairs,
    unpack,
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
                1 => add_sums::<1>(vectors, words, tokens, sums),
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
        let mut packed = [vdupq_n_u32(0); ROWS];
        for r in 0..ROWS {
            packed[r] = load_words(&words[r][v]);
        }
        for plane in 0..PLANES {
            for r in 0..ROWS {
                let codes = codes(packed[r]);
                for t in 0..T {
                    acc[t][r] = dot(acc[t][r], codes, load_bytes(&tokens[t][v][plane]));
                }
                packed[r] = vshrq_n_u32::<2>(packed[r]);
            }
        }
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        let total = reduce(acc);
        for r in 0..ROWS {
            sums[r] += total[r];
        }
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
