//! The sampler against the reference library's processors and against a plain transcription of their rules.
//!
//! The transcription sorts whole rows and removes by −∞; it shares nothing with the sampler but the formulas.

#[path = "../../bitnet-kernels/tests/support/mod.rs"]
mod fixtures;

use bitnet_models::generation::{Sampler, SamplingConfig};
use fixtures::fixture;
use proptest::prelude::*;
use serde_json::{Map, Value};

const NEVER: f32 = f32::NEG_INFINITY;

/// Two float32 computations of a score in another order.
const RELATIVE: f32 = 1e-4;

/// The settings of a fixture's `params`, at temperature 1 where it names none.
fn config(params: &Map<String, Value>) -> SamplingConfig {
    let ours = |name: &str| {
        match name {
            "epsilon_cutoff" => "epsilon",
            "eta_cutoff" => "eta",
            "no_repeat_ngram_size" => "no_repeat_ngram",
            "suppress_tokens" => "suppress",
            "min_tokens_to_keep" => "min_keep",
            same => same,
        }
        .to_owned()
    };
    let mut settings: Map<String, Value> = params
        .iter()
        .map(|(name, value)| (ours(name), value.clone()))
        .collect();
    settings.entry("temperature").or_insert(1.0.into());
    serde_json::from_value(settings.into()).expect("params are settings")
}

fn floats(values: &Value) -> Vec<f32> {
    let values = values.as_array().expect("a list of numbers");
    let float = |x: &Value| x.as_f64().map_or(NEVER, |x| x as f32);
    values.iter().map(float).collect()
}

/// What a sampler leaves of a row: scores and probabilities, −∞ and 0 where an id is removed.
fn left(config: &SamplingConfig, row: &[f32], context: &[u32]) -> (Vec<f32>, Vec<f64>) {
    let mut sampler = Sampler::new(config, row.len()).expect("valid settings");
    let mut logits = row.to_vec();
    let candidates = sampler.candidates(&mut logits, context, 0);
    let (mut scores, mut probabilities) = (vec![NEVER; row.len()], vec![0.0; row.len()]);
    for candidate in candidates.expect("a row of numbers") {
        scores[candidate.id as usize] = candidate.score;
        probabilities[candidate.id as usize] = candidate.probability;
    }
    (scores, probabilities)
}

fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (id, (&f, &e)) in found.iter().zip(expected).enumerate() {
        let same = f == e || (f - e).abs() <= RELATIVE * e.abs().max(1e-3);
        assert!(same, "{what}: id {id}: found {f}, expected {e}");
    }
}

/// Calls `check` with every case of one kind: the case, its settings, row and context.
fn for_each_case(kind: &str, check: impl Fn(&Value, &SamplingConfig, &[f32], &[u32])) {
    let file: Value = serde_json::from_slice(&fixture("sampling/processors.json")).expect("JSON");
    let cases = file[kind].as_array().expect("a list of cases");
    assert!(!cases.is_empty(), "{kind}");
    for case in cases {
        let row = case["row"].as_str().expect("a name");
        let context: Vec<u32> =
            serde_json::from_value(file["context"][row].clone()).expect("a list of ids");
        let params = case["params"].as_object().expect("settings");
        check(case, &config(params), &floats(&file["rows"][row]), &context);
    }
}

#[test]
fn each_processor_alone_agrees_with_the_reference() {
    for_each_case("single", |case, config, row, context| {
        let what = format!("{} {} {}", case["processor"], case["params"], case["row"]);
        let (scores, _) = left(config, row, context);
        assert_same(&scores, &floats(&case["expected"]), &what);
    });
}

#[test]
fn chains_of_processors_agree_with_the_reference() {
    for_each_case("chains", |case, config, row, context| {
        let what = format!("{} {}", case["params"], case["row"]);
        let (scores, probabilities) = left(config, row, context);
        assert_same(&scores, &floats(&case["expected_logits"]), &what);
        let probabilities: Vec<f32> = probabilities.iter().map(|p| *p as f32).collect();
        assert_same(&probabilities, &floats(&case["expected_probs"]), &what);
    });
}

/// The filters as their rules are written, each on a whole row.
struct Plain(Vec<f32>);

impl Plain {
    fn probabilities(&self) -> Vec<f64> {
        let max = self.0.iter().copied().fold(NEVER, f32::max);
        let weights = self.0.iter().map(|x| f64::from(x - max).exp());
        let sum: f64 = weights.clone().sum();
        weights.map(|w| w / sum).collect()
    }

    fn entropy(&self) -> f64 {
        let p = self.probabilities();
        -p.iter()
            .filter(|p| **p > 0.0)
            .map(|p| p * p.ln())
            .sum::<f64>()
    }

    /// Ids from the largest score down, lower ids first.
    fn descending(&self) -> Vec<usize> {
        let mut ids: Vec<_> = (0..self.0.len()).collect();
        ids.sort_by(|&a, &b| self.0[b].total_cmp(&self.0[a]));
        ids
    }

    fn remove(&mut self, ids: impl IntoIterator<Item = usize>) {
        ids.into_iter().for_each(|id| self.0[id] = NEVER);
    }

    fn remove_improbable(&mut self, cut: f64, min_keep: usize) {
        let (p, order) = (self.probabilities(), self.descending());
        let rest = order[min_keep.min(order.len())..].iter().copied();
        self.remove(rest.filter(|&id| p[id] < cut).collect::<Vec<_>>());
    }

