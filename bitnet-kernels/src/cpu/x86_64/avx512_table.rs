//! Table products with AVX-512.
//!
//! Method: 64 columns become four vectors of floats in registers and meet four accumulators for each row of x, enough for
//! the latency of a multiply-add. Of three and four rows of x, half of the vectors at a time meet three table rows, so that
//! each load of x serves three products. Four-bit codes are found by a permutation of sixteen floats, scale included.
//! int8 comes here only with more columns than `digits` takes.

use std::arch::x86_64::*;

use super::Avx512Vnni;
use crate::TableFormat;
use crate::cpu::table::TABLE_ROWS;
use crate::cpu::{TABLE_BLOCK, TableBlocks, TableKernel};

const LANES: usize = 16;
const VECTORS: usize = TABLE_BLOCK / LANES;
const TOKENS: usize = 4;
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
        self.table_tile(&[row], x, sums);
    }

    fn table_tile(&self, rows: &[TableBlocks<'_>], x: &[&[f32]], sums: &mut [f32]) {
        let count = x.len();
        assert_eq!(sums.len(), rows.len() * count, "a sum for each row of both");
        for (row, sums) in rows.iter().zip(sums.chunks_exact(count)) {
            row.check(x, sums);
        }
        let tile = <&[TableBlocks<'_>; TABLE_ROWS]>::try_from(rows);
        // SAFETY: the CPU has the features of these functions, because `self` exists.
        unsafe {
            match (tile, count) {
                (Ok(rows), 3) => tile_sums::<3, { VECTORS / 2 }, TABLE_ROWS>(*rows, x, sums),
                (Ok(rows), 4) => tile_sums::<4, { VECTORS / 2 }, TABLE_ROWS>(*rows, x, sums),
                _ => {
                    for (row, sums) in rows.iter().zip(sums.chunks_exact_mut(count)) {
                        match count {
                            1 => tile_sums::<1, VECTORS, 1>([*row], x, sums),
                            2 => tile_sums::<2, VECTORS, 1>([*row], x, sums),
                            3 => tile_sums::<3, VECTORS, 1>([*row], x, sums),
                            4 => tile_sums::<4, VECTORS, 1>([*row], x, sums),
                            count => panic!("{count} rows of x, expected 1 to {TOKENS}"),
                        }
                    }
                }
            }
        }
    }
}

/// T rows of x and R table rows, V of the four vectors of each block at a time: R · T · V sums stay in registers.
///
/// Rows of x hardly fit the first-level cache: three table rows for each load of theirs hide that.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tile_sums<const T: usize, const V: usize, const R: usize>(
    rows: [TableBlocks<'_>; R],
    x: &[&[f32]],
    sums: &mut [f32],
) {
    match rows[0].format {
        TableFormat::F32 => product::<T, V, R, 64>(rows, x, sums, |_, _, v, words| {
            _mm512_castsi512_ps(load512(&words.as_chunks().0[v]))
        }),
        TableFormat::F16 => product::<T, V, R, 32>(rows, x, sums, |_, _, v, words| {
            _mm512_cvtph_ps(load256(&words.as_chunks().0[v]))
        }),
        TableFormat::BF16 => product::<T, V, R, 32>(rows, x, sums, |_, _, v, words| {
            let upper = _mm512_cvtepu16_epi32(load256(&words.as_chunks().0[v]));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(upper))
        }),
        TableFormat::Int8 => product::<T, V, R, 16>(rows, x, sums, |_, _, v, words| {
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load128(&words.as_chunks().0[v])))
        }),
        TableFormat::Int4 => {
            let scales = rows.map(|row| row.scale.as_chunks::<2>().0);
            let (int4, shifts) = (load_floats(&INT4), load512(&SHIFTS));
            product::<T, V, R, 8>(rows, x, sums, |r, block, v, words| {
                let words = _mm512_castsi256_si512(load256(words));
                let values = _mm512_mul_ps(int4, _mm512_set1_ps(scales[r][block][v / 2]));
                let codes = _mm512_permutexvar_epi32(load512(&SOURCES[v]), words);
                // The permutation reads the lowest four bits of each index.
                _mm512_permutexvar_ps(_mm512_srlv_epi32(codes, shifts), values)
            });
        }
    }
}

/// Σ w · x; `decode` makes floats of one vector of a block of `W` words, given its table row, block and vector.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn product<const T: usize, const V: usize, const R: usize, const W: usize>(
    rows: [TableBlocks<'_>; R],
    x: &[&[f32]],
    sums: &mut [f32],
    decode: impl Fn(usize, usize, usize, &[u32; W]) -> __m512,
) {
    let words = rows.map(|row| row.words.as_chunks::<W>().0);
    let x: [&[[f32; TABLE_BLOCK]]; T] = std::array::from_fn(
        #[inline(always)]
        |t| x[t].as_chunks().0,
    );
    let mut total = [[[_mm512_setzero_ps(); VECTORS]; T]; R];
    for first in (0..VECTORS).step_by(V) {
        pass::<T, V, R, W>(words, x, first, &decode, &mut total);
    }
    for (sum, &[a, b, c, d]) in sums.iter_mut().zip(total.iter().flatten()) {
        let all = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
        *sum = _mm512_reduce_add_ps(all);
    }
}

/// The sums of V vectors of each block, from vector `first` on.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn pass<const T: usize, const V: usize, const R: usize, const W: usize>(
    words: [&[[u32; W]]; R],
    x: [&[[f32; TABLE_BLOCK]]; T],
    first: usize,
    decode: &impl Fn(usize, usize, usize, &[u32; W]) -> __m512,
    total: &mut [[[__m512; VECTORS]; T]; R],
) {
    let blocks = words[0].len();
    assert!(words.iter().all(|row| row.len() == blocks) && x.iter().all(|x| x.len() == blocks));
    // What the next call reads; not less than what one row of x was measured to want.
    let ahead = (R * size_of_val(words[0])).max(PREFETCH);
    let mut acc = [[[_mm512_setzero_ps(); V]; T]; R];
    for block in 0..blocks {
        let mut w = [[_mm512_setzero_ps(); V]; R];
        for r in 0..R {
            let words = within(words[r], block);
            if first == 0 {
                for line in words.chunks(LANES) {
                    _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_byte_add(ahead).cast());
                }
            }
            for v in 0..V {
                w[r][v] = decode(r, block, first + v, words);
            }
        }
        for t in 0..T {
            for v in 0..V {
                let x = load_floats(&within(x[t], block).as_chunks().0[first + v]);
                for r in 0..R {
                    acc[r][t][v] = _mm512_fmadd_ps(w[r][v], x, acc[r][t][v]);
                }
            }
        }
    }
    for r in 0..R {
        for t in 0..T {
            for v in 0..V {
                total[r][t][first + v] = acc[r][t][v];
            }
        }
    }
}

/// An item that is known to be there: with a check for each, the sums do not stay in registers.
#[inline(always)]
fn within<I>(items: &[I], at: usize) -> &I {
    debug_assert!(at < items.len());
    // SAFETY: `pass`, the only caller, counts up to the length that it asserts of all its slices.
    unsafe { items.get_unchecked(at) }
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
