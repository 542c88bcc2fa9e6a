//! Beam search over log-probabilities, independent of the model that gives them.
//!
//! Invariant: live beams and finished sequences are sorted, best first, and number at most `beams` each. Draws nothing:
//! the same logits give the same beams; of equal candidates the one of the better beam, then of the lower id, is better.
//!
//! Method: the candidates are the best `max(2, 1 + eos ids) · beams` continuations of all live beams. Those that end,
//! and rank among the first `beams`, are finished with `sum / n^length_penalty`; the best others live on. This is the
//! rule of transformers (5.x) for one prompt.

mod config;

pub use self::config::{BeamConfig, EarlyStopping};

use super::sampler::{History, SamplingConfig, log_softmax, penalize, refused};
use super::stop::StopConditions;
use crate::ModelError;

/// A live beam of the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Continuation {
    /// The row of this step's logits, so the row of the cache, that it continues.
    pub parent: usize,
    /// The token to feed.
    pub token: u32,
}

/// A sequence that has come out.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// The generated tokens, with the end-of-sequence id if there is one.
    pub tokens: Vec<u32>,
    /// `Σ log-probability / n^length_penalty`
    pub score: f64,
}

/// The beams of one prompt.
///
/// ```
/// use bitnet_models::generation::{BeamConfig, BeamSearch, SamplingConfig, StopConditions};
///
/// let stop = StopConditions::new(&[2], 5);
/// let settings = SamplingConfig::default();
/// let mut search = BeamSearch::new(&BeamConfig::default(), &settings, &stop, 3, &[0])?;
/// while !search.is_done() {
///     let mut logits = [0.0, 1.0, 2.0].repeat(search.live()); // a model's, for each live beam
///     for beam in search.step(&mut logits)? {
///         assert!(beam.token < 2); // reorder the cache by `beam.parent`, feed `beam.token`
///     }
/// }
/// assert_eq!(search.finish()[0].tokens, [2]);
/// # Ok::<(), bitnet_models::ModelError>(())
/// ```
#[derive(Debug, Clone)]
pub struct BeamSearch {
    config: BeamConfig,
    settings: SamplingConfig,
    stop: StopConditions,
    vocab: usize,
    prompt_len: usize,
    n_generated: usize,
    live: Vec<Beam>,
    finished: Vec<Hypothesis>,
    next: Vec<Continuation>,
    done: bool,
}

#[derive(Debug, Clone)]
struct Beam {
    history: History,
    sum: f64,
}

/// A continuation of a live beam with its summed log-probability.
#[derive(Debug, Clone, Copy)]
struct Scored {
    sum: f64,
    next: Continuation,
}

impl BeamSearch {
    /// A search that begins behind `prompt`, for rows of `vocab` logits. Of `settings` the penalties act, on
    /// log-probabilities; of `stop` the ids and the number of tokens, time is the caller's.
    ///
    /// # Errors
    ///
    /// A setting that makes no sense, alone or for a beam search.
    pub fn new(
        config: &BeamConfig,
        settings: &SamplingConfig,
        stop: &StopConditions,
        vocab: usize,
        prompt: &[u32],
    ) -> Result<Self, ModelError> {
        settings.check(vocab)?;
        if settings.temperature != 0.0 {
            return Err(refused(
                "temperature",
                settings.temperature,
                "0, because a beam search does not draw",
                "Ask for one beam to sample",
            ));
        }
        config.check()?;
        let prompt_beam = Beam {
            history: prompt.iter().collect(),
            sum: 0.0,
        };
        Ok(Self {
            config: config.clone(),
            settings: settings.clone(),
            stop: stop.clone(),
            vocab,
            prompt_len: prompt.len(),
            n_generated: 0,
            live: vec![prompt_beam],
            finished: Vec::new(),
            next: Vec::new(),
            done: stop.max_new_tokens == 0,
        })
    }

