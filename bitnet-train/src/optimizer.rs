//! Burn's AdamW for a decoder: which parameters decay, clipping by the norm of all gradients, and a state that outlives
//! the process.
//!
//! Burn keeps the state of a parameter under its id; the ids of our models are numbered in reading order
//! ([`model::trainable`](crate::model::trainable)), so a state that is loaded finds its parameters again.

use bitnet_models::decoder::Decoder;
use burn::module::{Module, ModuleVisitor, Param, ParamGroup};
use burn::optim::{AdamW, AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Bytes, Tensor};
use serde::{Deserialize, Serialize};

use crate::schedule::Schedule;

/// Settings of AdamW (arXiv 1711.05101).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The highest learning rate.
    pub lr: f64,
    /// Decay of the moments.
    #[serde(default = "betas")]
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    #[serde(default = "epsilon")]
    pub epsilon: f64,
    /// Decoupled weight decay, multiplied with the learning rate of the step.
    #[serde(default = "weight_decay")]
    pub weight_decay: f64,
    /// Parameters with one of these in their path do not decay.
    #[serde(default = "no_decay")]
    pub no_decay: Vec<String>,
    /// Greatest norm of all gradients together; 0 is no limit.
    #[serde(default = "one")]
    pub clip: f64,
}

fn betas() -> [f64; 2] {
    [0.9, 0.95]
}

fn epsilon() -> f64 {
    1e-8
}

fn weight_decay() -> f64 {
    0.1
}

fn no_decay() -> Vec<String> {
    ["norm", "embed_tokens", "lm_head", "bias"]
        .map(str::to_owned)
        .to_vec()
}

fn one() -> f64 {
    1.0
}

/// What a step is done with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Learning rate.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

impl Rates {
    /// Those of a step of so many.
    pub fn of(schedule: &Schedule, step: u64, steps: u64, lr: f64, weight_decay: f64) -> Self {
        let factors = schedule.at(step, steps);
        Self {
            lr: lr * factors.lr,
            weight_decay: weight_decay * factors.weight_decay,
        }
    }
}

/// AdamW with its state.
#[derive(Clone)]
pub struct Optimizer {
    config: OptimizerConfig,
    weight_decay: f64,
    inner: ModuleOptimizer,
}

impl std::fmt::Debug for Optimizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Optimizer")
            .field("config", &self.config)
            .field("weight_decay", &self.weight_decay)
            .finish_non_exhaustive()
    }
}

impl Optimizer {
    /// Without a state.
    pub fn new(config: &OptimizerConfig) -> Self {
        Self {
            inner: config.init(config.weight_decay),
            weight_decay: config.weight_decay,
            config: config.clone(),
        }
    }

    /// With a state that [`to_bytes`](Self::to_bytes) gave, and the weight decay it was last stepped with. The error is Burn's sentence.
    ///
    /// # Errors
    ///
    /// Bytes that are no state.
    pub fn from_bytes(
        config: &OptimizerConfig,
        weight_decay: f64,
        bytes: Vec<u8>,
    ) -> Result<Self, String> {
        let inner = config.init(weight_decay);
        let inner = inner.from_bytes(Bytes::from_bytes_vec(bytes));
        Ok(Self {
            inner: inner.map_err(|error| error.to_string())?,
            weight_decay,
            config: config.clone(),
        })
    }

    /// The state. The error is Burn's sentence.
    ///
    /// # Errors
    ///
    /// Burn's.
    pub fn to_bytes(&self) -> Result<Bytes, String> {
        self.inner.into_bytes().map_err(|error| error.to_string())
    }

    /// Updates every parameter that has a gradient.
    pub fn step(&mut self, rates: Rates, model: Decoder, gradients: GradientsParams) -> Decoder {
        if rates.weight_decay != self.weight_decay {
            // Burn's AdamW is built with its weight decay: another one takes over the state.
            let record = self.inner.to_record();
            self.inner = self.config.init(rates.weight_decay).load_record(record);
            self.weight_decay = rates.weight_decay;
        }
        self.inner.step(rates.lr, model, gradients)
    }
}

impl OptimizerConfig {
    fn init(&self, weight_decay: f64) -> ModuleOptimizer {
        let decayed = self.adamw(weight_decay).into();
        if self.no_decay.is_empty() {
            return decayed; // an empty group would match everything
        }
        let group = ParamGroup::from_any_predicates(self.no_decay.clone());
        decayed.with_group(group, self.adamw(0.0), None)
    }

    fn adamw(&self, weight_decay: f64) -> AdamW {
        AdamWConfig::new()
            .with_beta_1(self.betas[0] as f32)
            .with_beta_2(self.betas[1] as f32)
            .with_epsilon(self.epsilon as f32)
            .with_weight_decay(weight_decay as f32)
            .build()
    }
}

/// Multiplies all gradients by `min(1, limit / (norm + 1e-6))`, and returns their norm before that. A limit of 0 is none.
///
/// Burn's own clipping looks at one parameter at a time, which changes the direction of the step.
pub fn clip(model: &Decoder, gradients: GradientsParams, limit: f64) -> (GradientsParams, f64) {
    let mut squares = Squares {
        gradients: &gradients,
        sums: Vec::new(),
    };
    model.visit(&mut squares);
    if squares.sums.is_empty() {
        return (gradients, 0.0);
    }
    // One copy to the host for all of them.
    let sums = Tensor::cat(squares.sums, 0).into_data();
    let norm = sums.iter::<f64>().sum::<f64>().sqrt();
    let factor = limit / (norm + 1e-6);
    if limit == 0.0 || factor >= 1.0 {
        return (gradients, norm);
    }
    let mut scale = Scale { gradients, factor };
    model.visit(&mut scale);
    (scale.gradients, norm)
}

struct Squares<'a> {
    gradients: &'a GradientsParams,
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.sums.push(gradient.square().sum());
        }
    }
}

struct Scale {
    gradients: GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.gradients
                .register::<D>(param.id, gradient * self.factor);
        }
    }
}
