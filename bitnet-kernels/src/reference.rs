//! The oracle: plain loops over trits, slow and obviously right. Called by tests and benches only.
//!
//! Each function is a formula of the papers (arXiv 2402.17764, section 2) with its sums written out. Integer sums are in
//! i32 and exact; float sums are taken in f64 and rounded once, so what they disagree with is the other side's rounding.

use crate::Scale;

/// s = 127 / max(max|x|, 1e-5), q = clamp(round(x·s), -128, 127), ties to even.
///
/// A row that holds NaN gets q = 0 and s = NaN; one that holds infinity, but no NaN, gets q = 0 and s = 0.
pub fn quantize_row(x: &[f32]) -> (Vec<i8>, f32) {
    if x.iter().any(|value| value.is_nan()) {
        return (vec![0; x.len()], f32::NAN);
    }
    if x.iter().any(|value| value.is_infinite()) {
        return (vec![0; x.len()], 0.0);
    }
    let amax = x.iter().fold(0.0f32, |amax, value| amax.max(value.abs()));
    let s = 127.0 / amax.max(1e-5);
    (
        x.iter()
            .map(|value| (value * s).round_ties_even().clamp(-128.0, 127.0) as i8)
            .collect(),
        s,
    )
}

/// Rows of [`quantize_row`], one after the other: q `[rows, d_in]` and s `[rows]`.
pub fn quantize(x: &[f32], d_in: usize) -> (Vec<i8>, Vec<f32>) {
    let (q, s): (Vec<_>, Vec<_>) = x.chunks_exact(d_in).map(quantize_row).unzip();
    (q.concat(), s)
}

/// Σₖ q\[t, k\] · T\[n, k\].
///
/// # Shapes
///
/// - q: `[rows, d_in]`
/// - trits: `[d_out, d_in]`
/// - result: `[rows, d_out]`
pub fn ternary_sums(q: &[i8], trits: &[i8], d_in: usize) -> Vec<i32> {
    let mut sums = Vec::new();
    for q in q.chunks_exact(d_in) {
        for trits in trits.chunks_exact(d_in) {
            sums.push(
                q.iter()
                    .zip(trits)
                    .map(|(&q, &trit)| i32::from(q) * i32::from(trit))
                    .sum(),
            );
        }
    }
    sums
}

/// y = Σₖ q·T / s · w, or with group scales y = (Σ over groups, ascending, of acc_g · w_g) / s.
///
/// # Shapes
///
/// - q: `[rows, d_in]`
/// - s: `[rows]`
/// - trits: `[d_out, d_in]`
/// - result: `[rows, d_out]`
pub fn ternary_linear(q: &[i8], s: &[f32], trits: &[i8], scale: &Scale, d_in: usize) -> Vec<f32> {
    let mut y = Vec::new();
    for (q, s) in q.chunks_exact(d_in).zip(s) {
        for (n, trits) in trits.chunks_exact(d_in).enumerate() {
            y.push(match scale {
                Scale::Tensor(_) | Scale::Row(_) => {
                    ternary_sums(q, trits, d_in)[0] as f32 / s * scale.at(n, 0, d_in)
                }
                Scale::Group { size, .. } => {
                    let mut total = 0.0;
                    for start in (0..d_in).step_by(*size) {
                        let group = start..(start + size).min(d_in);
                        let sum =
                            ternary_sums(&q[group.clone()], &trits[group.clone()], group.len())[0];
                        total += sum as f32 * scale.at(n, start, d_in);
                    }
                    total / s
                }
            });
        }
    }
    y
}

/// y = x · W̃ᵀ with W̃ = scale · T and float activations.
///
/// # Shapes
///
/// - x: `[rows, d_in]`
/// - trits: `[d_out, d_in]`
/// - result: `[rows, d_out]`
pub fn ternary_linear_float(x: &[f32], trits: &[i8], scale: &Scale, d_in: usize) -> Vec<f32> {
    let mut y = Vec::new();
    for x in x.chunks_exact(d_in) {
        for (n, trits) in trits.chunks_exact(d_in).enumerate() {
            let mut sum = 0.0;
            for k in 0..d_in {
                sum += f64::from(x[k]) * f64::from(scale.at(n, k, d_in) * f32::from(trits[k]));
            }
            y.push(sum as f32);
        }
    }
    y
}

/// dx = dy · W̃ with W̃ = scale · T: the gradient of the input.
///
/// # Shapes
///
/// - dy: `[rows, d_out]`
/// - trits: `[d_out, d_in]`
/// - result: `[rows, d_in]`
pub fn ternary_linear_dx(dy: &[f32], trits: &[i8], scale: &Scale, d_in: usize) -> Vec<f32> {
    let d_out = trits.len() / d_in;
    let mut dx = Vec::new();
    for dy in dy.chunks_exact(d_out) {
        for k in 0..d_in {
            let mut sum = 0.0;
            for n in 0..d_out {
                sum += f64::from(dy[n])
                    * f64::from(scale.at(n, k, d_in) * f32::from(trits[n * d_in + k]));
            }
            dx.push(sum as f32);
        }
    }
    dx
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_computed_by_hand() {
        let (q, s) = quantize(&[1.27, -0.64, 0.0, 0.015], 4);
        assert_eq!(
            (q.as_slice(), s[0]),
            ([127, -64, 0, 2].as_slice(), 127.0 / 1.27)
        );
        let trits = [1, 1, 1, 1, -1, 0, 1, -1];
        assert_eq!(ternary_sums(&q, &trits, 4), [65, -129]);
        let y = ternary_linear(&q, &[2.0], &trits, &Scale::Row(vec![3.0, 0.5]), 4);
        assert_eq!(y, [97.5, -32.25]);
        let groups = Scale::Group {
            size: 2,
            values: vec![1.0, 10.0, 0.5, 2.0],
        };
        assert_eq!(
            ternary_linear(&q, &[2.0], &trits, &groups, 4),
            [(63.0 + 20.0) / 2.0, (-63.5 - 4.0) / 2.0]
        );
        assert_eq!(
            ternary_linear_float(&[1.0, 2.0, 3.0, 4.0], &trits, &Scale::Tensor(0.5), 4),
            [5.0, -1.0]
        );
        assert_eq!(
            ternary_linear_dx(&[1.0, 2.0], &trits, &Scale::Tensor(0.5), 4),
            [-0.5, 0.5, 1.5, -0.5]
        );
    }

    #[test]
    fn ties_go_to_even_and_damaged_rows_are_marked() {
        assert_eq!(
            quantize_row(&[127.0, 0.5, 1.5, -2.5]),
            (vec![127, 0, 2, -2], 1.0)
        );
        assert_eq!(quantize_row(&[1.0, f32::NEG_INFINITY]), (vec![0, 0], 0.0));
        let (q, s) = quantize_row(&[f32::INFINITY, f32::NAN]);
        assert!(q == [0, 0] && s.is_nan());
        assert!(ternary_linear(&[0], &[0.0], &[1], &Scale::Tensor(1.0), 1)[0].is_nan());
    }
}
