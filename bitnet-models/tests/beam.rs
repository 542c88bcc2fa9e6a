//! Beam search and penalized greedy decoding against plain transcriptions of their rules, on toy models: tables of
//! random logits for each position and last two tokens.

use bitnet_models::generation::{
    BeamConfig, BeamSearch, EarlyStopping, Hypothesis, Sampler, SamplingConfig, StopConditions,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Float32 log-probabilities against f64.
const TOLERANCE: f64 = 1e-4;

/// A model that knows two tokens of context and the position: without it, sequences of the same transitions in another
/// order would have equal scores.
struct Toy {
    vocab: usize,
    table: Vec<f32>,
}

impl Toy {
    fn new(vocab: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut logit = || (rng.next_u32() as f32 / u32::MAX as f32 - 0.5) * 6.0;
        let table = (0..POSITIONS * vocab.pow(3)).map(|_| logit()).collect();
        Self { vocab, table }
    }

    fn logits(&self, sequence: &[u32]) -> &[f32] {
        let last = |n: usize| sequence[sequence.len() - n] as usize;
        let position = sequence.len() - PROMPT.len();
        let row = ((position * self.vocab + last(2)) * self.vocab + last(1)) * self.vocab;
        &self.table[row..row + self.vocab]
    }
}

const PROMPT: [u32; 3] = [1, 3, 2];

/// The longest generated sequence.
const POSITIONS: usize = 12;

/// Log-softmax, then the penalties of the settings that are used here, each as its rule is written.
fn log_probabilities(toy: &Toy, c: &SamplingConfig, eos: &[u32], sequence: &[u32]) -> Vec<f64> {
    let logits: Vec<f64> = toy.logits(sequence).iter().map(|x| f64::from(*x)).collect();
    let sum: f64 = logits.iter().map(|x| x.exp()).sum();
    let scores = logits.iter().map(|x| x - sum.ln()).collect();
    penalized(scores, c, eos, sequence)
}

fn penalized(mut scores: Vec<f64>, c: &SamplingConfig, eos: &[u32], sequence: &[u32]) -> Vec<f64> {
    for (id, x) in scores.iter_mut().enumerate() {
        let id = id as u32;
        let count = sequence.iter().filter(|&&token| token == id).count();
        if count > 0 {
            *x = if *x < 0.0 {
                *x * c.repetition_penalty
            } else {
                *x / c.repetition_penalty
            };
            *x -= c.frequency_penalty * count as f64 + c.presence_penalty;
        }
        let with_id = [sequence, &[id]].concat();
        let n = c.no_repeat_ngram;
        let repeats = n > 0 && with_id.len() >= n && {
            let ngram = &with_id[with_id.len() - n..];
            sequence.windows(n).any(|window| window == ngram)
        };
        let early = eos.contains(&id) && sequence.len() - PROMPT.len() < c.min_new_tokens;
        if repeats || early {
            *x = f64::NEG_INFINITY;
        }
    }
    scores
}

/// The rules of beam search with every sequence written out and everything sorted.
fn plain(
    toy: &Toy,
    config: &BeamConfig,
    c: &SamplingConfig,
    stop: &StopConditions,
) -> Vec<Hypothesis> {
    let beams = config.beams;
    let normalized = |sum: f64, n: usize| sum / (n as f64).powf(config.length_penalty);
    let mut live = vec![(PROMPT.to_vec(), 0.0)];
    let mut finished: Vec<(Vec<u32>, f64)> = Vec::new();
    for n in 1..=stop.max_new_tokens {
        let mut all = Vec::new();
        for (sequence, sum) in &live {
            let row = log_probabilities(toy, c, &stop.eos, sequence);
            for (id, x) in row.into_iter().enumerate() {
                all.push(([sequence.as_slice(), &[id as u32]].concat(), sum + x));
            }
        }
        all.retain(|(_, sum)| sum.is_finite());
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(beams * (1 + stop.eos.len()).max(2));
        let ends = |sequence: &[u32]| {
            n == stop.max_new_tokens || stop.eos.contains(&sequence[sequence.len() - 1])
        };
        for (sequence, sum) in all.iter().take(beams) {
            if ends(sequence) {
                finished.push((sequence[PROMPT.len()..].to_vec(), normalized(*sum, n)));
            }
        }
        finished.sort_by(|a, b| b.1.total_cmp(&a.1));
        finished.truncate(beams);
        live = all
            .into_iter()
            .filter(|(sequence, _)| !ends(sequence))
            .take(beams)
            .collect();
        if live.is_empty() {
            break;
        }
        if finished.len() == beams {
            let length = match config.early_stopping {
                EarlyStopping::Full => break,
                EarlyStopping::Never if config.length_penalty > 0.0 => stop.max_new_tokens,
                _ => n,
            };
            if normalized(live[0].1, length) <= finished[beams - 1].1 {
                break;
            }
        }
    }
    let hypothesis = |(tokens, score)| Hypothesis { tokens, score };
    finished.into_iter().map(hypothesis).collect()
}

/// The search, driven as a generation loop drives it.
fn searched(
    toy: &Toy,
    config: &BeamConfig,
    c: &SamplingConfig,
    stop: &StopConditions,
) -> Vec<Hypothesis> {
    let mut search = BeamSearch::new(config, c, stop, toy.vocab, &PROMPT).expect("valid settings");
    let mut cache = vec![PROMPT.to_vec()];
    while !search.is_done() {
        assert_eq!(search.live(), cache.len());
        let mut logits: Vec<f32> = cache.iter().flat_map(|s| toy.logits(s)).copied().collect();
        let next = search.step(&mut logits).expect("finite logits").iter();
        cache = next
            .map(|beam| [cache[beam.parent].as_slice(), &[beam.token]].concat())
            .collect();
    }
    search.finish()
}

fn assert_same(found: &[Hypothesis], expected: &[Hypothesis], what: &str) {
    let tokens = |list: &[Hypothesis]| list.iter().map(|h| h.tokens.clone()).collect::<Vec<_>>();
    assert_eq!(tokens(found), tokens(expected), "{what}");
    for (f, e) in found.iter().zip(expected) {
        let close = (f.score - e.score).abs() <= TOLERANCE * e.score.abs().max(1.0);
        assert!(close, "{what}: found {f:?}, expected {e:?}");
    }
}

fn settings() -> [SamplingConfig; 4] {
    let off = SamplingConfig::default();
    [
        off.clone(),
        SamplingConfig {
            repetition_penalty: 1.4,
            ..off.clone()
        },
        SamplingConfig {
            no_repeat_ngram: 2,
            frequency_penalty: 0.2,
            ..off.clone()
        },
        SamplingConfig {
            min_new_tokens: 4,
            presence_penalty: 0.5,
            no_repeat_ngram: 3,
            ..off
        },
    ]
}

#[test]
fn beams_of_every_width_penalty_and_stopping_rule_follow_the_plain_rules() {
    let rules = [
        EarlyStopping::Full,
        EarlyStopping::Estimate,
        EarlyStopping::Never,
    ];
    let stops = [
        StopConditions::new(&[], 6),
        StopConditions::new(&[0], POSITIONS),
        StopConditions::new(&[0, 4], 9),
    ];
    let mut seed = 0;
    for beams in 1..=5 {
        for length_penalty in [-1.0, 0.0, 0.6, 1.0, 2.0] {
            for early_stopping in rules {
                let config = BeamConfig {
                    beams,
                    length_penalty,
                    early_stopping,
                };
                for (stop, c) in stops.iter().flat_map(|s| settings().map(|c| (s, c))) {
                    seed += 1;
                    let toy = Toy::new(5 + seed as usize % 4, seed);
                    let what = format!("{config:?} {c:?} {stop:?} seed {seed}");
                    let found = searched(&toy, &config, &c, stop);
                    assert_same(&found, &plain(&toy, &config, &c, stop), &what);
                }
            }
        }
    }
}

#[test]
fn enough_beams_find_the_best_of_all_sequences() {
    let (vocab, n) = (4, 4);
    for seed in 0..10 {
        let toy = Toy::new(vocab, seed);
        let c = SamplingConfig::default();
        let stop = StopConditions::new(&[0], n);
        let mut open = vec![(PROMPT.to_vec(), 0.0)];
        let mut all = Vec::new();
        for length in 1..=n {
            let mut longer = Vec::new();
            for (sequence, sum) in &open {
                let row = log_probabilities(&toy, &c, &[], sequence);
                for (id, x) in row.into_iter().enumerate() {
                    let next = ([sequence.as_slice(), &[id as u32]].concat(), sum + x);
                    if id == 0 || length == n {
                        let score = next.1 / length as f64;
                        let tokens = next.0[PROMPT.len()..].to_vec();
                        all.push(Hypothesis { tokens, score });
                    } else {
                        longer.push(next);
                    }
                }
            }
            open = longer;
        }
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
        let config = BeamConfig {
            beams: all.len(),
            ..Default::default()
        };
        assert_same(
            &searched(&toy, &config, &c, &stop),
            &all,
            &format!("seed {seed}"),
        );
    }
}

#[test]
fn greedy_decoding_with_penalties_follows_the_plain_rules() {
    for (seed, c) in (0..40).flat_map(|seed| settings().map(|c| (seed, c))) {
        let (toy, eos) = (Toy::new(8, seed), [0]);
        let mut sampler = Sampler::new(&c, toy.vocab)
            .expect("valid settings")
            .with_eos(&eos);
        let mut sequence = PROMPT.to_vec();
        for n in 0..8 {
            let scores = toy
                .logits(&sequence)
                .iter()
                .map(|x| f64::from(*x))
                .collect();
            let scores = penalized(scores, &c, &eos, &sequence);
            let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            let mut logits = toy.logits(&sequence).to_vec();
            let id = sampler
                .sample(&mut logits, &sequence, n)
                .expect("some id is left")
                .id;
            assert_eq!(Some(id as usize), best, "seed {seed}, {c:?}, {sequence:?}");
            sequence.push(id);
        }
    }
}
