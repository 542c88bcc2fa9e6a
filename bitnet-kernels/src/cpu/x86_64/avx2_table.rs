//! Table products with AVX2, FMA and F16C.
//!
//! Method: 32 columns, a group of the 4-bit format, become four vectors of floats in registers and meet four accumulators
//! for each row of x, enough for the latency of a multiply-add. Three rows of x fill the registers.

use std::arch::x86_64::*;

use super::Avx2;
use crate::TableFormat;
use crate::cpu::{TableBlocks, TableKernel};
use crate::table::GROUP;

const LANES: usize = 8;
const VECTORS: usize = GROUP / LANES;
const TOKENS: usize = 3;
/// Bytes ahead of the table in use, as measured for ternary weights.
const PREFETCH: usize = 4096;
/// What brings each 4-bit code of a word to the top.
const SHIFTS: [u32; LANES] = [28, 24, 20, 16, 12, 8, 4, 0];

impl TableKernel for Avx2 {
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
                count => panic!("{count} rows of x, expected 1 to {TOKENS}"),
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn row_sums<const T: usize>(row: TableBlocks<'_>, x: &[&[f32]], sums: &mut [f32]) {
    let x: [&[[f32; GROUP]]; T] = std::array::from_fn(|t| x[t].as_chunks().0);
    let found = match row.format {
        TableFormat::F32 => product(row.words, x, |_, words: &[u32; 32]| {
            let mut w = [_mm256_setzero_ps(); VECTORS];
            for v in 0..VECTORS {
                w[v] = _mm256_castsi256_ps(load256(&words.as_chunks().0[v]));
            }
            w
        }),
        TableFormat::F16 => product(row.words, x, |_, words: &[u32; 16]| {
            let mut w = [_mm256_setzero_ps(); VECTORS];
            for v in 0..VECTORS {
                w[v] = _mm256_cvtph_ps(load128(&words.as_chunks().0[v]));
            }
            w
        }),
        TableFormat::BF16 => product(row.words, x, |_, words: &[u32; 16]| {
            let mut w = [_mm256_setzero_ps(); VECTORS];
            for v in 0..VECTORS {
                let upper = _mm256_cvtepu16_epi32(load128(&words.as_chunks().0[v]));
                w[v] = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(upper));
            }
            w
        }),
        TableFormat::Int8 => product(row.words, x, |_, words: &[u32; 8]| {
            let mut w = [_mm256_setzero_ps(); VECTORS];
            for v in 0..VECTORS {
                let codes = _mm256_cvtepi8_epi32(load64(&words.as_chunks().0[v]));
                w[v] = _mm256_cvtepi32_ps(codes);
            }
            w
        }),
        TableFormat::Int4 => {
            let shifts = load256(&SHIFTS);
            product(row.words, x, |group, words: &[u32; 4]| {
                let scale = _mm256_set1_ps(row.scale[group]);
                let mut w = [_mm256_setzero_ps(); VECTORS];
                for v in 0..VECTORS {
                    let codes = _mm256_sllv_epi32(_mm256_set1_epi32(words[v] as i32), shifts);
                    let codes = _mm256_cvtepi32_ps(_mm256_srai_epi32::<28>(codes));
                    w[v] = _mm256_mul_ps(codes, scale);
                }
                w
            })
        }
    };
    sums.copy_from_slice(&found);
}

/// Σ w · x for T rows of x; `decode` makes floats of the `W` words of 32 columns.
#[target_feature(enable = "avx2,fma,f16c")]
fn product<const T: usize, const W: usize>(
    words: &[u32],
    x: [&[[f32; GROUP]]; T],
    decode: impl Fn(usize, &[u32; W]) -> [__m256; VECTORS],
) -> [f32; T] {
    let words = words.as_chunks::<W>().0;
    let x = x.map(|x| &x[..words.len()]);
    let mut acc = [[_mm256_setzero_ps(); VECTORS]; T];
    for (group, words) in words.iter().enumerate() {
        for line in words.chunks(16) {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_byte_add(PREFETCH).cast());
        }
        let w = decode(group, words);
        for t in 0..T {
            let x = x[t][group].as_chunks().0;
            for v in 0..VECTORS {
                acc[t][v] = _mm256_fmadd_ps(w[v], load_floats(&x[v]), acc[t][v]);
            }
        }
    }
    let mut sums = [0.0; T];
    for t in 0..T {
        let [a, b, c, d] = acc[t];
        sums[t] = reduce(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)));
    }
    sums
}

/// The sum over the lanes.
#[target_feature(enable = "avx2")]
fn reduce(sum: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

#[target_feature(enable = "avx")]
fn load_floats(floats: &[f32; LANES]) -> __m256 {
    // SAFETY: the array has the 32 bytes that are read; the instruction takes any alignment.
    unsafe { _mm256_loadu_ps(floats.as_ptr()) }
}

#[target_feature(enable = "avx")]
fn load256(words: &[u32; LANES]) -> __m256i {
    // SAFETY: the array has the 32 bytes that are read; the instruction takes any alignment.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[target_feature(enable = "sse2")]
fn load128(words: &[u32; LANES / 2]) -> __m128i {
    // SAFETY: the array has the 16 bytes that are read; the instruction takes any alignment.
    unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
}

#[target_feature(enable = "sse2")]
fn load64(words: &[u32; LANES / 4]) -> __m128i {
    // SAFETY: the array has the 8 bytes that are read; the instruction takes any alignment.
    unsafe { _mm_loadl_epi64(words.as_ptr().cast()) }
}
