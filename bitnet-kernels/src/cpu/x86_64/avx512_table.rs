//! Table products with AVX-512.
//!
//! Method: 64 columns become four vectors of floats in registers and meet four accumulators for each row of x, enough for
//! the latency of a multiply-add. Four-bit codes are found by a permutation of sixteen floats, scale included. One row of
//! int8 takes 128256 x 2560 at the speed of memory.

use std::arch::x86_64::*;

use super::Avx512Vnni;
use crate::TableFormat;
use crate::cpu::{TABLE_BLOCK, TableBlocks, TableKernel};

const LANES: usize = 16;
const VECTORS: usize = TABLE_BLOCK / LANES;
const TOKENS: usize = 5;
/// Bytes ahead of the table in use, as measured for ternary weights.
const PREFETCH: usize = 4096;
/// The words of each vector's sixteen 4-bit codes.
const SOURCES: [[u32; LANES]; VECTORS] = {
    let mut sources = [[0; LANES]; VECTORS];
    let mut at = 0;
    while at < TABLE_BLOCK {
        sources[at / LANES][at % LANES] = at as u32 / 8;
        at += 1;
    }
    sources
};
/// The position of each 4-bit code in its word.
const SHIFTS: [u32; LANES] = [0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28];
/// The value of each 4-bit code.
const INT4: [f32; LANES] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0,
];

impl TableKernel for Avx512Vnni {
    fn table_tokens(&self) -> usize {
        TOKENS
    }

    fn table_sums(&self, row: TableBlocks<'_>, x: &[&[f32]], sums: &mut [f32]) {
        row.check(x, sums);
        // SAFETY: the CPU has the features of these functions, because `self` exists.
        unsafe {
            match x.len() {
                1 => row_sums::<1>(row, x, sums),
                2 => row_sums::<2>(row, x, sums),
                3 => row_sums::<3>(row, x, sums),
                4 => row_sums::<4>(row, x, sums),
                5 => row_sums::<5>(row, x, sums),
                count => panic!("{count} rows of x, expected 1 to {TOKENS}"),
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn row_sums<const T: usize>(row: TableBlocks<'_>, x: &[&[f32]], sums: &mut [f32]) {
    let x: [&[[f32; TABLE_BLOCK]]; T] = std::array::from_fn(|t| x[t].as_chunks().0);
    let found = match row.format {
        TableFormat::F32 => product(row.words, x, |_, words: &[u32; 64]| {
            let mut w = [_mm512_setzero_ps(); VECTORS];
            for v in 0..VECTORS {
                w[v] = _mm512_castsi512_ps(load512(&words.as_chunks().0[v]));
            }
            w
        }),
        TableFormat::F16 => product(row.words, x, |_, words: &[u32; 32]| {
            let mut w = [_mm512_setzero_ps(); VECTORS];
            for v in 0..VECTORS {
                w[v] = _mm512_cvtph_ps(load256(&words.as_chunks().0[v]));
            }
            w
        }),
        TableFormat::BF16 => product(row.words, x, |_, words: &[u32; 32]| {
            let mut w = [_mm512_setzero_ps(); VECTORS];
            for v in 0..VECTORS {
                let upper = _mm512_cvtepu16_epi32(load256(&words.as_chunks().0[v]));
                w[v] = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(upper));
            }
            w
        }),
        TableFormat::Int8 => product(row.words, x, |_, words: &[u32; 16]| {
            let mut w = [_mm512_setzero_ps(); VECTORS];
            for v in 0..VECTORS {
                let codes = _mm512_cvtepi8_epi32(load128(&words.as_chunks().0[v]));
                w[v] = _mm512_cvtepi32_ps(codes);
            }
            w
        }),
        TableFormat::Int4 => {
            let scale = row.scale.as_chunks::<2>().0;
            let (int4, shifts) = (load_floats(&INT4), load512(&SHIFTS));
            product(row.words, x, |block, words: &[u32; 8]| {
                let words = _mm512_castsi256_si512(load256(words));
                let mut w = [_mm512_setzero_ps(); VECTORS];
                for v in 0..VECTORS {
                    let values = _mm512_mul_ps(int4, _mm512_set1_ps(scale[block][v / 2]));
                    let codes = _mm512_permutexvar_epi32(load512(&SOURCES[v]), words);
                    // The permutation reads the lowest four bits of each index.
                    w[v] = _mm512_permutexvar_ps(_mm512_srlv_epi32(codes, shifts), values);
                }
                w
            })
        }
    };
    sums.copy_from_slice(&found);
}

/// Σ w · x for T rows of x; `decode` makes floats of the `W` words of a block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn product<const T: usize, const W: usize>(
    words: &[u32],
    x: [&[[f32; TABLE_BLOCK]]; T],
    decode: impl Fn(usize, &[u32; W]) -> [__m512; VECTORS],
) -> [f32; T] {
    let words = words.as_chunks::<W>().0;
    let x = x.map(|x| &x[..words.len()]);
    let mut acc = [[_mm512_setzero_ps(); VECTORS]; T];
    for (block, words) in words.iter().enumerate() {
        for line in words.chunks(LANES) {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_byte_add(PREFETCH).cast());
        }
        let w = decode(block, words);
        for t in 0..T {
            let x = x[t][block].as_chunks().0;
            for v in 0..VECTORS {
                acc[t][v] = _mm512_fmadd_ps(w[v], load_floats(&x[v]), acc[t][v]);
            }
        }
    }
    let mut sums = [0.0; T];
    for t in 0..T {
        let [a, b, c, d] = acc[t];
        let sum = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
        sums[t] = _mm512_reduce_add_ps(sum);
    }
    sums
}

#[target_feature(enable = "avx512f")]
fn load_floats(floats: &[f32; LANES]) -> __m512 {
    // SAFETY: the array has the 64 bytes that are read; the instruction takes any alignment.
    unsafe { _mm512_loadu_ps(floats.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
fn load512(words: &[u32; LANES]) -> __m512i {
    // SAFETY: the array has the 64 bytes that are read; the instruction takes any alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx")]
fn load256(words: &[u32; LANES / 2]) -> __m256i {
    // SAFETY: the array has the 32 bytes that are read; the instruction takes any alignment.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[target_feature(enable = "sse2")]
fn load128(words: &[u32; LANES / 4]) -> __m128i {
    // SAFETY: the array has the 16 bytes that are read; the instruction takes any alignment.
    unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
}
