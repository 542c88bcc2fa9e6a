//! Quantized rows of activations, in the order a kernel reads them.
//!
//! Per row: amax = max|x|, s = limit / max(amax, 1e-5), q = clamp(round(x·s), -limit - 1, limit), ties to even, in f32 and in
//! this order of operations (arXiv 2402.17764, section 2; `reference::quantize_row` says the same in plain words). Codes
//! of fewer than 8 bits are int8 numbers, too.
//! A row is padded with zeros to whole blocks of the kernel, so that any code that stands beside them adds nothing. Rows
//! for panels stay in their natural order, which is that of a kernel with one lane.

use super::simd::compiled;
use super::{Kernel, MAX_LANES, threads};
use crate::packing::words::{CODES_PER_WORD, words_per_row};

/// Floor of a row's largest magnitude.
const EPSILON: f32 = 1e-5;
/// Adding 1.5·2²³ leaves round-ties-even(v) in the low bits, for |v| < 2²². Baseline SSE2 has no rounding instruction.
const ROUND: f32 = 12_582_912.0;
/// Rows start on a cache line.
const ALIGN: usize = 64;
/// Columns that stay together: the columns 4i..4i+3 of a word.
const QUAD: usize = 4;

/// Quantized activations `[rows, d_in]`, with a scale and a sum for each row.
#[derive(Debug)]
pub struct Activations {
    values: Vec<i8>, // [start + rows · stride]
    start: usize,
    stride: usize,
    scale: Vec<f32>, // [rows]
    sum: Vec<i32>,   // [rows]
    d_in: usize,
    lanes: usize,
}

impl Activations {
    /// Quantizes float rows to codes up to `limit`, see [`ActivationQuantizer::limit`](crate::ActivationQuantizer::limit).
    ///
    /// A row that holds NaN or infinity gets q = 0 and the scale NaN or 0, so that all its outputs are NaN.
    ///
    /// # Shapes
    ///
    /// - x: `[rows, d_in]`
    ///
    /// # Panics
    ///
    /// Panics if `x` is no whole number of rows.
    pub fn quantize(kernel: &dyn Kernel, x: &[f32], d_in: usize, limit: i8) -> Self {
        let most = f32::from(limit);
        Self::build(
            kernel,
            x.len(),
            d_in,
            #[inline(always)]
            |row, lanes, packed| {
                let row = &x[row * d_in..][..d_in];
                let scale = row_scale(row, most);
                // Only finite rows may reach the conversion; the others keep their zeros.
                let sum = if scale.is_normal() {
                    arrange(
                        row,
                        lanes,
                        packed,
                        #[inline(always)]
                        |value| quantize(value, scale, most),
                    )
                } else {
                    0
                };
                (scale, sum)
            },
        )
    }

    /// Takes rows that are quantized already, with the factor s of each: x ≈ q / s.
    ///
    /// # Shapes
    ///
    /// - q: `[rows, d_in]`
    /// - scale: `[rows]`
    ///
    /// # Panics
    ///
    /// Panics if the lengths do not fit each other.
    pub fn from_int8(kernel: &dyn Kernel, q: &[i8], scale: &[f32], d_in: usize) -> Self {
        assert_eq!(
            q.len(),
            scale.len() * d_in,
            "one scale for each row of {d_in} activations"
        );
        Self::build(
            kernel,
            q.len(),
            d_in,
            #[inline(always)]
            |row, lanes, packed| {
                (
                    scale[row],
                    arrange(
                        &q[row * d_in..][..d_in],
                        lanes,
                        packed,
                        #[inline(always)]
                        |value| value,
                    ),
                )
            },
        )
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.scale.len()
    }

    /// Columns of each row.
    pub fn d_in(&self) -> usize {
        self.d_in
    }

    /// The factor s of each row: x ≈ q / s.
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// Σ q of each row.
    pub(super) fn sum(&self) -> &[i32] {
        &self.sum
    }

    /// Row `row` in the kernel's order, whole blocks of `16 · lanes` columns.
    pub(super) fn row(&self, row: usize) -> &[i8] {
        &self.values[self.start + row * self.stride..][..self.stride]
    }

