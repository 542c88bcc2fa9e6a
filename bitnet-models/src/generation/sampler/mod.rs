//! Between a row of logits and an id: penalties, filters, then the choice.
//!
//! Invariant: the same settings, seed and sequence number give the same ids, whatever else runs beside the sequence; a
//! row that allows no id is an error, never an arbitrary id.
//!
//! Method: penalties change the row in place, in O(context). Filters drop candidates from a list in id order, by
//! selection instead of sorting. The draw is one ChaCha number per token against the cumulative sum in f64.

mod candidates;
mod config;
mod history;
mod penalties;
mod row;

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub use self::candidates::Candidate;
pub use self::config::SamplingConfig;

pub(super) use self::config::refused;
pub(super) use self::history::History;
pub(super) use self::{penalties::penalize, row::log_softmax};

use self::candidates::Candidates;
use crate::ModelError;

/// Chooses the ids of one sequence.
///
/// Cloning copies the context's token counts and buffers; settings are shared.
///
/// ```
/// use bitnet_models::generation::{Sampler, SamplingConfig};
///
/// let config = SamplingConfig { temperature: 0.8, top_p: 0.95, seed: 7, ..Default::default() };
/// let mut sampler = Sampler::new(&config, 4)?.with_eos(&[3]);
/// let choice = sampler.sample(&mut [0.5, 2.0, 1.0, -3.0], &[1, 2], 0)?;
/// assert!(choice.id < 4);
/// # Ok::<(), bitnet_models::ModelError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    config: Arc<SamplingConfig>,
    eos: Arc<[u32]>,
    vocab: usize,
    sequence: u64,
    rng: ChaCha8Rng,
    history: History,
    candidates: Candidates,
    raw: Vec<f32>,
}

/// A chosen id.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The id.
    pub id: u32,
    /// Log-softmax of the model's own logits at `id`, before any penalty, temperature or filter. `None` unless
    /// [`SamplingConfig::logprobs`] asks for it.
    pub logprob: Option<f32>,
    /// The ids that the model holds most likely, with their log-probabilities of the same kind, best first.
    pub top: Vec<(u32, f32)>,
}

impl Sampler {
    /// A sampler for rows of `vocab` logits, for sequence number 0, knowing no end-of-sequence ids.
    ///
    /// # Errors
    ///
    /// A setting that makes no sense, alone or for this vocabulary.
    pub fn new(config: &SamplingConfig, vocab: usize) -> Result<Self, ModelError> {
        config.check(vocab)?;
        Ok(Self {
            config: Arc::new(config.clone()),
            eos: Arc::default(),
            vocab,
            sequence: 0,
            rng: ChaCha8Rng::seed_from_u64(config.seed),
            history: History::default(),
            candidates: Candidates::default(),
            raw: Vec::new(),
        })
    }

    /// The ids that may not come before [`SamplingConfig::min_new_tokens`].
    #[must_use]
    pub fn with_eos(mut self, eos: &[u32]) -> Self {
        self.eos = eos.into();
        self
    }

    /// Starts anew as the sampler of another sequence of the same request: the stream of random numbers with this
    /// number.
    #[must_use]
    pub fn with_sequence(mut self, sequence: u64) -> Self {
        self.sequence = sequence;
        self.reset();
        self
    }

    /// Back to the first token: forgets the context and begins its random numbers again.
    pub fn reset(&mut self) {
        self.rng = ChaCha8Rng::seed_from_u64(self.config.seed);
        self.rng.set_stream(self.sequence);
        self.history.clear();
    }

    /// The settings.
    pub fn config(&self) -> &SamplingConfig {
        &self.config
    }

    /// How many of a row's largest logits, and all that equal the last of them, decide what [`sample`](Self::sample) chooses, so
    /// that the others may be −∞. `None`: all of them.
    pub fn leading(&self) -> Option<usize> {
        self.config.leading(self.eos.len())
    }

    /// Chooses the next id. `logits` are left as the penalties made them.
    ///
    /// `context` is the whole sequence so far, prompt and generated; `n_generated` counts the latter. Any context is
    /// right, and one that extends the previous call's costs least.
    ///
    /// Temperature 0 takes the largest logit, of equal ones the lowest id.
    ///
    /// # Errors
    ///
    /// Logits with a NaN or an infinity above, or a row in which no id is left.
    ///
    /// # Panics
    ///
    /// If `logits` are not as many as the vocabulary.
    pub fn sample(
        &mut self,
        logits: &mut [f32],
        context: &[u32],
        n_generated: usize,
    ) -> Result<Choice, ModelError> {
        if self.config.logprobs.is_some() {
            self.raw.clear();
            self.raw.extend_from_slice(logits);
        }
        let id = if self.config.temperature == 0.0 {
            self.penalize(logits, context, n_generated);
            row::largest(logits)?.0
        } else {
            self.candidates(logits, context, n_generated)?;
            self.candidates.draw(unit(&mut self.rng))
        };
        self.choice(id)
    }

    /// The ids that [`sample`](Self::sample) would draw from, in id order, with their scores and probabilities; at
    /// temperature 0 every id that is not forbidden.
    ///
    /// # Errors
    ///
    /// As [`sample`](Self::sample).
    ///
    /// # Panics
    ///
    /// As [`sample`](Self::sample).
    pub fn candidates(
        &mut self,
        logits: &mut [f32],
        context: &[u32],
        n_generated: usize,
    ) -> Result<&[Candidate], ModelError> {
        self.penalize(logits, context, n_generated);
        self.candidates.fill(logits, &self.config)?;
        Ok(self.candidates.list())
    }

