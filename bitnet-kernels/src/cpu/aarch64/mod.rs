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
/// The bits of the lowest plane in a byte.
const CODE: u8 = CODE_MASK as u8;
/// Activations beside one vector of words.
type Block = [[i8; BYTES]; PLANES];

const _: () = assert!(LANES * CODES_PER_WORD == BYTES * PLANES);

/// The activations of a token, a block for each vector of words.
fn blocks(token: &[i8]) -> &[Block] {
    token.as_chunks::<BYTES>().0.as_chunks::<PLANES>().0
}

/// The vectors of four rows beside the activations of one token. Zipped, for slices would be checked in every step.
fn steps<'a>(
    words: [&'a [u32]; ROWS],
    token: &'a [i8],
) -> impl Iterator<Item = ([&'a [u32; LANES]; ROWS], &'a Block)> {
    let [a, b, c, d] = words.map(|row| row.as_chunks().0);
    let rows = a.iter().zip(b).zip(c).zip(d);
    rows.zip(blocks(token))
        .map(|((((a, b), c), d), q)| ([a, b, c, d], q))
}

/// The codes of all four planes.
#[target_feature(enable = "neon")]
fn unpack(packed: uint8x16_t) -> [int8x16_t; PLANES] {
    [
        codes(packed, 0),
        codes(packed, 1),
        codes(packed, 2),
        codes(packed, 3),
    ]
}

/// The codes of one plane. Above the highest nothing is left to mask.
#[target_feature(enable = "neon")]
fn codes(packed: uint8x16_t, plane: usize) -> int8x16_t {
    match plane {
        0 => masked(packed, CODE),
        1 => masked(vshrq_n_u8::<2>(packed), CODE),
        2 => masked(vshrq_n_u8::<4>(packed), CODE),
        _ => vreinterpretq_s8_u8(vshrq_n_u8::<6>(packed)),
    }
}

/// Some bits of each byte: with `CODE << 2 * plane` the codes of a plane, times `4^plane`. That of plane 3 would be negative.
#[target_feature(enable = "neon")]
fn masked(packed: uint8x16_t, mask: u8) -> int8x16_t {
    vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(mask)))
}

/// Stores the sums of lanes 0 and 1 of the four vectors, and after them those of lanes 2 and 3.
#[target_feature(enable = "neon")]
fn store_pairs([a, b, c, d]: [int32x4_t; ROWS], sums: &mut [[i32; ROWS]]) {
    let (ab, cd) = (vpaddq_s32(a, b), vpaddq_s32(c, d));
    store(&mut sums[0], vuzp1q_s32(ab, cd));
    store(&mut sums[1], vuzp2q_s32(ab, cd));
}

/// Adds the sum over the lanes of each of four vectors.
#[target_feature(enable = "neon")]
fn add(sums: &mut [i32; ROWS], [a, b, c, d]: [int32x4_t; ROWS]) {
    let mut total = [0; ROWS];
    store(&mut total, vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)));
    for r in 0..ROWS {
        sums[r] += total[r];
    }
}

#[target_feature(enable = "neon")]
fn load_words(words: &[u32; LANES]) -> uint8x16_t {
    // SAFETY: the array has the 16 bytes that are read.
    vreinterpretq_u8_u32(unsafe { vld1q_u32(words.as_ptr()) })
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