    fn filter(mut self, c: &SamplingConfig) -> Self {
        self.0.iter_mut().for_each(|x| *x /= c.temperature as f32);
        if c.top_k > 0 {
            let order = self.descending();
            let kth = self.0[order[c.top_k.max(c.min_keep).min(order.len()) - 1]];
            self.0
                .iter_mut()
                .filter(|x| **x < kth)
                .for_each(|x| *x = NEVER);
        }
        if c.top_p < 1.0 {
            let (p, order) = (self.probabilities(), self.descending());
            let mut sum = 0.0;
            let small = order.iter().skip(c.min_keep).rev().filter(|id| {
                sum += p[**id];
                sum <= 1.0 - c.top_p
            });
            self.remove(small.copied().collect::<Vec<_>>());
        }
        if c.min_p > 0.0 {
            let max = self.probabilities().into_iter().fold(0.0, f64::max);
            self.remove_improbable(c.min_p * max, c.min_keep);
        }
        if c.typical_p < 1.0 {
            let (p, entropy) = (self.probabilities(), self.entropy());
            let deviation = |id: usize| (-p[id].ln() - entropy).abs();
            let mut order: Vec<_> = (0..p.len()).collect();
            order.sort_by(|&a, &b| deviation(a).total_cmp(&deviation(b)));
            let mut sum = 0.0;
            let prefixes = order.iter().filter(|id| {
                sum += p[**id];
                sum < c.typical_p
            });
            let last = order[prefixes.count().min(p.len() - 1)];
            let rest = order.iter().skip(c.min_keep).copied();
            let far = rest.filter(|&id| deviation(id) > deviation(last));
            self.remove(far.collect::<Vec<_>>());
        }
        if c.epsilon > 0.0 {
            self.remove_improbable(c.epsilon, c.min_keep);
        }
        if c.eta > 0.0 {
            let cut = c.eta.min(c.eta.sqrt() * (-self.entropy()).exp());
            self.remove_improbable(cut, c.min_keep);
        }
        self
    }
}

/// A row of distinct logits with a few forbidden ids, from flat to peaked.
fn rows() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![9 => -4.0f32..4.0, 1 => Just(NEVER)];
    let rows = (prop::collection::vec(logit, 1..60), 0.1f32..8.0);
    rows.prop_map(|(row, scale)| {
        let mut row: Vec<_> = row.into_iter().map(|x| x * scale).collect();
        row[0] = 0.5;
        row
    })
}

fn settings() -> impl Strategy<Value = SamplingConfig> {
    let fraction = |off: f64| prop_oneof![Just(off), 0.01f64..0.99];
    let cut = || prop_oneof![Just(0.0), 0.0001f64..0.2];
    (
        (0.2f64..3.0, 0usize..70, fraction(1.0), fraction(0.0)),
        (fraction(1.0), cut(), cut(), 1usize..4),
    )
        .prop_map(|((temperature, top_k, top_p, min_p), rest)| {
            let (typical_p, epsilon, eta, min_keep) = rest;
            SamplingConfig {
                temperature,
                top_k,
                top_p,
                min_p,
                typical_p,
                epsilon,
                eta,
                min_keep,
                ..Default::default()
            }
        })
}

proptest! {
    #[test]
    fn selection_leaves_what_sorting_leaves(row in rows(), config in settings()) {
        let (scores, _) = left(&config, &row, &[]);
        let expected = Plain(row).filter(&config).0;
        prop_assert_eq!(scores, expected);
    }

    #[test]
    fn probabilities_sum_to_one_over_at_least_the_minimum(row in rows(), config in settings()) {
        let possible = row.iter().filter(|x| **x > NEVER).count();
        let (scores, probabilities) = left(&config, &row, &[]);
        let kept = scores.iter().filter(|x| **x > NEVER).count();
        prop_assert!(kept >= possible.min(config.min_keep));
        prop_assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn equal_logits_are_drawn_from_too(n in 1usize..40, config in settings()) {
        let (_, probabilities) = left(&config, &vec![1.5; n], &[]);
        prop_assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn top_k_of_one_is_greedy(row in rows(), seed in any::<u64>(), temperature in 0.1f64..3.0) {
        let warm = SamplingConfig { temperature, top_k: 1, seed, ..Default::default() };
        let chosen = [warm, SamplingConfig::default()].map(|config| {
            let mut sampler = Sampler::new(&config, row.len()).unwrap();
            sampler.sample(&mut row.clone(), &[], 0).unwrap().id
        });
        prop_assert_eq!(chosen[0], chosen[1]);
    }

    #[test]
    fn draws_depend_on_seed_and_row_alone(row in rows(), mut config in settings(), seed in any::<u64>()) {
        config.seed = seed;
        let mut one = Sampler::new(&config, row.len()).unwrap();
        let mut other = one.clone();
        for n in 0..5 {
            let context = vec![0; n];
            let choice = |sampler: &mut Sampler| {
                sampler.sample(&mut row.clone(), &context, n).unwrap()
            };
            let (a, b) = (choice(&mut one), choice(&mut other));
            prop_assert!(row[a.id as usize] > NEVER);
            prop_assert_eq!(a, b);
        }
    }
}
