//! Table products with NEON, the same for both kernels.
//!
//! Method: 16 columns become four vectors of floats in registers and meet four accumulators for each row of x, enough for
//! the latency of a multiply-add. Half floats are widened by integer steps: the exponent is off by 112 then, and a product
//! with 2^112 sets it right, subnormals included.

use std::arch::aarch64::*;

use super::{Dotprod, Neon};
use crate::TableFormat;
use crate::cpu::{TableBlocks, TableKernel};
use crate::table::GROUP;

const LANES: usize = 4;
const VECTORS: usize = 4;
/// Columns of one step.
const STEP: usize = LANES * VECTORS;
const TOKENS: usize = 4;
/// 2^112, the distance of the exponent biases of f32 and f16.
const HALF_SCALE: u32 = (127 + 112) << 23;

impl TableKernel for Neon {
    fn table_tokens(&self) -> usize {
        TOKENS
    }

    fn table_sums(&self, row: TableBlocks<'_>, x: &[&[f32]], sums: &mut [f32]) {
        // SAFETY: the CPU has NEON, because `self` exists.
        unsafe { table_sums(row, x, sums) }
    }
}

impl TableKernel for Dotprod {
    fn table_tokens(&self) -> usize {
        TOKENS
    }

    fn table_sums(&self, row: TableBlocks<'_>, x: &[&[f32]], sums: &mut [f32]) {
        // SAFETY: the CPU has NEON, because `self` exists.
        unsafe { table_sums(row, x, sums) }
    }
}

#[target_feature(enable = "neon")]
fn table_sums(row: TableBlocks<'_>, x: &[&[f32]], sums: &mut [f32]) {
    row.check(x, sums);
    match x.len() {
        1 => row_sums::<1>(row, x, sums),
        2 => row_sums::<2>(row, x, sums),
        3 => row_sums::<3>(row, x, sums),
        4 => row_sums::<4>(row, x, sums),
        count => panic!("{count} rows of x, expected 1 to {TOKENS}"),
    }
}

#[target_feature(enable = "neon")]
fn row_sums<const T: usize>(row: TableBlocks<'_>, x: &[&[f32]], sums: &mut [f32]) {
    let x: [&[[f32; STEP]]; T] = std::array::from_fn(|t| x[t].as_chunks().0);
    let found = match row.format {
        TableFormat::F32 => product(row.words, x, |_, words: &[u32; 16]| {
            let mut w = [vdupq_n_f32(0.0); VECTORS];
            for v in 0..VECTORS {
                w[v] = vreinterpretq_f32_u32(load(&words.as_chunks().0[v]));
            }
            w
        }),
        TableFormat::F16 => product(row.words, x, |_, words: &[u32; 8]| {
            let mut w = [vdupq_n_f32(0.0); VECTORS];
            for v in 0..VECTORS / 2 {
                let halves = vreinterpretq_u16_u32(load(&words.as_chunks().0[v]));
                w[2 * v] = widen_f16(vmovl_u16(vget_low_u16(halves)));
                w[2 * v + 1] = widen_f16(vmovl_high_u16(halves));
            }
            w
        }),
        TableFormat::BF16 => product(row.words, x, |_, words: &[u32; 8]| {
            let mut w = [vdupq_n_f32(0.0); VECTORS];
            for v in 0..VECTORS / 2 {
                let halves = vreinterpretq_u16_u32(load(&words.as_chunks().0[v]));
                w[2 * v] = vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(halves)));
                w[2 * v + 1] = vreinterpretq_f32_u32(vshll_high_n_u16::<16>(halves));
            }
            w
        }),
        TableFormat::Int8 => product(row.words, x, |_, words: &[u32; 4]| {
            let codes = vreinterpretq_s8_u32(load(words));
            let (low, high) = (vmovl_s8(vget_low_s8(codes)), vmovl_high_s8(codes));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ]
        }),
        TableFormat::Int4 => {
            // What brings each code of a word to the top.
            let (first, second) = (signed(&[28, 24, 20, 16]), signed(&[12, 8, 4, 0]));
            product(row.words, x, |step, words: &[u32; 2]| {
                let scale = row.scale[step * STEP / GROUP];
                let mut w = [vdupq_n_f32(0.0); VECTORS];
                for v in 0..VECTORS {
                    let shifts = if v % 2 == 0 { first } else { second };
                    let codes = vshlq_u32(vdupq_n_u32(words[v / 2]), shifts);
                    let codes = vshrq_n_s32::<28>(vreinterpretq_s32_u32(codes));
                    w[v] = vmulq_n_f32(vcvtq_f32_s32(codes), scale);
                }
                w
            })
        }
    };
    sums.copy_from_slice(&found);
}

/// Σ w · x for T rows of x; `decode` makes floats of the `W` words of 16 columns.
#[target_feature(enable = "neon")]
fn product<const T: usize, const W: usize>(
    words: &[u32],
    x: [&[[f32; STEP]]; T],
    decode: impl Fn(usize, &[u32; W]) -> [float32x4_t; VECTORS],
) -> [f32; T] {
    let words = words.as_chunks::<W>().0;
    let x = x.map(|x| &x[..words.len()]);
    let mut acc = [[vdupq_n_f32(0.0); VECTORS]; T];
    for (step, words) in words.iter().enumerate() {
        let w = decode(step, words);
        for t in 0..T {
            let x = x[t][step].as_chunks().0;
            for v in 0..VECTORS {
                acc[t][v] = vfmaq_f32(acc[t][v], w[v], load_floats(&x[v]));
            }
        }
    }
    let mut sums = [0.0; T];
    for t in 0..T {
        let [a, b, c, d] = acc[t];
        sums[t] = vaddvq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d)));
    }
    sums
}

/// Floats of half precision, each in the lower half of a lane.
#[target_feature(enable = "neon")]
fn widen_f16(halves: uint32x4_t) -> float32x4_t {
    let sign = vshlq_n_u32::<16>(vandq_u32(halves, vdupq_n_u32(0x8000)));
    let rest = vshlq_n_u32::<13>(vandq_u32(halves, vdupq_n_u32(0x7FFF)));
    let rest = vmulq_n_f32(vreinterpretq_f32_u32(rest), f32::from_bits(HALF_SCALE));
    vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(rest), sign))
}

#[target_feature(enable = "neon")]
fn load_floats(floats: &[f32; LANES]) -> float32x4_t {
    // SAFETY: the array has the 16 bytes that are read.
    unsafe { vld1q_f32(floats.as_ptr()) }
}

#[target_feature(enable = "neon")]
fn load(words: &[u32; LANES]) -> uint32x4_t {
    // SAFETY: the array has the 16 bytes that are read.
    unsafe { vld1q_u32(words.as_ptr()) }
}

#[target_feature(enable = "neon")]
fn signed(words: &[i32; LANES]) -> int32x4_t {
    // SAFETY: the array has the 16 bytes that are read.
    unsafe { vld1q_s32(words.as_ptr()) }
}
