//! The loss on data that is not learned from.
//!
//! Invariant: the mean is over targets, not over batches, so it does not depend on how rows were cut into batches.

use bitnet_models::decoder::Decoder;
use burn::module::Module;

use crate::data::batches::Batches;
use crate::losses::{Reduction, cross_entropy};

/// What [`evaluate`] found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Mean loss of a target, in nats; its exponential is the perplexity.
    pub loss: f64,
    /// How many targets.
    pub targets: u64,
}

/// The loss on the first batches, `limit` at most, without gradients, with `at_once` rows in memory.
pub fn evaluate(model: &Decoder, batches: &Batches, limit: usize, at_once: usize) -> Evaluation {
    let model = model.valid();
    let device = model.device();
    let (mut sum, mut targets) = (0.0, 0);
    let all = batches.iter().take(limit);
    for batch in all.flat_map(|batch| batch.split(at_once).collect::<Vec<_>>()) {
        let tensors = batch.to_tensors(&device);
        let logits = model.forward(tensors.inputs);
        let loss = cross_entropy(logits, tensors.targets, tensors.mask, Reduction::Sum);
        sum += f64::from(loss.into_scalar::<f32>());
        targets += batch.learned() as u64;
    }
    Evaluation {
        loss: sum / targets.max(1) as f64,
        targets,
    }
}
