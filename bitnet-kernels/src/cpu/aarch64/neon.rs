//! Ternary × int8 sums with NEON alone, for 64-bit ARM before version 8.2.
//!
//! Method: `smlal` adds products of codes 0, 1, 2 and activations in 16 bits. A product lies in -256..=254, and each lane
//! takes eight per vector of words, so after 16 vectors it is in -32768..=32512 and still exact; then it is widened. For one
//! token, a mask alone takes the codes of plane 1 out of a byte, times 4; their sums are divided at the end of a span.

use std::arch::aarch64::*;

use super::{
    Block, CODE, LANES, PLANES, TOKENS, add, blocks, codes, load_bytes, load_words, masked, steps,
    store_pairs, unpack,
};
use crate::cpu::{Kernel, ROWS, Vectors, check_pair_sums, check_sums};
use crate::packing::words::CODES_PER_WORD;

/// Vectors of words between two widenings.
const SPAN: usize = 16;

const _: () = assert!((SPAN * PLANES) as i32 * 2 * 2 * i8::MIN as i32 >= i16::MIN as i32);

/// Proof that the CPU has NEON.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Neon(());

impl Neon {
    pub(in crate::cpu) fn new() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}

impl Kernel for Neon {
    fn name(&self) -> &'static str {
        "aarch64-neon"
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
        // SAFETY: the CPU has NEON, because `self` exists.
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
        // SAFETY: the CPU has NEON, because `self` exists.
        unsafe { pair_sums(vectors, words, tokens, sums, stride) }
    }
}

/// One token, with 61 instructions for 256 weights.
///
/// A lane of `fours` takes two products of a vector four-fold: in a span as much as all eight. Sixteen-fold codes of plane
/// 2 would fill it after four vectors.
#[target_feature(enable = "neon")]
fn add_token(words: [&[u32]; ROWS], token: &[i8], sums: &mut [i32; ROWS]) {
    let mut acc = [vdupq_n_s32(0); ROWS];
    let len = words[0].len();
    for start in (0..len).step_by(SPAN * LANES) {
        let end = len.min(start + SPAN * LANES);
        let token = &token[start * CODES_PER_WORD..end * CODES_PER_WORD];
        let [mut ones, mut fours] = [[vdupq_n_s16(0); ROWS]; 2];
        for (words, q) in steps(words.map(|row| &row[start..end]), token) {
            for r in 0..ROWS {
                let packed = load_words(words[r]);
                ones[r] = multiply_add(ones[r], codes(packed, 0), load_bytes(&q[0]));
                fours[r] = multiply_add(fours[r], masked(packed, CODE << 2), load_bytes(&q[1]));
                ones[r] = multiply_add(ones[r], codes(packed, 2), load_bytes(&q[2]));
                ones[r] = multiply_add(ones[r], codes(packed, 3), load_bytes(&q[3]));
            }
        }
        for r in 0..ROWS {
            // A sum of multiples of 4 loses nothing in this shift.
            acc[r] = vpadalq_s16(acc[r], vsraq_n_s16::<2>(ones[r], fours[r]));
        }
    }
    add(sums, acc);
}

/// More tokens, which share the codes.
#[target_feature(enable = "neon")]
fn add_sums<const T: usize>(
    vectors: usize,
    words: [&[u32]; ROWS],
    tokens: &[&[i8]],
    sums: &mut [[i32; ROWS]],
) {
    let words = words.map(|row| &row.as_chunks::<LANES>().0[..vectors]);
    let tokens: [&[Block]; T] = std::array::from_fn(|t| &blocks(tokens[t])[..vectors]);
    let mut acc = [[vdupq_n_s32(0); ROWS]; T];
    for start in (0..vectors).step_by(SPAN) {
        let mut narrow = [[vdupq_n_s16(0); ROWS]; T];
        for v in start..vectors.min(start + SPAN) {
            let mut packed = [vdupq_n_u8(0); ROWS];
            for r in 0..ROWS {
                packed[r] = load_words(&words[r][v]);
            }
            for plane in 0..PLANES {
                for r in 0..ROWS {
                    let codes = codes(packed[r], 0);
                    for t in 0..T {
                        narrow[t][r] =
                            multiply_add(narrow[t][r], codes, load_bytes(&tokens[t][v][plane]));
                    }
                    packed[r] = vshrq_n_u8::<2>(packed[r]);
                }
            }
        }
        for t in 0..T {
            for r in 0..ROWS {
                acc[t][r] = vpadalq_s16(acc[t][r], narrow[t][r]);
            }
        }
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        add(sums, acc);
    }
}

#[target_feature(enable = "neon")]
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
                let (mut low, mut high) = (vdupq_n_s16(0), vdupq_n_s16(0));
                for plane in 0..PLANES {
                    let q = load_bytes(&q[plane]);
                    // The lower half of a plane belongs to words 0 and 1, the upper half to words 2 and 3.
                    low = vmlal_s8(low, vget_low_s8(codes[r][plane]), vget_low_s8(q));
                    high = vmlal_high_s8(high, codes[r][plane], q);
                }
                acc[r] = vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
            }
            store_pairs(acc, &mut sums[t * stride + v * LANES / 2..]);
        }
    }
}

/// Adds sixteen products to eight lanes.
#[target_feature(enable = "neon")]
fn multiply_add(acc: int16x8_t, codes: int8x16_t, q: int8x16_t) -> int16x8_t {
    vmlal_high_s8(vmlal_s8(acc, vget_low_s8(codes), vget_low_s8(q)), codes, q)
}
