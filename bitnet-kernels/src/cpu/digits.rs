//! Products with an int8 table in integers: each number of x becomes some int8 digits.
//!
//! `x ≈ unit · (2¹⁶·d₂ + 2⁸·d₁ + d₀)` with `unit = max|x| / most`: with three digits no number is off by more than 6·10⁻⁸ of its
//! row's largest, what f32 rounds there, too; with two by 1.5·10⁻⁵, enough for a screen. The digits of a row are as many rows of
//! bytes; their sums are exact, so batch, place and threads do not change a bit. With three digits there are three products of
//! bytes for one of floats, but VNNI does 64 where FMA does 16, and nothing is converted. Eight rows of x: half the time.

use std::ops::Range;

use super::simd::compiled;
use super::{Kernel, ROWS, TABLE_BLOCK, threads};
use crate::TableView;

/// Digits of numbers whose products are outputs.
pub(super) const DIGITS: usize = 3;
/// Digits of numbers whose products tell which rows are looked at again.
pub(super) const FEW_DIGITS: usize = 2;
/// Most columns: 255 · 128 · 2¹⁶ < 2³¹.
pub(super) const MOST_COLUMNS: usize = 1 << 16;
/// Table rows that meet all rows of x before the next: with 2560 columns an eighth of a second-level cache.
const BLOCK: usize = 12 * ROWS;
/// Adding 1.5·2⁵² leaves round-ties-even(v) in the low bits, for |v| < 2⁵¹.
const ROUND: f64 = 6_755_399_441_055_744.0;
/// What kernels add to the bytes of a table, to rid them of their sign.
const BIAS: i64 = 128;

/// The inner loop of products of bytes in one instruction set.
pub trait DigitKernel: Sync {
    /// Most rows of digits in one call: a multiple of 2 and of 3.
    fn digit_rows(&self) -> usize;

    /// `sums[d][r] = Σₖ (byte(words[r], k) + 128) · digits[d][k]`, exact up to 2¹⁶ columns. Table bytes are signed.
    ///
    /// # Panics
    ///
    /// Panics unless rows are equally long, and rows of digits as long as they, up to whole blocks of 64, and of as many digits as
    /// some numbers of two or three have.
    fn digit_sums(&self, words: [&[u32]; ROWS], digits: &[&[i8]], sums: &mut [[i32; ROWS]]);
}

/// The largest number whose D digits are at most 127.
pub(super) const fn most<const D: usize>() -> f64 {
    let (mut most, mut digit) = (0.0, 0);
    while digit < D {
        most = most * 256.0 + 127.0;
        digit += 1;
    }
    most
}

/// [`table_linear`](super::table_linear) with a table of int8, of up to [`MOST_COLUMNS`], and D digits.
pub(super) fn table_linear<const D: usize>(
    kernel: &dyn Kernel,
    bytes: &dyn DigitKernel,
    x: &[f32],
    table: &TableView<'_>,
    work: usize,
    out: &mut [f32],
) {
    let x = FixedPoint::<D>::new(kernel, x, table.columns());
    let digits: Vec<_> = x.digits().collect();
    // Equal parts: three rows of x are two and one.
    let count = x.unit.len();
    let tokens = count.div_ceil(count.div_ceil(bytes.digit_rows() / D));
    threads::split(out, table.rows(), ROWS, work, |range, mut out| {
        let row = |n: usize| table.row_words(n.min(range.end - 1));
        let mut sums = vec![[0; ROWS]; BLOCK / ROWS * D * tokens];
        for first in range.clone().step_by(BLOCK) {
            let rows = first..(first + BLOCK).min(range.end);
            let scales = scales(table, &rows);
            for (start, digits) in (0..).step_by(tokens).zip(digits.chunks(D * tokens)) {
                let sums = &mut sums[..rows.len().div_ceil(ROWS) * digits.len()];
                for (n, sums) in rows
                    .clone()
                    .step_by(ROWS)
                    .zip(sums.chunks_exact_mut(digits.len()))
                {
                    bytes.digit_sums(std::array::from_fn(|r| row(n + r)), digits, sums);
                }
                let columns = first - range.start..rows.end - range.start;
                for t in start..start + digits.len() / D {
                    let sums = sums[D * (t - start)..].chunks(digits.len());
                    let out = &mut out[t][columns.clone()];
                    compiled(
                        kernel,
                        #[inline(always)]
                        || x.finish(t, sums, &scales, out),
                    );
                }
            }
        }
    });
}