    fn penalize(&mut self, logits: &mut [f32], context: &[u32], n_generated: usize) {
        assert_eq!(logits.len(), self.vocab, "one logit for each id");
        self.history.follow(context);
        penalize(logits, &self.config, &self.eos, &self.history, n_generated);
    }

    fn choice(&self, id: u32) -> Result<Choice, ModelError> {
        let Some(n) = self.config.logprobs else {
            let (logprob, top) = (None, Vec::new());
            return Ok(Choice { id, logprob, top });
        };
        let (_, max) = row::largest(&self.raw)?;
        let normalizer = row::log_sum_exp(&self.raw, max);
        let logprob = |logit: f32| (f64::from(logit) - normalizer) as f32;
        let top = row::best(&self.raw, n);
        Ok(Choice {
            id,
            logprob: Some(logprob(self.raw[id as usize])),
            top: top.map(|(id, logit)| (id, logprob(logit))).collect(),
        })
    }
}

/// A number in [0, 1), of 53 random bits.
fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(sampler: &mut Sampler, n: usize) -> Vec<u32> {
        let draw = |_| sampler.sample(&mut [0.0; 50], &[], 0).unwrap().id;
        (0..n).map(draw).collect()
    }

    fn sampler(config: SamplingConfig) -> Sampler {
        Sampler::new(&config, 50).unwrap()
    }

    fn warm(seed: u64) -> Sampler {
        sampler(SamplingConfig {
            temperature: 1.0,
            seed,
            ..Default::default()
        })
    }

    #[test]
    fn the_same_seed_draws_the_same_and_reset_begins_again() {
        let mut one = warm(3);
        let first = draws(&mut one, 100);
        assert_ne!(draws(&mut one, 100), first);
        one.reset();
        assert_eq!(draws(&mut one, 100), first);
        assert_eq!(draws(&mut warm(3), 100), first);
        assert_ne!(draws(&mut warm(4), 100), first);
    }

    #[test]
    fn sequences_of_one_seed_draw_independently_of_each_other() {
        let (mut a, mut b) = (warm(3), warm(3).with_sequence(1));
        let (alone_a, alone_b) = (draws(&mut a, 20), draws(&mut b, 20));
        assert_ne!(alone_a, alone_b);
        a.reset();
        b.reset();
        let mixed: Vec<_> = (0..20)
            .map(|_| (draws(&mut b, 1)[0], draws(&mut a, 1)[0]))
            .collect();
        let (mixed_b, mixed_a): (Vec<_>, Vec<_>) = mixed.into_iter().unzip();
        assert_eq!((mixed_a, mixed_b), (alone_a, alone_b));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let mut sampler = warm(0);
        let mut counts = [0; 2];
        for _ in 0..4000 {
            let mut logits = [f32::NEG_INFINITY; 50];
            (logits[7], logits[9]) = (3f32.ln(), 0.0);
            let id = sampler.sample(&mut logits, &[], 0).unwrap().id;
            counts[usize::from(id == 9)] += 1;
        }
        // 3 to 1; the standard deviation of either count is 27.
        assert!((counts[0] - 3000i32).abs() < 140, "{counts:?}");
    }

    #[test]
    fn log_probabilities_are_those_of_the_model_before_any_change() {
        let mut sampler = sampler(SamplingConfig {
            logprobs: Some(2),
            suppress: vec![4],
            repetition_penalty: 5.0,
            ..Default::default()
        });
        let mut logits = [f32::NEG_INFINITY; 50];
        (logits[4], logits[6], logits[8]) = (5f32.ln(), 3f32.ln(), 2f32.ln());
        let choice = sampler.sample(&mut logits, &[6], 1).unwrap();
        assert_eq!(choice.id, 8);
        assert!((choice.logprob.unwrap().exp() - 0.2).abs() < 1e-6);
        assert_eq!(choice.top[0].0, 4);
        assert!((choice.top[1].1.exp() - 0.3).abs() < 1e-6);
        assert_eq!(choice.top.len(), 2);
    }

    #[test]
    fn rows_that_allow_no_id_are_errors() {
        let broken = [f32::NAN, f32::INFINITY];
        let rows = broken.map(|x| {
            let mut row = [0.0; 50];
            row[31] = x;
            row
        });
        for row in rows.into_iter().chain([[f32::NEG_INFINITY; 50]]) {
            for temperature in [0.0, 1.0] {
                let config = SamplingConfig {
                    temperature,
                    ..Default::default()
                };
                let result = sampler(config).sample(&mut row.clone(), &[], 0);
                assert!(matches!(result, Err(ModelError::Request { .. })), "{row:?}");
            }
        }
        let mut all = sampler(SamplingConfig {
            suppress: (0..50).collect(),
            ..Default::default()
        });
        let message = all.sample(&mut [0.0; 50], &[], 0).unwrap_err().to_string();
        assert!(message.contains("`suppress`"), "{message}");
    }

    #[test]
    fn equal_logits_give_the_lowest_id() {
        let mut row = [1.0; 50];
        row[20] = 2.0;
        row[30] = 2.0;
        let choice = sampler(SamplingConfig::default()).sample(&mut row, &[], 0);
        assert_eq!(choice.unwrap().id, 20);
    }

    #[test]
    fn end_of_sequence_waits_for_the_minimum() {
        let config = SamplingConfig {
            min_new_tokens: 2,
            ..Default::default()
        };
        let mut sampler = sampler(config).with_eos(&[5, 6]);
        let mut chosen = |n| {
            let mut row = [0.0; 50];
            (row[5], row[6], row[7]) = (3.0, 2.0, 1.0);
            sampler.sample(&mut row, &[], n).unwrap().id
        };
        assert_eq!([chosen(0), chosen(1), chosen(2)], [7, 7, 5]);
    }
}