    /// Whether rows are in their natural order, for panels.
    pub(super) fn is_natural(&self) -> bool {
        self.lanes == 1
    }

    /// Panics unless these rows were made for `kernel`.
    pub(super) fn check(&self, kernel: &dyn Kernel) {
        assert!(
            self.is_natural() || self.lanes == kernel.lanes(),
            "activations are in another kernel's order"
        );
    }

    /// Fills all rows in parallel; `fill` gets a row's index, the lanes and its zeroed place, and returns scale and sum.
    fn build(
        kernel: &dyn Kernel,
        len: usize,
        d_in: usize,
        fill: impl Fn(usize, usize, &mut [i8]) -> (f32, i32) + Sync,
    ) -> Self {
        assert!(
            d_in > 0 && len.is_multiple_of(d_in),
            "{len} activations are no rows of {d_in}"
        );
        let rows = len / d_in;
        let panels = kernel.panels().filter(|panels| rows >= panels.panel_from());
        let lanes = panels.map_or(kernel.lanes(), |_| 1);
        let stride = words_per_row(d_in).next_multiple_of(lanes) * CODES_PER_WORD;
        let mut values = vec![0; rows * stride + ALIGN];
        let start = values.as_ptr().align_offset(ALIGN).min(ALIGN);
        let (mut scale, mut sum) = (vec![0.0; rows], vec![0; rows]);

        let share = rows.div_ceil(threads::tasks(8 * len)).max(1);
        let jobs = values[start..]
            .chunks_mut(share * stride)
            .zip(scale.chunks_mut(share).zip(sum.chunks_mut(share)))
            .enumerate()
            .collect();
        threads::run(jobs, |(job, (values, (scale, sum)))| {
            let results = scale.iter_mut().zip(sum);
            for (index, (values, (scale, sum))) in
                values.chunks_exact_mut(stride).zip(results).enumerate()
            {
                (*scale, *sum) = compiled(
                    kernel,
                    #[inline(always)]
                    || fill(job * share + index, lanes, values),
                );
            }
        });
        Self {
            values,
            start,
            stride,
            scale,
            sum,
            d_in,
            lanes,
        }
    }
}

/// What a product with codes up to `limit` sees of its input: q / s for each number of the rows `x [rows, d_in]`; NaN in
/// rows that hold NaN or infinity.
///
/// # Panics
///
/// Panics if `x` is no whole number of rows, or `seen` has another length.
pub fn fake_quantize(kernel: &dyn Kernel, x: &[f32], d_in: usize, limit: i8, seen: &mut [f32]) {
    assert!(x.len().is_multiple_of(d_in) && x.len() == seen.len());
    let most = f32::from(limit);
    let share = (x.len() / d_in)
        .div_ceil(threads::tasks(8 * x.len()))
        .max(1);
    let jobs = x.chunks(share * d_in).zip(seen.chunks_mut(share * d_in));
    threads::run(jobs.collect(), |(x, seen): (&[f32], &mut [f32])| {
        for (x, seen) in x.chunks_exact(d_in).zip(seen.chunks_exact_mut(d_in)) {
            compiled(
                kernel,
                #[inline(always)]
                || {
                    let scale = row_scale(x, most);
                    if !scale.is_normal() {
                        return seen.fill(f32::NAN);
                    }
                    for (seen, x) in seen.iter_mut().zip(x) {
                        *seen = (bounded(x * scale, most) + ROUND - ROUND) / scale;
                    }
                },
            );
        }
    });
}

/// most / max(max|x|, 1e-5); NaN if the row holds NaN, else 0 if it holds infinity.
#[inline(always)]
fn row_scale(row: &[f32], most: f32) -> f32 {
    // Without their sign, floats order like their bits, infinity above all numbers and NaN above infinity.
    let amax = row.iter().fold(0, |amax: u32, value| {
        amax.max(value.to_bits() & 0x7fff_ffff)
    });
    let amax = f32::from_bits(amax);
    if amax.is_nan() {
        f32::NAN
    } else {
        most / amax.max(EPSILON)
    }
}

/// Clamps first and rounds then, which is the same since both bounds are integers.
#[inline(always)]
fn quantize(value: f32, scale: f32, most: f32) -> i8 {
    (bounded(value * scale, most) + ROUND).to_bits() as i8
}

