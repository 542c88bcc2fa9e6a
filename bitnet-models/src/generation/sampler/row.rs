//! What one row of logits says: its largest, its normalizer, its best.
//!
//! Invariant: a row with a NaN, with +∞ or with nothing above −∞ is refused here, before anything is chosen from it.
//! Sums are f64: a row has up to 2¹⁷ terms.

use super::refused;
use crate::ModelError;

/// The largest logit, of equal ones the first.
pub(super) fn largest(row: &[f32]) -> Result<(u32, f32), ModelError> {
    let (mut id, mut max) = (0, f32::NEG_INFINITY);
    for (i, &x) in row.iter().enumerate() {
        if x.is_nan() || x == f32::INFINITY {
            return Err(refused(
                "logits",
                format!("{x} for id {i}"),
                "numbers",
                "Penalties, biases or the temperature are too extreme for the number format, or the model has \
                 overflowed: check the checkpoint",
            ));
        }
        if x > max {
            (id, max) = (i, x);
        }
    }
    if max == f32::NEG_INFINITY {
        return Err(refused(
            "logits",
            "no id that may follow",
            "at least one above -inf",
            "Forbid less: `suppress`, `no_repeat_ngram`, `min_new_tokens`",
        ));
    }
    Ok((id as u32, max))
}

/// `ln Σ exp(x)`, with `max` the largest `x`.
pub(super) fn log_sum_exp(row: &[f32], max: f32) -> f64 {
    let sum: f64 = row.iter().map(|x| f64::from((x - max).exp())).sum();
    f64::from(max) + sum.ln()
}

/// Turns logits into log-probabilities.
pub(in crate::generation) fn log_softmax(row: &mut [f32]) -> Result<(), ModelError> {
    let (_, max) = largest(row)?;
    let normalizer = log_sum_exp(row, max);
    for x in row {
        *x = (f64::from(*x) - normalizer) as f32;
    }
    Ok(())
}

/// The `n` largest logits, best first, of equal ones the lower id first.
pub(super) fn best(row: &[f32], n: usize) -> impl Iterator<Item = (u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(n.min(row.len()) + 1);
    for (id, &x) in row.iter().enumerate() {
        if best.len() < n || best.last().is_some_and(|last| x > last.1) {
            best.insert(best.partition_point(|other| other.1 >= x), (id as u32, x));
            best.truncate(n);
        }
    }
    best.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_of_large_logits_sum_to_one() {
        let mut row = [1000.0, 999.0, f32::NEG_INFINITY, 990.0];
        log_softmax(&mut row).unwrap();
        let sum: f32 = row.iter().map(|x| x.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{row:?}");
        assert_eq!(row[2], f32::NEG_INFINITY);
    }

    #[test]
    fn best_are_sorted_and_break_ties_by_id() {
        let row = [1.0, 3.0, 2.0, 3.0, 0.0];
        assert_eq!(
            best(&row, 3).collect::<Vec<_>>(),
            [(1, 3.0), (3, 3.0), (2, 2.0)]
        );
        assert_eq!(best(&row, 0).count(), 0);
        assert_eq!(best(&row, 9).count(), 5);
    }
}
