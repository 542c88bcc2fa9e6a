//! Inner loops: a few queries against one block of positions, with the vectors of the CPU through `pulp`.
//!
//! A tile of rows is decoded to floats that stay in the first-level cache and serve all queries. A product `q·k` is summed in
//! the lanes of one vector, then across them; weighted values are summed position by position. Neither order depends on
//! how many queries or rows a loop takes at once.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::rows::{Head, padded};
use crate::cpu::Kernel;
use crate::cpu::simd::vectorize;

/// Positions of a block: the unit in which softmax sums are taken and merged.
pub(super) const BLOCK: usize = 256;
/// Positions that are floats at a time: 16 KiB for heads of 128.
const TILE: usize = 32;
/// Lanes in which the weights of a block are summed.
const LANES: usize = 16;

const _: () = assert!(BLOCK.is_multiple_of(TILE) && TILE.is_multiple_of(LANES));

/// Queries times the scale, in rows padded with zeros.
pub(super) struct Queries {
    rows: Vec<f32>,
    /// Positions that each sees, ascending.
    visible: Vec<usize>,
    stride: usize,
}

impl Queries {
    pub(super) fn new(count: usize, head_dim: usize) -> Self {
        let stride = padded(head_dim);
        Self {
            rows: vec![0.0; count * stride],
            visible: vec![0; count],
            stride,
        }
    }

    pub(super) fn set(&mut self, at: usize, q: &[f32], scale: f32, visible: usize) {
        for (row, q) in self.rows[at * self.stride..].iter_mut().zip(q) {
            *row = q * scale;
        }
        self.visible[at] = visible;
    }
}

/// The softmax of some queries over some positions: largest score, sum of weights, weighted values.
#[derive(Clone)]
pub(super) struct Partial {
    largest: Vec<f32>,
    sum: Vec<f32>,
    values: Vec<f32>, // [queries, stride]
    stride: usize,
}

impl Partial {
    /// Over no positions.
    pub(super) fn new(queries: usize, head_dim: usize) -> Self {
        let stride = padded(head_dim);
        Self {
            largest: vec![f32::NEG_INFINITY; queries],
            sum: vec![0.0; queries],
            values: vec![0.0; queries * stride],
            stride,
        }
    }

    /// Joins that of the positions that follow.
    pub(super) fn merge(&mut self, next: &Self) {
        for query in 0..self.sum.len() {
            // Nothing was visible there.
            if next.sum[query] == 0.0 {
                continue;
            }
            let largest = self.largest[query].max(next.largest[query]);
            let ours = exp(self.largest[query] - largest);
            let theirs = exp(next.largest[query] - largest);
            self.largest[query] = largest;
            self.sum[query] = self.sum[query] * ours + next.sum[query] * theirs;
            let row = query * self.stride..(query + 1) * self.stride;
            for (value, next) in self.values[row.clone()].iter_mut().zip(&next.values[row]) {
                *value = *value * ours + next * theirs;
            }
        }
    }

    /// The output of one query.
    pub(super) fn output(&self, query: usize, out: &mut [f32]) {
        for (out, value) in out.iter_mut().zip(&self.values[query * self.stride..]) {
            *out = value / self.sum[query];
        }
    }
}

/// Attends to the blocks one by one and shows `emit` the partial of each.
pub(super) fn run(
    kernel: &dyn Kernel,
    queries: &Queries,
    keys: Head<'_>,
    values: Head<'_>,
    blocks: Range<usize>,
    emit: &mut dyn FnMut(&Partial),
) {
    let count = queries.visible.len();
    let mut tile = vec![0.0; TILE * queries.stride];
    let mut weights = vec![0.0; count * BLOCK];
    let mut partial = Partial::new(count, queries.stride);
    for block in blocks {
        let block = Block {
            queries,
            keys,
            values,
            first: block * BLOCK,
            tile: &mut tile,
            weights: &mut weights,
            partial: &mut partial,
        };
        vectorize(kernel, block);
        emit(&partial);
    }
}

/// One block of positions.
struct Block<'a> {
    queries: &'a Queries,
    keys: Head<'a>,
    values: Head<'a>,
    first: usize,
    tile: &'a mut [f32],    // [TILE, stride]
    weights: &'a mut [f32], // [queries, BLOCK]
    partial: &'a mut Partial,
}

