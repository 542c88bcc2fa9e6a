//! Quantization-aware training from nothing: float masters, ternary in every forward pass, straight-through gradients.
//!
//! The loop is [`Qat::train`](Recipe::train); what it does to a model in one step is [`step`]. With `model.ternary = false` the same code
//! trains the float twin. Source: arXiv 2402.17764; schedule and optimizer settings as in arXiv 2504.12285.

mod config;
mod run;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bitnet_models::architectures::{self, Overrides};
use bitnet_models::decoder::{Decoder, DecoderConfig};
use bitnet_models::weights::ConfigMap;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Device;

use super::{Control, Ended, Entry, Plan, Progress, Recipe, Summary, read};
use crate::TrainError;
use crate::data::batches::{Batch, BatchConfig, Batches, Packing, Prefetch, Sampling};
use crate::data::keyed;
use crate::data::shards::{TRAIN, TokenData, VALIDATION};
use crate::evaluate::evaluate;
use crate::losses::{Reduction, cross_entropy};
use crate::metrics::{Log, Row, Trits, replace};
use crate::model::{Masters, set_blend, trainable};
use crate::optimizer::{Optimizer, Rates, clip};
use run::{Run, curves};

pub use config::{BatchShape, CheckpointConfig, LogConfig, Qat, ValidationConfig};
pub use run::{BEST, CURVES, LAST, METRICS, PACKED};

/// The line in [`RECIPES`](super::RECIPES).
pub(super) const RECIPE: Entry = Entry {
    name: "qat",
    about: "a ternary model from nothing, by quantization-aware training",
    read: |table, file| {
        let recipe: Qat = read::typed(table, file)?;
        recipe.check(file)?;
        Ok(Box::new(recipe))
    },
};

/// What a step found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learned {
    /// Mean loss of the batch.
    pub loss: f64,
    /// Norm of all gradients, before clipping.
    pub gradient_norm: f64,
}

impl Learned {
    /// Whether the numbers are numbers.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.gradient_norm.is_finite()
    }
}

/// One step: forward, loss, backward, in parts of `at_once` rows; then clip and update. Where the loss or the gradients
/// are not finite, the model stays as it was.
pub fn step(
    model: Decoder,
    optimizer: &mut Optimizer,
    batch: &Batch,
    at_once: usize,
    rates: Rates,
    limit: f64,
) -> (Decoder, Learned) {
    let device = model.device();
    let targets = batch.learned().max(1) as f64;
    let mut accumulator = GradientsAccumulator::new();
    let mut loss = 0.0;
    for part in batch.split(at_once) {
        let tensors = part.to_tensors(&device);
        let logits = model.forward(tensors.inputs);
        let sum = cross_entropy(logits, tensors.targets, tensors.mask, Reduction::Sum);
        let part = sum / targets;
        loss += f64::from(part.clone().into_scalar::<f32>());
        accumulator.accumulate(&model, GradientsParams::from_grads(part.backward(), &model));
    }
    let (gradients, gradient_norm) = clip(&model, accumulator.grads(), limit);
    let learned = Learned {
        loss,
        gradient_norm,
    };
    let model = match learned.is_finite() {
        true => optimizer.step(rates, model, gradients),
        false => model,
    };
    (model, learned)
}

impl Recipe for Qat {
    fn output(&self) -> &Path {
        &self.output
    }

