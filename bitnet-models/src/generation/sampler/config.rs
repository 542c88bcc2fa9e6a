//! Settings of a sampler, and what values they can have.
//!
//! Invariant: the default is greedy and changes no logit; every setting alone is off at its default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ModelError;

/// How ids are chosen from logits. Fields stand in the order in which they act; `x` is a logit, `prob` the softmax over
/// the ids that the steps before have left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// r: `x < 0 ? x·r : x/r`, once for every id in prompt or output. Off at 1.
    pub repetition_penalty: f64,
    /// f: `x − f·count`, over prompt and output. Off at 0.
    pub frequency_penalty: f64,
    /// p: `x − p` for every id in prompt or output. Off at 0.
    pub presence_penalty: f64,
    /// `x + b` for these ids.
    pub logit_bias: BTreeMap<u32, f64>,
    /// n: forbids what would complete an n-gram that is already in the sequence, prompt included. Off at 0.
    pub no_repeat_ngram: usize,
    /// Forbids the end-of-sequence ids before so many generated tokens.
    pub min_new_tokens: usize,
    /// Forbids these ids.
    pub suppress: Vec<u32>,
    /// t: `x/t`. 0 takes the largest logit, without any of the settings below except `logprobs`.
    pub temperature: f64,
    /// k: drops `x` below the k-th largest; ties with it stay. Off at 0.
    pub top_k: usize,
    /// p: drops the least probable ids as long as they hold at most 1 − p together. Off at 1.
    pub top_p: f64,
    /// p: drops `prob < p·max(prob)`. Off at 0.
    pub min_p: f64,
    /// p: keeps the ids whose information is nearest to the entropy, until they hold p together. Off at 1.
    pub typical_p: f64,
    /// e: drops `prob < e`, never the maximum. Off at 0.
    pub epsilon: f64,
    /// e: drops `prob < min(e, √e·exp(−entropy))`, never the maximum. Off at 0.
    pub eta: f64,
    /// How many ids every filter leaves at least.
    pub min_keep: usize,
    /// Seed of the draws. Sequences of one request draw from different streams of it.
    pub seed: u64,
    /// Reports the log-probability of the chosen id, and so many of the most likely ids with theirs.
    pub logprobs: Option<usize>,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            no_repeat_ngram: 0,
            min_new_tokens: 0,
            suppress: Vec::new(),
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            epsilon: 0.0,
            eta: 0.0,
            min_keep: 1,
            seed: 0,
            logprobs: None,
        }
    }
}

impl SamplingConfig {
    /// How many of the largest logits decide, ties with the last of them included, where `eos` ids may be forbidden. `None`
    /// where all do: penalties and biases move logits, probabilities want the sum over all.
    pub(in crate::generation) fn leading(&self, eos: usize) -> Option<usize> {
        let off = Self::default();
        let unmoved = self.repetition_penalty == off.repetition_penalty
            && self.frequency_penalty == off.frequency_penalty
            && self.presence_penalty == off.presence_penalty
            && self.logit_bias == off.logit_bias
            && self.no_repeat_ngram == off.no_repeat_ngram
            && self.logprobs == off.logprobs;
        let wanted = match (self.temperature == 0.0, self.top_k) {
            (true, _) => 1,
            (false, 0) => return None,
            (false, k) => k.max(self.min_keep),
        };
        let forbidden = self.suppress.len() + if self.min_new_tokens > 0 { eos } else { 0 };
        unmoved.then_some(wanted.saturating_add(forbidden))
    }

