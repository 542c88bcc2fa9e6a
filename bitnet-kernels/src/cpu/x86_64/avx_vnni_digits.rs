//! Products of bytes with AVX-VNNI.
//!
//! Method: that of `avx512_digits`. The digits of one row of x by both halves of a block, of one table row after the other as
//! memory wants it, or those of more rows by two table rows, keep the products busy: up to twelve sums.

use std::arch::x86_64::*;

use super::AvxVnni;
use super::avx2::{LANES, load_bytes, load_words, reduce};
use crate::cpu::{DigitKernel, ROWS, TABLE_BLOCK};

const DIGIT_ROWS: usize = 6;
/// Vectors in a block.
const HALVES: usize = 2;
/// Bytes ahead of the table in use, as measured for AVX-512.
const PREFETCH: usize = 4096;
/// Words of a block.
type Words = [[u32; LANES]; HALVES];
/// Digits beside one.
type Digits = [[i8; TABLE_BLOCK / HALVES]; HALVES];

impl DigitKernel for AvxVnni {
    fn digit_rows(&self) -> usize {
        DIGIT_ROWS
    }

    fn digit_sums(&self, words: [&[u32]; ROWS], digits: &[&[i8]], sums: &mut [[i32; ROWS]]) {
        // SAFETY: the CPU has the features of these functions, because `self` exists.
        unsafe {
            match digits.len() {
                2 => digit_sums::<2, 1, 2>(words, digits, sums),
                3 => digit_sums::<3, 1, 2>(words, digits, sums),
                4 => digit_sums::<4, 2, 1>(words, digits, sums),
                6 => digit_sums::<6, 2, 1>(words, digits, sums),
                count => panic!("{count} rows of digits, expected 2, 3, 4 or 6"),
            }
        }
    }
}

/// D rows of digits beside R table rows at a time, with P partial sums of each.
#[target_feature(enable = "avx2,avxvnni")]
fn digit_sums<const D: usize, const R: usize, const P: usize>(
    words: [&[u32]; ROWS],
    digits: &[&[i8]],
    sums: &mut [[i32; ROWS]],
) {
    let len = words[0].len();
    let (whole, blocks) = (len / (HALVES * LANES), len.div_ceil(HALVES * LANES));
    let digits: [&[Digits]; D] = std::array::from_fn(
        #[inline(always)]
        |d| &digits[d].as_chunks().0.as_chunks().0[..blocks],
    );
    let sign = _mm256_set1_epi8(i8::MIN);
    // What the next call reads, where rows follow each other.
    let ahead = (R * size_of_val(words[0])).max(PREFETCH);
    let mut acc = [[_mm256_setzero_si256(); ROWS]; D];
    for first in (0..ROWS).step_by(R) {
        let rows: [&[Words]; R] = std::array::from_fn(
            #[inline(always)]
            |r| &words[first + r][..len].as_chunks().0.as_chunks().0[..whole],
        );
        let next = words[first].as_ptr().wrapping_byte_add(ahead);
        let mut part = [[[_mm256_setzero_si256(); R]; D]; P];
        for block in 0..whole {
            for r in 0..R {
                let line = next.wrapping_add((block * R + r) * HALVES * LANES);
                _mm_prefetch::<_MM_HINT_T0>(line.cast());
            }
            for half in 0..HALVES {
                let mut w = [sign; R];
                for r in 0..R {
                    w[r] = _mm256_xor_si256(load_words(&rows[r][block][half]), sign);
                }
                for d in 0..D {
                    let q = load_bytes(&digits[d][block][half]);
                    for r in 0..R {
                        part[half % P][d][r] =
                            _mm256_dpbusd_avx_epi32(part[half % P][d][r], w[r], q);
                    }
                }
            }
        }
        for d in 0..D {
            for r in 0..R {
                for part in part {
                    acc[d][first + r] = _mm256_add_epi32(acc[d][first + r], part[d][r]);
                }
            }
        }
    }
    if whole < blocks {
        // Digits behind the last column are zero, whatever stands beside them.
        for r in 0..ROWS {
            let rest = &words[r][whole * HALVES * LANES..len];
            let mut padded: Words = [[0; LANES]; HALVES];
            padded.as_flattened_mut()[..rest.len()].copy_from_slice(rest);
            for half in 0..HALVES {
                let w = _mm256_xor_si256(load_words(&padded[half]), sign);
                for d in 0..D {
                    let q = load_bytes(&digits[d][whole][half]);
                    acc[d][r] = _mm256_dpbusd_avx_epi32(acc[d][r], w, q);
                }
            }
        }
    }
    for d in 0..D {
        sums[d] = reduce(acc[d]);
    }
}
