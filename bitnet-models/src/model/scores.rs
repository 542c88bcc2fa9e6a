//! What a model says of texts that it did not write: log-probabilities, perplexity, embeddings.
//!
//! Numbers that are compared are exact: the cache is f32 here, whatever generation uses. Text is read as text, so what
//! looks like a special token in it is none; [`Model::embed`] alone reads it as a prompt.

use std::ops::Range;

use bitnet_kernels::CacheFormat;

use super::Model;
use crate::ModelError;
use crate::generation::{ContextOptions, Likelihood, Score, Windows, embed, score, score_from};
use crate::tokenizer::Special;

impl Model {
    /// What the model says of each token of a text but the first.
    ///
    /// # Errors
    ///
    /// A text of fewer than two tokens, or longer than the context.
    pub fn score(&self, ids: &[u32]) -> Result<Vec<Score>, ModelError> {
        let context = self.whole(ids.len())?;
        score(&self.decoder, ids, context)
    }

    /// The scores of a text of any length, window by window.
    ///
    /// # Errors
    ///
    /// Windows longer than the context; each item, as [`score`](Self::score).
    pub fn score_windows<'a>(
        &'a self,
        ids: &'a [u32],
        windows: Windows,
    ) -> Result<impl Iterator<Item = Result<Vec<Score>, ModelError>> + use<'a>, ModelError> {
        self.whole(windows.size())?;
        let score = move |(window, first): (Range<usize>, usize)| {
            let (place, window) = (first - window.start, &ids[window]);
            score_from(&self.decoder, window, place, self.whole(window.len())?)
        };
        Ok(windows.over(ids.len()).map(score))
    }

    /// How well the model predicts a text, read as text: its special tokens are not recognised.
    ///
    /// # Errors
    ///
    /// Windows longer than the context, a text of fewer than two tokens.
    pub fn likelihood(&self, text: &str, windows: Windows) -> Result<Likelihood, ModelError> {
        let ids = self.encode_text(text)?;
        let mut sum = Likelihood::default();
        for scores in self.score_windows(&ids, windows)? {
            sum.extend(scores?);
        }
        match sum.tokens {
            0 => Err(unscored(text)),
            _ => Ok(sum),
        }
    }

    /// How likely `continuation` is after `context`. Both are encoded together, since the border may lie within a token;
    /// that token counts for the continuation.
    ///
    /// # Errors
    ///
    /// A continuation that adds no token, both together longer than the context.
    pub fn likelihood_after(
        &self,
        context: &str,
        continuation: &str,
    ) -> Result<Likelihood, ModelError> {
        let before = self.encode_text(context)?;
        let ids = self.encode_text(&format!("{context}{continuation}"))?;
        let common = before.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        let first = common.max(1); // nothing stands before the very first token
        if first >= ids.len() {
            return Err(unscored(continuation));
        }
        let scores = score_from(&self.decoder, &ids, first, self.whole(ids.len())?)?;
        Ok(scores.into_iter().collect())
    }

    /// Ids of a text that is nothing but text, begun as a sequence is.
    fn encode_text(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let tokenizer = self.tokenizer()?;
        Ok(tokenizer.begun(tokenizer.encode(text, Special::AsText)?))
    }

    /// Unit vectors for texts: the hidden state of the last token, as the BitNet embedding models are used.
    ///
    /// # Errors
    ///
    /// An empty text, or one longer than the context.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        let rows = texts
            .iter()
            .map(|text| self.encode(text))
            .collect::<Result<Vec<_>, _>>()?;
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        embed(&self.decoder, &rows, self.whole(longest.max(1))?)
    }

    /// A context for a text of known length, in f32: scores are compared, so they are exact.
    fn whole(&self, len: usize) -> Result<ContextOptions, ModelError> {
        let capacity = self.decoder.config().max_positions;
        if len > capacity {
            let needed = len;
            return Err(ModelError::ContextOverflow { capacity, needed });
        }
        Ok(ContextOptions {
            cache: CacheFormat::F32,
            ..ContextOptions::new(len)
        })
    }
}

fn unscored(text: &str) -> ModelError {
    ModelError::Request {
        what: "text to score",
        found: format!("{text:?}, which adds no token to what stands before it"),
        expected: "at least one token after another".into(),
        way_out: "Give more text".into(),
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn tiny() -> Model {
        Model::random("tiny", &Device::flex()).unwrap()
    }

    /// Logits are sums of floats in an order that depends on how many rows are computed at once.
    fn assert_near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-4 * a.abs().max(1.0), "{a} and {b}");
    }

    #[test]
    fn a_window_gives_its_tokens_the_scores_that_they_have_alone() {
        let model = tiny();
        let ids: Vec<u32> = (0..40).map(|at| at * 37 % 256).collect();
        let windows = Windows::new(16, 5).unwrap();
        let all: Result<Vec<_>, _> = model.score_windows(&ids, windows).unwrap().collect();
        for (scores, (window, first)) in all.unwrap().iter().zip(windows.over(ids.len())) {
            let alone = model.score(&ids[window.clone()]).unwrap();
            assert_eq!(scores.len(), window.end - first);
            for (a, b) in scores.iter().rev().zip(alone.iter().rev()) {
                assert_near(a.logprob.into(), b.logprob.into());
            }
        }
        let whole = Windows::new(40, 40).unwrap();
        let whole: Result<Vec<_>, _> = model.score_windows(&ids, whole).unwrap().collect();
        assert_eq!(whole.unwrap(), [model.score(&ids).unwrap()]);
    }

    #[test]
    fn the_likelihood_of_a_continuation_is_that_of_its_parts() {
        let model = tiny();
        let of = |context: &str, text: &str| model.likelihood_after(context, text).unwrap();
        let (whole, first) = (of("The sky is", " blue today"), of("The sky is", " blue"));
        let second = of("The sky is blue", " today");
        assert_near(whole.logprob, first.logprob + second.logprob);
        assert_eq!((whole.tokens, first.tokens, second.tokens), (11, 5, 6));
        assert_near(of("", "text").logprob, {
            let windows = Windows::new(8, 8).unwrap();
            model.likelihood("text", windows).unwrap().logprob
        });
    }

    #[test]
    fn greedy_text_is_known_by_its_scores() {
        let model = tiny();
        let options = crate::GenerateOptions {
            max_new_tokens: 4,
            ignore_eos: true,
            cache: CacheFormat::F32,
            ..crate::GenerateOptions::default()
        };
        let prompt = model.encode("Once").unwrap();
        let mut session = model.session(1, prompt.len(), &options).unwrap();
        let written = model.generate(&mut session, &[&prompt], &options).unwrap();
        let written: Vec<u32> = written.map(|token| token.unwrap().id).collect();
        let scores = model.score(&[&prompt[..], &written].concat()).unwrap();
        assert!(scores[prompt.len() - 1..].iter().all(|score| score.greedy));
    }

    #[test]
    fn what_cannot_be_scored_is_refused() {
        let model = tiny();
        assert!(model.likelihood_after("context", "").is_err());
        let long = Windows::new(513, 513).unwrap();
        let error = model.likelihood("a text", long).unwrap_err();
        assert!(matches!(
            error,
            ModelError::ContextOverflow {
                capacity: 512,
                needed: 513
            }
        ));
        assert!(model.score(&[1]).is_err());
    }
}
