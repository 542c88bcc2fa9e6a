//! `Likelihood`: scores of many tokens in sum. `Windows`: how a text longer than the context is cut for scoring.
//!
//! Invariant: windows score no token twice. Windows that overlap score every token but the first, each after at least
//! `window - stride` others unless the text has fewer; windows that do not leave out the first token of each.

use std::ops::Range;

use super::Score;
use super::sampler::refused;
use crate::ModelError;

/// What scores come to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likelihood {
    /// Tokens that were scored.
    pub tokens: usize,
    /// The sum of their log-probabilities.
    pub logprob: f64,
    /// Whether each was the most probable one, so that greedy decoding would have written them.
    pub greedy: bool,
}

impl Default for Likelihood {
    fn default() -> Self {
        Self {
            tokens: 0,
            logprob: 0.0,
            greedy: true,
        }
    }
}

impl Likelihood {
    /// `exp(-Σ log p / n)` over the n tokens; not a number without any.
    pub fn perplexity(&self) -> f64 {
        (-self.logprob / self.tokens as f64).exp()
    }

    /// `-Σ log₂ p / n`; not a number without tokens.
    pub fn bits_per_token(&self) -> f64 {
        -self.logprob / std::f64::consts::LN_2 / self.tokens as f64
    }
}

impl Extend<Score> for Likelihood {
    fn extend<I: IntoIterator<Item = Score>>(&mut self, scores: I) {
        for score in scores {
            self.tokens += 1;
            self.logprob += f64::from(score.logprob);
            self.greedy &= score.greedy;
        }
    }
}

impl FromIterator<Score> for Likelihood {
    fn from_iter<I: IntoIterator<Item = Score>>(scores: I) -> Self {
        let mut sum = Self::default();
        sum.extend(scores);
        sum
    }
}

/// Windows of `size` tokens, each beginning `stride` tokens after the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    size: usize,
    stride: usize,
}

impl Windows {
    /// Windows; a `stride` of `size` gives windows that do not overlap.
    ///
    /// # Errors
    ///
    /// A size below two, a stride of zero or beyond the size.
    pub fn new(size: usize, stride: usize) -> Result<Self, ModelError> {
        if size < 2 {
            return Err(refused(
                "window",
                format!("{size} tokens"),
                "at least 2",
                "The first token of a window has nothing before it. Use longer windows",
            ));
        }
        if !(1..=size).contains(&stride) {
            return Err(refused(
                "stride of windows",
                format!("{stride} tokens"),
                format!("1 to {size}, the length of a window"),
                "Half a window is a good stride",
            ));
        }
        Ok(Self { size, stride })
    }

    /// Tokens of a window.
    pub const fn size(self) -> usize {
        self.size
    }

    /// Tokens from the beginning of one window to that of the next.
    pub const fn stride(self) -> usize {
        self.stride
    }

    /// Each window over `len` tokens that has something to score, and the place of the first token that it scores.
    pub fn over(self, len: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
        let mut next = Some(0);
        let mut scored = 0;
        let windows = std::iter::from_fn(move || {
            let begin = next?;
            let end = (begin + self.size).min(len);
            let first = scored.max(begin + 1);
            scored = end;
            next = (end < len).then_some(begin + self.stride);
            Some((begin..end, first))
        });
        windows.filter(|(window, first)| *first < window.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn over(size: usize, stride: usize, len: usize) -> Vec<(Range<usize>, usize)> {
        Windows::new(size, stride).unwrap().over(len).collect()
    }

    #[test]
    fn windows_that_do_not_overlap_leave_out_their_first_token() {
        assert_eq!(over(4, 4, 10), [(0..4, 1), (4..8, 5), (8..10, 9)]);
        assert_eq!(
            over(4, 4, 9),
            [(0..4, 1), (4..8, 5)],
            "one token alone has no score"
        );
    }

    #[test]
    fn windows_that_overlap_score_what_is_new() {
        assert_eq!(over(4, 2, 9), [(0..4, 1), (2..6, 4), (4..8, 6), (6..9, 8)]);
        assert_eq!(over(4, 3, 4), [(0..4, 1)]);
        assert_eq!(over(4, 2, 1), []);
        assert_eq!(over(4, 2, 0), []);
    }

    #[test]
    fn windows_that_make_no_sense_are_refused() {
        for (size, stride) in [(1, 1), (0, 0), (4, 0), (4, 5)] {
            assert!(Windows::new(size, stride).is_err(), "{size} {stride}");
        }
    }

    #[test]
    fn perplexity_is_the_inverse_of_the_mean_probability() {
        let score = |p: f32, greedy| Score {
            logprob: p.ln(),
            greedy,
        };
        let sum: Likelihood = [score(0.5, true), score(0.125, false)]
            .into_iter()
            .collect();
        assert_eq!((sum.tokens, sum.greedy), (2, false));
        assert!((sum.perplexity() - 4.0).abs() < 1e-6, "√(2 · 8)");
        assert!((sum.bits_per_token() - 2.0).abs() < 1e-6);
        assert!(Likelihood::default().perplexity().is_nan());
    }

    proptest! {
        #[test]
        fn overlapping_windows_score_each_token_but_the_first_once(
            size in 2usize..40, stride in 1usize..40, len in 2usize..200,
        ) {
            prop_assume!(stride < size);
            let mut scored = Vec::new();
            for (window, first) in over(size, stride, len) {
                prop_assert!(window.len() <= size && window.start < first);
                let before = first - window.start;
                prop_assert!(first == 1 || before >= size - stride, "{before} tokens before");
                scored.extend(first..window.end);
            }
            prop_assert_eq!(scored, (1..len).collect::<Vec<_>>());
        }
    }
}
