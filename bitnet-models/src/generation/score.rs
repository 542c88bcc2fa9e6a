//! Log-likelihoods of given tokens, and embeddings: what a model says of text that it did not write.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

use super::{ContextOptions, Session};
use crate::ModelError;
use crate::decoder::Decoder;

/// Rows of the output head computed at once: 64 rows of 128256 logits are 33 MB.
const HEAD_ROWS: usize = 64;

/// What a model says of one given token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Log-probability of the token after those before it.
    pub logprob: f32,
    /// Whether it was the most probable one.
    pub greedy: bool,
}

/// Scores each token of `ids` but the first, which nothing precedes.
///
/// # Errors
///
/// Fewer than two tokens, [`ModelError::ContextOverflow`], ids outside the vocabulary, a model without an output head.
pub fn score(
    decoder: &Decoder,
    ids: &[u32],
    options: ContextOptions,
) -> Result<Vec<Score>, ModelError> {
    score_from(decoder, ids, 1, options)
}

/// Scores the tokens of `ids` from place `first` on; those before are context, for which no logits are computed.
///
/// # Errors
///
/// No such token, or the very first one; as [`score`] otherwise.
pub fn score_from(
    decoder: &Decoder,
    ids: &[u32],
    first: usize,
    options: ContextOptions,
) -> Result<Vec<Score>, ModelError> {
    if !(1..ids.len()).contains(&first) {
        return Err(ModelError::Request {
            what: "text to score",
            found: format!("{} tokens, to be scored from token {first} on", ids.len()),
            expected: "at least one token, and one before it".into(),
            way_out: "The first token has nothing before it. Give more text".into(),
        });
    }
    decoder.check_head()?;
    let mut session = Session::new(decoder, 1, options)?;
    let mut scores = Vec::with_capacity(ids.len() - first);
    let predicting = &ids[..ids.len() - 1];
    session.feed_each(&[predicting], |at, hidden, lengths| {
        let hidden: Tensor<2> = hidden.squeeze_dim(0);
        // The state at `i` predicts the token at `i + 1`.
        for begin in ((first - 1).saturating_sub(at)..lengths[0]).step_by(HEAD_ROWS) {
            let rows = HEAD_ROWS.min(lengths[0] - begin);
            let logits = decoder.logits(hidden.clone().narrow(0, begin, rows));
            let next = &ids[at + begin + 1..][..rows];
            scores.extend(score_rows(logits, next));
        }
        Ok(())
    })?;
    Ok(scores)
}

/// `logits [rows, vocab_size]` against the token that follows each.
fn score_rows(logits: Tensor<2>, next: &[u32]) -> Vec<Score> {
    let [_, vocab] = logits.dims();
    let logprobs = log_softmax(logits, 1).into_data();
    let values: Vec<f32> = logprobs.iter::<f32>().collect();
    let rows = values.chunks_exact(vocab).zip(next);
    rows.map(|(row, &id)| {
        let logprob = row[id as usize];
        Score {
            logprob,
            greedy: row.iter().all(|&other| other <= logprob),
        }
    })
    .collect()
}

/// The hidden state of the last token after the final norm, scaled to length 1.
///
/// # Errors
///
/// No tokens, [`ModelError::ContextOverflow`], ids outside the vocabulary.
pub fn embed(
    decoder: &Decoder,
    rows: &[&[u32]],
    options: ContextOptions,
) -> Result<Vec<Vec<f32>>, ModelError> {
    if rows.iter().any(|row| row.is_empty()) {
        return Err(ModelError::Request {
            what: "text to embed",
            found: "no tokens".into(),
            expected: "at least one".into(),
            way_out: "Leave empty texts out".into(),
        });
    }
    let mut session = Session::new(decoder, rows.len(), options)?;
    let hidden: Vec<f32> = session.feed(rows)?.into_data().iter::<f32>().collect();
    let width = decoder.config().hidden_size;
    let unit = |row: &[f32]| {
        let square: f64 = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let length = square.sqrt().max(1e-12);
        row.iter()
            .map(|x| (f64::from(*x) / length) as f32)
            .collect()
    };
    Ok(hidden.chunks_exact(width).map(unit).collect())
}