    /// How many rows of logits the next step takes: one before the first, then one for each continuation.
    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// Whether no step is left.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Takes one row of logits for each live beam, one after the other, and returns the live beams of the next step,
    /// best first; none if the search is done. The rows are overwritten.
    ///
    /// # Errors
    ///
    /// Rows as [`Sampler::sample`](super::Sampler::sample) refuses them.
    ///
    /// # Panics
    ///
    /// If the search is done, or `logits` are not as many as live beams times the vocabulary.
    pub fn step(&mut self, logits: &mut [f32]) -> Result<&[Continuation], ModelError> {
        assert!(!self.done, "a search that is done takes no step");
        assert_eq!(logits.len(), self.live.len() * self.vocab, "one row a beam");
        let ranked = self.rank(logits)?;
        self.n_generated += 1;
        let at_limit = self.n_generated >= self.stop.max_new_tokens;
        let mut live = Vec::with_capacity(self.config.beams);
        self.next.clear();
        for (rank, Scored { sum, next }) in ranked.into_iter().enumerate() {
            let ends = at_limit || self.stop.eos.contains(&next.token);
            if ends && rank < self.config.beams {
                let mut tokens = self.generated(next.parent).to_vec();
                tokens.push(next.token);
                self.add_finished(tokens, sum);
            } else if !ends && live.len() < self.config.beams {
                let mut history = self.live[next.parent].history.clone();
                history.push(next.token);
                live.push(Beam { history, sum });
                self.next.push(next);
            }
        }
        self.live = live;
        self.done = self.live.is_empty() || self.is_decided();
        if self.done {
            self.next.clear();
        }
        Ok(&self.next)
    }

    /// The best sequences, best first. If the search was not done, live beams count as finished.
    pub fn finish(mut self) -> Vec<Hypothesis> {
        if !self.done {
            for i in 0..self.live.len() {
                self.add_finished(self.generated(i).to_vec(), self.live[i].sum);
            }
        }
        self.finished
    }

    /// The best continuations, best first.
    fn rank(&self, logits: &mut [f32]) -> Result<Vec<Scored>, ModelError> {
        let width = self.config.beams * 2.max(1 + self.stop.eos.len());
        let mut ranked: Vec<Scored> = Vec::with_capacity(width + 1);
        let rows = logits.chunks_exact_mut(self.vocab);
        for (parent, (beam, row)) in self.live.iter().zip(rows).enumerate() {
            log_softmax(row)?;
            let (eos, n) = (&self.stop.eos, self.n_generated);
            penalize(row, &self.settings, eos, &beam.history, n);
            let possible = row
                .iter()
                .enumerate()
                .filter(|(_, x)| **x > f32::NEG_INFINITY);
            for (id, &x) in possible {
                let sum = beam.sum + f64::from(x);
                if ranked.len() < width || ranked.last().is_some_and(|last| sum > last.sum) {
                    let token = id as u32;
                    let next = Continuation { parent, token };
                    let place = ranked.partition_point(|other| other.sum >= sum);
                    ranked.insert(place, Scored { sum, next });
                    ranked.truncate(width);
                }
            }
        }
        if ranked.is_empty() && self.finished.is_empty() {
            return Err(refused(
                "logits",
                "no id that may follow any beam",
                "at least one above -inf",
                "Forbid less: `suppress`, `no_repeat_ngram`, `min_new_tokens`",
            ));
        }
        Ok(ranked)
    }

    fn generated(&self, beam: usize) -> &[u32] {
        &self.live[beam].history.tokens()[self.prompt_len..]
    }

    fn add_finished(&mut self, tokens: Vec<u32>, sum: f64) {
        let score = self.score(sum, tokens.len());
        let place = self.finished.partition_point(|other| other.score >= score);
        self.finished.insert(place, Hypothesis { tokens, score });
        self.finished.truncate(self.config.beams);
    }

    fn score(&self, sum: f64, n: usize) -> f64 {
        sum / (n.max(1) as f64).powf(self.config.length_penalty)
    }