/// The scales of some rows, in fours.
fn scales(table: &TableView<'_>, rows: &Range<usize>) -> Vec<[f64; ROWS]> {
    let scale = |n: usize| f64::from(table.row_scales(n.min(rows.end - 1))[0]);
    let fours = rows.clone().step_by(ROWS);
    fours
        .map(|n| std::array::from_fn(|r| scale(n + r)))
        .collect()
}

/// Rows of x as digits.
struct FixedPoint<const D: usize> {
    digits: Vec<i8>, // [rows, D, stride], from `start` on
    start: usize,
    stride: usize,
    /// What a one in the last digit stands for; NaN if a row holds NaN or infinity.
    unit: Vec<f64>,
    /// What the bias of the table's bytes adds to the sum of each row.
    excess: Vec<f64>,
}

impl<const D: usize> FixedPoint<D> {
    fn new(kernel: &dyn Kernel, x: &[f32], columns: usize) -> Self {
        let stride = columns.next_multiple_of(TABLE_BLOCK);
        let rows = x.len() / columns;
        // Rows start on a cache line.
        let mut digits = vec![0; rows * D * stride + TABLE_BLOCK];
        let start = digits.as_ptr().align_offset(TABLE_BLOCK).min(TABLE_BLOCK);
        let places = digits[start..].chunks_exact_mut(D * stride);
        let (unit, excess) = x
            .chunks_exact(columns)
            .zip(places)
            .map(|(x, place)| {
                compiled(
                    kernel,
                    #[inline(always)]
                    || split::<D>(x, place, stride),
                )
            })
            .unzip();
        Self {
            digits,
            start,
            stride,
            unit,
            excess,
        }
    }

    /// Rows of digits, D for each row of x, the last digit first.
    fn digits(&self) -> impl Iterator<Item = &[i8]> {
        let all = self.unit.len() * D * self.stride;
        self.digits[self.start..][..all].chunks_exact(self.stride)
    }

    /// Outputs of row `t` from the sums of its digits with four table rows at a time.
    #[inline(always)]
    fn finish<'a>(
        &self,
        t: usize,
        sums: impl Iterator<Item = &'a [[i32; ROWS]]>,
        scales: &[[f64; ROWS]],
        out: &mut [f32],
    ) {
        let (unit, excess) = (self.unit[t], self.excess[t]);
        for ((out, sums), scales) in out.chunks_mut(ROWS).zip(sums).zip(scales) {
            let mut y = [0.0; ROWS];
            for r in 0..ROWS {
                // Integers below 2⁵³ up to the first rounding, that of `· unit`.
                let mut sum = 0.0;
                for d in (0..D).rev() {
                    sum = sum * 256.0 + f64::from(sums[d][r]);
                }
                y[r] = ((sum - excess) * unit * scales[r]) as f32;
            }
            match <&mut [f32; ROWS]>::try_from(&mut *out) {
                Ok(out) => *out = y,
                Err(_) => out.copy_from_slice(&y[..out.len()]),
            }
        }
    }
}

