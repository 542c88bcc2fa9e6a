//! Products of bytes with AVX-512 and its dot products (VNNI).
//!
//! Method: `vpdpbusd` multiplies bytes without a sign by bytes with one, so the table's sign bits are flipped, which adds
//! 128 to each. The digits of one row of x meet a table row after the other, as memory wants it; those of more rows four table
//! rows: up to 24 sums in registers. Nothing saturates.

use std::arch::x86_64::*;

use super::Avx512Vnni;
use super::avx512::{BYTES, LANES, load_bytes, load_some, load_words, reduce};
use crate::cpu::{DigitKernel, ROWS};

const DIGIT_ROWS: usize = 6;
/// Bytes ahead of the table in use, as measured for ternary weights.
const PREFETCH: usize = 4096;

impl DigitKernel for Avx512Vnni {
    fn digit_rows(&self) -> usize {
        DIGIT_ROWS
    }

    fn digit_sums(&self, words: [&[u32]; ROWS], digits: &[&[i8]], sums: &mut [[i32; ROWS]]) {
        // SAFETY: the CPU has the features of these functions, because `self` exists.
        unsafe {
            match digits.len() {
                2 => digit_sums::<2, 1>(words, digits, sums),
                3 => digit_sums::<3, 1>(words, digits, sums),
                4 => digit_sums::<4, ROWS>(words, digits, sums),
                6 => digit_sums::<6, ROWS>(words, digits, sums),
                count => panic!("{count} rows of digits, expected 2, 3, 4 or 6"),
            }
        }
    }
}

/// D rows of digits beside R table rows at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn digit_sums<const D: usize, const R: usize>(
    words: [&[u32]; ROWS],
    digits: &[&[i8]],
    sums: &mut [[i32; ROWS]],
) {
    let len = words[0].len();
    let (whole, rest) = (len / LANES, len % LANES);
    let blocks = len.div_ceil(LANES);
    let digits: [&[[i8; BYTES]]; D] = std::array::from_fn(
        #[inline(always)]
        |d| &digits[d].as_chunks().0[..blocks],
    );
    let sign = _mm512_set1_epi8(i8::MIN);
    // What the next call reads, where rows follow each other.
    let ahead = (R * size_of_val(words[0])).max(PREFETCH);
    let mut acc = [[_mm512_setzero_si512(); ROWS]; D];
    for first in (0..ROWS).step_by(R) {
        let rows: [&[[u32; LANES]]; R] = std::array::from_fn(
            #[inline(always)]
            |r| &words[first + r][..len].as_chunks().0[..whole],
        );
        let next = words[first].as_ptr().wrapping_byte_add(ahead);
        let mut part = [[_mm512_setzero_si512(); R]; D];
        for block in 0..whole {
            let mut w = [sign; R];
            for r in 0..R {
                _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add((block * R + r) * LANES).cast());
                w[r] = _mm512_xor_si512(load_words(&rows[r][block]), sign);
            }
            for d in 0..D {
                let q = load_bytes(&digits[d][block]);
                for r in 0..R {
                    part[d][r] = _mm512_dpbusd_epi32(part[d][r], w[r], q);
                }
            }
        }
        for d in 0..D {
            acc[d][first..first + R].copy_from_slice(&part[d]);
        }
    }
    if rest > 0 {
        // Digits behind the last column are zero, whatever stands beside them.
        for r in 0..ROWS {
            let w = _mm512_xor_si512(load_some(&words[r][len - rest..]), sign);
            for d in 0..D {
                acc[d][r] = _mm512_dpbusd_epi32(acc[d][r], w, load_bytes(&digits[d][whole]));
            }
        }
    }
    for d in 0..D {
        sums[d] = reduce(acc[d]);
    }
}