    /// Whether every setting makes sense, alone and for this vocabulary.
    pub(in crate::generation) fn check(&self, vocab: usize) -> Result<(), ModelError> {
        let number = |what, x: f64, allowed: bool, expected, way_out| {
            let valid = allowed && x.is_finite();
            valid
                .then_some(())
                .ok_or_else(|| refused(what, x, expected, way_out))
        };
        let (r, t) = (self.repetition_penalty, self.temperature);
        let (off_at_0, off_at_1) = ("0 turns it off", "1 turns it off");
        number(
            "repetition_penalty",
            r,
            r > 0.0,
            "a number above 0",
            off_at_1,
        )?;
        for (what, x) in [
            ("frequency_penalty", self.frequency_penalty),
            ("presence_penalty", self.presence_penalty),
        ] {
            number(what, x, true, "a finite number", off_at_0)?;
        }
        let way_out = "0 chooses the most likely id, 1 samples from the model as it is";
        number("temperature", t, t >= 0.0, "0 or a number above", way_out)?;
        for (what, x, way_out) in [
            ("top_p", self.top_p, off_at_1),
            ("min_p", self.min_p, off_at_0),
            ("typical_p", self.typical_p, off_at_1),
            ("epsilon", self.epsilon, off_at_0),
            ("eta", self.eta, off_at_0),
        ] {
            let fraction = (0.0..=1.0).contains(&x);
            number(what, x, fraction, "a number from 0 to 1", way_out)?;
        }
        if self.min_keep == 0 {
            return Err(refused("min_keep", 0, "at least 1", "1 is the default"));
        }
        if let Some((id, bias)) = self.logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
            return Err(refused(
                "logit_bias",
                format!("{bias} for id {id}"),
                "finite numbers",
                "`suppress` forbids an id",
            ));
        }
        let ids = self.logit_bias.keys().map(|id| ("logit_bias", id));
        let mut ids = ids.chain(self.suppress.iter().map(|id| ("suppress", id)));
        ids.find(|(_, id)| **id as usize >= vocab)
            .map_or(Ok(()), |(what, id)| {
                Err(refused(
                    what,
                    format!("id {id}"),
                    format!("ids below {vocab}, the size of the vocabulary"),
                    "Take the ids from this model's tokenizer",
                ))
            })
    }
}

/// A setting of a request that is refused.
pub(in crate::generation) fn refused(
    what: &'static str,
    found: impl ToString,
    expected: impl ToString,
    way_out: impl ToString,
) -> ModelError {
    ModelError::Request {
        what,
        found: found.to_string(),
        expected: expected.to_string(),
        way_out: way_out.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_greedy_and_valid() {
        assert_eq!(SamplingConfig::default().leading(2), Some(1));
        SamplingConfig::default().check(1).unwrap();
    }

    #[test]
    fn what_is_forbidden_counts_beside_what_is_wanted() {
        let warm = SamplingConfig {
            temperature: 0.7,
            ..Default::default()
        };
        assert_eq!(warm.leading(2), None);
        let top = SamplingConfig { top_k: 40, ..warm };
        assert_eq!(top.leading(2), Some(40));
        let forbids = SamplingConfig {
            suppress: vec![3, 4, 5],
            min_new_tokens: 1,
            ..top.clone()
        };
        assert_eq!(forbids.leading(2), Some(45));
        let moves = SamplingConfig {
            presence_penalty: 0.1,
            ..top
        };
        assert_eq!(moves.leading(2), None);
    }

    #[test]
    fn values_without_meaning_are_refused_by_name() {
        type Change = fn(&mut SamplingConfig);
        let cases: [(&str, Change); 14] = [
            ("temperature", |c| c.temperature = -0.1),
            ("temperature", |c| c.temperature = f64::NAN),
            ("temperature", |c| c.temperature = f64::INFINITY),
            ("top_p", |c| c.top_p = 1.01),
            ("min_p", |c| c.min_p = -0.5),
            ("typical_p", |c| c.typical_p = f64::NAN),
            ("epsilon", |c| c.epsilon = 2.0),
            ("eta", |c| c.eta = -1.0),
            ("repetition_penalty", |c| c.repetition_penalty = 0.0),
            ("frequency_penalty", |c| c.frequency_penalty = f64::INFINITY),
            ("presence_penalty", |c| c.presence_penalty = f64::NAN),
            ("min_keep", |c| c.min_keep = 0),
            ("logit_bias", |c| {
                c.logit_bias.insert(3, f64::NEG_INFINITY);
            }),
            ("suppress", |c| c.suppress = vec![0, 10]),
        ];
        for (what, change) in cases {
            let mut config = SamplingConfig::default();
            change(&mut config);
            let message = config.check(10).unwrap_err().to_string();
            assert!(message.starts_with(what), "{what}: {message}");
        }
    }

    #[test]
    fn settings_are_read_from_json_with_defaults_for_the_rest() {
        let json = r#"{ "temperature": 0.7, "logit_bias": { "3": -1.5 } }"#;
        let config: SamplingConfig = serde_json::from_str(json).unwrap();
        let expected = SamplingConfig {
            temperature: 0.7,
            logit_bias: BTreeMap::from([(3, -1.5)]),
            ..Default::default()
        };
        assert_eq!(config, expected);
        assert!(serde_json::from_str::<SamplingConfig>(r#"{ "temprature": 1 }"#).is_err());
    }
}