/// Writes the digits of a row, `[digits, stride]`; returns its unit and what the bias adds.
#[inline(always)]
fn split<const D: usize>(x: &[f32], place: &mut [i8], stride: usize) -> (f64, f64) {
    // Without their sign, floats order like their bits, infinity above all numbers and NaN above infinity.
    let largest = x
        .iter()
        .fold(0, |largest: u32, x| largest.max(x.to_bits() & 0x7fff_ffff));
    let largest = f64::from(f32::from_bits(largest));
    if !largest.is_finite() {
        return (f64::NAN, 0.0);
    }
    let scale = if largest > 0.0 {
        most::<D>() / largest
    } else {
        0.0
    };
    let mut sum = 0;
    for (start, x) in (0..).step_by(TABLE_BLOCK).zip(x.chunks(TABLE_BLOCK)) {
        let mut numbers = [0; TABLE_BLOCK];
        for (number, x) in numbers.iter_mut().zip(x) {
            *number = (f64::from(*x) * scale + ROUND).to_bits() as i32;
            sum += i64::from(*number);
        }
        for place in place.chunks_exact_mut(stride) {
            for (digit, number) in place[start..].iter_mut().zip(&mut numbers) {
                *digit = *number as i8;
                *number = (*number - i32::from(*digit)) >> 8;
            }
        }
    }
    (largest / most::<D>(), (BIAS * sum) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::kernels;

    fn digits_are_the_number<const D: usize>(most: f64) {
        let kernel = kernels()[0];
        let x: Vec<f32> = (0..1000)
            .map(|i| (i as f32 * 0.77).sin() * 3.7f32.powi(i % 19 - 9))
            .chain([0.0, f32::MIN_POSITIVE, -2e4, 2e4])
            .collect();
        let fixed = FixedPoint::<D>::new(kernel, &x, x.len());
        let rows: Vec<_> = fixed.digits().collect();
        let unit = fixed.unit[0];
        let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        assert_eq!(unit, f64::from(largest) / most);
        for (i, &x) in x.iter().enumerate() {
            let places = rows.iter().enumerate();
            let digits = places.map(|(d, row)| f64::from(row[i]) * 256f64.powi(d as i32));
            let found = digits.sum::<f64>() * unit;
            assert!(
                (found - f64::from(x)).abs() <= unit * 0.500_001,
                "{x}: {found}"
            );
        }
        assert!(
            rows.iter()
                .all(|row| row[x.len()..].iter().all(|&d| d == 0))
        );
    }

    #[test]
    fn digits_are_the_number_and_half_a_unit_is_the_largest_error() {
        digits_are_the_number::<DIGITS>(f64::from(0x7f_7f_7f));
        digits_are_the_number::<FEW_DIGITS>(f64::from(0x7f_7f));
    }

    #[test]
    fn rows_of_zeros_have_unit_zero_and_damaged_rows_unit_nan() {
        let x = [0.0, 0.0, 1.0, f32::INFINITY, f32::NAN, 1.0, 1e-45, -1e-45];
        let fixed = FixedPoint::<DIGITS>::new(kernels()[0], &x, 2);
        assert_eq!(fixed.unit[0], 0.0);
        assert!(fixed.unit[1].is_nan() && fixed.unit[2].is_nan());
        let high: Vec<_> = fixed.digits().skip(2).step_by(DIGITS).collect();
        assert_eq!((high[0][0], high[3][0], high[3][1]), (0, 127, -127));
    }

    #[test]
    fn sums_of_every_kernel_are_exact_at_any_length_and_at_the_extremes() {
        for kernel in kernels() {
            let Some(bytes) = kernel.digits() else {
                continue;
            };
            for (len, extreme) in [1, 5, 15, 16, 17, 40, 48, MOST_COLUMNS / 4]
                .into_iter()
                .flat_map(|len| [(len, false), (len, true)])
            {
                let mut state = 7u32;
                let mut random = || {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    if extreme { 127 } else { (state >> 24) as i8 }
                };
                let mut row = |len: usize| -> Vec<i8> { (0..len).map(|_| random()).collect() };
                let table: [Vec<i8>; ROWS] = std::array::from_fn(|_| row(4 * len));
                let words = table
                    .each_ref()
                    .map(|row| bytemuck::pod_collect_to_vec(row));
                let mut digits = Vec::new();
                for _ in 0..bytes.digit_rows() {
                    let mut digit = row(4 * len);
                    if extreme {
                        digit.fill(-128);
                    }
                    digit.resize((4 * len).next_multiple_of(TABLE_BLOCK), 0);
                    digits.push(digit);
                }
                let digits: Vec<&[i8]> = digits.iter().map(|digit| &digit[..]).collect();
                let rows = 1..=bytes.digit_rows();
                let rows = rows.filter(|rows| rows % DIGITS == 0 || rows % FEW_DIGITS == 0);
                for digits in rows.map(|rows| &digits[..rows]) {
                    let mut sums = vec![[0; ROWS]; digits.len()];
                    let words = words.each_ref().map(|words: &Vec<u32>| &words[..]);
                    bytes.digit_sums(words, digits, &mut sums);
                    for (digit, sums) in digits.iter().zip(sums) {
                        let expected: [i32; ROWS] = table.each_ref().map(|row| {
                            let products = row.iter().zip(*digit);
                            products
                                .map(|(&w, &d)| (i32::from(w) + 128) * i32::from(d))
                                .sum()
                        });
                        assert_eq!(sums, expected, "{}: {len} words", kernel.name());
                    }
                }
            }
        }
    }
}