    /// Whether as many sequences are finished as shall come out, and no live beam is expected to replace one.
    fn is_decided(&self) -> bool {
        let full = self.finished.len() == self.config.beams;
        let reachable = match self.config.early_stopping {
            EarlyStopping::Full => return full,
            EarlyStopping::Never if self.config.length_penalty > 0.0 => self.stop.max_new_tokens,
            EarlyStopping::Estimate | EarlyStopping::Never => self.n_generated,
        };
        let hope = self.score(self.live[0].sum, reachable);
        full && self.finished.last().is_none_or(|worst| hope <= worst.score)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(config: &str, eos: &[u32], max_new_tokens: usize) -> BeamSearch {
        let config = serde_json::from_str(config).unwrap();
        let stop = StopConditions::new(eos, max_new_tokens);
        BeamSearch::new(&config, &SamplingConfig::default(), &stop, 3, &[0, 1]).unwrap()
    }

    fn logits(probabilities: &[[f32; 3]]) -> Vec<f32> {
        let all = probabilities.iter().flatten();
        all.map(|p| p.ln()).collect()
    }

    #[test]
    fn two_beams_find_what_greedy_misses() {
        let mut search = search(r#"{ "beams": 2 }"#, &[], 2);
        let step = search.step(&mut logits(&[[0.6, 0.4, 0.0]])).unwrap();
        let [a, b] = [0, 1].map(|token| Continuation { parent: 0, token });
        assert_eq!(step, [a, b]);
        let rows = [[0.4, 0.3, 0.3], [0.0, 0.0, 1.0]];
        assert!(search.step(&mut logits(&rows)).unwrap().is_empty());
        assert!(search.is_done());
        let found = search.finish();
        assert_eq!(found[0].tokens, [1, 2]);
        assert!((found[0].score - 0.4f64.ln() / 2.0).abs() < 1e-6);
        assert_eq!(found[1].tokens, [0, 0]);
    }

    #[test]
    fn an_end_among_the_runners_up_is_dropped() {
        let mut search = search(r#"{ "beams": 1 }"#, &[2], 9);
        assert_eq!(
            search.step(&mut logits(&[[0.5, 0.1, 0.4]])).unwrap().len(),
            1
        );
        assert!(
            search
                .step(&mut logits(&[[0.3, 0.1, 0.6]]))
                .unwrap()
                .is_empty()
        );
        assert_eq!(search.finish()[0].tokens, [0, 2]);
    }

    #[test]
    fn a_search_that_is_interrupted_returns_its_live_beams() {
        let mut search = search(r#"{ "beams": 2 }"#, &[2], 9);
        assert!(search.clone().finish()[0].tokens.is_empty());
        search.step(&mut logits(&[[0.5, 0.3, 0.2]])).unwrap();
        let tokens: Vec<_> = search.finish().into_iter().map(|h| h.tokens).collect();
        assert_eq!(tokens, [[0], [1]]);
    }

    #[test]
    fn nothing_to_generate_is_done_at_once() {
        let search = search("{}", &[], 0);
        assert!(search.is_done());
        assert_eq!(search.finish(), []);
    }

    #[test]
    fn settings_without_meaning_are_refused_by_name() {
        let refusal = |config: BeamConfig, settings: SamplingConfig| {
            let stop = StopConditions::new(&[], 5);
            let search = BeamSearch::new(&config, &settings, &stop, 3, &[]);
            search.unwrap_err().to_string()
        };
        let none = BeamConfig {
            beams: 0,
            ..Default::default()
        };
        assert!(refusal(none, SamplingConfig::default()).starts_with("beams"));
        let endless = BeamConfig {
            length_penalty: f64::NAN,
            ..Default::default()
        };
        assert!(refusal(endless, SamplingConfig::default()).starts_with("length_penalty"));
        let warm = SamplingConfig {
            temperature: 1.0,
            ..Default::default()
        };
        assert!(refusal(BeamConfig::default(), warm).starts_with("temperature"));
    }
}