impl Block<'_> {
    /// Rows of this block that a query sees.
    #[inline(always)]
    fn seen(&self, query: usize) -> usize {
        let seen = self.queries.visible[query].saturating_sub(self.first);
        seen.min(BLOCK)
    }

    /// What of `len` rows from `at` on is seen: by four neighbouring queries in common, then by single ones.
    #[inline(always)]
    fn strips(&self, at: usize, len: usize) -> impl Iterator<Item = Strip> {
        let count = self.queries.visible.len();
        let own = move |query| self.seen(query).saturating_sub(at).min(len);
        let strips = (0..count).step_by(FOUR).flat_map(move |first| {
            let many = first + FOUR <= count;
            let common = if many { own(first) } else { 0 };
            let singles = (first..(first + FOUR).min(count)).map(move |query| Strip {
                query,
                many: false,
                rows: common..own(query),
            });
            let many = many.then_some(Strip {
                query: first,
                many: true,
                rows: 0..common,
            });
            many.into_iter().chain(singles)
        });
        strips.filter(|strip| !strip.rows.is_empty())
    }
}

/// Queries that share the loads of a row.
const FOUR: usize = 4;

/// Rows of a tile that one query, or four from it on, have to do with.
struct Strip {
    query: usize,
    many: bool,
    rows: Range<usize>,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let stride = self.queries.stride;
        let count = self.queries.visible.len();
        let rows = self.seen(count - 1);
        let tile = std::mem::take(&mut self.tile);
        let weights = std::mem::take(&mut self.weights);
        let mut sums = std::mem::take(&mut self.partial.values);

        for at in (0..rows).step_by(TILE) {
            let len = TILE.min(rows - at);
            self.keys.decode(self.first + at, &mut tile[..len * stride]);
            for Strip { query, many, rows } in self.strips(at, len) {
                let q = &self.queries.rows[query * stride..];
                let k = &tile[rows.start * stride..rows.end * stride];
                let scores = &mut weights[query * BLOCK + at + rows.start..];
                if many {
                    scores_of::<S, FOUR, 2>(simd, q, k, stride, scores);
                } else {
                    scores_of::<S, 1, 8>(simd, q, k, stride, scores);
                }
            }
        }

        let key_scales = self.keys.scales(self.first, rows);
        let value_scales = self.values.scales(self.first, rows);
        for query in 0..count {
            let scores = &mut weights[query * BLOCK..][..BLOCK];
            (self.partial.largest[query], self.partial.sum[query]) =
                softmax(scores, self.seen(query), key_scales, value_scales);
        }

        sums.fill(0.0);
        for at in (0..rows).step_by(TILE) {
            let len = TILE.min(rows - at);
            self.values
                .decode(self.first + at, &mut tile[..len * stride]);
            for Strip { query, many, rows } in self.strips(at, len) {
                let v = &tile[rows.start * stride..rows.end * stride];
                let weights = &weights[query * BLOCK + at + rows.start..];
                let out = &mut sums[query * stride..];
                if many {
                    add_values::<S, FOUR, 2>(simd, weights, v, stride, out);
                } else {
                    add_values::<S, 1, 8>(simd, weights, v, stride, out);
                }
            }
        }
        self.partial.values = sums;
    }
}

/// Products of `Q` queries with all rows of `k`, `K` rows at a time: `scores[i · BLOCK + j] = q_i · k_j`.
#[inline(always)]
fn scores_of<S: Simd, const Q: usize, const K: usize>(
    simd: S,
    q: &[f32],
    k: &[f32],
    stride: usize,
    scores: &mut [f32],
) {
    let rows = k.len() / stride;
    let whole = rows - rows % K;
    for at in (0..whole).step_by(K) {
        dots::<S, Q, K>(simd, q, &k[at * stride..], stride, &mut scores[at..]);
    }
    for at in whole..rows {
        dots::<S, Q, 1>(simd, q, &k[at * stride..], stride, &mut scores[at..]);
    }
}

#[inline(always)]
fn dots<S: Simd, const Q: usize, const K: usize>(
    simd: S,
    q: &[f32],
    k: &[f32],
    stride: usize,
    scores: &mut [f32],
) {
    let q: [&[S::f32s]; Q] = std::array::from_fn(|i| S::as_simd_f32s(&q[i * stride..][..stride]).0);
    let k: [&[S::f32s]; K] = std::array::from_fn(|j| S::as_simd_f32s(&k[j * stride..][..stride]).0);
    let mut sums = [[simd.splat_f32s(0.0); K]; Q];
    for c in 0..q[0].len() {
        for i in 0..Q {
            for j in 0..K {
                sums[i][j] = simd.mul_add_e_f32s(q[i][c], k[j][c], sums[i][j]);
            }
        }
    }
    for i in 0..Q {
        for j in 0..K {
            scores[i * BLOCK + j] = simd.reduce_sum_f32s(sums[i][j]);
        }
    }
}