    fn train(&self, device: &Device, control: Control<'_>) -> Result<Summary, TrainError> {
        let data = self.data.prepared()?;
        let run = Run::new(self, &data)?;
        let device = device.clone().autodiff();
        let (mut model, mut optimizer, mut state) = match control.resume {
            true => run.resume(&device)?,
            false => run.begin(&device)?,
        };
        let batches = Arc::new(self.batches(&data, TRAIN, self.data.sampling)?);
        let validation = match data.index().validation.tokens {
            0 => None,
            _ => Some(self.batches(&data, VALIDATION, Sampling::Sequential)?),
        };
        model.set_dropout(self.model.dropout);
        let mut log = Log::open(&self.output.join(METRICS), state.step, state.tokens)?;
        let mut seen = self.model.ternary.then(|| Trits::of(&model)).transpose()?;
        let mut latest = state.best;
        let mut ended = Ended::Finished;

        let mut ahead = Prefetch::new(Arc::clone(&batches), state.position, 2);
        while state.step < self.steps
            && ended == Ended::Finished
            && let Some(batch) = ahead.next()
        {
            let (rates, blend) = (self.rates(state.step), self.blend.at(state.step));
            if self.model.ternary {
                set_blend(&mut model, blend);
            }
            // What is dropped is a function of seed and step, too.
            device.seed(keyed(self.seed, state.step));
            let limit = self.optimizer.clip;
            let (next, learned) = step(model, &mut optimizer, &batch, self.at_once(), rates, limit);
            model = next;
            if !learned.is_finite() {
                return Err(run.diverged(&model, Some(&batch), &state, learned.loss));
            }
            state.step += 1;
            state.tokens += batch.inputs.len() as u64;
            state.position = ahead.position();
            state.weight_decay = rates.weight_decay;

            let is_last = state.step == self.steps;
            let is_due = |every| is_last || state.step.is_multiple_of(every);
            let (logs, looks) = (is_due(self.log.every), is_due(self.log.trits_every));
            let (measures, saves) = (is_due(self.validation.every), is_due(self.checkpoint.every));

            let evaluation = validation.as_ref().filter(|_| measures);
            let evaluation = evaluation
                .map(|batches| evaluate(&model, batches, self.validation.batches, self.at_once()));
            if let Some(evaluation) = evaluation {
                if !evaluation.loss.is_finite() {
                    return Err(run.diverged(&model, None, &state, evaluation.loss));
                }
                latest = Some(evaluation.loss);
                // Before all is ternary, the loss is that of another, softer model.
                if blend == 1.0 || !self.model.ternary {
                    if state.best.is_none_or(|best| evaluation.loss < best) {
                        state.best = latest;
                        state.since_best = 0;
                        run.save(BEST, &model, &optimizer, &state)?;
                    } else {
                        state.since_best += 1;
                        let patience = self.validation.patience;
                        if patience > 0 && state.since_best >= patience {
                            ended = Ended::Early;
                        }
                    }
                }
            }
            let trits = match &mut seen {
                Some(before) if looks => {
                    let Ok(now) = Trits::of(&model) else {
                        return Err(run.diverged(&model, None, &state, learned.loss));
                    };
                    let changed = now.since(before);
                    *before = now;
                    Some(changed)
                }
                _ => None,
            };
            if logs || trits.is_some() || evaluation.is_some() {
                let tokens_per_second = log.speed(state.tokens);
                log.write(Row {
                    step: state.step,
                    tokens: state.tokens,
                    loss: learned.loss,
                    gradient_norm: learned.gradient_norm,
                    lr: rates.lr,
                    weight_decay: rates.weight_decay,
                    blend,
                    tokens_per_second,
                    validation_loss: evaluation.map(|evaluation| evaluation.loss),
                    trits,
                })?;
            }
            (control.progress)(&Progress {
                step: state.step,
                steps: self.steps,
                step_tokens: batch.inputs.len() as u64,
                loss: learned.loss,
                lr: rates.lr,
                validation_loss: latest,
            });
            if control.stop.load(Ordering::Relaxed) && !is_last && ended == Ended::Finished {
                ended = Ended::Stopped;
            }
            if saves || ended != Ended::Finished {
                run.save(LAST, &model, &optimizer, &state)?;
            }
        }

        replace(&self.output.join(CURVES), curves(log.rows()).as_bytes())?;
        let packed = match ended {
            Ended::Stopped => None,
            Ended::Finished | Ended::Early => Some(run.pack(&state)?),
        };
        Ok(Summary {
            ended,
            step: state.step,
            best: state.best,
            packed,
        })
    }

