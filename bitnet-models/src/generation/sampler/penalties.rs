//! Changes to single logits: penalties for what was said, biases, forbidden ids.
//!
//! Invariant: costs O(context) and the number of listed ids, whatever the vocabulary. A forbidden id is −∞ and stays so.
//! An id of the context that has no logit (the model reads it but cannot say it) is passed over.

use super::{History, SamplingConfig};

/// Applies every penalty that is on, in the order of the fields of [`SamplingConfig`].
///
/// The row holds logits, or in a beam search their log-softmax.
pub(in crate::generation) fn penalize(
    row: &mut [f32],
    config: &SamplingConfig,
    eos: &[u32],
    history: &History,
    n_generated: usize,
) {
    if config.repetition_penalty != 1.0 {
        repetition(row, history, config.repetition_penalty as f32);
    }
    let (frequency, presence) = (config.frequency_penalty, config.presence_penalty);
    if (frequency, presence) != (0.0, 0.0) {
        occurrence(row, history, frequency as f32, presence as f32);
    }
    for (&id, &bias) in &config.logit_bias {
        change(row, id, |x| x + bias as f32);
    }
    if config.no_repeat_ngram > 0 {
        repeated_ngrams(row, history.tokens(), config.no_repeat_ngram);
    }
    if n_generated < config.min_new_tokens {
        forbid(row, eos.iter().copied());
    }
    forbid(row, config.suppress.iter().copied());
}

fn repetition(row: &mut [f32], history: &History, penalty: f32) {
    for (id, _) in history.counts() {
        change(row, id, |x| if x < 0.0 { x * penalty } else { x / penalty });
    }
}

fn occurrence(row: &mut [f32], history: &History, frequency: f32, presence: f32) {
    for (id, count) in history.counts() {
        change(row, id, |x| x - (frequency * count as f32 + presence));
    }
}

/// Every n-gram of `tokens` that begins as the sequence ends tells one id that may not follow.
fn repeated_ngrams(row: &mut [f32], tokens: &[u32], n: usize) {
    let Some(begin) = (tokens.len() + 1).checked_sub(n) else {
        return;
    };
    let end = &tokens[begin..]; // [n - 1]
    let ngrams = tokens.windows(n).filter(|ngram| ngram.starts_with(end));
    forbid(row, ngrams.map(|ngram| ngram[n - 1]));
}

fn forbid(row: &mut [f32], ids: impl Iterator<Item = u32>) {
    for id in ids {
        change(row, id, |_| f32::NEG_INFINITY);
    }
}

fn change(row: &mut [f32], id: u32, f: impl FnOnce(f32) -> f32) {
    if let Some(x) = row.get_mut(id as usize) {
        *x = f(*x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: f32 = f32::NEG_INFINITY;

    fn penalized(config: &SamplingConfig, row: [f32; 5], context: &[u32]) -> [f32; 5] {
        let (mut row, history) = (row, context.iter().collect());
        penalize(&mut row, config, &[], &history, 0);
        row
    }

    #[test]
    fn repetition_counts_once_and_pushes_both_signs_down() {
        let config = SamplingConfig {
            repetition_penalty: 2.0,
            ..Default::default()
        };
        let row = penalized(&config, [4.0, -4.0, 1.0, NEVER, 0.0], &[0, 1, 1, 3, 4, 99]);
        assert_eq!(row, [2.0, -8.0, 1.0, NEVER, 0.0]);
    }

    #[test]
    fn frequency_counts_and_presence_does_not() {
        let config = SamplingConfig {
            frequency_penalty: 0.5,
            presence_penalty: 0.25,
            ..Default::default()
        };
        let row = penalized(&config, [1.0; 5], &[0, 1, 1]);
        assert_eq!(row, [0.25, -0.25, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn what_would_complete_a_repeated_ngram_is_forbidden() {
        let forbidden = |n, context: &[u32]| {
            let config = SamplingConfig {
                no_repeat_ngram: n,
                ..Default::default()
            };
            let row = penalized(&config, [0.0; 5], context);
            (0..5).filter(|&id| row[id] == NEVER).collect::<Vec<_>>()
        };
        assert_eq!(forbidden(1, &[3, 1, 3]), [1, 3]);
        assert_eq!(forbidden(2, &[1, 2, 1, 3, 1]), [2, 3]);
        assert_eq!(forbidden(3, &[1, 2, 0, 4, 1, 2]), [0]);
        assert!(forbidden(3, &[1, 2, 0, 1]).is_empty());
        assert!(forbidden(2, &[1]).is_empty());
        assert!(forbidden(4, &[]).is_empty());
        assert_eq!(forbidden(4, &[0, 0, 0, 0]), [0]);
    }

    #[test]
    fn suppressed_ids_stay_forbidden_under_a_bias() {
        let config = SamplingConfig {
            logit_bias: [(1, 2.0), (2, -0.5)].into(),
            suppress: vec![1, 4],
            ..Default::default()
        };
        let row = penalized(&config, [0.0; 5], &[]);
        assert_eq!(row, [0.0, NEVER, -0.5, 0.0, NEVER]);
    }
}