/// `value`, which is not NaN, kept in -most - 1 ..= most. Two instructions: `clamp` would prove its bounds first, and `max`
/// and `min` would look for NaN.
#[inline(always)]
fn bounded(value: f32, most: f32) -> f32 {
    let least = -most - 1.0;
    let value = if value < least { least } else { value };
    if value > most { most } else { value }
}

/// Writes a row in the order for kernels of `lanes`, and returns its sum.
#[inline(always)]
fn arrange<T: Copy>(row: &[T], lanes: usize, packed: &mut [i8], convert: impl Fn(T) -> i8) -> i32 {
    if lanes > 1 {
        return interleave(row, lanes, packed, convert);
    }
    for (q, &value) in packed.iter_mut().zip(row) {
        *q = convert(value);
    }
    packed.iter().map(|&q| i32::from(q)).sum()
}

/// Writes a row in blocks of `[plane][lane][4]` columns, and returns its sum.
#[inline(always)]
fn interleave<T: Copy>(
    row: &[T],
    lanes: usize,
    packed: &mut [i8],
    convert: impl Fn(T) -> i8,
) -> i32 {
    let columns = lanes * CODES_PER_WORD;
    let mut sum = 0;
    for (row, packed) in row.chunks(columns).zip(packed.chunks_exact_mut(columns)) {
        let mut block = [0; MAX_LANES * CODES_PER_WORD];
        for (q, &value) in block.iter_mut().zip(row) {
            *q = convert(value);
        }
        sum += block.iter().map(|&q| i32::from(q)).sum::<i32>();
        let (quads, _) = block[..columns].as_chunks::<QUAD>();
        let (packed, _) = packed.as_chunks_mut::<QUAD>();
        for (lane, word) in quads.chunks_exact(CODES_PER_WORD / QUAD).enumerate() {
            for (plane, &quad) in word.iter().enumerate() {
                packed[plane * lanes + lane] = quad;
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::kernels;

    /// Columns in their natural order again.
    fn natural(activations: &Activations, row: usize) -> Vec<i8> {
        let lanes = activations.lanes;
        let at = |column: usize| {
            let (block, column) = (column / (16 * lanes), column % (16 * lanes));
            block * 16 * lanes + (column % 16 / 4) * 4 * lanes + (column / 16) * 4 + column % 4
        };
        (0..activations.stride)
            .map(|column| activations.row(row)[at(column)])
            .collect()
    }

    #[test]
    fn rows_are_scaled_rounded_to_even_interleaved_and_padded_with_zeros() {
        for kernel in kernels() {
            // amax 127 makes s = 1, so the halves are exact ties.
            let mut x = vec![0.0; 70];
            x[..8].copy_from_slice(&[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, -127.0]);
            x[69] = 3.0;
            let activations = Activations::quantize(kernel, &x, 70, 127);
            let q = natural(&activations, 0);
            assert_eq!(q[..8], [127, 0, 2, 2, 0, -2, -126, -127]);
            assert_eq!(q[69], 3);
            assert!(q[8..69].iter().chain(&q[70..]).all(|&q| q == 0));
            assert_eq!(
                (activations.scale()[0], activations.sum()[0]),
                (1.0, 127 + 4 - 2 - 126 - 127 + 3)
            );
            assert_eq!(activations.row(0).as_ptr().align_offset(ALIGN), 0);
        }
    }

    #[test]
    fn small_rows_are_not_stretched_and_damaged_rows_keep_their_mark() {
        let kernel = kernels()[0];
        let x = [
            3e-6,
            0.0,
            0.0,
            0.0,
            1.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
        ];
        let activations = Activations::quantize(kernel, &x, 2, 127);
        assert_eq!(natural(&activations, 0)[..2], [38, 0]);
        assert_eq!(activations.scale()[1], 127.0 / 1e-5);
        assert_eq!(activations.scale()[2], 0.0);
        assert!(activations.scale()[3].is_nan());
        assert!(
            natural(&activations, 2)
                .iter()
                .chain(&natural(&activations, 3))
                .all(|&q| q == 0)
        );
    }
}