/// Adds the rows of `v`, weighted, to `Q` rows of `out`, `C` vectors of columns at a time.
#[inline(always)]
fn add_values<S: Simd, const Q: usize, const C: usize>(
    simd: S,
    weights: &[f32],
    v: &[f32],
    stride: usize,
    out: &mut [f32],
) {
    let width = S::as_simd_f32s(&v[..stride]).0.len();
    let whole = width - width % C;
    for column in (0..whole).step_by(C) {
        add_columns::<S, Q, C>(simd, weights, v, stride, column, out);
    }
    for column in whole..width {
        add_columns::<S, Q, 1>(simd, weights, v, stride, column, out);
    }
}

#[inline(always)]
fn add_columns<S: Simd, const Q: usize, const C: usize>(
    simd: S,
    weights: &[f32],
    v: &[f32],
    stride: usize,
    column: usize,
    out: &mut [f32],
) {
    let mut sums = [[simd.splat_f32s(0.0); C]; Q];
    for i in 0..Q {
        let out = S::as_simd_f32s(&out[i * stride..][..stride]).0;
        sums[i].copy_from_slice(&out[column..column + C]);
    }
    for (row, v) in v.chunks_exact(stride).enumerate() {
        let v = &S::as_simd_f32s(v).0[column..column + C];
        for i in 0..Q {
            let weight = simd.splat_f32s(weights[i * BLOCK + row]);
            for c in 0..C {
                sums[i][c] = simd.mul_add_e_f32s(weight, v[c], sums[i][c]);
            }
        }
    }
    for i in 0..Q {
        let out = S::as_mut_simd_f32s(&mut out[i * stride..][..stride]).0;
        out[column..column + C].copy_from_slice(&sums[i]);
    }
}

/// Turns the scores of the rows seen into weights; returns the largest score and the sum of the weights.
///
/// int8 rows are decoded without their scales: a key's scale belongs to its score, a value's to its weight.
#[inline(always)]
fn softmax(
    scores: &mut [f32],
    seen: usize,
    key_scales: Option<&[f32]>,
    value_scales: Option<&[f32]>,
) -> (f32, f32) {
    let scores = &mut scores[..seen.next_multiple_of(LANES)];
    if let Some(scales) = key_scales {
        for (score, scale) in scores[..seen].iter_mut().zip(scales) {
            *score *= scale;
        }
    }
    scores[seen..].fill(f32::NEG_INFINITY);
    let mut largest = [f32::NEG_INFINITY; LANES];
    for scores in scores.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let score = scores[lane];
            largest[lane] = if score > largest[lane] {
                score
            } else {
                largest[lane]
            };
        }
    }
    let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0; LANES];
    for scores in scores.as_chunks_mut::<LANES>().0 {
        for lane in 0..LANES {
            scores[lane] = exp(scores[lane] - largest);
            sums[lane] += scores[lane];
        }
    }
    if let Some(scales) = value_scales {
        for (weight, scale) in scores[..seen].iter_mut().zip(scales) {
            *weight *= scale;
        }
    }
    (largest, sums.into_iter().sum())
}

/// e^x for x up to 0, within 2 units in the last place; 0 below -87. Straight code, so that the compiler can vectorize it.
///
/// Method: x = n·ln 2 + r with |r| < 0.35, Taylor's series for e^r, and n into the exponent.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding 1.5·2²³ leaves round-ties-even(v) in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with few bits, so that its products with n are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const ONE: u32 = 1.0f32.to_bits();
    let n = x * std::f32::consts::LOG2_E + ROUND;
    let exponent = n.to_bits() << 23;
    let n = n - ROUND;
    let r = x - n * LN_2[0] - n * LN_2[1];
    let series = 1.0 / 120.0 + r * (1.0 / 720.0);
    let series = 0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * series));
    let power = 1.0 + r * (1.0 + r * series);
    let value = power * f32::from_bits(exponent.wrapping_add(ONE));
    if x < -87.0 { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_exact_one_and_zero_far_below() {
        for step in 0..=87_000 {
            let x = -(step as f32) / 1000.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "{x}");
        }
        assert_eq!(
            (exp(0.0), exp(-87.5), exp(f32::NEG_INFINITY)),
            (1.0, 0.0, 0.0)
        );
        assert!(exp(f32::NAN).is_nan());
    }
}
