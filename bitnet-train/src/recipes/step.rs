//! One step: forward, loss, backward, in parts of a batch; then clip and update. What the loss is, the recipe says.

use bitnet_models::decoder::Decoder;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;

use crate::data::batches::{Batch, BatchTensors};
use crate::losses::{Reduction, cross_entropy};
use crate::optimizer::{Optimizer, Rates, clip};

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

/// Rows of a batch, on the device.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) tensors: BatchTensors,
    /// Learned targets of the whole batch: what sums over targets are divided by.
    pub(super) targets: f64,
    /// Which part of the batch's rows this is: what means over rows are multiplied with.
    pub(super) share: f64,
}

/// Sizes of a whole batch, of which some rows are at hand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole {
    targets: f64,
    rows: f64,
}

impl Whole {
    pub(super) fn of(batch: &Batch) -> Self {
        Self {
            targets: batch.learned().max(1) as f64,
            rows: batch.shape[0] as f64,
        }
    }
}

/// Mean cross-entropy of the batch: this part's contribution.
pub(super) fn language_modelling(model: &Decoder, part: &Part) -> Tensor<1> {
    let BatchTensors {
        inputs,
        targets,
        mask,
    } = part.tensors.clone();
    let logits = model.forward(inputs);
    cross_entropy(logits, targets, mask, Reduction::Sum) / part.targets
}

/// What rows of a batch contribute to its gradients and to its loss. `loss` gives the contribution of a part of `at_once`
/// rows.
pub(super) fn learn(
    model: &Decoder,
    rows: &Batch,
    whole: Whole,
    at_once: usize,
    mut loss: impl FnMut(&Decoder, &Part) -> Tensor<1>,
) -> (GradientsParams, f64) {
    let device = model.device();
    let mut accumulator = GradientsAccumulator::new();
    let mut losses = Vec::new();
    for rows in rows.split(at_once) {
        let part = Part {
            share: rows.shape[0] as f64 / whole.rows,
            tensors: rows.to_tensors(&device),
            targets: whole.targets,
        };
        let loss = loss(model, &part);
        losses.push(loss.clone().detach());
        accumulator.accumulate(model, GradientsParams::from_grads(loss.backward(), model));
    }
    // Read last: reading waits for the device.
    let losses = losses
        .into_iter()
        .map(|loss| f64::from(loss.into_scalar::<f32>()));
    let sum = losses.sum();
    (accumulator.grads(), sum)
}

/// Clips the gradients at `limit`, and updates. Where the loss or the gradients are not finite, the model stays as it was.
pub(super) fn update(
    model: Decoder,
    optimizer: &mut Optimizer,
    (gradients, loss): (GradientsParams, f64),
    rates: Rates,
    limit: f64,
) -> (Decoder, Learned) {
    let (gradients, gradient_norm) = clip(&model, gradients, limit);
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

/// One step of `loss` on a whole batch: [`learn`], then [`update`].
pub(super) fn step(
    model: Decoder,
    optimizer: &mut Optimizer,
    batch: &Batch,
    at_once: usize,
    rates: Rates,
    limit: f64,
    loss: impl FnMut(&Decoder, &Part) -> Tensor<1>,
) -> (Decoder, Learned) {
    let learned = learn(&model, batch, Whole::of(batch), at_once, loss);
    update(model, optimizer, learned, rates, limit)
}