    fn plan(&self) -> Result<Plan, TrainError> {
        let existing = self.data.existing()?;
        let vocab_size = self.vocab_size(existing.as_ref());
        let (linear, rest) = self
            .decoder(&self.model.describe(vocab_size, None))?
            .parameters();
        let step_tokens = (self.batch.rows * self.batch.length) as u64;
        Ok(Plan {
            parameters: (linear, rest),
            vocab_size,
            prepared: existing.is_some(),
            bytes: 16 * (linear + rest) + self.activation_bytes(vocab_size),
            steps: self.steps,
            tokens: step_tokens * self.steps,
        })
    }

    fn time_step(&self, device: &Device) -> Result<Duration, TrainError> {
        let vocab_size = self.vocab_size(self.data.existing()?.as_ref());
        let description = self.model.describe(vocab_size, None);
        let slots = self.decoder(&description)?.slots();
        let masters = Masters::fresh(&slots, &description, &self.output, self.model.init_std, 0);
        let mut model = trainable(&masters, &device.clone().autodiff())?;
        model.set_dropout(self.model.dropout);
        let mut optimizer = Optimizer::new(&self.optimizer);
        let count = self.batch.rows * self.batch.length;
        let ids = |key| -> Vec<i32> {
            let id = |at| (keyed(key, at) % vocab_size as u64) as i32;
            (0..count as u64).map(id).collect()
        };
        let batch = Batch {
            inputs: ids(1),
            targets: ids(2),
            mask: None,
            shape: [self.batch.rows, self.batch.length],
        };
        let mut begun = Instant::now();
        for at in 0..=TIMED {
            if at == 1 {
                begun = Instant::now(); // the first one warms up
            }
            let limit = self.optimizer.clip;
            let rates = self.rates(0);
            let (next, _) = step(model, &mut optimizer, &batch, self.at_once(), rates, limit);
            model = next;
        }
        Ok(begun.elapsed() / TIMED)
    }
}

/// Steps that are timed.
const TIMED: u32 = 3;
impl Qat {
    /// Learning rate and weight decay of a step.
    fn rates(&self, step: u64) -> Rates {
        let factors = self.schedule.at(step, self.steps);
        Rates {
            lr: self.optimizer.lr * factors.lr,
            weight_decay: self.optimizer.weight_decay * factors.weight_decay,
        }
    }

    fn at_once(&self) -> usize {
        self.batch.at_once.unwrap_or(self.batch.rows)
    }

    fn batches(
        &self,
        data: &TokenData,
        split: &str,
        sampling: Sampling,
    ) -> Result<Batches, TrainError> {
        // What is measured in order is not cut at random.
        let packing = match sampling {
            Sampling::RandomWindows => Packing::Stream,
            _ => self.data.packing,
        };
        BatchConfig::new(self.batch.rows, self.batch.length)
            .with_sampling(sampling)
            .with_packing(packing)
            .with_seed(self.seed)
            .init(data.split(split)?)
    }

    /// That of the data, or what it will be about.
    fn vocab_size(&self, data: Option<&TokenData>) -> usize {
        let wanted = self.data.vocab_size.unwrap_or(100);
        data.map_or(wanted, |data| data.index().vocab_size)
    }

    fn decoder(&self, description: &ConfigMap) -> Result<DecoderConfig, TrainError> {
        let masters = Masters::fresh(&[], description, &self.output, 0.0, 0);
        Ok(architectures::read(&masters, Overrides::default())?)
    }

    /// What stays in memory between forward and backward, roughly: a token leaves about 24 rows of the hidden size, 12 of
    /// the feed-forward block and two of attention weights in each layer, and four of logits.
    fn activation_bytes(&self, vocab_size: usize) -> u64 {
        let model = &self.model;
        let tokens = self.at_once().min(self.batch.rows) * self.batch.length;
        let attention = 2 * model.n_heads * self.batch.length;
        let layer = 24 * model.hidden_size + 12 * model.intermediate_size + attention;
        4 * (tokens * (model.n_layers * layer + 4 * vocab_size)) as u64
    }
}
