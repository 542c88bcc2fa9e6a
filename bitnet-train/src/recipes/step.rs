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

/// One step of `loss`, which gives a part's contribution to the loss of the batch. Parts have `at_once` rows; gradients
/// are clipped at `limit`. Where the loss or the gradients are not finite, the model stays as it was.
pub(super) fn step(
    model: Decoder,
    optimizer: &mut Optimizer,
    batch: &Batch,
    at_once: usize,
    rates: Rates,
    limit: f64,
    mut loss: impl FnMut(&Decoder, &Part) -> Tensor<1>,
) -> (Decoder, Learned) {
    let device = model.device();
    let targets = batch.learned().max(1) as f64;
    let rows = batch.shape[0] as f64;
    let mut accumulator = GradientsAccumulator::new();
    let mut sum = 0.0;
    for rows_at_once in batch.split(at_once) {
        let part = Part {
            share: rows_at_once.shape[0] as f64 / rows,
            tensors: rows_at_once.to_tensors(&device),
            targets,
        };
        let loss = loss(&model, &part);
        sum += f64::from(loss.clone().into_scalar::<f32>());
        accumulator.accumulate(&model, GradientsParams::from_grads(loss.backward(), &model));
    }
    let (gradients, gradient_norm) = clip(&model, accumulator.grads(), limit);
    let learned = Learned {
        loss: sum,
        gradient_norm,
    };
    let model = match learned.is_finite() {
        true => optimizer.step(rates, model, gradients),
        false => model,
    };
    (model, learned)
}
