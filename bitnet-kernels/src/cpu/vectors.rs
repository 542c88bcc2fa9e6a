//! Norm, gate and rotation on the CPU: one pass over slices each, compiled for the kernel's instruction set.
//!
//! Each output depends on its own row alone and is summed in one order: the same bits in any batch on any number of threads.

use super::simd::compiled;
use super::{Kernel, threads};
use crate::Activation;

/// Partial sums of a row: as many as the widest vector has lanes.
const LANES: usize = 16;
/// Work per number, in multiply-adds of a product: these passes wait for memory.
const WORK: usize = 8;

/// `out = γ · (x · (1 / √(mean(x²) + ε)))`, for each row.
///
/// # Shapes
///
/// - x, out: `[rows, d]`
/// - gamma: `[d]`
///
/// # Panics
///
/// Panics if the lengths do not fit.
pub fn rms_norm(kernel: &dyn Kernel, x: &[f32], gamma: &[f32], epsilon: f32, out: &mut [f32]) {
    let d = gamma.len();
    assert!(
        x.len() == out.len() && x.len().is_multiple_of(d),
        "rows of {d}"
    );
    let share = share(x.len() / d, d);
    let jobs = x.chunks(share * d).zip(out.chunks_mut(share * d)).collect();
    threads::run(jobs, |(x, out): (&[f32], &mut [f32])| {
        compiled(
            kernel,
            #[inline(always)]
            || {
                for (x, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
                    let inverse = (sum_of_squares(x) / d as f32 + epsilon).sqrt().recip();
                    for ((out, x), gamma) in out.iter_mut().zip(x).zip(gamma) {
                        *out = x * inverse * gamma;
                    }
                }
            },
        );
    });
}

#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            sums[lane] += block[lane] * block[lane];
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0] + rest.iter().map(|x| x * x).sum::<f32>()
}

/// `gate = activation(gate) · up`.
///
/// # Panics
///
/// Panics if the lengths differ.
pub fn gated(kernel: &dyn Kernel, activation: Activation, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "a gate and what it opens");
    let share = share(gate.len(), 1);
    let jobs = gate.chunks_mut(share).zip(up.chunks(share)).collect();
    threads::run(jobs, |(gate, up): (&mut [f32], &[f32])| {
        compiled(
            kernel,
            #[inline(always)]
            || {
                let pairs = gate.iter_mut().zip(up);
                match activation {
                    Activation::Silu => {
                        pairs.for_each(|(x, up)| *x = *x / (1.0 + (-*x).exp()) * up)
                    }
                    Activation::Relu2 => pairs.for_each(|(x, up)| {
                        let positive = if *x < 0.0 { 0.0 } else { *x }; // NaN stays NaN
                        *x = positive * positive * up;
                    }),
                }
            },
        );
    });
}

/// `(a, b) = (a·cos − b·sin, b·cos + a·sin)` for the halves a and b of each row. Heads lie as in
/// [`cached_attention`](super::cached_attention).
///
/// # Shapes
///
/// - x, out: `[batch, seq, heads, d]`
/// - cos, sin: `[batch or 1, seq or 1, d / 2]`
///
/// # Panics
///
/// Panics if the lengths do not fit.
pub fn rotate(
    kernel: &dyn Kernel,
    [batch, seq, heads, d]: [usize; 4],
    [batches, positions]: [usize; 2],
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    out: &mut [f32],
) {
    let half = d / 2;
    assert!(
        x.len() == batch * heads * seq * d && out.len() == x.len(),
        "rows of {d}"
    );
    assert!(
        cos.len() == batches * positions * half && sin.len() == cos.len(),
        "angles for rows of {d}"
    );
    let rows = batch * heads * seq;
    let share = share(rows, d);
    let jobs = x
        .chunks(share * d)
        .zip(out.chunks_mut(share * d))
        .enumerate();
    threads::run(
        jobs.collect(),
        |(job, (x, out)): (usize, (&[f32], &mut [f32]))| {
            compiled(
                kernel,
                #[inline(always)]
                || {
                    let rows = x.chunks_exact(d).zip(out.chunks_exact_mut(d));
                    for (row, (x, out)) in (job * share..).zip(rows) {
                        let (batch, position) = (row / (heads * seq), row / heads % seq);
                        let at = (batch % batches * positions + position % positions) * half;
                        turn(x, &cos[at..][..half], &sin[at..][..half], out);
                    }
                },
            );
        },
    );
}

/// One row. A function, so that the compiler knows that its slices are different ones.
#[inline(always)]
fn turn(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let half = cos.len();
    let (a, b) = x.split_at(half);
    let (first, second) = out.split_at_mut(half);
    let angles = cos.iter().zip(sin);
    let places = first.iter_mut().zip(second);
    for (((a, b), (cos, sin)), (first, second)) in a.iter().zip(b).zip(angles).zip(places) {
        *first = a * cos - b * sin;
        *second = b * cos + a * sin;
    }
}

/// Rows of `d` numbers for one task.
fn share(rows: usize, d: usize) -> usize {
    rows.div_ceil(threads::tasks(WORK * rows * d)).max(1)
}
