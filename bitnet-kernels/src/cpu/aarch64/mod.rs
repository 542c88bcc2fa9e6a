//! Kernels for 64-bit ARM, one instruction set per file.

// Tiles of vectors are indexed by token, row and plane alike; iterators would hide which is which.
#![allow(unsafe_code, clippy::needless_range_loop)]

mod dotprod;
mod neon;
mod table;

pub(super) use dotprod::Dotprod;
pub(super) use neon::Neon;

use std::arch::aarch64::*;

use crate::cpu::ROWS;
use crate::packing::words::{CODE_MASK, CODES_PER_WORD};

/// Words in a vector: the alignment of rows, so there is never a tail.
const LANES: usize = 4;
const TOKENS: usize = 4;
const BYTES: usize = 16;
const PLANES: usize = 4;
/// Activations beside one vector of words.
type Block = [[i8; BYTES]; PLANES];

const _: () = assert!(LANES * CODES_PER_WORD == BYTES * PLANES);

/// The activations of a token, a block for each vector of words.
fn blocks(token: &[i8]) -> &[Block] {
    token.as_chunks::<BYTES>().0.as_chunks::<PLANES>().0
}

/// The codes of the lowest plane.
#[target_feature(enable = "neon")]
fn codes(packed: uint32x4_t) -> int8x16_t {
    vreinterpretq_s8_u32(vandq_u32(packed, vdupq_n_u32(CODE_MASK)))
}

/// The codes of all four planes.
#[target_feature(enable = "neon")]
fn unpack(packed: uint32x4_t) -> [int8x16_t; PLANES] {
    [
        codes(packed),
        codes(vshrq_n_u32::<2>(packed)),
        codes(vshrq_n_u32::<4>(packed)),
        codes(vshrq_n_u32::<6>(packed)),
    ]
}

/// Stores the sums of lanes 0 and 1 of the four vectors, and after them those of lanes 2 and 3.
#[target_feature(enable = "neon")]
fn store_pairs([a, b, c, d]: [int32x4_t; ROWS], sums: &mut [[i32; ROWS]]) {
    let (ab, cd) = (vpaddq_s32(a, b), vpaddq_s32(c, d));
    store(&mut sums[0], vuzp1q_s32(ab, cd));
    store(&mut sums[1], vuzp2q_s32(ab, cd));
}

/// The sum over the lanes of each of four vectors.
#[target_feature(enable = "neon")]
fn reduce([a, b, c, d]: [int32x4_t; ROWS]) -> [i32; ROWS] {
    let mut sums = [0; ROWS];
    store(&mut sums, vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)));
    sums
}

#[target_feature(enable = "neon")]
fn load_words(words: &[u32; LANES]) -> uint32x4_t {
    // SAFETY: the array has the 16 bytes that are read.
    unsafe { vld1q_u32(words.as_ptr()) }
}

#[target_feature(enable = "neon")]
fn load_bytes(bytes: &[i8; BYTES]) -> int8x16_t {
    // SAFETY: the array has the 16 bytes that are read.
    unsafe { vld1q_s8(bytes.as_ptr()) }
}

#[target_feature(enable = "neon")]
fn store(lanes: &mut [i32; LANES], value: int32x4_t) {
    // SAFETY: the array has the 16 bytes that are written.
    unsafe { vst1q_s32(lanes.as_mut_ptr(), value) }
}
